"""Ancestral sampling against its equations in NumPy, step by step, and the exact distribution of what it ends in."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import parameterized

from jax_ddpm import (
    ancestral,
    linear_schedule,
    p_mean_variance,
    sample,
    sample_trajectory,
    schedule_from_betas,
    static_clip,
)
from tests.agreement import assert_moments
from tests.compiling import in_float64
from tests.references.chain import Chain
from tests.references.denoisers import small_network
from tests.references.known_data import GaussianData
from tests.references.samplers import noise_of

BETAS = np.linspace(0.002, 0.3, 12)
SCHEDULE, SCHEDULE64 = schedule_from_betas(BETAS), schedule_from_betas(BETAS, np.float64)
CHAIN = Chain(BETAS)
SHAPE = (5, 4, 3)
KEY = jax.random.key(11)
NETWORK, NUMPY_NETWORK = small_network(jnp, 3), small_network(np, 3)
WIDE_NETWORK, NUMPY_WIDE_NETWORK = small_network(jnp, 3, 6), small_network(np, 3, 6)  # these say a variance too
STEPS = (12, 0, 5)
CLIPS = {"free": (None, None), "clipped": (static_clip, lambda x0: np.clip(x0, -1, 1))}
VARIANCES = ("fixed_small", "fixed_large")


def noise(shape=SHAPE, seed=0, dtype=np.float32) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


def states_reference(prediction, variance, clip, x, key, dtype):
    """x_T and the state after every step in float64, with the noise that each draws."""
    states, network = [x.astype(np.float64)], NUMPY_WIDE_NETWORK if variance.startswith("learned") else NUMPY_NETWORK
    for step, t in enumerate(reversed(range(CHAIN.steps))):
        when = np.full(len(x), t)
        output = network(states[-1], when)
        mean, spread, _ = CHAIN.reverse(output, states[-1], when, prediction=prediction, variance=variance, clip=CLIPS[clip][1])
        draw = np.asarray(noise_of(key, step, x.shape, dtype), np.float64)
        states.append(mean + np.sqrt(spread) * draw if t > 0 else mean)
    return np.stack(states)


def run(x, key_data):
    """The samples, and the trajectory at STEPS."""
    sampler = ancestral(SCHEDULE)
    key = jax.random.wrap_key_data(key_data)
    return sample(sampler, NETWORK, x, key), sample_trajectory(sampler, NETWORK, x, key, STEPS)


class Sampling(chex.TestCase):
    @chex.variants(with_jit=True, without_jit=True, with_pmap=True)
    def test_chain_agrees_with_the_float64_reference(self):
        samples, (end, states) = self.variant(run)(noise(), jax.random.key_data(KEY))
        chex.assert_shape([samples, end, states], [SHAPE, SHAPE, (3, *SHAPE)])
        chex.assert_type([samples, end, states], jnp.float32)
        chex.assert_tree_all_finite((samples, end, states))
        expected = states_reference("eps", "fixed_large", "clipped", noise(), KEY, jnp.float32)
        # Twelve steps of a few roundings of 2^-24 each, of numbers below 4; the network stretches a difference by 3 at most,
        # and what it says is scaled by β/√(1-ᾱ) < .3 a step.
        np.testing.assert_allclose(samples, expected[-1], rtol=0, atol=2e-5)
        np.testing.assert_allclose(end, expected[-1], rtol=0, atol=2e-5)
        np.testing.assert_allclose(states, expected[list(STEPS)], rtol=0, atol=2e-5)

    @chex.all_variants
    @parameterized.parameters(*VARIANCES)
    def test_step_of_an_ancestral_sampler_is_a_draw_from_p(self, variance):
        sampler, key = ancestral(SCHEDULE, variance=variance, clip=None), jax.random.key_data(KEY)

        def chain(x, key):
            return sample_trajectory(sampler, NETWORK, x, jax.random.wrap_key_data(key), range(13))[1]

        states = self.variant(chain)(noise(), key)
        chex.assert_shape(states, (13, *SHAPE))
        chex.assert_type(states, jnp.float32)
        for step, t in enumerate(range(11, -1, -1)):
            xt, when = np.asarray(states[step]), np.full(5, t)
            p, _ = p_mean_variance(SCHEDULE, NETWORK(xt, when), xt, when, prediction="eps", variance=variance, clip=None)
            z = noise_of(KEY, step, SHAPE, jnp.float32)
            drawn = p.mean + jnp.exp(0.5 * p.log_variance) * z * (t > 0)
            # A few roundings of 2^-24; no coefficient exceeds 1/√(1-ᾱ_0) = 22.
            np.testing.assert_allclose(states[step + 1], drawn, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("prediction", "variance", "clip"),
    [
        ("eps", "fixed_large", "clipped"),
        ("x0", "fixed_small", "free"),
        ("v", "learned_range", "free"),
        ("mean", "learned", "clipped"),
        ("score", "fixed_small", "clipped"),
    ],
)
def test_float64_agrees_with_the_reference_at_every_step(prediction, variance, clip):
    x = noise(dtype=np.float64)
    sampler = ancestral(SCHEDULE64, prediction=prediction, variance=variance, clip=CLIPS[clip][0])
    network = WIDE_NETWORK if variance.startswith("learned") else NETWORK
    states = in_float64(lambda x: sample_trajectory(sampler, network, x, KEY, range(13))[1], x)
    with jax.enable_x64(True):
        expected = states_reference(prediction, variance, clip, x, KEY, jnp.float64)
    chex.assert_type(states, jnp.float64)
    np.testing.assert_allclose(states, expected, rtol=1e-10, atol=1e-10)  # the tables hold 12 digits


DATA = GaussianData(
    np.array([0.3, -0.2, 0.1]),
    np.array([[0.5, 0.3, 0.0], [0.3, 0.4, -0.1], [0.0, -0.1, 0.3]]),
)
MANY = 20_000


def gaussian_samples(steps, variance, prediction):
    schedule = linear_schedule(steps)
    denoiser = DATA.denoiser(Chain(schedule.betas.astype(np.float64)), prediction)
    sampler = ancestral(schedule, prediction=prediction, variance=variance, clip=None)
    x_T, key = jax.random.split(KEY)
    return np.asarray(jax.jit(lambda: sample(sampler, denoiser, jax.random.normal(x_T, (MANY, 3)), key))(), np.float64)


@pytest.mark.optimised
@pytest.mark.parametrize(("variance", "prediction"), [("fixed_small", "x0"), ("fixed_large", "eps")])
def test_thousand_steps_reproduce_gaussian_data(variance, prediction):
    samples = gaussian_samples(1000, variance, prediction)
    assert_moments(samples, DATA.mean, DATA.covariance)
    # A thousand steps are off by 1.4 % of the variances with the small variance and .2 % with the large one, hardly more than
    # one Monte-Carlo error: √(2/20000) = 1 %.
    mean, covariance = DATA.ancestral_outcome(Chain(linear_schedule(1000, dtype=np.float64).betas), variance)
    np.testing.assert_allclose(np.diag(covariance), np.diag(DATA.covariance), rtol=0.015)
    assert_moments(samples, mean, covariance)


@pytest.mark.parametrize(
    ("steps", "variance", "prediction"),
    [(5, "fixed_small", "v"), (5, "fixed_large", "score"), (50, "fixed_small", "mean"), (50, "fixed_large", "eps")],
)
def test_samples_follow_the_exact_recursion_where_the_chain_is_short(steps, variance, prediction):
    mean, covariance = DATA.ancestral_outcome(Chain(linear_schedule(steps, dtype=np.float64).betas), variance)
    assert_moments(gaussian_samples(steps, variance, prediction), mean, covariance)


def test_five_steps_with_the_best_variances_reproduce_uncoupled_gaussian_data():
    """Given x_t, x_{t-1} is then Gaussian with the variances β̃_t + w_t² Var(x_0 | x_t), and there is nothing else to it."""
    data = GaussianData(DATA.mean, np.diag([0.5, 0.2, 0.05]))
    schedule = linear_schedule(5)
    chain, t = Chain(schedule.betas.astype(np.float64)), np.arange(5)
    left = 1 / (1 / np.diag(data.covariance) + chain.signal_to_noise(t)[:, None])
    weight = chain.posterior(np.ones(5), np.zeros(5), t)[0][:, None]
    values = np.log(chain.posterior(np.zeros(5), np.zeros(5), t)[1][:, None] + weight**2 * left).astype(np.float32)
    best = data.denoiser(chain, "v")

    def denoiser(xt, t):
        return jnp.concatenate([best(xt, t), jnp.asarray(values)[t]], axis=1)

    sampler = ancestral(schedule, prediction="v", variance="learned", clip=None)
    x_T, key = jax.random.split(KEY)
    _, [x_1] = jax.jit(lambda: sample_trajectory(sampler, denoiser, jax.random.normal(x_T, (MANY, 3)), key, [4]))()
    share = chain.alphas_bar[0]  # the last step adds no noise, so x_1 it is that has the distribution of the forward process
    assert_moments(np.asarray(x_1, np.float64), np.sqrt(share) * data.mean, share * data.covariance + (1 - share) * np.eye(3))


def test_clip_keeps_samples_within_the_range_of_the_data_and_is_the_default():
    def beyond(xt, t):
        return jnp.where(jnp.arange(3) > 0, 3.0, -3.0) + 0 * xt

    def samples(**options):
        return sample(ancestral(SCHEDULE, prediction="x0", **options), beyond, noise(), KEY)

    np.testing.assert_array_equal(samples(), np.broadcast_to([-1.0, 1.0, 1.0], SHAPE))
    np.testing.assert_array_equal(samples(clip=None), np.broadcast_to([-3.0, 3.0, 3.0], SHAPE))
    assert np.abs(sample(ancestral(SCHEDULE, clip=static_clip), NETWORK, noise(), KEY)).max() <= 1


def test_no_noise_is_added_at_the_last_step():
    one_step = schedule_from_betas([0.3])
    sampler = ancestral(one_step, clip=None)
    xt, t = jnp.asarray(noise()), jnp.zeros(5, int)
    mean = p_mean_variance(one_step, NETWORK(xt, t), xt, t, prediction="eps", variance="fixed_large", clip=None)[0].mean
    for key in jax.random.split(KEY):
        np.testing.assert_allclose(sample(sampler, NETWORK, xt, key), mean, rtol=0, atol=2e-6)  # compiled: 2^-23 of 4, or two
    noisy = [sample_trajectory(ancestral(SCHEDULE), NETWORK, xt, key, [11])[1] for key in jax.random.split(KEY)]
    assert np.abs(noisy[0] - noisy[1]).max() > 0.01


def test_steps_are_taken_from_the_noisiest_down():
    np.testing.assert_array_equal(ancestral(SCHEDULE).timesteps, range(11, -1, -1))
