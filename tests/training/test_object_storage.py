"""Checkpoints on object storage that are half there, that it does not take, or that it does not give."""

import pytest

from jax_ddpm.errors import InvalidInput
from jax_ddpm.files import NotWritten, place
from jax_ddpm.training.checkpoint_config import newest_config
from jax_ddpm.training.checkpoints import Checkpoints
from jax_ddpm.training.logging import MetricsWriter
from jax_ddpm.training.object_storage import is_unreachable
from jax_ddpm.training.sharding import abstract, make_mesh, replicated
from tests.object_storage import find
from tests.training.test_checkpoints import CONFIG, make_data, make_state

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::DeprecationWarning")


def test_what_is_left_half_written_is_cleared_away(storage):
    directory = place(f"{storage[1]}/half/checkpoints")
    with Checkpoints(directory, keep_last=3) as checkpoints:
        for step in (1, 2):
            checkpoints.save(make_state(step, seed=step), make_data(), CONFIG)
    assert newest_config(directory) == directory / "2/config/metadata"
    (directory / "2/commit_success.txt").unlink()
    assert newest_config(directory) == directory / "1/config/metadata"
    with Checkpoints(directory, read_only=True) as checkpoints:
        assert checkpoints.latest_step == 1
    assert find(directory, "2"), "who only reads leaves it"
    with Checkpoints(directory, keep_last=3) as checkpoints:
        checkpoints.save(make_state(2, seed=5), make_data(), CONFIG)
    assert len(find(directory, "2/ema/d")) == 1, "of what lay there nothing is left"
    assert ema_of(directory) == (5 / 2, 2)


def ema_of(directory):
    """A number of the average that is the seed of the state, halved, and the step."""
    with Checkpoints(directory, read_only=True) as checkpoints:
        average, step = checkpoints.restore_ema(abstract(make_state(), replicated(make_mesh())).ema_params)
    return float(average["b"]), step


@pytest.fixture
def full(storage, request):
    """A workdir with a checkpoint, on storage that takes nothing more: another for each test, as writes are tried again."""
    workdir = place(f"{storage[1]}/full_{request.node.originalname[:20]}")
    with Checkpoints(workdir / "checkpoints", keep_last=3) as checkpoints:
        checkpoints.save(make_state(1, seed=1), make_data(), CONFIG)
    storage[0].full = True
    yield workdir
    found = ema_of(workdir / "checkpoints")
    storage[0].full = False
    assert found == (1 / 2, 1)


def save_second(directory):
    with Checkpoints(directory, keep_last=3) as checkpoints:
        checkpoints.save(make_state(2, seed=2), make_data(), CONFIG)


def write_metrics(workdir):
    with Checkpoints(workdir / "checkpoints", read_only=True) as checkpoints, checkpoints.last_told():
        MetricsWriter(workdir, 0)


def test_a_checkpoint_that_the_storage_does_not_take_is_told_and_the_last_one_stays(full):
    told = r"a checkpoint could not be written into .*/full_.*/checkpoints: .*\nThe last whole checkpoint is that of step 1"
    with pytest.raises(InvalidInput, match=told):
        save_second(full / "checkpoints")


def test_so_is_any_other_file(full):
    with pytest.raises(
        NotWritten, match=r"full_.*/metrics.jsonl could not be written: .*\nThe last whole checkpoint .* step 1"
    ):
        write_metrics(full)


@pytest.mark.parametrize("error", [ConnectionResetError(), ValueError("UNAVAILABLE: no answer"), PermissionError("forbidden")])
def test_a_checkpoint_that_cannot_be_reached_is_not_damaged(error):
    assert is_unreachable(error)
    outer = ValueError("cannot be read")
    outer.__cause__ = error
    assert is_unreachable(outer)


@pytest.mark.parametrize("error", [FileNotFoundError("gone"), ValueError("DATA_LOSS: checksum"), KeyError("params")])
def test_what_is_gone_or_cut_is(error):
    assert not is_unreachable(error)
