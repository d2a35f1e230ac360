import dataclasses
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
    ddim,
    dpm_solver_pp,
    inpaint,
    linear_schedule,
    p_mean_variance,
    respace,
    sample,
    sample_trajectory,
    schedule_from_betas,
    static_clip,
)
from jax_ddpm.diffusion.sampling import begun, go_on
from tests.compiling import equations
from tests.references.chain import Chain
from tests.references.denoisers import small_network
from tests.references.known_data import GaussianData

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


def noise_key(key, step):
    """The key from which step s draws: fold_in(key, s), split into one for the noise and one for what comes after the step."""
    return jax.random.split(jax.random.fold_in(key, step))[0]


def states_reference(prediction, variance, clip, x, key, dtype):
    """x_T and the state after every step in float64, with the noise that step s draws: see `noise_key`."""
    states, network = [x.astype(np.float64)], NUMPY_WIDE_NETWORK if variance.startswith("learned") else NUMPY_NETWORK
    for step, t in enumerate(reversed(range(CHAIN.steps))):
        when = np.full(len(x), t)
        output = network(states[-1], when)
        mean, spread, _ = CHAIN.reverse(output, states[-1], when, prediction=prediction, variance=variance, clip=CLIPS[clip][1])
        draw = np.asarray(jax.random.normal(noise_key(key, step), x.shape, dtype), np.float64)
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
            z = jax.random.normal(noise_key(KEY, step), SHAPE)
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
        np.testing.assert_allclose(sample(sampler, NETWORK, xt, key), mean, rtol=0, atol=2e-6)  # compiled: 2^-23 of 4, or two
    noisy = [sample_trajectory(ancestral(SCHEDULE), NETWORK, xt, key, [11])[1] for key in jax.random.split(KEY)]
    assert np.abs(noisy[0] - noisy[1]).max() > 0.01


def test_steps_are_taken_from_the_noisiest_down():
    np.testing.assert_array_equal(ancestral(SCHEDULE).timesteps, range(11, -1, -1))


def by_hand(rows, **columns):
    """A sampler x' = 10 x + t, told the time t as x_0."""
    lines = len(rows)
    table = {"of_x": np.full(lines, 10.0), "of_x0": np.ones((lines, 1)), "of_clipped": np.zeros(lines)}
    table |= {"reached": np.ones(lines), "deviations": np.zeros(lines), "noisy": np.zeros(lines, bool)}
    return Sampler(SCHEDULE, np.array(rows), prediction="x0", clip=None, **table | columns)


def told_time(xt, t):
    return jnp.broadcast_to(t[:, None].astype(xt.dtype), xt.shape)


def test_steps_follow_the_sampler_whatever_its_order():
    end, states = sample_trajectory(by_hand([7, 3, 4]), told_time, jnp.zeros((1, 2)), KEY, (1, 2, 3))
    np.testing.assert_array_equal(states[:, 0, 0], [7, 73, 734])
    np.testing.assert_array_equal(end, states[-1])


def test_every_column_of_the_table_has_its_place_in_the_step():
    """x' = of_x x + Σ of_x0 x̂_0 of the last three evaluations + of_clipped (what clipping took away)."""
    columns = {"of_x": np.array([1.0, 2.0, 0.5, 1.0]), "of_clipped": np.array([0.0, 0.5, 0.0, 0.25])}
    columns["of_x0"] = np.array([[1.0, 0.0, 0.0], [2.0, 3.0, 0.0], [1.0, 10.0, 100.0], [0.0, 0.0, 1.0]])
    sampler = dataclasses.replace(by_hand([7, 3, 4, 1], **columns), clip=lambda x0: jnp.minimum(x0, 5.0))
    _, states = sample_trajectory(sampler, told_time, jnp.ones((1, 1)), KEY, range(5))
    # Of 7, 3, 4 and 1 clipping leaves 5, 3, 4 and 1.
    first = 1 + 5
    second = 2 * first + 2 * 3 + 3 * 5
    third = 0.5 * second + 4 + 10 * 3 + 100 * 5
    np.testing.assert_array_equal(states[:, 0, 0], [1, first, second, third, third + 3])
    lost = dataclasses.replace(sampler, of_clipped=np.ones(4))
    _, states = sample_trajectory(lost, told_time, jnp.ones((1, 1)), KEY, (1,))
    np.testing.assert_array_equal(states[0], [[1 + 5 + 2]])


def test_each_step_has_a_key_for_its_noise_and_one_for_what_comes_after():
    def after(state, number, key):
        return state.at[:, 1].set(jax.random.key_data(key)[-1].astype(state.dtype)).at[:, 2].set(number)

    sampler = dataclasses.replace(by_hand([0] * 3, of_x=np.ones(3), deviations=np.ones(3), noisy=np.ones(3, bool)), after=after)
    _, states = sample_trajectory(sampler, told_time, jnp.zeros((1, 3)), KEY, (1, 2, 3))
    pairs = [jax.random.split(jax.random.fold_in(KEY, step)) for step in range(3)]
    np.testing.assert_array_equal(states[:, 0, 2], [0, 1, 2])
    np.testing.assert_array_equal(states[:, 0, 1], np.array([jax.random.key_data(last)[-1] for _, last in pairs], np.float32))
    draws = np.array([jax.random.normal(first, (1, 3))[0, 0] for first, _ in pairs])
    np.testing.assert_allclose(states[:, 0, 0], np.cumsum(draws), rtol=0, atol=1e-6)  # float32 sums of three


