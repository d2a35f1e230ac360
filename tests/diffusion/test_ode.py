import functools
import itertools
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, stats

from jax_ddpm import (
    InvalidInput,
    OdeLikelihood,
    linear_schedule,
    ode_bits_per_dim,
    ode_log_likelihood,
    respace,
    schedule_from_betas,
    zero_terminal_snr,
)
from tests.references.chain import PIXELS, Chain
from tests.references.denoisers import small_network
from tests.references.known_data import GaussianData

SCHEDULE, SCHEDULE64 = linear_schedule(100), linear_schedule(100, dtype=np.float64)
CHAIN = Chain(SCHEDULE64.betas)
KEY = jax.random.key(3)
DATA = GaussianData(
    np.array([0.3, -0.2, 0.1]),
    np.array([[0.5, 0.3, 0.0], [0.3, 0.4, -0.1], [0.0, -0.1, 0.3]]),
)
UNCOUPLED = GaussianData(DATA.mean, np.diag([0.5, 0.2, 0.05]))
PREDICTIONS = ("eps", "x0", "v", "score")  # the mean is of a step, not of a level


def levels(chain):
    """[T] ℓ = log(σ/√ᾱ)."""
    return np.log(chain.noise_variance / chain.alphas_bar) / 2


def continuous_denoiser(data, chain, prediction, times=None):
    """The mean, given x_t, of what `prediction` names, for real t: ℓ is on a line between the times of the chain."""
    variances, axes = np.linalg.eigh(data.covariance)
    times = np.arange(chain.steps) if times is None else np.asarray(times)

    def expected(xt, t):
        level = jnp.interp(t, jnp.asarray(times, xt.dtype), jnp.asarray(levels(chain), xt.dtype))[:, None]
        share, noise = jax.nn.sigmoid(-2 * level), jax.nn.sigmoid(2 * level)
        mean, along = jnp.asarray(data.mean, xt.dtype), jnp.asarray(axes, xt.dtype)
        centred = (xt.reshape(len(xt), -1) - jnp.sqrt(share) * mean) @ along
        # E[ε | x_t], in which nothing cancels
        eps = ((jnp.sqrt(noise) / (share * variances.astype(xt.dtype) + noise)) * centred @ along.T).reshape(xt.shape)
        signal, deviation = (a.reshape(a.shape[:1] + (1,) * (xt.ndim - 1)) for a in (jnp.sqrt(share), jnp.sqrt(noise)))
        x0 = (
            mean
            + (jnp.sqrt(share) * variances.astype(xt.dtype) / (share * variances.astype(xt.dtype) + noise) * centred) @ along.T
        )
        x0 = x0.reshape(xt.shape)
        return {"eps": eps, "x0": x0, "v": signal * eps - deviation * x0, "score": -eps / deviation}[prediction]

    return expected


def flow(data, chain, x):
    """x_T and log p(x) of the exact flow, which is affine.

    With s = σ/√ᾱ the flow of N(μ, Σ) is x/√ᾱ = μ + √((Σ + s²)/(Σ + s_0²)) (x_0/√ᾱ_0 - μ)        (Song et al. 2021, eq. 13)
    """
    variances, axes = np.linalg.eigh(data.covariance)
    start, end = np.exp(2 * levels(chain)[[0, -1]])
    stretch = np.sqrt((variances + end) / (variances + start))
    shares = chain.alphas_bar[[0, -1]]
    x_T = np.sqrt(shares[1]) * (data.mean + ((x / np.sqrt(shares[0]) - data.mean) @ axes * stretch) @ axes.T)
    volume = np.log(stretch).sum() + len(variances) * np.log(shares[1] / shares[0]) / 2
    return x_T, stats.norm.logpdf(x_T).sum(axis=1) + volume


def states(number=16, data=DATA, seed=0):
    """x_1 of the data: float64 [number, 3]."""
    share = CHAIN.alphas_bar[0]
    covariance = share * data.covariance + (1 - share) * np.eye(3)
    return np.random.default_rng(seed).multivariate_normal(np.sqrt(share) * data.mean, covariance, number)


