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
    convert,
    cosine_schedule,
    dynamic_threshold,
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
from tests.agreement import assert_float64_agrees
from tests.references.chain import PREDICTIONS, VARIANCES, Chain

SCHEDULE, SCHEDULE64 = linear_schedule(1000), linear_schedule(1000, dtype=np.float64)
CHAIN = Chain(SCHEDULE64.betas)
TIMES = np.array([0, 1, 2, 250, 500])
SHAPE = (5, 4, 3)
FIXED, LEARNED = VARIANCES[:2], VARIANCES[2:]
PAIRS = [(source, target) for source in PREDICTIONS for target in PREDICTIONS]
ROUND_OFF = 2.0**-24  # of one float32 operation, relative


def inputs(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """The network's output and xt, float32 [5, 4, 3]."""
    return tuple(np.random.default_rng(seed).normal(size=(2, *SHAPE)).astype(np.float32))


def whole(xp, output, variance):
    """The output, and beside it, where the variance is learned, values for it in -1.2 … 1.2."""
    return xp.concatenate([output, 1.2 * xp.sin(5 * output)], axis=-1) if variance in LEARNED else output


def reverse(prediction, variance, clip, schedule, output, xt, t):
    output = whole(jnp, output, variance)
    return p_mean_variance(schedule, output, xt, t, prediction=prediction, variance=variance, clip=clip)


def reverse_reference(prediction, variance, clip, output, xt, t):
    output = whole(np, output, variance)
    mean, spread, x0 = CHAIN.reverse(output, xt, t, prediction=prediction, variance=variance, clip=clip)
    return mean, np.log(spread), x0


def clip_reference(x0):
    return np.minimum(np.maximum(x0, -1), 1)


# The greatest coefficient at TIMES of those that are greater than 1/√(1-ᾱ_0) = 100: one by the weight that the mean of t = 500
# gives x_0, and 1/(1-ᾱ_0).
COEFFICIENT = {"to_x0_mean": 400, "from_x0_score": 10_000}

# name, the function of (schedule, output, xt, t), its reference, the greatest coefficient
FUNCTIONS = (
    ("x0_from_eps", lambda s, o, xt, t: x0_from_eps(s, xt, t, o), lambda *rest: CHAIN.converted(*rest, "eps", "x0"), 100),
    ("eps_from_x0", lambda s, o, xt, t: eps_from_x0(s, xt, t, o), lambda *rest: CHAIN.converted(*rest, "x0", "eps"), 100),
    ("static_clip", lambda s, o, xt, t: static_clip(o), lambda o, xt, t: clip_reference(o), 100),
    *(
        (
            f"to_x0_{kind}",
            functools.partial(lambda kind, *rest: to_x0(*rest, kind), kind),
            functools.partial(lambda kind, *rest: CHAIN.converted(*rest, kind, "x0"), kind),
            COEFFICIENT.get(f"to_x0_{kind}", 100),
        )
        for kind in PREDICTIONS
    ),
    *(
        (
            f"from_x0_{kind}",
            functools.partial(lambda kind, *rest: from_x0(*rest, kind), kind),
            functools.partial(lambda kind, *rest: CHAIN.converted(*rest, "x0", kind), kind),
            COEFFICIENT.get(f"from_x0_{kind}", 100),
        )
        for kind in PREDICTIONS
    ),
    *(
        (
            f"p_mean_variance_{prediction}_{variance}_{'free' if clips[0] is None else 'clipped'}",
            functools.partial(reverse, prediction, variance, clips[0]),
            functools.partial(reverse_reference, prediction, variance, clips[1]),
            COEFFICIENT.get(f"to_x0_{prediction}", 100),
        )
        for prediction, variance, clips in (
            *((prediction, "fixed_large", (None, None)) for prediction in PREDICTIONS),
            *(("eps", variance, (static_clip, clip_reference)) for variance in VARIANCES),
            ("x0", "fixed_small", (static_clip, clip_reference)),
            ("v", "learned", (None, None)),
            ("mean", "learned_range", (static_clip, clip_reference)),
        )
    ),
)


class EveryFunction(chex.TestCase):
    @chex.all_variants
    @parameterized.named_parameters(*FUNCTIONS)
    def test_float32_agrees_with_the_float64_reference(self, ours, reference, coefficient):
        actual = self.variant(ours)(SCHEDULE, *inputs(), TIMES)
        expected = reference(*(a.astype(np.float64) for a in inputs()), TIMES)
        chex.assert_type(jax.tree.leaves(actual), jnp.float32)
        chex.assert_tree_all_finite(actual)
        is_reverse_step, is_learned = isinstance(actual, tuple), "learned" in self.id()
        shapes = [SHAPE, SHAPE if is_learned else (5, 1, 1), SHAPE] if is_reverse_step else SHAPE
        chex.assert_shape(jax.tree.leaves(actual), shapes)
        # No input exceeds 3; each of four roundings is 2^-24 of the product.
        for ours_part, reference_part in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(ours_part, reference_part, rtol=2e-6, atol=coefficient * 3 * 4 * ROUND_OFF)


@pytest.mark.parametrize(("ours", "reference"), [f[1:3] for f in FUNCTIONS], ids=[f[0] for f in FUNCTIONS])
def test_float64_agrees_with_the_reference(ours, reference):
    assert_float64_agrees(ours, reference, SCHEDULE64, inputs(), TIMES)


@pytest.mark.parametrize(("ours", "coefficient"), [f[1::2] for f in FUNCTIONS], ids=[f[0] for f in FUNCTIONS])
def test_mapping_over_batches_gives_each_its_own_result(ours, coefficient):
    batches = [inputs(seed) for seed in range(4)]
    times = np.stack([np.roll(TIMES, shift) for shift in range(4)])
    outputs, xts = (np.stack(parts) for parts in zip(*batches, strict=True))
    one_by_one = [jax.jit(ours)(SCHEDULE, *batch, t) for batch, t in zip(batches, times, strict=True)]
    expected = jax.tree.map(lambda *parts: np.stack(parts), *one_by_one)
    for transform in (jax.vmap, jax.pmap):
        mapped = jax.jit(transform(ours, in_axes=(None, 0, 0, 0)))(SCHEDULE, outputs, xts, times)
        # The same float32 arithmetic, but products and sums may be fused otherwise: the error of one function, as above.
        chex.assert_trees_all_close(mapped, expected, rtol=2e-6, atol=coefficient * 3 * 4 * ROUND_OFF)


SCHEDULES = [
    pytest.param(make(1000), make(1000, dtype=np.float64), id=make.__name__) for make in (linear_schedule, cosine_schedule)
]
EVERY_T = np.arange(1000)


@jax.jit
def there_and_back(schedule, outputs, xt):
    """[25, T] each output [T] as every other kind, and [25, T] these as its own kind again."""
    t = jnp.arange(1000)
    there = [convert(schedule, outputs[source], xt, t, source, target) for source, target in PAIRS]
    back = [convert(schedule, o, xt, t, target, source) for o, (source, target) in zip(there, PAIRS, strict=True)]
    return jnp.stack(there), jnp.stack(back)


def sizes(chain, x0, xt, kind):
    """[T] the terms that the output and x_0 are sums of, added up by size; and how an error of x_0 shows in the output.

    The output being c x_t + d x_0: |c x_t| + |d x_0|, |c x_t / d| + |output / d|, and |d|.
    """
    from_xt, from_x0 = chain.line(EVERY_T, kind)
    output = from_xt * xt + from_x0 * x0
    return (
        np.abs(from_xt * xt) + np.abs(from_x0 * x0),
        (np.abs(from_xt * xt) + np.abs(output)) / np.abs(from_x0),
        np.abs(from_x0),
    )


@pytest.mark.parametrize(("single", "double"), SCHEDULES)
@given(x0=st.floats(-1, 1, width=32), eps=st.floats(-5, 5, width=32))
def test_every_kind_of_output_stands_for_every_other_at_every_t(single, double, x0, eps):
    chain = Chain(double.betas)
    x0 = np.full(1000, x0, np.float64)
    xt = chain.noised(x0, EVERY_T, np.full(1000, eps, np.float64))
    outputs = {kind: chain.output(x0, xt, EVERY_T, kind) for kind in PREDICTIONS}
    with jax.enable_x64(True):
        there, back = there_and_back(double, outputs, xt)
    # float64: the derivation below with 2^-53 for 2^-24. The most comes of x_0 from ε at the end of the cosine schedule, where
    # 1/√ᾱ is 20,000, and of the score at its start, in which x_0 counts 24,000 times.
    np.testing.assert_allclose(there, [outputs[target] for _, target in PAIRS], rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(back, [outputs[source] for source, _ in PAIRS], rtol=1e-10, atol=1e-10)
    xt = xt.astype(np.float32)
    outputs = {kind: output.astype(np.float32) for kind, output in outputs.items()}
    _, back = there_and_back(single, outputs, xt)
    xt = xt.astype(np.float64)
    for (source, target), returned in zip(PAIRS, back, strict=True):
        output = outputs[source].astype(np.float64)
        meant = chain.converted(output, xt, EVERY_T, source, "x0")
        (of_source, x0_of_source, slope), (of_target, x0_of_target, other_slope) = (
            sizes(chain, meant, xt, kind) for kind in (source, target)
        )
        # float32: each table and each operation is rounded to 2^-24 of itself, at most six of them in a conversion, each of a
        # term of the sum that x_0 or the output is. There are four conversions: to x_0, to the target, to x_0 again and to the
        # source, where an error of x_0 counts `slope` times. The fewest digits are left to x_0 by way of ε at the end of the
        # schedule and to ε and the score by way of x_0 at its start.
        error = slope * (x0_of_source + of_target / other_slope + x0_of_target) + of_source
        # Below the least normal number there are no digits to keep.
        tiny = np.finfo(np.float32).tiny * (1 + slope * (1 + 1 / other_slope))
        assert np.all(np.abs(returned - output) <= 6 * ROUND_OFF * error + 8 * tiny), (source, target)


@pytest.mark.parametrize("variance", VARIANCES)
@pytest.mark.parametrize("prediction", ["eps", "mean"])
def test_mean_with_the_true_x0_is_that_of_the_posterior(prediction, variance):
    x0, eps = (0.3 * a.astype(np.float64) for a in inputs())
    with jax.enable_x64(True):
        xt = q_sample(SCHEDULE64, x0, TIMES, eps)
        posterior = q_posterior(SCHEDULE64, x0, xt, TIMES)
        truth = {"mean": posterior.mean, "eps": eps}[prediction]
        p, reconstruction = reverse(prediction, variance, None, SCHEDULE64, truth, xt, TIMES)
    # float64, no coefficient above 400 at these t
    np.testing.assert_allclose(p.mean, posterior.mean, rtol=0, atol=1e-12)
    np.testing.assert_allclose(reconstruction, x0, rtol=0, atol=1e-12)
    if variance == "fixed_small":
        np.testing.assert_array_equal(p.log_variance, posterior.log_variance)


@functools.partial(jax.jit, static_argnames="variance")
def log_variance(schedule, variance, value=0.0):
    """[T] log σ_t² at every t, where the network says `value` of it."""
    output = jnp.stack([jnp.zeros(1000), jnp.full(1000, value)][: 2 if variance in LEARNED else 1], axis=1)
    return p_mean_variance(schedule, output, output[:, :1], jnp.arange(1000), prediction="x0", variance=variance, clip=None)[0][
        1
    ][:, 0]


@pytest.mark.parametrize(("single", "double"), SCHEDULES)
def test_fixed_variances_are_the_posterior_s_and_beta_and_agree_at_the_first_step(single, double):
    small, large = (log_variance(single, kind) for kind in FIXED)
    betas = single.betas.astype(np.float64)
    noise = Chain(betas).noise_variance
    posterior = betas[1:] * noise[:-1] / noise[1:]
    # A log of up to 11 in float32, from betas that were themselves rounded: 11 · 2^-24 + 3 · 2^-24.
    np.testing.assert_allclose(small[1:], np.log(posterior), rtol=0, atol=1e-6)
    np.testing.assert_allclose(large[1:], np.log(betas[1:]), rtol=0, atol=1e-6)
    assert small[0] == large[0] == small[1]
    assert np.all(small[1:] < large[1:])


@pytest.mark.parametrize(("single", "double"), SCHEDULES)
def test_learned_range_reaches_from_the_posterior_s_variance_to_beta(single, double):
    lower, middle, upper = (np.asarray(log_variance(single, "learned_range", value)) for value in (-1.0, 0.0, 1.0))
    # Two products and their sum of numbers up to 11, and at the ends one of them nothing: 2^-24 · 11 · 2.
    np.testing.assert_allclose(lower, log_variance(single, "fixed_small"), rtol=0, atol=1.5e-6)
    # log β_t, at t = 0 too, where the fixed large one is something else
    np.testing.assert_allclose(upper, np.log(double.betas), rtol=0, atol=1.5e-6)
    np.testing.assert_allclose(middle, (lower + upper) / 2, rtol=0, atol=2e-6)
    # The line goes on beyond: nothing holds v in its range.
    np.testing.assert_allclose(log_variance(single, "learned_range", 3.0), 2 * upper - lower, rtol=0, atol=6e-6)


@given(value=st.floats(-12, 4, width=32, allow_subnormal=False))
def test_learned_variance_is_what_the_network_says(value):
    np.testing.assert_array_equal(log_variance(SCHEDULE, "learned", value), np.full(1000, value, np.float32))


@pytest.mark.parametrize("variance", LEARNED)
def test_what_is_said_of_the_variance_leaves_the_mean_and_x0_alone(variance):
    p, x0 = reverse("v", variance, None, SCHEDULE, *inputs(), TIMES)
    fixed, x0_beside = reverse("v", "fixed_small", None, SCHEDULE, *inputs(), TIMES)
    np.testing.assert_array_equal(p.mean, fixed.mean)
    np.testing.assert_array_equal(x0, x0_beside)


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5, 7, 9])
@pytest.mark.parametrize("variance", VARIANCES)
def test_output_with_another_number_of_channels_is_refused(variance, channels):
    output, xt = np.zeros((*SHAPE[:-1], channels), np.float32), inputs()[1]
    if (variance, channels) not in [(kind, 3) for kind in FIXED]:
        with pytest.raises(InvalidInput, match="channels"):
            p_mean_variance(SCHEDULE, output, xt, TIMES, prediction="eps", variance=variance, clip=None)


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


