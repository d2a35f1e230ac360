"""Images changed by a trained network: the tasks of --mode edit, as they run over all devices."""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from jax_ddpm.config import default_config
from jax_ddpm.diffusion.editing import inpaint, interpolate, noised_to_start, partial_chain
from jax_ddpm.diffusion.low_resolution import LowResolution, low_resolution
from jax_ddpm.diffusion.prediction import Denoiser
from jax_ddpm.diffusion.samplers import ddim_inverse
from jax_ddpm.diffusion.sampling import Sampler, sample, sample_trajectory
from jax_ddpm.errors import InvalidInput
from jax_ddpm.experiment import image_shape, known_classes, make_denoiser, make_network, make_sampler, make_schedule
from jax_ddpm.generation import Arrays, Chain, Prepare, check_steering, frame_steps, steer
from jax_ddpm.trained import Classifier
from jax_ddpm.training.sharding import replicated, share_out, split_batch
from jax_ddpm.training.state import Params

ENCODING_STEPS = 100  # of the chain, or all where it has fewer: what encoding takes where sampler.steps is 0

Run = Callable[[Params, Params, Arrays, jax.Array], Arrays]
"""(params, the guide's params, what is given, key) -> what is made of it."""


class Task(NamedTuple):
    """A way to change images.

    Attributes:
      run: takes `image` [B, H, W, C] in [-1, 1] and `label` [B], and what else the task is given; gives `result`, [B, H, W, C]
        or [B, results, H, W, C], and what is to be shown beside it.
      evaluations: how often the network is called for it.
      titles: of the states [B, K, H, W, C] of the chain that `run` gives beside the results; where these are several of an
        image, those of the first.
      results: how many of an image.
      prepare: gets its chain ready, where it is a single one, so that it can also be run in parts.
    """

    run: Run
    evaluations: int
    titles: tuple[str, ...] = ()
    results: int = 1
    prepare: Prepare | None = None


def _chain(
    config: ConfigDict,
    guide: Classifier | None,
    sampler: Sampler,
    *,
    start: Callable[[Sampler, Arrays, jax.Array], jax.Array],
    begins: str = "noise",
    adapt: Callable[[Sampler, Arrays], Sampler] = lambda sampler, given: sampler,
) -> Task:
    """The sampler run once, after `adapt` has made it heed what is given, from `start(sampler, given, key)` on.

    Args:
      begins: title of the state from which it starts.
    """
    check_steering(config, sampler, guide)
    nothing = {"image": jnp.zeros((1, *image_shape(config))), "mask": jnp.zeros((1, 1, 1, 1))}
    evaluations = adapt(sampler, nothing).evaluations
    at_steps = frame_steps(evaluations, config.edit.frames)

    def prepare(params: Params, guide_params: Params, given: Arrays, key: jax.Array) -> Chain:
        start_key, chain_key, small_key = jax.random.split(key, 3)
        small = _told(config, given["small"], small_key) if "small" in given else None
        scale = given.get("scale")
        guided, denoiser = steer(config, sampler, params, given["label"], guide, guide_params, small, scale)
        return Chain(adapt(guided, given), denoiser, start(sampler, given, start_key), chain_key)

    def run(params: Params, guide_params: Params, given: Arrays, key: jax.Array) -> Arrays:
        result, states = sample_trajectory(*prepare(params, guide_params, given, key), at_steps)
        told = {"told": _told(config, given["small"], jax.random.split(key, 3)[2]).image} if "small" in given else {}
        return {"result": result, "states": states.swapaxes(0, 1), **told}

    return Task(run, evaluations, (begins, *(f"after {step}" for step in at_steps[1:-1]), "result"), prepare=prepare)


def _told(config: ConfigDict, small: jax.Array, key: jax.Array) -> LowResolution:
    """The small images as the network is told of them, noised by `edit.low_res_noise` of the chain."""
    steps = jnp.full(len(small), round(config.edit.low_res_noise * config.diffusion.steps))
    eps = jax.random.normal(key, small.shape, small.dtype)
    return low_resolution(make_schedule(config), small, config.data.image_size, steps, eps)


def _from_noise(config: ConfigDict) -> Callable[[Sampler, Arrays, jax.Array], jax.Array]:
    return lambda sampler, given, key: jax.random.normal(key, (len(given["label"]), *image_shape(config)))


def make_inpaint(config: ConfigDict, guide: Classifier | None) -> Task:
    """Keeps what `mask` [B, H, W, 1] has at 1 and draws the rest anew, as `inpaint` does."""
    edit = config.edit

    def keep(sampler: Sampler, given: Arrays) -> Sampler:
        return inpaint(sampler, given["image"], given["mask"], jump=edit.jump, resamples=edit.resamples)

    try:
        return _chain(config, guide, make_sampler(config), start=_from_noise(config), adapt=keep)
    except InvalidInput as error:
        raise InvalidInput(f"edit.resamples={edit.resamples}: {error}. 1 goes with every sampler") from error


