"""Checkpoints give back, bit for bit, what was put in, whatever happens to it while it is being written."""

import json
import os
import shutil
import subprocess
import sys

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jax_ddpm.data.pipeline import batches
from jax_ddpm.data.sources.digits import digits
from jax_ddpm.errors import InvalidInput
from jax_ddpm.training.checkpoint_config import newest_config
from jax_ddpm.training.checkpoints import PIECE, Checkpoints
from jax_ddpm.training.sharding import abstract, make_mesh, replicated, split_state
from jax_ddpm.training.state import create_state
from tests.commands.conftest import ROOT

OPTIMIZER = optax.adam(1e-3)
CONFIG = {"train": {"steps": 3}, "labels": [1, 2]}


def make_data():
    return batches(digits("test"), batch_size=4, image_size=8, channels=1, seed=0, prefetch=2)


def make_state(step=0, seed=0, optimizer=OPTIMIZER):
    params = {"w": jax.random.normal(jax.random.key(seed), (64, 64)), "b": jnp.float32(seed)}
    state = create_state(params, optimizer, jax.random.key(seed))
    _, moments = optimizer.update(params, state.opt_state)
    state = state.replace(step=jnp.int32(step), ema_params=jax.tree.map(lambda x: x / 2, params), opt_state=moments)
    return jax.device_put(state, replicated(make_mesh()))


def plain(state):
    """Typed keys as numbers, so that trees can be compared."""
    return state.replace(key=jax.random.key_data(state.key))


