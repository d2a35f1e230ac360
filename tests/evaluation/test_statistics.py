"""Moments gathered batch by batch against NumPy's of all at once, and the memory that they take."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jax_ddpm.errors import InvalidInput
from jax_ddpm.evaluation.frechet import moments
from jax_ddpm.evaluation.statistics import RunningMoments


def gathered(batches, size):
    running = RunningMoments(size)
    for batch in batches:
        running.add(batch)
    return running


@given(st.integers(0, 2**32 - 1), st.lists(st.integers(0, 9), min_size=1, max_size=6), st.integers(0, 6))
def test_any_batches_give_what_all_at_once_give(seed, cuts, parted):
    """Means of 10⁴ beside deviations of 1, where sums of squares would lose half the digits; and parts can be merged."""
    features = 1e4 + np.random.default_rng(seed).normal(size=(sum(cuts) + 2, 4))
    batches = np.split(features, np.cumsum(cuts))
    running = gathered(batches[:parted], 4)
    running.merge(gathered(batches[parted:], 4))
    assert running.count == len(features)
    found, expected = running.moments(), moments(features)
    np.testing.assert_allclose(found.mean, expected.mean, rtol=1e-14)
    np.testing.assert_allclose(found.covariance, expected.covariance, rtol=0, atol=1e-9)


def test_the_features_of_fifty_thousand_images_are_not_kept():
    size, batch, count = 64, 500, 50_000

    def images():
        rng = np.random.default_rng(0)
        return (rng.normal(3, 2, (batch, size)).astype(np.float32) for _ in range(count // batch))

    tracemalloc.start()
    try:
        running = gathered(images(), size)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # A few batches in float64 and a few covariances; all features would be 13 MB even in float32.
    assert peak < 2_000_000
    found, expected = running.moments(), moments(np.concatenate(list(images())))
    np.testing.assert_allclose(found.mean, expected.mean, rtol=1e-12)
    np.testing.assert_allclose(found.covariance, expected.covariance, rtol=0, atol=1e-12)


def test_one_image_has_no_covariance_and_what_is_not_finite_is_told():
    with pytest.raises(InvalidInput, match="1 images have no covariance: expected 2 or more"):
        gathered([np.ones((1, 3))], 3).moments()
    with pytest.raises(InvalidInput, match="not finite"):
        gathered([np.array([[1.0, np.nan], [0, 0]])], 2).moments()