def make_sdedit(config: ConfigDict, guide: Classifier | None) -> Task:
    """Noises the images part of the way, and draws them anew from there, as `sdedit` does."""
    sampler = make_sampler(config, partial_chain(make_schedule(config), config.edit.strength))

    def noised(sampler: Sampler, given: Arrays, key: jax.Array) -> jax.Array:
        return noised_to_start(sampler, given["image"], key)

    return _chain(config, guide, sampler, start=noised, begins="noised")


def make_enlarge(config: ConfigDict, guide: Classifier | None) -> Task:
    """Draws images of which `small` [B, h, w, C] are what a network for that, with model.low_res_size, is told.

    Raises:
      InvalidInput: more noise on the small images than there was in training.
    """
    asked, known = config.edit.low_res_noise, config.model.low_res_noise
    if asked > known:
        raise InvalidInput(f"edit.low_res_noise={asked}: expected at most {known}, the model.low_res_noise of the training")
    return _chain(config, guide, make_sampler(config), start=_from_noise(config))


def make_encode(config: ConfigDict, guide: Classifier | None) -> Task:
    """Images to noise, `latent`, and back again; without guidance, which has no way back."""
    config = deterministic(config)
    up, down = both_ways(config)
    at_steps, titles = _there_and_back(config, up)

    def run(params: Params, guide_params: Params, given: Arrays, key: jax.Array) -> Arrays:
        denoiser = _own(config, params, given["label"])
        latent, rising = sample_trajectory(up, denoiser, given["image"], key, at_steps)
        result, falling = sample_trajectory(down, denoiser, latent, key, at_steps)
        return {"result": result, "latent": latent, "states": jnp.concatenate([rising, falling[1:]]).swapaxes(0, 1)}

    return Task(run, up.evaluations + down.evaluations, titles)


def _there_and_back(config: ConfigDict, up: Sampler) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """After how many steps to look at the chain, on each way, and the titles of what is seen on both."""
    at_steps = frame_steps(up.evaluations, max(math.ceil(config.edit.frames / 2), 2))
    there, back = ([f"{way} {step}" for step in at_steps[1:-1]] for way in ("up", "down"))
    return at_steps, ("input", *there, "noise", *back, "result")


def make_translate(config: ConfigDict, guide: Classifier | None) -> Task:
    """Encodes each image as what it is, and decodes its noise as each of `targets` [B, results], guided to it."""
    config = deterministic(config)
    up, down = both_ways(config)
    check_steering(config, down, guide)
    at_steps, titles = _there_and_back(config, up)

    def run(params: Params, guide_params: Params, given: Arrays, key: jax.Array) -> Arrays:
        latent, rising = sample_trajectory(up, _own(config, params, given["label"]), given["image"], key, at_steps)
        wanted = given["targets"]
        repeated = jnp.repeat(latent, wanted.shape[1], axis=0)
        guided, denoiser = steer(config, down, params, wanted.reshape(-1), guide, guide_params)
        result, falling = sample_trajectory(guided, denoiser, repeated, key, at_steps)
        states = jnp.concatenate([rising, falling[1:, :: wanted.shape[1]]]).swapaxes(0, 1)
        return {"result": result.reshape(*wanted.shape, *latent.shape[1:]), "latent": latent, "states": states}

    return Task(run, up.evaluations + down.evaluations, titles, len(targets(config)))


def make_interpolate(config: ConfigDict, guide: Classifier | None) -> Task:
    """Encodes each image and `image_2`, and decodes what lies between the two, each as `labels` [B, results] says."""
    config = deterministic(config)
    up, down = both_ways(config)
    check_steering(config, down, guide)
    weights = jnp.linspace(0, 1, config.edit.frames)

    def run(params: Params, guide_params: Params, given: Arrays, key: jax.Array) -> Arrays:
        images, labels = (jnp.concatenate([given[name], given[f"{name}_2"]]) for name in ("image", "label"))
        first, second = jnp.split(sample(up, _own(config, params, labels), images, key), 2)
        between = interpolate(first, second, weights, spherical=config.edit.spherical).swapaxes(0, 1)
        wanted = given["labels"].reshape(-1)
        guided, denoiser = steer(config, down, params, wanted, guide, guide_params)
        result = sample(guided, denoiser, between.reshape(-1, *first.shape[1:]), key)
        return {"result": result.reshape(between.shape), "latent": between}

    return Task(run, up.evaluations + down.evaluations, results=config.edit.frames)


