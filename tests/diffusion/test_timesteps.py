import collections
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import parameterized
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from jax_ddpm import (
    InvalidInput,
    antithetic_timesteps,
    second_moment_timesteps,
    stratified_timesteps,
    uniform_timesteps,
)

STEPS = 10
WITHOUT_HISTORY = {"uniform": uniform_timesteps, "stratified": stratified_timesteps, "antithetic": antithetic_timesteps}
EVERY = {**WITHOUT_HISTORY, "second_moment": second_moment_timesteps}
KEY = jax.random.key(5)
MANY = 20_000


def batches(sampler, history, count, number=MANY):
    """[number, count] t and weights, each row with a key of its own."""
    return jax.jit(jax.vmap(lambda key: sampler.draw(key, history, count)))(jax.random.split(KEY, number))


def full_history(sampler, spread=1.0):
    """What each t has lost ten times, [T, 10], and the history in which that is so."""
    losses = np.exp(spread * np.random.default_rng(2).normal(size=(STEPS, 10))).astype(np.float32)
    t, values = np.repeat(np.arange(STEPS, dtype=np.int32), 10), losses.ravel()
    return losses, sampler.update(sampler.init(), jnp.asarray(t), jnp.asarray(values))


class EverySampler(chex.TestCase):
    @chex.variants(with_jit=True, without_jit=True, with_pmap=True)
    @parameterized.parameters(*EVERY)
    def test_draws_are_times_of_the_chain_with_their_weights(self, name):
        sampler = EVERY[name](STEPS)

        def draw(key_data):
            return sampler.draw(jax.random.wrap_key_data(key_data), sampler.init(), 7)

        t, weights = self.variant(draw)(jax.random.key_data(KEY))
        chex.assert_shape([t, weights], (7,))
        chex.assert_type([t, weights], [jnp.int32, jnp.float32])
        assert np.all((t >= 0) & (t < STEPS))
        np.testing.assert_allclose(weights, np.ones(7), rtol=1e-6)  # the second-moment sampler is uniform until it is full


@pytest.mark.parametrize("count", [1, 4, 7])
@pytest.mark.parametrize("name", EVERY)
def test_each_place_of_the_batch_is_uniform(name, count):
    sampler = EVERY[name](STEPS)
    t, _ = batches(sampler, sampler.init(), count)
    for place in range(count):
        counts = np.bincount(t[:, place], minlength=STEPS)
        # χ² of the 20,000 independent draws of this place, with fixed keys; 24 places are looked at, so 1e-4 for each.
        assert len(counts) == STEPS
        assert stats.chisquare(counts).pvalue > 1e-4


@pytest.mark.parametrize("name", WITHOUT_HISTORY)
def test_samplers_without_history_have_none(name):
    sampler = WITHOUT_HISTORY[name](STEPS)
    assert not jax.tree.leaves(sampler.init())
    assert not jax.tree.leaves(sampler.update(sampler.init(), jnp.zeros(3, jnp.int32), jnp.ones(3)))


@pytest.mark.parametrize("name", EVERY)
def test_draws_are_determined_by_the_key(name):
    sampler = EVERY[name](1000)
    first, again, other = (sampler.draw(key, sampler.init(), 16)[0] for key in (KEY, KEY, jax.random.key(6)))
    np.testing.assert_array_equal(first, again)
    assert np.any(first != other)


def test_places_of_a_uniform_batch_are_independent():
    t, _ = batches(uniform_timesteps(STEPS), (), 2)
    pairs = np.bincount(STEPS * t[:, 0] + t[:, 1], minlength=STEPS**2)
    assert stats.chisquare(pairs).pvalue > 1e-4


@pytest.mark.parametrize("count", [1, 3, 7, 10, 20, 25, 64])
def test_stratified_batch_is_as_even_as_it_can_be(count):
    t, _ = batches(stratified_timesteps(STEPS), (), count, 1000)
    in_batch = np.stack([np.bincount(row, minlength=STEPS) for row in np.asarray(t)])
    # The B shares lie 1/B apart around the circle, so an arc of 1/T holds ⌊B/T⌋ or ⌈B/T⌉ of them: one off at a boundary that
    # float32 does not resolve, which of 1000 batches happens to be seen in none where T does not divide B.
    low, high = count // STEPS, -(-count // STEPS)
    off = (in_batch < low) | (in_batch > high)
    assert np.all(in_batch >= low - 1)
    assert np.all(in_batch <= high + 1)
    assert off.mean() < 0.01
    # T·(u + i/B) lies within a step of where t_i says: the i-th is i T/B after the first, around the circle
    after = (np.asarray(t) - np.asarray(t)[:, :1]) % STEPS
    expected = np.arange(count) * STEPS / count
    assert np.all(np.minimum(np.abs(after - expected), STEPS - np.abs(after - expected)) <= 1 + 1e-5)


