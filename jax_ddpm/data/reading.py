"""Sources made of sources: some of the images, fitted to the network, kept in memory, without what is damaged."""

import dataclasses
import math
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from itertools import chain

import numpy as np

from jax_ddpm.data.sources.source import DamagedImage, Example, Shape, Source
from jax_ddpm.data.transforms import fit
from jax_ddpm.errors import InvalidInput, choose


def those(source: Source, numbers: Sequence[int]) -> Source:
    """The images of these numbers, in this order; one may be there more than once."""
    return dataclasses.replace(source, size=len(numbers), read=lambda index: source.read(numbers[index]))


def fitted_side(shape: Shape, size: int, least: int) -> int:
    """Pixels a side to which an image is fitted: `size`, or its shorter side where that is less, but no fewer than `least`."""
    return min(size, max(least, min(shape[:2])))


def fitted(source: Source, size: int, channels: int, least: int = 0) -> Source:
    """Each image as a square of `size` pixels a side and of so many channels; see `fit`.

    Args:
      least: the size to which smaller images are enlarged; 0 is `size`. See `fitted_side`.
    """
    least = least or size

    def read(index: int) -> Example:
        example = source.read(index)
        side = fitted_side(example["image"].shape, size, least)
        return {"image": fit(example["image"], side, channels), "label": example["label"]}

    known = source.shape or ((size, size, channels) if least == size else None)
    side = known and fitted_side(known, size, least)
    return dataclasses.replace(source, read=read, shape=(side, side, channels) if side else None)


def fits(source: Source, mebibytes: float, largest: Shape | None = None) -> bool:
    """Whether all images of a source take no more memory together than this; `largest` as in `cached`."""
    shape = source.shape or largest
    return shape is not None and len(source) * math.prod(shape) <= mebibytes * 2**20


def cached(source: Source, mebibytes: float, largest: Shape | None = None) -> Source:
    """Keeps each image once it is read, if all of them take no more memory than this; else the source as it is.

    Args:
      largest: what none of them exceeds; needed where the source has no one shape.
    """
    shape = source.shape or largest
    if shape is None or not fits(source, mebibytes, largest):
        return source
    images = np.empty((len(source), *shape), np.uint8)  # the system gives the memory where it is written to
    labels, sides = np.zeros(len(source), np.int64), np.zeros((len(source), 2), np.int64)

    def read(index: int) -> Example:
        if not sides[index, 1]:
            example = source.read(index)
            height, width, _ = example["image"].shape
            images[index, :height, :width], labels[index] = example["image"], example["label"]
            sides[index] = height, width  # last, for other threads read too
        height, width = sides[index]
        return {"image": images[index, :height, :width], "label": int(labels[index])}

    return dataclasses.replace(source, read=read)


class Damages:
    """The damaged images that were come upon, each told once.

    Attributes:
      found: why each cannot be read, by number.
    """

    def __init__(self, known: dict[int, str] | None = None, *, quiet: bool = False) -> None:
        """None so far, or those that are known.

        Args:
          quiet: tell nothing.
        """
        self.found = dict(known or {})
        self._quiet = quiet
        self._lock = threading.Lock()

    def note(self, number: int, error: DamagedImage) -> None:
        """Says so, the first time that it is come upon."""
        with self._lock:
            if number not in self.found:
                self.found[number] = str(error)
                count = len(self.found)
                if not self._quiet:
                    some = f"{count} damaged image{'s' if count > 1 else ''} so far"
                    print(f"skipped: {error} ({some})", file=sys.stderr, flush=True)


def without_damaged(source: Source, damages: Damages) -> Source:
    """The next image that can be read in the place of each that cannot, so that there are as many and in the same order."""

    def read(index: int) -> Example:
        for number in chain(range(index, len(source)), range(index)):
            if number in damages.found:  # and is not tried again: a stretch of them would be gone through for each of its own
                continue
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


def readable(source: Source, on_damaged: str, count: int | None = None) -> Iterator[Example]:
    """The images in their order, each once.

    Args:
      on_damaged: of an image that cannot be read: "stop", or "skip", by which it is left out, and told.
      count: how many are tried, from the first on; None tries all.
    Raises:
      DamagedImage: where one is to stop it.
      InvalidInput: none of them can be read.
    """
    total, damages = len(source) if count is None else count, Damages()
    choose("on_damaged", on_damaged, ON_DAMAGED)
    for index in range(total):
        try:
            yield source.read(index)
        except DamagedImage as error:
            if on_damaged == "stop":
                raise
            damages.note(index, error)
    if damages.found:
        print(f"{len(damages.found)} of {total:,} images cannot be read and are left out", file=sys.stderr, flush=True)
    if len(damages.found) == total:
        raise InvalidInput(f"none of {total:,} images of data set {source.name!r} can be read")
