"""From a config to the state of training and the step that is compiled for it, and what the step is to compute."""

from functools import partial
from typing import Any

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from jax_ddpm import experiment, objective
from jax_ddpm.config import to_dict
from jax_ddpm.training.chips import chip_of, peak
from jax_ddpm.training.kept_programs import kept
from jax_ddpm.training.layouts import PARALLEL
from jax_ddpm.training.sharding import abstract, split_batch, split_state
from jax_ddpm.training.state import TrainState, create_state
from jax_ddpm.training.step import TrainStep


def new_state(config: ConfigDict) -> TrainState:
    """The state that training begins with."""
    init_key, train_key = jax.random.split(jax.random.key(config.seed))
    params, history = experiment.init_params(config, init_key), objective.make_timesteps(config).init()
    return create_state(params, objective.make_optimizer(config), train_key, history)


def abstract_state(config: ConfigDict, mesh: Mesh) -> TrainState:
    """The shapes of the state, and how it lies on the devices."""
    like = jax.eval_shape(partial(new_state, config))
    return abstract(like, split_state(like, mesh, config.mesh.rules))


def first_state(config: ConfigDict, mesh: Mesh, like: TrainState) -> TrainState:
    """`new_state` as it lies on the devices; its program is kept for the next time.

    Random numbers for a hundred tensors take a CPU's compiler longer than the network does, and run but once; yet without any
    optimisation they are drawn six times as slowly.

    Args:
      like: see `abstract_state`.
    """
    quickly: dict[str, Any] = {"xla_backend_optimization_level": 1} if jax.default_backend() == "cpu" else {}
    make = jax.jit(partial(new_state, config), out_shardings=jax.tree.map(lambda leaf: leaf.sharding, like))
    return kept("first_state", *_made_from(config, mesh), lambda: make.lower().compile(compiler_options=quickly))()


def kept_step(config: ConfigDict, mesh: Mesh, like: TrainState) -> TrainStep:
    """`compile_step` for devices that are there, or what it came to the last time; see `kept_programs.kept`."""
    compile_it = partial(compile_step, config, mesh, like)
    if config.train.parallel != "jit":
        return compile_it()  # a function around the program
    return kept("train_step", *_made_from(config, mesh), compile_it)


def _made_from(config: ConfigDict, mesh: Mesh) -> tuple[Any, list[jax.Device]]:
    return [to_dict(config), dict(mesh.shape)], list(mesh.devices.flat)


def compile_step(config: ConfigDict, mesh: Mesh, like: TrainState) -> Any:
    """The train step, (state, batch) -> (state, metrics), compiled for the devices of a mesh, whether they are there or not.

    Args:
      like: see `abstract_state`.
    """
    batch = abstract(experiment.example_batch(config), split_batch(mesh))
    return PARALLEL[config.train.parallel](partial(objective.make_step, config), mesh, like, batch)


def forward_flops(network: experiment.Network, variables: Any, inputs: dict[str, Any]) -> float:
    """Floating-point operations by which the network gives its output, as XLA counts them before it optimises.

    They are those of the usual convolution on any platform: of the program for a TPU, since a CPU's multiplies less.

    Args:
      variables, inputs: arrays, or their shapes.
    """
    program = jax.jit(network.apply).trace(variables, **inputs).lower(lowering_platforms=("tpu",))
    return float((program.cost_analysis() or {})["flops"])


def model_flops(config: ConfigDict) -> float:
    """Those by which an image is learned from: three times the network's output, once forward and twice backward.

    It is what the network asks for, however the step comes by it: nothing that is computed again (`model.remat`), no
    padding and no optimizer.    (Chowdhery et al. 2022, appendix B)
    """
    network, inputs = experiment.make_network(config), experiment.example_inputs(config)
    return 3 * forward_flops(network, jax.eval_shape(network.init, jax.random.key(0), **inputs), inputs)


def seconds_at_peak(config: ConfigDict, mesh: Mesh) -> float | None:
    """What learning from an image would take if all devices of the mesh computed at their peak; None where it is not known.

    Times images/s it is the model FLOP utilisation.
    """
    chip = chip_of(mesh.devices.flat[0])
    return chip and model_flops(config) / (peak(chip, config.model.dtype) * mesh.size)