@pytest.mark.parametrize(
    "call",
    [
        lambda name, *arrays: to_x0(SCHEDULE, *arrays, TIMES, name),
        lambda name, *arrays: from_x0(SCHEDULE, *arrays, TIMES, name),
        lambda name, *arrays: convert(SCHEDULE, *arrays, TIMES, name, "eps"),
        lambda name, *arrays: convert(SCHEDULE, *arrays, TIMES, "eps", name),
        lambda name, *arrays: convert(SCHEDULE, *arrays, TIMES, name, name),
    ],
    ids=["to_x0", "from_x0", "source", "target", "both"],
)
@pytest.mark.parametrize(("given_name", "meant"), [("epsilon", "eps"), ("x_0", "x0"), ("scores", "score"), ("means", "mean")])
def test_unknown_prediction_is_refused_with_the_nearest_name(call, given_name, meant):
    message = rf"unknown prediction '{given_name}': expected one of eps, x0, v, mean, score\. Did you mean '{meant}'\?"
    with pytest.raises(InvalidInput, match=message):
        call(given_name, *inputs())


@pytest.mark.parametrize(
    ("given_name", "meant"),
    [("fixed-large", "fixed_large"), ("fixedsmall", "fixed_small"), ("learned-range", "learned_range"), ("learnt", "learned")],
)
def test_unknown_variance_is_refused_with_the_nearest_name(given_name, meant):
    output, xt = inputs()
    message = rf"unknown variance '{given_name}': expected one of {', '.join(VARIANCES)}\. Did you mean '{meant}'\?"
    with pytest.raises(InvalidInput, match=message):
        reverse("eps", given_name, None, SCHEDULE, output, xt, TIMES)
    with pytest.raises(InvalidInput, match=r"unknown prediction 'noise'"):
        reverse("noise", "fixed_large", None, SCHEDULE, output, xt, TIMES)


