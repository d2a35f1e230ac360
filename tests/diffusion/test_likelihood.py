import functools
import itertools
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jax_ddpm import (
    VLB,
    RateDistortion,
    bits_per_dim,
    kl_loss,
    linear_schedule,
    prior_kl,
    rate_distortion,
    schedule_from_betas,
    static_clip,
    vlb_terms,
    x0_loss,
)
from jax_ddpm.diffusion.likelihood import stretches
from jax_ddpm.diffusion.schedules import at
from jax_ddpm.errors import InvalidInput
from tests.references.chain import PIXELS, PREDICTIONS, VARIANCES, Chain, bin_log_probability, mean_over_example, normal_kl
from tests.references.denoisers import small_network
from tests.references.known_data import GaussianData

BETAS = np.linspace(0.002, 0.3, 12)
SCHEDULE, SCHEDULE64 = schedule_from_betas(BETAS), schedule_from_betas(BETAS, np.float64)
CHAIN = Chain(BETAS)
SHAPE = (5, 4, 3)
KEY = jax.random.key(7)
KINDS = [(prediction, variance) for prediction in PREDICTIONS for variance in VARIANCES]


def network(xp, variance):
    """One that says the variance too where that is learned."""
    return small_network(xp, 3, 6 if variance.startswith("learned") else 3)


def pixels(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).choice(PIXELS, SHAPE).astype(np.float32)


def prior_reference(chain, x0):
    share, noise = chain.alphas_bar[-1], chain.noise_variance[-1]
    return normal_kl(np.sqrt(share) * x0, noise, 0.0, 1.0).reshape(len(x0), -1).sum(axis=1)


def bound_reference(prediction, variance, x0, key, dtype):
    """Every term in float64, with the noise that the bound draws: that of fold_in(key, t)."""
    terms, x0_mse, denoiser = [], [], network(np, variance)
    for t in range(CHAIN.steps):
        eps, when = np.asarray(jax.random.normal(jax.random.fold_in(key, t), x0.shape, dtype), np.float64), np.full(len(x0), t)
        terms.append(CHAIN.bound_term(denoiser, x0, when, eps, prediction=prediction, variance=variance))
        xt = CHAIN.noised(x0, when, eps)
        _, _, predicted_x0 = CHAIN.reverse(denoiser(xt, when), xt, when, prediction=prediction, variance=variance)
        x0_mse.append(mean_over_example((x0 - predicted_x0) ** 2))
    return VLB(prior_reference(CHAIN, x0), np.stack([0 * terms[0], *terms[1:]]), terms[0], np.stack(x0_mse))


def bound(prediction, variance, schedule, x0, key):
    return vlb_terms(schedule, network(jnp, variance), x0, key, prediction=prediction, variance=variance)


class EveryTerm(chex.TestCase):
    @chex.variants(with_jit=True, without_jit=True, with_pmap=True)
    def test_bound_agrees_with_the_float64_reference(self):
        prediction, variance = "eps", "fixed_large"

        def from_data(schedule, x0, key_data):
            return bound(prediction, variance, schedule, x0, jax.random.wrap_key_data(key_data))

        vlb = self.variant(from_data)(SCHEDULE, pixels(), jax.random.key_data(KEY))
        assert isinstance(vlb, VLB)
        chex.assert_shape([vlb.prior, vlb.kl, vlb.decoder, vlb.x0_mse, vlb.total], [(5,), (12, 5), (5,), (12, 5), (5,)])
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
        kl = jnp.array([[0.0, 0.0], [3.0, 4.0], [5.0, 6.0]])
        vlb = VLB(jnp.array([1.0, 2.0]), kl, jnp.array([7.0, 8.0]), jnp.full((3, 2), 9.0))
        bits = self.variant(lambda v: bits_per_dim(v, (4, 2, 1)))(vlb)
        chex.assert_shape(bits, (2,))
        chex.assert_type(bits, jnp.float32)
        np.testing.assert_allclose(bits, [16 / 8 / math.log(2), 20 / 8 / math.log(2)], rtol=1e-6)  # float32 round-off

    @chex.variants(with_jit=True, without_jit=True)
    def test_rate_and_distortion_are_what_plain_loops_say(self):
        rng = np.random.default_rng(4)
        kl, x0_mse = rng.uniform(size=(2, 4, 3)).astype(np.float32)
        kl[0] = 0
        vlb = VLB(np.array([1.0, 2.0, 4.0], np.float32), kl, np.full(3, 7.0, np.float32), x0_mse)
        found = self.variant(lambda v: rate_distortion(v, (4, 2, 1)))(vlb)
        assert isinstance(found, RateDistortion)
        chex.assert_shape([found.rate, found.rmse], (4,))
        rate, rmse = [], []
        for t in range(4):
            nats = [vlb.prior[image].item() for image in range(3)]
            squares = []
            for image in range(3):
                for s in range(t + 1, 4):  # x_t is known when all the steps from x_T to it have been sent
                    nats[image] += kl[s, image].item()
                squares.append((255 / 2) ** 2 * x0_mse[t, image].item())
            rate.append(sum(nats) / 3 / 8 / math.log(2))
            rmse.append(math.sqrt(sum(squares) / 3))
        np.testing.assert_allclose(found.rate, rate, rtol=1e-6)  # a few roundings of float32
        np.testing.assert_allclose(found.rmse, rmse, rtol=1e-6)


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


