"""A trace of some steps, for XProf or TensorBoard."""

import contextlib
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import jax

from jax_ddpm.files import LocalFolder
from jax_ddpm.training.step import Batch, Metrics, TrainStep


@contextlib.contextmanager
def traced(step: TrainStep, directory: Path, *, start: int, steps: int) -> Iterator[TrainStep]:
    """Within it, the same step; some of its calls are written down, what each device and the host did when.

    Args:
      directory: where the trace goes; each process writes its own into it.
      start: the first call that is traced, counted from 1.
      steps: how many are; with 0 none is.
    """
    calls, running, folder = count(1), False, LocalFolder(directory)

    def stop() -> None:
        nonlocal running
        jax.profiler.stop_trace()
        running = False
        print(f"trace: {directory}", flush=True)

    def with_trace(state: Any, batch: Batch) -> tuple[Any, Metrics]:
        nonlocal running
        number = next(calls)
        if number == start and steps:
            jax.profiler.start_trace(folder.path)
            running = True
        with jax.profiler.StepTraceAnnotation("train", step_num=number):
            state, metrics = step(state, batch)
        if running and number == start + steps - 1:
            jax.block_until_ready(metrics)
            stop()
        return state, metrics

    try:
        yield with_trace
        if (taken := next(calls) - 1) < start and steps:
            print(f"no trace: profile.start={start}, and {taken} steps were taken", flush=True)
    finally:
        if running:
            stop()
        folder.close()
