import functools
from fractions import Fraction

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jax_ddpm import (
    InvalidInput,
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
    sampler_times,
    spaced_timesteps,
    v_loss,
    vlb_terms,
    x0_loss,
    zero_terminal_snr,
)
from jax_ddpm.diffusion.schedules import NoiseSchedule
from tests.references.chain import Chain
from tests.references.denoisers import small_network
from tests.references.known_data import GaussianData

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


@pytest.mark.parametrize(
    ("total", "spacing", "expected"),
    [
        (10, "uniform1", [9]),
        (10, "uniform2", [0, 9]),
        (10, "uniform3", [0, 4, 9]),  # 4.5 to the even neighbour
        (10, "uniform4", [0, 3, 6, 9]),
        (10, "uniform6", [0, 2, 4, 5, 7, 9]),
        (10, "uniform10", [*range(10)]),
        (1, "uniform1", [0]),
        (10, "quad1", [9]),
        (10, "quad2", [0, 9]),
        (10, "quad4", [0, 1, 4, 9]),
        (10, "quad5", [0, 1, 2, 5, 9]),  # 0, .56, 2.25, 5.06, 9
        (10, "quad7", [0, 1, 2, 3, 4, 6, 9]),  # 0, .25, 1, 2.25, 4, 6.25, 9: the second zero is moved on, and what it meets
        (10, "quad10", [*range(10)]),
        (101, "quad11", [k * k for k in range(11)]),
        (1, "ddim1", [0]),
        (10, "ddim2", [0, 5]),
        (10, "ddim3", [0, 4, 8]),
        (10, "ddim4", [0, 3, 6, 9]),
        (10, "ddim5", [0, 2, 4, 6, 8]),
        (10, "ddim10", [*range(10)]),
        (1000, "ddim50", [*range(0, 1000, 20)]),
        (1000, "ddim4", [0, 250, 500, 750]),
        (10, "linspace3", [0, 4, 9]),
        (10, "linspace1", [9]),
        (10, "leading1", [0]),
        (10, "leading3", [0, 3, 6]),
        (10, "leading4", [0, 2, 4, 6]),
        (10, "leading6", [*range(6)]),
        (1000, "leading50", [*range(0, 1000, 20)]),
        (10, "trailing1", [9]),
        (10, "trailing2", [4, 9]),
        (10, "trailing3", [2, 6, 9]),  # 9, 5.67, 2.33
        (10, "trailing10", [*range(10)]),
        (1000, "trailing50", [*range(19, 1000, 20)]),
        (10, "4", [0, 3, 6, 9]),
        (10, "2,3", [0, 4, 5, 7, 9]),
        (11, "1,2,2", [3, 4, 7, 8, 10]),  # sections of four, four and three
        (11, "4,4,3", [*range(11)]),
        (12, "1,1,1", [3, 7, 11]),
    ],
)
def test_text_stands_for_these_times(total, spacing, expected):
    times = spaced_timesteps(total, spacing)
    assert times.tolist() == expected
    assert np.issubdtype(times.dtype, np.integer)
    schedule = linear_schedule(total)
    chex.assert_trees_all_equal(respace(schedule, spacing), respace(schedule, expected))


@pytest.mark.parametrize(("total", "counts"), [(300, (10, 15, 20)), (1000, (10, 10, 10, 10, 10)), (7, (2, 3)), (4000, (100,))])
def test_sections_follow_their_definition(total, counts):
    """Nichol & Dhariwal's public code, with exact fractions."""
    expected, start = [], 0
    for number, count in enumerate(counts):
        size = total // len(counts) + (number < total % len(counts))
        stride = Fraction(size - 1, count - 1)
        expected += [start + round(stride * i) for i in range(count)]
        start += size
    assert spaced_timesteps(total, ",".join(map(str, counts))).tolist() == expected


@given(total=st.integers(1, 300), data=st.data())
def test_uniform_and_quad_reach_from_the_first_step_to_the_last_whatever_their_number(total, data):
    count = data.draw(st.integers(1, total))
    for name in ("uniform", "quad"):
        times = spaced_timesteps(total, f"{name}{count}")
        assert len(times) == count
        assert np.all(np.diff(times) > 0)
        assert times[-1] == total - 1
        assert times[0] == (0 if count > 1 else total - 1)


