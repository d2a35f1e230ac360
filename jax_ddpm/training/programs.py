"""What a compiled step says of itself, before it has run: memory, FLOPs, what the devices ask of each other."""

import math
import re
from collections import Counter
from typing import Any, NamedTuple

from jax_ddpm.training.chips import Chip, peak

KINDS = (
    "all-reduce",
    "all-gather",
    "reduce-scatter",
    "all-to-all",
    "collective-permute",
    "collective-broadcast",
    "ragged-all-to-all",
)
_CALL = re.compile(rf"^\s*(?:ROOT )?%?[\w.-]+ = (.*?) ({'|'.join(KINDS)})(-start)?\((.*)$")
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.-]+) .*\{$")
_ARRAY = re.compile(r"\b([a-z]+\d*\w*)\[([\d,]*)\]")


class Collective(NamedTuple):
    """Something that devices ask of each other.

    Attributes:
      kind: one of KINDS.
      bytes: of the whole arrays that are summed, gathered or sent, on one device.
      devices: how many of them take part together; 0 where the program does not say, which means all.
      times: how often in a step.
    """

    kind: str
    bytes: int
    devices: int = 0
    times: int = 1


class Program(NamedTuple):
    """What one device does and holds in a step; bytes, and floating-point operations.

    Attributes:
      arguments: what it is given, the state and its part of the batch.
      temporaries: what it needs besides while it runs.
      peak: the most that it holds at a time.
      flops: of the operations that the compiler counts.
      bytes: that its operations read and write, as the compiler counts them, wherever it lies: on a TPU some within the chip.
      collectives: in the order of the program's text.
    """

    arguments: float
    temporaries: float
    peak: float
    flops: float
    bytes: float
    collectives: tuple[Collective, ...]


class Estimate(NamedTuple):
    """Seconds of a step by each of the peaks of a chip: of computing, of its memory, of its links."""

    computing: float
    memory: float
    links: float

    @property
    def seconds(self) -> float:
        """Of a step that keeps computing unit and memory busy at once, and computes nothing while it waits for others."""
        return max(self.computing, self.memory) + self.links


def read_program(compiled: Any, repeats: int = 1) -> Program:
    """What a compiled step (`jax.stages.Compiled`) says.

    Args:
      repeats: how often its main loop goes round, where it is one. XLA counts FLOPs and bytes of a loop's body once.
    """
    memory, cost = compiled.memory_analysis(), compiled.cost_analysis() or {}
    # What is given back lies where it was given, as far as that is so.
    held = memory.argument_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes
    held += memory.temp_size_in_bytes + memory.generated_code_size_in_bytes
    return Program(
        arguments=memory.argument_size_in_bytes,
        temporaries=memory.temp_size_in_bytes,
        peak=max(held, memory.peak_memory_in_bytes),
        flops=cost.get("flops", math.nan) * repeats,
        bytes=cost.get("bytes accessed", math.nan) * repeats,
        collectives=find_collectives(compiled.as_text(), repeats),
    )


def find_collectives(text: str, repeats: int = 1) -> tuple[Collective, ...]:
    """The collectives in the text of an optimised HLO module, those in loops as often as these go round.

    A TPU's compiler writes one that goes on beside computing several times: where it begins, in the fusions that it goes on
    beside, and where it ends. It is counted where it begins.

    Args:
      repeats: how often a loop goes round of which the text does not say it, as that of a TPU's compiler does not.
    """
    rows: list[tuple[str, Collective]] = []
    going_on: set[str] = set()
    loops: dict[str, tuple[str, int]] = {}  # by the computation that is called: that which calls it, and how often
    inside = ""
    for line in text.splitlines():
        if (head := _COMPUTATION.match(line)) and " = " not in line:
            inside = head[2]
            if inside.startswith("async_collective_fusion"):
                going_on.add(inside)
        elif call := _CALL.match(line):
            rows.append((inside, _collective(*call.groups())))
        elif '"AsyncCollectiveDone"' in line:
            going_on.add(inside)
        branches = re.findall(r"%?([\w.-]+)", "".join(re.findall(r"\bbranch_computations=\{(.*?)\}", line)))
        for body in branches + re.findall(r"\b(?:body|calls|to_apply|true_computation|false_computation)=%?([\w.-]+)", line):
            trips = re.search(r'"known_trip_count":\{"n":"(\d+)"', line)
            is_loop = re.search(rf"\bbody=%?{re.escape(body)}\b", line)
            loops[body] = (inside, (int(trips[1]) if trips else repeats) if is_loop else 1)

    def times(computation: str) -> int:
        caller, count = loops.get(computation, ("", 1))
        return count * times(caller) if caller else count

    return tuple(each._replace(times=times(where)) for where, each in rows if where not in going_on)


def _collective(shape: str, kind: str, start: str | None, rest: str) -> Collective:
    """Of one line: the shape of what comes out, what is done, whether it is only begun here, operands and attributes."""
    devices = _group_size(rest)
    sizes = [_array_bytes(*array) for array in _ARRAY.findall(shape) if not (start and array == ("u32", ""))]
    if start and kind != "all-reduce":  # operands and results, one after the other: the whole is what is larger
        half = len(sizes) // 2
        return Collective(kind, max(sum(sizes[:half]), sum(sizes[half:])), devices)
    parts = devices or 1
    return Collective(kind, sum(sizes) * (parts if kind == "reduce-scatter" else 1), devices)


def _array_bytes(dtype: str, sides: str) -> int:
    bits = 8 if dtype == "pred" else int(re.findall(r"\d+", dtype)[0])
    return math.ceil(math.prod(int(side) for side in sides.split(",") if side) * bits / 8)


def _group_size(attributes: str) -> int:
    """From replica_groups={{0,1},{2,3}}, [groups,size]<=[...] or mesh['a'=4,'b'=2] {'a'}; 0 where it has none of them."""
    if along := re.search(r"replica_groups=mesh\[(.*?)\][^{]*\{(.*?)\}", attributes):
        sizes = {axis: int(size) for axis, size in re.findall(r"'(\w+)'=(\d+)", along[1])}
        # Of an axis that is taken in part the part's size follows it, as in 'a':(2)4.
        return math.prod(int(part or sizes[axis]) for axis, part in re.findall(r"'(\w+)'(?::\(\d+\)(\d+))?", along[2]))
    listed = re.search(r"replica_groups=\{\{([\d,]+)\}", attributes)
    counted = re.search(r"replica_groups=\[\d+,(\d+)\]", attributes)
    return len(listed[1].split(",")) if listed else int(counted[1]) if counted else 0


def by_kind(collectives: tuple[Collective, ...]) -> dict[str, tuple[int, int]]:
    """Of each kind that there is, how many in a step and how many bytes."""
    counts: Counter[str] = Counter()
    sizes: Counter[str] = Counter()
    for each in collectives:
        counts[each.kind] += each.times
        sizes[each.kind] += each.bytes * each.times
    return {kind: (counts[kind], sizes[kind]) for kind in counts}


def estimate(program: Program, chip: Chip, dtype: str, devices: int) -> Estimate:
    """The time that a step takes if nothing but the peaks of the chip holds it back.

    Each device of n sends (n-1)/n of an array that is gathered or scattered, and twice that where it is summed, over all of its
    links at once: no way of doing it sends less (Patarasuk & Yuan 2009).

    Args:
      dtype: what the network computes in, "float32" or "bfloat16".
      devices: how many there are.
    """

    def sent(each: Collective) -> float:
        together = each.devices or devices
        return (2 if each.kind == "all-reduce" else 1) * each.bytes * each.times * (together - 1) / together

    return Estimate(
        program.flops / peak(chip, dtype),
        program.bytes / chip.memory_bandwidth,
        sum(map(sent, program.collectives)) / chip.link_bandwidth,
    )
