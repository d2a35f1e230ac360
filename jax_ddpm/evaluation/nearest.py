"""Whether samples are new: the training images nearest to them."""

import math
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

MEMORISED = 1 / 3  # of the distance to the second nearest; nearer, Gu et al. 2023 call a sample memorised
COPY = 1.0  # grey levels; what is nearer is a copy, be there a twin of it or not


class Neighbours(NamedTuple):
    """The two training images nearest to each of N images.

    Attributes:
      images: [N, 2, H, W, C] uint8, the nearest first; mirrored where that is nearer.
      numbers: [N, 2] which of the training images they are.
      distances: [N, 2] root mean square difference from them, in grey levels of 0..255.
    """

    images: np.ndarray
    numbers: np.ndarray
    distances: np.ndarray

    @property
    def memorised(self) -> np.ndarray:
        """[N] whether the nearest is less than a third as far as the second nearest (Gu et al. 2023, section 2), or a copy.

        The ratio is blind where the training images themselves come in near-twins, so the distances are to be looked at too.
        """
        return (self.distances[:, 0] < MEMORISED * self.distances[:, 1]) | (self.distances[:, 0] < COPY)


def nearest(images: np.ndarray, training: Iterable[tuple[np.ndarray, np.ndarray]], *, mirrored: bool = False) -> Neighbours:
    """The nearest of the training images, by the Euclidean distance of their pixels.

    Args:
      images: [N, H, W, C] uint8; there may be none.
      training: batches [M, H, W, C] uint8 and the numbers [M] of their images, of two images at least in all.
      mirrored: whether a training image is also as near as its mirror image is.
    """
    flat = _flat(images)
    own = (flat**2).sum(axis=1)[:, None]
    found, squares = np.zeros((len(images), 0, *images.shape[1:]), np.uint8), np.zeros((len(images), 0))
    known = np.zeros((len(images), 0), int)
    for batch, numbers in training:
        sides = np.stack([batch, batch[:, :, ::-1]] if mirrored else [batch])
        of_each = np.stack([own - 2 * flat @ side.T + (side**2).sum(axis=1) for side in map(_flat, sides)])  # whole, so exact
        distances = of_each.min(axis=0)
        best = _two_least(distances)
        found = np.concatenate([found, sides[np.take_along_axis(of_each.argmin(axis=0), best, axis=1), best]], axis=1)
        known = np.concatenate([known, numbers[best]], axis=1)
        squares = np.concatenate([squares, np.take_along_axis(distances, best, axis=1)], axis=1)
        rows, best = np.arange(len(images))[:, None], _two_least(squares)
        found, known, squares = found[rows, best], known[rows, best], squares[rows, best]
    return Neighbours(found, known, np.sqrt(squares / flat.shape[1]))


def _flat(images: np.ndarray) -> np.ndarray:
    return images.reshape(len(images), math.prod(images.shape[1:])).astype(np.float64)


def _two_least(values: np.ndarray) -> np.ndarray:
    """[N, K] -> [N, 2] the columns of the two least in each row, the least first."""
    return np.argsort(values, axis=1, kind="stable")[:, :2]
