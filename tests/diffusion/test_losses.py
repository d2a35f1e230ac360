import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import parameterized

from jax_ddpm import (
    InvalidInput,
    eps_loss,
    from_x0,
    hybrid_loss,
    kl_loss,
    linear_schedule,
    q_sample,
    rescaled_kl_loss,
    static_clip,
    v_loss,
    x0_loss,
)
from tests.agreement import assert_float64_agrees
from tests.references.chain import PIXELS, PREDICTIONS, VARIANCES, Chain, bin_log_probability, mean_over_example
from tests.references.denoisers import small_network

SCHEDULE, SCHEDULE64 = linear_schedule(1000), linear_schedule(1000, dtype=np.float64)
CHAIN = Chain(SCHEDULE64.betas)
TIMES = np.array([0, 1, 2, 100, 500, 999])
SHAPE = (6, 4, 3)
NETWORK, NUMPY_NETWORK = small_network(jnp, 3), small_network(np, 3)
WIDE_NETWORK, NUMPY_WIDE_NETWORK = small_network(jnp, 3, 6), small_network(np, 3, 6)  # these say a variance too
SQUARE_ERRORS = {"eps": eps_loss, "x0": x0_loss, "v": v_loss}
NATS_A_DIMENSION = 12 * np.log(2)  # in a bit per dimension of an example