def test_terms_are_the_losses_at_each_t():
    vlb = bound("v", "learned_range", SCHEDULE, pixels(), KEY)
    for t in (0, 4, 11):
        eps, when = jax.random.normal(jax.random.fold_in(KEY, t), SHAPE), np.full(5, t)
        arguments = SCHEDULE, network(jnp, "learned_range"), pixels(), when, eps
        term = kl_loss(*arguments, prediction="v", variance="learned_range")
        np.testing.assert_allclose(vlb.decoder if t == 0 else vlb.kl[t], term, rtol=1e-4)  # the float32 error of one term
        np.testing.assert_allclose(vlb.x0_mse[t], x0_loss(*arguments, prediction="v"), rtol=1e-5)


def test_rate_begins_with_the_prior_and_ends_with_all_but_the_decoder():
    vlb = bound("eps", "fixed_small", SCHEDULE, pixels(), KEY)
    rate, rmse = rate_distortion(vlb, SHAPE[1:])
    whole = bits_per_dim(vlb, SHAPE[1:]).mean() - vlb.decoder.mean() / 12 / math.log(2)
    np.testing.assert_allclose(rate[-1], vlb.prior.mean() / 12 / math.log(2), rtol=1e-6)
    np.testing.assert_allclose(rate[0], whole, rtol=1e-5)  # sums of twelve terms in another order
    assert np.all(np.diff(rate) < 0)
    np.testing.assert_allclose(rmse, 255 / 2 * np.sqrt(vlb.x0_mse.mean(axis=1)), rtol=1e-6)


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
    np.testing.assert_allclose(clipped.x0_mse, np.broadcast_to(mean_over_example((pixels() - 1) ** 2), (12, 5)), rtol=1e-6)


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


@functools.partial(jax.jit, static_argnames=("variance", "draws"))
def exact_bound(schedule, x0, variance, draws=0):
    """The bound by the best denoiser of N(0, .35²), on rounded data."""

    def x0_mean(xt, t):
        signal, noise = at(schedule.sqrt_alphas_bar, t, xt), at(schedule.sqrt_one_minus_alphas_bar, t, xt)
        return signal * SPREAD**2 / (signal**2 * SPREAD**2 + noise**2) * xt

    return vlb_terms(schedule, x0_mean, x0, KEY, prediction="x0", variance=variance, draws=draws)


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


def test_terms_that_are_drawn_stand_for_all_of_them():
    steps, draws = 100, 7
    every = exact_bound(linear_schedule(steps), gaussian_pixels(), "fixed_large")
    few = exact_bound(linear_schedule(steps), gaussian_pixels(), "fixed_large", draws)
    first, widths = stretches(steps, draws)
    for low, width in zip(first[1:], widths[1:], strict=True):
        rows = np.asarray(few.kl[low : low + width])
        assert np.all((rows != 0).sum(axis=0) == 1)  # one time of the stretch for each image
        seen = (rows != 0).sum(axis=1)
        assert seen.max() - seen.min() <= 1  # each time by as many images
    difference = np.asarray(few.total - every.total, np.float64)
    spread = difference.std() / math.sqrt(BATCH)
    assert abs(difference.mean()) < 4 * spread
    assert spread < 0.05 * np.mean(every.total)  # so the mean says something
    np.testing.assert_allclose(few.kl.mean(axis=1).sum(), every.kl.mean(axis=1).sum(), rtol=0.1)
    np.testing.assert_allclose(few.x0_mse.mean(axis=1).sum(), every.x0_mse.mean(axis=1).sum(), rtol=0.1)


def test_as_many_draws_as_terms_are_all_of_them():
    every, all_drawn = (exact_bound(linear_schedule(10), gaussian_pixels(), "fixed_small", draws) for draws in (0, 10))
    chex.assert_trees_all_equal(every, all_drawn)


@given(st.integers(1, 4000), st.data())
def test_stretches_cover_the_chain_once_and_grow(steps, data):
    count = data.draw(st.integers(1, steps))
    first, widths = stretches(steps, count)
    assert (first[0], len(first), widths.sum(), widths.min() > 0) == (0, count, steps, True)
    np.testing.assert_array_equal(first[1:], np.cumsum(widths)[:-1])
    assert count == 1 or widths[0] == 1  # so the decoder is always drawn
    assert np.all(np.diff(widths) >= -1)  # but for what rounding to whole times does


@pytest.mark.parametrize("draws", [-1, 11])
def test_more_draws_than_terms_are_refused(draws):
    with pytest.raises(InvalidInput, match=rf"{draws} terms of a bound that has 10 asked for: expected 1 to 10, or 0 for all"):
        vlb_terms(linear_schedule(10), lambda xt, t: xt, jnp.zeros((1, 2)), KEY, draws=draws)


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


@pytest.mark.optimised
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


