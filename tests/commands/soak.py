"""A run of two processes that is ended again and again: `make soak`, or `python -m tests.commands.soak --kills=200`.

Each image says in its pixels which one it is, and each process writes down which ones it is given at every step. In the end
every epoch has to have had every image once, a step that was taken twice the same images both times, and the last checkpoint
the very bits of a run that nothing happened to.
"""

import argparse
import json
import multiprocessing
import os
import random
import runpy
import socket
import sys
import tempfile
import time
from collections import Counter
from functools import partial
from multiprocessing.process import BaseProcess
from pathlib import Path

import chex
import numpy as np

from jax_ddpm.commands import train
from tests.commands.conftest import ROOT, last_state, tiny_flags
from tests.conftest import COMPILATION_CACHE

PROCESSES, IMAGES, BATCH = 2, 40, 8
STEPS_A_LIFE = 10  # on the average, so that a run of any number of lives has whole epochs
HEARTBEAT = 10  # seconds
LONGEST = 3600  # seconds that any life may take, so that one that hangs fails
WHILE_STARTING = 0.25  # of the lives end before they come to a step
FORK = multiprocessing.get_context("forkserver")  # of one process that has imported everything: a start costs half as much
FORK.set_forkserver_preload(["tests.commands.conftest"])


def kill_all(processes, draw):
    for process in draw.sample(processes, len(processes)):
        process.kill()
        time.sleep(draw.uniform(0, 0.3))


def kill_one(processes, draw):
    draw.choice(processes).kill()


def terminate_one(processes, draw):
    draw.choice(processes).terminate()


WAYS = {  # with their shares; by the last two all processes have to end by themselves
    "SIGKILL of all": (kill_all, 0.75),
    "SIGKILL of one": (kill_one, 0.05),
    "SIGTERM": (terminate_one, 0.2),
}


class Run:
    """One workdir, and the processes that live on it one after the other."""

    def __init__(self, folder: Path, steps: int) -> None:
        folder.mkdir()
        self.workdir, self.steps = folder / "run", steps
        self._printed, self._images = folder / "printed.txt", write_images(folder / "images.npy")
        self._notes = [folder / f"given_{number}.jsonl" for number in range(PROCESSES)]

    def begin(self) -> list[BaseProcess]:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            coordinator = f"127.0.0.1:{free.getsockname()[1]}"
        settings = {"data.name": "arrays", "data.directory": self._images, "diffusion.timesteps": "second_moment"}
        settings |= {"model.class_conditional": False, "model.label_dropout": 0.0}
        settings |= {"train.steps": self.steps, "train.checkpoint_every": 5, "train.sample_every": 0, "train.log_every": 1}
        settings |= {"runtime.cpu_devices": 1, "runtime.heartbeat": HEARTBEAT}
        flags = ["--config=configs/digits.py", f"--workdir={self.workdir}", *tiny_flags(**settings)]
        flags += [f"--coordinator={coordinator}", f"--processes={PROCESSES}"]
        processes = [
            FORK.Process(target=live, args=([*flags, f"--process_id={number}"], notes, self._printed))
            for number, notes in enumerate(self._notes)
        ]
        for process in processes:
            process.start()
        return processes

    def finish(self) -> None:
        for process in (processes := self.begin()):
            process.join(LONGEST)
        assert [process.exitcode for process in processes] == [0] * PROCESSES, self._printed.read_text()[-3000:]

    def given(self, number: int) -> list[tuple[int, list[int]]]:
        """The steps that a process took and the images it was given; a line that a kill cut short is left out."""
        path = self._notes[number]
        return [json.loads(line) for line in path.read_text().splitlines() if line.endswith("]]")] if path.exists() else []

    def come_to(self) -> int:
        """The step that was begun last."""
        return max((step for step, _ in self.given(0)), default=0)

    def wait_for(self, step: int, processes: list[BaseProcess]) -> None:
        latest = time.monotonic() + LONGEST
        while all(process.is_alive() for process in processes) and self.come_to() < step:
            assert time.monotonic() < latest, f"it does not come to step {step}: {self._printed.read_text()[-3000:]}"
            time.sleep(0.05)
        assert all(process.is_alive() for process in processes), self._printed.read_text()[-3000:]

    def batches(self) -> list[list[int]]:
        """The images of each step, of all processes; raises where one that was taken again was not the same."""
        of_steps: list[list[int]] = [[] for _ in range(self.steps)]
        for number in range(PROCESSES):
            taken: dict[int, list[int]] = {}
            for step, images in self.given(number):
                assert taken.setdefault(step, images) == images, f"step {step}: first {taken[step]}, then {images}"
            for step, images in taken.items():
                of_steps[step] += images
        return of_steps


