"""The Fréchet distance of samples that stream by: its error against that of many repetitions, its limit against the truth."""

import itertools

import numpy as np
import pytest

from jax_ddpm.evaluation.frechet import Moments, frechet_distance, moments
from jax_ddpm.evaluation.running_distance import RunningDistance

REFERENCE = Moments(np.array([1.0, 0, 0, 0, 0, 0]), np.diag([4.0, 1, 1, 1, 0.25, 0.25]))
TRUTH = 1 + 1 + 0.5  # |μ|² + Σ (σ - 1)² of standard normal samples: 1; (2 - 1)²; twice (½ - 1)²


def estimate(features, batch=64):
    running = RunningDistance(REFERENCE, len(features))
    for first in range(0, len(features), batch):
        running.add(features[first : first + batch])
    return running.estimate()


def samples(count, seed):
    return np.random.default_rng(seed).normal(size=(count, 6))


@pytest.mark.parametrize("count", [2, 7, 19, 20, 21, 1003])
@pytest.mark.parametrize("batch", [1, 64, 2000])
def test_the_distance_is_that_of_all_samples_and_its_error_that_of_ten_parts(count, batch):
    """To 1e-6: with fewer samples in a part than features, roots of what round-off leaves of eigenvalues that are 0."""
    features = samples(count, 0)
    found = estimate(features, batch)
    assert found.distance == pytest.approx(frechet_distance(REFERENCE, moments(features)), rel=1e-6)
    assert found.samples == count
    if count < 20:
        assert (found.standard_error, found.infinity) == (None, None)
        return

    def cut(parts):
        ends = [part * count // parts for part in range(parts + 1)]
        return [frechet_distance(REFERENCE, moments(features[a:b])) for a, b in itertools.pairwise(ends)]

    assert found.standard_error == pytest.approx(np.std(cut(10), ddof=1) / np.sqrt(10), rel=1e-6)
    middle = 5 * count // 10
    halves = [frechet_distance(REFERENCE, moments(part)) for part in (features[:middle], features[middle:])]
    assert found.infinity == pytest.approx(2 * found.distance - np.mean(halves), rel=1e-6)


def test_the_error_is_as_large_as_repetitions_differ():
    found = [estimate(samples(500, seed)) for seed in range(300)]
    distances, errors = (np.array([getattr(each, name) for each in found]) for name in ("distance", "standard_error"))
    # A deviation over 300 is known to 4 %. The parts are of 50 samples, where the distance is not quite linear in the moments:
    # they differ a little more.
    assert 0.88 < np.sqrt(np.mean(errors**2)) / distances.std() < 1.2


def test_the_limit_is_free_of_what_few_samples_add():
    found = [estimate(samples(100, seed)) for seed in range(300)]
    distances, limits = (np.array([getattr(each, name) for each in found]) for name in ("distance", "infinity"))
    bias, left = distances.mean() - TRUTH, limits.mean() - TRUTH
    assert bias > 4 * distances.std() / np.sqrt(300)
    assert abs(left) < bias / 2
    assert abs(left) < 3 * limits.std() / np.sqrt(300)


def test_of_the_same_distribution_the_error_is_not_too_small():
    same = Moments(np.zeros(6), np.eye(6))
    found = []
    for seed in range(100):
        running = RunningDistance(same, 400)
        running.add(samples(400, seed))
        found.append(running.estimate())
    assert np.mean([each.standard_error for each in found]) > np.std([each.distance for each in found])