def test_devices_that_hold_the_same_share_out_what_is_large_and_nothing_else(tmp_path):
    params = {"large": jnp.zeros((PIECE, 1)), "small": jnp.zeros((PIECE - 4, 1))}  # for each of 4 devices PIECE bytes, or less
    state = jax.device_put(make_state().replace(params=params), replicated(make_mesh()))
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(state, make_data(), CONFIG)
    (written,) = tmp_path.glob("0/state/array_metadatas/process_0")
    shapes = {
        each["array_metadata"]["param_name"]: each["array_metadata"]["write_shape"]
        for each in json.loads(written.read_text())["array_metadatas"]
    }
    assert shapes["params.large"] == [PIECE // 4, 1]
    assert shapes["params.small"] == [PIECE - 4, 1]


@pytest.mark.parametrize("optimizer", [OPTIMIZER, optax.adam(1e-3, mu_dtype=jnp.bfloat16)], ids=["float32", "bfloat16"])
def test_everything_comes_back_bit_for_bit(optimizer, tmp_path):
    saved = make_state(3, seed=5, optimizer=optimizer)
    data = make_data()
    for _ in range(3):
        next(data)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(saved, data, CONFIG)
    following = next(data)

    resumed = make_data()
    like = abstract(make_state(optimizer=optimizer), replicated(make_mesh()))
    with Checkpoints(tmp_path) as checkpoints:
        state = checkpoints.restore(like, resumed)
        average, step = checkpoints.restore_ema(like.ema_params)
    assert step == 3
    chex.assert_trees_all_equal(plain(state), plain(saved), strict=True)
    assert np.abs(np.asarray(state.opt_state[0].mu["w"], np.float32)).max() > 0.1, "its moments are of gradients"
    chex.assert_trees_all_equal(average, saved.ema_params)
    chex.assert_trees_all_equal(next(resumed), following)
    assert state.params["w"].sharding.is_equivalent_to(replicated(make_mesh()), 2)
    assert json.loads(newest_config(tmp_path).read_text()) == CONFIG


def test_the_config_of_the_newest_whole_checkpoint_that_has_one_is_found(tmp_path):
    assert newest_config(tmp_path / "none") is None
    with Checkpoints(tmp_path, keep_last=3) as checkpoints:
        for step in (9, 10):  # by number, and not by name
            checkpoints.save(make_state(step), make_data(), {"saved at": step})
    shutil.copytree(tmp_path / "10", tmp_path / "11.orbax-checkpoint-tmp")  # as a kill leaves it
    assert json.loads(newest_config(tmp_path).read_text()) == {"saved at": 10}
    (tmp_path / "10/config/metadata").write_text('{"saved ')  # as a disk leaves it
    assert json.loads(newest_config(tmp_path).read_text()) == {"saved at": 9}
    shutil.rmtree(tmp_path / "9")
    assert newest_config(tmp_path) is None


@pytest.mark.parametrize("parts", [1, 4], ids=["whole", "split"])
def test_what_four_devices_saved_comes_back_on_one_and_on_two(parts, tmp_path):
    def lay(state, mesh):
        return split_state(state, mesh, (".*=largest",))

    state = make_state(3, seed=5)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(jax.device_put(state, lay(state, make_mesh(fsdp=parts))), make_data(), CONFIG)
    for data, fsdp in ((1, 1), (2, 1), (1, 2)):
        mesh = make_mesh(data, fsdp, jax.devices()[: data * fsdp])
        with Checkpoints(tmp_path, read_only=True) as checkpoints:
            restored = checkpoints.restore(abstract(state, lay(state, mesh)), make_data())
        assert [shard.data.shape for shard in restored.params["w"].addressable_shards] == [(64, 64 // fsdp)] * data * fsdp
        chex.assert_trees_all_equal(plain(restored), plain(state))


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
        np.testing.assert_array_equal(checkpoints.restore_ema(like.ema_params)[0]["b"], 0.5)


def test_a_folder_without_checkpoints_is_told(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.latest_step is None
        with pytest.raises(InvalidInput, match=r"no checkpoint in .*train first"):
            checkpoints.restore(make_state(), make_data())


def save_two(directory):
    data = make_data()
    with Checkpoints(directory, keep_last=3) as checkpoints:
        for step in (1, 2):
            next(data)
            checkpoints.save(make_state(step, seed=step), data, CONFIG)


def largest_file(directory):
    return max((path for path in directory.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # what Orbax leaves unread when it fails
@pytest.mark.parametrize("item", ["state", "ema"])
@pytest.mark.parametrize("damage", [flip, cut, lambda path: path.unlink()], ids=["flipped", "cut", "gone"])
def test_a_damaged_checkpoint_is_left_out_and_the_one_before_it_used(damage, item, tmp_path, capsys):
    save_two(tmp_path / "checkpoints")
    damage(largest_file(tmp_path / "checkpoints/2" / item / "d" if damage is flip else tmp_path / "checkpoints/2" / item))
    like = abstract(make_state(), replicated(make_mesh()))
    data = make_data()
    with Checkpoints(tmp_path / "checkpoints", keep_last=3) as checkpoints:
        state = checkpoints.restore(like, data)
        assert "the checkpoint of step 2 is damaged and left out" in capsys.readouterr().out
        chex.assert_trees_all_equal(plain(state), plain(make_state(1, seed=1)))
        assert data.get_state() == {"next_index": 1}
        checkpoints.save(make_state(2, seed=5), data, CONFIG)
    assert (tmp_path / "damaged_checkpoints/2_1").is_dir(), "it may be looked at"
    with Checkpoints(tmp_path / "checkpoints", read_only=True) as checkpoints:
        chex.assert_trees_all_equal(checkpoints.restore_ema(like.ema_params), (make_state(2, seed=5).ema_params, 2))


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # as above
def test_who_only_reads_moves_nothing(tmp_path, capsys):
    save_two(tmp_path / "checkpoints")
    largest_file(tmp_path / "checkpoints/2/ema").unlink()
    with Checkpoints(tmp_path / "checkpoints", read_only=True) as checkpoints:
        like = abstract(make_state(), replicated(make_mesh()))
        assert checkpoints.restore_ema(like.ema_params)[1] == 1
    assert "step 2 is damaged" in capsys.readouterr().out
    assert sorted(path.name for path in tmp_path.rglob("[12]")) == ["1", "2"]
    assert not (tmp_path / "damaged_checkpoints").exists()


def test_where_none_can_be_read_all_are_named_and_none_is_moved(tmp_path):
    save_two(tmp_path / "checkpoints")
    for step in ("1", "2"):
        largest_file(tmp_path / "checkpoints" / step / "state").unlink()
    all_named = r"none of the checkpoints in .* can be read:\n  step 2: .*\n  step 1: "
    with Checkpoints(tmp_path / "checkpoints") as checkpoints, pytest.raises(InvalidInput, match=all_named):
        checkpoints.restore(abstract(make_state(), replicated(make_mesh())), make_data())
    assert {path.name for path in (tmp_path / "checkpoints").iterdir()} == {"1", "2"}


FULL_DISK = """
import resource, signal, sys
from pathlib import Path
from tests.training.test_checkpoints import CONFIG, Checkpoints, InvalidInput, make_data, make_state
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
try:
    with Checkpoints(Path(sys.argv[1]), keep_last=1) as checkpoints:
        checkpoints.save(make_state(1, seed=1), make_data(), CONFIG)
        checkpoints._manager.wait_until_finished()
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
        checkpoints.save(make_state(2, seed=2), make_data(), CONFIG)
except InvalidInput as error:
    print(error)
"""


def test_a_full_disk_is_told_and_the_last_good_checkpoint_stays(tmp_path):
    """A limit on the size of files fails the same writes as a disk without room."""
    command = [sys.executable, "-c", FULL_DISK, str(tmp_path / "checkpoints")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=os.environ | {"JAX_PLATFORMS": "cpu"})
    assert "a checkpoint could not be written into" in done.stdout, done.stderr
    assert "The last whole checkpoint is that of step 1" in done.stdout
    with Checkpoints(tmp_path / "checkpoints", read_only=True) as checkpoints:
        like = abstract(make_state(), replicated(make_mesh()))
        average, step = checkpoints.restore_ema(like.ema_params)
    assert step == 1
    # The other process drew the numbers, and this one may have compiled the drawing for quick compilation.
    chex.assert_trees_all_close(average, make_state(1, seed=1).ema_params, rtol=1e-5)
