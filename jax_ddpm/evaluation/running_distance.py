"""The Fréchet distance of samples that come batch by batch, how sure it is, and what it would be of very many."""

from typing import NamedTuple

import numpy as np

from jax_ddpm.evaluation.frechet import Moments, distances_from
from jax_ddpm.evaluation.statistics import RunningMoments

PARTS = 10


class FrechetEstimate(NamedTuple):
    """The Fréchet distance of N samples from a reference.

    Attributes:
      distance: of all of them.
      standard_error: by how the distances of ten parts of the samples differ, over √10: it does not know how many real images
        the reference is of. Near 0 it is too large rather than too small. None where there are fewer than 20 samples.
      infinity: 2 d(N) less the mean of the two halves' d(N/2): what is linear in 1/N is gone, as in FID∞ of Chong & Forsyth
        2020 (section 4). None where there are fewer than 20 samples.
      samples: N.
    """

    distance: float
    standard_error: float | None
    infinity: float | None
    samples: int


class RunningDistance:
    """Keeps three means and covariances and none of the features: of the part, of the half and of the whole."""

    def __init__(self, reference: Moments, samples: int) -> None:
        """Of `samples` samples to come, in some random order, from a reference."""
        parts = PARTS if samples >= 2 * PARTS else 1
        self._ends = [(part + 1) * samples // parts for part in range(parts)]
        self._size, self._distance = len(reference.mean), distances_from(reference)
        self._part, self._half, self._whole = (RunningMoments(self._size) for _ in range(3))
        self._of_parts: list[float] = []
        self._of_halves: list[float] = []

    def add(self, features: np.ndarray) -> None:
        """[B, D], the next ones."""
        while len(features):
            room = self._ends[len(self._of_parts)] - self._whole.count - self._half.count - self._part.count
            self._part.add(features[:room])
            if len(features) >= room:
                self._end_part()
            features = features[room:]

    def _end_part(self) -> None:
        self._half.merge(self._part)
        several = len(self._ends) > 1
        self._of_parts.append(self._distance(self._part.moments()) if several else np.nan)
        self._part = RunningMoments(self._size)
        if len(self._of_parts) * 2 % len(self._ends) == 0:
            self._of_halves.append(self._distance(self._half.moments()) if several else np.nan)
            self._whole.merge(self._half)
            self._half = RunningMoments(self._size)

    def estimate(self) -> FrechetEstimate:
        """Of all that were added, which must be as many as were said to come."""
        distance, parts = self._distance(self._whole.moments()), len(self._of_parts)
        if parts == 1:
            return FrechetEstimate(distance, None, None, self._whole.count)
        error = float(np.std(self._of_parts, ddof=1) / np.sqrt(parts))
        return FrechetEstimate(distance, error, float(2 * distance - np.mean(self._of_halves)), self._whole.count)