def test_uniform_is_even_and_quad_denser_where_there_is_less_noise():
    assert set(np.diff(spaced_timesteps(1000, "uniform100")).tolist()) == {10, 11}
    strides = np.diff(spaced_timesteps(1000, "quad50"))
    assert strides[0] == 1
    assert np.all(np.diff(strides) >= -1)  # rising, but for the rounding
    assert strides[-1] > 35


@pytest.mark.parametrize(
    ("timesteps", "message"),
    [
        ("ddim6", "ddim6"),  # a stride of 1 gives ten, of 2 five
        ("ddim7", "ddim7"),
        ("uniform11", "uniform11"),
        ("quad11", "quad11"),
        ("ddim11", "ddim11"),
        ("uniform0", "uniform0"),
        ("ddim0", "ddim0"),
        ("6,2", "6,2"),
        ("2,6", "2,6"),
        ("0,2", "0,2"),
        ("11", "11"),
        ("unifrom5", r"unknown spacing 'unifrom5'.*Did you mean 'uniform"),
        ("dim5", r"unknown spacing 'dim5'.*Did you mean 'ddim"),
        ("every third", "unknown spacing 'every third'"),
        ("", "unknown spacing"),
        ("uniform", "unknown spacing 'uniform'"),
        ("1,,2", "unknown spacing '1,,2'"),
        ("uniform-5", "unknown spacing 'uniform-5'"),
        ([], "at least one"),
        ([3, 2], r"\[3, 2\]: expected increasing numbers in 0\.\.9"),
        ([2, 2], r"\[2, 2\]: expected increasing numbers in 0\.\.9"),
        ([-1, 2], r"\[-1, 2\]: expected increasing numbers in 0\.\.9"),
        ([2, 10], r"\[2, 10\]: expected increasing numbers in 0\.\.9"),
        ([0.5, 0.5], r"\[0\.5, 0\.5\]: expected increasing numbers in 0\.\.9"),
        ([-0.5, 2.0], r"expected increasing numbers in 0\.\.9"),
        ([0.5, 9.5], r"expected increasing numbers in 0\.\.9"),
        ([0.5, float("nan")], r"expected increasing numbers in 0\.\.9"),
        ([True, False], "expected numbers"),
        ([[0, 1]], "expected numbers"),
        (3, "expected numbers"),
    ],
)
def test_times_that_no_chain_of_ten_steps_has_are_refused(timesteps, message):
    with pytest.raises(InvalidInput, match=message):
        respace(linear_schedule(10), timesteps)


def test_more_parts_than_steps_are_refused():
    with pytest.raises(InvalidInput, match="1,1,1"):
        spaced_timesteps(2, "1,1,1")


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
    with jax.enable_x64(True):
        vlb = jax.jit(lambda s: vlb_terms(s, network, x0, KEY, prediction="v", variance=variance))(respace(SCHEDULE64, SOME))
        noise = [np.asarray(jax.random.normal(jax.random.fold_in(KEY, t), x0.shape, jnp.float64)) for t in range(6)]
    expected = [
        chain.bound_term(lambda x, t: numpy_network(x, times[t]), x0, np.full(5, t), eps, prediction="v", variance=variance)
        for t, eps in enumerate(noise)
    ]
    np.testing.assert_allclose(vlb.kl[1:], expected[1:], rtol=1e-9)  # the last step's KL is a small difference
    np.testing.assert_allclose(vlb.decoder, expected[0], rtol=1e-10)


def spy(seen):
    """A denoiser that notes the times it is told, in a traced function too."""

    def denoiser(xt, t):
        jax.debug.callback(lambda t: seen.append(np.asarray(t)), t)
        return jnp.concatenate([0.1 * xt, 0 * xt], axis=-1)

    return denoiser


