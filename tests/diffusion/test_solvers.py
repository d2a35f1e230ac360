"""Every sampler against its paper's equations in NumPy, the exact probability flow and the exact distribution of the data."""

import dataclasses
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from jax_ddpm import (
    InvalidInput,
    Sampler,
    ancestral,
    cosine_schedule,
    ddim,
    dpm_solver_pp,
    euler,
    heun,
    linear_schedule,
    sample,
    sample_trajectory,
    schedule_from_betas,
    static_clip,
    unipc,
    zero_terminal_snr,
)
from tests.compiling import equations
from tests.references.chain import Chain, signal_and_noise, x0_said
from tests.references.denoisers import small_network
from tests.references.known_data import GaussianData, GaussianMixture
from tests.references.samplers import affine_outcome, ddim_states, dpm_solver_pp_states, edm_states, unipc_states

KEY = jax.random.key(11)
BETAS = np.linspace(0.002, 0.3, 12)
SHORT64 = schedule_from_betas(BETAS, np.float64)
SHORT_CHAIN = Chain(BETAS)
NETWORK, NUMPY_NETWORK = small_network(jnp, 3), small_network(np, 3)

LINEAR, COSINE = linear_schedule(1000, dtype=np.float64), cosine_schedule(1000, dtype=np.float64)
CHAINS = {"linear": Chain(LINEAR.betas), "cosine": Chain(COSINE.betas)}
SCHEDULES = {"linear": LINEAR, "cosine": COSINE}


# Step by step, with any network


SOLVERS = {
    "ddim": (ddim, ddim_states),
    "euler": (euler, functools.partial(edm_states, correct=False)),
    "heun": (heun, functools.partial(edm_states, correct=True)),
    "dpm_solver_pp": (dpm_solver_pp, dpm_solver_pp_states),
    "unipc": (unipc, lambda levels, estimate, x, draw, order: unipc_states(levels, estimate, x, draw, order)),
}
EDM = {"churn": 2.0, "churn_range": (0.1, 1.2), "churn_noise": 1.1}


def noise_of(key, number, shape, dtype=jnp.float64):
    """The noise that `sample` adds at an evaluation."""
    return jax.random.normal(jax.random.split(jax.random.fold_in(key, number))[0], shape, dtype)


@pytest.mark.parametrize(
    ("name", "options", "times", "prediction", "clip"),
    [
        ("ddim", {}, [0, 2, 3, 7, 11], "eps", None),
        ("ddim", {"eta": 0.5}, [1, 4, 5, 10], "v", static_clip),
        ("ddim", {"eta": 1.0}, [0.0, 0.3, 4.5, 10.9], "score", None),
        ("euler", {}, [0.0, 1.5, 2.25, 8.0, 11.0], "eps", static_clip),
        ("euler", EDM, [0.0, 1.5, 2.25, 8.0, 11.0], "v", None),
        ("euler", {"churn": 1.5}, [0, 3, 4, 9], "x0", None),
        ("heun", {}, [0.0, 1.5, 2.25, 8.0, 11.0], "v", None),
        ("heun", EDM, [0.0, 1.5, 2.25, 8.0, 11.0], "eps", static_clip),
        ("heun", {"churn": 9.0}, [0, 3, 4, 9, 11], "score", None),
        ("dpm_solver_pp", {"order": 1}, [0, 2, 3, 7, 11], "eps", None),
        ("dpm_solver_pp", {"order": 2}, [0, 2, 3, 7, 11], "v", static_clip),
        ("dpm_solver_pp", {"order": 3}, [0.0, 1.5, 2.25, 5.0, 8.0, 11.0], "eps", None),
        ("dpm_solver_pp", {"order": 1, "stochastic": True}, [0.5, 2.0, 3.0, 7.0], "x0", None),
        ("dpm_solver_pp", {"order": 2, "stochastic": True}, [0, 2, 3, 7, 11], "eps", None),
        ("dpm_solver_pp", {"order": 3, "stochastic": True}, [0.0, 1.5, 2.25, 5.0, 8.0, 11.0], "v", static_clip),
        ("unipc", {"order": 1}, [0, 2, 3, 7, 11], "v", None),
        ("unipc", {"order": 2}, [0, 2, 3, 7, 11], "eps", static_clip),
        ("unipc", {"order": 3}, [0.0, 1.5, 2.25, 5.0, 8.0, 9.5, 11.0], "score", None),
    ],
)
def test_every_state_agrees_with_the_equations_of_the_paper(name, options, times, prediction, clip):
    make, states_reference = SOLVERS[name]
    sampler = make(SHORT64, spacing=np.array(times), prediction=prediction, clip=clip, **options)
    x, total = np.random.default_rng(0).normal(size=(5, 4, 3)), sampler.evaluations
    with jax.enable_x64(True):
        _, states = jax.jit(lambda x, key: sample_trajectory(sampler, NETWORK, x, key, range(total + 1)))(x, KEY)
        noise = [np.asarray(noise_of(KEY, number, x.shape)) for number in range(total)]

    def estimate(x, level):
        t = np.full(len(x), np.interp(level, SHORT_CHAIN.levels, np.arange(12)))
        x0 = x0_said(NUMPY_NETWORK(x, t), x, level, prediction)
        return x0 if clip is None else np.clip(x0, -1, 1)

    levels = SHORT_CHAIN.levels_at(np.array(times)[::-1], np)
    if name in ("euler", "heun"):
        options = options | {"highest": SHORT_CHAIN.levels[-1]}
    expected = list(states_reference(levels, estimate, x, noise.__getitem__, **options))
    assert len(expected) == total
    np.testing.assert_array_equal(states[0], x)
    # Tables and times of 15 digits; the network and 1/√(1-ᾱ_0) = 22 amplify them, and what UniPC solves has a condition of 10².
    np.testing.assert_allclose(states[1:], expected, rtol=0, atol=1e-10)
    assert np.abs(np.diff(states, axis=0)).max(axis=(1, 2, 3)).min() > 0.01


