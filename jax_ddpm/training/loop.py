"""The loop around the train step: it counts, logs, saves, and stops when it is asked to."""

import contextlib
import math
import os
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from types import FrameType
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils

from jax_ddpm.data.sources.source import DamagedImage
from jax_ddpm.errors import InvalidInput
from jax_ddpm.training.logging import MetricsWriter, Progress
from jax_ddpm.training.state import TrainState
from jax_ddpm.training.step import Tally, TrainStep

STEPS_IN_FLIGHT = 2  # so that the host prepares the next batch while the device works, and no more than that


class Periodic(NamedTuple):
    """Something done after every `every`-th step; never where `every` is 0."""

    every: int
    act: Callable[[TrainState], None]


class StopRequest:
    """What a run is stopped by before its end, if anything.

    Attributes:
      several: whether there are other processes, which are to stop at the same step.
      signal_number: of the signal by which somebody asked for it, or 0.
      damage: the image that cannot be read, or None.
    """

    signal_number: int = 0
    damage: DamagedImage | None = None

    def __init__(self) -> None:
        """Nothing has happened yet."""
        self.several = jax.process_count() > 1

    def reached(self, step: int) -> bool:
        """Whether the run stops after so many steps; asked after each one, as many processes have to agree on which it is."""
        if self.several and multihost_utils.reached_preemption_sync_point(step):
            self.signal_number = signal.SIGTERM
        return bool(self.signal_number)


@contextlib.contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
    """Within it, SIGINT (Ctrl-C) and SIGTERM are noted instead of killing; a second one kills.

    Where there are several processes SIGTERM is JAX's own, which tells the others and finds a step at which all can stop.
    """
    request = StopRequest()
    noted = (signal.SIGINT,) if request.several else (signal.SIGINT, signal.SIGTERM)

    def note(number: int, _: FrameType | None) -> None:
        if request.several:
            os.kill(os.getpid(), signal.SIGTERM)
        else:
            request.signal_number = number
        print(f"\n{signal.Signals(number).name}: stopping after this step, then saving; once more stops at once", flush=True)
        for each in previous:
            signal.signal(each, signal.default_int_handler if each == signal.SIGINT else signal.SIG_DFL)

    previous = {each: signal.getsignal(each) or signal.SIG_DFL for each in noted}
    for each in previous:
        signal.signal(each, note)
    try:
        yield request
    finally:
        for each, handler in previous.items():
            signal.signal(each, handler)


def means_of(window: Sequence[dict[str, Any]]) -> dict[str, float]:
    """The metrics of several steps as one: the mean of the scalars, and of all examples in the tallies, if there are any."""
    means = {}
    for name, first in window[0].items():
        values = [row[name] for row in window]
        if not isinstance(first, Tally):
            means[name] = float(np.mean(values))
            continue
        total, examples = np.sum(values, axis=0)
        if examples:
            means[name] = float(total / examples)
    return means


def run(
    state: TrainState,
    train_step: TrainStep,
    batches: Iterator[Any],
    *,
    until: int,
    log_every: int,
    writer: MetricsWriter,
    progress: Progress,
    periodic: Iterable[Periodic],
    stop: StopRequest,
) -> TrainState:
    """Takes steps until step `until`, or until `stop` is set, and returns the state it has come to.

    A batch that cannot be read is noted in `stop`, and is where the run ends: all that was trained before is in the state.

    Metrics are read back a few steps late, so that the device never waits for them, and written as their mean since the last
    line (after a resume the first line's mean begins at the checkpoint). A mean of no example is left out.

    Raises:
      InvalidInput: the loss is no longer finite; nothing is saved from there on.
    """
    periodic = list(periodic)
    step = int(state.step)
    waiting: deque[Any] = deque()
    window: list[dict[str, Any]] = []

    def settle(most: int) -> None:
        while len(waiting) > most:
            window.append(jax.device_get(waiting.popleft()))
            loss = float(window[-1]["loss"])
            if not math.isfinite(loss):
                raise InvalidInput(
                    f"the loss is {loss} at step {step - len(waiting)}: every checkpoint is of an earlier step. "
                    "Give a lower train.learning_rate, or a train.clip_norm"
                )
            progress.advance(loss)

    while step < until and not stop.reached(step):
        try:
            batch = next(batches)
        except DamagedImage as error:
            stop.damage = error
            break
        state, metrics = train_step(state, batch)
        step += 1
        waiting.append(metrics)
        settle(STEPS_IN_FLIGHT)
        if step % log_every == 0 or step == until:
            settle(0)
            means = means_of(window)
            writer.write(step, means | {"images_per_second": round(progress.report(step, means), 1)})
            window.clear()
        for each in periodic:
            if each.every and step % each.every == 0 and not stop.signal_number:
                settle(0)  # so that nothing is made of a state whose loss is not finite
                with progress.paused():
                    each.act(state)
    settle(0)
    return state
