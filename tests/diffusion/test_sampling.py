"""The loop that runs any sampler: a line of its table a step, the states that are kept, its memory, and the chain in parts."""

import dataclasses
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_ddpm import (
    InvalidInput,
    Sampler,
    ancestral,
    ddim,
    dpm_solver_pp,
    inpaint,
    linear_schedule,
    respace,
    sample,
    sample_trajectory,
    schedule_from_betas,
)
from jax_ddpm.diffusion.sampling import begun, go_on
from tests.compiling import equations
from tests.references.denoisers import small_network

BETAS = np.linspace(0.002, 0.3, 12)
SCHEDULE = schedule_from_betas(BETAS)
SHAPE = (5, 4, 3)
KEY = jax.random.key(11)
NETWORK, NUMPY_NETWORK = small_network(jnp, 3), small_network(np, 3)
WIDE_NETWORK = small_network(jnp, 3, 6)  # it says a variance too


def noise(shape=SHAPE, seed=0, dtype=np.float32) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


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


@pytest.mark.optimised  # as whoever draws compiles it
def test_memory_does_not_grow_with_the_number_of_steps():
    (shortest, _, state), *longer = (memory(steps, sample) for steps in (10, 100, 1000))
    for steps, (temporary, output, _) in zip((100, 1000), longer, strict=True):
        # The step numbers, times and slots are integers [T]; no table of the schedule nor state of the chain may join them.
        assert temporary <= shortest + 16 * steps
        assert output < 1.01 * state


@pytest.mark.optimised
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
