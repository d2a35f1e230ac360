"""Measures case after case: prepares it on both sides, checks that they compute the same, and lets them run in turn."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.speed.networks import make_config, peer_network, peer_settings
from benchmarks.speed.plan import EVALUATION, LIMITS, OURS, PEERS, Case, Measurement, entries, measure
from benchmarks.speed.worker import SideFailed, Worker

OF_MATRICES = {"cpu": ("float32", 3072)}  # type and size of those whose product is the limit; of an accelerator:
OF_ACCELERATORS = ("bfloat16", 8192)
COPIED = 2**30  # bytes, of an accelerator's memory


class Unequal(Exception):
    """The sides would not do the same work."""


class Sides:
    """Both processes, and what one has to hand to the other."""

    def __init__(self, ours: Worker, torch: Worker | None, folder: Path) -> None:
        """`torch` is None where only we are measured.

        Raises:
          SideFailed: one of them does not start.
          Unequal: they do not compute on the same kind of device.
        """
        self.ours, self.torch, self.folder = ours, torch, folder
        self.about = {"ours": ours.ask("about")}
        if torch:
            self.about["torch"] = torch.ask("about")
            check_same_device(self.about["ours"]["backend"], self.about["torch"]["backend"])

    def weights(self, net: str) -> str:
        """The file with the weights of a network, by diffusers' names, and the output that they give."""
        path = self.folder / f"weights_{net}.npz"
        if not path.is_file():
            self.ours.ask("publish", net=net, path=str(path))
        return str(path)

    def prepare_peer(self, worker: Worker, name: str, case: Case) -> dict[str, Any]:
        """Makes a peer ready, in a process of PyTorch's."""
        config = make_config(case)
        told = {"network": peer_network(config), "settings": peer_settings(config), "weights": self.weights(case.net)}
        return worker.ask("prepare", key=name, variant=name, case=case._asdict(), **told)

    def measure(self, measurement: Measurement, peers: Sequence[str], *, budget: float, rounds: int) -> dict[str, Any]:
        """A result, as `figures.py` has it.

        Raises:
          Unequal: a peer's network has another number of parameters.
          SideFailed: ours cannot run.
        """
        result: dict[str, Any] = {"name": measurement.name, "left_out": {}, "prepared": {}, "limit_flops": {}}
        ready = self._prepare_all(entries(measurement, peers if self.torch else ()), measurement.case, result)
        for name in (name for name in result["prepared"] if name in PEERS):
            check_equal(name, result["prepared"][name], result["prepared"][OURS])
        result["seconds"] = measure(lambda name, calls: ready[name].run(name, calls), list(ready), budget=budget, rounds=rounds)
        for worker in filter(None, (self.ours, self.torch)):
            worker.ask("drop")
        ours = result["prepared"][OURS]
        return {**result, "flops": ours["flops"], "temporary_bytes": ours.get("temporary_bytes")}

    def _prepare_all(self, names: Sequence[str], case: Case, result: dict[str, Any]) -> dict[str, Worker]:
        """The process in which each is ready, of those that can be had. Both prepare at once, for much of it is compiling."""
        of_torch = [name for name in names if name in PEERS or name == "limit_torch"]
        if set(of_torch) & set(PEERS):
            self.weights(case.net)  # asked of our process, which is busy from now on

        def prepare(part: Sequence[str]) -> dict[str, Worker | None]:
            return {name: self._prepare(name, case, result) for name in part}

        with ThreadPoolExecutor() as pool:
            parts = list(pool.map(prepare, ([name for name in names if name not in of_torch], of_torch)))
        workers = parts[0] | parts[1]
        return {name: worker for name in names if (worker := workers[name]) is not None}

    def _prepare(self, name: str, case: Case, result: dict[str, Any]) -> Worker | None:
        """The process in which it is now ready; None where a peer, or the other limit, is not to be had, which is noted."""
        if name in LIMITS:
            return self._prepare_limit(name, result)
        if name not in PEERS:
            alone = case._replace(kind="forward", steps=0) if name == EVALUATION else case
            result["prepared"][name] = self.ours.ask("prepare", key=name, case=alone._asdict())
            return self.ours
        assert self.torch is not None
        try:
            result["prepared"][name] = self.prepare_peer(self.torch, name, case)
        except SideFailed as error:
            result["left_out"][name] = str(error)
            return None
        return self.torch

    def _prepare_limit(self, name: str, result: dict[str, Any]) -> Worker | None:
        worker = self.ours if name == "limit_jax" else self.torch
        if worker is None:
            return None
        dtype, size = OF_MATRICES.get(self.about["ours"]["backend"], OF_ACCELERATORS)
        told = {"dtype": dtype, "size": size, "devices": self.about["ours"]["devices"]}
        result["limit_flops"][name] = worker.ask("limit", key=name, **told)["flops"]
        return worker

    def bandwidth(self) -> float | None:
        """Bytes a second read and written by copying, of an accelerator; None of a CPU."""
        if self.about["ours"]["backend"] == "cpu":
            return None
        moved = self.ours.ask("copy", key="copy", bytes=COPIED)["bytes"]
        seconds = measure(self.ours.run, ["copy"], budget=5, rounds=5)["copy"]
        self.ours.ask("drop")
        return float(moved / sorted(seconds)[len(seconds) // 2])


def check_same_device(ours: str, torch: str) -> None:
    """Raises Unequal where JAX and PyTorch, in their own words, do not compute on the same kind of device."""
    if {"gpu": "cuda"}.get(ours, ours) != torch:
        raise Unequal(f"JAX computes on {ours} and PyTorch on {torch}: expected builds of both for one, or --peers none")


def check_equal(name: str, peer: Mapping[str, Any], ours: Mapping[str, Any]) -> None:
    """Raises Unequal where the numbers of parameters differ."""
    if peer["parameters"] != ours["parameters"]:
        raise Unequal(f"{name} has {peer['parameters']:,} parameters, ours {ours['parameters']:,}: expected the same network")