def threshold_reference(x0, quantile):
    """Saharia et al. 2022, section 2.3, an example at a time."""
    limits = [max(1.0, np.quantile(np.abs(example), quantile)) for example in x0]
    return np.stack([np.clip(example, -limit, limit) / limit for example, limit in zip(x0, limits, strict=True)])


@pytest.mark.parametrize("shape", [(5, 7), (3, 4, 4, 3), (2, 1)])
@pytest.mark.parametrize("quantile", [0.5, 0.9, 0.995, 1.0])
def test_dynamic_threshold_is_the_quantile_of_each_example_for_itself(shape, quantile):
    scales = np.array([0.2, 1.0, 3.0, 10.0, 0.9])[: shape[0]].reshape(-1, *[1] * (len(shape) - 1))
    x0 = (scales * np.random.default_rng(1).normal(size=shape)).astype(np.float32)
    expected = threshold_reference(x0.astype(np.float64), quantile)
    actual = jax.jit(dynamic_threshold(quantile))(x0)
    chex.assert_type(actual, jnp.float32)
    np.testing.assert_allclose(actual, expected, rtol=0, atol=8 * ROUND_OFF)  # numbers within ±1 after a few roundings
    assert np.abs(actual).max() <= 1
    inside = np.abs(x0).reshape(shape[0], -1).max(axis=1) <= 1  # examples within the range of the data stay as they are
    np.testing.assert_array_equal(np.asarray(actual)[inside], x0[inside])


def test_dynamic_threshold_keeps_ratios_that_the_static_clip_destroys():
    x0 = np.array([[0.5, -1.0, 2.0, 4.0]], np.float32)
    np.testing.assert_allclose(dynamic_threshold(1.0)(x0), x0 / 4)
    np.testing.assert_array_equal(static_clip(x0), [[0.5, -1.0, 1.0, 1.0]])


def test_dynamic_threshold_is_a_clip_like_any_other():
    output, xt = inputs()
    p, x0 = reverse("x0", "fixed_small", dynamic_threshold(0.9), SCHEDULE, 4 * output, xt, TIMES)
    expected = threshold_reference(4 * output.astype(np.float64), 0.9)
    np.testing.assert_allclose(x0, expected, rtol=0, atol=8 * ROUND_OFF)
    np.testing.assert_array_equal(p.mean, q_posterior(SCHEDULE, x0, xt, TIMES).mean)


@pytest.mark.parametrize("quantile", [0.0, -0.5, 1.5, 99.5, float("nan")])
def test_quantile_that_is_no_share_is_refused(quantile):
    with pytest.raises(InvalidInput, match=f"quantile={quantile}: expected a share"):
        dynamic_threshold(quantile)
