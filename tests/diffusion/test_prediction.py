import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import parameterized
from hypothesis import given
from hypothesis import strategies as st

from jax_ddpm import (
    InvalidInput,
    cosine_schedule,
    eps_from_x0,
    from_x0,
    linear_schedule,
    p_mean_variance,
    q_posterior,
    q_sample,
    static_clip,
    to_x0,
    x0_from_eps,
)
from tests.references import Chain

SCHEDULE, SCHEDULE64 = linear_schedule(1000), linear_schedule(1000, dtype=np.float64)
CHAIN = Chain(SCHEDULE64.betas)
TIMES = np.array([0, 1, 2, 250, 500])
SHAPE = (5, 4, 3)
PREDICTIONS, VARIANCES = ("eps", "x0"), ("fixed_small", "fixed_large")
ROUND_OFF = 2.0**-24  # of one float32 operation, relative


def inputs(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """The network's output and xt, float32 [5, 4, 3]."""
    return tuple(np.random.default_rng(seed).normal(size=(2, *SHAPE)).astype(np.float32))


def reverse(prediction, variance, clip, schedule, output, xt, t):
    return p_mean_variance(schedule, output, xt, t, prediction=prediction, variance=variance, clip=clip)


def reverse_reference(prediction, variance, clip, output, xt, t):
    mean, spread, x0 = CHAIN.reverse(output, xt, t, prediction=prediction, variance=variance, clip=clip)
    return mean, np.log(spread), x0


def clip_reference(x0):
    return np.minimum(np.maximum(x0, -1), 1)


# name, the function of (schedule, output, xt, t), its reference
FUNCTIONS = (
    ("x0_from_eps", lambda s, o, xt, t: x0_from_eps(s, xt, t, o), lambda o, xt, t: CHAIN.predicted_x0(o, xt, t, "eps")),
    ("eps_from_x0", lambda s, o, xt, t: eps_from_x0(s, xt, t, o), lambda o, xt, t: CHAIN.predicted_eps(o, xt, t, "x0")),
    ("static_clip", lambda s, o, xt, t: static_clip(o), lambda o, xt, t: clip_reference(o)),
    *(
        (
            f"to_x0_{kind}",
            lambda s, o, xt, t, kind=kind: to_x0(s, o, xt, t, kind),
            lambda o, xt, t, kind=kind: CHAIN.predicted_x0(o, xt, t, kind),
        )
        for kind in PREDICTIONS
    ),
    *(
        (
            f"from_x0_{kind}",
            lambda s, o, xt, t, kind=kind: from_x0(s, o, xt, t, kind),
            lambda o, xt, t, kind=kind: o if kind == "x0" else CHAIN.predicted_eps(o, xt, t, "x0"),
        )
        for kind in PREDICTIONS
    ),
    *(
        (
            f"p_mean_variance_{prediction}_{variance}_{'free' if clips[0] is None else 'clipped'}",
            functools.partial(reverse, prediction, variance, clips[0]),
            functools.partial(reverse_reference, prediction, variance, clips[1]),
        )
        for prediction in PREDICTIONS
        for variance in VARIANCES
        for clips in ((None, None), (static_clip, clip_reference))
    ),
)


class EveryFunction(chex.TestCase):
    @chex.all_variants
    @parameterized.named_parameters(*FUNCTIONS)
    def test_float32_agrees_with_the_float64_reference(self, ours, reference):
        actual = self.variant(ours)(SCHEDULE, *inputs(), TIMES)
        expected = reference(*(a.astype(np.float64) for a in inputs()), TIMES)
        chex.assert_type(jax.tree.leaves(actual), jnp.float32)
        chex.assert_tree_all_finite(actual)
        is_reverse_step = len(jax.tree.leaves(actual)) == 3
        chex.assert_shape(jax.tree.leaves(actual), [SHAPE, (5, 1, 1), SHAPE] if is_reverse_step else SHAPE)
        # At these t no coefficient exceeds 100 (1/√(1-ᾱ_0)), no input 3; each of four roundings is 2^-24 of the product.
        for ours_part, reference_part in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(ours_part, reference_part, rtol=2e-6, atol=100 * 3 * 4 * ROUND_OFF)


@pytest.mark.parametrize(("ours", "reference"), [f[1:] for f in FUNCTIONS], ids=[f[0] for f in FUNCTIONS])
def test_float64_agrees_with_the_reference(ours, reference):
    doubles = [a.astype(np.float64) for a in inputs()]
    with jax.enable_x64(True):
        actual = jax.jit(ours)(SCHEDULE64, *doubles, TIMES)
    chex.assert_type(jax.tree.leaves(actual), jnp.float64)
    # The tables hold 12 digits and more; the greatest coefficient is 100.
    for ours_part, reference_part in zip(jax.tree.leaves(actual), jax.tree.leaves(reference(*doubles, TIMES)), strict=True):
        np.testing.assert_allclose(ours_part, reference_part, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("ours", [f[1] for f in FUNCTIONS], ids=[f[0] for f in FUNCTIONS])
def test_mapping_over_batches_gives_each_its_own_result(ours):
    batches = [inputs(seed) for seed in range(4)]
    times = np.stack([np.roll(TIMES, shift) for shift in range(4)])
    outputs, xts = (np.stack(parts) for parts in zip(*batches, strict=True))
    one_by_one = [jax.jit(ours)(SCHEDULE, *batch, t) for batch, t in zip(batches, times, strict=True)]
    expected = jax.tree.map(lambda *parts: np.stack(parts), *one_by_one)
    for transform in (jax.vmap, jax.pmap):
        mapped = jax.jit(transform(ours, in_axes=(None, 0, 0, 0)))(SCHEDULE, outputs, xts, times)
        # The same float32 arithmetic, but products and sums may be fused otherwise: the error of one function, as above.
        chex.assert_trees_all_close(mapped, expected, rtol=2e-6, atol=100 * 3 * 4 * ROUND_OFF)


SCHEDULES = [
    pytest.param(make(1000), make(1000, dtype=np.float64), id=make.__name__) for make in (linear_schedule, cosine_schedule)
]
EVERY_T = np.arange(1000)


@jax.jit
def eps_round_trip(schedule, xt, t, eps):
    return eps_from_x0(schedule, xt, t, x0_from_eps(schedule, xt, t, eps))


@jax.jit
def x0_round_trip(schedule, xt, t, x0):
    return x0_from_eps(schedule, xt, t, eps_from_x0(schedule, xt, t, x0))


@pytest.mark.parametrize(("single", "double"), SCHEDULES)
@given(x0=st.floats(-1, 1, width=32), eps=st.floats(-5, 5, width=32))
def test_eps_and_x0_stand_for_each_other_at_every_t(single, double, x0, eps):
    chain = Chain(double.betas)
    signal, noise = np.sqrt(chain.alphas_bar), np.sqrt(chain.noise_variance)
    x0_64, eps_64 = np.full(1000, x0, np.float64), np.full(1000, eps, np.float64)
    xt_64 = chain.noised(x0_64, EVERY_T, eps_64)
    with jax.enable_x64(True):
        # float64: the derivation below with 2^-53 in place of 2^-24 gives 1e-12 at worst.
        np.testing.assert_allclose(eps_round_trip(double, xt_64, EVERY_T, eps_64), eps_64, rtol=0, atol=1e-10)
        np.testing.assert_allclose(x0_round_trip(double, xt_64, EVERY_T, x0_64), x0_64, rtol=0, atol=1e-10)
        np.testing.assert_allclose(x0_from_eps(double, xt_64, EVERY_T, eps_64), x0_64, rtol=0, atol=1e-10)
    x0_32, eps_32, xt_32 = (a.astype(np.float32) for a in (x0_64, eps_64, xt_64))
    # float32: each table and each operation is rounded to 2^-24 of itself. x_0 is a difference of x_t/√ᾱ and √(1/ᾱ - 1) ε, so
    # its error is 2^-24 of these, (|x_t| + √(1-ᾱ)|ε|)/√ᾱ: 1/√ᾱ is 1 at t = 0, 157 at the end of the linear schedule, 20,000
    # at that of the cosine. ε is a difference of x_t and √ᾱ x_0 over √(1-ᾱ): 1/√(1-ᾱ) is 100 and more at t = 0, 1 at the end.
    # Going there and back multiplies the first error by √ᾱ/√(1-ᾱ) or the second by √(1-ᾱ)/√ᾱ, which gives the other's
    # amplification. Six roundings on the way out and as many back; all together at most 12.
    size = np.abs(xt_64) + noise * abs(eps) + signal * abs(x0)
    eps_error = np.abs(eps_round_trip(single, xt_32, EVERY_T, eps_32) - eps_64)
    x0_error = np.abs(x0_round_trip(single, xt_32, EVERY_T, x0_32) - x0_64)
    tiny = np.finfo(np.float32).tiny / signal  # below the least normal number there are no digits to keep
    assert np.all(eps_error <= 12 * ROUND_OFF * size / noise + tiny)
    assert np.all(x0_error <= 12 * ROUND_OFF * size / signal + tiny)


@pytest.mark.parametrize("variance", VARIANCES)
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_mean_with_the_true_x0_is_that_of_the_posterior(prediction, variance):
    x0, eps = (0.3 * a.astype(np.float64) for a in inputs())
    with jax.enable_x64(True):
        xt = q_sample(SCHEDULE64, x0, TIMES, eps)
        truth = {"x0": x0, "eps": eps}[prediction]
        p, reconstruction = reverse(prediction, variance, None, SCHEDULE64, truth, xt, TIMES)
        posterior = q_posterior(SCHEDULE64, x0, xt, TIMES)
    # float64, 1/√ᾱ below 4 at these t
    np.testing.assert_allclose(p.mean, posterior.mean, rtol=0, atol=1e-12)
    np.testing.assert_allclose(reconstruction, x0, rtol=0, atol=1e-12)
    if variance == "fixed_small":
        np.testing.assert_array_equal(p.log_variance, posterior.log_variance)


@pytest.mark.parametrize("schedule", [SCHEDULE, cosine_schedule(1000)], ids=["linear", "cosine"])
def test_fixed_variances_are_the_posterior_s_and_beta_and_agree_at_the_first_step(schedule):
    zeros = jnp.zeros((1000, 2))
    small, large = (np.ravel(reverse("x0", kind, None, schedule, zeros, zeros, EVERY_T)[0].log_variance) for kind in VARIANCES)
    betas = schedule.betas.astype(np.float64)
    noise = Chain(betas).noise_variance
    posterior = betas[1:] * noise[:-1] / noise[1:]
    # A log of up to 11 in float32, from betas that were themselves rounded: 11 · 2^-24 + 3 · 2^-24.
    np.testing.assert_allclose(small[1:], np.log(posterior), rtol=0, atol=1e-6)
    np.testing.assert_allclose(large[1:], np.log(betas[1:]), rtol=0, atol=1e-6)
    assert small[0] == large[0] == small[1]
    assert np.all(small[1:] < large[1:])


def test_clip_acts_on_x0_before_the_mean_is_derived():
    output, xt = inputs()
    output = 4 * output  # far outside [-1, 1]
    t = np.full(5, 500)
    p, x0 = reverse("x0", "fixed_small", static_clip, SCHEDULE, output, xt, t)
    clipped = clip_reference(output)
    np.testing.assert_array_equal(x0, clipped)
    np.testing.assert_array_equal(p.mean, q_posterior(SCHEDULE, clipped, xt, t).mean)
    free, untouched = reverse("x0", "fixed_small", None, SCHEDULE, output, xt, t)
    np.testing.assert_array_equal(untouched, output)
    np.testing.assert_array_equal(free.mean, q_posterior(SCHEDULE, output, xt, t).mean)
    assert np.abs(free.mean - p.mean).max() > 0.01


def test_clip_is_whatever_function_of_x0_is_given():
    output, xt = inputs()
    p, x0 = reverse("eps", "fixed_large", lambda x0: 0 * x0 + 0.25, SCHEDULE, output, xt, TIMES)
    np.testing.assert_array_equal(x0, np.full(SHAPE, 0.25))
    np.testing.assert_array_equal(p.mean, q_posterior(SCHEDULE, x0, xt, TIMES).mean)


@pytest.mark.parametrize("convert", [to_x0, from_x0])
@pytest.mark.parametrize(("given_name", "meant"), [("epsilon", "eps"), ("x_0", "x0")])
def test_unknown_prediction_is_refused_with_the_nearest_name(convert, given_name, meant):
    output, xt = inputs()
    message = rf"unknown prediction '{given_name}': expected one of eps, x0.*\. Did you mean '{meant}'\?"
    with pytest.raises(InvalidInput, match=message):
        convert(SCHEDULE, output, xt, TIMES, given_name)


@pytest.mark.parametrize(("given_name", "meant"), [("fixed-large", "fixed_large"), ("fixedsmall", "fixed_small")])
def test_unknown_variance_is_refused_with_the_nearest_name(given_name, meant):
    output, xt = inputs()
    message = rf"unknown variance '{given_name}': expected one of fixed_small, fixed_large.*\. Did you mean '{meant}'\?"
    with pytest.raises(InvalidInput, match=message):
        reverse("eps", given_name, None, SCHEDULE, output, xt, TIMES)
    with pytest.raises(InvalidInput, match=r"unknown prediction 'noise'"):
        reverse("noise", "fixed_large", None, SCHEDULE, output, xt, TIMES)
