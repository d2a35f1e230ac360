"""The plot: times beside ours, and how our cost grows."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from benchmarks.speed.figures import NETS, Result, evaluations_a_step, growth, ratio, spread
from benchmarks.speed.plan import MEASUREMENTS, OURS, PEERS


def _beside(axes: Any, results: Sequence[Result]) -> None:
    """How many times as long as ours each peer takes."""
    shown = [result for result in results if ratio(result)]
    peers = [name for name in PEERS if any(result["seconds"].get(name) for result in shown)]
    places, width = np.arange(len(shown)), 0.8 / max(len(peers), 1)
    for number, name in enumerate(peers):
        heights = [
            spread(result["seconds"][name]).median / spread(result["seconds"][OURS]).median
            if result["seconds"].get(name)
            else np.nan
            for result in shown
        ]
        axes.bar(places + (number - (len(peers) - 1) / 2) * width, heights, width, label=name)
    for place, result in zip(places, shown, strict=True):
        if bar := MEASUREMENTS[result["name"]].bar:
            axes.hlines(bar, place - 0.45, place + 0.45, colors="black", linestyles="dotted")
    axes.axhline(1, color="black", linewidth=1)
    axes.set_xticks(places, [result["name"] for result in shown], rotation=30, ha="right")
    axes.set(title="a peer's time over ours (dotted: what the best is to come to)", ylabel="ratio")


def _grows(axes: Any, results: Sequence[Result], kind: str, title: str, label: str) -> None:
    """Our time a unit over that where they are most: flat where the cost is linear."""
    for net in NETS:
        rows = [(count, seconds / count) for count, seconds, _ in growth(results, net, kind)]
        if len(rows) > 1:
            last = rows[-1][1]
            label_of_net = f"{net}: {last * 1e3:,.2f} ms at {rows[-1][0]}"
            axes.plot([count for count, _ in rows], [each / last for _, each in rows], "o-", label=label_of_net)
    axes.axhline(1, color="black", linewidth=1)
    axes.set(title=title, xlabel=label, ylabel="of that at the right", xscale="log", ylim=(0, None))


def _evaluations(axes: Any, results: Sequence[Result]) -> None:
    """A step of a chain in evaluations of the network, and what memory a chain takes."""
    rows = [row for row in growth(results, "digits", "sample") if evaluations_a_step(row[2])]
    taken = [(count, evaluations_a_step(result)) for count, _, result in rows]
    kept = [(count, result["temporary_bytes"]) for count, _, result in rows if result.get("temporary_bytes")]
    grown = [(count, size / kept[0][1]) for count, size in kept]
    for pairs, style, label in ((taken, "o-", "evaluations a step"), (grown, "s--", "memory, of the shortest's")):
        if pairs:
            axes.plot(*zip(*pairs, strict=True), style, label=label)
    axes.set(title="chains of the digits network", xlabel="steps", xscale="log", ylim=(0, None))
    axes.axhline(1, color="black", linewidth=1)


def draw(results: Sequence[Result], path: Path) -> None:
    """Writes the plot."""
    figure, axes = plt.subplots(2, 2, figsize=(13, 9), layout="constrained")
    _beside(axes[0, 0], results)
    _evaluations(axes[0, 1], results)
    _grows(axes[1, 0], results, "sample", "our time a step of a chain", "steps")
    _grows(axes[1, 1], results, "train", "our time an image of a train step", "images of the batch")
    for each in axes.flat:
        if each.get_legend_handles_labels()[0]:
            each.legend(fontsize="small")
    figure.savefig(path, dpi=110)
    plt.close(figure)
