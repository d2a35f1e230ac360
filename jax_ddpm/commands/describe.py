"""--mode describe: what a config stands for, without training anything."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from ml_collections import ConfigDict

from jax_ddpm import experiment
from jax_ddpm.checks import check
from jax_ddpm.config import FILE_NAME as CONFIG_FILE
from jax_ddpm.data.reading import readable
from jax_ddpm.errors import InvalidInput
from jax_ddpm.runtime import cache_directory
from jax_ddpm.step_program import forward_flops
from jax_ddpm.training.logging import FILE_NAME as METRICS_FILE


def main(config: ConfigDict, workdir: Path) -> None:
    """Prints the network as a table, its size and cost, the schedule, the data, and what a run will write."""
    data = describe_data(config)  # first, for it finds out how many classes there are
    check(config)
    print("\n".join([*describe_network(config), *describe_schedule(config), *data, *describe_run(config, workdir)]))


def describe_network(config: ConfigDict) -> list[str]:
    """A line a part: where it is, what comes out of it, how many parameters it has; then the sums."""
    network, shape, inputs = experiment.make_network(config), experiment.image_shape(config), experiment.example_inputs(config)
    variables = jax.eval_shape(network.init, jax.random.key(0), **inputs)
    outputs = _output_shapes(network, variables, inputs)
    flops = forward_flops(network, variables, inputs)
    rows = [f"  {name:<24}{'×'.join(map(str, outputs[name])):>14}{_size(variables['params'][name]):>14,}" for name in outputs]
    return [
        f"network: {type(network).__name__} on {'×'.join(map(str, shape))}, computing in {config.model.dtype}",
        f"  {'part':<24}{'output':>14}{'parameters':>14}",
        *rows,
        f"parameters: {_size(variables['params']):,}",
        f"FLOPs per image: {flops / 1e9:.3f}·10⁹ forward, about three times that in a train step",
    ]


def _output_shapes(network: nn.Module, variables: Any, inputs: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """The shape that each part gives for one image, in the order in which they run."""
    shapes: dict[str, tuple[int, ...]] = {}

    def note(call: Callable[..., Any], args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
        output = call(*args, **kwargs)
        if len(context.module.path) == 1 and context.method_name == "__call__":
            shapes[context.module.path[0]] = output.shape[1:]
        return output

    with nn.intercept_methods(note):
        jax.eval_shape(network.apply, variables, **inputs)
    return shapes


def _size(tree: Any) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def describe_schedule(config: ConfigDict) -> list[str]:
    """The schedule's ends, and what is trained on it."""
    schedule, diffusion = experiment.make_schedule(config), config.diffusion
    snr = np.asarray(schedule.alphas_bar, np.float64) / (1 - np.asarray(schedule.alphas_bar, np.float64))
    return [
        f"schedule: {diffusion.schedule}, T = {schedule.steps}",
        f"  β from {schedule.betas[0]:.3g} to {schedule.betas[-1]:.3g}, ᾱ_T = {schedule.alphas_bar[-1]:.3g}",
        f"  signal-to-noise ratio from {snr[0]:.3g} to {snr[-1]:.3g}",
        *_describe_objective(config),
    ]


def _describe_objective(config: ConfigDict) -> list[str]:
    diffusion = config.diffusion
    if experiment.is_classifier(config):
        return [f"  loss: the cross-entropy of the class, timesteps {diffusion.timesteps}"]
    return [
        f"  prediction {diffusion.prediction}, variance {diffusion.variance}",
        f"  loss {diffusion.loss}, weighting {diffusion.weighting}, timesteps {diffusion.timesteps}",
    ]


def describe_data(config: ConfigDict) -> list[str]:
    """What the data holds, or how to come by it. Notes the classes in the config where it can."""
    data = config.data
    done = "".join(f", {each}" for each in _describe_augmentation(config))
    fitted = f"  as {data.image_size}×{data.image_size}×{data.channels} in [-1, 1]{done}"
    try:
        source = experiment.make_source(config)
    except InvalidInput as error:
        if (config.model.class_conditional or experiment.is_classifier(config)) and not data.class_names:
            raise  # how many classes there are, and so the network, is not known without it
        return [f"data: {data.name}, {data.split}: not here", *(f"  {line}" for line in str(error).splitlines()), fitted]
    data.class_names = source.class_names
    shape = "×".join(map(str, next(readable(source, data.on_damaged))["image"].shape))
    classes = f"{len(source.class_names)} classes" if source.class_names else "no labels"
    return [f"data: {source.name}, {data.split}: {len(source):,} images, the first of {shape}, {classes}", fitted]


def _describe_augmentation(config: ConfigDict) -> list[str]:
    """What is done to the images at random."""
    data = config.data
    done = {
        "flipped at random": data.flip,
        f"cropped to {data.crop:.0%} of the side at the least": data.crop < 1,
        f"turned by {data.rotate:g}° at the most": data.rotate,
        f"non-leaking augmentation with probability {data.augment:g}": data.augment,
    }
    return [what for what, is_done in done.items() if is_done]


def _describe_results(config: ConfigDict) -> list[str]:
    train = config.train
    if experiment.is_classifier(config):
        return [f"  accuracy.png: how often it is right of the images of {config.eval.split!r}, by how much noise there is"]
    when = f"every {train.sample_every:,} steps and at the end" if train.sample_every else "at the end"
    if config.model.low_res_size:
        return [f"  samples/: {train.sample_count} images of {config.eval.split!r}, made small and enlarged again, {when}"]
    return [f"  samples/: {train.sample_count} images and the chain they come from, {when}"]


def describe_run(config: ConfigDict, workdir: Path) -> list[str]:
    """How long the run is, and what it will write."""
    train = config.train
    kept = f"the last {train.keep_last}" + (f" and every {train.keep_every:,}th step" if train.keep_every else "")
    return [
        f"training: {train.steps:,} steps of {train.batch_size} images, {train.steps * train.batch_size:,} images in all",
        f"a run writes into {workdir}/:",
        f"  {CONFIG_FILE}: every setting",
        f"  checkpoints/: every {train.checkpoint_every:,} steps; {kept} are kept",
        f"  {METRICS_FILE} and tensorboard/: loss and gradient norm every {train.log_every:,} steps",
        *_describe_results(config),
        "  loss.png: the loss curve",
        f"compiled programs are kept in {cache_directory(config.runtime.compilation_cache)}",
    ]
