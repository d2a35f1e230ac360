"""Encoding, decoding and translation: held to the exact probability flow of Gaussian data, and to each other."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from jax_ddpm import (
    ddim_decode,
    ddim_encode,
    ddim_inverse,
    linear_schedule,
    sample_trajectory,
    schedule_from_betas,
    translate,
)
from tests.compiling import in_float64
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


def slope(errors, steps=STEPS):
    """The power of the number of steps with which the errors fall."""
    return -np.polyfit(np.log(steps), np.log(errors), 1)[0]


def errors_by_steps(edit, expected):
    """The greatest error of `edit(x, steps)` for each number of steps."""
    return [np.abs(found - expected).max() for found in in_float64(lambda x: [edit(x, count) for count in STEPS], X)]


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
