"""launch/slurm.sbatch without SLURM: options that sbatch knows, and processes that find each other by the variables it sets."""

import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from jax._src.clusters import SlurmCluster

from tests.commands.conftest import tiny_flags
from tests.commands.test_interrupted_runs import wait_for_step
from tests.commands.test_processes import DEVICES, SETTINGS
from tests.conftest import COMPILATION_CACHE

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "launch/slurm.sbatch"

# The options that the script gives, and what their values look like, by sbatch's manual.
OPTIONS = {
    "job-name": r"\S+",
    "nodes": r"\d+(-\d+)?",
    "ntasks-per-node": r"\d+",
    "gpus-per-node": r"(\w+:)?\d+",
    "cpus-per-task": r"\d+",
    "time": r"(\d+-)?\d+(:\d\d){0,2}",
    "signal": r"([RB]+:)?[A-Z]+\d?(@\d+)?",
    "requeue": r"",
    "output": r"[\w/.%-]+",
    "open-mode": r"append|truncate",
}

# Starts as many tasks as SLURM_NTASKS says, with the variables that slurmstepd sets for each; as seen with SLURM 22.05.
SRUN = f"""#!{sys.executable}
import os, subprocess, sys
program = sys.argv[1:]
while program[0].startswith("-"):
    program.pop(0)
shared = os.environ | {{"SLURM_STEP_NODELIST": "localhost", "SLURM_STEP_NUM_NODES": "1"}}
numbers = range(int(os.environ["SLURM_NTASKS"]))
tasks = [subprocess.Popen(program, env=shared | {{"SLURM_PROCID": str(n), "SLURM_LOCALID": str(n)}}) for n in numbers]
with open(os.environ["TASKS"], "w") as file:
    print(*(task.pid for task in tasks), file=file)
sys.exit(max(task.wait() for task in tasks))
"""


def free_job():
    """The number of a job for which the port that JAX makes of it is free."""
    for port in range(65535 - 2**12 + 1, 65536):
        with socket.socket() as one:
            if one.connect_ex(("localhost", port)):
                return port - (65535 - 2**12 + 1) + 3 * 2**12
    raise AssertionError("no free port")


@pytest.fixture
def submit(tmp_path):
    """Runs the script as the batch step of a job, with an `srun` and an `scontrol` of ours."""

    def submit(srun, *args, job="4711", **variables):
        for name, text in {"srun": srun, "scontrol": '#!/bin/sh\necho "$@" >> "$REQUEUED"\n'}.items():
            (tmp_path / name).write_text(text)
            (tmp_path / name).chmod(0o755)
        slurm = {"SLURM_JOB_ID": job, "SLURM_NTASKS": "2", "SLURM_CPUS_PER_TASK": "1"}
        ours = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "TASKS": str(tmp_path / "tasks"), "PYTHON": sys.executable}
        environment = os.environ | slurm | ours | {"REQUEUED": str(tmp_path / "requeued"), **variables}
        streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        return subprocess.Popen(["bash", SCRIPT, *args], cwd=ROOT, env=environment, text=True, **streams)

    return submit


def options():
    lines = re.findall(r"^#SBATCH (.*)$", SCRIPT.read_text(), re.MULTILINE)
    return dict(re.fullmatch(r"--([\w-]+)=?(.*)", line).groups() for line in lines)


def test_its_options_are_those_of_sbatch():
    given = options()
    assert {name for name, value in given.items() if not re.fullmatch(OPTIONS[name], value)} == set()
    before_any_command = re.match(r"(#.*\n|\n)*", SCRIPT.read_text())[0]  # where sbatch stops reading
    assert before_any_command.count("#SBATCH ") == len(given)


def test_each_gpu_has_a_process_and_each_process_hears_of_the_end():
    given = options()
    assert given["ntasks-per-node"] == given["gpus-per-node"]
    # Without "B:", which would tell the script alone.
    assert re.fullmatch(r"TERM@\d+", given["signal"])


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("node001", "node001"),
        ("node001,host2", "node001"),
        ("node[001-004]", "node001"),
        ("node[003,007-015],host2", "node003"),
        ("gpu-a[12-13]", "gpu-a12"),
    ],
)
def test_jax_takes_the_first_node_and_a_port_by_the_job(nodes, first, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "4711")
    monkeypatch.setenv("SLURM_STEP_NODELIST", nodes)
    assert SlurmCluster.get_coordinator_address(None, None) == f"{first}:{61440 + 4711 % 4096}"


@pytest.mark.parametrize(("status", "requeued"), [(0, ""), (1, ""), (143, "requeue 4711\n")])
def test_it_is_requeued_when_it_was_told_to_stop_and_only_then(status, requeued, submit, tmp_path):
    process = submit(f'#!/bin/sh\nprintf "<%s>" "$@"\nexit {status}\n', "--workdir=with space")
    printed, _ = process.communicate(timeout=60)
    assert process.returncode == status
    assert (
        printed == f"<--kill-on-bad-exit=0><--gpu-bind=none><--cpus-per-task=1><{sys.executable}><run.py><--workdir=with space>"
    )
    assert ((tmp_path / "requeued").read_text() if requeued else "") == requeued
    assert (tmp_path / "requeued").exists() == bool(requeued)


def test_two_processes_find_each_other_stop_together_and_are_requeued(submit, tmp_path):
    workdir, job = tmp_path / "run", free_job()
    endless = {"train.steps": 10**6, "train.sample_every": 0, "train.checkpoint_every": 10**6}
    process = submit(
        SRUN,
        "--config=configs/digits.py",
        f"--workdir={workdir}",
        *tiny_flags(**SETTINGS, **endless, **{"runtime.cpu_devices": DEVICES // 2}),
        job=str(job),
        JAX_PLATFORMS="cpu",
        JAX_COMPILATION_CACHE_DIR=str(COMPILATION_CACHE),
        JAX_DISABLE_MOST_OPTIMIZATIONS="1",
    )
    wait_for_step(workdir, 2, process)
    _, second = map(int, (tmp_path / "tasks").read_text().split())
    os.kill(second, signal.SIGTERM)
    printed, _ = process.communicate(timeout=300)
    assert process.returncode == 128 + signal.SIGTERM, printed
    assert f"{DEVICES} cpu device(s)" in printed, "those of both"
    [stopped_at] = re.findall(r"stopped by SIGTERM at step (\d+) of", printed)
    assert (workdir / f"checkpoints/{stopped_at}").is_dir()
    assert (tmp_path / "requeued").read_text() == f"requeue {job}\n"
