"""The beginning of a chain, and what SDEdit makes of Gaussian data with it: every state is affine in the one before."""

import jax
import numpy as np
import pytest

from jax_ddpm import (
    InvalidInput,
    ancestral,
    ddim,
    heun,
    linear_schedule,
    noised_to_start,
    partial_chain,
    schedule_from_betas,
    sdedit,
)
from tests.agreement import assert_moments
from tests.references.chain import Chain
from tests.references.known_data import GaussianData

KEY = jax.random.key(3)
BETAS = np.linspace(0.002, 0.3, 12)
CHAIN = Chain(BETAS)
SCHEDULE, SCHEDULE64 = schedule_from_betas(BETAS), schedule_from_betas(BETAS, np.float64)
DATA = GaussianData(np.array([0.3, -0.5]), np.array([[0.5, 0.3], [0.3, 0.4]]))
MANY = 20_000


@pytest.mark.parametrize(("strength", "steps"), [(1e-9, 1), (0.1, 1), (0.25, 3), (0.5, 6), (0.99, 12), (1, 12)])
def test_partial_chain_is_the_beginning_of_the_chain(strength, steps):
    chain = partial_chain(SCHEDULE64, strength)
    assert chain.steps == steps
    for name in ("timesteps", "alphas_bar", "sqrt_alphas_bar", "sqrt_one_minus_alphas_bar", "predicted_mean_x0"):
        np.testing.assert_array_equal(getattr(chain, name), getattr(SCHEDULE64, name)[:steps])
    for name in ("betas", "alphas", "posterior_mean_x0", "posterior_mean_xt", "posterior_variance"):
        # from log α and back: a few roundings of 2^-53
        np.testing.assert_allclose(getattr(chain, name), getattr(SCHEDULE64, name)[:steps], rtol=1e-13)


@pytest.mark.parametrize("strength", [0, -0.1, 1.01, np.nan])
def test_strength_out_of_range_is_refused(strength):
    with pytest.raises(InvalidInput, match=f"strength={strength}: expected more than 0"):
        partial_chain(SCHEDULE, strength)


@pytest.mark.parametrize("strength", [0.25, 0.6, 1.0])
def test_sdedit_of_gaussian_data_has_the_distribution_of_the_affine_chain(strength):
    sampler = ancestral(partial_chain(SCHEDULE, strength), clip=None)
    sketch = np.array([1.5, 0.5])
    run = jax.jit(lambda x0, key: sdedit(sampler, DATA.denoiser(CHAIN, "eps"), x0, key))
    share = CHAIN.alphas_bar[sampler.evaluations - 1]
    mean, covariance = np.sqrt(share) * sketch, (1 - share) * np.eye(2)
    for t in reversed(range(sampler.evaluations)):
        slopes, offset, deviation = DATA.ancestral_step(CHAIN, t)
        mean, covariance = slopes @ mean + offset, slopes @ covariance @ slopes.T + deviation**2 * np.eye(2)
    assert_moments(run(np.tile(sketch, (MANY, 1)).astype(np.float32), KEY), mean, covariance)


def test_sdedit_of_full_strength_keeps_nothing_and_of_little_keeps_all_but_the_noise():
    schedule = linear_schedule(1000)
    denoiser = DATA.denoiser(Chain(schedule.betas.astype(np.float64)), "eps")
    x0 = jax.random.normal(KEY, (20, 2))
    little = sdedit(ddim(partial_chain(schedule, 0.001), clip=None), denoiser, x0, KEY)
    # Noise of deviation √(1-ᾱ_1) = .01 in forty numbers, and next to nothing of it taken away again.
    assert 0 < np.abs(little - x0).max() < 0.05
    whole = ddim(partial_chain(schedule, 1.0), steps=10, spacing="trailing", clip=None)
    ends = [sdedit(whole, denoiser, start, KEY) for start in (x0, x0 + 1)]
    # The two starts differ by √ᾱ_T = .006, which the chain stretches by what remains of the deviation, less than 1.
    np.testing.assert_allclose(*ends, rtol=0, atol=0.01)


def test_noise_is_added_up_to_where_the_sampler_starts():
    x0 = np.full((MANY, 2), 0.5, np.float32)
    for sampler in (ddim(SCHEDULE, spacing=[2, 5]), heun(partial_chain(SCHEDULE, 0.5), steps=3)):
        start = np.asarray(noised_to_start(sampler, x0, KEY), np.float64)
        level = CHAIN.alphas_bar[5]
        np.testing.assert_allclose(sampler.start, level, rtol=1e-6)
        assert_moments(start, np.sqrt(level) * x0[0], (1 - level) * np.eye(2))