@functools.lru_cache
def solved(prediction, tolerance, dtype):
    """The likelihood of `states()` by the exact trace."""
    schedule = SCHEDULE64 if dtype == "float64" else SCHEDULE
    denoiser = continuous_denoiser(DATA, CHAIN, prediction)

    @jax.jit
    def solve(x):
        return ode_log_likelihood(
            schedule, denoiser, x, KEY, prediction=prediction, exact_trace=True, rtol=tolerance, atol=tolerance
        )

    with jax.enable_x64(dtype == "float64"):
        return jax.tree.map(np.asarray, solve(jnp.asarray(states(), dtype)))


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_log_density_of_gaussian_data_is_that_of_the_exact_flow(prediction):
    found = solved(prediction, 1e-8, "float64")
    assert isinstance(found, OdeLikelihood)
    chex.assert_shape([found.log_density, found.x_T, found.evaluations], [(16,), (16, 3), ()])
    chex.assert_type([found.log_density, found.x_T], np.float64)
    x_T, log_density = flow(DATA, CHAIN, states())
    # 1e-8 a step, some hundred of them, none of which the flow stretches by more than √((λ + s_T²)/(λ + s_0²)) √ᾱ_T < 5.
    np.testing.assert_allclose(found.x_T, x_T, rtol=0, atol=1e-6)
    np.testing.assert_allclose(found.log_density, log_density, rtol=0, atol=3e-6)


@pytest.mark.parametrize("prediction", ["eps", "v"])
def test_float32_and_the_default_tolerance_give_four_digits(prediction):
    found = solved(prediction, 1e-5, "float32")
    chex.assert_type([found.log_density, found.x_T], np.float32)
    x_T, log_density = flow(DATA, CHAIN, states())
    # 1e-5 a step and float32 round-off, over some thirty steps that the solver takes at this tolerance.
    np.testing.assert_allclose(found.x_T, x_T, rtol=0, atol=5e-4)
    np.testing.assert_allclose(found.log_density, log_density, rtol=0, atol=2e-3)


def test_log_density_is_that_of_the_data_but_for_what_is_left_of_them_in_the_last_state():
    x = states()
    found = solved("x0", 1e-8, "float64")
    share = CHAIN.alphas_bar[-1]
    # The flow is that of the data; what it starts from is N(0, I) in place of q(x_T) = N(√ᾱ_T μ, ᾱ_T Σ + 1 - ᾱ_T).
    mismatch = stats.norm.logpdf(found.x_T).sum(axis=1) - DATA.log_density(found.x_T, share)
    np.testing.assert_allclose(found.log_density, DATA.log_density(x, CHAIN.alphas_bar[0]) + mismatch, rtol=0, atol=3e-6)
    # |√ᾱ_T μ·x_T| is at most 6e-3 · .4 · |x_T|, and ᾱ_T 4e-5.
    assert np.all(np.abs(mismatch) < 2.5e-3 * np.linalg.norm(found.x_T, axis=1) + 1e-3)


def test_log_density_integrates_to_one():
    """Along one axis of one-dimensional data, by the trapezoid rule, whose error for a Gaussian is beyond all digits."""
    data = GaussianData(np.array([0.3]), np.array([[0.2]]))
    x = np.linspace(-4, 4, 161)[:, None]
    with jax.enable_x64(True):
        found = jax.jit(lambda x: ode_log_likelihood(SCHEDULE64, continuous_denoiser(data, CHAIN, "eps"), x, KEY))(x)
    mass = integrate.trapezoid(np.exp(found.log_density), x[:, 0])
    np.testing.assert_allclose(mass, 1, rtol=0, atol=1e-3)  # the solver's tolerance of 1e-5 a step


