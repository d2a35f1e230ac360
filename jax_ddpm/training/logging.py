"""What a run writes down and shows while it goes: metrics.jsonl, TensorBoard events, a progress bar."""

import contextlib
import json
import socket
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from tensorboardX import summary
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.record_writer import RecordWriter
from tqdm import tqdm

from jax_ddpm.files import PATIENCE, GrowingText, LocalFolder, is_first_process, refusal_told

FILE_NAME = "metrics.jsonl"


class MetricsWriter:
    """Writes one line of metrics.jsonl, and TensorBoard scalars, for a step. A context manager."""

    def __init__(self, workdir: Path, start: int) -> None:
        """Opens the files; what an interrupted run wrote beyond step `start` is dropped, for it will come again."""
        kept = "".join(json.dumps(row) + "\n" for row in read_metrics(workdir) if row["step"] <= start)
        self._lines = GrowingText(workdir / FILE_NAME, kept)
        self._folder = LocalFolder(workdir / "tensorboard")
        self._events = _Events(self._folder.path, start + 1)

    def __enter__(self) -> "MetricsWriter":
        """Itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Closes the files."""
        with contextlib.closing(self._folder), contextlib.closing(self._lines):
            self._events.close()

    def flush(self) -> None:
        """On object storage puts there what was written so far; on a local disk it is."""
        self._lines.flush()
        self._events.flush()
        self._folder.flush()

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """One line, {"step": …, name: value, …}."""
        self._lines.add(json.dumps({"step": step, **metrics}))
        for name, value in metrics.items():
            self._events.add(Event(step=step, summary=summary.scalar(name, value)))

    def write_image(self, step: int, name: str, image: np.ndarray) -> None:
        """[H, W, C] uint8, for TensorBoard."""
        self._events.add(Event(step=step, summary=summary.image(name, image, dataformats="HWC")))
        self._events.flush()


class _Events:
    """A file of TensorBoard's events, which the first process writes.

    tensorboardX' own writer has a thread for it, which dies where the disk is full; the run would then wait for it for ever.
    """

    def __init__(self, folder: Path, first: int) -> None:
        """Begins a file; of older ones TensorBoard shows nothing from step `first` on."""
        self._path = folder / f"events.out.tfevents.{int(time.time())}.{socket.gethostname()}"
        self._flushed = time.monotonic()
        if is_first_process():
            with refusal_told(self._path):
                folder.mkdir(parents=True, exist_ok=True)
                self._file = RecordWriter(str(self._path))
        self.add(Event(file_version="brain.Event:2"))
        self.add(Event(step=first, session_log=SessionLog(status=SessionLog.START)))

    def add(self, event: Event) -> None:
        """An event more; it is there after PATIENCE seconds or by `flush`."""
        event.wall_time = time.time()
        if is_first_process():
            with refusal_told(self._path):
                self._file.write(event.SerializeToString())
        if time.monotonic() - self._flushed > PATIENCE:
            self.flush()

    def flush(self) -> None:
        """Writes what is not there yet."""
        self._flushed = time.monotonic()
        if is_first_process():
            with refusal_told(self._path):
                self._file.flush()

    def close(self) -> None:
        """Ends it."""
        if is_first_process():
            with refusal_told(self._path):
                self._file.close()


def read_metrics(workdir: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl; a last line that a kill cut short is left out."""
    path = workdir / FILE_NAME
    rows = []
    for line in path.read_text().splitlines() if path.is_file() else ():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


class Progress:
    """A bar with loss, images/s and the time left; plain lines where the output is not a terminal. A context manager."""

    def __init__(self, start: int, total: int, batch_size: int, seconds_at_peak: float | None = None) -> None:
        """Begins at step `start` of `total`.

        With `seconds_at_peak`, which an image would take if all devices computed at their peak, model FLOP utilisation is told.
        """
        self._batch_size, self._seconds_at_peak = batch_size, seconds_at_peak
        self._total = total
        self._mark = (start, time.perf_counter())
        hidden = not (sys.stderr.isatty() and is_first_process())
        self._bar = tqdm(initial=start, total=total, unit="step", dynamic_ncols=True, smoothing=0.05, disable=hidden)

    def __enter__(self) -> "Progress":
        """Itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Closes the bar."""
        self._bar.close()

    def advance(self, loss: float) -> None:
        """One step is done."""
        rate = self._bar.format_dict["rate"]
        if rate:
            self._bar.set_postfix_str(f"loss {loss:.4f}, {self._told(rate * self._batch_size, ', ')}", refresh=False)
        self._bar.update()

    def report(self, step: int, metrics: Mapping[str, float]) -> float:
        """A line of metrics is due: says it where there is no bar. Returns images/s since the last one."""
        now = time.perf_counter()
        last_step, last_time = self._mark
        self._mark = (step, now)
        steps_per_second = (step - last_step) / max(now - last_time, 1e-9)
        if self._bar.disable:
            left = time.strftime("%H:%M:%S", time.gmtime((self._total - step) / max(steps_per_second, 1e-9)))
            rate = steps_per_second * self._batch_size
            said = "".join(f"  {name} {metrics[name]:.4f}" for name in ("loss", "accuracy", "skipped") if name in metrics)
            print(f"step {step}/{self._total}{said}  {self._told(rate, '  ')}  {left} left", flush=True)
        return steps_per_second * self._batch_size

    def utilisation(self, rate: float) -> dict[str, float]:
        """{"flop_utilisation": the share of their peak at which the devices learn from `rate` images/s}, where it is known."""
        return {} if self._seconds_at_peak is None else {"flop_utilisation": rate * self._seconds_at_peak}

    def _told(self, rate: float, between: str) -> str:
        return between.join(
            [f"{rate:,.0f} images/s", *(f"{share:.1%} of peak FLOP/s" for share in self.utilisation(rate).values())]
        )

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """The time spent within does not count against images/s."""
        begin = time.perf_counter()
        yield
        step, mark = self._mark
        self._mark = (step, mark + time.perf_counter() - begin)

    def say(self, message: str) -> None:
        """A line of text that does not break the bar."""
        tqdm.write(message, file=sys.stdout)
        sys.stdout.flush()
