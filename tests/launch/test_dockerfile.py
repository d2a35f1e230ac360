"""launch/Dockerfile without Docker: what it copies is there and enough to run, and what it installs exists."""

import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "launch/Dockerfile").read_text()
KNOWN = {"FROM", "ARG", "ENV", "WORKDIR", "COPY", "RUN", "USER", "ENTRYPOINT"}


def instructions():
    lines = [line for line in TEXT.replace("\\\n", " ").splitlines() if line and not line.startswith("#")]
    return [tuple(line.split(maxsplit=1)) for line in lines]


def of_kind(kind):
    return [rest for name, rest in instructions() if name == kind]


def copied():
    """Source and destination of each thing that is copied."""
    for line in of_kind("COPY"):
        *sources, destination = line.split()
        yield from ((source, Path(destination, source) if destination == "./" else Path(destination)) for source in sources)


def test_it_has_the_instructions_in_order():
    names = [name for name, _ in instructions()]
    assert set(names) <= KNOWN
    assert (names[0], names[-1]) == ("FROM", "ENTRYPOINT")
    assert names.index("USER") > max(index for index, name in enumerate(names) if name in ("RUN", "COPY"))


def test_it_starts_from_the_python_that_the_lock_is_tested_with():
    assert of_kind("FROM") == ["python:3.11-slim"]


def test_each_extra_that_it_names_is_one_of_jax():
    named = re.search(r"by JAX_EXTRA=(.*?)\. From", TEXT)[1]
    extras = set(re.findall(r"\w+", named.replace("or", "")))
    assert extras == {"cpu", "cuda12", "cuda13", "tpu"}
    assert extras <= set(importlib.metadata.metadata("jax").get_all("Provides-Extra"))
    assert dict(line.split("=") for line in of_kind("ARG"))["JAX_EXTRA"] in extras


def test_what_it_installs_by_was_copied_before_and_the_code_after():
    [run] = of_kind("RUN")
    files = re.findall(r"requirements\.\w+", run)
    before = instructions()[: instructions().index(("RUN", run))]
    assert files
    assert set(files) == set(" ".join(rest for name, rest in before if name == "COPY").split()) - {"./"}


def test_what_it_copies_is_sent_to_the_builder():
    ignore = [line for line in (ROOT / "launch/Dockerfile.dockerignore").read_text().splitlines() if not line.startswith("#")]
    assert ignore[0] == "*"
    assert {line[1:] for line in ignore if line.startswith("!")} == {source for source, _ in copied()}


def test_what_it_copies_is_enough_for_its_entrypoint(tmp_path):
    for source, destination in copied():
        copy = shutil.copytree if (ROOT / source).is_dir() else shutil.copy
        copy(ROOT / source, tmp_path / destination)
    program, *args = json.loads(of_kind("ENTRYPOINT")[0])  # a list, so that no shell stands between SIGTERM and Python
    assert program == "python"
    command = [sys.executable, *args, "--config=configs/digits.py", "--mode=describe", f"--workdir={tmp_path}/run"]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {"JAX_PLATFORMS": "cpu"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "parameters" in done.stdout
