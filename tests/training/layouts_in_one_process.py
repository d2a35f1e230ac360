"""Run as a program, on eight virtual devices: twenty steps of the same run on each layout, and what they come to."""

import re
import sys
from functools import partial

import jax
import numpy as np

from jax_ddpm import experiment, objective
from jax_ddpm.step_program import new_state
from jax_ddpm.training.layouts import PARALLEL
from jax_ddpm.training.sharding import abstract, gathered, make_mesh, split_batch, split_state, to_devices
from tests.commands.conftest import make_tiny_config

STEPS = 20
ASKED = r"= (.*?) (all-[a-z-]+?|reduce-scatter|collective-[a-z]+)(?:-start)?\("  # a line of HLO
LAYOUTS = {  # name: (how, data, fsdp, rules, dropout)
    "1": ("jit", 1, 1, (), 0.1),
    "2": ("jit", 2, 1, (), 0.1),
    "4": ("jit", 4, 1, (), 0.0),
    "8": ("jit", 8, 1, (), 0.0),
    "fsdp 2": ("jit", 1, 2, (".*=largest",), 0.0),
    "fsdp 8": ("jit", 1, 8, (".*=largest",), 0.1),
    "2×2": ("jit", 2, 2, (".*=largest",), 0.0),
    "4×2": ("jit", 4, 2, ("conv_in.*kernel=3", "time=whole", ".*=largest"), 0.1),
    "nothing dropped": ("jit", 1, 1, (), 0.0),
    "pmap 8": ("pmap", 8, 1, (), 0.0),  # by which each device drops its own
}


def run(how, data, fsdp, rules, dropout):
    """The losses, the parameters and their average, one after the other, and what the devices ask of each other."""
    config = make_tiny_config(warmup_steps=0)
    config.model.update(multipliers=(1,), channels=4, groups=2, dropout=dropout)
    config.diffusion.timesteps = "second_moment"
    config.data.class_names = tuple("0123456789")
    mesh = make_mesh(data, fsdp, jax.devices()[: data * fsdp])
    like = jax.eval_shape(partial(new_state, config))
    like = abstract(like, split_state(like, mesh, rules))
    state = jax.device_put(new_state(config), jax.tree.map(lambda leaf: leaf.sharding, like))
    batch = abstract(experiment.example_batch(config), split_batch(mesh))
    step = PARALLEL[how](partial(objective.make_step, config), mesh, like, batch)
    batches, losses = experiment.make_batches(config, experiment.make_source(config)), []
    for _ in range(STEPS):
        state, metrics = step(state, to_devices(next(batches), mesh))
        losses.append(float(metrics["loss"]))
    if how == "jit":
        for expected, leaf in zip(jax.tree.leaves(like), jax.tree.leaves(state), strict=True):
            assert leaf.sharding == expected.sharding
        state = gathered(state, mesh)
    params = [np.ravel(leaf) for leaf in jax.tree.leaves((state.params, state.ema_params))]
    asked = re.findall(ASKED, step.as_text()) if how == "jit" else []
    return {"losses": losses, "params": np.concatenate(params), "asked": [f"{what} {shape}" for shape, what in asked]}


if __name__ == "__main__":
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", 8)
    jax.config.update("jax_disable_most_optimizations", True)
    found = {name: run(*layout) for name, layout in LAYOUTS.items()}
    np.savez(sys.argv[1], **{f"{name} {what}": value for name, row in found.items() for what, value in row.items()})
