"""From a config to the things it names: the schedule, the network, the loss, the optimizer, the sampler."""

from collections.abc import Callable
from functools import partial
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from jax_ddpm.data.sources import Source, load_source
from jax_ddpm.diffusion.likelihood import VLB, vlb_terms
from jax_ddpm.diffusion.losses import Loss, eps_loss, hybrid_loss, kl_loss, rescaled_kl_loss, v_loss, x0_loss
from jax_ddpm.diffusion.ode import check_flow, ode_bits_per_dim
from jax_ddpm.diffusion.prediction import LEARNED_VARIANCES, Clip, Denoiser, static_clip
from jax_ddpm.diffusion.respacing import respace
from jax_ddpm.diffusion.sampling import Sampler, ancestral
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
from jax_ddpm.diffusion.timesteps import (
    TimestepSampler,
    antithetic_timesteps,
    second_moment_timesteps,
    stratified_timesteps,
    uniform_timesteps,
)
from jax_ddpm.diffusion.weightings import (
    Weighting,
    min_snr_weight,
    p2_weight,
    snr_weight,
    truncated_snr_weight,
    vlb_weight,
    weighted,
)
from jax_ddpm.errors import InvalidInput, choose
from jax_ddpm.models.unet import UNet
from jax_ddpm.training.state import Params
from jax_ddpm.training.step import Batch, LossFn, Prepare, Prepared, TrainStep, make_train_step


def _per_component(loss: Loss) -> Loss:
    """Nats an image -> nats a component, the scale at which a gradient clip of 1 means the same as for the other losses."""

    def scaled(schedule: NoiseSchedule, denoiser: Denoiser, x0: jax.Array, t: jax.Array, eps: jax.Array) -> jax.Array:
        return loss(schedule, denoiser, x0, t, eps) / x0[0].size

    return scaled


SCHEDULES: dict[str, Callable[[ConfigDict], NoiseSchedule]] = {
    "linear": lambda c: linear_schedule(c.steps, c.beta_start, c.beta_end),
    "cosine": lambda c: cosine_schedule(c.steps),
    "quadratic": lambda c: quadratic_schedule(c.steps, c.beta_start, c.beta_end),
    "sigmoid": lambda c: sigmoid_schedule(c.steps, c.beta_start, c.beta_end),
    "constant": lambda c: constant_schedule(c.steps, c.beta_end),
    "jsd": lambda c: jsd_schedule(c.steps),
}
LOSSES: dict[str, Callable[[ConfigDict], Loss]] = {
    "eps": lambda c: partial(eps_loss, prediction=c.prediction),
    "x0": lambda c: partial(x0_loss, prediction=c.prediction),
    "v": lambda c: partial(v_loss, prediction=c.prediction),
    "kl": lambda c: _per_component(partial(kl_loss, prediction=c.prediction, variance=c.variance)),
    "rescaled_kl": lambda c: _per_component(partial(rescaled_kl_loss, prediction=c.prediction, variance=c.variance)),
    "hybrid": lambda c: partial(hybrid_loss, prediction=c.prediction, variance=c.variance, weight=c.hybrid_weight),
}
SQUARE_ERRORS = ("eps", "x0", "v")  # the losses that can be weighted, and that say nothing of the variance
WEIGHTINGS: dict[str, Callable[[ConfigDict], Weighting]] = {
    "snr": lambda c: snr_weight,
    "truncated_snr": lambda c: truncated_snr_weight,
    "min_snr": lambda c: partial(min_snr_weight, gamma=c.min_snr_gamma),
    "p2": lambda c: partial(p2_weight, k=c.p2_k, gamma=c.p2_gamma),
    "vlb": lambda c: partial(vlb_weight, variance=c.variance),
}
TIMESTEPS: dict[str, Callable[[int], TimestepSampler]] = {
    "uniform": uniform_timesteps,
    "stratified": stratified_timesteps,
    "antithetic": antithetic_timesteps,
    "second_moment": second_moment_timesteps,
}
DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


def make_schedule(config: ConfigDict) -> NoiseSchedule:
    """The noise schedule that is trained on."""
    schedule = choose("diffusion.schedule", config.diffusion.schedule, SCHEDULES)(config.diffusion)
    return zero_terminal_snr(schedule) if config.diffusion.zero_terminal_snr else schedule


