"""The loop around the train step: it counts, logs, saves, and stops when it is asked to."""

import contextlib
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from types import FrameType
from typing import Any, NamedTuple

import jax
from jax.experimental import multihost_utils

from jax_ddpm.data.sources.source import DamagedImage
from jax_ddpm.training.logging import MetricsWriter, Progress
from jax_ddpm.training.readings import Readings
from jax_ddpm.training.state import TrainState
from jax_ddpm.training.step import TrainStep


class Periodic(NamedTuple):
    """Something done after every `every`-th step; never where `every` is 0."""

    every: int
    act: Callable[[TrainState], None]

    def is_due(self, step: int) -> bool:
        """Whether it is done after this step."""
        return self.every > 0 and step % self.every == 0


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
        if request.several:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)  # there is no step any more at which all could stop
        for each, handler in previous.items():
            signal.signal(each, handler)


def run(
    state: TrainState,
    train_step: TrainStep,
    batches: Iterator[Any],
    *,
    until: int,
    log_every: int,
    writer: MetricsWriter,
    progress: Progress,
    periodic: Sequence[Periodic],
    stop: StopRequest,
    max_skipped: int = 10,
) -> TrainState:
    """Takes steps until step `until`, or until `stop` is set, and returns the state it has come to.

    A batch that cannot be read is noted in `stop`, and is where the run ends: all that was trained before is in the state.

    Metrics are written as their mean since the last line; after a resume the first line's mean begins at the checkpoint.

    Args:
      max_skipped: how many steps in a row may come to nothing, because their loss or its gradient is not finite.
    Raises:
      NotFinite: more do; the state is what it was before them.
    """
    step = int(state.step)
    readings = Readings(progress, max_skipped)
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
        readings.add(step, metrics)
        if step % log_every == 0 or step == until:
            means = readings.sum_up()
            rate = progress.report(step, means)
            writer.write(step, means | {"images_per_second": round(rate, 1)} | progress.utilisation(rate))
        for each in periodic:
            if each.is_due(step) and not stop.signal_number:
                readings.read()
                if readings.skipped_in_a_row:
                    continue  # the state may be why, and is not to take the place of a good one
                with progress.paused():
                    each.act(state)
    readings.read()
    return state
