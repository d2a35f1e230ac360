"""A run whose workdir is on object storage is the run on a local disk: to the bit, and whatever happens to it there."""

import importlib.util
import io
import os
import subprocess
import sys

import chex
import fsspec
import numpy as np
import pytest
from PIL import Image

from jax_ddpm.commands import evaluate, export_weights, sample, train
from jax_ddpm.config import read_config
from jax_ddpm.errors import InvalidInput
from jax_ddpm.files import NotWritten, move, place, remove
from jax_ddpm.trained import open_run
from jax_ddpm.training.checkpoints import Checkpoints
from jax_ddpm.training.logging import MetricsWriter, read_metrics
from jax_ddpm.training.object_storage import is_unreachable
from jax_ddpm.training.sharding import abstract, make_mesh, replicated
from tests.commands.conftest import ROOT, last_state, make_tiny_config
from tests.object_storage import SERVERS
from tests.training.test_checkpoints import CONFIG, make_data, make_state

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::DeprecationWarning")


@pytest.fixture(scope="module", params=SERVERS)
def storage(request):
    """A server that runs, and the address of its bucket."""
    with SERVERS[request.param]() as server, pytest.MonkeyPatch.context() as patch:
        for name, value in server.environment.items():
            patch.setenv(name, value)
        fsspec.filesystem(request.param).clear_instance_cache()
        yield server, f"{request.param}://bucket"


@pytest.fixture(scope="module")
def run(storage):
    """The workdir of a finished tiny run."""
    workdir = place(f"{storage[1]}/run")
    train.main(make_tiny_config(), workdir)
    return workdir


def find(workdir, under=""):
    """Every file below a folder, by its path there."""
    files, root = fsspec.url_to_fs(str(workdir / under))
    return sorted(name.removeprefix(root).lstrip("/") for name in files.find(root))


def losses(workdir):
    return [(row["step"], row["loss"]) for row in read_metrics(workdir)]


def test_all_of_it_is_there_and_as_on_a_local_disk(run, trained):
    assert {path.name for path in run.iterdir()} == {
        "checkpoints",
        "config.json",
        "loss.png",
        "metrics.jsonl",
        "samples",
        "tensorboard",
    }
    assert find(run, "samples") == sorted(path.name for path in (trained / "samples").glob("*.png"))
    assert losses(run) == losses(trained)
    assert (run / "config.json").read_text() == (trained / "config.json").read_text()
    pictures = [Image.open(io.BytesIO((each / "samples/step_0000006.png").read_bytes())) for each in (run, trained)]
    np.testing.assert_array_equal(*pictures)
    (events,) = (run / "tensorboard").iterdir()
    assert b"loss" in events.read_bytes()
    chex.assert_trees_all_equal(last_state(run), last_state(trained))


def test_samples_are_drawn_judged_and_exported_there(run, trained, storage):
    config = read_config(run)
    config.eval.update(count=8, batch_size=8)
    np.testing.assert_array_equal(sample.draw(config, run).images, sample.draw(config, trained).images)
    with np.load(io.BytesIO((run / "samples/step_0000006_seed_0/samples.npz").read_bytes())) as drawn:
        assert drawn["arr_0"].shape == (7, 8, 8, 1)
    evaluate.main(config, run)
    assert [name for name in find(run, "evaluation") if name.endswith("evaluation.json")]

    config.export_weights.out = f"{storage[1]}/weights"
    export_weights.main(config, run)
    assert find(place(config.export_weights.out)) == ["config.json", "weights.safetensors"]
    exported, own = (open_run(config, each, make_mesh()) for each in (place(config.export_weights.out), trained))
    chex.assert_trees_all_equal(exported.params, own.params)
    with pytest.raises(InvalidInput, match="holds weights and no run"):
        train.main(make_tiny_config(), place(config.export_weights.out))
    remove(place(config.export_weights.out))
    assert find(place(config.export_weights.out)) == []


def test_a_checkpoint_cut_short_is_ignored(run, trained):
    mark = run / "checkpoints/6/commit_success.txt"
    text = mark.read_text()
    mark.unlink()
    assert open_run(read_config(run), run, make_mesh()).step == 4
    mark.write_text(text)
    assert open_run(read_config(run), run, make_mesh()).step == 6


