"""What is measured: the cases, by name, what they are held against, and in what order and how often they run."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

OURS, EVALUATION = "ours", "evaluation"
LIMITS = ("limit_jax", "limit_torch")
PEERS = ("torch_eager", "torch_channels_last", "torch_compile", "denoising_diffusion_pytorch")
NOTHING_OF_ITS_OWN = {("denoising_diffusion_pytorch", "forward")}  # it runs diffusers' network, see `peers.py`
SHORTEST = 0.25  # seconds that a repeat takes at the least: shorter calls are repeated within it
LONG = 2.0  # seconds of a call from which on a peer that is behind the best by CLEARLY is not repeated
CLEARLY = 1.25
MOST_ROUNDS = 9


class Case(NamedTuple):
    """What both sides do.

    Attributes:
      net: "digits", "cifar" or "adm64".
      kind: "forward" (the network, no dropout), "train" (a whole step) or "sample" (a whole chain).
      batch: images.
      steps: of the chain.
      dtype: in which the network computes.
    """

    net: str
    kind: str
    batch: int
    steps: int = 0
    dtype: str = "float32"


class Measurement(NamedTuple):
    """A case with its name.

    Attributes:
      bar: how many times as long as we the best peer is to take; 0 where there is none.
      of_peak: the share of the machine's limit that we are to reach; 0 where there is none.
      alone: whether it is for how our own cost grows, without peers.
      accelerator: whether a CPU leaves it out, unless it is asked for by name.
    """

    name: str
    case: Case
    bar: float = 0.0
    of_peak: float = 0.0
    alone: bool = False
    accelerator: bool = False


MEASUREMENTS = {
    each.name: each
    for each in (
        Measurement("digits_train", Case("digits", "train", 128), bar=1.0),
        Measurement("digits_sample1000", Case("digits", "sample", 16, 1000), bar=1.5),
        Measurement("cifar_forward_b1", Case("cifar", "forward", 1)),
        Measurement("cifar_forward_b8", Case("cifar", "forward", 8), of_peak=0.85),
        Measurement("cifar_forward_b32", Case("cifar", "forward", 32)),
        Measurement("cifar_train_b8", Case("cifar", "train", 8), bar=1.15, of_peak=0.65),
        Measurement("cifar_train_b32", Case("cifar", "train", 32), bar=1.15, of_peak=0.65),
        Measurement("cifar_sample50", Case("cifar", "sample", 2, 50), bar=1.15),
        *(Measurement(f"digits_sample{steps}", Case("digits", "sample", 16, steps), alone=True) for steps in (10, 100)),
        *(Measurement(f"digits_train_b{batch}", Case("digits", "train", batch), alone=True) for batch in (16, 32, 64, 256)),
        Measurement("cifar_train_b16", Case("cifar", "train", 16), alone=True),
        *(
            Measurement(f"{net}_bf16_{name}", Case(net, kind, batch, steps, "bfloat16"), accelerator=True)
            for net, batch in (("cifar", 128), ("adm64", 32))
            for name, kind, steps in ((f"train_b{batch}", "train", 0), ("sample50", "sample", 50))
        ),
    )
}
FURTHER = ("data", "start", "memory")  # what is measured in processes of its own, or has no peer
QUICK = ("digits_train", "cifar_forward_b1", "cifar_forward_b8", "data")


def entries(measurement: Measurement, peers: Sequence[str]) -> tuple[str, ...]:
    """What runs in turn for it: we, the peers, and what the figure is to be seen beside, measured in the same rounds."""
    kind = measurement.case.kind
    found = [OURS, *([] if measurement.alone else (peer for peer in peers if (peer, kind) not in NOTHING_OF_ITS_OWN))]
    if kind == "sample":
        found.append(EVALUATION)
    if measurement.accelerator or not (measurement.alone or kind == "sample"):
        found += LIMITS
    return tuple(found)


def in_turn(names: Sequence[str], rounds: int) -> Iterator[str]:
    """Every name once a round, each round beginning with another one."""
    for number in range(rounds):
        first = number % len(names)
        yield from (*names[first:], *names[:first])


def calls_within(seconds: float) -> int:
    """How many calls that take so long make a repeat."""
    return max(1, math.ceil(SHORTEST / max(seconds, 1e-9)))


def worth_repeating(first: Mapping[str, float]) -> tuple[str, ...]:
    """Without the peers that take long and are clearly behind the best of them.

    Args:
      first: seconds of a call of each.
    """
    best = min((seconds for name, seconds in first.items() if name in PEERS), default=math.inf)
    return tuple(name for name, seconds in first.items() if name not in PEERS or seconds < LONG or seconds <= CLEARLY * best)


def measure(run: Callable[[str, int], float], names: Sequence[str], *, budget: float, rounds: int) -> dict[str, list[float]]:
    """Seconds of a call of each, by its name, repeat by repeat.

    The first round is of one call each; where that is long enough it counts as a repeat.

    Args:
      run: (name, calls) -> seconds of one of so many calls.
      budget: seconds for all repeats together, if that is enough for `rounds`.
      rounds: repeats of each at the least.
    """
    first = {name: run(name, 1) for name in names}
    kept = worth_repeating(first)
    calls = {name: calls_within(first[name]) for name in kept}
    found = {name: [seconds] if calls.get(name, 1) == 1 else [] for name, seconds in first.items()}
    cost = sum(first[name] * calls[name] for name in kept)
    wanted = min(max(rounds, int(budget / cost)), max(rounds, MOST_ROUNDS))
    for name in in_turn(kept, wanted):
        if len(found[name]) < wanted:
            found[name].append(run(name, calls[name]))
    return found