def test_smaller_tolerance_comes_nearer_and_takes_more_evaluations():
    x_T, log_density = flow(DATA, CHAIN, states())
    denoiser = continuous_denoiser(DATA, CHAIN, "eps")

    @jax.jit
    def solve(x, tolerance):
        return ode_log_likelihood(SCHEDULE64, denoiser, x, KEY, exact_trace=True, rtol=tolerance, atol=tolerance)

    with jax.enable_x64(True):
        found = [jax.tree.map(np.asarray, solve(states(), tolerance)) for tolerance in (1e-3, 1e-5, 1e-7, 1e-9)]
    errors = [np.abs(f.log_density - log_density).max() for f in found]
    latent_errors = [np.abs(f.x_T - x_T).max() for f in found]
    for kind in (errors, latent_errors):
        assert all(after < before / 5 for before, after in itertools.pairwise(kind))
        assert kind[-1] < 1e-7
    evaluations = [int(f.evaluations) for f in found]
    assert evaluations == sorted(set(evaluations))
    assert evaluations[0] > 6


@functools.partial(jax.jit, static_argnames="coupled")
def hutchinson(x, key, coupled=True):
    denoiser = continuous_denoiser(DATA if coupled else UNCOUPLED, CHAIN, "v")
    return ode_log_likelihood(SCHEDULE, denoiser, x, key, prediction="v").log_density


def test_estimated_trace_is_right_in_the_mean():
    x = np.repeat(states(1), 4000, axis=0)
    estimates = np.asarray(hutchinson(x.astype(np.float32), KEY), np.float64)  # 4000 probes of one x
    exact = flow(DATA, CHAIN, x[:1])[1].item()
    error = estimates.std() / math.sqrt(4000)
    assert estimates.std() > 0.1  # it is an estimate
    assert abs(estimates.mean() - exact) < 4 * error + 1e-3  # and the solver's tolerance
    # A symmetric 3 × 3 Jacobian has three off-diagonal pairs, each with a sign, and the product of the signs is one: four sums.
    assert len(np.unique(np.round(estimates, 2))) <= 4


def test_estimated_trace_of_uncoupled_data_is_exact_whatever_the_probe():
    x = states(data=UNCOUPLED)
    expected = flow(UNCOUPLED, CHAIN, x)[1]
    for key in (KEY, jax.random.key(4)):
        np.testing.assert_allclose(hutchinson(x.astype(np.float32), key, coupled=False), expected, rtol=0, atol=3e-3)


def test_estimate_follows_from_the_key():
    x = states().astype(np.float32)
    first, again, other = (hutchinson(x, key) for key in (KEY, KEY, jax.random.key(4)))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 0.1


def test_nonlinear_network_agrees_with_another_solver():
    """SciPy's, with the divergence by central differences: dx/dℓ = σ (ε_θ - σ x) and v = √ᾱ ε - σ x_0."""
    network, numpy_network = small_network(jnp, 3), small_network(np, 3)
    ell, x = levels(CHAIN), np.random.default_rng(1).normal(size=(2, 3))

    def velocity(level, x):
        share, noise = 1 / (1 + np.exp(2 * level)), 1 / (1 + np.exp(-2 * level))
        v = numpy_network(x, np.full(len(x), np.interp(level, ell, np.arange(100))))
        eps = np.sqrt(share) * v + np.sqrt(noise) * x
        return np.sqrt(noise) * (eps - np.sqrt(noise) * x)

    def field(level, state):
        x, nudges = state[:3][None], 1e-5 * np.eye(3)
        divergence = np.trace(velocity(level, x + nudges) - velocity(level, x - nudges)) / 2e-5
        return np.append(velocity(level, x)[0], divergence)

    ends = [integrate.solve_ivp(field, ell[[0, -1]], np.append(row, 0.0), rtol=1e-10, atol=1e-10).y[:, -1] for row in x]
    with jax.enable_x64(True):
        found = jax.jit(
            lambda x: ode_log_likelihood(SCHEDULE64, network, x, KEY, prediction="v", exact_trace=True, rtol=1e-8, atol=1e-8)
        )(x)
    np.testing.assert_allclose(found.x_T, [end[:3] for end in ends], rtol=0, atol=1e-5)
    expected = [stats.norm.logpdf(end[:3]).sum() + end[3] for end in ends]
    np.testing.assert_allclose(found.log_density, expected, rtol=0, atol=1e-5)  # t has kinks where ℓ crosses a step


