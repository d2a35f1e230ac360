"""What is measured in processes of its own or has no peer: the start of a run, peak memory, the data pipeline."""

import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.speed.figures import spread
from benchmarks.speed.plan import MEASUREMENTS, OURS, Measurement
from benchmarks.speed.runner import Sides
from benchmarks.speed.worker import SideFailed, Worker

ROOT = Path(__file__).parents[2]
STARTED_BATCH = 8  # images of the first step: of more it is the step that takes long, and not the start
STARTED = {"compiled_s": re.compile(r"^compiled in "), "first_step_s": re.compile(r"^step 1/")}
SOON = 10.0  # seconds from the command to the first step with a warm cache
WHOSE_MEMORY = (OURS, "torch_channels_last")
PIPELINE = {"images": 2000, "seconds": 1.0, "rounds": 5, "workers": 2}


def start(folder: Path, net: str, which: str) -> dict[str, float]:
    """Seconds from the command `run.py` until its step is compiled, and until the first step is done; then it is ended.

    Args:
      which: "cold" begins with no compiled program kept, "warm" with those of the run before.
    """
    images = folder / "images.npy"
    if not images.is_file():
        np.save(images, np.random.default_rng(0).integers(0, 256, (512, 32, 32, 3), np.uint8))
    settings: dict[str, Any] = {"train.steps": 3, "train.log_every": 1, "train.batch_size": STARTED_BATCH}
    if net == "cifar":
        settings |= {"data.name": "arrays", "data.directory": images}
    command = [sys.executable, "run.py", f"--config=configs/{net}.py", f"--workdir={folder / f'start_{net}_{which}'}"]
    environment = {**os.environ, "JAX_COMPILATION_CACHE_DIR": str(folder / f"start_{net}_cache")}
    begin, found = time.perf_counter(), dict[str, float]()
    with (
        (folder / "start.log").open("a") as log,
        subprocess.Popen(
            [*command, *(f"--config.{name}={value}" for name, value in settings.items())],
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            cwd=ROOT,
            env=environment,
        ) as process,
    ):
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", file=log)
            found |= {name: time.perf_counter() - begin for name, seen in STARTED.items() if seen.match(line)}
            if "first_step_s" in found:
                process.kill()
                break
    if "first_step_s" not in found:
        raise SideFailed(f"run.py has ended without a step; see {folder / 'start.log'}")
    return found


def starts(folder: Path, net: str) -> dict[str, dict[str, float]]:
    """Cold, then warm."""
    return {which: start(folder, net, which) for which in ("cold", "warm")}


def memory(sides: Sides, measurement: Measurement, environment: dict[str, str]) -> dict[str, dict[str, Any]]:
    """The most that a process holds that takes two steps of training; and seconds from its start until it had taken one."""
    found, case = {}, measurement.case
    for name in WHOSE_MEMORY if sides.torch else WHOSE_MEMORY[:1]:
        module = "ours" if name == OURS else "peers"
        with Worker(module, sides.folder / "memory.log", environment) as worker:
            if name == OURS:
                worker.ask("prepare", key=name, case=case._asdict())
            else:
                sides.prepare_peer(worker, name, case)
            first = time.perf_counter() - worker.begin
            worker.run(name, 1)
            found[name] = {**worker.ask("memory"), "first_step_s": first}
    return found


def memories(sides: Sides, names: list[str], environment: dict[str, str]) -> dict[str, dict[str, dict[str, Any]]]:
    """By measurement, by side."""
    return {name: memory(sides, MEASUREMENTS[name], environment) for name in names}


def data(sides: Sides) -> dict[str, Any]:
    """Images a second of the data pipeline, while nothing else runs."""
    return {"images_per_second": sides.ours.ask("data", **PIPELINE)["images_per_second"]}


def further_lines(found: dict[str, Any]) -> list[str]:
    """What a program reads of it."""
    said = []
    for net, each in found.get("start", {}).items():
        cold, warm = each["cold"], each["warm"]
        met = "met" if warm["first_step_s"] < SOON else "missed"
        bar = f" bar={SOON:g} {met}" if net == "cifar" else ""
        compiled = f"compiled_cold_s={cold['compiled_s']:.1f} compiled_warm_s={warm['compiled_s']:.1f}"
        said.append(f"bench: {net}_start cold_s={cold['first_step_s']:.1f} warm_s={warm['first_step_s']:.1f} {compiled}{bar}")
    for name, sides in found.get("memory", {}).items():
        where = "device" if all(each["device"] for each in sides.values()) else "resident"
        mib = " ".join(f"{side}_mib={each[where] / 2**20:.0f}" for side, each in sides.items())
        said.append(f"bench: {name}_memory {mib} of={where}")
    if "data" in found:
        rate = spread(found["data"]["images_per_second"])
        said.append(f"bench: data images_per_second={rate.median:.0f} low={rate.low:.0f} high={rate.high:.0f}")
    if found.get("bandwidth"):
        said.append(f"bench: copy bytes_per_second={found['bandwidth']:.3g}")
    return said
