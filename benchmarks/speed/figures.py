"""From the seconds that were measured to what is said of them: ratios, shares of the limit, how cost grows, a table, lines.

A result is a dict, as it is kept in JSON: `name`, `seconds` (by entry, repeat by repeat), and where they apply `flops` (of a
call of ours), `limit_flops` (by entry), `left_out` (peers, with the reason), `temporary_bytes`.
"""

import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from benchmarks.speed.plan import EVALUATION, LIMITS, MEASUREMENTS, OURS, PEERS

Result = Mapping[str, Any]
NETS = ("digits", "cifar")
LINEAR = 1.03  # the most that a chain may take, in evaluations of the network a step


class Spread(NamedTuple):
    """The median of some numbers, the least and the largest."""

    median: float
    low: float
    high: float


class Ratio(NamedTuple):
    """How many times as long as ours the best peer takes: of medians, and within which bounds it lies repeat by repeat."""

    value: float
    low: float
    high: float
    against: str


def spread(values: Sequence[float]) -> Spread:
    """Of one number or more."""
    return Spread(statistics.median(values), min(values), max(values))


def best_peer(result: Result) -> str:
    """The one whose median is least; "" where there is none."""
    medians = {name: statistics.median(times) for name, times in result["seconds"].items() if name in PEERS and times}
    return min(medians, key=lambda name: medians[name], default="")


def ratio(result: Result) -> Ratio | None:
    """Of the best peer; None where there is none."""
    name = best_peer(result)
    if not name:
        return None
    ours, theirs = result["seconds"][OURS], result["seconds"][name]
    by_round = [their / our for our, their in zip(ours, theirs, strict=False)]
    return Ratio(statistics.median(theirs) / statistics.median(ours), min(by_round), max(by_round), name)


def limit(result: Result) -> float | None:
    """FLOP/s of the quicker of the two products of matrices that were measured in the same rounds."""
    flops = result.get("limit_flops", {})
    rates = [flops[name] / statistics.median(result["seconds"][name]) for name in LIMITS if result["seconds"].get(name)]
    return max(rates, default=None)


def of_peak(result: Result) -> float | None:
    """The share of the machine's limit at which the counted FLOPs are worked off; above 1 where fewer are done than counted."""
    most = limit(result)
    return most and result["flops"] / statistics.median(result["seconds"][OURS]) / most


def evaluations_a_step(result: Result) -> float | None:
    """What a step of a chain takes, in evaluations of the network, which were measured in the same rounds."""
    times, case = result["seconds"], MEASUREMENTS[result["name"]].case
    if not times.get(EVALUATION):
        return None
    return statistics.median(times[OURS]) / (case.steps * statistics.median(times[EVALUATION]))


def growth(results: Iterable[Result], net: str, kind: str) -> list[tuple[int, float, Result]]:
    """What grows, steps of a chain or images of a batch, with our median seconds, from the least on."""
    found = []
    for result in results:
        measurement, times = MEASUREMENTS[result["name"]], result["seconds"][OURS]
        case = measurement.case
        if (case.net, case.kind) == (net, kind) and not measurement.accelerator:
            found.append((case.steps if kind == "sample" else case.batch, statistics.median(times), result))
    return sorted(found, key=lambda row: row[0])


def _verdict(value: float, bar: float) -> str:
    return f" bar={bar:g} {'met' if value >= bar else 'missed'}" if bar else ""


def lines(results: Sequence[Result]) -> Iterator[str]:
    """What a program reads: a line a figure."""
    for result in results:
        name, measurement = result["name"], MEASUREMENTS[result["name"]]
        if found := ratio(result):
            yield f"bench: {name} ratio={found.value:.2f} against={found.against}{_verdict(found.value, measurement.bar)}"
        if (share := of_peak(result)) is not None:
            yield f"bench: {name} of_peak={share:.3f}{_verdict(share, measurement.of_peak)}"
        if (taken := evaluations_a_step(result)) is not None:
            yield f"bench: {name} evaluations_a_step={taken:.3f} bar={LINEAR} {'met' if taken <= LINEAR else 'missed'}"
    yield from _growth_lines(results)


def _growth_lines(results: Sequence[Result]) -> Iterator[str]:
    """By how much the memory of a chain grows from the shortest to the longest, and the time an image from one batch to twice
    that, the largest: 1 is what both are to come to."""
    for net in NETS:
        chains = [(count, result["temporary_bytes"]) for count, _, result in growth(results, net, "sample")]
        kept = [(count, size) for count, size in chains if size]
        if len(kept) > 1:
            (few, least), (many, most) = kept[0], kept[-1]
            yield f"bench: {net}_sample memory_growth={most / least:.3f} from={few} to={many}"
        steps = [(count, seconds / count) for count, seconds, _ in growth(results, net, "train")]
        if len(steps) > 1:
            (few, before), (many, after) = steps[-2:]
            yield f"bench: {net}_train image_growth={after / before:.3f} from={few} to={many}"


def _milliseconds(times: Sequence[float]) -> str:
    if not times:
        return ""
    found = spread(times)
    return f"{found.median * 1e3:,.1f} [{found.low * 1e3:,.1f}–{found.high * 1e3:,.1f}]"


def table(results: Sequence[Result]) -> Iterator[str]:
    """What a person reads, as Markdown: milliseconds, the median and in brackets the least and the largest."""
    peers = [name for name in PEERS if any(result["seconds"].get(name) for result in results)]
    heads = ["ms", OURS, *peers, "ratio", "of the limit", "repeats"]
    yield "| " + " | ".join(heads) + " |"
    yield "|---" * len(heads) + "|"
    for result in results:
        times, found, share = result["seconds"], ratio(result), of_peak(result)
        cells = [result["name"], *(_milliseconds(times.get(name, [])) for name in (OURS, *peers))]
        cells.append(f"{found.value:.2f} [{found.low:.2f}–{found.high:.2f}]" if found else "")
        cells += ["" if share is None else f"{share:.0%}", str(len(times[OURS]))]
        yield "| " + " | ".join(cells) + " |"


def growth_table(results: Sequence[Result]) -> Iterator[str]:
    """How our cost grows: with the steps of a chain, and with the images of a batch; time a unit, and memory."""
    yield "| net | grows | of | ms | ms each | temporary memory, bytes |"
    yield "|---" * 6 + "|"
    for kind, unit in (("sample", "steps"), ("train", "images of a step")):
        for net in NETS:
            for count, seconds, result in growth(results, net, kind):
                memory = result.get("temporary_bytes")
                each = f"{seconds * 1e3:,.1f} | {seconds / count * 1e3:,.2f}"
                yield f"| {net} | {unit} | {count} | {each} | {'' if memory is None else f'{memory:,}'} |"


def left_out(results: Iterable[Result]) -> Iterator[str]:
    """Why a peer is not in the table."""
    said = {(name, why) for result in results for name, why in result.get("left_out", {}).items()}
    for name, why in sorted(said):
        yield f"left out: {name}: {why}"