def test_times_told_are_real_and_those_of_the_whole_chain():
    times = [0, 7, 30, 60, 99]
    short, chain = respace(SCHEDULE64, times), CHAIN.respaced(times)
    seen = []
    best = continuous_denoiser(DATA, chain, "x0", times)

    def denoiser(xt, t):
        chex.assert_shape(t, (16,))
        jax.debug.callback(lambda t: seen.append(np.asarray(t)), t)
        return jnp.concatenate([best(xt, t), 0 * xt], axis=-1)  # the half that says a variance is not used

    with jax.enable_x64(True):
        solve = jax.jit(
            lambda x: ode_log_likelihood(short, denoiser, x, KEY, prediction="x0", exact_trace=True, rtol=1e-8, atol=1e-8)
        )
        found = jax.block_until_ready(solve(states()))
        jax.effects_barrier()
    np.testing.assert_allclose(found.log_density, flow(DATA, CHAIN, states())[1], rtol=0, atol=3e-6)  # the ends are the same
    told = np.stack(seen)
    assert np.issubdtype(told.dtype, np.floating)
    assert np.all(told == told[:, :1])  # one time for the batch
    assert told.min() == 0
    np.testing.assert_allclose(told.max(), 99, rtol=1e-12)
    assert np.any(told % 1 != 0)


def test_evaluations_are_the_calls_of_the_network():
    calls = []
    best = continuous_denoiser(DATA, CHAIN, "eps")

    def denoiser(xt, t):
        jax.debug.callback(lambda: calls.append(1))
        return best(xt, t)

    solve = jax.jit(lambda x: ode_log_likelihood(SCHEDULE, denoiser, x, KEY, rtol=1e-3, atol=1e-3))
    found = jax.block_until_ready(solve(states().astype(np.float32)))
    jax.effects_barrier()
    assert len(calls) == int(found.evaluations)


IMAGE = (4, 4, 2)
NOISY_BETAS = np.linspace(0.1, 0.3, 40)  # whose first state is far from the data: √ᾱ_0 = .95, so that it shows


def image_data():
    """32 uncoupled components with deviations of .2 to .35, and 128 draws on the 256 levels, [128, 4, 4, 2]."""
    rng = np.random.default_rng(6)
    deviations, means = rng.uniform(0.2, 0.35, 32), rng.uniform(-0.2, 0.2, 32)
    draw = np.clip(np.rint((rng.normal(means, deviations, (128, 32)) + 1) * 255 / 2), 0, 255).astype(int)
    return GaussianData(means, np.diag(deviations**2)), PIXELS[draw].astype(np.float32).reshape(128, *IMAGE)


def test_bits_of_8_bit_gaussian_data_are_the_exact_ones_of_a_dequantised_draw():
    data, x0 = image_data()
    schedule, chain = schedule_from_betas(NOISY_BETAS), Chain(NOISY_BETAS)
    denoiser = continuous_denoiser(data, chain, "eps")
    keys = jax.random.split(KEY)
    bits, again = (
        np.asarray(a, np.float64) for a in map(jax.jit(lambda key: ode_bits_per_dim(schedule, denoiser, x0, key)), keys)
    )
    chex.assert_shape(bits, (128,))
    # What x_T ~ N(0, I) becomes at the end is N(m, w) in each component of x_1/√ᾱ_0, by the flow above backwards.
    variances = np.diag(data.covariance)
    start, end = np.exp(2 * levels(chain)[[0, -1]])
    stretch = np.sqrt((variances + end) / (variances + start))
    m, w = data.mean * (1 - 1 / stretch), 1 / (chain.alphas_bar[-1] * stretch**2)
    flat = x0.reshape(128, 32).astype(np.float64)
    half = 1 / 255
    # u is uniform in ±1/255: E (x_0 + u - m)² = (x_0 - m)² + (1/255)²/3, and what one draw errs by is |x_0 - m|/(255 √3 w).
    nats = (np.log(2 * np.pi * w) + ((flat - m) ** 2 + half**2 / 3) / w).sum(axis=1) / 2
    expected = nats / (32 * math.log(2)) - math.log2(2 / 255)
    spread = np.sqrt(((flat - m) ** 2 / w**2).sum(axis=1) * half**2 / 3) / (32 * math.log(2))
    for draw in (bits, again):
        assert np.all(np.abs(draw - expected) < 5 * spread + 1e-4)  # and the solver's tolerance
        assert abs((draw - expected).mean()) < 5 * np.sqrt((spread**2).sum()) / 128 + 1e-4
    assert np.all(np.abs(bits - again) > 0)  # another draw for another key
    # In the mean over u that is no less than the bits of the bin itself, and hardly more: ((2/255)²/24) / w.
    mass = stats.norm.cdf(flat + half, m, np.sqrt(w)) - stats.norm.cdf(flat - half, m, np.sqrt(w))
    of_bins = -np.log2(mass).sum(axis=1) / 32
    assert np.all(expected >= of_bins)
    np.testing.assert_allclose(expected, of_bins, rtol=0, atol=1e-3)