# The deterministic ones against the exact flow

GAUSSIAN = GaussianData(np.array([0.3, -0.2]), np.diag([0.5, 0.05]))
ONE_CLASS = GaussianMixture(np.ones(1), GAUSSIAN.mean[None], np.diag(GAUSSIAN.covariance)[None])
MIXTURE = GaussianMixture(
    np.array([0.5, 0.3, 0.2]),
    np.array([[-0.6, 0.2], [0.5, 0.4], [0.1, -0.7]]),
    np.array([[0.05, 0.03], [0.02, 0.04], [0.03, 0.03]]),
)
EACH = 32  # examples of either
LONGEST = 2559  # evaluations: of Heun's method with 1280 steps


@functools.cache
def exact_ends(name):
    """Noise [2·EACH, 2], and where the flow and then the mean of x_0 given the least noisy state take it.

    The last step of every sampler is x̂_0 itself, whose exact value is that mean.
    """
    levels = CHAINS[name].levels
    x = np.random.default_rng(0).normal(size=(EACH, 2))
    halves = [
        data.expected_x0(flow(x, levels[-1], levels[0]), levels[0])
        for data, flow in ((ONE_CLASS, GAUSSIAN.flow), (MIXTURE, MIXTURE.flow))
    ]
    return np.concatenate([x, x]), np.concatenate(halves)


def test_flow_of_the_references_is_the_closed_one_where_there_is_one():
    levels = CHAINS["linear"].levels
    x = np.random.default_rng(0).normal(size=(8, 2))
    expected = GAUSSIAN.flow(x, levels[-1], levels[0])
    np.testing.assert_allclose(ONE_CLASS.flow(x, levels[-1], levels[0]), expected, rtol=0, atol=1e-10)  # 1e-12 a solver's step


@jax.jit
def longest_ends(schedule, table, levels, x):
    """The ends of a chain of LONGEST evaluations with the best denoiser, of the Gaussian for the first half of the batch and of
    the mixture for the second. The table is an argument, so that it is compiled once for all the deterministic samplers."""

    def denoiser(xt, t):
        level = jnp.interp(t[0], jnp.arange(len(levels)), levels)
        halves = zip((ONE_CLASS, MIXTURE), jnp.split(xt, 2), strict=True)
        return jnp.concatenate([data.expected_x0(half, level, xp=jnp) for data, half in halves])

    never = np.zeros(LONGEST)
    sampler = Sampler(
        schedule, reached=never, of_clipped=never, deviations=never, noisy=never, prediction="x0", clip=None, **table
    )
    return sample(sampler, denoiser, x, KEY)