def test_a_damaged_checkpoint_is_put_aside_and_the_run_goes_on_exactly(run, trained, capsys):
    name = next(name for name in find(run, "checkpoints/6/state") if name.startswith("d/"))
    array = run / "checkpoints/6/state" / name
    array.write_bytes(array.read_bytes()[:100])
    train.main(make_tiny_config(), run)
    out = capsys.readouterr().out
    assert "the checkpoint of step 6 is damaged and left out" in out
    assert "going on from the checkpoint of step 4" in out
    assert [path.name for path in (run / "damaged_checkpoints").iterdir()] == ["6_1"]
    chex.assert_trees_all_equal(last_state(run), last_state(trained))
    assert losses(run) == losses(trained)


def test_what_is_left_half_written_is_cleared_away(storage):
    directory = place(f"{storage[1]}/half/checkpoints")
    with Checkpoints(directory, keep_last=3) as checkpoints:
        for step in (1, 2):
            checkpoints.save(make_state(step, seed=step), make_data(), CONFIG)
    (directory / "2/commit_success.txt").unlink()
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
def full(storage):
    """A workdir with a checkpoint, on storage that takes nothing more."""
    workdir = place(f"{storage[1]}/full")
    with Checkpoints(workdir / "checkpoints", keep_last=3) as checkpoints:
        checkpoints.save(make_state(1, seed=1), make_data(), CONFIG)
    storage[0].full = True
    yield workdir
    storage[0].full = False
    assert ema_of(workdir / "checkpoints") == (1 / 2, 1)
    remove(workdir)


def save_second(directory):
    with Checkpoints(directory, keep_last=3) as checkpoints:
        checkpoints.save(make_state(2, seed=2), make_data(), CONFIG)


def write_metrics(workdir):
    with Checkpoints(workdir / "checkpoints", read_only=True) as checkpoints, checkpoints.last_told():
        MetricsWriter(workdir, 0)


def test_a_checkpoint_that_the_storage_does_not_take_is_told_and_the_last_one_stays(full):
    told = r"a checkpoint could not be written into .*/full/checkpoints: .*\nThe last whole checkpoint is that of step 1"
    with pytest.raises(InvalidInput, match=told):
        save_second(full / "checkpoints")


def test_so_is_any_other_file(full):
    with pytest.raises(NotWritten, match=r"full/metrics.jsonl could not be written: .*\nThe last whole checkpoint .* step 1"):
        write_metrics(full)


def test_the_command_line_takes_addresses(run, storage, tmp_path):
    command = ["run.py", "--mode=export_weights", f"--workdir={run}", f"--out={storage[1]}/by_command"]
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    done = subprocess.run([sys.executable, *command], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)
    assert f"{storage[1]}/by_command/weights.safetensors" in done.stdout, done.stderr
    assert not list(ROOT.glob("*:*"))
    command = ["run.py", "--mode=sample", f"--workdir={storage[1]}/nothing"]
    done = subprocess.run([sys.executable, *command], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)
    assert done.stderr.strip().endswith(
        f"error: no run at {storage[1]}/nothing: expected a config.json there. Train one with --config FILE"
    )
    assert done.returncode == 1


def test_a_folder_moves(storage):
    files, root = fsspec.url_to_fs(f"{storage[1]}/moving")
    files.pipe_file(f"{root}/a/b.txt", b"text")
    move(place(f"{storage[1]}/moving/a"), place(f"{storage[1]}/moving/c"))
    assert find(place(f"{storage[1]}/moving")) == ["c/b.txt"]


def test_what_cannot_be_reached_is_told(monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    fsspec.filesystem("s3").clear_instance_cache()
    with pytest.raises(InvalidInput, match=r"s3://bucket/run cannot be reached: "):
        place("s3://bucket/run")
    fsspec.filesystem("s3").clear_instance_cache()


def test_what_cannot_be_a_workdir_is_told(monkeypatch):
    with pytest.raises(InvalidInput, match=r"unknown storage 'gcs': expected one of gs, s3. Did you mean 'gs'"):
        place("gcs://bucket/run")
    with pytest.raises(InvalidInput, match="names no bucket: expected gs://BUCKET/FOLDER"):
        place("gs://")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InvalidInput, match=r"s3:// needs the package s3fs, which is not installed: pip install s3fs"):
        place("s3://bucket/run")


@pytest.mark.parametrize("error", [ConnectionResetError(), ValueError("UNAVAILABLE: no answer"), PermissionError("forbidden")])
def test_a_checkpoint_that_cannot_be_reached_is_not_damaged(error):
    assert is_unreachable(error)
    outer = ValueError("cannot be read")
    outer.__cause__ = error
    assert is_unreachable(outer)


@pytest.mark.parametrize("error", [FileNotFoundError("gone"), ValueError("DATA_LOSS: checksum"), KeyError("params")])
def test_what_is_gone_or_cut_is(error):
    assert not is_unreachable(error)
