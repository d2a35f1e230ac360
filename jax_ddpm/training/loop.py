"""The loop around the train step: it counts, logs, saves, and stops when it is asked to."""

import contextlib
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
from jax_ddpm.training.step import SKIPPED, Tally, TrainStep

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


class NotFinite(InvalidInput):
    """Losses are no longer numbers."""


class Skipped:
    """The steps from which nothing was learned.

    Attributes:
      in_a_row: how many there have been since the last one that was taken.
    """

    def __init__(self, most: int) -> None:
        """Up to `most` in a row are borne."""
        self.in_a_row = 0
        self._most = most
        self._since = 0

    def note(self, step: int, metrics: dict[str, Any]) -> str:
        """Counts a step, and says so; raises NotFinite where there have been too many in a row."""
        self.in_a_row += 1
        self._since += 1
        loss, norm = metrics["loss"], metrics["grad_norm"]
        found = f"step {step} is skipped: the loss is {loss:.4g}, the norm of its gradient {norm:.4g}"
        if np.isfinite(loss) and np.isfinite(norm):
            found += ", and that of its update no number"
        if self.in_a_row >= self._most:
            raise NotFinite(
                f"{found}, as {self.in_a_row} times in a row (train.max_skipped). "
                "Expected numbers: give a lower train.learning_rate, or a train.clip_norm"
            )
        return found

    def since_last_time(self) -> dict[str, float]:
        """A metric, of those since it was last asked for; nothing where there were none."""
        counted, self._since = self._since, 0
        return {SKIPPED: counted} if counted else {}


def means_of(window: Sequence[dict[str, Any]]) -> dict[str, float]:
    """The metrics of several steps as one: the mean of the scalars, and of all examples in the tallies, if there are any."""
    means = {}
    for name, first in window[0].items() if window else ():
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
    max_skipped: int = 10,
) -> TrainState:
    """Takes steps until step `until`, or until `stop` is set, and returns the state it has come to.

    A batch that cannot be read is noted in `stop`, and is where the run ends: all that was trained before is in the state.

    Metrics are read back a few steps late, so that the device never waits for them, and written as their mean since the last
    line (after a resume the first line's mean begins at the checkpoint). A mean of no example is left out.

    Args:
      max_skipped: how many steps in a row may come to nothing, because their loss or its gradient is not finite.
    Raises:
      NotFinite: more do; the state is what it was before them.
    """
    periodic = list(periodic)
    step = int(state.step)
    waiting: deque[Any] = deque()
    window: list[dict[str, Any]] = []
    skipped = Skipped(max_skipped)

    def settle(most: int) -> None:
        while len(waiting) > most:
            metrics = jax.device_get(waiting.popleft())
            if metrics.pop(SKIPPED):
                progress.say(skipped.note(step - len(waiting), metrics))
            else:
                skipped.in_a_row = 0
                window.append(metrics)
            progress.advance(float(metrics["loss"]))

    while step < until and not stop.reached(step):
        try:
            batch = next(batches)
        except DamagedImage as error:
            if stop.several:
                raise  # the others have read theirs, and would wait for this one at the next save
            stop.damage = error
            break
        state, metrics = train_step(state, batch)
        step += 1
        waiting.append(metrics)
        settle(STEPS_IN_FLIGHT)
        if step % log_every == 0 or step == until:
            settle(0)
            means = means_of(window) | skipped.since_last_time()
            writer.write(step, means | {"images_per_second": round(progress.report(step, means), 1)})
            window.clear()
        for each in periodic:
            if each.every and step % each.every == 0 and not stop.signal_number:
                settle(0)
                if skipped.in_a_row:
                    continue  # the state may be why, and is not to take the place of a good one
                with progress.paused():
                    each.act(state)
    settle(0)
    return state
