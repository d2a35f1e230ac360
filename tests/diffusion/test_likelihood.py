import functools
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_ddpm import VLB, bits_per_dim, linear_schedule, prior_kl, schedule_from_betas, static_clip, vlb_terms
from jax_ddpm.diffusion.schedules import at
from tests.references import PIXELS, Chain, bin_log_probability, normal_kl, small_network

BETAS = np.linspace(0.002, 0.3, 12)
SCHEDULE, SCHEDULE64 = schedule_from_betas(BETAS), schedule_from_betas(BETAS, np.float64)
CHAIN = Chain(BETAS)
SHAPE = (5, 4, 3)
KEY = jax.random.key(7)
NETWORK, NUMPY_NETWORK = small_network(jnp, 3), small_network(np, 3)
KINDS = [(prediction, variance) for prediction in ("eps", "x0") for variance in ("fixed_small", "fixed_large")]


def pixels(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).choice(PIXELS, SHAPE).astype(np.float32)


def prior_reference(chain, x0):
    share, noise = chain.alphas_bar[-1], chain.noise_variance[-1]
    return normal_kl(np.sqrt(share) * x0, noise, 0.0, 1.0).reshape(len(x0), -1).sum(axis=1)


def bound_reference(prediction, variance, x0, key, dtype):
    """Every term in float64, with the noise that the bound draws: that of fold_in(key, t)."""
    terms = []
    for t in range(CHAIN.steps):
        eps = np.asarray(jax.random.normal(jax.random.fold_in(key, t), x0.shape, dtype), np.float64)
        terms.append(CHAIN.bound_term(NUMPY_NETWORK, x0, np.full(len(x0), t), eps, prediction=prediction, variance=variance))
    return VLB(prior_reference(CHAIN, x0), np.stack([0 * terms[0], *terms[1:]]), terms[0])


def bound(prediction, variance, schedule, x0, key):
    return vlb_terms(schedule, NETWORK, x0, key, prediction=prediction, variance=variance)


class EveryTerm(chex.TestCase):
    @chex.variants(with_jit=True, without_jit=True, with_pmap=True)
    def test_bound_agrees_with_the_float64_reference(self):
        prediction, variance = "eps", "fixed_large"

        def from_data(schedule, x0, key_data):
            return bound(prediction, variance, schedule, x0, jax.random.wrap_key_data(key_data))

        vlb = self.variant(from_data)(SCHEDULE, pixels(), jax.random.key_data(KEY))
        assert isinstance(vlb, VLB)
        chex.assert_shape([vlb.prior, vlb.kl, vlb.decoder, vlb.total], [(5,), (12, 5), (5,), (5,)])
        chex.assert_type(list(vlb), jnp.float32)
        chex.assert_tree_all_finite(vlb)
        expected = bound_reference(prediction, variance, pixels().astype(np.float64), KEY, jnp.float32)
        # Sums of twelve squares of differences that float32 knows to 1e-5 of themselves, as for the losses.
        chex.assert_trees_all_close(vlb, jax.tree.map(np.float32, expected), rtol=1e-4)
        np.testing.assert_allclose(vlb.total, expected.total, rtol=1e-4)
        np.testing.assert_array_equal(vlb.kl[0], np.zeros(5))

    @chex.all_variants
    def test_prior_agrees_with_the_float64_reference(self):
        prior = self.variant(prior_kl)(SCHEDULE, pixels())
        chex.assert_shape(prior, (5,))
        chex.assert_type(prior, jnp.float32)
        np.testing.assert_allclose(prior, prior_reference(CHAIN, pixels().astype(np.float64)), rtol=1e-5)  # a sum of 12 terms

    @chex.all_variants
    def test_bits_per_dim_divides_the_total_by_the_dimensions_and_log_two(self):
        vlb = VLB(jnp.array([1.0, 2.0]), jnp.array([[0.0, 0.0], [3.0, 4.0], [5.0, 6.0]]), jnp.array([7.0, 8.0]))
        bits = self.variant(lambda v: bits_per_dim(v, (4, 2, 1)))(vlb)
        chex.assert_shape(bits, (2,))
        chex.assert_type(bits, jnp.float32)
        np.testing.assert_allclose(bits, [16 / 8 / math.log(2), 20 / 8 / math.log(2)], rtol=1e-6)  # float32 round-off


