"""The Fréchet distance of samples that come batch by batch, how sure it is, and what it would be of very many."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from jax_ddpm.evaluation.frechet import Moments, distances_from
from jax_ddpm.evaluation.statistics import PartedMoments


class FrechetEstimate(NamedTuple):
    """The Fréchet distance of N samples from a reference.

    Attributes:
      distance: of all of them.
      standard_error: of it, by which samples and which real images there happened to be. Near 0 it is too large rather than too
        small. None where there are fewer than 20 of either, but for a reference that is taken as exact.
      of_samples: what of this the samples bring about: by how the distances differ that are left when a tenth of them is left
        out, the grouped jackknife (Efron & Stein 1981). None where there are fewer than 20 samples.
      of_reference: what of this the real images bring about; the two add up as squares. None where the reference is taken as
        exact, or is of fewer than 20 images.
      infinity: 2 d(N) less the mean of the two halves' d(N/2): what is linear in 1/N is gone, as in FID∞ of Chong & Forsyth
        2020 (section 4). None where there are fewer than 20 samples.
      samples: N.
    """

    distance: float
    standard_error: float | None
    of_samples: float | None
    of_reference: float | None
    infinity: float | None
    samples: int


class RunningDistance:
    """Keeps ten means and covariances, and none of the features."""

    def __init__(self, reference: Moments, samples: int, parts: PartedMoments | None = None) -> None:
        """Of `samples` samples to come, in some random order, from a reference.

        Args:
          parts: those of the reference, by which its error is known; None where it is taken as exact.
        """
        self._distance, self._reference_parts = distances_from(reference), parts
        self._parts = PartedMoments(len(reference.mean), samples)

    def add(self, features: np.ndarray, places: np.ndarray | None = None) -> None:
        """[B, D] features, and [B] their places in the order, from 0 on; left out: the next ones."""
        self._parts.add(features, places)

    def estimate(self) -> FrechetEstimate:
        """Of all that were added in any process, which must be as many as were said to come; every process has to ask."""
        parts, of_real = self._parts.over_processes(), self._reference_parts
        whole, several = parts.together(), len(parts.parts) > 1
        moments = whole.moments()
        distance, of_halves = self._distance(moments), [self._distance(each.moments()) for each in parts.halves() if several]
        of_samples = jackknife_error(self._distance, parts)
        of_reference = jackknife_error(distances_from(moments), of_real) if of_real else None
        known = of_samples is not None and (of_real is None or of_reference is not None)
        return FrechetEstimate(
            distance=distance,
            standard_error=float(np.hypot(of_samples or 0, of_reference or 0)) if known else None,
            of_samples=of_samples,
            of_reference=of_reference,
            infinity=float(2 * distance - np.mean(of_halves)) if several else None,
            samples=whole.count,
        )


def jackknife_error(figure: Callable[[Moments], float], parts: PartedMoments) -> float | None:
    """√((g-1)/g Σ (θ_j - θ̄)²), where θ_j is the figure of all but the j-th of g parts; None where there is but one.

    (Tukey's jackknife, as Efron & Stein 1981 have it, of groups in place of single images.)
    """
    found = [figure(others.moments()) for others in parts.without_each()] if len(parts.parts) > 1 else []
    return float(np.std(found) * np.sqrt(len(found) - 1)) if found else None
