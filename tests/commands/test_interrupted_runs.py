"""Runs that are ended, at any moment, and taken up again: they end with the very parameters of a run left alone."""

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import chex
import pytest

from jax_ddpm.training.logging import read_metrics
from tests.commands.conftest import ROOT, last_state, tiny_flags
from tests.conftest import COMPILATION_CACHE

STEPS = 120
SETTINGS = {"train.steps": STEPS, "train.log_every": 1, "train.checkpoint_every": 10, "train.sample_every": 40}
SETTINGS |= {"diffusion.timesteps": "second_moment"}  # so that its history has to come back too

# Runs run.py, but dies by SIGKILL at the n-th time that Python makes, opens, renames or removes a file of a checkpoint.
DIE_IN_CHECKPOINT = """
import os, runpy, signal, sys
left = int(sys.argv.pop(1))
def watch(event, args):
    global left
    if event in ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir") and "checkpoints/" in str(args[0]):
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(watch)
sys.path.insert(0, ".")
runpy.run_path("run.py", run_name="__main__")
"""

# Runs run.py where no file grows beyond so many bytes. Compiled programs are not kept, or they would be cut short too.
FULL_DISK = """
import os, resource, runpy, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv.pop(1)),) * 2)
os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = str(2**40)
sys.path.insert(0, ".")
runpy.run_path("run.py", run_name="__main__")
"""


def command(workdir, **settings):
    flags = tiny_flags(**{**SETTINGS, **settings})
    return ["run.py", "--config=configs/digits.py", f"--workdir={workdir}", *flags]


def start(arguments, **streams):
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": str(COMPILATION_CACHE),
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",  # runs of seconds, each of which would be compiled for longer
    }
    return subprocess.Popen([sys.executable, *arguments], cwd=ROOT, env=environment, text=True, **streams)


def finish(arguments):
    process = start(arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    out, _ = process.communicate(timeout=300)
    assert process.returncode == 0, out
    return out


def wait_for_step(workdir: Path, step: int, process):
    """Returns when metrics.jsonl has come to `step`."""
    path = workdir / "metrics.jsonl"
    deadline = time.monotonic() + 300
    while process.poll() is None and time.monotonic() < deadline:
        lines = path.read_text().splitlines() if path.exists() else []
        if lines and lines[-1].endswith("}") and json.loads(lines[-1])["step"] >= step:
            return
        time.sleep(0.002)
    raise AssertionError(f"the run did not come to step {step}: exit status {process.poll()}")


def assert_same_end(workdir, other):
    """The last checkpoints hold the same bits, and the same losses were written down."""
    (ours, our_data), (theirs, their_data) = last_state(workdir), last_state(other)
    assert int(ours.step) == STEPS
    chex.assert_trees_all_equal(ours, theirs)
    assert our_data == their_data
    losses, expected = ([(row["step"], row["loss"]) for row in read_metrics(each)] for each in (workdir, other))
    assert losses == expected


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("unbroken") / "run"
    finish(command(workdir))
    return workdir


def test_killed_at_random_moments(unbroken, tmp_path):
    workdir = tmp_path / "run"
    draw = random.Random(0)
    for milestone in sorted(draw.sample(range(5, STEPS - 20), 3)):
        process = start(command(workdir), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_for_step(workdir, milestone, process)
        time.sleep(draw.uniform(0, 0.03))
        process.kill()
        assert process.wait() == -signal.SIGKILL, "it was still running when it was killed"
    out = finish(command(workdir))
    assert re.search(r"going on from the checkpoint of step \d+", out)
    assert_same_end(workdir, unbroken)


def test_killed_while_writing_checkpoints(unbroken, tmp_path):
    workdir = tmp_path / "run"
    cut_short = 0
    for operation in (20, 40, 60, 80):
        process = start(["-c", DIE_IN_CHECKPOINT, str(operation), *command(workdir)[1:]], stdout=subprocess.PIPE)
        process.communicate(timeout=300)
        assert process.returncode == -signal.SIGKILL
        cut_short += bool(unfinished(workdir))
    assert cut_short >= 2, "most deaths came in the middle of a checkpoint"
    finish(command(workdir))
    assert not unfinished(workdir), "what was cut short is cleared away"
    assert_same_end(workdir, unbroken)


def unfinished(workdir):
    return list((workdir / "checkpoints").glob("*tmp*"))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_asked_to_stop_it_saves_and_says_how_to_go_on(number, unbroken, tmp_path):
    workdir = tmp_path / "run"
    # No periodic checkpoint: what is gone on from can only be the one saved on the signal.
    patient = command(workdir, **{"train.checkpoint_every": 1000, "train.sample_every": 0})
    process = start(patient, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    wait_for_step(workdir, 30, process)
    process.send_signal(number)
    out, _ = process.communicate(timeout=300)
    assert process.returncode == 128 + number
    stopped_at = int(re.search(rf"stopped by {number.name} at step (\d+) of {STEPS}; everything is saved", out)[1])
    assert stopped_at >= 30
    assert f"{number.name}: stopping after this step" in out
    assert f"python run.py --workdir {workdir}" in out
    assert (workdir / f"checkpoints/{stopped_at}").is_dir()
    out = finish(["run.py", f"--workdir={workdir}"])
    assert f"going on from the checkpoint of step {stopped_at}" in out
    assert_same_end(workdir, unbroken)


def test_where_the_disk_is_full_the_last_checkpoint_is_told_and_the_run_goes_on_when_there_is_room(unbroken, tmp_path):
    """Lines of metrics.jsonl are what a run writes most often, and so what finds no room."""
    workdir = tmp_path / "run"
    shutil.copytree(unbroken, workdir)
    shutil.rmtree(workdir / f"checkpoints/{STEPS}")
    going_on = STEPS - 10
    metrics = workdir / "metrics.jsonl"
    lines = metrics.read_text().splitlines(keepends=True)
    room = sum(map(len, lines[going_on : going_on + 3])) + 30  # for three lines more, whose figures have some digits more
    longest = json.dumps(json.loads(lines[0]) | {"padding": " " * 4_000_000}) + "\n"  # so that nothing else grows as large
    metrics.write_text("".join([longest, *lines[1:]]))
    full = sum(map(len, [longest, *lines[1:going_on]])) + room

    arguments = command(workdir, **{"train.checkpoint_every": 2})[1:]
    process = start(["-c", FULL_DISK, str(full), *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    out, _ = process.communicate(timeout=300)
    assert process.returncode == 1, out
    assert "Traceback" not in out, out
    assert f"error: {metrics} could not be written: OSError: [Errno 27] File too large" in out
    assert f"The last whole checkpoint is that of step {going_on + 2}. Make room, or see to the rights, and go on by the" in out
    assert int(last_state(workdir)[0].step) == going_on + 2

    assert f"going on from the checkpoint of step {going_on + 2}" in finish(command(workdir))
    assert_same_end(workdir, unbroken)
