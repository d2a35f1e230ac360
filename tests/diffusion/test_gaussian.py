import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import parameterized
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate, linalg, stats

from jax_ddpm import (
    Gaussian,
    cosine_schedule,
    discretized_log_likelihood,
    gaussian_kl,
    linear_schedule,
    q_mean_variance,
    q_posterior,
    q_sample,
    schedule_from_betas,
)
from tests.agreement import assert_float64_agrees
from tests.references.chain import LOG_FLOOR, PIXELS, Chain, bin_log_probability, normal_kl

SCHEDULE, SCHEDULE64 = linear_schedule(1000), linear_schedule(1000, dtype=np.float64)
CHAIN = Chain(SCHEDULE64.betas)
TIMES = np.array([0, 1, 2, 250, 998, 999])
SHAPE = (6, 4, 3)


def inputs(seed: int = 0) -> tuple[np.ndarray, ...]:
    """x0 on the pixel grid, xt, eps, all float32 [6, 4, 3]."""
    rng = np.random.default_rng(seed)
    xt, eps = rng.normal(size=(2, *SHAPE)).astype(np.float32)
    return rng.choice(PIXELS, SHAPE).astype(np.float32), xt, eps


def a_gaussian(xt, eps) -> Gaussian:
    """Any Gaussian whose deviation is not small beside a pixel: its log-variance is in -4 … 0, [B, 4, 1]."""
    return Gaussian(0.3 * xt, -2 + 2 * jnp.sin(eps[..., :1]))


def q_mean_variance_reference(x0, xt, eps, t):
    mean, origin = CHAIN.noised(x0, t, 0 * eps), CHAIN.noised(0 * x0, t, np.ones_like(eps))
    return mean, 2 * np.log(origin[:, :1, :1])


def q_posterior_reference(x0, xt, eps, t):
    return CHAIN.posterior(x0, xt, t)[0], np.log(CHAIN.reverse_variance(t, x0, "fixed_small"))


def gaussian_kl_reference(x0, xt, eps, t):
    return normal_kl(0.3 * xt, np.exp(-2 + 2 * np.sin(eps[..., :1])), x0, np.exp(-2 + 2 * np.sin(xt[..., :1])))


def discretized_reference(x0, xt, eps, t):
    return bin_log_probability(x0, 0.3 * xt, np.exp(-1 + np.sin(eps[..., :1])))


# name, the function of (schedule, x0, xt, eps, t), its reference, the shape of each result, and the float32 tolerance:
FUNCTIONS = (
    # two products below 5 and their sum, a rounding of 2^-24 each and one for each table,
    (
        "q_sample",
        lambda s, x0, xt, eps, t: q_sample(s, x0, t, eps),
        lambda x0, xt, eps, t: CHAIN.noised(x0, t, eps),
        SHAPE,
        1.5e-6,
    ),
    # one product, and a log-variance of up to 10, once rounded,
    (
        "q_mean_variance",
        lambda s, x0, xt, eps, t: q_mean_variance(s, x0, t),
        q_mean_variance_reference,
        (SHAPE, (6, 1, 1)),
        1e-6,
    ),
    # the same,
    ("q_posterior", lambda s, x0, xt, eps, t: q_posterior(s, x0, xt, t), q_posterior_reference, (SHAPE, (6, 1, 1)), 1.5e-6),
    # values of up to 100, a few roundings of the exponents,
    (
        "gaussian_kl",
        lambda s, x0, xt, eps, t: gaussian_kl(a_gaussian(xt, eps), Gaussian(x0, a_gaussian(xt, xt).log_variance)),
        gaussian_kl_reference,
        SHAPE,
        3e-5,
    ),
    # a difference of two numbers near .5 that is about .003: 2^-24 / .003 = 2e-5, more in the tails.
    (
        "discretized_log_likelihood",
        lambda s, x0, xt, eps, t: discretized_log_likelihood(x0, a_gaussian(xt, eps)),
        discretized_reference,
        SHAPE,
        2e-4,
    ),
)