TASKS: dict[str, Callable[[ConfigDict, Classifier | None], Task]] = {
    "inpaint": make_inpaint,
    "interpolate": make_interpolate,
    "encode": make_encode,
    "translate": make_translate,
    "sdedit": make_sdedit,
    "enlarge": make_enlarge,
}
USES: dict[str, tuple[str, ...]] = {
    "inpaint": ("mask", "region", "resamples", "jump"),
    "interpolate": ("spherical",),
    "translate": ("targets",),
    "sdedit": ("strength",),
    "enlarge": ("low_res_noise",),
}
"""The settings in `edit` that one task alone heeds; all heed the others."""


def check_used(config: ConfigDict) -> None:
    """Raises InvalidInput where something is asked for that `edit.task` does nothing with."""
    edit, usual = config.edit, default_config().edit
    for task, names in USES.items():
        for name in names if task != edit.task else ():
            if edit[name] != usual[name]:
                asked = f"--mask {edit.mask}" if name == "mask" else f"edit.{name}={edit[name]}"
                raise InvalidInput(f"{asked} is for --task {task}: {edit.task} does nothing with it. Expected it left out")
    if edit.mask and edit.region != usual.region:
        raise InvalidInput(f"edit.region={edit.region} beside --mask {edit.mask}: expected one of them")


def targets(config: ConfigDict) -> tuple[int, ...]:
    """The classes that images are translated to."""
    return tuple(config.edit.targets) or tuple(range(known_classes(config)))


def _own(config: ConfigDict, params: Params, labels: jax.Array) -> Denoiser:
    """The denoiser of the images' own classes, without guidance."""
    network = make_network(config)
    return make_denoiser(network, params, labels if network.num_classes else None)


def deterministic(config: ConfigDict) -> ConfigDict:
    """The settings with DDIM without noise and clipping, which alone can be gone both ways, where the usual sampler was.

    Raises:
      InvalidInput: another sampler, or noise, was asked for.
    """
    config, usual = config.copy_and_resolve_references(), default_config().sampler
    sampler = config.sampler
    if sampler.name not in (usual.name, "ddim") or sampler.eta:
        asked = f"sampler.eta={sampler.eta}" if sampler.eta else f"sampler.name={sampler.name}"
        raise InvalidInput(f"{asked}: what is encoded goes up the chain and down again, as ddim alone does, with sampler.eta=0")
    sampler.name = "ddim"
    if "," not in sampler.spacing:  # which would say itself how many steps there are
        sampler.steps = sampler.steps or min(ENCODING_STEPS, config.diffusion.steps)
    sampler.clip = "none" if sampler.clip == usual.clip else sampler.clip  # clipping on the way down would not be undone
    return config


def both_ways(config: ConfigDict) -> tuple[Sampler, Sampler]:
    """The sampler that encodes and the one that decodes, with `deterministic` settings."""
    down, settings = make_sampler(config), config.sampler
    spacing = {"spacing": settings.spacing} if settings.spacing else {}
    up = ddim_inverse(make_schedule(config), steps=settings.steps or None, prediction=config.diffusion.prediction, **spacing)
    return up, down


Editor = Callable[[Params, dict[str, np.ndarray], int], dict[str, np.ndarray]]
"""(params, what is given, seed) -> what is made of it; arrays by name, each [N, ...]."""


def make_editor(config: ConfigDict, task: Task, guide: Classifier | None, mesh: Mesh) -> Editor:
    """A function that runs the task over images, so many at a time that `sample.batch_size` results are; it compiles once.

    The same seed and batch size give the same results.
    """
    batch, whole = split_batch(mesh), replicated(mesh)
    run = jax.jit(task.run, in_shardings=(whole, whole, batch, whole), out_shardings=whole)

    def edit(params: Params, given: dict[str, np.ndarray], seed: int) -> dict[str, np.ndarray]:
        count = len(given["image"])
        at_a_time = max(config.sample.batch_size // task.results, 1)
        size = math.ceil(min(at_a_time, count) / mesh.size) * mesh.size
        found = []
        for number, start in enumerate(range(0, count, size)):
            real = min(size, count - start)
            rows = start + np.arange(size) % real  # the last batch is filled up, then cut
            key = jax.random.fold_in(jax.random.key(seed), number)
            filled = share_out({name: values[rows] for name, values in given.items()}, mesh)
            made = run(params, guide and guide.params, filled, key)
            found.append({name: values[:real] for name, values in jax.device_get(made).items()})
        return {name: np.concatenate([each[name] for each in found]) for name in found[0]}

    return edit