def ends(sampler, name, x):
    """The sampler is a table; lines that change nothing are added until it is as long as the longest."""
    assert not sampler.deviations.any()
    more = LONGEST - sampler.evaluations
    table = {
        "rows": np.pad(sampler.rows, (0, more)),
        "of_x": np.pad(sampler.of_x, (0, more), constant_values=1.0),
        "of_x0": np.pad(sampler.of_x0, ((0, more), (0, 4 - sampler.of_x0.shape[1]))),
    }
    schedule = jax.tree.map(lambda each: np.pad(each.astype(np.float64), (0, LONGEST - len(each))), sampler.schedule)
    with jax.enable_x64(True):
        return np.asarray(longest_ends(schedule, table, CHAINS[name].levels, x))


def gentle(schedule, steps):
    """Times whose levels start with steps of 1/steps², growing evenly.

    A multistep method begins with a step of first order for want of a past, whose error is the square of its size: among steps
    that are all of a size h it would leave h² in the end, whatever the order of the others. Here it leaves h⁴.
    """
    levels = CHAINS[schedule].levels
    wanted = levels[-1] + (levels[0] - levels[-1]) * np.linspace(0, 1, steps) ** 2
    times = np.interp(wanted[::-1], levels, np.arange(1000))
    return np.concatenate([[0.0], times[1:-1], [999.0]])


EXACT = {"prediction": "x0", "clip": None}
ORDERS = {
    "ddim": (lambda name, steps: ddim(SCHEDULES[name], steps=steps, spacing="log_snr", **EXACT), 1),
    "euler": (lambda name, steps: euler(SCHEDULES[name], steps=steps, **EXACT), 1),
    "heun": (lambda name, steps: heun(SCHEDULES[name], steps=steps, **EXACT), 2),
    "dpm_solver_pp 2M": (lambda name, steps: dpm_solver_pp(SCHEDULES[name], steps=steps, order=2, **EXACT), 2),
    "dpm_solver_pp 3M": (
        lambda name, steps: dpm_solver_pp(SCHEDULES[name], spacing=gentle(name, steps), order=3, **EXACT),
        3,
    ),
    "dpm_solver_pp 3M, as published": (  # of second order, for its parabola is bent by half
        lambda name, steps: dpm_solver_pp(SCHEDULES[name], spacing=gentle(name, steps), order=3, as_published=True, **EXACT),
        2,
    ),
    "unipc 1": (lambda name, steps: unipc(SCHEDULES[name], steps=steps, order=1, **EXACT), 2),
    "unipc 2": (lambda name, steps: unipc(SCHEDULES[name], steps=steps, order=2, **EXACT), 3),
    "unipc 3": (lambda name, steps: unipc(SCHEDULES[name], spacing=gentle(name, steps), order=3, **EXACT), 4),
}
COUNTS = (320, 640, 1280)
NEAR = {1: 0.03, 2: 0.05, 3: 0.2, 4: 0.4}  # the higher the order, the longer until the leading term is alone
PREDICTIONS = ("x0", "eps", "v", "score")


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("name", ORDERS)
def test_deterministic_samplers_converge_to_the_exact_flow_at_their_order(name, schedule):
    make, order = ORDERS[name]
    x, exact = exact_ends(schedule)
    off = [np.split((ends(make(schedule, steps), schedule, x) - exact) ** 2, 2) for steps in COUNTS]
    for half, data in enumerate(("the Gaussian", "the mixture")):
        errors = np.sqrt([each[half].mean() for each in off])
        slope = -np.polyfit(np.log(COUNTS), np.log(errors), 1)[0]
        assert slope == pytest.approx(order, abs=NEAR[order]), (data, errors)


@pytest.mark.parametrize("make", [ddim, heun, dpm_solver_pp, unipc])
def test_path_is_the_same_whatever_the_network_predicts(make):
    x = np.random.default_rng(0).normal(size=(8, 2))

    @jax.jit
    def paths(x):
        samplers = [make(LINEAR, steps=8, spacing="quad", prediction=prediction, clip=None) for prediction in PREDICTIONS]
        runs = [(sampler, MIXTURE.denoiser(CHAINS["linear"], sampler.prediction)) for sampler in samplers]
        return [sample_trajectory(*run, x, KEY, range(run[0].evaluations + 1))[1] for run in runs]

    with jax.enable_x64(True):
        first, *others = paths(x)
    for other in others:
        # The 16 digits of ε, v and score are divided by as little as √ᾱ_T = .006 or √(1-ᾱ_0)² = 1e-4.
        np.testing.assert_allclose(other, first, rtol=0, atol=1e-10)


