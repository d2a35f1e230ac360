"""launch/cloud_tpu.sh with a `gcloud` of ours, which notes what it is asked, and has this machine for the slice's hosts."""

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "launch/cloud_tpu.sh"

# Notes its arguments as a line of JSON; `ssh` runs the command in a host's home, and `scp` copies there.
GCLOUD = f"""#!{sys.executable}
import json, os, shutil, subprocess, sys
args = sys.argv[1:]
with open(os.environ["CALLS"], "a") as calls:
    print(json.dumps(args), file=calls)
if args[3] == "scp":
    shutil.copy(args[4], os.path.join(os.environ["HOME"], args[5].partition(":")[2]))
for command in (arg.removeprefix("--command=") for arg in args if arg.startswith("--command=")):
    sys.exit(subprocess.run(["bash", "-c", command], cwd=os.environ["HOME"]).returncode)
"""
NOTE = f"""#!{sys.executable}
import json, os, sys
with open(os.environ["CALLS"], "a") as calls:
    print(json.dumps([os.path.basename(sys.argv[0]), *sys.argv[1:]]), file=calls)
"""
SUDO = '#!/bin/sh\nexec "$@"\n'


@pytest.fixture
def script(tmp_path):
    """Runs the script with the arguments, and returns what it asked gcloud, and gcloud the hosts."""
    home = tmp_path / "home"
    home.mkdir()
    stubs = {"gcloud": GCLOUD, "sudo": SUDO} | dict.fromkeys(("systemd-run", "systemctl", "journalctl", "python3"), NOTE)
    for name, text in stubs.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    names = {"TPU_NAME": "digits", "TPU_TYPE": "v5litepod-16", "TPU_VERSION": "v2-alpha-tpuv5-lite", "USER": "me"}
    ours = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "CALLS": str(tmp_path / "calls"), "HOME": str(home)}

    def script(*args, cwd=ROOT):
        done = subprocess.run([SCRIPT, *args], cwd=cwd, env=os.environ | names | ours, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return [json.loads(line) for line in (tmp_path / "calls").read_text().splitlines()]

    return script


TPUS = ["compute", "tpus"]
SLICE = ["--accelerator-type=v5litepod-16", "--runtime-version=v2-alpha-tpuv5-lite"]


@pytest.mark.parametrize(
    ("args", "asked"),
    [
        (
            ["create", "--spot"],
            ["create", "digits", "--node-id=digits", *SLICE, "--spot"],
        ),
        (["state"], ["describe", "digits", "--format=value(state.state)"]),
        (["delete"], ["delete", "digits", "--force", "--quiet"]),
    ],
)
def test_the_slice_is_asked_for_and_given_back(args, asked, script):
    assert script(*args) == [[*TPUS, "queued-resources", *asked]]


def test_the_run_is_started_on_all_hosts_with_the_flags_as_given(script, tmp_path):
    flags = [
        "--config=configs/digits.py",
        "--config.mesh.rules=('label=whole', 'conv_out/kernel=2')",
        "--workdir",
        "gs://it's/one",
    ]
    ssh, started = script("start", *flags)
    assert ssh[:6] == [*TPUS, "tpu-vm", "ssh", "digits", "--worker=all"]
    assert started[0] == "systemd-run"
    options = list(itertools.takewhile(lambda word: word.startswith("--"), started[1:]))
    assert options[:3] == ["--unit=jax_ddpm", "--collect", "--uid=me"]
    folder = f"{tmp_path}/home/jax_ddpm"
    assert f"--working-directory={folder}" in options
    # By its whole path: systemd-run looks for a program from where it is called itself, which is the home.
    assert started[1 + len(options) :] == [f"{folder}/.venv/bin/python", "run.py", *flags]


@pytest.mark.parametrize(
    ("command", "run"),
    [
        ("stop", ["systemctl", "stop", "jax_ddpm"]),
        ("log", ["journalctl", "--unit=jax_ddpm", "--output=cat", "--lines=100", "--follow"]),
    ],
)
def test_one_host_is_asked_for_its_log_and_to_stop(command, run, script):
    ssh, ran = script(command)
    assert ssh[:6] == [*TPUS, "tpu-vm", "ssh", "digits", "--worker=0"]
    assert ran == run


def test_the_last_commit_is_installed_with_the_versions_of_the_lock(script, tmp_path):
    repository = tmp_path / "repository"
    repository.mkdir()
    git = ["git", "-c", "user.name=me", "-c", "user.email=me@example.org"]
    (repository / "run.py").write_text("committed")
    for command in (["init", "--quiet"], ["add", "run.py"], ["commit", "--quiet", "--message", "first"]):
        subprocess.run([*git, *command], cwd=repository, check=True)
    (repository / "run.py").write_text("not yet")
    scp, ssh, *pythons = script("install", cwd=repository)
    assert scp[2:4] + scp[5:] == ["tpu-vm", "scp", "digits:jax_ddpm.tar.gz", "--worker=all"]
    assert "--worker=all" in ssh
    assert (tmp_path / "home/jax_ddpm/run.py").read_text() == "committed"
    assert not Path(scp[4]).exists()
    packages = ["--requirement", "requirements.txt", "jax[tpu]", "gcsfs", "--constraint", "requirements.lock"]
    assert pythons[-1] == ["python3", "-m", "uv", "pip", "install", "--quiet", *packages]


def test_what_it_does_not_know_is_answered_by_what_it_does():
    done = subprocess.run([SCRIPT, "crate"], capture_output=True, text=True)
    assert done.returncode == 2
    assert "launch/cloud_tpu.sh create" in done.stderr