def test_noise_is_added_where_the_table_says_so():
    sampler = by_hand(
        [0] * 4, of_x=np.ones(4), deviations=np.array([1.0, 1.0, 0.0, 3.0]), noisy=np.array([True, False, True, True])
    )
    _, states = sample_trajectory(sampler, told_time, jnp.zeros((4000, 1)), KEY, range(5))
    # Standard deviations within five Monte-Carlo errors: 1/√(2·4000) of them.
    np.testing.assert_allclose(np.diff(states, axis=0).std(axis=(1, 2)), [1, 0, 0, 3], rtol=0.056, atol=0)


def test_gradient_moves_the_mean_by_the_variance_of_the_step_and_is_told_the_time():
    def gradient(xt, t):
        return 0.5 * xt + t[:, None]

    short = respace(SCHEDULE, [2, 5, 9])
    sampler = dataclasses.replace(ancestral(short, clip=None), gradient=gradient)
    _, states = sample_trajectory(sampler, told_time, jnp.ones((1, 2)), KEY, range(4))
    _, free = sample_trajectory(ancestral(short, clip=None), told_time, jnp.ones((1, 2)), KEY, (1,))
    np.testing.assert_allclose(states[1] - free[0], short.betas[2] * np.full((1, 2), 0.5 + 9), rtol=1e-5)


def test_chain_that_is_cut_short_is_the_start_of_the_whole():
    sampler = ddim(SCHEDULE, eta=0.5)
    names = ("rows", "reached", "of_x", "of_x0", "of_clipped", "deviations", "noisy")
    _, [kept] = sample_trajectory(sampler, NETWORK, noise(), KEY, [5])
    first = dataclasses.replace(sampler, **{name: getattr(sampler, name)[:5] for name in names})
    # two compilations of one float32 chain
    np.testing.assert_allclose(sample(first, NETWORK, noise(), KEY), kept, rtol=0, atol=2e-5)


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


def test_trajectory_keeps_the_states_in_the_order_asked_for():
    sampler = ancestral(SCHEDULE, clip=None)
    samples, kept = sample_trajectory(sampler, NETWORK, noise(), KEY, (7, 0, 12, 3))
    _, everything = sample_trajectory(sampler, NETWORK, noise(), KEY, range(13))
    np.testing.assert_array_equal(kept[1], noise())  # state 0 is x_T,
    np.testing.assert_array_equal(kept[2], samples)  # state S is the sample,
    # and the others are those of the chain that keeps them all: two compilations
    np.testing.assert_allclose(kept, everything[np.array([7, 0, 12, 3])], rtol=0, atol=2e-5)


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


IN_PARTS = {
    "ancestral": ancestral(SCHEDULE, variance="learned_range"),
    "ddim": ddim(SCHEDULE, steps=6, eta=0.5),
    "third order": dpm_solver_pp(SCHEDULE, steps=7, order=3),
    "inpainting": inpaint(ancestral(SCHEDULE), jnp.full(SHAPE, 0.5), jnp.arange(3) < 2, jump=3, resamples=2),
}


@pytest.mark.parametrize("name", IN_PARTS)
def test_in_parts_it_comes_by_one_program_to_the_states_of_the_chain_in_one_piece(name):
    sampler, key = IN_PARTS[name], jax.random.key(3)
    network = WIDE_NETWORK if sampler.learned else NETWORK
    total, traced = sampler.evaluations, 0
    ends = (1, 3, total - 1, total)
    whole, states = jax.jit(lambda x: sample_trajectory(sampler, network, x, key, ends))(noise())

    @jax.jit
    def part(standing, first, stop):
        nonlocal traced
        traced += 1
        return go_on(sampler, network, standing, key, first, stop)

    standing, first = begun(sampler, jnp.asarray(noise())), 0
    assert not any(np.any(estimate) for estimate in standing.estimates)
    for stop, state in zip(ends, states, strict=True):
        standing, first = part(standing, first, stop), stop
        np.testing.assert_array_equal(standing.x, state)
    np.testing.assert_array_equal(standing.x, whole)
    assert traced == 1
    assert len(standing.estimates) == sampler.of_x0.shape[1]


def test_on_the_way_the_chain_says_what_the_network_takes_its_state_for():
    sampler = ddim(SCHEDULE, steps=6, clip=None)
    ends = range(1, sampler.evaluations + 1)
    standing = begun(sampler, jnp.asarray(noise()))
    for first, stop in enumerate(ends):
        x, t = np.asarray(standing.x, np.float64), sampler.timesteps[first]
        standing = go_on(sampler, NETWORK, standing, KEY, first, stop)
        alpha_bar = np.prod(1 - BETAS[: t + 1])
        eps = NUMPY_NETWORK(x, np.full(len(x), t))
        # A few roundings of 2^-24, of numbers that are divided by √ᾱ > .3.
        np.testing.assert_allclose(
            standing.estimates[0], (x - np.sqrt(1 - alpha_bar) * eps) / np.sqrt(alpha_bar), rtol=0, atol=1e-5
        )
    np.testing.assert_allclose(standing.x, standing.estimates[0], rtol=0, atol=1e-6)  # the end is the last of them
