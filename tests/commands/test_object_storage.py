"""A run whose workdir is on object storage is the run on a local disk: to the bit, and whatever happens to it there."""

import io
import json
import os
import subprocess
import sys

import chex
import numpy as np
import pytest
from PIL import Image

from jax_ddpm.commands import evaluate, export_weights, sample, train
from jax_ddpm.config import default_config, read_config
from jax_ddpm.data.sources.digits import digits
from jax_ddpm.errors import InvalidInput
from jax_ddpm.features import some
from jax_ddpm.files import place, remove, write_npz
from jax_ddpm.opened_images import open_images
from jax_ddpm.trained import open_run
from jax_ddpm.training.logging import read_metrics
from jax_ddpm.training.sharding import make_mesh
from tests.commands.conftest import ROOT, last_state, make_tiny_config
from tests.object_storage import find

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::DeprecationWarning")


@pytest.fixture(scope="module")
def run(storage):
    """The workdir of a finished tiny run."""
    workdir = place(f"{storage[1]}/run")
    train.main(make_tiny_config(), workdir)
    return workdir


def losses(workdir):
    return [(row["step"], row["loss"]) for row in read_metrics(workdir)]


def test_all_of_it_is_there_and_as_on_a_local_disk(run, trained):
    assert {path.name for path in run.iterdir()} == {
        "checkpoints",
        "config.json",
        "environment.json",
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
    assert find(place(config.export_weights.out)) == ["README.md", "config.json", "weights.safetensors"]
    exported, own = (open_run(config, each, make_mesh()) for each in (place(config.export_weights.out), trained))
    chex.assert_trees_all_equal(exported.params, own.params)
    with pytest.raises(InvalidInput, match="holds weights and no run"):
        train.main(make_tiny_config(), place(config.export_weights.out))
    remove(place(config.export_weights.out))
    assert find(place(config.export_weights.out)) == []


def test_samples_and_what_they_are_compared_with_may_lie_there(storage, trained_classifier, tmp_path):
    chosen = some(digits("test"), 24)
    drawn = np.stack([chosen[index]["image"] for index in range(24)])
    write_npz(place(f"{storage[1]}/drawn/samples.npz"), arr_0=drawn)
    write_npz(tmp_path / "samples.npz", arr_0=drawn)
    found = []
    for where in (f"{storage[1]}/drawn", str(tmp_path / "samples.npz")):
        statistics = f"{where.removesuffix('/samples.npz')}/statistics.npz"
        for reference in (f"{where.removesuffix('/samples.npz')}/samples.npz", statistics):
            config = default_config()
            config.eval.update(samples=where, reference=reference, metrics=("fid",), save_reference=statistics)
            config.eval.update(features="classifier", classifier=str(trained_classifier))
            folder = evaluate.evaluate_file(config, tmp_path / "no run", make_mesh())
        found.append(json.loads((folder / "evaluation.json").read_text()))
    for there, here in zip(*(list(each.values()) for each in found), strict=True):
        assert there["distance"] == pytest.approx(here["distance"], abs=1e-9)
        assert there["reference"].startswith(storage[1])

    for name, message in (("nowhere.npz", "no file at"), ("drawings", "of object storage an .npz or .npy file is read")):
        with pytest.raises(InvalidInput, match=message):
            open_images(f"{storage[1]}/{name}", config)


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


def test_the_command_line_takes_addresses(run, storage, tmp_path):
    command = ["run.py", "--mode=export_weights", f"--workdir={run}", f"--out={storage[1]}/by_command"]
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    done = subprocess.run([sys.executable, *command], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)
    assert f"{storage[1]}/by_command/weights.safetensors" in done.stdout, done.stderr
    assert not list(ROOT.glob("*:*"))
    with pytest.raises(InvalidInput, match=f"no run at {storage[1]}/nothing: expected a config.json there"):
        read_config(place(f"{storage[1]}/nothing"))
