"""From a source to batches: an endless stream whose position can be saved, or every image once."""

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any, NamedTuple

import grain
import numpy as np

from jax_ddpm.data.augment import Augmentation, augment
from jax_ddpm.data.reading import ON_DAMAGED, cached, fitted, readable
from jax_ddpm.data.sources.source import Example, Source
from jax_ddpm.data.transforms import to_float
from jax_ddpm.errors import InvalidInput, choose

Batch = dict[str, np.ndarray]
"""{"image": [B, H, W, C] float32 in [-1, 1], "label": [B] int32}, and with non-leaking augmentation "augmentation", [B, 9]."""
NOTHING = Augmentation()
BUFFER = 2  # batches, for each thread that reads, that are made ahead


def batches(
    source: Source,
    *,
    batch_size: int,
    image_size: int,
    channels: int,
    seed: int,
    augmentation: Augmentation = NOTHING,
    workers: int = 2,
    cache_mib: float = 0,
    on_damaged: str = "stop",
    rows: Sequence[int] | np.ndarray | None = None,
    place: Callable[[Batch], Any] | None = None,
    prefetch: int = 0,
) -> grain.DatasetIterator:
    """Batches for ever, shuffled anew each epoch.

    The order follows from the seed alone. The iterator's `get_state` and `set_state` save and restore its exact position, which
    is after the batch that it gave last, however many more are ready.

    Args:
      batch_size: of all processes together.
      image_size, channels: what every image is fitted to.
      seed: of the order and of the augmentation.
      augmentation: what is done to each image at random.
      workers: threads that read and fit images; the batches do not depend on it.
      cache_mib: images are kept in memory once they are read and fitted, if all of them fit in so many mebibytes.
      on_damaged: of an image that cannot be read: "stop", or "skip", by which the next one takes its place.
      rows: which examples of each batch are read here, where the others are read by other processes; None: all of them.
      place: what is done to a finished batch, such as bringing it onto the devices.
      prefetch: how many batches are made and placed ahead, in a thread of their own.
    Raises:
      InvalidInput: the source is empty.
      DamagedImage: from the iterator, where one is to stop the run.
    """
    if not len(source):
        raise InvalidInput(f"data set {source.name!r} is empty")
    whole, most = choose("on_damaged", on_damaged, ON_DAMAGED)(source), augmentation.stored_size(image_size)
    stored = cached(fitted(whole, most, channels, least=image_size), cache_mib, (most, most, channels))

    def change(example: Example, rng: np.random.Generator) -> dict[str, Any]:
        image, told = augment(example["image"], image_size, augmentation, rng)
        changed = {"image": image, "label": example["label"]}
        return {**changed, "augmentation": told} if augmentation.non_leaking else changed

    def finish(batch: Any) -> Batch:
        return {**batch, "image": to_float(batch["image"]), "label": batch["label"].astype(np.int32)}

    epochs = 2**62 // len(source)  # for ever; Grain's own "for ever" is too long to be counted in batches of one
    dataset = grain.MapDataset.source(range(len(source))).seed(seed).shuffle().repeat(epochs).map(stored.read)
    if augmentation:
        dataset = dataset.random_map(change)
    if rows is not None:  # shared out last: what is drawn for an image does not depend on which process draws it
        dataset = grain.MapDataset.source(_Rows(dataset, batch_size, np.asarray(rows)))
    dataset = dataset.batch(batch_size if rows is None else len(rows))
    stream = dataset.to_iter_dataset(grain.ReadOptions(num_threads=workers, prefetch_buffer_size=BUFFER * workers))
    stream = stream.map(finish)  # behind the buffer, in which bytes lie, a quarter of what floats would take
    stream = stream.map(place) if place else stream
    return iter(grain.experimental.ThreadPrefetchIterDataset(stream, prefetch_buffer_size=prefetch) if prefetch else stream)


class _Rows(NamedTuple):
    """The same examples of every batch, one after the other."""

    dataset: Any
    batch_size: int
    rows: np.ndarray

    def __len__(self) -> int:
        return len(self.dataset) // self.batch_size * len(self.rows)

    def __getitem__(self, index: Any) -> Any:
        batch, number = divmod(index, len(self.rows))
        return self.dataset[batch * self.batch_size + int(self.rows[number])]


def how_many(source: Source, count: int) -> int:
    """The number of images that `count` stands for: 0 is all of them.

    Raises:
      InvalidInput: more images asked for than there are, or the source is empty.
    """
    total = count or len(source)
    if not 0 < total <= len(source):
        raise InvalidInput(f"{total} images asked for: data set {source.name!r} has {len(source)}")
    return total


def one_pass(
    source: Source, *, batch_size: int, image_size: int, channels: int, count: int = 0, on_damaged: str = "stop"
) -> Iterator[tuple[Batch, int]]:
    """The images in their order, each once, as batches of one size; with each, how many of its images count.

    The last batch is filled up with its own images.

    Args:
      image_size, channels: what every image is fitted to.
      count: how many images, from the first on; see `how_many`.
      on_damaged: of an image that cannot be read: "stop", or "skip", by which it is left out, and told.
    Raises:
      DamagedImage: where one is to stop it.
      InvalidInput: there are no such images, or none of them can be read.
    """
    examples = readable(fitted(source, image_size, channels), on_damaged, how_many(source, count))
    while found := list(islice(examples, batch_size)):
        images = np.stack([example["image"] for example in found])
        labels = np.array([example["label"] for example in found], np.int32)
        rows = np.arange(batch_size) % len(found)
        yield {"image": to_float(images)[rows], "label": labels[rows]}, len(found)