class EveryFunction(chex.TestCase):
    @chex.all_variants
    @parameterized.named_parameters(*FUNCTIONS)
    def test_float32_agrees_with_the_float64_reference(self, ours, reference, shapes, tolerance):
        actual = self.variant(ours)(SCHEDULE, *inputs(), TIMES)
        expected = reference(*(a.astype(np.float64) for a in inputs()), TIMES)
        chex.assert_type(jax.tree.leaves(actual), jnp.float32)
        chex.assert_tree_all_finite(actual)
        chex.assert_shape(jax.tree.leaves(actual), [shapes] if isinstance(shapes[0], int) else shapes)
        for ours_part, reference_part in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(ours_part, reference_part, rtol=0, atol=tolerance)


@pytest.mark.parametrize(("ours", "reference"), [f[1:3] for f in FUNCTIONS], ids=[f[0] for f in FUNCTIONS])
def test_float64_agrees_with_the_reference(ours, reference):
    assert_float64_agrees(ours, reference, SCHEDULE64, inputs(), TIMES)


@pytest.mark.parametrize("ours", [f[1] for f in FUNCTIONS], ids=[f[0] for f in FUNCTIONS])
def test_mapping_over_batches_gives_each_its_own_result(ours):
    batches = [inputs(seed) for seed in range(4)]
    times = np.stack([np.roll(TIMES, shift) for shift in range(4)])
    stacked = [np.stack(parts) for parts in zip(*batches, strict=True)]
    one_by_one = [jax.jit(ours)(SCHEDULE, *batch, t) for batch, t in zip(batches, times, strict=True)]
    expected = jax.tree.map(lambda *parts: np.stack(parts), *one_by_one)
    for transform in (jax.vmap, jax.pmap):
        mapped = jax.jit(transform(ours, in_axes=(None, 0, 0, 0, 0)))(SCHEDULE, *stacked, times)
        # The same float32 arithmetic, vectorised otherwise; in the tail of a bin that shows in the fifth digit.
        chex.assert_trees_all_close(mapped, expected, rtol=2e-5, atol=1e-6)


def joint_of_the_chain(chain: Chain, x0: float) -> tuple[np.ndarray, np.ndarray]:
    """Mean [T] and covariance [T, T] of (x_1, …, x_T) given x_0, solved from x_t = √α_t x_{t-1} + √β_t ε_t."""
    roots = np.sqrt(1 - chain.betas)
    steps = np.eye(chain.steps) - np.diag(roots[1:], -1)  # steps @ x = (√α_1 x_0, 0, …) + noise
    inverse = linalg.solve_triangular(steps, np.eye(chain.steps), lower=True)
    return inverse[:, 0] * roots[0] * x0, inverse * chain.betas @ inverse.T


@pytest.mark.parametrize(
    ("schedule", "times"),
    [
        (schedule_from_betas([1e-3, 0.1, 0.02, 0.5, 0.9, 0.3], np.float64), range(1, 6)),
        (SCHEDULE64, [1, 2, 499, 998, 999]),
        (cosine_schedule(1000, dtype=np.float64), [1, 2, 499, 998, 999]),
    ],
    ids=["small", "linear", "cosine"],
)
def test_posterior_is_the_joint_gaussian_conditioned_on_xt(schedule, times):
    x0, xt = 0.7, -1.3
    mean, covariance = joint_of_the_chain(Chain(schedule.betas), x0)
    t = np.array(list(times))
    with jax.enable_x64(True):
        posterior = q_posterior(schedule, jnp.full(t.shape, x0), jnp.full(t.shape, xt), t)
    slope = covariance[t - 1, t] / covariance[t, t]
    # float64 with about a thousand products in the joint: 1e-16 · 1000 and the digits that 1 - ᾱ_t loses.
    np.testing.assert_allclose(posterior.mean, mean[t - 1] + slope * (xt - mean[t]), rtol=1e-10)
    np.testing.assert_allclose(
        np.exp(posterior.log_variance), covariance[t - 1, t - 1] - slope * covariance[t, t - 1], rtol=1e-9
    )


def test_posterior_of_the_first_step_is_x0_itself():
    x0, xt, _ = inputs()
    posterior = q_posterior(SCHEDULE, x0, xt, np.zeros(6, int))
    np.testing.assert_array_equal(posterior.mean, x0)
    np.testing.assert_array_equal(posterior.log_variance, np.full((6, 1, 1), SCHEDULE.posterior_log_variance[1]))


