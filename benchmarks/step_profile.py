"""Where a train step's time goes, by the parts of the network: what XLA's profiler sees of each operation.

    python -m benchmarks.step_profile --net cifar --batch 8

Each operation is counted to a part by the name that JAX has given it. A fusion has the name of one of its operations, so that
what is computed in passing counts to the part that it is computed for. Milliseconds of all devices together, medians over the
steps; a profiled step is somewhat slower than another.
"""

import argparse
import re
import statistics
import tempfile
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import jax

from benchmarks.speed import ours
from benchmarks.speed.networks import CONFIGS, make_config
from benchmarks.speed.plan import Case
from jax_ddpm.runtime import configure

ROUNDS = 5
SUMS = "sums over the devices"
UNNAMED = "copies, and what has no name"
PARTS = (  # in this order: the first whose pattern is found in the name
    ("optimizer, average, what is drawn", r"^(?!.*UNet)"),
    ("normalisation", r"/norm\w*/"),
    ("attention", r"attention/"),
    ("convolution, gradient of the weights", r"transpose\(.*conv\w*/by_kernel/"),
    ("convolution, gradient of the input", r"transpose\(.*conv\w*/(?!add(_any)?$|reduce)"),
    ("convolution, forward", r"conv\w*/(?!add(_any)?$|reduce)"),
    ("products with matrices", r"/(skip|embedding|time_\d)/"),
    ("else: activations, joins, sums of gradients", r""),
)
_DEFINED = re.compile(r"^\s*(?:ROOT )?%?([\w.-]+) = (.*)$", re.MULTILINE)


def part_of(definition: str) -> str:
    """The part that an operation counts to, by its line in the text of an optimised HLO module from = on."""
    if re.search(r"\ball-reduce(-start|-done)?\(", definition):
        return SUMS
    named = re.search(r'op_name="([^"]*)"', definition)
    return next(part for part, pattern in PARTS if re.search(pattern, named[1])) if named else UNNAMED


def traced(call: Callable[[], None]) -> dict[str, float]:
    """Nanoseconds of each operation of a program, by its name, all devices together."""
    options = jax.profiler.ProfileOptions()
    options.host_tracer_level, options.python_tracer_level = 3, 0
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder, profiler_options=options):
            call()
        (path,) = Path(folder).glob("**/*.xplane.pb")
        data = jax.profiler.ProfileData.from_file(str(path))
    found: dict[str, float] = defaultdict(float)
    for event in (event for plane in data.planes for line in plane.lines for event in line.events):
        name = dict(event.stats).get("hlo_op")
        if name is not None:
            found[str(name)] += event.duration_ns
    return found


def by_part(nanoseconds: dict[str, float], text: str) -> dict[str, float]:
    """Milliseconds of each part.

    A branch takes no time of its own: what is computed in it is counted.

    Args:
      nanoseconds: see `traced`.
      text: the optimised HLO module.
    """
    definitions = dict(_DEFINED.findall(text))
    found: dict[str, float] = defaultdict(float)
    for name, taken in nanoseconds.items():
        defined = definitions.get(name, "")
        if not re.search(r"\bconditional\(", defined):
            found[part_of(defined)] += taken / 1e6
    return found


def main() -> None:
    """Prints a table, a row a part."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--net", choices=CONFIGS, default="digits")
    parser.add_argument("--batch", type=int, default=128, help="images of a step")
    given = parser.parse_args()
    configure(0, "", given.batch)
    call, program = ours.step_and_program(make_config(Case(given.net, "train", given.batch)), ours.mesh_for(given.batch))
    call()
    text = program.as_text()
    rounds = [by_part(traced(call), text) for _ in range(ROUNDS)]
    medians = {part: statistics.median(each.get(part, 0.0) for each in rounds) for part in (*dict(PARTS), SUMS, UNNAMED)}
    whole = sum(medians.values())
    print(f"| {given.net}, {given.batch} images | ms | share |\n|---|---|---|")
    for part, taken in sorted(medians.items(), key=lambda row: -row[1]):
        print(f"| {part} | {taken:,.1f} | {taken / whole:.0%} |")
    print(f"| together, on {jax.device_count()} devices | {whole:,.1f} | |")


if __name__ == "__main__":
    main()
