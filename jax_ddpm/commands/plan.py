"""--mode plan: what training would take on devices that are not here, and whether it fits. The step is compiled, not run."""

import math
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import jax
from jax.errors import JaxRuntimeError
from ml_collections import ConfigDict

from jax_ddpm.checks import check
from jax_ddpm.commands.describe import describe_data
from jax_ddpm.errors import InvalidInput
from jax_ddpm.files import write_json
from jax_ddpm.models.products import as_usual
from jax_ddpm.step_program import abstract_state, compile_step, model_flops
from jax_ddpm.training.chips import peak
from jax_ddpm.training.programs import Program, by_kind, estimate, read_program
from jax_ddpm.training.sharding import check_batch, make_mesh
from jax_ddpm.training.topologies import EXAMPLES, Topology, find_topology

FILE_NAME = "plan.json"
Rows = dict[str, str]
"""By what it is, what is said of it."""


def main(config: ConfigDict, workdir: Path) -> None:
    """Compiles the train step of these settings for `plan.topology` and prints what it says; also into workdir/plan.json.

    Raises:
      InvalidInput: settings that training would not begin with, or a topology that cannot be compiled for.
    """
    if not config.plan.topology:
        raise InvalidInput(f"--mode plan needs --topology, the devices to plan for: {EXAMPLES}")
    if config.train.parallel != "jit":
        raise InvalidInput(f"train.parallel={config.train.parallel}: a plan is of the step by jit. Expected train.parallel=jit")
    topology = find_topology(config.plan.topology)
    describe_data(config)  # which finds out how many classes there are
    check(config)
    mesh = make_mesh(config.mesh.data, config.mesh.fsdp, topology.devices)
    check_batch(config.train.batch_size, config.train.accumulate, mesh.size)
    like = abstract_state(config, mesh)
    if topology.devices[0].platform != "cpu":
        jax.config.update("jax_enable_compilation_cache", False)  # no program can be read from it for devices that are not here
    print(f"compiling the train step for {mesh.size} × {described(topology)}, which may take minutes ...", flush=True)
    begin = time.perf_counter()
    try:
        with as_usual() if topology.stands_in else nullcontext():
            compiled = compile_step(config, mesh, like)
    except JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        sys.exit("\n".join([f"does not fit: {str(error).splitlines()[0]}", *advice(config, mesh.size)]))
    print(f"compiled in {time.perf_counter() - begin:.0f} s\n", flush=True)
    program = read_program(compiled, config.train.accumulate)
    parameters = sum(leaf.size for leaf in jax.tree.leaves(like.params))
    rows = {
        **plan_run(config, topology, mesh.shape, parameters),
        **plan_memory(program, topology),
        **plan_work(config, program, topology),
        **plan_time(config, program, topology),
    }
    print("\n".join([aligned(rows), *notes(config, program, topology)]))
    planned = {"topology": topology.name, "batch_size": config.train.batch_size, "parameters": parameters}
    path = write_json(workdir / FILE_NAME, planned | as_numbers(config, program, topology), allow_nan=False)
    print(f"the same as numbers: {path}", flush=True)
    if fits(program, topology) is False:
        sys.exit("does not fit")


def fits(program: Program, topology: Topology) -> bool | None:
    """Whether a device holds what it has to; None where it is not known how much it holds."""
    return topology.chip and program.peak <= topology.chip.memory


def as_numbers(config: ConfigDict, program: Program, topology: Topology) -> dict[str, Any]:
    """What is printed: bytes, FLOPs and seconds; None stands for what is not known."""
    said: dict[str, Any] = {**program._asdict(), "collectives": by_kind(program.collectives), "fits": fits(program, topology)}
    if topology.chip:
        least = estimate(program, topology.chip, config.model.dtype, len(topology.devices))
        said |= {"device_memory": topology.chip.memory, "seconds": {**least._asdict(), "step": least.seconds}}
        said["images_per_second"] = config.train.batch_size / least.seconds
    return jax.tree.map(lambda each: None if isinstance(each, float) and not math.isfinite(each) else each, said)


def described(topology: Topology) -> str:
    """The kind of device, in words."""
    return topology.chip.kind if topology.chip else "CPU"


def aligned(rows: Rows) -> str:
    """A line each, what is said one below the other."""
    wide = max(map(len, rows)) + 2
    return "\n".join(f"{name:<{wide}}{text}" for name, text in rows.items())


def plan_run(config: ConfigDict, topology: Topology, mesh: Any, parameters: int) -> Rows:
    """What is planned."""
    batch, devices = config.train.batch_size, len(topology.devices)
    return {
        "devices": f"{topology.name}: {devices} × {described(topology)}, {mesh['data']} data × {mesh['fsdp']} fsdp",
        "network": f"{parameters:,} parameters ({si(4 * parameters)}B in float32), computing in {config.model.dtype}",
        "batch": f"{batch:,} images, {batch // devices:,} a device, in {config.train.accumulate} part(s)",
    }