def make_short_schedule(config: ConfigDict, respacing: str) -> NoiseSchedule:
    """The steps of it that `respacing` names; all of them where it is empty."""
    if not respacing:
        return make_schedule(config)
    if config.diffusion.variance == "learned":
        raise InvalidInput(
            f"respacing={respacing} with diffusion.variance=learned: what the network says is the variance of one step of the "
            "whole chain. Expected learned_range, which fits any chain, or every step"
        )
    return respace(make_schedule(config), respacing)


def make_network(config: ConfigDict) -> UNet:
    """The U-Net."""
    return UNet(
        out_channels=config.data.channels * (2 if config.diffusion.variance in LEARNED_VARIANCES else 1),
        channels=config.model.channels,
        multipliers=tuple(config.model.multipliers),
        blocks=config.model.blocks,
        attention_resolutions=tuple(config.model.attention_resolutions),
        heads=config.model.heads,
        dropout=config.model.dropout,
        groups=config.model.groups,
        scale_shift=config.model.scale_shift,
        num_classes=num_classes(config),
        dtype=choose("model.dtype", config.model.dtype, DTYPES),
    )


def num_classes(config: ConfigDict) -> int:
    """How many labels the network knows; 0 where it is not class-conditional."""
    if config.model.class_conditional and not config.data.class_names:
        raise InvalidInput("model.class_conditional=True, but data.class_names is empty: the data has no labels")
    return len(config.data.class_names) if config.model.class_conditional else 0


def image_shape(config: ConfigDict) -> tuple[int, int, int]:
    """[H, W, C] of the images."""
    return config.data.image_size, config.data.image_size, config.data.channels


def init_params(config: ConfigDict, key: jax.Array) -> Params:
    """Random parameters of the network."""
    labels = jnp.zeros(1, jnp.int32) if num_classes(config) else None
    return make_network(config).init(key, jnp.zeros((1, *image_shape(config))), jnp.zeros(1), labels)["params"]


def make_denoiser(network: UNet, params: Params, labels: jax.Array | None, dropout_key: jax.Array | None = None) -> Denoiser:
    """The network as a function of x_t and t alone; with a key for dropout it is in training."""
    rngs = {} if dropout_key is None else {"dropout": dropout_key}

    def denoiser(xt: jax.Array, t: jax.Array) -> jax.Array:
        output = network.apply({"params": params}, xt, t, labels, train=dropout_key is not None, rngs=rngs)
        return cast(jax.Array, output)

    return denoiser


def make_optimizer(config: ConfigDict) -> optax.GradientTransformation:
    """Clip the gradient, then Adam with a linear warm-up of the learning rate."""
    train = config.train
    if train.warmup_steps:
        rate = optax.warmup_constant_schedule(0.0, train.learning_rate, train.warmup_steps)
    else:  # a schedule too, so that the optimizer's state has one form and a run may change its warm-up
        rate = optax.constant_schedule(train.learning_rate)
    clip = optax.clip_by_global_norm(train.clip_norm) if train.clip_norm else optax.identity()
    return optax.chain(clip, optax.adam(rate, train.adam_b1, train.adam_b2, train.adam_eps))


def make_source(config: ConfigDict) -> Source:
    """The data."""
    return load_source(config.data.name, config.data.split, config.data.directory)


def make_sampler(config: ConfigDict) -> Sampler:
    """The way the reverse chain is run."""
    schedule, clip = make_short_schedule(config, config.sample.respacing), _clip(config.sample.clip)
    return ancestral(schedule, prediction=config.diffusion.prediction, variance=config.diffusion.variance, clip=clip)


def _clip(wanted: bool) -> Clip | None:
    return static_clip if wanted else None


def make_bound(config: ConfigDict) -> Callable[[Denoiser, jax.Array, jax.Array], VLB]:
    """(denoiser, x0 [B, ...], key) -> the terms of the variational bound."""
    schedule, diffusion = make_short_schedule(config, config.eval.respacing), config.diffusion
    options = {"prediction": diffusion.prediction, "variance": diffusion.variance, "clip": _clip(config.eval.clip)}
    return lambda denoiser, x0, key: vlb_terms(schedule, denoiser, x0, key, **options)