def test_stratified_batches_differ_by_their_offset():
    t, _ = batches(stratified_timesteps(1000), (), 4, 50)
    assert len({tuple(row) for row in np.asarray(t).tolist()}) > 40


@pytest.mark.parametrize("count", [1, 2, 7, 8])
def test_antithetic_batch_is_made_of_pairs_that_add_up_to_the_last_step(count):
    t, _ = batches(antithetic_timesteps(STEPS), (), count, 200)
    for row in np.asarray(t).tolist():
        here = collections.Counter(row)
        unpaired = sum(abs(here[i] - here[STEPS - 1 - i]) for i in range(STEPS // 2))
        assert unpaired == count % 2  # an odd batch has one without its other
    firsts = np.asarray(t)[:, 0]
    assert len(np.unique(firsts)) == STEPS


@pytest.mark.parametrize("name", EVERY)
def test_chain_of_one_step_has_one_time(name):
    sampler = EVERY[name](1)
    t, weights = sampler.draw(KEY, sampler.init(), 3)
    np.testing.assert_array_equal(t, np.zeros(3))
    np.testing.assert_array_equal(weights, np.ones(3))


SAMPLER = second_moment_timesteps(STEPS)
UPDATE = jax.jit(SAMPLER.update)
DRAW = jax.jit(SAMPLER.draw, static_argnums=2)


class PlainHistory:
    """The last ten losses of each t, as lists."""

    def __init__(self, size=10):
        self.losses = [collections.deque(maxlen=size) for _ in range(STEPS)]
        self.counts = [0] * STEPS

    def update(self, t, losses):
        for when, loss in zip(t.tolist(), losses.tolist(), strict=True):
            self.losses[when].append(loss)
            self.counts[when] += 1


def assert_same_history(history, plain, size=10):
    chex.assert_shape([history.losses, history.counts], [(STEPS, size), (STEPS,)])
    for t in range(STEPS):
        kept = min(plain.counts[t], size)
        assert min(int(history.counts[t]), size) == kept
        held = sorted(np.asarray(history.losses)[t].tolist())
        # What has not been filled yet holds zeros, less than any of these losses.
        assert held == [0.0] * (size - kept) + sorted(plain.losses[t])


@given(
    st.lists(st.tuples(st.sampled_from([1, 5, 24]), st.integers(1, STEPS), st.integers(0, 2**32 - 1)), min_size=1, max_size=12)
)
def test_history_holds_the_last_ten_losses_of_each_t(rounds):
    history, plain = SAMPLER.init(), PlainHistory()
    for count, different, seed in rounds:  # 24 losses of one t only, or of a few, are more than ten of the same
        rng = np.random.default_rng(seed)
        t = rng.choice(rng.permutation(STEPS)[:different], count).astype(np.int32)
        losses = rng.uniform(0.1, 1, count).astype(np.float32)
        history = UPDATE(history, t, losses)
        plain.update(t, losses)
        assert_same_history(history, plain)


def test_last_losses_of_one_batch_are_kept_in_its_order():
    history, plain = SAMPLER.init(), PlainHistory()
    for start in (0, 37, 74):
        t, losses = np.full(37, 3, np.int32), np.arange(start + 1, start + 38, dtype=np.float32)
        history = UPDATE(history, t, losses)
        plain.update(t, losses)
        assert_same_history(history, plain)
    assert sorted(np.asarray(history.losses)[3].tolist()) == list(range(102, 112))


@pytest.mark.parametrize("size", [1, 3])
def test_history_of_another_length(size):
    sampler, plain = second_moment_timesteps(STEPS, history=size), PlainHistory(size)
    history = sampler.init()
    rng = np.random.default_rng(0)
    for _ in range(5):
        t, losses = rng.integers(STEPS, size=12).astype(np.int32), rng.uniform(0.1, 1, 12).astype(np.float32)
        history = jax.jit(sampler.update)(history, t, losses)
        plain.update(t, losses)
    assert_same_history(history, plain, size)


def test_order_between_different_times_does_not_matter():
    rng = np.random.default_rng(1)
    t, losses = np.repeat(np.arange(STEPS), 3).astype(np.int32), rng.uniform(0.1, 1, 30).astype(np.float32)
    order = np.argsort(np.tile(np.arange(3), STEPS), kind="stable")  # all first ones, all second ones, …
    for a, b in ((t, losses), (t[order], losses[order])):
        plain, history = PlainHistory(), SAMPLER.init()
        plain.update(t, losses)
        assert_same_history(UPDATE(history, a, b), plain)


def probabilities(losses, share):
    """Nichol & Dhariwal 2021, eq. 18, with the share that is uniform."""
    roots = [math.sqrt(sum(loss**2 for loss in row) / len(row)) for row in losses.astype(np.float64).tolist()]
    return np.array([(1 - share) * root / sum(roots) + share / len(roots) for root in roots])


@pytest.mark.parametrize("share", [1e-3, 0.3])
def test_times_are_drawn_as_often_as_their_losses_are_large(share):
    sampler = second_moment_timesteps(STEPS, uniform_share=share)
    losses, history = full_history(sampler)
    expected = probabilities(losses, share)
    t, weights = (np.asarray(a).ravel() for a in batches(sampler, history, 4))
    assert stats.chisquare(np.bincount(t, minlength=STEPS), expected * t.size).pvalue > 1e-3
    np.testing.assert_allclose(weights, 1 / (STEPS * expected[t]), rtol=2e-6)  # sums of ten and of ten in float32


def test_only_the_squares_of_the_losses_count():
    t = np.repeat(np.arange(STEPS), 10)
    uneven = np.tile(np.array([0.0] * 9 + [math.sqrt(10)], np.float32), (STEPS, 1))  # mean 0.3, root of the mean square 1
    uneven[0] = 1.0
    uneven[1] *= -1
    _, weights = DRAW(KEY, UPDATE(SAMPLER.init(), t, uneven.ravel()), 100)
    np.testing.assert_allclose(weights, np.ones(100), rtol=1e-6)


def test_weighted_mean_of_any_function_of_t_is_its_mean_over_uniform_t():
    losses, history = full_history(SAMPLER)
    t, weights = (np.asarray(a) for a in DRAW(KEY, history, 3000))
    weight_of = dict(zip(t.tolist(), weights.tolist(), strict=True))
    assert len(weight_of) == STEPS  # every t was drawn
    expected = probabilities(losses, 1e-3)
    of_each = np.random.default_rng(3).normal(size=STEPS)
    mean = sum(expected[i] * weight_of[i] * of_each[i] for i in range(STEPS))
    np.testing.assert_allclose(mean, of_each.mean(), rtol=0, atol=1e-6)  # float32 weights
    estimate, error = (weights * of_each[t]).mean(), (weights * of_each[t]).std() / math.sqrt(3000)
    assert abs(estimate - of_each.mean()) < 4 * error


def test_importance_sampling_lowers_the_variance_where_losses_differ():
    losses, history = full_history(SAMPLER, spread=2.0)
    of_each = np.sqrt((losses.astype(np.float64) ** 2).mean(axis=1))
    t, weights = (np.asarray(a) for a in DRAW(KEY, history, 3000))
    # With p_t ∝ L_t every draw says the same, Σ L/T, but for the share that is uniform.
    np.testing.assert_allclose(weights * of_each[t], np.full(3000, of_each.mean()), rtol=0.2)
    assert (weights * of_each[t]).std() < 0.05 * of_each.std()


def test_times_are_uniform_until_each_has_its_ten_losses():
    t = np.repeat(np.arange(STEPS), 10).astype(np.int32)
    losses = (1 + t).astype(np.float32)
    history = UPDATE(SAMPLER.init(), t[:-1], losses[:-1])  # one of the last t is missing,
    for _ in range(2):
        np.testing.assert_allclose(DRAW(KEY, history, 50)[1], np.ones(50), rtol=1e-6)
        history = UPDATE(history, t[:-10], losses[:-10])  # and more of the others are no help
    drawn, weights = DRAW(KEY, UPDATE(history, t[-1:], losses[-1:]), 50)
    np.testing.assert_allclose(weights, 1 / (STEPS * probabilities(losses.reshape(STEPS, 10), 1e-3)[drawn]), rtol=2e-6)


def test_history_runs_inside_a_scan_and_under_vmap():
    def train(key, scale):
        def step(history, key):
            t, weights = SAMPLER.draw(key, history, 40)
            return SAMPLER.update(history, t, scale * (1.0 + t)), (t, weights)

        return jax.lax.scan(step, SAMPLER.init(), jax.random.split(key, 12))

    history, (t, weights) = jax.jit(jax.vmap(train))(jax.random.split(KEY, 3), jnp.array([0.5, 1.0, 2.0]))
    chex.assert_shape([t, weights], (3, 12, 40))
    for which, scale in enumerate((0.5, 1.0, 2.0)):
        plain = PlainHistory()
        for row in np.asarray(t)[which]:
            plain.update(row, (scale * (1.0 + row)).astype(np.float32))
        assert_same_history(jax.tree.map(lambda a, which=which: a[which], history), plain)
        # 480 draws of ten times: full by the end, so that the last weights fall as the losses rise, whatever their scale.
        last, drawn = np.asarray(weights)[which, -1], np.asarray(t)[which, -1]
        np.testing.assert_allclose(last, 5.5 / (0.999 * (1 + drawn) + 1e-3 * 5.5), rtol=1e-5)


@pytest.mark.parametrize("options", [{"history": 0}, {"uniform_share": -0.1}, {"uniform_share": 1.5}])
def test_numbers_out_of_range_are_refused(options):
    with pytest.raises(InvalidInput, match=r"history=.*uniform_share="):
        second_moment_timesteps(STEPS, **options)