def plan_memory(program: Program, topology: Topology) -> Rows:
    """Whether a device holds what it has to."""
    rows = {
        "arguments": f"{si(program.arguments)}B a device: state and batch",
        "temporaries": f"{si(program.temporaries)}B a device",
        "peak": f"{si(program.peak)}B a device",
    }
    if topology.chip:
        share = program.peak / topology.chip.memory
        rows["fits"] = f"{'yes' if fits(program, topology) else 'NO'}: {share:.0%} of {si(topology.chip.memory)}B"
    return rows


def plan_work(config: ConfigDict, program: Program, topology: Topology) -> Rows:
    """What a device computes, reads and writes, and asks of the others, in a step."""
    asked = [f"{count} {kind}, {si(size)}B" for kind, (count, size) in by_kind(program.collectives).items()]
    model = model_flops(config) * config.train.batch_size / len(topology.devices)
    return {
        "computes": f"{si(program.flops)}FLOP a device and step; the network asks for {si(model)}FLOP",
        "memory traffic": f"{si(program.bytes)}B a device and step",
        "collectives": "; ".join(asked) or "none",
    }


def plan_time(config: ConfigDict, program: Program, topology: Topology) -> Rows:
    """What a step and the run take if the chip does what its peaks say; nothing where they are not known."""
    if not topology.chip:
        return {"time": "no estimate: the peaks of a CPU are not in the table"}
    train, least = config.train, estimate(program, topology.chip, config.model.dtype, len(topology.devices))
    parts = f"computing {1e3 * least.computing:.2f}, memory {1e3 * least.memory:.2f}, links {1e3 * least.links:.2f}"
    hours = train.steps * least.seconds / 3600
    return {
        "step, by the peaks": f"{1e3 * least.seconds:.2f} ms ({parts} ms)",
        "images/s, by the peaks": f"{train.batch_size / least.seconds:,.0f}",
        "run, by the peaks": f"{hours:.3g} hours for {train.steps:,} steps, without reading data and drawing samples",
    }


def notes(config: ConfigDict, program: Program, topology: Topology) -> list[str]:
    """What is to be known of these numbers, and what would help where the step does not fit."""
    said = []
    if fits(program, topology) is False:
        said += advice(config, len(topology.devices))
    if topology.chip:
        floats = f"{peak(topology.chip, config.model.dtype) / 1e12:g} TFLOP/s in {config.model.dtype}"
        said.append(
            f"An estimate from peaks ({floats}, {si(topology.chip.memory_bandwidth)}B/s of memory, "
            f"{si(topology.chip.link_bandwidth)}B/s of links one way), nothing was run: the true time is longer, "
            "unless much of what the compiler counts as memory traffic stays within the chip. It is the larger of "
            "computing and memory, and the links after it."
        )
    if topology.stands_in:
        said.append(
            "JAX compiles for a GPU only where there is one. So the step was split and compiled for as many devices of the "
            "CPU: arguments and collectives are of the same program; FLOPs, temporaries and memory traffic are those of XLA's "
            "CPU compiler, often more than a GPU's."
        )
    if config.train.accumulate > 1:
        said.append(
            f"FLOPs and memory traffic are {config.train.accumulate} times those of one part of the batch, and so a little too "
            "high: the update is done once."
        )
    return said


def advice(config: ConfigDict, devices: int) -> list[str]:
    """What makes a step need less memory, of what the settings do not do yet."""
    train, model = config.train, config.model
    parts, split = 2 * train.accumulate, 2 * config.mesh.fsdp
    ways = {
        f"--config.train.accumulate={parts}, to work the batch off in parts": train.batch_size % (parts * devices) == 0,
        "--config.model.remat=blocks, to compute each block again in the backward pass": model.remat == "none",
        "--config.model.dtype=bfloat16, for activations of half the size": model.dtype == "float32",
        f"--config.mesh.fsdp={split}, to split the state over devices": devices % split == 0,
        "--config.train.adam_mu_dtype=bfloat16, for half of Adam's first moment": train.adam_mu_dtype == "float32",
    }
    return ["What would help:", *(f"  {way}" for way, is_open in ways.items() if is_open)]


def si(number: float) -> str:
    """With three digits and a prefix: 1.23e9 as "1.23 G"."""
    power = next((power for power in (12, 9, 6, 3) if abs(number) >= 10**power), 0)
    return f"{number / 10**power:.3g} {dict(zip((12, 9, 6, 3, 0), 'TGMk ', strict=True))[power].strip()}"