def make_flow_bits(config: ConfigDict) -> Callable[[Denoiser, jax.Array, jax.Array], jax.Array]:
    """(denoiser, x0 [B, ...], key) -> [B] bits per dimension by the probability flow, over the whole schedule."""
    schedule, tolerance = make_schedule(config), config.eval.ode_tolerance
    check_flow(schedule, config.diffusion.prediction)
    options = {"prediction": config.diffusion.prediction, "rtol": tolerance, "atol": tolerance}
    return lambda denoiser, x0, key: ode_bits_per_dim(schedule, denoiser, x0, key, **options)


METRICS = {"bits_per_dim": make_bound, "ode_bits_per_dim": make_flow_bits}


def chosen_metrics(config: ConfigDict) -> tuple[str, ...]:
    """The names in `eval.metrics`; a flag gives several as one text, with commas between them.

    Raises:
      InvalidInput: there is no such metric.
    """
    names = tuple(name.strip() for name in ",".join(config.eval.metrics).split(","))
    for name in names:
        choose("eval.metrics", name, METRICS)
    return names


def make_timesteps(config: ConfigDict) -> TimestepSampler:
    """How the times of a batch are drawn."""
    return choose("diffusion.timesteps", config.diffusion.timesteps, TIMESTEPS)(config.diffusion.steps)


def make_prepare(config: ConfigDict) -> Prepare:
    """Draws a time and the noise for each image of a batch."""
    timesteps = make_timesteps(config)

    def prepare(key: jax.Array, batch: Batch, history: Any) -> Prepared:
        t_key, eps_key = jax.random.split(key)
        t, weights = timesteps.draw(t_key, history, len(batch["image"]))
        eps = jax.random.normal(eps_key, batch["image"].shape)
        return Prepared({**batch, "t": t, "eps": eps}, t, weights)

    return prepare


def make_loss(config: ConfigDict) -> Loss:
    """The loss of each image, weighted by its noise."""
    diffusion = config.diffusion
    loss = choose("diffusion.loss", diffusion.loss, LOSSES)(diffusion)
    choose("diffusion.weighting", diffusion.weighting, {"uniform": None, **WEIGHTINGS})
    if diffusion.weighting == "uniform":
        return loss
    if diffusion.loss not in SQUARE_ERRORS:
        raise InvalidInput(
            f"diffusion.weighting={diffusion.weighting} with diffusion.loss={diffusion.loss}, which has its weights: expected "
            "the weighting uniform, or the loss eps, x0 or v"
        )
    return weighted(loss, WEIGHTINGS[diffusion.weighting](diffusion), diffusion.loss)


def make_loss_fn(config: ConfigDict) -> LossFn:
    """The loss of a prepared batch, one value an image."""
    network, schedule, loss = make_network(config), make_schedule(config), make_loss(config)

    def loss_fn(params: Params, batch: Batch, key: jax.Array) -> jax.Array:
        labels = batch["label"] if network.num_classes else None
        denoiser = make_denoiser(network, params, labels, dropout_key=key)
        return loss(schedule, denoiser, batch["image"], batch["t"], batch["eps"])

    return loss_fn


def make_step(config: ConfigDict) -> TrainStep:
    """The train step."""
    return make_train_step(
        make_prepare(config),
        make_loss_fn(config),
        make_optimizer(config),
        decay=config.train.ema_decay,
        warmup=config.train.ema_warmup,
        accumulate=config.train.accumulate,
        remember=make_timesteps(config).update,
    )


def chosen_labels(config: ConfigDict, count: int) -> np.ndarray:
    """[count] the labels to draw: those of `sample.labels` in turn, or every class in turn.

    Raises:
      InvalidInput: labels asked for that the network does not know.
    """
    known = num_classes(config)
    asked = tuple(config.sample.labels)
    if asked and not known:
        raise InvalidInput(f"sample.labels={asked}: this network is not class-conditional, it takes no labels")
    if any(not 0 <= label < known for label in asked):
        raise InvalidInput(f"sample.labels={asked}: expected labels in 0..{known - 1}")
    return np.resize(np.asarray(asked or range(max(known, 1)), np.int32), count)