# float32 as above; float64 keeps the 12 digits of the tables
@pytest.mark.parametrize(("schedule", "dtype", "tolerance"), [(SCHEDULE, "float32", 1e-4), (SCHEDULE64, "float64", 1e-10)])
@pytest.mark.parametrize(("prediction", "variance"), KINDS)
def test_every_kind_of_bound_agrees_with_the_reference(prediction, variance, schedule, dtype, tolerance):
    x0 = pixels().astype(dtype)
    with jax.enable_x64(dtype == "float64"):
        vlb = jax.jit(functools.partial(bound, prediction, variance))(schedule, x0, KEY)
        expected = bound_reference(prediction, variance, x0.astype(np.float64), KEY, dtype)
        bits = bits_per_dim(vlb, SHAPE[1:])
    chex.assert_type(list(vlb), np.dtype(dtype))
    chex.assert_trees_all_close(vlb, jax.tree.map(np.dtype(dtype).type, expected), rtol=tolerance)
    np.testing.assert_allclose(bits, expected.total / 12 / np.log(2), rtol=tolerance)


def test_mapping_over_keys_and_batches_gives_each_its_own_bound():
    keys, batches = jax.random.split(KEY, 4), np.stack([pixels(seed) for seed in range(4)])
    one = functools.partial(bound, "eps", "fixed_small")
    one_by_one = [jax.jit(one)(SCHEDULE, batch, key) for batch, key in zip(batches, keys, strict=True)]
    expected = jax.tree.map(lambda *parts: np.stack(parts), *one_by_one)
    for transform in (jax.vmap, jax.pmap):
        mapped = jax.jit(transform(one, in_axes=(None, 0, 0)))(SCHEDULE, batches, keys)
        chex.assert_trees_all_close(mapped, expected, rtol=1e-4)  # the float32 error of one term, as above


def test_clip_reaches_every_term():
    @functools.partial(jax.jit, static_argnums=1)
    def constant_guess(guess, clip):
        return vlb_terms(SCHEDULE, lambda xt, t: jnp.full(xt.shape, guess), pixels(), KEY, prediction="x0", clip=clip)

    free, clipped, edge = constant_guess(3.0, None), constant_guess(3.0, static_clip), constant_guess(1.0, None)
    chex.assert_trees_all_close(clipped, edge, rtol=1e-6)  # the same numbers, in two compilations
    assert np.all(free.total > 2 * clipped.total)


@pytest.mark.parametrize(
    ("second_moment", "bits", "digit"), [(0.0, 5.9e-10, 0.05e-10), (0.25, 7.28e-6, 0.005e-6), (1.0, 2.91e-5, 0.005e-5)]
)
def test_prior_of_linear_1000_has_the_known_size(second_moment, bits, digit):
    x0 = math.sqrt(second_moment) * np.where(np.arange(2 * 8 * 8 * 3) % 2, 1.0, -1.0).reshape(2, 8, 8, 3)
    single = jax.jit(prior_kl)(linear_schedule(1000), x0.astype(np.float32)) / (192 * math.log(2))
    with jax.enable_x64(True):
        double = jax.jit(prior_kl)(linear_schedule(1000, dtype=np.float64), x0) / (192 * math.log(2))
    share = math.exp(math.fsum(math.log1p(-(1e-4 + 0.0199 * i / 999)) for i in range(1000)))
    exact = (share * second_moment - share - math.log1p(-share)) / 2 / math.log(2)
    assert exact == pytest.approx(bits, abs=digit)  # half a unit of the last digit printed
    # float64 and then float32: log(1 - ᾱ) = -4e-5 is rounded to 2^-53 and 2^-25 of itself, and 4e-10 is what is left of it.
    np.testing.assert_allclose(double, [exact, exact], rtol=1e-9)
    np.testing.assert_allclose(single, [exact, exact], rtol=1e-5, atol=4e-5 * 2.0**-24)


DIMENSIONS, BATCH, SPREAD = 64, 256, 0.35
LEVEL_MASS = np.exp(bin_log_probability(PIXELS, 0.0, SPREAD))


def gaussian_pixels() -> np.ndarray:
    """N(0, .35²) rounded to the 256 levels, float32 [256, 64]."""
    draw = np.random.default_rng(3).choice(256, (BATCH, DIMENSIONS), p=LEVEL_MASS / LEVEL_MASS.sum())
    return PIXELS[draw].astype(np.float32)


