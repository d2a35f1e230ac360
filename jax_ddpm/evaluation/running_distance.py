"""The Fréchet distance of samples that come batch by batch, how sure it is, and what it would be of very many."""

from collections.abc import Callable, Iterable
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
      infinity_standard_error: of it, by how the limits differ that are left when a tenth of the samples or of the real images
        is left out. What few real images add to the limit is not in it. None where that of the distance is.
      samples: N.
    """

    distance: float
    standard_error: float | None
    of_samples: float | None
    of_reference: float | None
    infinity: float | None
    infinity_standard_error: float | None
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
        found, of_samples = self._from_reference(parts), jackknife_errors(self._from_reference, parts)
        of_reference = jackknife_errors(_to(parts), of_real) if of_real else None
        errors = None
        if of_samples is not None and (of_real is None or of_reference is not None):
            errors = np.hypot(of_samples, 0 if of_reference is None else of_reference)
        return FrechetEstimate(
            distance=float(found[0]),
            standard_error=_at(errors, 0),
            of_samples=_at(of_samples, 0),
            of_reference=_at(of_reference, 0),
            infinity=_at(found, 1),
            infinity_standard_error=_at(errors, 1),
            samples=parts.together().count,
        )

    def _from_reference(self, parts: PartedMoments) -> np.ndarray:
        return _with_limit(map(self._distance, _whole_and_halves(parts)))


def _to(parts: PartedMoments) -> Callable[[PartedMoments], np.ndarray]:
    """The figures of the samples by those of a reference, the roots of the samples worked out once."""
    distances = [distances_from(each) for each in _whole_and_halves(parts)]

    def figures(reference: PartedMoments) -> np.ndarray:
        moments = reference.together().moments()
        return _with_limit(distance(moments) for distance in distances)

    return figures


def _whole_and_halves(parts: PartedMoments) -> list[Moments]:
    """The moments of all, and where they are in parts, of their two halves."""
    halves = parts.halves() if len(parts.parts) > 1 else []
    return [each.moments() for each in (parts.together(), *halves)]


def _with_limit(distances: Iterable[float]) -> np.ndarray:
    """The distance of all and those of halves -> that of all, and where there are halves, the limit."""
    whole, *halves = distances
    return np.array([whole, 2 * whole - np.mean(halves)] if halves else [whole])


def _at(values: np.ndarray | None, place: int) -> float | None:
    return float(values[place]) if values is not None and len(values) > place else None


def jackknife_errors(figures: Callable[[PartedMoments], np.ndarray], parts: PartedMoments) -> np.ndarray | None:
    """[n] √((g-1)/g Σ (θ_j - θ̄)²), where θ_j is a figure of all but the j-th of g parts; None where there is but one.

    (Tukey's jackknife, as Efron & Stein 1981 have it, of groups in place of single images.)

    Args:
      figures: parts of features -> [n] what they come to.
    """
    if len(parts.parts) == 1:
        return None
    found = np.stack([figures(others) for others in parts.without_each()])
    return np.asarray(found.std(axis=0) * np.sqrt(len(found) - 1))
