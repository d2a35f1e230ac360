"""What the steps say of themselves: read late, told where nothing was learned, summed up for a line of the log."""

from collections import deque
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from jax_ddpm.errors import InvalidInput
from jax_ddpm.training.logging import Progress
from jax_ddpm.training.step import SKIPPED, Metrics, Tally

STEPS_IN_FLIGHT = 2  # so that the host prepares the next batch while the device works, and no more than that


class NotFinite(InvalidInput):
    """Losses are no longer numbers."""


class Readings:
    """The metrics of the steps since the last line of the log, read back a few steps late, so that no device waits for it.

    Attributes:
      skipped_in_a_row: the steps from which nothing was learned since the last one that was taken, of those that are read.
    """

    def __init__(self, progress: Progress, max_skipped: int) -> None:
        """Of no steps yet; with `max_skipped` of them skipped in a row it is over."""
        self.skipped_in_a_row = 0
        self._progress, self._max_skipped = progress, max_skipped
        self._waiting: deque[tuple[int, Metrics]] = deque()
        self._taken: list[dict[str, Any]] = []
        self._skipped = 0

    def add(self, step: int, metrics: Metrics) -> None:
        """Those of one step more, which may not be worked out yet."""
        self._waiting.append((step, metrics))
        self.read(leave=STEPS_IN_FLIGHT)

    def read(self, leave: int = 0) -> None:
        """Waits for the steps up to the last but `leave`.

        Raises:
          NotFinite: too many in a row were skipped.
        """
        while len(self._waiting) > leave:
            step, waiting = self._waiting.popleft()
            metrics: dict[str, Any] = jax.device_get(waiting)
            if metrics.pop(SKIPPED):
                self._count_skipped(step, metrics)
            else:
                self.skipped_in_a_row = 0
                self._taken.append(metrics)
            self._progress.advance(float(metrics["loss"]))

    def sum_up(self) -> dict[str, float]:
        """Reads all; one line for them: the means of the steps that were taken, and how many were skipped, if any."""
        self.read()
        line = means_of(self._taken) | ({SKIPPED: self._skipped} if self._skipped else {})
        self._taken, self._skipped = [], 0
        return line

    def _count_skipped(self, step: int, metrics: dict[str, Any]) -> None:
        self.skipped_in_a_row += 1
        self._skipped += 1
        loss, norm = metrics["loss"], metrics["grad_norm"]
        found = f"step {step} is skipped: the loss is {loss:.4g}, the norm of its gradient {norm:.4g}"
        if self.skipped_in_a_row >= self._max_skipped:
            raise NotFinite(
                f"{found}, as {self.skipped_in_a_row} times in a row (train.max_skipped). "
                "Expected numbers: give a lower train.learning_rate, or a train.clip_norm"
            )
        self._progress.say(found)


def means_of(steps: Sequence[dict[str, Any]]) -> dict[str, float]:
    """The metrics of several steps as one: the mean of the scalars, and of all examples in the tallies."""
    means = {}
    for name, first in steps[0].items() if steps else ():
        values = [row[name] for row in steps]
        if not isinstance(first, Tally):
            means[name] = float(np.mean(values))
            continue
        total, examples = np.sum(values, axis=0)
        if examples:
            means[name] = float(total / examples)
    return means