# The stochastic ones against the distribution of the data

REFERENCES = {
    "ddim, eta 0.5": (functools.partial(ddim_states, eta=0.5), 1),
    "ddim, eta 1": (functools.partial(ddim_states, eta=1.0), 1),
    "dpm_solver_pp, order 1": (functools.partial(dpm_solver_pp_states, order=1, stochastic=True), 1),
    "dpm_solver_pp, order 2": (functools.partial(dpm_solver_pp_states, order=2, stochastic=True), 2),
    # The estimates before have noise in them that the state has since lost, so a third of them gains a factor but no order.
    "dpm_solver_pp, order 3": (functools.partial(dpm_solver_pp_states, order=3, stochastic=True), 2),
    "euler, churn": (functools.partial(edm_states, correct=False, churn=20.0), 1),
    "heun, churn": (functools.partial(edm_states, correct=True, churn=20.0), 2),
}


@pytest.mark.parametrize("name", REFERENCES)
def test_moments_of_gaussian_data_are_approached_at_the_order_of_the_stochastic_sampler(name):
    """No draws: each state is affine in x_T and the noises, by the equations with which the samplers agree at every step."""
    states, order = REFERENCES[name]
    levels, data, counts = CHAINS["linear"].levels, ONE_CLASS, np.array([100, 200, 400])
    (signal, noise), variance = signal_and_noise(levels[0]), data.variances[0]
    of_state = signal**2 * variance + noise**2
    expected = (signal * variance / of_state) ** 2 * of_state  # of E[x_0 | x_t] at the lowest level: what the last step makes
    off = []
    for steps in counts:
        stops = functools.partial(states, np.linspace(levels[-1], levels[0], steps))
        stops = functools.partial(stops, highest=levels[-1]) if "churn" in name else stops
        mean, found = affine_outcome(stops, data, levels[-1], 2 * steps)
        np.testing.assert_allclose(mean, data.mean, rtol=0, atol=1e-12)  # the average state follows the exact path
        off.append(np.abs(found - expected).max())
    assert -np.polyfit(np.log(counts), np.log(off), 1)[0] == pytest.approx(order, abs=0.15), off


LINEAR32 = linear_schedule(1000)
MANY = 10_000
STOCHASTIC = {  # and how many steps each is given, fewer where it is of second order
    "ancestral, fixed_small": (ancestral, 400, {"variance": "fixed_small"}),  # as ddim with eta 1, dpm_solver_pp of order 1
    "ancestral, fixed_large": (ancestral, 400, {"variance": "fixed_large"}),
    "ddim, eta 0.5": (ddim, 400, {"eta": 0.5}),
    "dpm_solver_pp, order 2": (dpm_solver_pp, 80, {"order": 2, "stochastic": True}),
    "dpm_solver_pp, order 3": (dpm_solver_pp, 80, {"order": 3, "stochastic": True}),
    "euler, churn": (euler, 400, {"churn": 20.0}),
    "heun, churn": (heun, 60, {"churn": 20.0}),
}
DIRECTIONS = np.array([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8], [0.8, -0.6]])


def drawn(sampler):
    """[MANY, 2] samples of the mixture, made by the best denoiser from draws of the exact q(x_T), in float32."""
    denoiser = MIXTURE.denoiser(CHAINS["linear"], sampler.prediction)
    start = MIXTURE.draw_noised(CHAINS["linear"].levels[-1], MANY).astype(np.float32)
    return np.asarray(jax.jit(lambda x: sample(sampler, denoiser, x, KEY))(start), np.float64)


def likelihood_of_chance(samples):
    """The least p-value of Kolmogorov and Smirnov's test along the directions, times their number."""
    tests = [stats.kstest(samples @ along, functools.partial(MIXTURE.distribution, direction=along)) for along in DIRECTIONS]
    return len(DIRECTIONS) * min(test.pvalue for test in tests)


