"""How near what the package says has to be to what the references say."""

import chex
import jax
import jax.numpy as jnp
import numpy as np


def assert_float64_agrees(ours, reference, schedule, arrays, t, atol=1e-10):
    """`ours(schedule, *arrays, t)`, compiled in float64, has the values of `reference(*arrays, t)`.

    Within 1e-10 because the tables hold twelve digits and more, and no difference of theirs loses more than two.
    """
    doubles = [a.astype(np.float64) for a in arrays]
    with jax.enable_x64(True):
        actual = jax.tree.leaves(jax.jit(ours)(schedule, *doubles, t))
    chex.assert_type(actual, jnp.float64)
    for ours_part, reference_part in zip(actual, jax.tree.leaves(reference(*doubles, t)), strict=True):
        np.testing.assert_allclose(ours_part, reference_part, rtol=1e-10, atol=atol)


def assert_moments(samples, mean, covariance):
    """Within five Monte-Carlo errors of n draws: √(Σ_ii/n), and √((Σ_ii Σ_jj + Σ_ij²)/n)."""
    samples, variances = np.asarray(samples, np.float64), np.diag(covariance)
    assert np.all(np.abs(samples.mean(axis=0) - mean) < 5 * np.sqrt(variances / len(samples)))
    errors = np.sqrt((np.outer(variances, variances) + covariance**2) / len(samples))
    assert np.all(np.abs(np.cov(samples.T) - covariance) < 5 * errors)
