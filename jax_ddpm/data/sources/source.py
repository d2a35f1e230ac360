"""What every source of images is: a random-access sequence of {"image": [H, W, C] uint8, "label": int}."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypedDict

import numpy as np

from jax_ddpm.errors import InvalidInput

Shape = tuple[int, int, int]
"""(H, W, C)."""


class DamagedImage(InvalidInput):
    """A single image cannot be read; the message names it."""


@contextlib.contextmanager
def told_as_damaged(name: str) -> Iterator[None]:
    """Whatever is raised while an image is read, as what the image called `name` has.

    What decoders raise depends on the bytes that they are given, and is of many kinds.

    Raises:
      DamagedImage: anything was raised but InvalidInput, which says all that there is to say, and that memory is short.
    """
    try:
        yield
    except (InvalidInput, MemoryError):
        raise
    except Exception as error:
        raise DamagedImage(f"{name} cannot be read as an image: {str(error) or type(error).__name__}") from error


class Example(TypedDict):
    """One image and its label; the label is 0 where a source has none."""

    image: np.ndarray
    label: int


@dataclasses.dataclass(frozen=True)
class Source:
    """A sequence of examples.

    Attributes:
      name: as in the config.
      size: how many examples there are.
      read: number -> example; several threads may call it at once. Raises DamagedImage where one image cannot be read.
      class_names: by label; empty where the images have no labels.
      split: which part of the data these are; "" where it has no parts.
      splits: the parts that there are, with how many examples each has; None where only opening it would tell.
      shape: (H, W, C) of every image; None where they differ, or where only reading them all would tell.
      licence: of the images, or that it is not known.
    """

    name: str
    size: int
    read: Callable[[int], Example]
    class_names: tuple[str, ...] = ()
    split: str = ""
    splits: Mapping[str, int | None] = dataclasses.field(default_factory=dict)
    shape: Shape | None = None
    licence: str = "not known"

    def __len__(self) -> int:
        """How many examples there are."""
        return self.size

    def __getitem__(self, index: Any) -> Example:
        """Example `index`, 0 ≤ index < len."""
        return self.read(int(index))