def test_exact_trace_of_an_image_is_that_of_its_components():
    data, x0 = image_data()
    x = (math.sqrt(CHAIN.alphas_bar[0]) * x0[:3]).astype(np.float32)
    denoiser = continuous_denoiser(data, CHAIN, "eps")
    found = jax.jit(lambda x: ode_log_likelihood(SCHEDULE, denoiser, x, KEY, exact_trace=True))(x)
    x_T, expected = flow(data, CHAIN, x.reshape(3, 32).astype(np.float64))
    chex.assert_shape([found.log_density, found.x_T], [(3,), (3, *IMAGE)])
    np.testing.assert_allclose(found.x_T.reshape(3, 32), x_T, rtol=0, atol=2e-3)
    np.testing.assert_allclose(found.log_density, expected, rtol=0, atol=2e-2)  # 32 of what one component errs by


def test_bits_come_nearer_with_a_smaller_tolerance():
    data, x0 = image_data()
    denoiser = continuous_denoiser(data, CHAIN, "eps")
    bits = jax.jit(lambda tolerance: ode_bits_per_dim(SCHEDULE, denoiser, x0[:8], KEY, rtol=tolerance, atol=tolerance))
    coarse, middle, fine = map(bits, (1e-2, 1e-3, 1e-6))
    assert 0 < np.abs(middle - fine).max() < np.abs(coarse - fine).max() < 0.1  # the tolerances reach the solver


@pytest.mark.parametrize("call", [ode_log_likelihood, ode_bits_per_dim])
@pytest.mark.parametrize(("prediction", "message"), [("mean", "mean"), ("epsilon", r"unknown prediction 'epsilon'.*'eps'")])
def test_predictions_that_have_no_flow_are_refused(call, prediction, message):
    with pytest.raises(InvalidInput, match=message):
        call(SCHEDULE, lambda xt, t: xt, jnp.zeros((2, 3)), KEY, prediction=prediction)


@pytest.mark.parametrize("transform", [lambda f: f, jax.jit], ids=["eager", "jit"])
def test_schedule_without_signal_at_the_end_is_refused(transform):
    with pytest.raises(InvalidInput, match="zero terminal SNR"):
        transform(lambda x: ode_log_likelihood(zero_terminal_snr(SCHEDULE), lambda xt, t: xt, x, KEY, prediction="v"))(
            jnp.zeros((2, 3))
        )


def test_output_with_another_number_of_channels_is_refused():
    with pytest.raises(InvalidInput, match="channels"):
        ode_log_likelihood(SCHEDULE, lambda xt, t: xt[:, :2], jnp.zeros((2, 3)), KEY)


def test_chain_of_one_step_has_no_way_to_go():
    x = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    found = ode_log_likelihood(linear_schedule(1), lambda xt, t: 0 * xt, x, KEY)
    np.testing.assert_allclose(found.x_T, x, rtol=1e-6)
    np.testing.assert_allclose(found.log_density, stats.norm.logpdf(x).sum(axis=1), rtol=1e-5)