@functools.partial(jax.jit, static_argnames="variance")
def exact_bound(schedule, x0, variance):
    """The bound by the best denoiser of N(0, .35²), on rounded data."""

    def x0_mean(xt, t):
        signal, noise = at(schedule.sqrt_alphas_bar, t, xt), at(schedule.sqrt_one_minus_alphas_bar, t, xt)
        return signal * SPREAD**2 / (signal**2 * SPREAD**2 + noise**2) * xt

    return vlb_terms(schedule, x0_mean, x0, KEY, prediction="x0", variance=variance)


@pytest.mark.parametrize("variance", ["fixed_small", "fixed_large"])
def test_every_term_has_the_mean_that_follows_from_gaussian_data(variance):
    steps = 100
    vlb = exact_bound(linear_schedule(steps), gaussian_pixels(), variance)
    chain = Chain(linear_schedule(steps, dtype=np.float64).betas)
    t = np.arange(steps)
    share, noise = chain.alphas_bar, chain.noise_variance
    # x_0 - E[x_0 | x_t] = (1 - g √ᾱ) x_0 - g √(1-ᾱ) ε, where x_0 has the second moment of the rounded data.
    gain = np.sqrt(share) * SPREAD**2 / (share * SPREAD**2 + noise)
    second_moment = (LEVEL_MASS * PIXELS**2).sum()
    error = (1 - gain * np.sqrt(share)) ** 2 * second_moment + gain**2 * noise
    from_x0 = chain.posterior(np.ones(steps), np.zeros(steps), t)[0]
    posterior = chain.posterior(np.ones(steps), np.zeros(steps), t)[1]
    allowed = chain.reverse_variance(t, t, variance)
    ratio = posterior[1:] / allowed[1:]
    expected = DIMENSIONS * (ratio - 1 - np.log(ratio) + from_x0[1:] ** 2 * error[1:] / allowed[1:]) / 2
    # 256 images of 64 pixels a term, their own spread over √256 for the error; five of it, for 99 terms at once.
    standard_error = np.std(vlb.kl[1:], axis=1) / math.sqrt(BATCH)
    assert np.all(np.abs(vlb.kl[1:].mean(axis=1) - expected) < 5 * standard_error + 1e-4 * expected)


def gaps(steps, beta_start):
    """How far, in bits per dimension and in the mean, the bound lies above the exact likelihood and its rate above its least.

    The rate, prior and KLs together, is no less than what x_1 tells of x_0: ½ log2(1 + SNR_0 s²) bits.
    """
    x0, schedule = gaussian_pixels(), linear_schedule(steps, beta_start)
    vlb = exact_bound(schedule, x0, "fixed_large")
    exact = -bin_log_probability(x0, 0.0, SPREAD).sum(axis=1) / (DIMENSIONS * math.log(2))
    total = np.asarray(bits_per_dim(vlb, (DIMENSIONS,)), np.float64) - exact
    # In the mean over the data the bound lies above the likelihood; 256 draws may say otherwise by four standard errors.
    assert total.mean() > -4 * total.std() / math.sqrt(BATCH)
    rate = np.asarray(vlb.prior + vlb.kl.sum(axis=0), np.float64) / (DIMENSIONS * math.log(2))
    return total.mean(), rate.mean() - math.log2(1 + (1 / float(schedule.betas[0]) - 1) * SPREAD**2) / 2


def test_bound_lies_above_the_exact_likelihood_and_closes_in_on_it():
    by_default = [gaps(steps, 1e-4) for steps in (10, 100, 1000)]
    from_less_noise = [gaps(steps, 2e-5) for steps in (10, 100, 1000)]
    # The steps cost what a Gaussian of fixed variance lacks; a tenth with ten times as many of them, give or take the noise.
    for rates in ([rate for _, rate in by_default], [rate for _, rate in from_less_noise]):
        assert rates[0] > 5 * rates[1] > 0
        assert rates[1] > 5 * rates[2]
    # So does the whole bound fall where the decoder fits. Its σ² is β̃_2 where Var(x_0 | x_1) = β_1 would be right: from 1e-4
    # on β_2/β_1 falls to 1 as T grows and β̃_2 to β_1/2, which costs .1 bit at T = 1000; from 2e-5 on it falls to 2 only.
    totals = [total for total, _ in from_less_noise]
    assert totals[0] > 5 * totals[1] > 0
    assert totals[1] > totals[2]
    assert abs(totals[2]) < 0.03
    assert by_default[2][0] == pytest.approx(0.11, abs=0.05)