def inputs(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """x0 on the pixel grid and eps, float32 [6, 4, 3]."""
    rng = np.random.default_rng(seed)
    return rng.choice(PIXELS, SHAPE).astype(np.float32), rng.normal(size=SHAPE).astype(np.float32)


def is_wide(name):
    """Whether what is called so is for a network that says the variance too."""
    return "learned" in name


def square_error_reference(kind, prediction, x0, t, eps, network=NUMPY_NETWORK):
    """The mean square error in terms of `kind` of a network that predicts `prediction`."""
    xt = CHAIN.noised(x0, t, eps)
    truth = {"eps": eps, "x0": x0, "v": CHAIN.noised(eps, t, -x0)}[kind]  # v = √ᾱ ε - √(1-ᾱ) x_0
    return mean_over_example((truth - CHAIN.converted(network(xt, t)[..., :3], xt, t, prediction, kind)) ** 2)


def kl_loss_reference(prediction, variance, x0, t, eps):
    network = NUMPY_WIDE_NETWORK if is_wide(variance) else NUMPY_NETWORK
    return CHAIN.bound_term(network, x0, t, eps, prediction=prediction, variance=variance)


def hybrid_loss_reference(prediction, variance, weight, *inputs):
    bound = 1000 * kl_loss_reference(prediction, variance, *inputs) / NATS_A_DIMENSION
    return square_error_reference("eps", prediction, *inputs, NUMPY_WIDE_NETWORK) + weight * bound


# name, the loss as a function of (schedule, denoiser, x0, t, eps), its reference; then, third, the network that it is tried on
LOSSES = (
    *(
        (
            f"{kind}_loss_{prediction}",
            functools.partial(SQUARE_ERRORS[kind], prediction=prediction),
            functools.partial(square_error_reference, kind, prediction),
        )
        for kind, prediction in (
            ("eps", "eps"),
            ("eps", "x0"),
            ("eps", "mean"),
            ("x0", "x0"),
            ("x0", "eps"),
            ("x0", "score"),
            ("v", "v"),
            ("v", "eps"),
        )
    ),
    *(
        (
            f"kl_loss_{prediction}_{variance}",
            functools.partial(kl_loss, prediction=prediction, variance=variance),
            functools.partial(kl_loss_reference, prediction, variance),
        )
        for prediction, variance in (
            ("eps", "fixed_large"),
            ("x0", "fixed_small"),
            ("v", "learned_range"),
            ("mean", "learned"),
            ("score", "fixed_small"),
        )
    ),
    (
        "rescaled_kl_loss_x0_learned",
        functools.partial(rescaled_kl_loss, prediction="x0", variance="learned"),
        lambda *inputs: 1000 * kl_loss_reference("x0", "learned", *inputs),
    ),
    ("hybrid_loss_eps_learned_range", hybrid_loss, functools.partial(hybrid_loss_reference, "eps", "learned_range", 1e-3)),
    (
        "hybrid_loss_v_learned",
        functools.partial(hybrid_loss, prediction="v", variance="learned", weight=0.1),
        functools.partial(hybrid_loss_reference, "v", "learned", 0.1),
    ),
)
LOSSES = tuple((name, loss, WIDE_NETWORK if is_wide(name) else NETWORK, reference) for name, loss, reference in LOSSES)
EVERY_LOSS = pytest.mark.parametrize(("loss", "network"), [entry[1:3] for entry in LOSSES], ids=[entry[0] for entry in LOSSES])


class EveryLoss(chex.TestCase):
    @chex.all_variants
    @parameterized.named_parameters(*LOSSES)
    def test_float32_agrees_with_the_float64_reference(self, loss, network, reference):
        x0, eps = inputs()
        actual = self.variant(lambda schedule, *rest: loss(schedule, network, *rest))(SCHEDULE, x0, TIMES, eps)
        chex.assert_shape(actual, (6,))
        chex.assert_type(actual, jnp.float32)
        chex.assert_tree_all_finite(actual)
        # The squares are of differences that float32 knows to 1e-5 of themselves: ε recovered at t = 0 is off by
        # 100 · 2^-23 of 1, an x_0 recovered at t = 999 by 157 · 2^-23 of some 100; at t = 0 and σ = .007 the decoder has z
        # rounded to 2^-24/.007 = 1e-5 and sums twelve terms of up to 28 nats. Where v is predicted, the two means of t = 999
        # are numbers near 1 that differ by 2e-4: 2^-24 / 2e-4 = 3e-4.
        expected = reference(x0.astype(np.float64), TIMES, eps.astype(np.float64))
        np.testing.assert_allclose(actual, expected, rtol=3e-4)


@pytest.mark.parametrize(("loss", "network", "reference"), [entry[1:] for entry in LOSSES], ids=[entry[0] for entry in LOSSES])
def test_float64_agrees_with_the_reference(loss, network, reference):
    x0, eps = inputs()
    assert_float64_agrees(
        lambda schedule, x0, eps, t: loss(schedule, network, x0, t, eps),
        lambda x0, eps, t: reference(x0, t, eps),
        SCHEDULE64,
        (x0, eps),
        TIMES,
        atol=0,  # a loss of 1e-5 has its digits too
    )


@EVERY_LOSS
def test_mapping_over_batches_gives_each_its_own_result(loss, network):
    batches = [inputs(seed) for seed in range(4)]
    times = np.stack([np.roll(TIMES, shift) for shift in range(4)])
    x0, eps = (np.stack(parts) for parts in zip(*batches, strict=True))

    def on_network(schedule, x0, t, eps):
        return loss(schedule, network, x0, t, eps)

    one_by_one = [jax.jit(on_network)(SCHEDULE, *parts) for parts in zip(x0, times, eps, strict=True)]
    for transform in (jax.vmap, jax.pmap):
        mapped = jax.jit(transform(on_network, in_axes=(None, 0, 0, 0)))(SCHEDULE, x0, times, eps)
        chex.assert_shape(mapped, (4, 6))
        np.testing.assert_allclose(mapped, one_by_one, rtol=1e-4)  # the float32 error of one loss, as above


@EVERY_LOSS
def test_each_value_depends_on_its_own_example_alone(loss, network):
    x0, eps = inputs()
    value = jax.jit(lambda *args: loss(SCHEDULE, network, *args))
    t = np.minimum(TIMES, 500)  # from t = 999 back x_0 counts for too little to show in every loss
    before = value(x0, t, eps)
    for example in range(6):
        other_x0, other_eps = x0.copy(), eps.copy()
        other_x0[example, 2, 1] *= -0.5
        other_eps[example, 0, 2] += 0.5
        changed = np.flatnonzero(value(other_x0, t, other_eps) != before)
        assert changed.tolist() == [example]


@EVERY_LOSS
def test_gradient_is_finite_at_every_t_even_for_a_network_that_is_far_off(loss, network):
    t = jnp.array([0, 0, 1, 2, 500, 999])
    x0, eps = inputs()
    x0[0, 0], x0[1, 0] = -1.0, 1.0  # pixels in the two open bins

    channels = network(x0[..., :3], t).shape[-1]

    def mean_loss(weights, scale):
        return loss(SCHEDULE, lambda xt, t: scale * jnp.tanh(xt @ weights), x0, t, eps).mean()

    value_and_gradient = jax.jit(jax.value_and_grad(mean_loss))
    for scale in (0.1, 1.0, 1e3 if channels == 3 else 20.0):  # a log-variance of -1000 is out of the question
        value, gradient = value_and_gradient(jnp.eye(3, channels) + 0.1, scale)
        chex.assert_shape(gradient, (3, channels))
        chex.assert_tree_all_finite((value, gradient))
        assert np.all(gradient != 0)


def with_oracle(loss, schedule, x0, eps, **options):
    """The loss of the denoiser that knows the answer, compiled."""

    def on_answer(schedule, x0, t, eps):
        kind = options["prediction"]
        truth = eps if kind == "eps" else from_x0(schedule, x0, q_sample(schedule, x0, t, eps), t, kind)
        return loss(schedule, lambda xt, t: truth, x0, t, eps, **options)

    return jax.jit(on_answer)(schedule, x0, TIMES, eps)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_losses_of_a_perfect_denoiser_are_zero(prediction):
    x0, eps = inputs()
    if prediction in ("eps", "x0"):
        in_its_own_terms = SQUARE_ERRORS[prediction]
        np.testing.assert_array_equal(with_oracle(in_its_own_terms, SCHEDULE, x0, eps, prediction=prediction), np.zeros(6))
    with jax.enable_x64(True):
        arguments = SCHEDULE64, x0.astype(np.float64), eps.astype(np.float64)

        def all_losses(*args, **options):
            return jnp.stack(
                [loss(*args, **options) for loss in SQUARE_ERRORS.values()]
                + [kl_loss(*args, variance="fixed_small", **options)]
            )

        *square_errors, kl = with_oracle(all_losses, *arguments, prediction=prediction)
    # What is left is the square of float64 round-off, amplified 157 times at t = 999, 7,900 times where the mean is predicted.
    np.testing.assert_allclose(square_errors, np.zeros((3, 6)), rtol=0, atol=1e-22 if prediction == "mean" else 1e-24)
    np.testing.assert_allclose(kl[1:], np.zeros(5), rtol=0, atol=1e-18)


def test_perfect_denoiser_with_too_large_a_variance_pays_for_it_alone():
    with jax.enable_x64(True):
        x0, eps = (a.astype(np.float64) for a in inputs())
        kl = with_oracle(kl_loss, SCHEDULE64, x0, eps, prediction="eps", variance="fixed_large")
    ratio = CHAIN.noise_variance[TIMES[1:] - 1] / CHAIN.noise_variance[TIMES[1:]]  # β̃_t / β_t
    # At t = 999 the ratio differs from 1 by 8e-7, of which float64 keeps ten digits.
    np.testing.assert_allclose(kl[1:], 12 * (ratio - 1 - np.log(ratio)) / 2, rtol=1e-8)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_square_errors_differ_by_what_the_signal_to_noise_ratio_says(prediction):
    @jax.jit
    def all_three(schedule, x0, t, eps):
        return [loss(schedule, NETWORK, x0, t, eps, prediction=prediction) for loss in (eps_loss, x0_loss, v_loss)]

    x0, eps = inputs()
    ratio = CHAIN.signal_to_noise(TIMES)
    by_eps, by_x0, by_v = map(np.asarray, all_three(SCHEDULE, x0, TIMES, eps))
    np.testing.assert_allclose(by_eps, ratio * by_x0, rtol=2e-4)  # float32: 1e-4 for each, as above
    np.testing.assert_allclose(by_v, (ratio + 1) * by_x0, rtol=2e-4)
    with jax.enable_x64(True):
        by_eps, by_x0, by_v = map(np.asarray, all_three(SCHEDULE64, x0.astype(np.float64), TIMES, eps.astype(np.float64)))
    np.testing.assert_allclose(by_eps, ratio * by_x0, rtol=1e-10)  # the tables hold 12 digits
    np.testing.assert_allclose(by_v, (ratio + 1) * by_x0, rtol=1e-10)


@pytest.mark.parametrize(("prediction", "variance"), [("eps", "learned_range"), ("v", "learned")])
def test_hybrid_loss_trains_the_mean_by_l_simple_and_the_variance_by_the_bound(prediction, variance):
    x0, eps = (a.astype(np.float64) for a in inputs())
    weight = 0.02

    @jax.jit
    def gradients(schedule, output, x0, t, eps):
        losses = (
            lambda *args: hybrid_loss(*args, prediction=prediction, variance=variance, weight=weight),
            lambda *args: eps_loss(*args, prediction=prediction),
            lambda *args: rescaled_kl_loss(*args, prediction=prediction, variance=variance),
        )
        return [jax.grad(lambda o, f=f: f(schedule, lambda xt, t: o, x0, t, eps).sum())(output) for f in losses]

    with jax.enable_x64(True):
        found = gradients(SCHEDULE64, NUMPY_WIDE_NETWORK(x0, TIMES), x0, TIMES, eps)
        hybrid, simple, bound = (np.split(np.asarray(g), 2, axis=-1) for g in found)
    np.testing.assert_allclose(hybrid[0], simple[0], rtol=1e-12, atol=1e-14)  # float64 round-off of numbers near 1
    np.testing.assert_allclose(hybrid[1], weight / NATS_A_DIMENSION * bound[1], rtol=1e-12, atol=1e-14)
    assert np.all(simple[1] == 0)
    assert np.abs(bound[0]).min() > 0  # so that the mean would be moved, were it not detached
    assert np.abs(bound[1]).min() > 0


@pytest.mark.parametrize("variance", ["fixed_small", "fixed_large"])
def test_hybrid_loss_of_a_variance_that_is_not_learned_is_refused(variance):
    x0, eps = inputs()
    with pytest.raises(InvalidInput, match=variance):
        hybrid_loss(SCHEDULE, WIDE_NETWORK, x0, TIMES, eps, variance=variance)


@pytest.mark.parametrize("name", SQUARE_ERRORS)
def test_losses_of_the_mean_alone_take_the_first_half_of_the_channels(name):
    x0, eps = inputs()
    whole = SQUARE_ERRORS[name](SCHEDULE, WIDE_NETWORK, x0, TIMES, eps, prediction="eps")
    half = SQUARE_ERRORS[name](SCHEDULE, lambda xt, t: WIDE_NETWORK(xt, t)[..., :3], x0, TIMES, eps, prediction="eps")
    np.testing.assert_array_equal(whole, half)


@pytest.mark.parametrize("variance", VARIANCES[:2])
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
def test_denoiser_sees_the_noised_data_and_the_integer_times(loss, network):
    x0, eps = inputs()
    seen = []

    def spy(xt, t):
        seen.append((xt, t))
        return jnp.zeros(network(xt, t).shape)

    loss(SCHEDULE, spy, x0, TIMES, eps)
    [(xt, t)] = seen
    np.testing.assert_array_equal(xt, q_sample(SCHEDULE, x0, TIMES, eps))
    np.testing.assert_array_equal(t, TIMES)
