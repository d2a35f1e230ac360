"""How far apart two sets of features lie, each taken for a Gaussian."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np


class Moments(NamedTuple):
    """Mean [D] and covariance [D, D] of features, float64."""

    mean: np.ndarray
    covariance: np.ndarray


def moments(features: np.ndarray) -> Moments:
    """The moments of [N, D] features, the covariance divided by N - 1."""
    features = np.asarray(features, np.float64)
    return Moments(features.mean(axis=0), np.cov(features, rowvar=False).reshape(features.shape[1], -1))


def frechet_distance(a: Moments, b: Moments) -> float:
    """|μ_a - μ_b|² + tr(Σ_a + Σ_b - 2 (Σ_a Σ_b)^½)        (Dowson & Landau 1982, eq. 4; Heusel et al. 2017, eq. 6)

    On the features of an Inception network it is known as FID. Too few samples make it too large, so only figures of as many
    samples can be compared.
    """
    return distances_from(a)(b)


def distances_from(a: Moments) -> Callable[[Moments], float]:
    """The Fréchet distances of others from `a`, whose root is then worked out once."""
    root = _root(a.covariance)

    def distance(b: Moments) -> float:
        cross = np.linalg.eigvalsh(root @ b.covariance @ root)  # has the eigenvalues of Σ_a Σ_b, and is symmetric
        overlap = np.sqrt(np.maximum(cross, 0)).sum()
        return float(np.sum((a.mean - b.mean) ** 2) + np.trace(a.covariance) + np.trace(b.covariance) - 2 * overlap)

    return distance


def _root(covariance: np.ndarray) -> np.ndarray:
    values, vectors = np.linalg.eigh(covariance)
    return (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
