"""Our side, as run.py runs it: one XLA device a core, what is freed is kept, programs compiled ahead."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from benchmarks.data_pipeline import AUGMENTATIONS, array_source, kept, made_images, make_pipeline, pipeline_rate
from benchmarks.speed.networks import make_config
from benchmarks.speed.plan import Case
from benchmarks.speed.worker import Prepared, Request, resident_peak, serve
from jax_ddpm import experiment
from jax_ddpm.data.transforms import to_uint8
from jax_ddpm.generation import make_draw
from jax_ddpm.interop.diffusers import to_diffusers
from jax_ddpm.runtime import configure
from jax_ddpm.step_program import abstract_state, compile_step, first_state, forward_flops
from jax_ddpm.training.sharding import make_mesh, replicated, share_out, split_batch, to_devices
from jax_ddpm.training.state import Params

CHECKED = 2  # images whose output is compared
TAIL = 0.05  # spread of what is added to initial parameters: some are near 0, and would hide what is behind them


def mesh_for(batch: int) -> Mesh:
    """As many devices as divide the batch."""
    devices = jax.devices()
    return make_mesh(devices=devices[: next(n for n in range(len(devices), 0, -1) if batch % n == 0)])


def make_params(config: ConfigDict) -> Params:
    """Parameters none of which is 0, the same each time."""
    shapes = jax.eval_shape(lambda: experiment.init_params(config, jax.random.key(0)))
    rng = np.random.default_rng(0)

    def draw(path: Any, like: jax.ShapeDtypeStruct) -> np.ndarray:
        name, fan_in = str(path[-1].key), max(int(np.prod(like.shape[:-1])), 1)
        spread = fan_in**-0.5 if len(like.shape) > 1 else TAIL
        return (rng.normal(size=like.shape) * spread + (name == "scale")).astype(np.float32)

    return jax.tree_util.tree_map_with_path(draw, shapes)


def publish(request: Request) -> dict[str, Any]:
    """Writes what a peer is to compute with and to come to: the weights by diffusers' names, x, t and the output."""
    config = make_config(Case(request["net"], "forward", CHECKED))
    params, rng = make_params(config), np.random.default_rng(1)
    x = rng.normal(size=(CHECKED, *experiment.image_shape(config))).astype(np.float32)
    t = np.array([7, 700], np.int32)
    output = jax.jit(experiment.make_network(config).apply)({"params": params}, x, t)
    arrays: dict[str, Any] = {**to_diffusers(params), "x_given": x, "t_given": t, "output_expected": np.asarray(output)}
    np.savez(request["path"], **arrays)
    return {}


def forward(config: ConfigDict, mesh: Mesh) -> tuple[Callable[[], None], dict[str, Any]]:
    """The network's output of a batch."""
    whole, split = replicated(mesh), split_batch(mesh)
    network, params = experiment.make_network(config), jax.device_put(make_params(config), whole)
    x = share_out(np.ones((config.train.batch_size, *experiment.image_shape(config)), np.float32), mesh)
    t = share_out(np.full(config.train.batch_size, 500, np.int32), mesh)
    program = jax.jit(network.apply, in_shardings=(whole, split, split), out_shardings=split)
    compiled = program.lower({"params": params}, x, t).compile()
    return lambda: jax.block_until_ready(compiled({"params": params}, x, t)), {}


def step_and_program(config: ConfigDict, mesh: Mesh) -> tuple[Callable[[], None], Any]:
    """A step of training on one batch, the same each time, and the program (`jax.stages.Compiled`) that it runs."""
    like = abstract_state(config, mesh)
    compiled = compile_step(config, mesh, like)
    state = first_state(config, mesh, like)
    shape = (config.train.batch_size, *experiment.image_shape(config))
    images = np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32)
    batch = to_devices({"image": images, "label": np.zeros(len(images), np.int32)}, mesh)

    def step() -> None:
        nonlocal state
        state, _ = compiled(state, batch)
        jax.block_until_ready(state)

    return step, compiled


def train(config: ConfigDict, mesh: Mesh) -> tuple[Callable[[], None], dict[str, Any]]:
    """A step of training."""
    return step_and_program(config, mesh)[0], {}


