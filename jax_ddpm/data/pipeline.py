"""From a source to an endless stream of batches whose position can be saved."""

from typing import Any

import grain
import numpy as np

from jax_ddpm.data.sources import Example, Source
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
