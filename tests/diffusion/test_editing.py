"""Gaussian data have an exact denoiser, probability flow and conditional distribution, to which every edit is held."""

import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from jax_ddpm import (
    InvalidInput,
    ancestral,
    classifier_guided,
    ddim,
    ddim_decode,
    ddim_encode,
    ddim_inverse,
    dpm_solver_pp,
    euler,
    guided_mean,
    heun,
    inpaint,
    interpolate,
    linear_schedule,
    noised_to_start,
    partial_chain,
    sample,
    sample_trajectory,
    schedule_from_betas,
    sdedit,
    translate,
    unipc,
)
from tests.references.chain import PREDICTIONS, Chain, signal_and_noise
from tests.references.denoisers import small_network
from tests.references.known_data import GaussianData, GaussianMixture

KEY = jax.random.key(3)
BETAS = np.linspace(0.002, 0.3, 12)
CHAIN = Chain(BETAS)
SCHEDULE, SCHEDULE64 = schedule_from_betas(BETAS), schedule_from_betas(BETAS, np.float64)
LONG64 = linear_schedule(1000, dtype=np.float64)
LONG_CHAIN = Chain(np.asarray(LONG64.betas))
TOP = LONG_CHAIN.levels[-1]  # the noisiest level of log σ
DATA = GaussianData(np.array([0.3, -0.5]), np.array([[0.5, 0.3], [0.3, 0.4]]))
OTHER = GaussianData(np.array([-0.4, 0.2]), np.array([[0.2, -0.1], [-0.1, 0.6]]))
STEPS = (10, 30, 90)
X = np.random.default_rng(0).normal(size=(20, 2))


QUICKLY = {"xla_backend_optimization_level": 0}  # compiling takes longer than running here


def in_float64(function, *arrays):
    with jax.enable_x64(True):
        return jax.tree.map(np.asarray, jax.jit(function, compiler_options=QUICKLY)(*arrays))


def slope(errors, steps=STEPS):
    """The power of the number of steps with which the errors fall."""
    return -np.polyfit(np.log(steps), np.log(errors), 1)[0]


def errors_by_steps(edit, expected):
    """The greatest error of `edit(x, steps)` for each number of steps."""
    return [np.abs(in_float64(lambda x, count=count: edit(x, count), X) - expected).max() for count in STEPS]


# --- Encoding and decoding ---


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_each_step_up_is_the_one_down_solved_for_its_start_told_the_same_time(prediction):
    """x_t' → x_t by ε of (x_t', t): the network is told where the step goes, and shown where it comes from."""

    def run(x):
        return sample_trajectory(ddim_inverse(SCHEDULE64, spacing=[3, 7], prediction=prediction), network(jnp), x, KEY, [1, 2])[
            1
        ]

    def network(xp):
        return lambda x, t: small_network(xp, 2)(x, t)

    state, states, below = X, [], (1.0, 0.0)
    for t in (3, 7):
        when = np.full(len(X), t)
        eps = CHAIN.converted(network(np)(state, when), state, when, prediction, "eps")
        signal, noise = np.sqrt(CHAIN.alphas_bar[t]), np.sqrt(CHAIN.noise_variance[t])
        state = signal * (state - below[1] * eps) / below[0] + noise * eps
        states, below = [*states, state], (signal, noise)
    np.testing.assert_allclose(in_float64(run, X), states, rtol=1e-10, atol=1e-10)  # the tables hold 12 digits


def says_eps(eps, prediction):
    """A denoiser whose noise is `eps`, whatever x_t and t, whole or real."""

    def denoiser(x, t):
        signal, noise = (each[:, None] for each in signal_and_noise(jnp.asarray(CHAIN.levels_at(t), x.dtype), jnp))
        x0 = (x - noise * eps) / signal
        if prediction == "mean":
            of_xt, of_x0 = (jnp.asarray(part, x.dtype)[t][:, None] for part in CHAIN.line(np.arange(12), "mean"))
            return of_xt * x + of_x0 * x0
        return {"eps": eps + 0 * x, "x0": x0, "v": signal * eps - noise * x0, "score": -eps / noise + 0 * x}[prediction]

    return denoiser


