"""Sources made of sources: fitted to the network, kept in memory, without what is damaged."""

import dataclasses
import sys
import threading
from collections.abc import Callable
from itertools import chain

import numpy as np

from jax_ddpm.data.sources.source import DamagedImage, Example, Source
from jax_ddpm.data.transforms import fit
from jax_ddpm.errors import InvalidInput


def fitted(source: Source, size: int, channels: int) -> Source:
    """Each image as a square of `size` pixels a side and of so many channels; see `fit`."""

    def read(index: int) -> Example:
        example = source.read(index)
        return {"image": fit(example["image"], size, channels), "label": example["label"]}

    return dataclasses.replace(source, read=read, shape=(size, size, channels))


def cached(source: Source, mebibytes: float) -> Source:
    """Keeps each image once it is read, if all of them take no more memory than this; else the source as it is.

    Args:
      source: of images of one shape.
    """
    if source.shape is None or len(source) * np.prod(source.shape) > mebibytes * 2**20:
        return source
    images = np.empty((len(source), *source.shape), np.uint8)  # the system gives the memory where it is written to
    labels, known = np.zeros(len(source), np.int64), np.zeros(len(source), bool)

    def read(index: int) -> Example:
        if not known[index]:
            example = source.read(index)
            images[index], labels[index] = example["image"], example["label"]
            known[index] = True  # last, for other threads read too
        return {"image": images[index], "label": int(labels[index])}

    return dataclasses.replace(source, read=read)


class Damages:
    """The damaged images that were come upon, each told once.

    Attributes:
      found: why each cannot be read, by number.
    """

    def __init__(self) -> None:
        """None so far."""
        self.found: dict[int, str] = {}
        self._lock = threading.Lock()

    def note(self, number: int, error: DamagedImage) -> None:
        """Says so, the first time that it is come upon."""
        with self._lock:
            if number not in self.found:
                self.found[number] = str(error)
                count = len(self.found)
                print(f"skipped: {error} ({count} damaged image{'s' if count > 1 else ''} so far)", file=sys.stderr, flush=True)


def without_damaged(source: Source, damages: Damages) -> Source:
    """The next image that can be read in the place of each that cannot, so that there are as many and in the same order."""

    def read(index: int) -> Example:
        for number in chain(range(index, len(source)), range(index)):
            try:
                return source.read(number)
            except DamagedImage as error:
                damages.note(number, error)
        raise InvalidInput(f"none of the {len(source):,} images of data set {source.name!r} can be read")

    return dataclasses.replace(source, read=read)


ON_DAMAGED: dict[str, Callable[[Source], Source]] = {
    "stop": lambda source: source,
    "skip": lambda source: without_damaged(source, Damages()),
}