@pytest.mark.parametrize("name", STOCHASTIC)
def test_stochastic_samplers_converge_to_the_distribution_of_a_mixture(name):
    make, steps, options = STOCHASTIC[name]
    options = options | {"spacing": "log_snr", "prediction": "v", "clip": None}
    samples = drawn(make(LINEAR32, steps=steps, **options))
    # At a significance of 1 %, all four directions together. With 10,000 samples the test sees a shift of the distribution
    # function of 2 %, or a variance that is off by 5 %.
    assert likelihood_of_chance(samples) > 0.01
    # Five Monte-Carlo errors: those of the mean, and of the mean product of two deviations.
    away = samples - MIXTURE.mean
    assert np.all(np.abs(away.mean(axis=0)) < 5 * away.std(axis=0) / np.sqrt(MANY))
    products = away[:, :, None] * away[:, None]
    assert np.all(np.abs(products.mean(axis=0) - MIXTURE.covariance) < 5 * products.std(axis=0) / np.sqrt(MANY))


def test_a_tenth_of_the_steps_is_told_from_the_distribution_of_the_mixture():
    for name in ("ancestral, fixed_small", "dpm_solver_pp, order 2"):
        make, steps, options = STOCHASTIC[name]
        coarse = make(LINEAR32, steps=steps // 10, spacing="log_snr", prediction="v", clip=None, **options)
        assert likelihood_of_chance(drawn(coarse)) < 1e-9


# One sampler under two names


def assert_same_sampler(ours, theirs, digits=1e-12):
    for name in ("rows", "timesteps", "reached", "of_x", "of_x0", "of_clipped", "deviations", "noisy"):
        np.testing.assert_allclose(getattr(ours, name), getattr(theirs, name), rtol=0, atol=digits, err_msg=name)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("spacing", ["linspace", "leading", "trailing", "quad", "karras", "log_snr"])
def test_samplers_that_are_the_same(schedule, spacing):
    at = {"schedule": SCHEDULES[schedule], "steps": 25, "spacing": spacing, "prediction": "v"}
    # Each way to the coefficients loses some digits of 1-ᾱ'/ᾱ, the cosine's 1e-9 more than the linear's 1e-5.
    plain = ddim(**at)
    assert_same_sampler(euler(**at), plain, 1e-10)
    assert_same_sampler(dpm_solver_pp(**at, order=1), plain, 1e-10)
    noisy = ddim(**at, eta=1.0)
    assert_same_sampler(dpm_solver_pp(**at, order=1, stochastic=True), noisy, 1e-10)
    posterior = ancestral(**at, variance="fixed_small")
    last = posterior.deviations * posterior.noisy  # its table has a number for t = 0, where no noise is added
    assert_same_sampler(dataclasses.replace(posterior, deviations=last), noisy, 1e-10)


def test_whole_chain_of_ddim_with_eta_1_draws_what_the_ancestral_one_draws():
    x = np.random.default_rng(0).normal(size=(5, 4, 3))
    pair = ddim(SHORT64, eta=1.0), ancestral(SHORT64, variance="fixed_small")
    with jax.enable_x64(True):
        ours, theirs = jax.jit(lambda x: [sample_trajectory(each, NETWORK, x, KEY, range(13))[1] for each in pair])(x)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-12)
    np.testing.assert_array_equal(pair[0].timesteps, range(11, -1, -1))


def test_rederiving_eps_matters_only_where_clipping_does_something():
    x = np.random.default_rng(0).normal(size=(5, 4, 3)).astype(np.float32)

    def states(factor, rederive_eps, clip):
        sampler = ddim(SHORT64, rederive_eps=rederive_eps, prediction="x0", clip=clip)
        return sample_trajectory(sampler, lambda xt, t: factor * jnp.tanh(xt), x, KEY, range(13))[1]

    inside = [states(0.9, rederive_eps, static_clip) for rederive_eps in (True, False)]
    np.testing.assert_array_equal(*inside)
    beyond = [states(2.0, rederive_eps, static_clip) for rederive_eps in (True, False)]
    assert np.abs(beyond[0][1:-1] - beyond[1][1:-1]).max() > 0.1
    np.testing.assert_array_equal(*(states(2.0, rederive_eps, None) for rederive_eps in (True, False)))


