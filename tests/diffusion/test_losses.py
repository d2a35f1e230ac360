import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import parameterized

from jax_ddpm import eps_loss, kl_loss, linear_schedule, q_sample, static_clip, x0_loss
from tests.references import PIXELS, Chain, bin_log_probability, small_network

SCHEDULE, SCHEDULE64 = linear_schedule(1000), linear_schedule(1000, dtype=np.float64)
CHAIN = Chain(SCHEDULE64.betas)
TIMES = np.array([0, 1, 2, 100, 500, 999])
SHAPE = (6, 4, 3)
PREDICTIONS, VARIANCES = ("eps", "x0"), ("fixed_small", "fixed_large")
NETWORK, NUMPY_NETWORK = small_network(jnp, 3), small_network(np, 3)


def inputs(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """x0 on the pixel grid and eps, float32 [6, 4, 3]."""
    rng = np.random.default_rng(seed)
    return rng.choice(PIXELS, SHAPE).astype(np.float32), rng.normal(size=SHAPE).astype(np.float32)


def eps_loss_reference(prediction, x0, t, eps):
    xt = CHAIN.noised(x0, t, eps)
    return np.square(eps - CHAIN.predicted_eps(NUMPY_NETWORK(xt, t), xt, t, prediction)).reshape(6, -1).mean(axis=1)


def x0_loss_reference(prediction, x0, t, eps):
    xt = CHAIN.noised(x0, t, eps)
    return np.square(x0 - CHAIN.predicted_x0(NUMPY_NETWORK(xt, t), xt, t, prediction)).reshape(6, -1).mean(axis=1)


def kl_loss_reference(prediction, variance, x0, t, eps):
    return CHAIN.bound_term(NUMPY_NETWORK, x0, t, eps, prediction=prediction, variance=variance)


# name, the loss as a function of (schedule, denoiser, x0, t, eps), its reference
LOSSES = (
    *(
        (f"eps_loss_{kind}", functools.partial(eps_loss, prediction=kind), functools.partial(eps_loss_reference, kind))
        for kind in PREDICTIONS
    ),
    *(
        (f"x0_loss_{kind}", functools.partial(x0_loss, prediction=kind), functools.partial(x0_loss_reference, kind))
        for kind in PREDICTIONS
    ),
    *(
        (
            f"kl_loss_{prediction}_{variance}",
            functools.partial(kl_loss, prediction=prediction, variance=variance),
            functools.partial(kl_loss_reference, prediction, variance),
        )
        for prediction in PREDICTIONS
        for variance in VARIANCES
    ),
)
EVERY_LOSS = pytest.mark.parametrize("loss", [entry[1] for entry in LOSSES], ids=[entry[0] for entry in LOSSES])


class EveryLoss(chex.TestCase):
    @chex.all_variants
    @parameterized.named_parameters(*LOSSES)
    def test_float32_agrees_with_the_float64_reference(self, loss, reference):
        x0, eps = inputs()
        actual = self.variant(lambda schedule, *rest: loss(schedule, NETWORK, *rest))(SCHEDULE, x0, TIMES, eps)
        chex.assert_shape(actual, (6,))
        chex.assert_type(actual, jnp.float32)
        chex.assert_tree_all_finite(actual)
        # The squares are of differences that float32 knows to 1e-5 of themselves: ε recovered at t = 0 is off by
        # 100 · 2^-23 of 1, an x_0 recovered at t = 999 by 157 · 2^-23 of some 100; at t = 0 and σ = .007 the decoder has z
        # rounded to 2^-24/.007 = 1e-5 and sums twelve terms of up to 28 nats.
        np.testing.assert_allclose(actual, reference(x0.astype(np.float64), TIMES, eps.astype(np.float64)), rtol=1e-4)


@pytest.mark.parametrize(("loss", "reference"), [entry[1:] for entry in LOSSES], ids=[entry[0] for entry in LOSSES])
def test_float64_agrees_with_the_reference(loss, reference):
    x0, eps = (a.astype(np.float64) for a in inputs())
    with jax.enable_x64(True):
        actual = jax.jit(lambda schedule, *rest: loss(schedule, NETWORK, *rest))(SCHEDULE64, x0, TIMES, eps)
    chex.assert_type(actual, jnp.float64)
    np.testing.assert_allclose(actual, reference(x0, TIMES, eps), rtol=1e-10)  # the tables hold 12 digits


@EVERY_LOSS
def test_mapping_over_batches_gives_each_its_own_result(loss):
    batches = [inputs(seed) for seed in range(4)]
    times = np.stack([np.roll(TIMES, shift) for shift in range(4)])
    x0, eps = (np.stack(parts) for parts in zip(*batches, strict=True))

    def on_network(schedule, x0, t, eps):
        return loss(schedule, NETWORK, x0, t, eps)

    one_by_one = [jax.jit(on_network)(SCHEDULE, *parts) for parts in zip(x0, times, eps, strict=True)]
    for transform in (jax.vmap, jax.pmap):
        mapped = jax.jit(transform(on_network, in_axes=(None, 0, 0, 0)))(SCHEDULE, x0, times, eps)
        chex.assert_shape(mapped, (4, 6))
        np.testing.assert_allclose(mapped, one_by_one, rtol=1e-4)  # the float32 error of one loss, as above


@EVERY_LOSS
def test_each_value_depends_on_its_own_example_alone(loss):
    x0, eps = inputs()
    value = jax.jit(lambda *args: loss(SCHEDULE, NETWORK, *args))
    before = value(x0, TIMES, eps)
    for example in range(6):
        other_x0, other_eps = x0.copy(), eps.copy()
        other_x0[example, 2, 1] *= -0.5
        other_eps[example, 0, 2] += 0.5
        changed = np.flatnonzero(value(other_x0, TIMES, other_eps) != before)
        assert changed.tolist() == [example]


@EVERY_LOSS
def test_gradient_is_finite_at_every_t_even_for_a_network_that_is_far_off(loss):
    t = np.array([0, 0, 1, 2, 500, 999])
    x0, eps = inputs()
    x0[0, 0], x0[1, 0] = -1.0, 1.0  # pixels in the two open bins

    def mean_loss(weights, scale):
        return loss(SCHEDULE, lambda xt, t: scale * jnp.tanh(xt @ weights), x0, t, eps).mean()

    value_and_gradient = jax.jit(jax.value_and_grad(mean_loss))
    for scale in (0.1, 1.0, 1e3):
        value, gradient = value_and_gradient(jnp.eye(3) + 0.1, scale)
        chex.assert_shape(gradient, (3, 3))
        chex.assert_tree_all_finite((value, gradient))
        assert np.all(gradient != 0)


def oracle(prediction, x0, eps):
    truth = {"eps": eps, "x0": x0}[prediction]
    return lambda xt, t: jnp.asarray(truth)


def with_oracle(loss, schedule, x0, eps, **options):
    """The loss of the denoiser that knows the answer, compiled."""

    def on_answer(schedule, x0, eps):
        truth = {"eps": eps, "x0": x0}[options["prediction"]]
        return loss(schedule, lambda xt, t: truth, x0, TIMES, eps, **options)

    return jax.jit(on_answer)(schedule, x0, eps)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_losses_of_a_perfect_denoiser_are_zero(prediction):
    x0, eps = inputs()
    in_its_own_terms = {"eps": eps_loss, "x0": x0_loss}[prediction]
    np.testing.assert_array_equal(with_oracle(in_its_own_terms, SCHEDULE, x0, eps, prediction=prediction), np.zeros(6))
    with jax.enable_x64(True):
        arguments = SCHEDULE64, x0.astype(np.float64), eps.astype(np.float64)
        # What is left is the square of float64 round-off, amplified 157 times at t = 999: (157 · 1e-15)².
        for loss in (eps_loss, x0_loss):
            np.testing.assert_allclose(with_oracle(loss, *arguments, prediction=prediction), np.zeros(6), rtol=0, atol=1e-24)
        kl = with_oracle(kl_loss, *arguments, prediction=prediction, variance="fixed_small")
    np.testing.assert_allclose(kl[1:], np.zeros(5), rtol=0, atol=1e-18)


def test_perfect_denoiser_with_too_large_a_variance_pays_for_it_alone():
    with jax.enable_x64(True):
        x0, eps = (a.astype(np.float64) for a in inputs())
        kl = with_oracle(kl_loss, SCHEDULE64, x0, eps, prediction="eps", variance="fixed_large")
    ratio = CHAIN.noise_variance[TIMES[1:] - 1] / CHAIN.noise_variance[TIMES[1:]]  # β̃_t / β_t
    # At t = 999 the ratio differs from 1 by 8e-7, of which float64 keeps ten digits.
    np.testing.assert_allclose(kl[1:], 12 * (ratio - 1 - np.log(ratio)) / 2, rtol=1e-8)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_eps_loss_is_x0_loss_times_the_signal_to_noise_ratio(prediction):
    @jax.jit
    def both(schedule, x0, t, eps):
        return [loss(schedule, NETWORK, x0, t, eps, prediction=prediction) for loss in (eps_loss, x0_loss)]

    x0, eps = inputs()
    by_eps, by_x0 = map(np.asarray, both(SCHEDULE, x0, TIMES, eps))
    np.testing.assert_allclose(by_eps, CHAIN.signal_to_noise(TIMES) * by_x0, rtol=2e-4)  # float32: 1e-4 for each, as above
    with jax.enable_x64(True):
        by_eps, by_x0 = map(np.asarray, both(SCHEDULE64, x0.astype(np.float64), TIMES, eps.astype(np.float64)))
    np.testing.assert_allclose(by_eps, CHAIN.signal_to_noise(TIMES) * by_x0, rtol=1e-10)  # the tables hold 12 digits


@pytest.mark.parametrize("variance", VARIANCES)
def test_first_term_is_the_decoder_around_the_predicted_x0(variance):
    x0, eps = (a.astype(np.float64) for a in inputs())
    t = np.zeros(6, int)
    deviation = np.sqrt(5.4532e-5)  # of β̃_2, to the digits that are known of it
    near = x0 + np.random.default_rng(1).normal(size=SHAPE) * deviation

    def decode(schedule, near):
        return kl_loss(schedule, lambda xt, t: near, x0, t, eps, prediction="x0", variance=variance)

    with jax.enable_x64(True):
        decoder = jax.jit(decode)(SCHEDULE64, near)
    expected = -bin_log_probability(x0, near, deviation).sum(axis=(1, 2))
    np.testing.assert_allclose(decoder, expected, rtol=1e-5)


def test_clip_is_off_unless_asked_for():
    x0, eps = inputs()
    t = np.full(6, 500)

    def constant_guess(guess, clip):
        return kl_loss(SCHEDULE, lambda xt, t: jnp.full(xt.shape, guess), x0, t, eps, prediction="x0", clip=clip)

    free, clipped, edge = constant_guess(3.0, None), constant_guess(3.0, static_clip), constant_guess(1.0, None)
    np.testing.assert_array_equal(clipped, edge)
    assert np.all(free > 2 * clipped)


@EVERY_LOSS
def test_denoiser_sees_the_noised_data_and_the_integer_times(loss):
    x0, eps = inputs()
    seen = []

    def spy(xt, t):
        seen.append((xt, t))
        return jnp.zeros(xt.shape)

    loss(SCHEDULE, spy, x0, TIMES, eps)
    [(xt, t)] = seen
    np.testing.assert_array_equal(xt, q_sample(SCHEDULE, x0, TIMES, eps))
    np.testing.assert_array_equal(t, TIMES)