@settings(max_examples=10)
@given(
    prediction=st.sampled_from(PREDICTIONS),
    spacing=st.sampled_from(["leading", "trailing", "linspace", "quad", "karras", "log_snr"]),
    steps=st.integers(1, 12),
)
def test_constant_noise_is_encoded_and_decoded_without_error(prediction, spacing, steps):
    """ε being the same up and down, each step undoes the other, however long it is."""
    assume(prediction != "mean" or spacing not in ("karras", "log_snr"))
    options = {"steps": steps, "spacing": spacing, "prediction": prediction}

    def there_and_back(x):
        denoiser = says_eps(jnp.asarray([0.7, -1.3]), prediction)
        encoded = ddim_encode(SCHEDULE64, denoiser, x, **options)
        return encoded, ddim_decode(SCHEDULE64, denoiser, encoded, **options)

    encoded, decoded = in_float64(there_and_back, X)
    times = ddim_inverse(SCHEDULE64, steps=steps, spacing=spacing).timesteps
    signal, noise = signal_and_noise(CHAIN.levels_at(times[-1:], np))
    np.testing.assert_allclose(encoded, signal * X + noise * [0.7, -1.3], rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(decoded, X, rtol=1e-9, atol=1e-9)  # twelve digits, of which the way through 1/√ᾱ loses two


@pytest.mark.parametrize("spacing", ["linspace", "trailing"])
def test_encoding_converges_to_the_probability_flow_at_first_order(spacing):
    denoiser = DATA.denoiser(LONG_CHAIN, "eps")
    errors = errors_by_steps(
        lambda x, steps: ddim_encode(LONG64, denoiser, x, steps=steps, spacing=spacing), DATA.flow(X, -np.inf, TOP)
    )
    assert 0.85 < slope(errors) < 1.15
    assert errors[-1] < 0.12  # of the outermost of forty numbers, at 90 steps


def there_and_back(up, down, spacing="linspace"):
    def edit(x, steps):
        encoded = ddim_encode(LONG64, up(steps), x, steps=steps, spacing=spacing)
        return ddim_decode(LONG64, down, encoded, steps=steps, spacing=spacing)

    return edit


@pytest.mark.parametrize("spacing", ["leading", "karras"])
def test_decoding_returns_what_was_encoded_at_first_order(spacing):
    single = GaussianMixture(np.ones(1), np.array([[0.3, -0.5]]), np.array([[0.5, 0.2]]))
    denoiser = single.denoiser(LONG_CHAIN, "eps")
    errors = errors_by_steps(there_and_back(lambda steps: denoiser, denoiser, spacing), X)
    assert slope(errors) > 0.85
    assert errors[-1] < 0.2


def test_decoding_returns_a_mixture_at_first_order():
    mixture = GaussianMixture(np.array([0.6, 0.4]), np.array([[-0.5, 0.2], [0.5, 0.1]]), np.full((2, 2), 0.15))
    denoiser = mixture.denoiser(LONG_CHAIN, "eps")
    errors = errors_by_steps(there_and_back(lambda steps: denoiser, denoiser), X)
    assert slope(errors) > 0.85
    assert errors[-1] < 0.1


def told_the_neighbour(network, shift):
    """The network, told the time that its chain visits one step before or after the one that it is in."""

    def by_steps(steps):
        times = ddim_inverse(LONG64, steps=steps, spacing="linspace").timesteps
        neighbours = np.zeros(1000, int)
        neighbours[times] = times[np.clip(np.arange(steps) + shift, 0, steps - 1)]
        return lambda x, t: network(x, jnp.asarray(neighbours)[t])

    return by_steps


@pytest.mark.parametrize("shift", [-1, 1])
def test_noise_that_changes_with_time_alone_comes_back_exactly_but_not_if_told_the_next_time(shift):
    """Told the same time up and down, the network says the same, and each step undoes the other: to round-off, at any step."""

    def network(x, t):
        return jnp.stack([jnp.sin(t / 150), jnp.cos(t / 90)], axis=1) + 0 * x

    right = errors_by_steps(there_and_back(lambda steps: network, network), X)
    off_by_one = errors_by_steps(there_and_back(told_the_neighbour(network, shift), network), X)
    assert max(right) < 1e-9  # of float64's 16 digits 1/√ᾱ_T takes two
    assert min(off_by_one) > 0.01


@pytest.mark.parametrize("shift", [-1, 1])
def test_data_of_unit_variance_come_back_at_second_order_but_at_first_if_told_the_next_time(shift):
    """ε = √(1-ᾱ) x: a step up and the one down undo each other to third order, unless they are told different times."""
    network = GaussianData(np.zeros(2), np.eye(2)).denoiser(LONG_CHAIN, "eps")
    right = errors_by_steps(there_and_back(lambda steps: network, network), X)
    off_by_one = errors_by_steps(there_and_back(told_the_neighbour(network, shift), network), X)
    assert slope(right) > 1.7
    assert slope(off_by_one) < 1.2
    assert off_by_one[-1] > 20 * right[-1]


# --- Translation ---


def test_translation_between_gaussians_becomes_the_map_between_them():
    def edit(x, steps):
        denoisers = (data.denoiser(LONG_CHAIN, "v") for data in (DATA, OTHER))
        return translate(LONG64, *denoisers, x, steps=steps, spacing="linspace", prediction="v")

    expected = OTHER.flow(DATA.flow(X, -np.inf, TOP), TOP, -np.inf)
    errors = errors_by_steps(edit, expected)
    assert 0.85 < slope(errors) < 1.2
    # Were there nothing left of x_0 in x_T: whitened by the one and coloured by the other, along the axes of their own.
    (spreads, axes), (spreads_there, axes_there) = (np.linalg.eigh(each.covariance) for each in (DATA, OTHER))
    white = (X - DATA.mean) @ (axes / np.sqrt(spreads)) @ axes.T
    np.testing.assert_allclose(expected, OTHER.mean + white @ (axes_there * np.sqrt(spreads_there)) @ axes_there.T, atol=0.02)


def test_translation_of_one_axis_is_optimal_transport():
    """(x - m₁) s₂/s₁ + m₂, nearly: √ᾱ_T = .006 of the way between the means remains, and 400 steps err by some hundredths."""
    first, second = (GaussianMixture(np.ones(1), np.array([[m]]), np.array([[s**2]])) for m, s in ((0.5, 0.4), (-0.3, 0.9)))
    x = np.linspace(-1, 2, 13)[:, None]

    def there(x):
        denoisers = (data.denoiser(LONG_CHAIN, "eps") for data in (first, second))
        return translate(LONG64, *denoisers, x, steps=400, spacing="linspace")

    np.testing.assert_allclose(in_float64(there, x), (x - 0.5) * 0.9 / 0.4 - 0.3, rtol=0, atol=0.06)


def test_translation_there_and_back_returns_the_input():
    def edit(x, steps):
        source, target = (data.denoiser(LONG_CHAIN, "eps") for data in (DATA, OTHER))
        there = translate(LONG64, source, target, x, steps=steps, spacing="linspace")
        return translate(LONG64, target, source, there, steps=steps, spacing="linspace")

    errors = errors_by_steps(edit, X)
    assert slope(errors) > 0.85
    assert errors[-1] < 0.25


def test_translation_clips_on_the_way_down_alone():
    def far(x, t):
        return 3 + 0 * x

    x = jnp.asarray(X, jnp.float32)
    options = {"steps": 4, "prediction": "x0"}
    encoded = ddim_encode(SCHEDULE, far, x, **options)
    clipped = translate(SCHEDULE, far, far, x, clip=lambda x0: jnp.clip(x0, -1, 1), **options)
    np.testing.assert_array_equal(clipped, np.ones((20, 2), np.float32))
    assert np.abs(encoded).max() > 1


# --- Interpolation ---


@given(
    angle=st.floats(-np.pi, np.pi),
    turn=st.floats(-3.0, 3.0).filter(lambda turn: abs(turn) > 0.01),
    weight=st.floats(0, 1),
    size=st.floats(0.1, 10),
)
def test_on_the_arc_latents_of_the_plane_turn_like_complex_numbers(angle, turn, weight, size):
    a, b = (size * np.array([[np.cos(each), np.sin(each)]]) for each in (angle, angle + turn))
    with jax.enable_x64(True):
        between = np.asarray(ARC(a, b, np.array([weight])))
    expected = size * np.exp(1j * (angle + weight * turn))
    # An angle comes from its cosine, which loses half of the 16 digits where the sine is small; here it is .01 or more.
    np.testing.assert_allclose(between[0, 0], [expected.real, expected.imag], rtol=0, atol=1e-9 * size)


ARC = jax.jit(interpolate)
WEIGHTS = np.linspace(0, 1, 5).astype(np.float32)


def latents(seed, shape=(6, 4, 4, 3)):
    return jax.random.normal(jax.random.key(seed), shape)


@pytest.mark.parametrize("spherical", [True, False])
def test_interpolation_goes_from_the_one_to_the_other(spherical):
    a, b = latents(0), latents(1)
    between = interpolate(a, b, WEIGHTS, spherical=spherical)
    chex.assert_shape(between, (5, *a.shape))
    chex.assert_type(between, jnp.float32)
    np.testing.assert_allclose(between[0], a, rtol=0, atol=1e-6)  # sin θ/sin θ, and sin 0
    np.testing.assert_allclose(between[-1], b, rtol=0, atol=1e-6)
    backwards = interpolate(b, a, WEIGHTS[::-1], spherical=spherical)
    np.testing.assert_allclose(between, backwards, rtol=0, atol=1e-6)


def test_straight_line_is_the_weighted_mean():
    a, b = (np.asarray(latents(seed), np.float64) for seed in (0, 1))
    expected = a + WEIGHTS.reshape(-1, 1, 1, 1, 1) * (b - a)
    np.testing.assert_allclose(interpolate(latents(0), latents(1), WEIGHTS, spherical=False), expected, rtol=0, atol=1e-6)


@given(seed=st.integers(0, 1000), weight=st.floats(0, 1, width=32))
def test_arc_keeps_the_length_of_latents_that_are_equally_long_and_divides_the_angle(seed, weight):
    a, b = (latents(seed + plus, (2, 48)) for plus in (0, 5000))
    a, b = (10 * each / jnp.linalg.norm(each, axis=1, keepdims=True) for each in (a, b))
    between = np.asarray(ARC(a, b, np.array([weight], np.float32)))[0].astype(np.float64)
    # float32: the angle of two draws lies near 90°, so nothing is lost but a few roundings of 2^-24
    np.testing.assert_allclose(np.linalg.norm(between, axis=1), 10, rtol=2e-6)
    whole, part = (np.arccos(np.clip(np.sum(a * each, axis=1) / 100, -1, 1)) for each in (np.asarray(b, np.float64), between))
    assume(weight > 0.05)  # close to a the angle has no digits left
    np.testing.assert_allclose(part, weight * whole, rtol=0, atol=1e-5)


def test_midpoint_of_the_arc_bisects_and_each_example_has_its_own_angle():
    a, b = np.array([[2.0, 0.0], [2.0, 0.0]], np.float32), np.array([[0.0, 2.0], [-1.0, 3**0.5]], np.float32)
    middle = interpolate(a, b, np.array([0.5], np.float32))[0]
    np.testing.assert_allclose(middle, [[2**0.5, 2**0.5], [1.0, 3**0.5]], rtol=0, atol=1e-6)


@pytest.mark.parametrize("factor", [1.0, 2.5, -1.0, -0.5])
def test_latents_along_one_line_are_joined_by_the_line(factor):
    a = latents(0)
    expected = a + WEIGHTS.reshape(-1, 1, 1, 1, 1) * (factor - 1) * a
    np.testing.assert_allclose(interpolate(a, factor * a, WEIGHTS), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("factor", [None, 1.0, -2.0])
def test_gradients_of_the_arc_are_finite_where_there_is_none_too(factor):
    a, b = latents(0), latents(1) if factor is None else factor * latents(0)
    gradient = jax.jit(jax.grad(lambda a, b: jnp.sum(interpolate(a, b, WEIGHTS) ** 2), (0, 1)))
    chex.assert_tree_all_finite(gradient(a, b))


def test_interpolation_maps():
    a, b = latents(0, (3, 2, 8)), latents(1, (3, 2, 8))
    mapped = jax.jit(jax.vmap(interpolate, (0, 0, None)))(a, b, WEIGHTS)
    one_by_one = [ARC(*pair, WEIGHTS) for pair in zip(a, b, strict=True)]
    np.testing.assert_allclose(mapped, one_by_one, rtol=0, atol=1e-6)


# --- Partial noising ---


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


MANY = 20_000


def assert_moments(samples, mean, covariance):
    """Within five Monte-Carlo errors of n draws: √(Σ_ii/n), and √((Σ_ii Σ_jj + Σ_ij²)/n)."""
    samples, variances = np.asarray(samples, np.float64), np.diag(covariance)
    assert np.all(np.abs(samples.mean(axis=0) - mean) < 5 * np.sqrt(variances / len(samples)))
    errors = np.sqrt((np.outer(variances, variances) + covariance**2) / len(samples))
    assert np.all(np.abs(np.cov(samples.T) - covariance) < 5 * errors)


def ancestral_step(data, chain, t):
    """[D, D], [D] and a number: x_{t-1} = A x_t + b + σ z by the best denoiser with the large variance."""
    when, gain = np.array([t]), data.gains(chain.alphas_bar)[t]
    of_x0, of_xt = (chain.posterior(*map(np.array, pair), when)[0].item() for pair in ([[1.0], [0.0]], [[0.0], [1.0]]))
    offset = of_x0 * (data.mean - np.sqrt(chain.alphas_bar[t]) * gain @ data.mean)
    variance = chain.reverse_variance(when, np.zeros(1), "fixed_large").item() if t else 0.0
    return of_x0 * gain + of_xt * np.eye(len(data.mean)), offset, np.sqrt(variance)


@pytest.mark.parametrize("strength", [0.25, 0.6, 1.0])
def test_sdedit_of_gaussian_data_has_the_distribution_of_the_affine_chain(strength):
    sampler = ancestral(partial_chain(SCHEDULE, strength), clip=None)
    sketch = np.array([1.5, 0.5])
    run = jax.jit(lambda x0, key: sdedit(sampler, DATA.denoiser(CHAIN, "eps"), x0, key))
    share = CHAIN.alphas_bar[sampler.evaluations - 1]
    mean, covariance = np.sqrt(share) * sketch, (1 - share) * np.eye(2)
    for t in reversed(range(sampler.evaluations)):
        slopes, offset, deviation = ancestral_step(DATA, CHAIN, t)
        mean, covariance = slopes @ mean + offset, slopes @ covariance @ slopes.T + deviation**2 * np.eye(2)
    assert_moments(run(np.tile(sketch, (MANY, 1)).astype(np.float32), KEY), mean, covariance)


def test_sdedit_of_full_strength_keeps_nothing_and_of_little_keeps_all_but_the_noise():
    schedule, denoiser = linear_schedule(1000), DATA.denoiser(LONG_CHAIN, "eps")
    x0 = jnp.asarray(X, jnp.float32)
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


# --- Inpainting ---


def path(total, jump, resamples):
    """The numbers of steps left to go, one at a time, down and up        (Lugmayr et al. 2022, appendix B)

    Wherever 0, jump, 2 jump … steps are left, but not within the uppermost jump, it goes up again, resamples - 1 times. (There
    it is 1, 1 + jump … steps: it never goes up from the end.)
    """
    left, walked, times_up = total, [total], {}
    while left:
        left -= 1
        walked.append(left)
        if left % jump == 0 and left < total - jump and times_up.get(left, 0) < resamples - 1:
            times_up[left] = times_up.get(left, 0) + 1
            walked.extend(range(left + 1, left + jump + 1))
            left += jump
    return walked


@given(total=st.integers(1, 12), jump=st.integers(1, 13), resamples=st.integers(1, 5))
def test_visits_follow_the_rule_of_repaint(total, jump, resamples):
    plain = ancestral(SCHEDULE, spacing=np.arange(total))
    sampler = inpaint(plain, jnp.zeros((1, 2)), jnp.ones(2), jump=jump, resamples=resamples)
    downs = [left - 1 for left, following in itertools.pairwise(path(total, jump, resamples)) if following < left]
    np.testing.assert_array_equal(sampler.rows, downs)
    stretches = len(range(0, total - jump, jump))
    assert sampler.evaluations == total + (resamples - 1) * jump * stretches


def test_resampling_once_is_going_through_once():
    plain = ddim(SCHEDULE, steps=5)
    sampler = inpaint(plain, jnp.zeros((1, 2)), jnp.zeros(2), jump=2, resamples=1)
    x = jnp.asarray(X, jnp.float32)
    ends = [sample(each, small_network(jnp, 2), x, KEY) for each in (sampler, plain)]
    np.testing.assert_allclose(*ends, rtol=0, atol=1e-5)  # nothing is known: the same float32 chain


@pytest.mark.parametrize("make", [ancestral, ddim, euler])
def test_what_is_known_lies_at_the_level_from_which_the_next_visit_starts(make):
    """Its mean is √ᾱ x_0 and its variance 1-ᾱ after every visit, before and after jumps, and at the end it is x_0 itself."""
    x0 = np.tile(np.array([0.8, -0.5], np.float32), (MANY, 1))
    sampler = inpaint(make(SCHEDULE, steps=6, spacing="linspace"), x0, jnp.ones(2), jump=2, resamples=3)
    visits = sampler.evaluations
    assert visits == 6 + 2 * 2 * 2
    run = jax.jit(lambda key: sample_trajectory(sampler, lambda x, t: 0 * x, jnp.zeros((MANY, 2)), key, range(1, visits + 1)))
    end, states = run(KEY)
    np.testing.assert_array_equal(end, x0)
    for state, row in zip(states[:-1], sampler.rows[1:], strict=True):
        level = sampler.schedule.alphas_bar[row].astype(np.float64)
        assert_moments(state, np.sqrt(level) * x0[0], (1 - level) * np.eye(2))


CORRELATED = GaussianData(np.array([0.3, -0.2]), np.array([[0.5, 0.45], [0.45, 0.6]]))
KNOWN = 1.2
COARSE = linear_schedule(40)
COARSE_CHAIN = Chain(COARSE.betas.astype(np.float64))
CONDITIONAL = -0.2 + 0.45 / 0.5 * (KNOWN - 0.3), 0.6 - 0.45**2 / 0.5  # its mean and variance, of the second given the first


def drawn_coordinate(jump, resamples):
    """The mean and variance of the coordinate that is drawn, the other being known: visit for visit, in closed form.

    Each step is affine, and the known coordinate is put there afresh, so that what it is has nothing to do with the other.
    """
    share, mean, variance = COARSE_CHAIN.alphas_bar, 0.0, 1.0
    known_mean, known_variance = 0.0, 1.0  # of x_T, which is all noise
    for left, following in itertools.pairwise(path(40, jump, resamples)):
        level = share[following - 1] if following else 1.0
        if following < left:
            slopes, offset, deviation = ancestral_step(CORRELATED, COARSE_CHAIN, left - 1)
            mean = slopes[1, 0] * known_mean + slopes[1, 1] * mean + offset[1]
            variance = slopes[1, 0] ** 2 * known_variance + slopes[1, 1] ** 2 * variance + deviation**2
        else:
            beta = COARSE_CHAIN.betas[left]
            mean, variance = np.sqrt(1 - beta) * mean, (1 - beta) * variance + beta
        known_mean, known_variance = np.sqrt(level) * KNOWN, 1 - level
    return mean, variance


def drawn_by_inpainting(jump, resamples):
    x0 = np.tile(np.array([KNOWN, np.nan], np.float32), (MANY, 1))
    x0[:, 1] = 77  # of what is not known nothing may count
    sampler = inpaint(ancestral(COARSE, clip=None), x0, jnp.array([1.0, 0.0]), jump=jump, resamples=resamples)
    start, key = jax.random.split(KEY)
    denoiser = CORRELATED.denoiser(COARSE_CHAIN, "eps")
    samples = jax.jit(lambda: sample(sampler, denoiser, jax.random.normal(start, (MANY, 2)), key))()
    np.testing.assert_array_equal(samples[:, 0], x0[:, 0])
    return np.asarray(samples[:, 1], np.float64)


@pytest.mark.parametrize(("jump", "resamples"), [(10, 1), (10, 2), (2, 20)])
def test_inpainting_of_gaussian_data_has_the_moments_of_the_affine_chain(jump, resamples):
    drawn = drawn_by_inpainting(jump, resamples)
    mean, variance = drawn_coordinate(jump, resamples)
    assert abs(drawn.mean() - mean) < 5 * np.sqrt(variance / MANY)
    assert abs(drawn.var() / variance - 1) < 5 * np.sqrt(2 / MANY)


def test_resampling_is_what_makes_the_drawn_fit_the_known():
    """RePaint's point: once through, the drawn is off by .8 deviations; the oftener, the nearer to p(drawn | known).

    What is left after a hundred times is for the steps, forty, and for jumps of two.
    """
    moments = np.array([drawn_coordinate(2, resamples) for resamples in (1, 2, 5, 20, 100)])
    away, spread = np.abs(moments[:, 0] - CONDITIONAL[0]) / np.sqrt(CONDITIONAL[1]), moments[:, 1] / CONDITIONAL[1]
    assert np.all(np.diff(away) < 0)
    assert np.all(np.diff(spread) < 0)
    assert away[0] > 0.7
    assert away[-1] < 0.06
    assert spread[0] > 1.5
    assert abs(spread[-1] - 1) < 0.02


@pytest.mark.parametrize(
    "mask",
    [np.array([1.0, 0.0, 0.25]), np.array([True, False, True]), np.array([[[1], [0]], [[0], [1]]])],
    ids=["soft", "bool", "pixels"],
)
def test_known_and_drawn_are_blended_by_the_mask(mask):
    """At the end, with the sample of a mask of zeros as what would be drawn there: one evaluation, and no noise is left."""
    x0, x = np.full((4, 2, 2, 3), 0.5, np.float32), jnp.asarray(np.random.default_rng(1).normal(size=(4, 2, 2, 3)), jnp.float32)
    plain = ddim(SCHEDULE, spacing=[11])
    drawn = np.asarray(sample(plain, small_network(jnp, 3), x, KEY))
    result = sample(inpaint(plain, x0, mask), small_network(jnp, 3), x, KEY)
    np.testing.assert_allclose(result, mask * x0 + (1.0 - mask) * drawn, rtol=0, atol=1e-6)


MULTISTEP = {
    "heun": heun(SCHEDULE, steps=4),
    "dpm_solver_pp": dpm_solver_pp(SCHEDULE, steps=4),
    "unipc": unipc(SCHEDULE, steps=4),
}


@pytest.mark.parametrize("name", MULTISTEP)
def test_samplers_that_remember_inpaint_but_do_not_go_back(name):
    x0, mask = np.full((5, 3), 0.7, np.float32), np.array([1.0, 0.0, 0.0])
    ends = sample(inpaint(MULTISTEP[name], x0, mask), small_network(jnp, 3), jax.random.normal(KEY, (5, 3)), KEY)
    chex.assert_tree_all_finite(ends)
    np.testing.assert_array_equal(ends[:, 0], x0[:, 0])
    assert np.abs(ends[:, 1:] - 0.7).max() > 0.01
    with pytest.raises(InvalidInput, match=r"resampling goes back.*expected ancestral, ddim or euler"):
        inpaint(MULTISTEP[name], x0, mask, resamples=2)


@pytest.mark.parametrize(("jump", "resamples"), [(0, 1), (10, 0), (-1, 2)])
def test_jumps_and_resamplings_are_one_or_more(jump, resamples):
    with pytest.raises(InvalidInput, match=f"jump={jump}, resamples={resamples}: expected 1 or more"):
        inpaint(ancestral(SCHEDULE), jnp.zeros((1, 2)), jnp.ones(2), jump=jump, resamples=resamples)


def test_inpainting_composes_with_both_kinds_of_guidance():
    """Both move what is drawn, at every visit, and neither what is known."""
    mixture = GaussianMixture(np.array([0.5, 0.5]), np.array([[0.0, -0.6], [0.0, 0.6]]), np.full((2, 2), 0.1))
    denoiser, classifier = mixture.denoiser(CHAIN, "eps"), mixture.classifier(CHAIN)
    x0, mask = np.full((400, 2), 0.3, np.float32), np.array([1.0, 0.0])
    labels, x = jnp.arange(400) % 2, jax.random.normal(KEY, (400, 2))
    stochastic = inpaint(guided_mean(ancestral(SCHEDULE), classifier, labels, scale=2.0), x0, mask, jump=2, resamples=3)
    by_score = classifier_guided(denoiser, classifier, labels, SCHEDULE, scale=2.0)
    straight = inpaint(ddim(SCHEDULE, steps=6), x0, mask, jump=2, resamples=3)
    for sampler, network in ((stochastic, denoiser), (straight, by_score)):
        run = jax.jit(lambda sampler=sampler, network=network: sample(sampler, network, x, KEY), compiler_options=QUICKLY)
        ends = np.asarray(run())
        np.testing.assert_array_equal(ends[:, 0], x0[:, 0])
        assert np.mean((ends[:, 1] > 0) == (labels == 1)) > 0.95  # the classes overlap by 3 %, and are pushed apart


def test_inpainting_is_one_scan_and_maps():
    x, x0 = jax.random.normal(KEY, (3, 4, 2)), jnp.linspace(-1, 1, 24).reshape(3, 4, 2)

    def run(x, x0):
        sampler = inpaint(ancestral(SCHEDULE, steps=4), x0, jnp.array([1.0, 0.0]), jump=1, resamples=2)
        return sample(sampler, small_network(jnp, 2), x, KEY)

    compiled = jax.jit(run, compiler_options=QUICKLY)
    one_by_one = [compiled(*pair) for pair in zip(x, x0, strict=True)]
    np.testing.assert_allclose(
        jax.jit(jax.vmap(run), compiler_options=QUICKLY)(x, x0), one_by_one, rtol=0, atol=2e-5
    )  # float32, seven visits
    assert str(jax.make_jaxpr(run)(x[0], x0[0])).count("scan[") == 1