def test_eps_that_is_kept_is_what_the_network_said():
    """diffusers' default: the noise in the step is not that which goes with the clipped x_0."""
    x, times = np.random.default_rng(0).normal(size=(5, 4, 3)), np.array([0, 2, 3, 7, 11])
    sampler = ddim(SHORT64, spacing=times, eta=0.3, rederive_eps=False)
    with jax.enable_x64(True):
        _, states = jax.jit(lambda x: sample_trajectory(sampler, NETWORK, x, KEY, range(6)))(x)
        noise = [np.asarray(noise_of(KEY, number, x.shape)) for number in range(5)]

    def eps(x, level):
        return NUMPY_NETWORK(x, np.full(len(x), np.interp(level, SHORT_CHAIN.levels, np.arange(12))))

    def estimate(x, level):
        return np.clip(x0_said(eps(x, level), x, level, "eps"), -1, 1)

    levels = SHORT_CHAIN.levels[times[::-1]]
    expected = list(ddim_states(levels, estimate, x, noise.__getitem__, eta=0.3, eps_of=eps))
    np.testing.assert_allclose(states[1:], expected, rtol=0, atol=1e-10)


# What holds for every sampler

EVERY = {
    "ancestral": (ancestral, {"variance": "fixed_small"}),
    "ddim": (ddim, {}),
    "ddim, eta 1": (ddim, {"eta": 1.0}),
    "ddim, eps kept": (ddim, {"rederive_eps": False}),
    "euler": (euler, {}),
    "euler, churn": (euler, {"churn": 2.0}),
    "heun": (heun, {}),
    "heun, churn": (heun, {"churn": 2.0}),
    **{f"dpm_solver_pp, order {order}": (dpm_solver_pp, {"order": order}) for order in (1, 2, 3)},
    **{f"dpm_solver_pp, order {order}, noise": (dpm_solver_pp, {"order": order, "stochastic": True}) for order in (1, 2, 3)},
    **{f"unipc, order {order}": (unipc, {"order": order}) for order in (1, 2, 3)},
}
NOISY = {"ancestral", "ddim, eta 1", "euler, churn", "heun, churn"} | {f"dpm_solver_pp, order {n}, noise" for n in (1, 2, 3)}


def made(name, schedule=LINEAR32, steps=6, **options):
    make, own = EVERY[name]
    return make(schedule, steps=steps, **own, **options)


@pytest.mark.parametrize("name", EVERY)
def test_number_of_evaluations_is_that_of_the_steps_and_heuns_twice_less_one(name):
    for steps in (1, 2, 6, 50):
        sampler = made(name, steps=steps)
        told = sampler.timesteps
        assert sampler.evaluations == len(told) == len(sampler.of_x) == (2 * steps - 1 if "heun" in name else steps)
        assert told.min() >= 0
        assert told.max() <= 999
    assert made(name, SHORT64, None).evaluations == (23 if "heun" in name else 12)


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("schedule", SCHEDULES)
@given(data=st.data())
def test_every_line_of_a_table_keeps_the_share_of_the_signal_and_of_the_noise(name, schedule, data):
    """If the network knows x_0, so that x = √ᾱ x_0 + √(1-ᾱ) ε, the next state is that too at the level which it reaches.

    Whatever the order is, then: of_x √ᾱ + Σ of_x0 = √ᾱ', and of_x² (1-ᾱ) + deviation² = 1-ᾱ'.
    """
    times = sorted(data.draw(st.sets(st.integers(0, 999), min_size=1, max_size=12)))
    stops = np.array(times) * data.draw(st.sampled_from([1, 0.999]))  # whole, or real
    sampler = made(name, SCHEDULES[schedule], None, spacing=stops, prediction="v")
    signal, noise = (np.asarray(getattr(sampler.schedule, each)) for each in ("sqrt_alphas_bar", "sqrt_one_minus_alphas_bar"))
    signal, noise, deviation = signal[sampler.rows], noise[sampler.rows], sampler.deviations * sampler.noisy
    # float64, and in UniPC's system of equations a condition of 10^4 where one step is a hundred times the other
    np.testing.assert_allclose(sampler.of_x * signal + sampler.of_x0.sum(axis=1), np.sqrt(sampler.reached), rtol=0, atol=1e-9)
    np.testing.assert_allclose((sampler.of_x * noise) ** 2 + deviation**2, 1 - sampler.reached, rtol=0, atol=1e-9)
    assert sampler.reached[-1] == 1
    np.testing.assert_allclose(sampler.of_x[-1], 0, rtol=0, atol=1e-12)  # the last step is x̂_0 itself
    np.testing.assert_allclose(sampler.of_x0[-1], np.eye(1, sampler.of_x0.shape[1])[0], rtol=0, atol=1e-12)
    assert deviation[-1] == 0
    if "churn" not in name:  # which may find no higher level
        assert deviation.any() == (name in NOISY and len(times) > 1)


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("shape", [(3, 2), (2, 4, 4, 3)])
def test_output_with_a_learned_variance_fits_every_sampler_and_data_of_any_shape(name, shape):
    network = small_network(jnp, shape[-1], 2 * shape[-1])
    drawn = jax.eval_shape(lambda x: sample(made(name), network, x, KEY), jnp.zeros(shape))
    assert (drawn.shape, drawn.dtype) == (shape, jnp.float32)