COUPLED = GaussianData(
    np.array([0.1, -0.2, 0.05]),
    np.array([[0.04, 0.018, -0.0108], [0.018, 0.0225, 0.0054], [-0.0108, 0.0054, 0.0324]]),  # deviations of .2, .15 and .18
)
MANY = 10_000


def coupled_pixels():
    draw = np.random.default_rng(5).multivariate_normal(COUPLED.mean, COUPLED.covariance, MANY)
    return PIXELS[np.clip(np.rint((draw + 1) * 255 / 2), 0, 255).astype(int)].astype(np.float32)


def coupled_terms(chain, variance):
    """Prior, [T-1] KLs and decoder that the best denoiser has in the mean over the data, and [T, 3] the best log σ².

    Given x_t, x_0 has the covariance C_t = (Σ⁻¹ + SNR_t)⁻¹, and x_{t-1} the variances β̃_t + w_t² diag C_t, w_t being the
    weight of x_0 in the posterior's mean. Then E L_t = ½ Σ (log σ²/β̃ - 1 + (β̃ + w² C)/σ²), σ² best being these variances.
    """
    t = np.arange(chain.steps)
    ratio = chain.signal_to_noise(t)[:, None, None]
    left = np.diagonal(np.linalg.inv(np.linalg.inv(COUPLED.covariance) + ratio * np.eye(3)), axis1=1, axis2=2)
    zeros = np.zeros(chain.steps)
    posterior, weight = chain.posterior(zeros, zeros, t)[1][:, None], chain.posterior(zeros + 1, zeros, t)[0][:, None]
    of_state = posterior + weight**2 * left
    allowed = of_state if variance == "learned" else chain.reverse_variance(t, of_state, variance)
    kl = (np.log(allowed[1:] / posterior[1:]) - 1 + of_state[1:] / allowed[1:]).sum(axis=1) / 2
    decoder = (np.log(2 * np.pi * allowed[0]) + of_state[0] / allowed[0]).sum() / 2 - 3 * np.log(2 / 255)
    share = chain.alphas_bar[-1]
    prior = share * (np.trace(COUPLED.covariance) + COUPLED.mean @ COUPLED.mean - 3) - 3 * np.log1p(-share)
    return prior / 2, kl, decoder, np.log(of_state)


@pytest.mark.optimised
@pytest.mark.parametrize(
    ("prediction", "variance", "steps"), [("v", "learned", (10, 100, 1000)), ("eps", "fixed_large", (10, 100))]
)
def test_bound_of_coupled_gaussian_data_has_the_mean_that_follows(prediction, variance, steps):
    x0 = coupled_pixels()
    # The density at the middle of a bin times its volume errs by 2e-5: (2/255)²/24 of its curvature.
    likelihood = COUPLED.log_density(x0.astype(np.float64)) + 3 * np.log(2 / 255)
    expected_gaps, gaps = [], []
    for number in steps:
        schedule = linear_schedule(number)
        chain = Chain(schedule.betas.astype(np.float64))
        prior, kl, decoder, log_variance = coupled_terms(chain, variance)
        best, values = COUPLED.denoiser(chain, prediction), log_variance.astype(np.float32)

        def denoiser(xt, t, best=best, values=values):
            said = [best(xt, t), jnp.asarray(values)[t]]
            return jnp.concatenate(said if variance == "learned" else said[:1], axis=1)

        vlb = jax.jit(lambda x0, s=schedule, d=denoiser: vlb_terms(s, d, x0, KEY, prediction=prediction, variance=variance))(x0)
        np.testing.assert_allclose(vlb.prior.mean(), prior, rtol=0.02, atol=1e-7)  # what 10,000 draws leave
        error = np.std(vlb.kl[1:], axis=1) / math.sqrt(MANY)
        # Five of what 10,000 draws err by, for up to 999 terms at once, and the float32 error of one term; rounding the data
        # adds (2/255)²/12 = 5e-6 to each variance of .02 and more.
        assert np.all(np.abs(vlb.kl[1:].mean(axis=1) - kl) < 5 * error + 1e-3 * kl + 1e-9)
        # A decoder with σ = .01 is not quite a density over bins of .0078: .001 a component.
        assert abs(vlb.decoder.mean() - decoder) < 5 * vlb.decoder.std() / math.sqrt(MANY) + 3e-3
        gap = np.asarray(vlb.total, np.float64) + likelihood
        gaps.append(gap.mean())
        # The entropy of the data stands for its exact likelihood in the mean.
        expected_gaps.append(
            prior + kl.sum() + decoder - np.linalg.slogdet(2 * np.pi * np.e * COUPLED.covariance)[1] / 2 + 3 * np.log(2 / 255)
        )
        assert abs(gap.mean() - expected_gaps[-1]) < 5 * gap.std() / math.sqrt(MANY) + 3e-3
    # The bound lies above the likelihood, and with the best variances a tenth as far for ten times the steps.
    assert min(expected_gaps) > 0
    assert all(before > 4 * after for before, after in itertools.pairwise(expected_gaps))
    assert gaps[0] > 4 * gaps[1] > 0
