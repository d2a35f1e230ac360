"""The shorter chain: the very same marginals, and between them the posterior, the bound and the samples that follow."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jax_ddpm import (
    ancestral,
    cosine_schedule,
    eps_loss,
    from_x0,
    hybrid_loss,
    kl_loss,
    linear_schedule,
    p_mean_variance,
    q_posterior,
    q_sample,
    rescaled_kl_loss,
    respace,
    sample,
    sample_trajectory,
    spaced_timesteps,
    v_loss,
    vlb_terms,
    x0_loss,
)
from jax_ddpm.diffusion.schedules import NoiseSchedule
from tests.agreement import assert_moments
from tests.compiling import in_float64
from tests.references.chain import Chain
from tests.references.denoisers import small_network, spy
from tests.references.known_data import GaussianData
from tests.references.samplers import noise_of

SCHEDULE, SCHEDULE64 = linear_schedule(1000), linear_schedule(1000, dtype=np.float64)
CHAIN = Chain(SCHEDULE64.betas)
MARGINALS = (
    "alphas_bar",
    "sqrt_alphas_bar",
    "sqrt_one_minus_alphas_bar",
    "log_one_minus_alphas_bar",
    "sqrt_recip_alphas_bar",
    "sqrt_recip_alphas_bar_minus_one",
)
FIELDS = tuple(NoiseSchedule.__dataclass_fields__)
SOME = (0, 3, 4, 250, 600, 999)
NETWORK, NUMPY_NETWORK = small_network(jnp, 3), small_network(np, 3)
KEY = jax.random.key(2)
SHORT = respace(SCHEDULE, SOME)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("make", [linear_schedule, cosine_schedule])
@given(data=st.data())
def test_marginals_are_those_of_the_whole_chain_bit_for_bit(make, dtype, data):
    whole = make(200, dtype=dtype)
    times = sorted(data.draw(st.sets(st.integers(0, 199), min_size=1, max_size=60)))
    short = respace(whole, times)
    assert short.steps == len(times)
    for name in MARGINALS:
        table = getattr(short, name)
        assert table.dtype == dtype
        np.testing.assert_array_equal(table, getattr(whole, name)[times])
    np.testing.assert_array_equal(short.timesteps, times)
    assert short.timesteps.dtype == np.int32
    chex.assert_shape(jax.tree.leaves(short), (len(times),))
    chex.assert_type([getattr(short, name) for name in FIELDS if name != "timesteps"], dtype)
    chex.assert_tree_all_finite(short)
    # The steps between follow from the betas: from those of float64, or from those rounded to 2^-24, a few of which add up.
    betas = Chain(whole.betas.astype(np.float64)).respaced(times).betas
    np.testing.assert_allclose(short.betas, betas, rtol=1e-11 if dtype == np.float64 else 1e-6)


@pytest.mark.parametrize("spacing", ["ddim50", "uniform20", "quad20", "10,15,20", SOME])
def test_betas_are_what_the_marginals_leave_between_two_times(spacing):
    short = respace(SCHEDULE64, spacing)
    times = np.asarray(short.timesteps)
    before = np.append(1.0, CHAIN.alphas_bar[times[:-1]])
    # 1 - ᾱ_t/ᾱ_prev by subtraction loses 4 of 16 digits, where β is 1e-4.
    np.testing.assert_allclose(short.betas, 1 - CHAIN.alphas_bar[times] / before, rtol=1e-11)
    np.testing.assert_allclose(np.cumprod(1 - short.betas), short.alphas_bar, rtol=1e-11)


@pytest.mark.parametrize(("schedule", "tolerance"), [(SCHEDULE, 2e-6), (SCHEDULE64, 1e-10)], ids=["float32", "float64"])
def test_posterior_of_the_shorter_chain_agrees_with_the_reference(schedule, tolerance):
    dtype = schedule.betas.dtype
    x0, xt = np.random.default_rng(0).normal(size=(2, 6, 4)).astype(dtype)
    with jax.enable_x64(dtype == np.float64):
        mean, log_variance = (np.asarray(a) for a in q_posterior(respace(schedule, SOME), x0, xt, np.arange(6)))
    expected, variance = CHAIN.respaced(SOME).posterior(x0.astype(np.float64), xt.astype(np.float64), np.arange(6))
    # float64: the tables' 12 digits; float32: β rounded to 2^-24, and a log of up to 9 to 5e-7.
    np.testing.assert_allclose(mean, expected, rtol=0, atol=tolerance)
    np.testing.assert_allclose(log_variance[1:], np.log(variance[1:]), rtol=0, atol=tolerance)
    assert log_variance[0] == log_variance[1]


@pytest.mark.parametrize("variance", ["fixed_small", "fixed_large", "learned_range"])
def test_bound_of_the_shorter_chain_agrees_with_the_reference(variance):
    chain, times = CHAIN.respaced(SOME), np.array(SOME)
    learned = variance == "learned_range"
    network, numpy_network = (small_network(xp, 3, 6 if learned else 3) for xp in (jnp, np))
    x0 = np.random.default_rng(0).integers(-127, 128, (5, 4, 3)) * 2 / 255 + 1 / 255
    vlb = in_float64(lambda s: vlb_terms(s, network, x0, KEY, prediction="v", variance=variance), respace(SCHEDULE64, SOME))
    with jax.enable_x64(True):
        noise = [np.asarray(jax.random.normal(jax.random.fold_in(KEY, t), x0.shape, jnp.float64)) for t in range(6)]
    expected = [
        chain.bound_term(lambda x, t: numpy_network(x, times[t]), x0, np.full(5, t), eps, prediction="v", variance=variance)
        for t, eps in enumerate(noise)
    ]
    np.testing.assert_allclose(vlb.kl[1:], expected[1:], rtol=1e-9)  # the last step's KL is a small difference
    np.testing.assert_allclose(vlb.decoder, expected[0], rtol=1e-10)


@pytest.mark.parametrize("loss", [eps_loss, x0_loss, v_loss, kl_loss, rescaled_kl_loss, hybrid_loss])
def test_losses_tell_the_network_the_times_of_the_whole_chain(loss):
    x0, eps, t = jnp.zeros((4, 3)), jnp.ones((4, 3)), jnp.array([0, 5, 2, 3])
    seen, noisy = [], []

    def denoiser(xt, told):
        noisy.append(xt)
        seen.append(told)
        return jnp.zeros((4, 6))

    loss(SHORT, denoiser, x0, t, eps)
    np.testing.assert_array_equal(seen, [[0, 999, 4, 250]])
    np.testing.assert_array_equal(noisy[0], q_sample(SCHEDULE, x0, seen[0], eps))  # x_t has the noise of that time


def test_bound_and_sampler_tell_the_network_the_times_of_the_whole_chain():
    seen = []
    jax.block_until_ready(vlb_terms(SHORT, spy(seen), jnp.zeros((2, 3)), KEY))
    jax.effects_barrier()
    np.testing.assert_array_equal(seen, np.repeat(SOME, 2).reshape(6, 2))
    seen.clear()
    jax.block_until_ready(sample(ancestral(SHORT), spy(seen), jnp.ones((2, 3)), KEY))
    jax.effects_barrier()
    np.testing.assert_array_equal(seen, np.repeat(SOME[::-1], 2).reshape(6, 2))


def test_sampling_a_shorter_chain_agrees_with_the_reference():
    chain, times = CHAIN.respaced(SOME), np.array(SOME)
    x = np.random.default_rng(0).normal(size=(5, 4, 3))
    sampler = ancestral(respace(SCHEDULE64, SOME), prediction="v", variance="fixed_small", clip=None)
    states = in_float64(lambda x: sample_trajectory(sampler, NETWORK, x, KEY, range(7))[1], x)
    with jax.enable_x64(True):
        noise = [np.asarray(noise_of(KEY, step, x.shape)) for step in range(6)]
    expected = [x]
    for t, draw in zip(reversed(range(6)), noise, strict=True):
        when = np.full(5, t)
        output = NUMPY_NETWORK(expected[-1], times[when])
        mean, spread, _ = chain.reverse(output, expected[-1], when, prediction="v", variance="fixed_small")
        expected.append(mean + np.sqrt(spread) * draw * (t > 0))
    np.testing.assert_allclose(states, expected, rtol=0, atol=1e-10)  # the tables hold 12 digits


def test_samples_of_gaussian_data_follow_the_exact_recursion_of_the_shorter_chain():
    data = GaussianData(np.array([0.3, -0.2]), np.array([[0.5, 0.3], [0.3, 0.4]]))
    schedule = respace(SCHEDULE, "quad8")
    whole = data.denoiser(Chain(SCHEDULE.betas.astype(np.float64)), "eps")  # trained on all thousand steps
    x_T, key = jax.random.split(KEY)
    sampler = ancestral(schedule, variance="fixed_small", clip=None)
    samples = np.asarray(jax.jit(lambda: sample(sampler, whole, jax.random.normal(x_T, (20_000, 2)), key))(), np.float64)
    mean, covariance = data.ancestral_outcome(CHAIN.respaced(spaced_timesteps(1000, "quad8")), "fixed_small")
    assert_moments(samples, mean, covariance)
    error = np.sqrt(2 / 20_000) * np.diag(covariance).max()  # the largest, of a variance
    assert np.abs(covariance - data.covariance).max() > 5 * error  # eight steps are not a thousand, and it shows


def test_respacing_twice_is_respacing_once_by_the_times_of_the_whole_chain():
    once = respace(respace(SCHEDULE64, "uniform100"), [0, 10, 50, 99])
    times = spaced_timesteps(1000, "uniform100")[[0, 10, 50, 99]]
    np.testing.assert_array_equal(once.timesteps, times)
    directly = respace(SCHEDULE64, times)
    for name in (*MARGINALS, "timesteps"):
        np.testing.assert_array_equal(getattr(once, name), getattr(directly, name))
    for name in FIELDS:
        np.testing.assert_allclose(getattr(once, name), getattr(directly, name), rtol=1e-11, err_msg=name)


@pytest.mark.parametrize("schedule", [SCHEDULE, SCHEDULE64, cosine_schedule(20), linear_schedule(1)])
def test_respacing_to_all_steps_is_the_same_chain(schedule):
    digits = 1e-14 if schedule.betas.dtype == np.float64 else 1.2e-7  # β → log(1-β) → β: a unit of the last place
    for spacing in (f"uniform{schedule.steps}", f"ddim{schedule.steps}", range(schedule.steps)):
        short = respace(schedule, spacing)
        for name in FIELDS:
            np.testing.assert_allclose(getattr(short, name), getattr(schedule, name), rtol=digits, err_msg=name)


def test_respaced_schedule_is_an_argument_like_any_other():
    t = jnp.arange(6)
    value = jax.jit(functools.partial(eps_loss, denoiser=NETWORK))
    x0, eps = np.random.default_rng(0).normal(size=(2, 6, 4, 3)).astype(np.float32)
    inside = jax.jit(lambda x0, eps: eps_loss(respace(SCHEDULE, SOME), NETWORK, x0, t, eps))(x0, eps)
    np.testing.assert_allclose(value(SHORT, x0=x0, t=t, eps=eps), inside, rtol=1e-5)
    whole = eps_loss(SCHEDULE, NETWORK, x0, jnp.array(SOME), eps)  # whose marginals and times it shares
    np.testing.assert_allclose(inside, whole, rtol=1e-5)


@pytest.mark.parametrize("prediction", ["eps", "x0", "v", "mean", "score"])
def test_what_a_network_predicts_of_the_whole_chain_gives_the_posterior_of_the_shorter_one(prediction):
    """The mean above all: the network says that of one step of the whole chain, not of the stride."""
    shorter, rows = respace(SCHEDULE64, SOME), np.arange(len(SOME))
    x0, xt = np.random.default_rng(4).normal(size=(2, len(SOME), 3))
    with jax.enable_x64(True):
        output = from_x0(SCHEDULE64, x0, xt, np.array(SOME), prediction)
        p, found = p_mean_variance(shorter, output, xt, rows, prediction=prediction, variance="fixed_small", clip=None)
    # float64, by the mean's weight of x_0 amplified 1/1.3e-4 times at most
    np.testing.assert_allclose(found, x0, rtol=0, atol=1e-10)
    betas = -np.expm1(np.diff(np.cumsum(np.log1p(-SCHEDULE64.betas))[list(SOME)], prepend=0.0))
    np.testing.assert_allclose(p.mean, Chain(betas).posterior(x0, xt, rows)[0], rtol=0, atol=1e-10)