@pytest.mark.parametrize(
    ("name", "shape"),
    [("ancestral", (3, 2)), ("unipc, order 3", (2, 4, 4, 3)), ("heun, churn", (3, 2))],
)
def test_samplers_are_compiled_mapped_and_differentiated(name, shape):
    sampler, wide = made(name, prediction="v"), small_network(jnp, shape[-1], 2 * shape[-1])
    x = np.random.default_rng(0).normal(size=shape).astype(np.float32)

    def draw(x, key):
        end = sample(sampler, wide, x, key)
        return end.sum(), end

    starts, keys = jnp.stack([x, x, -x]), jnp.stack([KEY, jax.random.key(1), KEY])
    slopes, mapped = jax.jit(jax.vmap(jax.grad(draw, has_aux=True)))(starts, keys)
    chex.assert_shape([slopes, mapped], (3, *shape))
    chex.assert_tree_all_finite((slopes, mapped))
    assert np.abs(slopes).max(axis=tuple(range(1, 1 + len(shape)))).min() > 1e-4
    # Alone, and with a network that says no variance, which is passed over.
    alone = sample(sampler, lambda xt, t: wide(xt, t)[..., : shape[-1]], x, KEY)
    np.testing.assert_allclose(mapped[0], alone, rtol=0, atol=1e-5)  # two compilations of six float32 steps
    assert (np.abs(mapped[0] - mapped[1]).max() > 1e-3) == (name in NOISY)
    assert np.abs(mapped[0] - mapped[2]).max() > 1e-3


@pytest.mark.parametrize("name", EVERY)
def test_every_sampler_is_one_scan_that_never_leaves_the_device(name):
    def primitives(steps, **options):
        sampler = made(name, steps=steps, **options)
        jaxpr = jax.make_jaxpr(lambda x, key: sample(sampler, lambda xt, t: 0.1 * xt, x, key))(jnp.ones((2, 3)), KEY)
        return [equation.primitive.name for equation in equations(jaxpr.jaxpr)]

    found = primitives(100)
    assert [each for each in found if each in ("scan", "while")] == ["scan"]
    assert not [each for each in found if "callback" in each or "infeed" in each or "outfeed" in each]
    assert ("random_bits" in found) == (name in NOISY)
    assert found == primitives(10)
    assert primitives(1, clip=None).count("scan") == 1


# Spacings, ends and errors


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize(
    ("spacing", "first", "last"),
    [
        ("linspace", 999, 0),
        ("leading", 950, 0),
        ("trailing", 999, 49),
        ("quad", 999, 0),
        ("karras", 999, 0),
        ("log_snr", 999, 0),
        ("10,10", 999, 0),
        ((5.5, 300.0, 900.25), 900.25, 5.5),
    ],
)
def test_every_sampler_takes_every_spacing_from_its_noisiest_time_down(name, spacing, first, last):
    steps = 20 if isinstance(spacing, str) else None
    sampler = made(name, LINEAR, steps, spacing=spacing)
    told = sampler.timesteps
    if "churn" in name:  # which starts each step a little higher, if that is known
        assert first <= told[0] <= min(first * 1.1, 999)
    else:
        assert told[0] == first
        assert np.all(np.diff(told) <= 0)
    assert told[-1] == pytest.approx(last, abs=15 if "churn" in name else 0)
    if "churn" not in name:
        level = CHAINS["linear"].levels_at(np.array([float(first)]), np)
        assert sampler.start == pytest.approx(float(signal_and_noise(level[0])[0] ** 2), rel=1e-10)
    assert np.all(np.diff(sampler.reached) >= (-1 if "churn" in name else 0))


