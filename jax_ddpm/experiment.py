"""From a config to the things it names: the schedule, the network, the sampler, the data."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, cast

import grain
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from jax_ddpm.data.augment import TOLD, Augmentation
from jax_ddpm.data.pipeline import batches
from jax_ddpm.data.sources.columns import Columns
from jax_ddpm.data.sources.load import load_source
from jax_ddpm.data.sources.source import Source
from jax_ddpm.diffusion.low_resolution import LowResolution, low_resolution, shrunk
from jax_ddpm.diffusion.prediction import LEARNED_VARIANCES, Clip, Denoiser, dynamic_threshold, static_clip
from jax_ddpm.diffusion.respacing import respace
from jax_ddpm.diffusion.samplers import ancestral, ddim
from jax_ddpm.diffusion.sampling import Sampler
from jax_ddpm.diffusion.schedules import (
    NoiseSchedule,
    constant_schedule,
    cosine_schedule,
    jsd_schedule,
    linear_schedule,
    quadratic_schedule,
    sigmoid_schedule,
    zero_terminal_snr,
)
from jax_ddpm.diffusion.solvers import dpm_solver_pp, euler, heun, unipc
from jax_ddpm.errors import InvalidInput, choose
from jax_ddpm.models.classifier import NoisyClassifier
from jax_ddpm.models.unet import UNet
from jax_ddpm.training.sharding import own_rows, to_devices
from jax_ddpm.training.state import Params

Network = UNet | NoisyClassifier


SCHEDULES: dict[str, Callable[[ConfigDict], NoiseSchedule]] = {
    "linear": lambda c: linear_schedule(c.steps, c.beta_start, c.beta_end),
    "cosine": lambda c: cosine_schedule(c.steps),
    "quadratic": lambda c: quadratic_schedule(c.steps, c.beta_start, c.beta_end),
    "sigmoid": lambda c: sigmoid_schedule(c.steps, c.beta_start, c.beta_end),
    "constant": lambda c: constant_schedule(c.steps, c.beta_end),
    "jsd": lambda c: jsd_schedule(c.steps),
}
_CHURN = ("churn", "churn_range", "churn_noise")
SAMPLERS: dict[str, tuple[Callable[..., Sampler], tuple[str, ...]]] = {  # and the settings that are its own
    "ancestral": (ancestral, ()),
    "ddim": (ddim, ("eta", "rederive_eps")),
    "euler": (euler, _CHURN),
    "heun": (heun, _CHURN),
    "dpm_solver_pp": (dpm_solver_pp, ("order", "stochastic")),
    "unipc": (unipc, ("order",)),
}
CLIPS: dict[str, Callable[[ConfigDict], Clip | None]] = {
    "static": lambda c: static_clip,
    "dynamic": lambda c: dynamic_threshold(c.dynamic_quantile),
    "none": lambda c: None,
}
DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}
CLASSIFIER = "noisy_classifier"


_DRAWS_NOTHING = (
    f"this run is of a classifier (model.network={CLASSIFIER}), which draws no images. Expected one of model.network=unet, "
    "which it can guide: --workdir that one, --config.guidance.classifier this one"
)
_NOT_SHORTER = (
    "diffusion.variance=learned is the variance of one step of the whole chain. Expected learned_range, which fits any chain, "
    "or every step"
)


def make_schedule(config: ConfigDict) -> NoiseSchedule:
    """The noise schedule that is trained on."""
    schedule = choose("diffusion.schedule", config.diffusion.schedule, SCHEDULES)(config.diffusion)
    return zero_terminal_snr(schedule) if config.diffusion.zero_terminal_snr else schedule


def make_short_schedule(config: ConfigDict, respacing: str) -> NoiseSchedule:
    """The steps of it that `respacing` names; all of them where it is empty."""
    if not respacing:
        return make_schedule(config)
    if config.diffusion.variance == "learned":
        raise InvalidInput(f"respacing={respacing}: {_NOT_SHORTER}")
    return respace(make_schedule(config), respacing)


def make_network(config: ConfigDict) -> Network:
    """The network, U-Net or classifier."""
    return choose("model.network", config.model.network, NETWORKS)(config)


def _make_unet(config: ConfigDict) -> UNet:
    classes = num_classes(config)
    return UNet(
        out_channels=config.data.channels * (2 if config.diffusion.variance in LEARNED_VARIANCES else 1),
        num_classes=classes,
        null_label=classes > 0 and config.model.label_dropout > 0,
        low_resolution=config.model.low_res_size > 0,
        low_res_time=config.model.low_res_time,
        upsample=config.model.upsample,
        skip=config.model.skip,
        augmentation=TOLD if config.data.augment else 0,
        **_encoder_settings(config),
    )


def _make_classifier(config: ConfigDict) -> NoisyClassifier:
    return NoisyClassifier(num_classes=num_classes(config), **_encoder_settings(config))


def _encoder_settings(config: ConfigDict) -> dict[str, Any]:
    """What both networks are told alike."""
    model = config.model
    alike = (
        *("channels", "blocks", "heads", "head_channels", "dropout", "groups", "scale_shift", "block_resampling", "downsample"),
        *("middle_attention", "norm_eps", "time_cosine_first", "time_frequency_shift", "time_channels", "time_scale", "remat"),
    )
    return {name: model[name] for name in alike} | {
        "multipliers": tuple(model.multipliers),
        "attention_resolutions": tuple(model.attention_resolutions),
        "dtype": choose("model.dtype", model.dtype, DTYPES),
    }


NETWORKS: dict[str, Callable[[ConfigDict], Network]] = {"unet": _make_unet, CLASSIFIER: _make_classifier}


def is_classifier(config: ConfigDict) -> bool:
    """Whether the network says what an image is of, and draws none."""
    return config.model.network == CLASSIFIER


def num_classes(config: ConfigDict) -> int:
    """How many labels the network knows; 0 where it is told no label and gives none."""
    if not (config.model.class_conditional or is_classifier(config)):
        return 0
    if not config.data.class_names:
        asked = f"model.network={CLASSIFIER}" if is_classifier(config) else "model.class_conditional=True"
        raise InvalidInput(f"{asked}, but data.class_names is empty: the data has no labels")
    return len(config.data.class_names)


def same_classes(data: ConfigDict, names: Sequence[str], *, named: bool = True) -> bool:
    """Whether the classes of a run's `data` are those of these names; where one of the two has but numbers, whether as many.

    Args:
      named: whether these are names; see `data.classes_named`.
    """
    own = tuple(data.class_names)
    return own == tuple(names) if data.classes_named and named else len(own) == len(names)


def known_classes(config: ConfigDict) -> int:
    """How many classes can be asked for: those of the network, or of the classifier that guides it."""
    return len(config.data.class_names) if config.guidance.classifier else num_classes(config)


def image_shape(config: ConfigDict) -> tuple[int, int, int]:
    """[H, W, C] of the images."""
    return config.data.image_size, config.data.image_size, config.data.channels


def init_params(config: ConfigDict, key: jax.Array) -> Params:
    """Random parameters of the network."""
    zeros = jax.tree.map(lambda like: jnp.zeros(like.shape, like.dtype), example_inputs(config))
    return make_network(config).init(key, **zeros)["params"]


def example_inputs(config: ConfigDict) -> dict[str, jax.ShapeDtypeStruct]:
    """What the network is called with, by name, for a single image."""
    network, image = make_network(config), jax.ShapeDtypeStruct((1, *image_shape(config)), jnp.float32)
    inputs = {"x": image, "t": jax.ShapeDtypeStruct((1,), jnp.float32)}
    if isinstance(network, UNet) and network.num_classes:
        inputs["labels"] = jax.ShapeDtypeStruct((1,), jnp.int32)
    if isinstance(network, UNet) and network.low_resolution:
        inputs |= {"low_res": image, "low_res_t": jax.ShapeDtypeStruct((1,), jnp.int32)}
    return inputs


def example_batch(config: ConfigDict) -> dict[str, jax.ShapeDtypeStruct]:
    """What a batch of training holds, by name."""
    size = config.train.batch_size
    batch = {
        "image": jax.ShapeDtypeStruct((size, *image_shape(config)), jnp.float32),
        "label": jax.ShapeDtypeStruct((size,), jnp.int32),
    }
    return batch | ({"augmentation": jax.ShapeDtypeStruct((size, TOLD), jnp.float32)} if config.data.augment else {})


def make_denoiser(
    network: Network,
    params: Params,
    labels: jax.Array | None,
    dropout_key: jax.Array | None = None,
    low_resolution: LowResolution | None = None,
    augmentation: jax.Array | None = None,
) -> Denoiser:
    """The network as a function of x_t and t alone; with a key for dropout it is in training.

    Where x_t is the batch twice over, as guidance without a classifier has it, so is the small image; labels are as many as
    there are images. Without an augmentation the network takes the images for what they are, which is what is drawn.

    Raises:
      InvalidInput: the network is a classifier.
    """
    if isinstance(network, NoisyClassifier):
        raise InvalidInput(_DRAWS_NOTHING)
    rngs = {} if dropout_key is None else {"dropout": dropout_key}

    def denoiser(xt: jax.Array, t: jax.Array) -> jax.Array:
        told: dict[str, Any] = {} if augmentation is None else {"augmentation": augmentation}
        if low_resolution is not None:
            image, steps = (jnp.concatenate([each] * (len(xt) // len(each))) for each in low_resolution)
            told |= {"low_res": image, "low_res_t": steps}
        output = network.apply({"params": params}, xt, t, labels, **told, train=dropout_key is not None, rngs=rngs)
        return cast(jax.Array, output)

    return denoiser


def small_images(config: ConfigDict, x0: jax.Array) -> LowResolution | None:
    """x0 [B, H, W, C] made small, for a network that enlarges; None for any other."""
    small, size = config.model.low_res_size, config.data.image_size
    return low_resolution(make_schedule(config), shrunk(x0, small), size) if small else None


def low_res_steps(config: ConfigDict) -> int:
    """The most steps of the forward process by which training noises the small image that is to be enlarged."""
    return round(config.model.low_res_noise * config.diffusion.steps)


def make_augmentation(config: ConfigDict) -> Augmentation:
    """What training does to the images at random."""
    data = config.data
    return Augmentation(data.flip, data.crop, data.rotate, data.augment)


def make_source(config: ConfigDict, *, name: str | None = None, split: str | None = None) -> Source:
    """The data, or another set or split of those that lie in the same place and whose columns are called the same."""
    data = config.data
    columns = Columns(data.image_column, data.label_column)
    return load_source(data.name if name is None else name, data.split if split is None else split, data.directory, columns)


def make_batches(config: ConfigDict, source: Source, mesh: Mesh | None = None) -> grain.DatasetIterator:
    """The stream of batches that training takes: on the devices of a mesh, some of them ahead; without one on the host."""
    data = config.data
    return batches(
        source,
        batch_size=config.train.batch_size,
        image_size=data.image_size,
        channels=data.channels,
        seed=config.seed,
        augmentation=make_augmentation(config),
        workers=data.workers,
        cache_mib=data.cache_mib,
        on_damaged=data.on_damaged,
        rows=own_rows(config.train.batch_size, mesh) if mesh and jax.process_count() > 1 else None,
        place=partial(to_devices, mesh=mesh) if mesh else None,
        prefetch=data.prefetch if mesh else 0,
    )


def make_sampler(config: ConfigDict, schedule: NoiseSchedule | None = None) -> Sampler:
    """The way the reverse chain is run, over the whole of it or over `schedule`.

    Raises:
      InvalidInput: settings that do not go together, or the network is a classifier.
    """
    if is_classifier(config):
        raise InvalidInput(_DRAWS_NOTHING)
    settings, schedule = config.sampler, schedule or make_schedule(config)
    make, names = choose("sampler.name", settings.name, SAMPLERS)
    own = {name: settings[name] for name in names if settings[name] != ()}
    if settings.name == "ancestral":
        own["variance"] = config.diffusion.variance
    if settings.spacing:
        own["spacing"] = settings.spacing
    clip = choose("sampler.clip", settings.clip, CLIPS)(settings)
    sampler = make(schedule, steps=settings.steps or None, prediction=config.diffusion.prediction, clip=clip, **own)
    if sampler.learned == "learned" and len(sampler.rows) < len(schedule.betas):
        raise InvalidInput(f"sampler.steps={settings.steps}: {_NOT_SHORTER}")
    return sampler


def chosen_labels(config: ConfigDict, count: int) -> np.ndarray:
    """[count] the labels to draw: those of `sample.labels` in turn, or every class in turn.

    Raises:
      InvalidInput: labels asked for that the network does not know.
    """
    known = known_classes(config)
    asked = tuple(config.sample.labels)
    if asked and not known:
        raise InvalidInput(
            f"sample.labels={asked}: this network is not class-conditional, it takes no labels, and no classifier guides it"
        )
    if any(not 0 <= label < known for label in asked):
        raise InvalidInput(f"sample.labels={asked}: expected labels in 0..{known - 1}")
    return np.resize(np.asarray(asked or range(max(known, 1)), np.int32), count)
