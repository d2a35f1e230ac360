"""Chains over real times between the steps, in which the log of the noise level is a straight line."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jax_ddpm import InvalidInput, ancestral, cosine_schedule, linear_schedule, p_mean_variance, respace, sample
from jax_ddpm.diffusion.schedules import NoiseSchedule
from tests.references.chain import Chain
from tests.references.denoisers import spy

SCHEDULE, SCHEDULE64 = linear_schedule(1000), linear_schedule(1000, dtype=np.float64)
CHAIN = Chain(SCHEDULE64.betas)
FIELDS = tuple(NoiseSchedule.__dataclass_fields__)
SOME = (0, 3, 4, 250, 600, 999)
KEY = jax.random.key(2)
HALFWAY = (0.0, 0.25, 3.5, 250.75, 999.0)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("make", [linear_schedule, cosine_schedule])
@given(data=st.data())
def test_real_times_interpolate_the_log_of_the_noise_level(make, dtype, data):
    whole = make(200, dtype=dtype)
    gaps = data.draw(st.lists(st.floats(0.01, 40), min_size=1, max_size=30))
    times = np.cumsum(gaps)[: max(1, int(np.sum(np.cumsum(gaps) <= 199)))].clip(max=199.0)
    short = respace(whole, times)
    levels = np.interp(times, np.arange(200), Chain(make(200, dtype=np.float64).betas).levels)
    # Float32 tables: √ᾱ and √(1-ᾱ) of six digits, or five where √(1-ᾱ_0) is a small difference from 1.
    digits = {"rtol": 1e-9} if dtype == np.float64 else {"rtol": 2e-5}
    np.testing.assert_allclose(short.sqrt_alphas_bar, 1 / np.sqrt(1 + np.exp(2 * levels)), **digits)
    np.testing.assert_allclose(short.sqrt_one_minus_alphas_bar, 1 / np.sqrt(1 + np.exp(-2 * levels)), **digits)
    np.testing.assert_allclose(np.cumprod(1 - short.betas.astype(np.float64)), short.alphas_bar, rtol=digits["rtol"])
    chex.assert_type([getattr(short, name) for name in FIELDS], dtype)
    np.testing.assert_allclose(short.timesteps, times, rtol=1e-6)
    finite = [name for name in FIELDS if not name.startswith("predicted")]
    chex.assert_tree_all_finite([getattr(short, name) for name in finite])


def test_real_times_that_are_whole_give_the_chain_of_the_whole_ones():
    between, whole = respace(SCHEDULE64, np.array(SOME, np.float64)), respace(SCHEDULE64, SOME)
    for name in FIELDS:
        if not name.startswith("predicted"):  # of which there is none between two steps
            np.testing.assert_allclose(getattr(between, name), getattr(whole, name), rtol=1e-9, err_msg=name)
    assert np.issubdtype(between.timesteps.dtype, np.floating)
    assert np.issubdtype(whole.timesteps.dtype, np.integer)


def test_network_is_told_the_real_times_of_the_whole_chain():
    short = respace(SCHEDULE, HALFWAY)
    seen = []
    jax.block_until_ready(sample(ancestral(short), spy(seen), jnp.ones((2, 3)), KEY))
    jax.effects_barrier()
    np.testing.assert_array_equal(seen, np.repeat(HALFWAY[::-1], 2).reshape(5, 2))
    # Of a chain that was shortened before, the times are still those of the whole one.
    np.testing.assert_allclose(respace(respace(SCHEDULE64, SOME), [0.5, 2.0, 4.5]).timesteps, [1.5, 4.0, 799.5], rtol=1e-12)
    np.testing.assert_array_equal(respace(short, [0, 2, 4]).timesteps, [0.0, 3.5, 999.0])


def test_mean_of_a_step_has_no_meaning_between_two():
    x = jnp.ones((2, 3))
    with pytest.raises(InvalidInput, match=r"prediction 'mean' is of a step.* expected whole times, as linspace has"):
        ancestral(respace(SCHEDULE, HALFWAY), prediction="mean")
    with pytest.raises(InvalidInput, match="prediction 'mean'"):
        p_mean_variance(
            respace(SCHEDULE, HALFWAY), x, x, jnp.zeros(2, int), prediction="mean", variance="fixed_small", clip=None
        )
    ancestral(respace(SCHEDULE, SOME), prediction="mean")


@pytest.mark.parametrize("prediction", ["eps", "x0", "v", "score"])
def test_posterior_between_two_steps_agrees_with_the_reference(prediction):
    rows, levels = np.arange(5), CHAIN.levels_at(np.array(HALFWAY), np)
    chain = Chain(-np.expm1(np.diff(-np.logaddexp(0.0, 2 * levels), prepend=0.0)))
    x0, xt = np.random.default_rng(4).normal(size=(2, 5, 3))
    with jax.enable_x64(True):
        output = chain.output(x0, xt, rows, prediction)
        p, found = p_mean_variance(
            respace(SCHEDULE64, HALFWAY), output, xt, rows, prediction=prediction, variance="fixed_small", clip=None
        )
    np.testing.assert_allclose(found, x0, rtol=0, atol=1e-9)  # float64; 1/√ᾱ_T = 157 squared of the tables' 13 digits
    np.testing.assert_allclose(p.mean, chain.posterior(x0, xt, rows)[0], rtol=0, atol=1e-9)
