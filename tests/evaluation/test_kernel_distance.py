"""The kernel distance: its definition in loops, no bias however few features, and an error as large as repetitions differ."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jax_ddpm.errors import InvalidInput
from jax_ddpm.evaluation.kernel_distance import kernel_distance, squared_discrepancy


def k(a, b):
    return (sum(p * q for p, q in zip(a, b, strict=True)) / len(a) + 1) ** 3


@given(st.integers(0, 2**32 - 1), st.integers(2, 6), st.integers(2, 6))
def test_as_the_definition_has_it(seed, n, m):
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(n, 3)), rng.normal(1, 2, size=(m, 3))
    within = [np.mean([k(z[i], z[j]) for i in range(len(z)) for j in range(len(z)) if i != j]) for z in (x, y)]
    between = np.mean([k(a, b) for a in x for b in y])
    np.testing.assert_allclose(squared_discrepancy(x, y), sum(within) - 2 * between, rtol=1e-9, atol=1e-9)


def test_the_mean_over_all_draws_from_two_known_distributions_is_the_true_one():
    """Of two points each, drawn with equal chance from {-1, 1} and from {0, 2}: E k(x, x') + E k(y, y') - 2 E k(x, y)."""
    first, second = (-1.0, 1.0), (0.0, 2.0)
    truth = sum(
        sign * np.mean([k((a,), (b,)) for a in left for b in right])
        for sign, left, right in [(1, first, first), (1, second, second), (-2, first, second)]
    )
    found = [
        squared_discrepancy(np.array([[a], [b]]), np.array([[c], [d]]))
        for a in first
        for b in first
        for c in second
        for d in second
    ]
    assert np.mean(found) == pytest.approx(truth, rel=1e-12)


def test_the_error_is_as_large_as_repetitions_differ():
    rng = np.random.default_rng(0)
    found = [kernel_distance(rng.normal(size=(300, 4)), rng.normal(0.2, 1.2, size=(250, 4)), seed) for seed in range(200)]
    assert {(each.blocks, each.block_size) for each in found} == {(10, 25)}
    ratio = np.mean([each.standard_error for each in found]) / np.std([each.mean for each in found])
    assert 0.9 < ratio < 1.1  # that of 200 repetitions is known to 5 %


def test_equal_distributions_are_no_distance_apart():
    rng = np.random.default_rng(1)
    found = kernel_distance(rng.normal(size=(12_000, 4)), rng.normal(size=(11_000, 4)))
    assert (found.blocks, found.block_size) == (11, 1000)
    assert abs(found.mean) < 4 * found.standard_error


def test_the_blocks_share_nothing_and_leave_next_to_nothing_out():
    x = np.arange(105.0)[:, None]
    found = kernel_distance(x, x[:40])
    assert (found.blocks, found.block_size) == (10, 4)


def test_too_few_are_told():
    with pytest.raises(InvalidInput, match="of 19 and 500 images: expected 20 or more of each"):
        kernel_distance(np.zeros((19, 2)), np.zeros((500, 2)))
