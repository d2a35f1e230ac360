"""From a source to batches: an endless stream whose position can be saved, or every image once."""

from collections.abc import Iterator
from typing import Any

import grain
import numpy as np

from jax_ddpm.data.sources.source import Example, Source
from jax_ddpm.data.transforms import fit, flip_randomly, to_float
from jax_ddpm.errors import InvalidInput

Batch = dict[str, np.ndarray]
"""{"image": [B, H, W, C] float32 in [-1, 1], "label": [B] int32}."""


def batches(
    source: Source,
    *,
    batch_size: int,
    image_size: int,
    channels: int,
    flip: bool,
    seed: int,
    workers: int = 2,
    process_index: int = 0,
    process_count: int = 1,
) -> grain.DatasetIterator:
    """Batches for ever, shuffled anew each epoch.

    The order follows from the seed alone. The iterator's `get_state` and `set_state` save and restore its exact position.

    Args:
      batch_size: of all processes together; each gets its even share.
      image_size, channels: what every image is fitted to.
      flip: mirror each image left to right in one of two draws.
      seed: of the order and of the flips.
      workers: threads that read and fit images; the batches do not depend on it.
    Raises:
      InvalidInput: the batch does not divide over the processes, or the source is empty.
    """
    if not len(source):
        raise InvalidInput(f"data set {source.name!r} is empty")
    if batch_size % process_count:
        raise InvalidInput(f"batch_size={batch_size} does not divide over {process_count} processes")

    def prepare(example: Example) -> Example:
        return {"image": fit(example["image"], image_size, channels), "label": example["label"]}

    def mirror(example: Example, rng: np.random.Generator) -> Example:
        return {"image": flip_randomly(example["image"], rng), "label": example["label"]}

    def finish(batch: Any) -> Batch:
        return {"image": to_float(batch["image"]), "label": batch["label"].astype(np.int32)}

    epochs = 2**62 // len(source)  # for ever; Grain's own "for ever" is too long to be counted in batches of one
    dataset = grain.MapDataset.source(source).seed(seed).shuffle().repeat(epochs).map(prepare)
    if flip:
        dataset = dataset.random_map(mirror)
    # Shared out last, so that what is drawn for an image does not depend on how many processes there are.
    dataset = dataset[process_index::process_count].batch(batch_size // process_count).map(finish)
    return iter(dataset.to_iter_dataset(grain.ReadOptions(num_threads=workers, prefetch_buffer_size=4 * workers)))


def how_many(source: Source, count: int) -> int:
    """The number of images that `count` stands for: 0 is all of them.

    Raises:
      InvalidInput: more images asked for than there are, or the source is empty.
    """
    total = count or len(source)
    if not 0 < total <= len(source):
        raise InvalidInput(f"{total} images asked for: data set {source.name!r} has {len(source)}")
    return total


def one_pass(source: Source, *, batch_size: int, image_size: int, channels: int, count: int = 0) -> Iterator[tuple[Batch, int]]:
    """The images in their order, each once, as batches of one size; with each, how many of its images count.

    The last batch is filled up with its own images.

    Args:
      image_size, channels: what every image is fitted to.
      count: how many images, from the first on; see `how_many`.
    """
    total = how_many(source, count)
    for start in range(0, total, batch_size):
        examples = [source[index] for index in range(start, min(start + batch_size, total))]
        images = np.stack([fit(example["image"], image_size, channels) for example in examples])
        labels = np.array([example["label"] for example in examples], np.int32)
        rows = np.arange(batch_size) % len(examples)
        yield {"image": to_float(images)[rows], "label": labels[rows]}, len(examples)
