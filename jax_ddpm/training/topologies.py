"""Devices that are not there, by name, such as v5e:16x16: what a program can be compiled for ahead of time."""

import importlib.metadata
import importlib.util
import math
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
from jax.errors import JaxRuntimeError
from jax.experimental import topologies

from jax_ddpm.errors import InvalidInput, choose
from jax_ddpm.training.chips import CHIPS, Chip

EXAMPLES = "v5e:16x16, v5p:2x2x4, gpu:8xH100 or cpu:8"

# What libtpu would ask a server of Cloud TPU for, and complain when there is none; it is of no account to what it compiles.
_ON_NO_TPU = {"TPU_SKIP_MDS_QUERY": "1", "TPU_WORKER_HOSTNAMES": "localhost", "TPU_ACCELERATOR_TYPE": "v5litepod-8"}


class Topology(NamedTuple):
    """Devices to compile for.

    Attributes:
      name: as it was given.
      devices: what JAX is to compile for: those that the name says, or as many of the CPU that stand for them.
      chip: what each of those that the name says can do; None for a CPU, of which that is not known.
      stands_in: whether the compiler is that of the CPU and the chip another.
    """

    name: str
    devices: Sequence[jax.Device]
    chip: Chip | None
    stands_in: bool = False


def find_topology(name: str) -> Topology:
    """The devices of that name: "v5e:2x4" (also v4, v5p, v6e), "gpu:8xH100" (by description), "cpu:8".

    Those of a GPU and of the CPU are devices of this CPU, which has to have so many: JAX has a compiler for a GPU only where
    there is one. Those of a TPU need libtpu, which compiles without a TPU.

    Raises:
      InvalidInput: there is no such topology, or no libtpu; the message says how to get it.
    """
    kind, _, shape = name.partition(":")
    tpus = {each: chip for each, chip in CHIPS.items() if chip.sides}
    choose("--topology", kind, {**tpus, "gpu": None, "cpu": None})
    if kind in tpus:
        return Topology(name, _tpus(kind, shape), CHIPS[kind])
    found = re.fullmatch(r"([1-9]\d*)" + (r"x([\w-]+)" if kind == "gpu" else "()"), shape)
    if not found:
        raise InvalidInput(f"--topology={name}: expected a number of devices, such as {EXAMPLES}")
    count = int(found[1])
    devices = jax.devices("cpu")
    if len(devices) != count:
        raise InvalidInput(
            f"--topology={name}: {len(devices)} devices were made of the CPU. Expected runtime.cpu_devices={count}"
        )
    if kind == "cpu":
        return Topology(name, devices, None)
    gpus = {each: chip for each, chip in CHIPS.items() if not chip.sides}
    return Topology(name, devices, choose("GPU", found[2], gpus), stands_in=True)


def _tpus(kind: str, shape: str) -> Sequence[jax.Device]:
    chip, example = CHIPS[kind], {2: "2x4", 3: "2x2x4"}[CHIPS[kind].sides]
    sides = [int(side) for side in shape.split("x")] if re.fullmatch(r"\d+(x\d+)*", shape) else []
    if len(sides) != chip.sides or not 0 < math.prod(sides) <= chip.most:
        raise InvalidInput(
            f"--topology={kind}:{shape}: expected {chip.sides} sides of a slice of at most {chip.most:,} chips, such as "
            f"{kind}:{example}"
        )
    # Of v4 and v5p the two cores of a chip are one device, as on Cloud TPU; a slice smaller than a machine is on a smaller one.
    told: dict[str, Any] = {"chip_config_name": "megacore" if chip.sides == 3 else "default"}
    told |= {"chips_per_host_bounds": tuple(map(math.gcd, (*sides, 1)[:3], (2, 2, 1)))}
    _check_libtpu()
    os.environ["ALLOW_MULTIPLE_LIBTPU_LOAD"] = "1"  # no chip is touched, so several may compile at a time
    for name, value in _ON_NO_TPU.items():
        os.environ.setdefault(name, value)
    try:
        return topologies.get_topology_desc(f"{kind}:{shape}", "tpu", **told).devices
    except JaxRuntimeError as error:
        raise InvalidInput(
            f"--topology={kind}:{shape}: libtpu knows no such slice ({str(error).splitlines()[0]}). Expected one that is to be "
            f"had, such as {kind}:{example}"
        ) from error


def _check_libtpu() -> None:
    path = os.environ.get("TPU_LIBRARY_PATH")
    if path is not None and not Path(path).is_file():
        raise InvalidInput(f"TPU_LIBRARY_PATH={path}: there is no such file. Expected that of libtpu.so")
    if path is None and importlib.util.find_spec("libtpu") is None:
        raise InvalidInput(
            "a plan for TPUs is made by their compiler, libtpu, and it is not here. To get the one that fits this JAX, into a "
            f"folder of its own: pip install --target libtpu --no-deps '{libtpu_requirement()}'; then the same command after "
            "TPU_LIBRARY_PATH=libtpu/libtpu/libtpu.so"
        )


def libtpu_requirement() -> str:
    """The libtpu that fits the JAX that is installed, as pip is told it: "libtpu==0.0.42.*"."""
    rows = importlib.metadata.requires("jax") or []
    return next(re.split(r"\s*;", row)[0] for row in rows if row.startswith("libtpu") and "tpu" in row.partition(";")[2])
