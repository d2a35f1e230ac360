"""Images from parameters: the sampler and the guidance that a config names, run in batches over all devices."""

import hashlib
import math
import re
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from jax_ddpm.config import default_config
from jax_ddpm.data.transforms import to_uint8
from jax_ddpm.diffusion.guidance import classifier_free, classifier_guided, guided_mean
from jax_ddpm.diffusion.low_resolution import LowResolution
from jax_ddpm.diffusion.prediction import Denoiser
from jax_ddpm.diffusion.sampling import Sampler, sample_trajectory
from jax_ddpm.errors import InvalidInput
from jax_ddpm.experiment import (
    image_shape,
    known_classes,
    make_denoiser,
    make_network,
    make_sampler,
    make_schedule,
    num_classes,
)
from jax_ddpm.trained import Classifier, open_classifier
from jax_ddpm.training.sharding import replicated, share_out, split_batch
from jax_ddpm.training.state import Params

Generator = Callable[[Params, np.ndarray, int], Iterator[tuple[np.ndarray, np.ndarray]]]
"""(params, labels [N], seed) -> batches of images [B, H, W, C] and of the chain's kept states [K, B, H, W, C], all uint8."""
Draw = Callable[[Params, Params, jax.Array, jax.Array], tuple[jax.Array, jax.Array]]
"""(params, the guide's, labels [B], key) -> images [B, H, W, C] in [-1, 1] and the chain's kept states [K, B, H, W, C]."""

Arrays = dict[str, jax.Array]
"""By name, each [B, ...]."""


class Chain(NamedTuple):
    """All that a chain is run with, as `sample_trajectory` and `go_on` take it.

    Attributes:
      sampler, denoiser: drawn towards the labels, and with all else that is given heeded.
      x: [B, H, W, C] where it starts.
      key: of its evaluations.
    """

    sampler: Sampler
    denoiser: Denoiser
    x: jax.Array
    key: jax.Array


Prepare = Callable[[Params, Params, Arrays, jax.Array], Chain]
"""(params, the guide's, what is given, among it `label` [B], key) -> the chain, to be called within a function to be compiled.
Where `scale` [B] is given, guidance is of that scale, else of `guidance.scale`; whether there is any, `guidance` alone says."""

_LONGEST_NAME = 120  # bytes of a folder's name: file systems allow 255, and more may be put before it


def _same(x: jax.Array) -> jax.Array:
    return x


def open_guide(config: ConfigDict, mesh: Mesh) -> Classifier | None:
    """The classifier that `guidance.classifier` names, if it names one; `open_classifier` says what is wrong with it."""
    if not config.guidance.classifier:
        return None
    return open_classifier(config, "guidance.classifier", mesh, same_noise=True)


def steer(
    config: ConfigDict,
    sampler: Sampler,
    params: Params,
    labels: jax.Array,
    guide: Classifier | None,
    guide_params: Params = None,
    small: LowResolution | None = None,
    scale: jax.Array | None = None,
) -> tuple[Sampler, Denoiser]:
    """The sampler and the denoiser, drawn towards the labels as `guidance` says.

    Args:
      labels: [B] integers; they only count where the network or the guide knows classes.
      guide_params: the guide's parameters, where they are an argument of a function to be compiled; else its own are taken.
      small: the small images, for a network that enlarges them.
      scale: [B] of the guidance, where it is an argument of a function to be compiled; else it is `guidance.scale`, which says
        in both cases whether there is any.
    """
    network, guidance = make_network(config), config.guidance
    strength = guidance.scale if scale is None else scale
    last = config.diffusion.steps - 1
    interval = tuple(share * last for share in guidance.interval)
    if guide is None and guidance.scale != 1:

        def labelled(xt: jax.Array, t: jax.Array, labels: jax.Array) -> jax.Array:
            return make_denoiser(network, params, labels, low_resolution=small)(xt, t)

        null_label = num_classes(config)
        return sampler, classifier_free(labelled, labels, null_label=null_label, scale=strength, interval=interval)
    denoiser = make_denoiser(network, params, labels if network.num_classes else None, low_resolution=small)
    if guide is None:
        return sampler, denoiser
    knowing = {"params": guide.params if guide_params is None else guide_params}

    def classifier(xt: jax.Array, t: jax.Array) -> jax.Array:
        return cast(jax.Array, guide.network.apply(knowing, xt, t))

    options: dict[str, Any] = {"scale": strength, "interval": interval}
    if _form(config) == "mean":
        return guided_mean(sampler, classifier, labels, **options), denoiser
    prediction = config.diffusion.prediction
    return sampler, classifier_guided(denoiser, classifier, labels, make_schedule(config), prediction=prediction, **options)


def _form(config: ConfigDict) -> str:
    """What a classifier moves: unless asked otherwise the mean of samplers with the reverse process' noise, else the score."""
    settings = config.sampler
    stochastic = settings.name == "ancestral" or (settings.name == "dpm_solver_pp" and settings.stochastic)
    return str(config.guidance.form or ("mean" if stochastic else "score"))


def check_steering(config: ConfigDict, sampler: Sampler, guide: Classifier | None) -> None:
    """Raises InvalidInput where the guide cannot move what `guidance.form` says; nothing is computed."""
    try:
        steer(config, sampler, None, jnp.zeros(1, jnp.int32), guide)
    except InvalidInput as error:
        raise InvalidInput(f"guidance.form={_form(config)}: {error}") from error