@pytest.mark.parametrize("schedule", [SCHEDULE64, cosine_schedule(1000, dtype=np.float64)], ids=["linear", "cosine"])
def test_one_stride_equals_all_the_single_steps(schedule):
    x0, mean, variance, means, variances = 0.7, 0.7, 0.0, [], []
    for beta in schedule.betas:
        mean, variance = math.sqrt(1 - beta) * mean, (1 - beta) * variance + beta
        means.append(mean)
        variances.append(variance)
    every_t = np.arange(1000)
    with jax.enable_x64(True):
        stride = q_mean_variance(schedule, jnp.full(1000, x0), every_t)
        drawn_mean = q_sample(schedule, jnp.full(1000, x0), every_t, jnp.zeros(1000))
        drawn_deviation = q_sample(schedule, jnp.zeros(1000), every_t, jnp.ones(1000))
    # A thousand roundings of 1e-16 on either side, and 1 - ᾱ_0 = 4e-5 by subtraction.
    np.testing.assert_allclose(stride.mean, means, rtol=1e-11)
    np.testing.assert_allclose(np.exp(stride.log_variance), variances, rtol=1e-11)
    np.testing.assert_allclose(drawn_mean, means, rtol=1e-11)
    np.testing.assert_allclose(drawn_deviation**2, variances, rtol=1e-11)


PAIRS = [
    ((0.0, 0.0), (0.0, 0.0)),
    ((0.3, -1.0), (-0.2, 0.5)),
    ((-2.0, 1.0), (1.0, -1.0)),
    ((0.5, -9.8), (0.503, -9.2)),
    ((0.1, -3.0), (0.1, -2.999)),
    ((1.0, 2.0), (1.0, -1.0)),
]


@pytest.mark.parametrize(("p", "q"), PAIRS)
def test_kl_is_the_integral_that_defines_it(p, q):
    (mean, spread), other = (p[0], math.exp(p[1] / 2)), (q[0], math.exp(q[1] / 2))

    def integrand(x):
        log_p = stats.norm.logpdf(x, mean, spread)
        return math.exp(log_p) * (log_p - stats.norm.logpdf(x, *other))

    expected, _ = integrate.quad(integrand, mean - 12 * spread, mean + 12 * spread, epsabs=1e-13, epsrel=1e-12, limit=200)
    with jax.enable_x64(True):
        double = gaussian_kl(Gaussian(*map(jnp.asarray, p)), Gaussian(*map(jnp.asarray, q)))
    single = gaussian_kl(Gaussian(*map(jnp.float32, p)), Gaussian(*map(jnp.float32, q)))
    np.testing.assert_allclose(double, expected, rtol=1e-9, atol=1e-12)  # that of the quadrature
    # A log-variance of 9 is rounded to 5e-7, a mean difference of .003 to 1e-5 of itself.
    np.testing.assert_allclose(single, expected, rtol=3e-5, atol=1e-9)


REAL = st.floats(-5, 5, width=32)
JITTED_KL = jax.jit(gaussian_kl)


@given(mean=st.just(0.0) | REAL, log_variance=REAL, log_ratio=st.floats(-0.25, 0.25, width=32) | st.floats(-10, 10, width=32))
def test_kl_is_never_negative(mean, log_variance, log_ratio):
    p = Gaussian(jnp.float32(0), jnp.float32(log_variance + log_ratio))
    kl = JITTED_KL(p, Gaussian(jnp.float32(mean), jnp.float32(log_variance)))
    # Round-off of the log-ratio r, at most 10, against expm1(r): 2^-23 of the larger of them.
    assert kl >= -(2.0**-23) * max(1.0, math.exp(log_ratio))


@given(REAL, st.floats(-20, 5, width=32))
def test_kl_of_a_gaussian_to_itself_is_zero(mean, log_variance):
    p = Gaussian(jnp.float32(mean), jnp.float32(log_variance))
    assert JITTED_KL(p, p) == 0


