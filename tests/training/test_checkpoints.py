"""Checkpoints give back, bit for bit, what was put in, whatever happens to it while it is being written."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jax_ddpm.data.pipeline import batches
from jax_ddpm.data.sources.digits import digits
from jax_ddpm.errors import InvalidInput
from jax_ddpm.training.checkpoints import Checkpoints
from jax_ddpm.training.sharding import abstract, make_mesh, replicated
from jax_ddpm.training.state import create_state

OPTIMIZER = optax.adam(1e-3)
CONFIG = {"train": {"steps": 3}, "labels": [1, 2]}


def make_data():
    return batches(digits("test"), batch_size=4, image_size=8, channels=1, seed=0, prefetch=2)


def make_state(step=0, seed=0):
    params = {"w": jax.random.normal(jax.random.key(seed), (64, 64)), "b": jnp.float32(seed)}
    state = create_state(params, OPTIMIZER, jax.random.key(seed))
    state = state.replace(step=jnp.int32(step), ema_params=jax.tree.map(lambda x: x / 2, params))
    return jax.device_put(state, replicated(make_mesh()))


def plain(state):
    """Typed keys as numbers, so that trees can be compared."""
    return state.replace(key=jax.random.key_data(state.key))


def test_everything_comes_back_bit_for_bit(tmp_path):
    data = make_data()
    for _ in range(3):
        next(data)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(make_state(3, seed=5), data, CONFIG)
    following = next(data)

    resumed = make_data()
    like = abstract(make_state(), replicated(make_mesh()))
    with Checkpoints(tmp_path) as checkpoints:
        state = checkpoints.restore(like, resumed)
        average = checkpoints.restore_ema(like.ema_params)
    chex.assert_trees_all_equal(plain(state), plain(make_state(3, seed=5)))
    chex.assert_trees_all_equal(average, make_state(3, seed=5).ema_params)
    chex.assert_trees_all_equal(next(resumed), following)
    assert state.params["w"].sharding.is_equivalent_to(replicated(make_mesh()), 2)
    assert (tmp_path / "3" / "config" / "metadata").read_text().count("steps") == 1


def test_buffers_may_be_donated_as_soon_as_save_returns(tmp_path):
    overwrite = jax.jit(lambda s: s.replace(params=jax.tree.map(lambda x: x * 0 - 1, s.params)), donate_argnums=0)
    state = make_state(1, seed=7)
    expected = jax.device_get(state.params)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(state, make_data(), CONFIG)
        for _ in range(20):
            state = overwrite(state)
    with Checkpoints(tmp_path) as checkpoints:
        restored = checkpoints.restore(abstract(make_state(), replicated(make_mesh())), make_data())
    chex.assert_trees_all_equal(restored.params, expected)


def test_the_newest_and_every_nth_are_kept(tmp_path):
    with Checkpoints(tmp_path, keep_last=2, keep_every=4) as checkpoints:
        for step in range(1, 8):
            checkpoints.save(make_state(step), make_data(), CONFIG)
    assert sorted(int(path.name) for path in tmp_path.iterdir()) == [4, 6, 7]


def test_saving_a_step_twice_writes_it_once(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(make_state(2, seed=1), make_data(), CONFIG)
        checkpoints.save(make_state(2, seed=9), make_data(), CONFIG)
    with Checkpoints(tmp_path) as checkpoints:
        like = abstract(make_state(), replicated(make_mesh()))
        np.testing.assert_array_equal(checkpoints.restore_ema(like.ema_params)["b"], 0.5)


def test_a_folder_without_checkpoints_is_told(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.latest_step is None
        with pytest.raises(InvalidInput, match=r"no checkpoint in .*train first"):
            checkpoints.restore(make_state(), make_data())