def sample(config: ConfigDict, mesh: Mesh) -> tuple[Callable[[], None], dict[str, Any]]:
    """A chain from noise to images of bytes."""
    whole, split = replicated(mesh), split_batch(mesh)
    params = jax.device_put(make_params(config), whole)
    labels = share_out(np.zeros(config.train.batch_size, np.int32), mesh)
    draw = make_draw(config, None, (), lambda x: jax.lax.with_sharding_constraint(x, split))
    program = jax.jit(draw, in_shardings=(whole, whole, split, whole), out_shardings=whole)
    key = jax.device_put(jax.random.key(0), whole)
    compiled = program.lower(params, None, labels, key).compile()
    memory = compiled.memory_analysis()

    def chain() -> None:
        to_uint8(jax.device_get(compiled(params, None, labels, key)[0]))

    return chain, {"temporary_bytes": memory.temp_size_in_bytes if memory else None}


KINDS = {"forward": forward, "train": train, "sample": sample}


def prepare(prepared: Prepared, request: Request) -> dict[str, Any]:
    """Compiles a case and runs it once.

    Returns:
      How many parameters the network has, the FLOPs of a call as they are counted before anything is optimised (three times the
      forward pass for a step, see `step_program.model_flops`; of the usual convolution), and seconds until it had run.
    """
    case, begin = Case(**request["case"]), time.perf_counter()
    config = make_config(case)
    call, told = KINDS[case.kind](config, mesh_for(case.batch))
    call()
    taken = time.perf_counter() - begin
    prepared.calls[request["key"]] = call
    network, inputs = experiment.make_network(config), experiment.example_inputs(config)
    variables = jax.eval_shape(network.init, jax.random.key(0), **inputs)
    times = {"forward": 1, "train": 3, "sample": case.steps}[case.kind]
    return {
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(variables)),
        "flops": times * case.batch * forward_flops(network, variables, inputs),
        "ready_s": taken,
        **told,
    }


def limit(prepared: Prepared, request: Request) -> dict[str, Any]:
    """A product of two matrices, the rows of the first shared out over all devices; whose time is the machine's limit."""
    mesh, size, dtype = make_mesh(), request["size"], request["dtype"]
    ones = np.ones((size * mesh.size, size), np.float32)
    left = jax.device_put(jnp.asarray(ones, dtype), split_batch(mesh))
    right = jax.device_put(jnp.asarray(ones[:size], dtype), replicated(mesh))
    compiled = jax.jit(jnp.matmul, out_shardings=split_batch(mesh)).lower(left, right).compile()
    prepared.calls[request["key"]] = lambda: jax.block_until_ready(compiled(left, right))
    prepared.calls[request["key"]]()
    return {"flops": 2 * size**3 * mesh.size}


def copy(prepared: Prepared, request: Request) -> dict[str, Any]:
    """An array read and written, so many bytes of it."""
    x = jnp.ones(request["bytes"] // 4, jnp.float32)
    compiled = jax.jit(lambda x: x + 1).lower(x).compile()
    prepared.calls[request["key"]] = lambda: jax.block_until_ready(compiled(x))
    prepared.calls[request["key"]]()
    return {"bytes": 2 * x.nbytes}


def data(request: Request) -> dict[str, Any]:
    """Images a second of the pipeline alone, repeat by repeat: kept in memory, mirrored at random, put on the devices."""
    flip = AUGMENTATIONS["flip"]
    source = kept(array_source(made_images(request["images"]), Path()), flip)
    pipeline = make_pipeline(source, flip, request["workers"], make_mesh())
    return {"images_per_second": [pipeline_rate(pipeline, request["seconds"]) for _ in range(request["rounds"])]}


def memory(_: Request) -> dict[str, Any]:
    """The most that was held at a time: by the process, and on the accelerator where there is one."""
    stats = jax.devices()[0].memory_stats() or {}
    return {"resident": resident_peak(), "device": stats.get("peak_bytes_in_use")}


def main() -> None:
    """Serves."""
    configure(0, "", 2**10 * 3**4 * 5 * 7)  # a batch that any number of cores divides
    prepared = Prepared()
    serve(
        {
            "about": lambda _: {
                "jax": jax.__version__,
                "backend": jax.default_backend(),
                "device": jax.devices()[0].device_kind,
                "devices": len(jax.devices()),
            },
            "publish": publish,
            "prepare": lambda request: prepare(prepared, request),
            "limit": lambda request: limit(prepared, request),
            "copy": lambda request: copy(prepared, request),
            "run": prepared.run,
            "drop": prepared.drop,
            "data": data,
            "memory": memory,
        }
    )


if __name__ == "__main__":
    main()