def test_kl_broadcasts_log_variances_over_means():
    p = Gaussian(jnp.zeros((2, 3, 4)), jnp.zeros((2, 1, 1)))
    q = Gaussian(jnp.ones((2, 3, 4)), jnp.full((1, 1, 1), math.log(2.0)))
    kl = gaussian_kl(p, q)
    chex.assert_shape(kl, (2, 3, 4))
    np.testing.assert_allclose(kl, normal_kl(0.0, 1.0, 1.0, 2.0), rtol=1e-6)  # a few roundings of 2^-24


@pytest.mark.parametrize("deviation", [0.01, 0.1, 1.0, 10.0])
@pytest.mark.parametrize("mean", [-1.5, -1.0, -0.2, 0.0, 0.7, 1.0, 1.5])
def test_log_likelihood_of_each_pixel_is_a_difference_of_cdfs(mean, deviation):
    expected = bin_log_probability(PIXELS, mean, deviation)
    with jax.enable_x64(True):
        double = discretized_log_likelihood(
            jnp.asarray(PIXELS), Gaussian(jnp.full(256, mean), jnp.full(256, 2 * math.log(deviation)))
        )
    p = Gaussian(jnp.full(256, jnp.float32(mean)), jnp.full(256, jnp.float32(2 * math.log(deviation))))
    single = discretized_log_likelihood(jnp.asarray(PIXELS, jnp.float32), p)
    chex.assert_type(single, jnp.float32)
    # float64: the difference of two cdfs, 1e-16 / 3e-4 at the widest deviation, and 7 times that in the tail.
    np.testing.assert_allclose(double, expected, rtol=0, atol=1e-10)
    # float32: a pixel is rounded to 2^-24, so z = x/σ to 6e-6 at σ = .01, and d log p / dz is at most 7; at σ = 10
    # a bin has the probability 3e-4, the difference of two numbers near .5 rounded to 2^-25: 2e-4 of it.
    np.testing.assert_allclose(single, expected, rtol=0, atol=4e-4)


def test_log_likelihood_far_from_the_mean_stops_at_the_floor():
    x0 = jnp.array([-1.0, -1.0 + 2 / 255, 0.0, 1.0 - 2 / 255, 1.0])
    far = discretized_log_likelihood(x0, Gaussian(jnp.array([1.0, 1.0, 1.0, -1.0, -1.0]), jnp.full(5, -9.0)))
    np.testing.assert_allclose(far, np.full(5, LOG_FLOOR), rtol=1e-6)  # log 1e-12 in float32


def test_end_bins_are_open():
    beyond = discretized_log_likelihood(jnp.array([-1.0, 1.0]), Gaussian(jnp.array([-3.0, 3.0]), jnp.full(2, -4.0)))
    np.testing.assert_array_equal(beyond, np.zeros(2))  # all the mass lies outside ±1, in the end bin


@given(mean=st.floats(-3, 3, width=32), log_deviation=st.floats(-6, 3, width=32))
def test_probabilities_of_the_256_pixels_sum_to_one(mean, log_deviation):
    with jax.enable_x64(True):
        p = Gaussian(jnp.full(256, mean, jnp.float64), jnp.full(256, 2 * log_deviation, jnp.float64))
        double = jnp.exp(discretized_log_likelihood(jnp.asarray(PIXELS), p)).sum()
    p = Gaussian(jnp.full(256, mean, jnp.float32), jnp.full(256, 2 * log_deviation, jnp.float32))
    single = jnp.exp(discretized_log_likelihood(jnp.asarray(PIXELS, jnp.float32), p)).sum()
    # The floor adds 1e-12 to each bin, 256e-12 in all.
    np.testing.assert_allclose(double, 1, rtol=0, atol=4e-10)
    # float32: each bin finds the edge that it shares with the next by itself, so that they differ by about 2^-23 in x and
    # 2^-23/σ in z. Times the density .4 that is below 2^-22/σ for a narrow Gaussian, of which few edges count; for a wide
    # one the density summed over the edges is 127 σ: 1.5e-5 in all. The 256 differences add 2^-24 each, 1.5e-5 again.
    np.testing.assert_allclose(single, 1, rtol=0, atol=4e-5 + 2.0**-22 / math.exp(log_deviation))
