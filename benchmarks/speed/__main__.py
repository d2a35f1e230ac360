"""Our train step and sampler beside those on PyTorch and beside what the machine can do, in one run: `make bench`.

    .venv-parity/bin/python -m benchmarks.speed
    .venv-parity/bin/python -m benchmarks.speed --only cifar_train_b8,cifar_forward_b8 --peers torch_channels_last

docs/speed.md says how it measures and how what it prints is read. Without PyTorch, as in .venv, `--peers none`
measures us alone.
"""

import argparse
import contextlib
import datetime
import json
import os
import platform
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.speed import figures, further, picture
from benchmarks.speed.plan import FURTHER, MEASUREMENTS, PEERS, QUICK, Measurement
from benchmarks.speed.runner import Sides, Unequal
from benchmarks.speed.worker import SideFailed, Worker

WORK = "work"  # of the workdir: weights, logs, runs that were begun; made anew each time
REMEMBERED = ("digits_train", "cifar_train_b32")  # the steps whose peak memory is measured


def names_of(text: str, known: tuple[str, ...], parser: argparse.ArgumentParser, flag: str) -> list[str]:
    """The names in a list with commas, in the order of what is known."""
    given = [name for name in text.split(",") if name]
    if strange := [name for name in given if name not in known]:
        parser.error(f"{flag}={strange[0]}: expected some of {', '.join(known)}")
    return [name for name in known if name in given]


def arguments() -> argparse.Namespace:
    """What was typed, the names as lists."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    known = (*MEASUREMENTS, *FURTHER)
    parser.add_argument("--workdir", type=Path, default=Path("runs/bench"), help="where speed.json, speed.png and logs go")
    parser.add_argument("--only", default="", help=f"names with commas between them, of {', '.join(known)}")
    parser.add_argument("--quick", action="store_true", help=f"{', '.join(QUICK)} alone, each as few times as can be")
    parser.add_argument("--peers", default=",".join(PEERS), help="whom to measure beside us, with commas; none: nobody")
    parser.add_argument("--budget", type=float, default=8.0, help="seconds for the repeats of one measurement, if it can be")
    parser.add_argument("--rounds", type=int, default=3, help="repeats of each at the least")
    given = parser.parse_args()
    if given.rounds < 1 or given.budget < 0:
        parser.error("expected --rounds of 1 or more and a --budget of seconds")
    usual, given.named = ",".join(QUICK if given.quick else known), bool(given.only)
    given.only = names_of(given.only or usual, known, parser, "--only")
    given.peers = names_of("" if given.peers == "none" else given.peers, PEERS, parser, "--peers")
    if given.quick:
        given.rounds, given.budget = 1, 0.0
    return given


def wanted(names: list[str], named: bool, backend: str) -> list[Measurement]:
    """The measurements among the names; of those for accelerators a CPU takes what a person has named."""
    found = [MEASUREMENTS[name] for name in names if name in MEASUREMENTS]
    return [each for each in found if named or backend != "cpu" or not each.accelerator]


def about_machine() -> dict[str, Any]:
    """What was measured on, and when."""
    cpu = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        named = re.search(r"^model name\s*:\s*(.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
        cpu = named[1] if named else cpu
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    when = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    return {"cpu": cpu, "cores": cores, "load": load, "python": platform.python_version(), "begun": when}


@contextlib.contextmanager
def open_sides(given: argparse.Namespace, environment: dict[str, str]) -> Iterator[Sides]:
    """Both processes, as long as it lasts."""
    folder = given.workdir / WORK
    with contextlib.ExitStack() as stack:
        ours = stack.enter_context(Worker("ours", folder / "ours.log", environment))
        torch = stack.enter_context(Worker("peers", folder / "torch.log", environment)) if given.peers else None
        try:
            yield Sides(ours, torch, folder)
        except (SideFailed, Unequal) as error:
            raise SystemExit(f"error: {error}. Without peers, and without PyTorch: --peers none") from error


def measure_further(sides: Sides, only: list[str], environment: dict[str, str]) -> dict[str, Any]:
    """What FURTHER names."""
    remembered = [name for name in REMEMBERED if name in only] or list(REMEMBERED[:1])
    deeds = {
        "data": lambda: further.data(sides),
        "start": lambda: {net: further.starts(sides.folder, net) for net in ("digits", "cifar")},
        "memory": lambda: further.memories(sides, remembered, environment),
    }
    found: dict[str, Any] = {}
    for name in (name for name in FURTHER if name in only):
        print(f"{name} ...", flush=True)
        found[name] = deeds[name]()
    if bandwidth := sides.bandwidth():
        found["bandwidth"] = bandwidth
    return found


def fresh(workdir: Path) -> dict[str, str]:
    """Makes room for what is written on the way, and says where compiled programs are kept from run to run."""
    shutil.rmtree(workdir / WORK, ignore_errors=True)
    (workdir / WORK).mkdir(parents=True)
    kept = {"JAX_COMPILATION_CACHE_DIR": "jax_cache", "TORCHINDUCTOR_CACHE_DIR": "inductor_cache"}
    return {name: str((workdir / folder).absolute()) for name, folder in kept.items()}


def measure_all(given: argparse.Namespace, machine: dict[str, Any], begin: float) -> dict[str, Any]:
    """Everything that was asked for; written to speed.json as it comes, so that a run that is ended leaves what it has."""
    environment = fresh(given.workdir)
    found: dict[str, Any] = {"machine": machine, "results": []}

    def keep() -> None:
        found["seconds"] = time.perf_counter() - begin
        (given.workdir / "speed.json").write_text(json.dumps(found, indent=1))

    with open_sides(given, environment) as sides:
        machine |= sides.about
        for measurement in wanted(given.only, given.named, sides.about["ours"]["backend"]):
            print(f"{measurement.name} ...", flush=True)
            found["results"].append(sides.measure(measurement, given.peers, budget=given.budget, rounds=given.rounds))
            keep()
        found |= measure_further(sides, given.only, environment)
    keep()
    return found


def main() -> None:
    """Measures, prints, and writes speed.json and speed.png."""
    given, begin = arguments(), time.perf_counter()
    found = measure_all(given, about_machine(), begin)
    results = found["results"]
    picture.draw(results, given.workdir / "speed.png")
    print(f"\n{json.dumps(found['machine'])}\n")
    if results:
        print("\n".join([*figures.table(results), "", *figures.growth_table(results), "", *figures.left_out(results)]))
    print("\n".join([*figures.lines(results), *further.further_lines(found)]))
    print(f"\n{given.workdir / 'speed.json'}, {given.workdir / 'speed.png'}; {found['seconds']:.0f} s")


if __name__ == "__main__":
    main()
