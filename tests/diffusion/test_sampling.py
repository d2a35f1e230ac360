import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import parameterized

from jax_ddpm import (
    InvalidInput,
    Sampler,
    ancestral,
    linear_schedule,
    p_mean_variance,
    sample,
    sample_trajectory,
    schedule_from_betas,
    static_clip,
)
from tests.references import Chain, GaussianData, small_network

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
    """x_T and the state after every step in float64, with the noise that step s draws: that of fold_in(key, s)."""
    states, network = [x.astype(np.float64)], NUMPY_WIDE_NETWORK if variance.startswith("learned") else NUMPY_NETWORK
    for step, t in enumerate(reversed(range(CHAIN.steps))):
        when = np.full(len(x), t)
        output = network(states[-1], when)
        mean, spread, _ = CHAIN.reverse(output, states[-1], when, prediction=prediction, variance=variance, clip=CLIPS[clip][1])
        draw = np.asarray(jax.random.normal(jax.random.fold_in(key, step), x.shape, dtype), np.float64)
        states.append(mean + np.sqrt(spread) * draw if t > 0 else mean)
    return np.stack(states)


def run(schedule, x, key_data, prediction="eps", variance="fixed_large", clip="clipped"):
    """The samples, and the trajectory at STEPS."""
    sampler = ancestral(schedule, prediction=prediction, variance=variance, clip=CLIPS[clip][0])
    key = jax.random.wrap_key_data(key_data)
    return sample(sampler, NETWORK, x, key), sample_trajectory(sampler, NETWORK, x, key, STEPS)


class Sampling(chex.TestCase):
    @chex.variants(with_jit=True, without_jit=True, with_pmap=True)
    def test_chain_agrees_with_the_float64_reference(self):
        samples, (end, states) = self.variant(run)(SCHEDULE, noise(), jax.random.key_data(KEY))
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
    def test_update_of_an_ancestral_sampler_is_a_draw_from_p(self, variance):
        update = ancestral(SCHEDULE, variance=variance, clip=None).update
        t = np.array([0, 1, 5, 8, 11])
        key = jax.random.key_data(KEY)
        drawn = self.variant(lambda xt, t, key: update(NETWORK, xt, t, jax.random.wrap_key_data(key)))(noise(), t, key)
        chex.assert_shape(drawn, SHAPE)
        chex.assert_type(drawn, jnp.float32)
        xt = noise().astype(np.float64)
        mean, spread, _ = CHAIN.reverse(NUMPY_NETWORK(xt, t), xt, t, prediction="eps", variance=variance)
        deviation = np.sqrt(spread) * (t > 0).reshape(5, 1, 1)
        z = np.asarray(jax.random.normal(KEY, SHAPE), np.float64)
        # A few roundings of 2^-24; no coefficient exceeds 1/√(1-ᾱ_0) = 22.
        np.testing.assert_allclose(drawn, mean + deviation * z, rtol=0, atol=1e-5)


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
    with jax.enable_x64(True):
        _, states = jax.jit(lambda x, key: sample_trajectory(sampler, network, x, key, range(13)))(x, KEY)
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


def assert_moments(samples, mean, covariance):
    """Mean and covariance of the samples lie within five Monte-Carlo errors of the given ones, each component for itself.

    Of n draws the mean errs by √(Σ_ii/n), the covariance by √((Σ_ii Σ_jj + Σ_ij²)/n).
    """
    variances = np.diag(covariance)
    assert np.all(np.abs(samples.mean(axis=0) - mean) < 5 * np.sqrt(variances / len(samples)))
    covariance_error = np.sqrt((np.outer(variances, variances) + covariance**2) / len(samples))
    assert np.all(np.abs(np.cov(samples.T) - covariance) < 5 * covariance_error)


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
        np.testing.assert_array_equal(sampler.update(NETWORK, xt, t, key), mean)
        np.testing.assert_allclose(sample(sampler, NETWORK, xt, key), mean, rtol=0, atol=2e-6)  # compiled: 2^-23 of 4, or two
    noisy = [ancestral(SCHEDULE).update(NETWORK, xt, t + 1, key) for key in jax.random.split(KEY)]
    assert np.abs(noisy[0] - noisy[1]).max() > 0.01


def test_steps_are_taken_from_the_noisiest_down():
    np.testing.assert_array_equal(ancestral(SCHEDULE).timesteps, range(11, -1, -1))


def test_steps_follow_the_sampler_whatever_its_order_and_each_has_its_own_key():
    def update(denoiser, x, t, key):
        return jnp.stack([x[:, 0] * 10 + t, jax.random.key_data(key)[-1:].astype(jnp.float32)], axis=1)

    sampler = Sampler(np.array([7, 3, 4]), update)
    end, states = sample_trajectory(sampler, None, jnp.zeros((1, 2)), KEY, (1, 2, 3))
    np.testing.assert_array_equal(states[:, 0, 0], [7, 73, 734])
    np.testing.assert_array_equal(end, states[-1])
    expected_keys = [jax.random.key_data(jax.random.fold_in(KEY, step))[-1] for step in range(3)]
    np.testing.assert_array_equal(states[:, 0, 1], np.array(expected_keys, np.float32))


