"""Mean and covariance of features that come batch by batch, here and in other processes, and are not kept."""

from collections.abc import Iterable, Iterator

import numpy as np

from jax_ddpm.errors import InvalidInput
from jax_ddpm.evaluation.frechet import Moments
from jax_ddpm.processes import of_each, summed

PARTS = 10
FEWEST = 2 * PARTS  # features that are taken apart


class RunningMoments:
    """The moments of all features that were added, in float64; none of the features is kept.

    A batch comes in by its own mean and its own scatter about that, so that nothing large is subtracted from anything large
    (Chan, Golub & LeVeque 1983, eq. 2.1), and parts that were gathered apart can be put together.

    Attributes:
      count: how many there were.
      mean: [D].
      scatter: [D, D] the sum of (x - mean)(x - mean)ᵀ.
    """

    def __init__(self, size: int) -> None:
        """Of vectors of `size` numbers; of none of them yet."""
        self.count, self.mean, self.scatter = 0, np.zeros(size), np.zeros((size, size))

    def add(self, features: np.ndarray) -> None:
        """[B, D] features."""
        features = np.asarray(features, np.float64)
        if not len(features):
            return
        mean = features.mean(axis=0)
        centred = features - mean
        self._join(len(features), mean, centred.T @ centred)

    def merge(self, other: "RunningMoments") -> None:
        """All that was added to another one."""
        self._join(other.count, other.mean, other.scatter)

    def _join(self, count: int, mean: np.ndarray, scatter: np.ndarray) -> None:
        total = self.count + count
        if not count:
            return
        apart = mean - self.mean
        self.scatter += scatter
        self.scatter += np.outer(apart, apart * (self.count * count / total))
        self.mean = self.mean + apart * (count / total)
        self.count = total

    def over_processes(self) -> "RunningMoments":
        """Those of all that was added in any process; every process has to ask, and is told the same.

        Each brings its scatter about the mean of all, so that one sum is sent and not everyone's.
        """
        whole, counts = RunningMoments(len(self.mean)), of_each(np.array(self.count))
        whole.count = int(counts.sum())
        whole.mean = counts @ of_each(self.mean) / max(whole.count, 1)
        apart = self.mean - whole.mean
        whole.scatter = summed(self.scatter + np.outer(apart, apart * self.count))
        return whole

    def moments(self) -> Moments:
        """Their mean, and their covariance divided by N - 1.

        Raises:
          InvalidInput: there were fewer than two, or there is one that is not finite.
        """
        if self.count < 2:
            raise InvalidInput(f"{self.count} images have no covariance: expected 2 or more")
        if not np.isfinite(self.scatter).all():
            raise InvalidInput("some features are not finite: the network that makes them, or its weights, cannot be used")
        return Moments(self.mean, self.scatter / (self.count - 1))


class PartedMoments:
    """The moments of ten parts of features that come in some random order: what they are without one tells how sure they are.

    Attributes:
      parts: the moments of each; of fewer than 20 features there is one part.
    """

    def __init__(self, size: int, total: int) -> None:
        """Of `total` vectors of `size` numbers, in parts that follow one another in their order; of none of them yet."""
        count = PARTS if total >= FEWEST else 1
        self._size, self._added = size, 0
        self._ends = [(part + 1) * total // count for part in range(count)]
        self.parts = [RunningMoments(size) for _ in range(count)]

    def add(self, features: np.ndarray, places: np.ndarray | None = None) -> None:
        """[B, D] features, and [B] their places in the order, from 0 on; left out: the next ones."""
        numbers = part_of(self._ends, self._added + np.arange(len(features)) if places is None else places)
        for number in np.unique(numbers):
            self.parts[number].add(features[numbers == number])
        self._added += len(features)

    def over_processes(self) -> "PartedMoments":
        """Those of all that was added in any process; every process has to ask."""
        whole = PartedMoments(self._size, self._ends[-1])
        whole.parts = [part.over_processes() for part in self.parts]
        return whole

    def together(self) -> RunningMoments:
        """Of all parts."""
        return _merged(self._size, self.parts)

    def halves(self) -> list[RunningMoments]:
        """Of the first parts and of the rest."""
        middle = len(self.parts) // 2
        return [_merged(self._size, half) for half in (self.parts[:middle], self.parts[middle:])]

    def without_each(self) -> Iterator["PartedMoments"]:
        """The same with nothing in the first part, with nothing in the second, and so on: halves are cut where they were."""
        for part in range(len(self.parts)):
            others = PartedMoments(self._size, self._ends[-1])
            others.parts = [*self.parts[:part], RunningMoments(self._size), *self.parts[part + 1 :]]
            yield others


def part_of(ends: list[int], places: np.ndarray) -> np.ndarray:
    """[B] places in an order -> [B] in which of its parts they lie, where each ends at the place of `ends`."""
    return np.searchsorted(ends, places, side="right")


def _merged(size: int, parts: Iterable[RunningMoments]) -> RunningMoments:
    whole = RunningMoments(size)
    for part in parts:
        whole.merge(part)
    return whole