def make_draw(
    config: ConfigDict, guide: Classifier | None, at_steps: Sequence[int] = (), place: Callable[[jax.Array], jax.Array] = _same
) -> Draw:
    """A function that draws one image a label, to be compiled.

    Args:
      at_steps: after how many evaluations the state of the chain is kept.
      guide, place: as in `from_noise`, which says what is wrong with the settings too.
    """
    prepare = from_noise(config, guide, place)

    def draw(params: Params, guide_params: Params, labels: jax.Array, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        return sample_trajectory(*prepare(params, guide_params, {"label": labels}, key), at_steps)

    return draw


def from_noise(config: ConfigDict, guide: Classifier | None, place: Callable[[jax.Array], jax.Array] = _same) -> Prepare:
    """What gets ready the chains that draw one image a label.

    Args:
      guide: see `open_guide`.
      place: x_T -> x_T as it is to lie on the devices.
    Raises:
      InvalidInput: settings with which nothing can be drawn.
    """
    if config.model.low_res_size:
        raise InvalidInput(
            f"this network enlarges small images (model.low_res_size={config.model.low_res_size}) and draws none without them. "
            "Expected --mode edit --task enlarge"
        )
    sampler = make_sampler(config)
    check_steering(config, sampler, guide)

    def prepare(params: Params, guide_params: Params, given: Arrays, key: jax.Array) -> Chain:
        start_key, chain_key = jax.random.split(key)
        labels = given["label"]
        x_T = place(jax.random.normal(start_key, (labels.shape[0], *image_shape(config))))
        return Chain(*steer(config, sampler, params, labels, guide, guide_params, scale=given.get("scale")), x_T, chain_key)

    return prepare


def batch_key(seed: int | jax.Array, number: int | jax.Array) -> jax.Array:
    """What the n-th batch of images that belong to a seed is drawn from."""
    return jax.random.fold_in(jax.random.key(seed), number)


def make_generator(config: ConfigDict, mesh: Mesh, at_steps: Sequence[int] = ()) -> Generator:
    """A function that draws one image a label, `sample.batch_size` at a time; it compiles once.

    The same seed and batch size give the same images. The labels only count where the network is class-conditional, or a
    classifier guides it.

    Args:
      at_steps: after how many evaluations the state of the chain is kept.
    Raises:
      InvalidInput: settings with which nothing can be drawn.
    """
    guide = open_guide(config, mesh)
    batch, whole = split_batch(mesh), replicated(mesh)
    draw = make_draw(config, guide, at_steps, partial(jax.lax.with_sharding_constraint, shardings=batch))
    draw_batch = jax.jit(draw, in_shardings=(whole, whole, batch, whole), out_shardings=whole)

    def generate(params: Params, labels: np.ndarray, seed: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        size = math.ceil(min(config.sample.batch_size, len(labels)) / mesh.size) * mesh.size
        for number, start in enumerate(range(0, len(labels), size)):
            part = labels[start : start + size]
            filled = share_out(np.resize(part, size), mesh)  # the last batch is filled up, then cut
            images, states = draw_batch(params, guide and guide.params, filled, batch_key(seed, number))
            yield to_uint8(jax.device_get(images))[: len(part)], to_uint8(jax.device_get(states))[:, : len(part)]

    return generate


def frame_steps(total: int, frames: int = 11) -> tuple[int, ...]:
    """After how many of `total` steps to look at the chain: evenly spaced, the noise and the image among them."""
    return tuple(sorted({round(step) for step in np.linspace(0, total, frames)}))


def grid_columns(config: ConfigDict, count: int) -> int:
    """Columns of a grid of `count` samples, about as many as rows: a multiple of the classes that are drawn in turn."""
    classes = len(config.sample.labels) or max(known_classes(config), 1)
    return classes * math.ceil(math.sqrt(count) / classes) if classes <= 20 else 0


def folder_name(config: ConfigDict, step: int, seed: int, *groups: str) -> str:
    """Where images go: another folder for another seed, sampler or guidance, so that none take the place of others.

    Files and folders count by their names, wherever they lie. What makes the name too long is replaced by a hash.

    Args:
      groups: of settings that count besides.
    """
    usual, parts = default_config(), []
    for group in ("sampler", "guidance", *groups):
        for name, value in sorted(config[group].items(), key=lambda item: item[0] != "name"):  # first of all what is set
            if value != usual[group][name] and name not in ("task", "seed"):
                said = re.sub(r"[^\w.]+", "-", Path(value).name if isinstance(value, str) else str(value)).strip("-")
                parts.append(said if name == "name" else f"{name}_{said}")
    begin, end = f"step_{step:07d}_", f"seed_{seed}"
    settings = "".join(f"{part}_" for part in parts)
    return begin + _shortened(settings, _LONGEST_NAME - len(begin + end)) + end


def _shortened(text: str, size: int) -> str:
    """The text, or where it has more bytes than `size`, its beginning and a hash of it all."""
    encoded = text.encode()
    if len(encoded) <= size:
        return text
    ending = f"-{hashlib.blake2s(encoded, digest_size=4).hexdigest()}_"
    return encoded[: size - len(ending)].decode(errors="ignore") + ending