TERMINAL = zero_terminal_snr(SHORT64)


WITHOUT_SIGNAL = ("ancestral", "ddim", "ddim, eta 1", "euler", "dpm_solver_pp, order 1", "dpm_solver_pp, order 2")
WITHOUT_SIGNAL += ("dpm_solver_pp, order 3", "unipc, order 2", "unipc, order 3")


@pytest.mark.parametrize("name", WITHOUT_SIGNAL)
@pytest.mark.parametrize("prediction", ["v", "x0"])
def test_chain_that_starts_without_any_signal_is_run(name, prediction):
    """The first state says nothing of x_0, so the first estimate is the mean of the data; all lines obey their law."""
    sampler = made(name, TERMINAL, None, spacing="linspace", prediction=prediction)
    denoiser = MIXTURE.denoiser(Chain(TERMINAL.betas), prediction)
    with jax.enable_x64(True):
        _, states = sample_trajectory(sampler, denoiser, jnp.ones((2, 2)), KEY, range(13))
    chex.assert_tree_all_finite(states)
    assert sampler.start == 0
    share = np.sqrt(TERMINAL.alphas_bar[-2])
    np.testing.assert_allclose(sampler.of_x0[0].sum(), share, rtol=0, atol=1e-12)
    if name in ("ddim", "euler"):
        expected = share * MIXTURE.mean + np.sqrt(1 - share**2)
        np.testing.assert_allclose(states[1], [expected, expected], rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", EVERY)
def test_zero_terminal_snr_is_refused_where_it_would_divide_by_zero(name):
    make = functools.partial(made, name, TERMINAL, None, spacing="linspace")
    if name in ("heun", "heun, churn"):
        with pytest.raises(InvalidInput, match=r"divides by √ᾱ_T, which is 0 here: expected another .*, such as ddim"):
            make(prediction="v")
    else:
        chex.assert_tree_all_finite([make(prediction="v").of_x, make(prediction="v").of_x0])
    with pytest.raises(InvalidInput, match="prediction 'eps' cannot say x_0 where ᾱ_T = 0"):
        make()
    for spacing in ("karras", "log_snr"):
        with pytest.raises(InvalidInput, match=f"spacing '{spacing}' where ᾱ_T = 0"):
            made(name, TERMINAL, spacing=spacing, prediction="v")


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (dpm_solver_pp, {"order": 4}, r"order=4: expected 1, 2 or 3"),
        (dpm_solver_pp, {"order": 0}, r"order=0: expected 1, 2 or 3"),
        (unipc, {"order": 4}, r"order=4: expected 1, 2 or 3"),
        (heun, {"churn": -1.0}, r"churn=-1\.0, churn_noise=1\.0: expected 0 or more"),
        (euler, {"churn_noise": -1.0}, r"churn=0\.0, churn_noise=-1\.0: expected 0 or more"),
        (ddim, {"eta": 1.5}, r"eta=1\.5: expected 0 \(deterministic\) to 1"),
        (ddim, {"eta": -0.5}, r"eta=-0\.5: expected 0"),
        (ancestral, {"variance": "fixed-small"}, r"unknown variance 'fixed-small'.*Did you mean 'fixed_small'\?"),
        (ancestral, {"variance": "learned_rnage"}, r"unknown variance 'learned_rnage'.*Did you mean 'learned_range'\?"),
        *(
            (make, {"spacing": "karas", "steps": 5}, r"unknown spacing 'karas'.*Did you mean 'karras'\?")
            for make in (heun, ddim)
        ),
        *((make, {"steps": 0}, r"expected (at least 1|1 to 1000)") for make in (heun, ddim)),
        *((make, {"steps": 1001, "spacing": "leading"}, r"expected 1 to 1000 steps") for make in (euler, unipc)),
        *((make, {"prediction": "noise"}, r"unknown prediction 'noise'") for make in (ddim, unipc)),
        *(
            (make, {"prediction": "mean", "spacing": "karras", "steps": 5}, r"prediction 'mean' is of a step")
            for make in (ddim, heun)
        ),
    ],
)
def test_samplers_that_cannot_be_are_refused(make, options, message):
    with pytest.raises(InvalidInput, match=message):
        make(LINEAR32, **options)
