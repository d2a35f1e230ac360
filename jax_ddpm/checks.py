"""Whether the settings of a run can be used, all of them, before anything is begun."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from jax_ddpm import experiment, objective
from jax_ddpm.config import default_config
from jax_ddpm.data.reading import ON_DAMAGED
from jax_ddpm.diffusion.losses import check_hybrid
from jax_ddpm.diffusion.prediction import LEARNED_VARIANCES, PREDICTIONS, VARIANCES, check_prediction
from jax_ddpm.errors import InvalidInput, choose
from jax_ddpm.metrics import METRICS, chosen_metrics
from jax_ddpm.training.layouts import PARALLEL


def check(config: ConfigDict) -> None:
    """Builds everything that can be built without data or devices, so that bad settings are told at once.

    Raises:
      InvalidInput: the first setting that cannot be used.
    """
    check_data(config)
    size, multiple = config.data.image_size, 2 ** (len(config.model.multipliers) - 1)
    if size % multiple:
        raise InvalidInput(
            f"data.image_size={size} does not halve as often as model.multipliers={tuple(config.model.multipliers)} has it: "
            f"expected a multiple of {multiple}, such as {max(round(size / multiple), 1) * multiple}"
        )
    choose("diffusion.prediction", config.diffusion.prediction, dict.fromkeys(PREDICTIONS))
    choose("diffusion.variance", config.diffusion.variance, dict.fromkeys(VARIANCES))
    if config.data.name == "fashion_mnist" and size == 28:
        raise InvalidInput("data.image_size=28: fashion_mnist comes padded to 32×32, and would be shrunk. Expected 32")
    _check_low_res(config)
    _check_resampling(config.model)
    if not experiment.is_classifier(config):
        _check_variance_is_trained(config.diffusion)
        _check_end_is_trained(config)
        _check_sampler(config)
    _check_guidance(config)
    choose("train.parallel", config.train.parallel, PARALLEL)
    jax.eval_shape(partial(experiment.init_params, config), jax.random.key(0))
    objective.make_optimizer(config)
    objective.make_timesteps(config)
    objective.make_loss_fn(config)
    for name in chosen_metrics(config):
        if name in METRICS:
            METRICS[name](config)
    if not experiment.is_classifier(config):
        experiment.make_sampler(config)
        experiment.chosen_labels(config, 1)


def check_optimizer(train: ConfigDict) -> None:
    """Raises InvalidInput where float32 makes of a setting what no update can be computed with, be the gradient as it may.

    Where a number of the gradient is 0, Adam divides 0 by ε. It divides by 1 - β too, as they are at the first step.
    """
    with np.errstate(over="ignore"):
        held = {name: np.float32(train[name]) for name in ("learning_rate", "weight_decay", "adam_eps", "adam_b1", "adam_b2")}
    for name in ("learning_rate", "weight_decay"):
        if not np.isfinite(held[name]):
            raise InvalidInput(f"train.{name}={train[name]}: expected a number that float32 has room for")
    for name in ("adam_b1", "adam_b2"):
        if held[name] == 1:
            raise InvalidInput(f"train.{name}={train[name]}, which is 1 in float32: expected less, such as 0.999")
    least = np.finfo(np.float32).tiny
    if held["adam_eps"] < least:
        raise InvalidInput(f"train.adam_eps={train.adam_eps}: expected {least:.3g} or more, such as 1e-8")


def check_data(config: ConfigDict) -> None:
    """Whether images can be read and fitted as the settings say, whatever network they are for.

    Raises:
      InvalidInput: the first setting that cannot be used.
    """
    _check_ranges(config)
    choose("data.channels", str(config.data.channels), {"1": 1, "3": 3})
    _check_augmentation(config)


def _check_augmentation(config: ConfigDict) -> None:
    """Raises InvalidInput where images cannot be augmented so, or the network is not told of it."""
    data = config.data
    choose("data.on_damaged", data.on_damaged, ON_DAMAGED)
    if not 0.1 <= data.crop <= 1:
        raise InvalidInput(f"data.crop={data.crop}: expected a share of the side, from 0.1 to 1, such as 0.8")
    if data.rotate > 180:
        raise InvalidInput(f"data.rotate={data.rotate}: expected degrees, from 0 to 180, such as 5")
    if data.augment > 1:
        raise InvalidInput(f"data.augment={data.augment}: expected a probability, at most 1, such as 0.12")
    if data.augment and experiment.is_classifier(config):
        raise InvalidInput(
            f"data.augment={data.augment}: a classifier is not told how images were augmented. Expected 0, and data.flip, "
            "data.crop or data.rotate for what may be done to them untold"
        )


def _check_low_res(config: ConfigDict) -> None:
    """Raises InvalidInput where the small image is not one that the large one can be averaged to, or nothing enlarges it."""
    small, size = config.model.low_res_size, config.data.image_size
    if small and (small >= size or size % small):
        sizes = [each for each in range(1, size) if size % each == 0]
        raise InvalidInput(
            f"model.low_res_size={small} with data.image_size={size}: expected one of {', '.join(map(str, sizes))}, which each "
            "pixel of is the mean of a square"
        )
    if small and experiment.is_classifier(config):
        raise InvalidInput(f"model.low_res_size={small}: a classifier enlarges nothing. Expected 0, or model.network=unet")


def _check_resampling(model: ConfigDict) -> None:
    """Raises InvalidInput where a layer is chosen that the network does not have."""
    usual = default_config().model
    for name in ("downsample", "upsample") if model.block_resampling else ():
        if model[name] != usual[name]:
            raise InvalidInput(
                f"model.{name}={model[name]} with model.block_resampling=True, which has no such layer: expected one of the two"
            )


def _check_variance_is_trained(diffusion: ConfigDict) -> None:
    """Raises InvalidInput where a learned variance has no loss, or the hybrid loss no variance to learn."""
    if diffusion.loss == "hybrid":
        check_hybrid(diffusion.variance)
    if diffusion.variance in LEARNED_VARIANCES and diffusion.loss in objective.SQUARE_ERRORS:
        raise InvalidInput(
            f"diffusion.variance={diffusion.variance}, but diffusion.loss={diffusion.loss} does not train it: "
            "expected the loss hybrid, kl or rescaled_kl, or a fixed variance"
        )


def _check_end_is_trained(config: ConfigDict) -> None:
    """Raises InvalidInput where nothing of x_0 is left in x_T and the prediction, or the loss, says nothing of it there."""
    diffusion = config.diffusion
    check_prediction(experiment.make_schedule(config), diffusion.prediction)
    if diffusion.zero_terminal_snr and diffusion.loss in ("eps", "hybrid"):
        raise InvalidInput(
            f"diffusion.loss={diffusion.loss} is blind where ᾱ_T = 0: x_T is the noise, whatever x_0 was. With "
            "diffusion.zero_terminal_snr expected the loss v, x0, kl or rescaled_kl"
        )


def _check_guidance(config: ConfigDict) -> None:
    """Raises InvalidInput where classes are to be guided to and nothing knows them."""
    guidance = config.guidance
    choose("guidance.form", guidance.form or "mean", {"mean": None, "score": None})
    first, last = guidance.interval if len(guidance.interval) == 2 else (1, 0)
    if not (_are_numbers(guidance.interval) and 0 <= first <= last <= 1):
        raise InvalidInput(f"guidance.interval={guidance.interval}: expected two shares of the chain, such as (0.0, 1.0)")
    if guidance.form and not guidance.classifier:
        raise InvalidInput(f"guidance.form={guidance.form} says what a classifier moves: expected a guidance.classifier")
    if (first, last) != (0, 1) and guidance.scale == 1 and not guidance.classifier:
        raise InvalidInput(f"guidance.interval={guidance.interval}, but nothing guides: expected a guidance.scale, such as 2")
    free = guidance.scale != 1 and not guidance.classifier
    if free and not (config.model.class_conditional and config.model.label_dropout):
        raise InvalidInput(
            f"guidance.scale={guidance.scale}: this network was not trained to do without the class. Expected one with "
            "model.class_conditional and model.label_dropout, or a guidance.classifier"
        )


def _are_numbers(values: Any) -> bool:
    return all(isinstance(value, int | float) for value in values)


def _check_sampler(config: ConfigDict) -> None:
    """Raises InvalidInput for a setting that the sampler chosen has no use for, or a range that is none."""
    settings, usual = config.sampler, default_config().sampler
    used = choose("sampler.name", settings.name, experiment.SAMPLERS)[1]
    for name in {each for _, names in experiment.SAMPLERS.values() for each in names} - set(used):
        if settings[name] != usual[name]:
            owners = [owner for owner, (_, names) in experiment.SAMPLERS.items() if name in names]
            raise InvalidInput(
                f"sampler.{name}={settings[name]} is not of {settings.name}: expected it with {' or '.join(owners)}"
            )
    if settings.clip != "dynamic" and settings.dynamic_quantile != usual.dynamic_quantile:
        raise InvalidInput(f"sampler.dynamic_quantile={settings.dynamic_quantile}: expected it with sampler.clip=dynamic")
    ends = settings.churn_range
    if ends and not (len(ends) == 2 and _are_numbers(ends) and 0 <= ends[0] <= ends[1]):
        raise InvalidInput(f"sampler.churn_range={ends}: expected two noise levels, such as (0.05, 50.0), or ()")


_MORE_THAN_ZERO = {
    "data": ("image_size", "workers"),
    "diffusion": ("steps", "min_snr_gamma", "p2_k"),
    "model": ("channels", "multipliers", "blocks", "attention_resolutions", "heads", "groups", "norm_eps", "time_scale"),
    "mesh": ("fsdp",),
    "train": (
        *("steps", "batch_size", "accumulate", "learning_rate", "max_skipped"),
        *("log_every", "checkpoint_every", "keep_last", "sample_count"),
    ),
    "sample": ("count", "batch_size"),
    "edit": ("count", "jump", "resamples"),
    "eval": ("batch_size", "ode_tolerance"),
    "serve": ("images", "upload_mib"),
    "profile": ("start",),
    "runtime": ("heartbeat",),
}
_NOT_NEGATIVE = {
    "data": ("cache_mib", "prefetch", "rotate", "augment", "inspect"),
    "diffusion": ("hybrid_weight", "p2_gamma"),
    "model": ("head_channels", "low_res_size", "time_frequency_shift", "time_channels"),
    "mesh": ("data",),
    "train": ("adam_eps", "weight_decay", "warmup_steps", "clip_norm", "keep_every", "sample_every"),
    "sample": ("seed", "labels"),
    "sampler": ("steps", "churn", "churn_noise"),
    "guidance": ("scale",),
    "edit": ("seed", "labels", "targets"),
    "eval": ("seed", "count", "reference_count"),
    "profile": ("steps",),
}
_FRACTIONS = {
    "model": ("dropout", "label_dropout", "low_res_noise"),
    "edit": ("low_res_noise",),
    "train": ("adam_b1", "adam_b2", "ema_decay"),
    "eval": ("ode_tolerance",),
}


def _check_ranges(config: ConfigDict) -> None:
    """Raises InvalidInput for a number out of range, or a list of whole numbers that holds something else."""

    def check(groups: dict[str, tuple[str, ...]], valid: Callable[[Any], bool], expected: str) -> None:
        for group, names in groups.items():
            for name in names:
                value = config[group][name]
                whole = not isinstance(value, tuple) or all(isinstance(each, int) for each in value)
                if not whole or not all(valid(each) for each in (value if isinstance(value, tuple) else (value,))):
                    raise InvalidInput(f"{group}.{name}={value}: expected {'' if whole else 'whole numbers, '}{expected}")

    check(_MORE_THAN_ZERO, lambda value: value > 0, "more than 0")
    check(_NOT_NEGATIVE, lambda value: value >= 0, "0 or more")
    check(_FRACTIONS, lambda value: 0 <= value < 1, "at least 0 and less than 1")
    if config.edit.frames < 2:
        raise InvalidInput(f"edit.frames={config.edit.frames}: expected 2 or more, the first and the last among them")
    if config.seed < 0:
        raise InvalidInput(f"seed={config.seed}: expected 0 or more")
