"""How much of the samples lies where real images are, and how much of the real images lies where samples are.

Both are told by balls: around each image one that reaches to the k-th nearest other image of its own set.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from jax_ddpm.errors import InvalidInput

ROWS, COLUMNS = 1024, 8192  # of the distances that are in memory at once
PRECISION_K, DENSITY_K = 3, 5  # as Kynkäänniemi et al. and Naeem et al. have it


class PrecisionRecall(NamedTuple):
    """Improved precision and recall (Kynkäänniemi et al. 2019, eq. 1 and 2).

    Attributes:
      precision: the share of samples in the ball of at least one real image.
      recall: the share of real images in the ball of at least one sample.
    """

    precision: float
    recall: float


class DensityCoverage(NamedTuple):
    """Density and coverage (Naeem et al. 2020, eq. 3 and 4), which one stray real image does not spoil.

    Attributes:
      density: in how many balls of real images a sample lies, in the mean, over k; it can be more than 1.
      coverage: the share of real images in whose ball there is at least one sample.
    """

    density: float
    coverage: float


def precision_recall(samples: np.ndarray, real: np.ndarray, k: int = PRECISION_K) -> PrecisionRecall:
    """[N, D], [M, D] features -> precision and recall.

    Raises:
      InvalidInput: there are no more than k of one of them.
    """
    precise = _balls_around(samples, real, _radii(real, k)) > 0
    recalled = _balls_around(real, samples, _radii(samples, k)) > 0
    return PrecisionRecall(float(precise.mean()), float(recalled.mean()))


def density_coverage(samples: np.ndarray, real: np.ndarray, k: int = DENSITY_K) -> DensityCoverage:
    """[N, D], [M, D] features -> density and coverage.

    Raises:
      InvalidInput: there are no more than k real ones.
    """
    radii = _radii(real, k)
    balls, nearest = _balls_around(samples, real, radii), np.full(len(real), np.inf)
    for rows, _, squares in _squares(real, samples):
        nearest[rows] = np.minimum(nearest[rows], squares.min(axis=1))
    return DensityCoverage(float(balls.mean() / k), float((nearest <= radii).mean()))


def _radii(features: np.ndarray, k: int) -> np.ndarray:
    """[N] the squared distance of each from the k-th nearest other one."""
    if len(features) <= k:
        raise InvalidInput(f"{len(features)} images have no {k} neighbours each: expected {k + 1} or more")
    nearest = np.full((len(features), k), np.inf)
    for rows, columns, squares in _squares(features, features):
        numbers = np.arange(len(features))
        squares[numbers[rows, None] == numbers[columns]] = np.inf  # not itself
        nearest[rows] = np.partition(np.concatenate([nearest[rows], squares], axis=1), k - 1, axis=1)[:, :k]
    return nearest.max(axis=1)


def _balls_around(points: np.ndarray, centres: np.ndarray, radii: np.ndarray) -> np.ndarray:
    """[N] in how many of the balls each point lies."""
    counts = np.zeros(len(points), int)
    for rows, columns, squares in _squares(points, centres):
        counts[rows] += (squares <= radii[columns]).sum(axis=1)
    return counts


def _squares(a: np.ndarray, b: np.ndarray) -> Iterator[tuple[slice, slice, np.ndarray]]:
    """The squared distances of all of a from all of b, a block of them at a time, in float64.

    Both are first moved to near 0, for what they have in common is not to be subtracted from itself squared.
    """
    centre = np.asarray(b[:COLUMNS], np.float64).mean(axis=0)
    for first in range(0, len(a), ROWS):
        rows = slice(first, first + ROWS)
        own = a[rows] - centre
        own_squares = (own**2).sum(axis=1)[:, None]
        for start in range(0, len(b), COLUMNS):
            columns = slice(start, start + COLUMNS)
            other = b[columns] - centre
            yield rows, columns, np.maximum(own_squares - 2 * own @ other.T + (other**2).sum(axis=1), 0)