DRAW = jax.jit(functools.partial(sample, ancestral(SCHEDULE), NETWORK))


def test_samples_are_determined_by_the_key():
    first, again, other = DRAW(noise(), KEY), DRAW(noise(), KEY), DRAW(noise(), jax.random.key(12))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 0.1


def test_mapping_over_keys_gives_each_its_own_samples():
    keys, starts = jax.random.split(KEY, 4), np.stack([noise(seed=seed) for seed in range(4)])
    one_by_one = [DRAW(start, key) for start, key in zip(starts, keys, strict=True)]
    for transform in (jax.vmap, jax.pmap):
        # the float32 error of one chain, as above
        np.testing.assert_allclose(transform(DRAW)(starts, keys), one_by_one, rtol=0, atol=2e-5)


def test_trajectory_is_what_stepping_by_hand_goes_through():
    sampler = ancestral(SCHEDULE, clip=None)
    update = jax.jit(functools.partial(sampler.update, NETWORK))
    states = [jnp.asarray(noise())]
    for step, t in enumerate(sampler.timesteps):
        states.append(update(states[-1], jnp.full(5, t), jax.random.fold_in(KEY, step)))
    samples, kept = sample_trajectory(sampler, NETWORK, noise(), KEY, (7, 0, 12, 3))
    np.testing.assert_array_equal(kept[1], noise())  # state 0 is x_T,
    np.testing.assert_array_equal(kept[2], samples)  # state S is the sample,
    np.testing.assert_array_equal(kept, np.stack([states[step] for step in (7, 0, 12, 3)]))


def test_trajectory_may_keep_nothing_or_everything():
    sampler = ancestral(SCHEDULE)
    samples, none = sample_trajectory(sampler, NETWORK, noise(), KEY, ())
    chex.assert_shape(none, (0, *SHAPE))
    end, everything = sample_trajectory(sampler, NETWORK, noise(), KEY, range(13))
    np.testing.assert_array_equal(everything[-1], end)
    np.testing.assert_allclose(end, samples, rtol=0, atol=2e-5)  # two compilations of one float32 chain
    assert np.all(np.abs(np.diff(everything, axis=0)).max(axis=(1, 2, 3)) > 0)


@pytest.mark.parametrize("at_steps", [(-1,), (0, 13), (3, 5, 3), (0.5,)])
def test_steps_that_the_chain_has_not_or_has_once_are_refused(at_steps):
    listed = ", ".join(map(str, at_steps))
    with pytest.raises(InvalidInput, match=rf"at_steps=\({listed},?\): expected different whole numbers in 0\.\.12"):
        sample_trajectory(ancestral(SCHEDULE), NETWORK, noise(), KEY, at_steps)


def equations(jaxpr):
    """Every equation of a jaxpr and of the jaxprs inside it."""
    for equation in jaxpr.eqns:
        yield equation
        for parameter in jax.tree.leaves(tuple(equation.params.values()), is_leaf=lambda p: hasattr(p, "eqns")):
            if hasattr(parameter, "eqns"):
                yield from equations(getattr(parameter, "jaxpr", parameter))


def test_chain_is_one_scan_whatever_its_length():
    def traced(steps):
        sampler = ancestral(linear_schedule(steps))
        return list(equations(jax.make_jaxpr(lambda x, key: sample(sampler, NETWORK, x, key))(noise(), KEY).jaxpr))

    short, long = traced(10), traced(1000)
    loops = [e.primitive.name for e in long if e.primitive.name in ("scan", "while")]
    assert loops == ["scan"]
    assert "random_bits" in {e.primitive.name for e in long}  # the walk has reached the inside of the loop
    assert len(short) == len(long)
    # Nothing holds more than a number for each of the 1,000 steps: no two of them have a state of 60 numbers kept.
    assert max(variable.aval.size for e in long for variable in e.outvars) <= 1000


def memory(steps, run_chain):
    """Bytes of temporaries and of output of the compiled chain, and of one state."""
    sampler = ancestral(linear_schedule(steps))
    x = jax.ShapeDtypeStruct((16, 16, 16, 3), jnp.float32)
    chain = jax.jit(lambda x, key: run_chain(sampler, lambda xt, t: 0.1 * xt, x, key))
    analysis = chain.lower(x, KEY).compile().memory_analysis()
    return analysis.temp_size_in_bytes, analysis.output_size_in_bytes, 4 * np.prod(x.shape)


def test_memory_does_not_grow_with_the_number_of_steps():
    (shortest, _, state), *longer = (memory(steps, sample) for steps in (10, 100, 1000))
    for steps, (temporary, output, _) in zip((100, 1000), longer, strict=True):
        # The step numbers, times and slots are integers [T]; no table of the schedule nor state of the chain may join them.
        assert temporary <= shortest + 16 * steps
        assert output < 1.01 * state


def test_trajectory_takes_the_memory_of_the_states_it_keeps():
    temporary, output, state = memory(100, functools.partial(sample_trajectory, at_steps=(0, 50, 100)))
    assert 4 * state <= output < 4.01 * state  # the sample and three states
    assert temporary < 20 * state  # a few for each state in use or kept, not one for each of the hundred steps