SHORT = respace(SCHEDULE, SOME)


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
    with jax.enable_x64(True):
        sampler = ancestral(respace(SCHEDULE64, SOME), prediction="v", variance="fixed_small", clip=None)
        _, states = jax.jit(lambda x: sample_trajectory(sampler, NETWORK, x, KEY, range(7)))(x)
        keys = [jax.random.split(jax.random.fold_in(KEY, step))[0] for step in range(6)]
        noise = [np.asarray(jax.random.normal(key, x.shape, jnp.float64)) for key in keys]
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
    # Five Monte-Carlo errors: √(Σ_ii/n) of the mean, √((Σ_ii Σ_jj + Σ_ij²)/n) of the covariance.
    variances = np.diag(covariance)
    assert np.all(np.abs(samples.mean(axis=0) - mean) < 5 * np.sqrt(variances / 20_000))
    error = np.sqrt((np.outer(variances, variances) + covariance**2) / 20_000)
    assert np.all(np.abs(np.cov(samples.T) - covariance) < 5 * error)
    assert np.abs(covariance - data.covariance).max() > 5 * error.max()  # eight steps are not a thousand, and it shows


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


# Times between the steps

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


# Where a sampler stops


@pytest.mark.parametrize(
    ("steps", "spacing", "expected"),
    [
        (4, "linspace", [0, 3, 6, 9]),
        (4, "uniform", [0, 3, 6, 9]),
        (3, "leading", [0, 3, 6]),
        (3, "trailing", [2, 6, 9]),
        (4, "quad", [0, 1, 4, 9]),
        (3, "ddim", [0, 4, 8]),
        *((None, name, [*range(10)]) for name in ("linspace", "leading", "trailing", "quad", "ddim")),
        (None, "2,3", [0, 4, 5, 7, 9]),
        (5, "2,3", [0, 4, 5, 7, 9]),
        (None, [0, 2, 5], [0, 2, 5]),
        (None, (0.5, 2.25), [0.5, 2.25]),
        (1, "karras", [9]),
        (1, "log_snr", [9]),
        (2, "karras", [0, 9]),
        (2, "log_snr", [0, 9]),
    ],
)
def test_sampler_stops_at_these_times(steps, spacing, expected):
    times = sampler_times(linear_schedule(10), steps, spacing)
    assert times.tolist() == expected


@pytest.mark.parametrize("schedule", [SCHEDULE64, cosine_schedule(300, dtype=np.float64)], ids=["linear", "cosine"])
@given(steps=st.integers(2, 400))
def test_karras_and_log_snr_are_even_in_their_measure_of_the_noise(schedule, steps):
    levels = Chain(schedule.betas).levels
    for spacing, measure in (("karras", lambda level: np.exp(level / 7)), ("log_snr", lambda level: level)):
        times = sampler_times(schedule, steps, spacing)
        assert (len(times), times[0], times[-1]) == (steps, 0, schedule.steps - 1)
        strides = np.diff(measure(np.interp(times, np.arange(schedule.steps), levels)))
        # A time of 16 digits up to 999, in a table whose noisiest step is the steepest: 1e-10 of the whole.
        np.testing.assert_allclose(strides, strides.mean(), rtol=0, atol=1e-10 * strides.sum())
    assert len(sampler_times(schedule, None, "karras")) == schedule.steps  # as many as there are steps, though not these


@pytest.mark.parametrize(
    ("steps", "spacing", "message"),
    [
        (5, "karas", r"unknown spacing 'karas': expected one of .*karras, log_snr\. Did you mean 'karras'\?"),
        (5, "log-snr", r"unknown spacing 'log-snr'.*Did you mean 'log_snr'\?"),
        (5, "", r"unknown spacing ''"),
        (0, "karras", r"steps=0: expected at least 1"),
        (-1, "log_snr", r"steps=-1: expected at least 1"),
        (0, "linspace", r"expected 1 to 10 steps"),
        (11, "leading", r"'leading11': expected 1 to 10 steps"),
        (11, "trailing", r"'trailing11': expected 1 to 10 steps"),
        (6, "ddim", r"ddim6.*ddim5 would do"),
        (6, "2,3", r"steps=6, but the spacing has 5 of them: 2,3"),
        (None, "6,6", r"6,6"),
    ],
)
def test_stops_that_a_chain_of_ten_steps_has_not_are_refused(steps, spacing, message):
    with pytest.raises(InvalidInput, match=message):
        sampler_times(linear_schedule(10), steps, spacing)


@pytest.mark.parametrize("spacing", ["karras", "log_snr"])
def test_spacings_of_the_noise_level_need_it_to_be_finite(spacing):
    with pytest.raises(InvalidInput, match=rf"spacing '{spacing}' where ᾱ_T = 0, so σ infinite: expected linspace"):
        sampler_times(zero_terminal_snr(linear_schedule(10)), 5, spacing)
