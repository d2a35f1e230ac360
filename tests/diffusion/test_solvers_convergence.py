"""Deterministic solvers converge to the exact flow, stochastic ones to the distribution of the data, each at its order."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jax_ddpm import Sampler, ancestral, ddim, dpm_solver_pp, euler, heun, sample, sample_trajectory, unipc
from tests.compiling import in_float64
from tests.diffusion.long_chains import CHAINS, LINEAR, LINEAR32, MIXTURE, SCHEDULES
from tests.references.chain import signal_and_noise
from tests.references.known_data import GaussianData, GaussianMixture
from tests.references.samplers import affine_outcome, ddim_states, dpm_solver_pp_states, edm_states

KEY = jax.random.key(11)


# The deterministic ones against the exact flow

GAUSSIAN = GaussianData(np.array([0.3, -0.2]), np.diag([0.5, 0.05]))
ONE_CLASS = GaussianMixture(np.ones(1), GAUSSIAN.mean[None], np.diag(GAUSSIAN.covariance)[None])
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


@pytest.mark.optimised
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

    def paths(x):
        samplers = [make(LINEAR, steps=8, spacing="quad", prediction=prediction, clip=None) for prediction in PREDICTIONS]
        runs = [(sampler, MIXTURE.denoiser(CHAINS["linear"], sampler.prediction)) for sampler in samplers]
        return [sample_trajectory(*run, x, KEY, range(run[0].evaluations + 1))[1] for run in runs]

    first, *others = in_float64(paths, x)
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


@pytest.mark.optimised
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
