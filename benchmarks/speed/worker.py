"""A process for each side, which stays and runs one repeat when it is told to: JAX and PyTorch in one would fight over threads.

What is said goes over pipes, a line of JSON each way. What a side prints itself, and what its libraries say, goes into a log.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

QUIET = 0.1  # seconds between two repeats, in which the threads of the last one go to sleep

Request = dict[str, Any]
Deed = Callable[[Request], dict[str, Any]]


class SideFailed(Exception):
    """A side cannot do what it was asked to; its own words."""


class Worker:
    """A process that runs `python -m benchmarks.speed.MODULE`. A context manager."""

    def __init__(self, module: str, log: Path, environment: Mapping[str, str] | None = None) -> None:
        """Starts it; `log` takes what it prints."""
        self.begin = time.perf_counter()
        with log.open("a") as file:
            self._process = subprocess.Popen(
                [sys.executable, "-m", f"benchmarks.speed.{module}"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=file,
                text=True,
                env={**os.environ, **(environment or {})},
                cwd=Path(__file__).parents[2],
            )
        self._log = log

    def __enter__(self) -> "Worker":
        """Itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Ends the process: it does when nothing more can come."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def ask(self, do: str, **told: Any) -> dict[str, Any]:
        """What the process answers.

        Raises:
          SideFailed: it cannot do it, or has ended.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            print(json.dumps({"do": do, **told}), file=self._process.stdin, flush=True)
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise SideFailed(f"the process has ended with code {self._process.wait()}; see {self._log}")
        answer = json.loads(line)
        if "error" in answer:
            raise SideFailed(f"{answer['error']} (see {self._log})")
        return answer

    def run(self, key: str, calls: int) -> float:
        """Seconds of a call of what was prepared under this key, of so many one after the other."""
        time.sleep(QUIET)
        return float(self.ask("run", key=key, calls=calls)["seconds"])


def serve(deeds: Mapping[str, Deed]) -> None:
    """Answers until there is nothing more to read.

    Args:
      deeds: by name, what can be asked for.
    """
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever else is printed is not to come between the answers
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = deeds[request["do"]](request)
        except Exception as error:  # all of them are told to who asked, who says so; the log has the traceback
            sys.excepthook(type(error), error, error.__traceback__)
            answer = {"error": f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else ''}"}
        print(json.dumps(answer), file=answers, flush=True)


class Prepared:
    """What is prepared, by key, and the deeds that every side knows: run, drop and memory."""

    def __init__(self) -> None:
        """Nothing is."""
        self.calls: dict[str, Callable[[], None]] = {}

    def run(self, request: Request) -> dict[str, Any]:
        """Seconds of a call."""
        call, count = self.calls[request["key"]], request["calls"]
        begin = time.perf_counter()
        for _ in range(count):
            call()
        return {"seconds": (time.perf_counter() - begin) / count}

    def drop(self, _: Request) -> dict[str, Any]:
        """Forgets all that is prepared."""
        self.calls.clear()
        return {}


def resident_peak() -> int:
    """The most bytes that this process has held in memory at a time; 0 where the system does not say."""
    try:
        import resource
    except ImportError:
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
