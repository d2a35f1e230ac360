"""Several processes on one machine, as they would be on many: the run of one, stopped together, killed apart, gone on with."""

import json
import re
import shutil
import signal
import socket
import subprocess
import time

import chex
import jax
import numpy as np
import pytest
import tensorstore
from PIL import Image

from jax_ddpm.commands import evaluate
from jax_ddpm.config import read_config
from jax_ddpm.data.sources.digits import digits
from jax_ddpm.training.logging import read_metrics
from tests.commands.conftest import last_state, tiny_flags
from tests.commands.test_evaluate_features import judged
from tests.commands.test_interrupted_runs import start, wait_for_step

DEVICES = 4  # of all processes together
HEARTBEAT = 15  # seconds
SETTINGS = {"train.log_every": 1, "diffusion.timesteps": "second_moment"}
LOST = "another task died|lost another"


def launch(workdir, count, devices=DEVICES, **settings):
    """So many processes of one run, each with its share of the devices."""
    settings = {**SETTINGS, "runtime.cpu_devices": devices // count, "runtime.heartbeat": HEARTBEAT, **settings}
    common = ["run.py", "--config=configs/digits.py", f"--workdir={workdir}", *tiny_flags(**settings)]
    return start_together(common, count)


def start_together(command, count):
    """So many processes of one command."""
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    if count == 1:
        return [start(command, **streams)]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        coordinator = f"127.0.0.1:{free.getsockname()[1]}"
    joined = [*command, f"--coordinator={coordinator}", f"--processes={count}"]
    return [start([*joined, f"--process_id={number}"], **streams) for number in range(count)]


def outputs(processes):
    """What each printed, when all have ended."""
    return [process.communicate(timeout=300)[0] for process in processes]


def run(workdir, count, devices=DEVICES, **settings):
    processes = launch(workdir, count, devices, **settings)
    printed = outputs(processes)
    for process, text in zip(processes, printed, strict=True):
        assert process.returncode == 0, text
    return printed


def losses(workdir):
    return [row["loss"] for row in read_metrics(workdir)]


def cut_last_part(directory, name):
    """Cuts what one device wrote of an array, wherever Orbax has put it: small parts lie together in a file."""
    store = tensorstore.KvStore.open({"driver": "ocdbt", "base": f"file://{directory}/"}).result()
    store.write(name, store.read(name).result().value[:-4]).result()


def test_two_processes_then_four_with_twice_the_devices_are_as_one(tmp_path):
    """The state is split over all devices; in between the part that one process wrote of a checkpoint is damaged."""
    settings = {"train.steps": 8, "sample.batch_size": 2 * DEVICES}  # which all have a share of, or noise would be another's
    split = {**settings, "mesh.rules": (".*=largest",)}
    run(tmp_path / "one", 1, **settings)
    first, second = run(tmp_path / "many", 2, **{**split, "train.steps": 4, "mesh.fsdp": DEVICES})
    assert re.search(r"^step 4/4 ", first, re.MULTILINE)
    assert not re.search("^(step|compil|samples)", second, re.MULTILINE), "one speaks for all"
    cut_last_part(tmp_path / "many/checkpoints/4/state", b"params.conv_in.kernel/0.0.0.3")
    printed = run(tmp_path / "many", 4, 2 * DEVICES, **split, **{"mesh.fsdp": 2 * DEVICES})
    assert "the checkpoint of step 4 is damaged and left out (another process cannot read it)" in printed[0], printed[0]
    assert "going on from the checkpoint of step 3" in printed[0]
    # The same batches, times and noise, whose losses are added up in another order: some units in the last place.
    np.testing.assert_allclose(losses(tmp_path / "many"), losses(tmp_path / "one"), rtol=2e-6)
    (one, data), (many, data_of_many) = last_state(tmp_path / "one"), last_state(tmp_path / "many")
    chex.assert_trees_all_close(many, one, rtol=1e-4, atol=1e-5)
    assert data == data_of_many == {"next_index": 8}
    assert read_config(tmp_path / "many").import_weights.given == (), "what flags gave is kept of an import alone"
    pictures = [Image.open(tmp_path / name / "samples/step_0000008.png") for name in ("one", "many")]
    assert np.abs(np.subtract(*(np.asarray(picture, float) for picture in pictures))).mean() < 0.1
    of_one, of_many = ({path.name for path in (tmp_path / name).iterdir()} for name in ("one", "many"))
    assert of_many == of_one | {"damaged_checkpoints"}


def write_images(directory, count):
    directory.mkdir()
    for number, image in enumerate(np.random.default_rng(0).integers(0, 256, (count, 8, 8), np.uint8)):
        Image.fromarray(image).save(directory / f"{number:02d}.png")
    return directory


def stopped_together(workdir, settings, number, signal_number, after):
    """The step at which both stop when one process is sent a signal after so many."""
    processes = launch(workdir, 2, **settings)
    wait_for_step(workdir, after, processes[0])
    processes[number].send_signal(signal_number)
    first, _ = outputs(processes)
    assert [process.returncode for process in processes] == [128 + signal.SIGTERM] * 2, first
    stopped_at = int(re.search(r"stopped by SIGTERM at step (\d+) of 80; everything is saved", first)[1])
    assert (workdir / f"checkpoints/{stopped_at}").is_dir(), "all have saved the same step"
    return stopped_at


def test_stopped_together_and_killed_apart_it_goes_on_exactly(tmp_path):
    """By Ctrl-C in the first process and SIGTERM in the other; by the death of each, and an image that one cannot read."""
    images = write_images(tmp_path / "images", 24)
    settings = {"data.name": "folder", "data.directory": images, "model.class_conditional": False, "model.label_dropout": 0.0}
    settings |= {"train.steps": 80, "train.checkpoint_every": 10, "train.sample_every": 0}
    run(tmp_path / "unbroken", 2, **settings)
    workdir = tmp_path / "run"

    stopped_at = stopped_together(workdir, settings, 0, signal.SIGINT, after=5)
    stopped_together(workdir, settings, 1, signal.SIGTERM, after=stopped_at + 3)

    for number in range(2):
        processes = launch(workdir, 2, **settings)
        wait_for_step(workdir, read_metrics(workdir)[-1]["step"] + 12, processes[0])
        processes[number].kill()
        killed = time.monotonic()
        left = 1 - number
        printed = outputs(processes)[left]
        assert time.monotonic() - killed < 4 * HEARTBEAT
        assert processes[left].returncode not in (0, None)
        assert re.search(LOST, printed)

    picture = (images / "00.png").read_bytes()
    (images / "00.png").write_bytes(b"no image")
    processes = launch(workdir, 2, **settings)
    printed = outputs(processes)
    assert all(process.returncode not in (0, None) for process in processes)
    read, lost = sorted(printed, key=lambda text: f"{images / '00.png'} cannot be read as an image" not in text)
    assert f"error: {images / '00.png'} cannot be read as an image" in read
    assert re.search(LOST, lost), "the other is told, whichever it is"
    (images / "00.png").write_bytes(picture)

    first, _ = run(workdir, 2, **settings)
    assert re.search(r"going on from the checkpoint of step \d+", first)
    assert losses(workdir) == losses(tmp_path / "unbroken")
    chex.assert_trees_all_equal(last_state(workdir), last_state(tmp_path / "unbroken"))


def test_two_processes_judge_samples_as_one_does(trained_classifier, tmp_path):
    """Each its own images; what they find together is what one finds of all, by the same bits of features."""
    drawn = np.stack([digits("test")[index]["image"] for index in range(61)])
    drawn[::2] = drawn[::2, ::-1]
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        np.savez(tmp_path / name / "samples.npz", arr_0=drawn)
    settings = {"features": "classifier", "classifier": str(trained_classifier), "batch_size": 16, "reference_count": 83}
    metrics = ("fid", "is", "kid", "precision_recall", "density_coverage")
    one = judged(tmp_path / "one/samples.npz", metrics, **settings, reference="digits")

    flags = [f"--config.eval.{name}={value}" for name, value in settings.items()]
    flags += ["--mode=evaluate", f"--samples={tmp_path}/two/samples.npz", "--reference=digits"]
    flags += [f"--config.eval.metrics={','.join(metrics)}", f"--config.runtime.cpu_devices={DEVICES // 2}"]
    processes = start_together(["run.py", *flags], 2)
    first, second = outputs(processes)
    assert [process.returncode for process in processes] == [0, 0], first + second
    assert "classifier Fréchet distance: " in first
    assert "classifier" not in second, "one speaks for all"
    two = json.loads((tmp_path / "two/samples.npz_evaluation/evaluation.json").read_text())
    for name, row in two.items():
        assert row.pop("file") != one[name].pop("file")
        if name in ("classifier_frechet_distance", "classifier_score"):  # sums, put together in another order
            for key, value in row.items():
                assert value == (pytest.approx(one[name][key], rel=1e-10) if isinstance(value, float) else one[name][key])
        else:
            assert row == one[name]
    assert two.keys() == one.keys()


def numbers(found):
    """Those in nested dicts and lists, one after the other."""
    return [leaf for leaf in jax.tree.leaves(found) if not isinstance(leaf, str)]


def test_two_processes_draw_samples_and_evaluate_as_one_does(trained, tmp_path):
    """Images drawn as --mode sample draws them, and the likelihood of others, of a number that does not divide."""
    settings = {"eval.metrics": ("bits_per_dim", "nearest"), "eval.count": 10, "eval.batch_size": 8, "sample.count": 6}
    alone = shutil.ignore_patterns("samples", "evaluation")
    one, two = (shutil.copytree(trained, tmp_path / name, ignore=alone) for name in ("one", "two"))
    config = read_config(one)
    config.update_from_flattened_dict(settings)
    evaluate.main(config, one)

    flags = [f"--config.{name}={value}" for name, value in settings.items()]
    flags += ["--mode=evaluate", f"--workdir={two}", f"--config.runtime.cpu_devices={DEVICES // 2}"]
    processes = start_together(["run.py", *flags], 2)
    first, second = outputs(processes)
    assert [process.returncode for process in processes] == [0, 0], first + second
    assert "variational bound: " in first
    assert "memorised: " in first
    assert not re.search("bound|memorised", second), "one speaks for all"
    drawn = sorted((one / "samples/step_0000006_seed_0").iterdir())
    assert len(drawn) == 6 + 3, "each image, their grid, the archive, and how they were drawn"
    for path in drawn:
        assert (two / path.relative_to(one)).read_bytes() == path.read_bytes()
    names = sorted(path.relative_to(one) for path in one.glob("evaluation/*/evaluation.json"))
    assert len(names) == 2
    for name in names:
        ours, theirs = (json.loads((workdir / name).read_text()) for workdir in (one, two))
        assert theirs.keys() == ours.keys()
        np.testing.assert_allclose(numbers(theirs), numbers(ours), rtol=1e-5)
    ours, theirs = (np.loadtxt(next(each.glob("evaluation/*/vlb_terms.csv")), delimiter=",", skiprows=1) for each in (one, two))
    np.testing.assert_allclose(theirs, ours, rtol=1e-5)
    ours, theirs = (np.load(next(each.glob("evaluation/*/nearest.npz"))) for each in (one, two))
    for name in ours:
        np.testing.assert_array_equal(theirs[name], ours[name])


@pytest.mark.parametrize(
    ("flags", "error"),
    [
        (["--processes=2"], "--coordinator, --process_id not given: the three go together"),
        (["--coordinator=me", "--processes=2", "--process_id=0"], "--coordinator=me: expected HOST:PORT"),
        (
            ["--coordinator=127.0.0.1:1", "--processes=2", "--process_id=2"],
            "--process_id=2 of --processes=2: expected one of 0..1",
        ),
    ],
)
def test_what_does_not_go_together_is_told(flags, error, tmp_path):
    process = start(["run.py", "--config=configs/digits.py", f"--workdir={tmp_path}/run", *flags], stderr=subprocess.PIPE)
    _, printed = process.communicate(timeout=60)
    assert process.returncode == 1
    assert error in printed