def write_images(path: Path) -> Path:
    """Grey images of 8×8, whose first pixel is the number of the image."""
    images = np.random.default_rng(0).integers(0, 256, (IMAGES, 8, 8), np.uint8)
    images[:, 0, 0] = np.arange(IMAGES)
    np.save(path, images)
    return path


def live(flags: list[str], notes: Path, printed: Path) -> None:
    """The whole life of a process: run.py, with what it is given written down."""
    stream = os.open(printed, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(stream, sys.stdout.fileno())
    os.dup2(stream, sys.stderr.fileno())
    train.run = partial(run_noting, train.run, notes)
    sys.argv = ["run.py", *flags]
    runpy.run_path(str(ROOT / "run.py"), run_name="__main__")


def run_noting(run, notes, state, step, *arguments, **settings):
    """`training.loop.run`; each step and its images are written down before it is taken."""
    with notes.open("a", buffering=1) as file:

        def noted(state, batch):
            own = np.concatenate([part.data for part in batch["image"].addressable_shards])
            images = np.rint((own[:, 0, 0, 0] + 1) * 127.5).astype(int)
            file.write(json.dumps([int(state.step), images.tolist()]) + "\n")
            return step(state, batch)

        return run(state, noted, *arguments, **settings)


def end(run: Run, processes: list[BaseProcess], lives_left: int, draw: random.Random) -> str:
    """Ends a life at a random moment, in a random way; says in which."""
    if draw.random() < WHILE_STARTING:
        way = "SIGKILL of all"  # one alone would be waited for by those that have not met it
        time.sleep(draw.uniform(0, 10))
    else:
        (way,) = draw.choices(list(WAYS), [share for _, share in WAYS.values()])
        left = run.steps - run.come_to()
        run.wait_for(run.come_to() + draw.randint(1, max(2 * left // (lives_left + 1) - 1, 1)), processes)
        time.sleep(draw.uniform(0, 0.1))
    WAYS[way][0](processes, draw)
    for process in processes:
        process.join(6 * HEARTBEAT)
        assert not process.is_alive(), f"it goes on after {way}"
    return way


def soak(folder: Path, kills: int, seed: int) -> str:
    """Ends a run so many times, then leaves it alone, and compares; says what happened."""
    draw, steps = random.Random(seed), kills * STEPS_A_LIFE
    unbroken, broken = Run(folder / "unbroken", steps), Run(folder / "broken", steps)
    unbroken.finish()
    ways: Counter[str] = Counter()
    for number in range(kills):
        ways[end(broken, broken.begin(), kills - number, draw)] += 1
        print(f"{number + 1} of {kills}: step {broken.come_to()} of {steps}", flush=True)
    broken.finish()

    given = np.array(broken.batches()).reshape(-1, IMAGES)  # [epochs, images]
    assert (np.sort(given) == np.arange(IMAGES)).all(), "each image once in each epoch"
    chex.assert_trees_all_equal(last_state(broken.workdir), last_state(unbroken.workdir))
    again = len(broken.given(0)) - steps
    by_way = ", ".join(f"{count} by {way}" for way, count in ways.most_common())
    return (
        f"ended {kills} times ({by_way}), {again:,} steps taken again; "
        f"in {steps:,} steps {given.size:,} images, each once in each of {len(given)} epochs; "
        "the last checkpoint holds the bits of the unbroken run"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    os.environ |= {
        "JAX_PLATFORMS": "cpu",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
        "JAX_COMPILATION_CACHE_DIR": str(COMPILATION_CACHE),
    }
    with tempfile.TemporaryDirectory() as scratch:
        print(soak(Path(scratch), asked.kills, asked.seed))
