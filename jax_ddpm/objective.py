"""From a config to what is minimised, and how: the draws of a batch, the loss of each image, the optimizer, the train step."""

from collections.abc import Callable
from functools import partial
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from jax_ddpm.diffusion.gaussian import q_sample
from jax_ddpm.diffusion.losses import Loss, eps_loss, hybrid_loss, kl_loss, rescaled_kl_loss, v_loss, x0_loss
from jax_ddpm.diffusion.low_resolution import LowResolution, low_resolution, shrunk
from jax_ddpm.diffusion.prediction import Denoiser
from jax_ddpm.diffusion.schedules import NoiseSchedule
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
from jax_ddpm.evaluation.accuracy import QUARTERS
from jax_ddpm.experiment import DTYPES, low_res_steps, make_denoiser, make_network, make_schedule
from jax_ddpm.models.classifier import NoisyClassifier
from jax_ddpm.models.unet import UNet
from jax_ddpm.training.layouts import WHOLE_BATCH, Layout
from jax_ddpm.training.state import Params
from jax_ddpm.training.step import Batch, Losses, LossFn, Measure, Metrics, Prepare, Prepared, Tally, TrainStep, make_train_step


def _per_component(loss: Loss) -> Loss:
    """Nats an image -> nats a component, the scale at which a gradient clip of 1 means the same as for the other losses."""

    def scaled(schedule: NoiseSchedule, denoiser: Denoiser, x0: jax.Array, t: jax.Array, eps: jax.Array) -> jax.Array:
        return loss(schedule, denoiser, x0, t, eps) / x0[0].size

    return scaled


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
DECAYS: dict[str, Callable[[int], optax.Schedule]] = {
    "constant": lambda steps: optax.constant_schedule(1.0),
    "linear": lambda steps: optax.linear_schedule(1.0, 0.0, steps),
}


def make_timesteps(config: ConfigDict) -> TimestepSampler:
    """How the times of a batch are drawn."""
    return choose("diffusion.timesteps", config.diffusion.timesteps, TIMESTEPS)(config.diffusion.steps)


def make_prepare(config: ConfigDict) -> Prepare:
    """Draws a time and the noise for each image of a batch, whether its label is dropped, and its small image's noise."""
    timesteps, network = make_timesteps(config), make_network(config)
    conditions = []
    if isinstance(network, UNet) and network.null_label:
        conditions.append(_dropped_labels(config.model.label_dropout, network.num_classes))
    if isinstance(network, UNet) and network.low_resolution:
        conditions.append(_small_images(config))

    def prepare(key: jax.Array, batch: Batch, history: Any) -> Prepared:
        t_key, eps_key, *keys = jax.random.split(key, 2 + len(conditions))
        t, weights = timesteps.draw(t_key, history, len(batch["image"]))
        eps = jax.random.normal(eps_key, batch["image"].shape)
        for condition, condition_key in zip(conditions, keys, strict=True):
            batch = {**batch, **condition(condition_key, batch)}
        return Prepared({**batch, "t": t, "eps": eps}, t, weights)

    return prepare


def _dropped_labels(share: float, null_label: int) -> Callable[[jax.Array, Batch], Batch]:
    """A share of the labels replaced by "no class", as classifier-free guidance needs it (Ho & Salimans 2022, algorithm 1)."""

    def drop(key: jax.Array, batch: Batch) -> Batch:
        labels = batch["label"]
        return {"label": jnp.where(jax.random.bernoulli(key, share, labels.shape), null_label, labels)}

    return drop


def _small_images(config: ConfigDict) -> Callable[[jax.Array, Batch], Batch]:
    """What the network is to enlarge, noised by a number of steps that is drawn evenly."""
    schedule, model, most = make_schedule(config), config.model, low_res_steps(config)

    def shrink(key: jax.Array, batch: Batch) -> Batch:
        steps_key, eps_key = jax.random.split(key)
        small = shrunk(batch["image"], model.low_res_size)
        steps = jax.random.randint(steps_key, (len(small),), 0, most + 1)
        eps = jax.random.normal(eps_key, small.shape)
        return {"low_resolution": low_resolution(schedule, small, config.data.image_size, steps, eps)}

    return shrink


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
    network = make_network(config)
    if isinstance(network, NoisyClassifier):
        return classification_loss(network, make_schedule(config))
    return _denoising_loss(network, make_schedule(config), make_loss(config))


def _denoising_loss(network: UNet, schedule: NoiseSchedule, loss: Loss) -> LossFn:
    def loss_fn(params: Params, batch: Batch, key: jax.Array) -> Losses:
        labels = batch["label"] if network.num_classes else None
        small: LowResolution | None = batch.get("low_resolution")
        told = {"low_resolution": small, "augmentation": batch.get("augmentation")}
        denoiser = make_denoiser(network, params, labels, dropout_key=key, **told)
        return Losses(loss(schedule, denoiser, batch["image"], batch["t"], batch["eps"]), {})

    return loss_fn


def classification_loss(network: NoisyClassifier, schedule: NoiseSchedule) -> LossFn:
    """-log p(y | x_t), and whether the likeliest class is the right one ("correct").    (Dhariwal & Nichol 2021, section 4)"""

    def loss_fn(params: Params, batch: Batch, key: jax.Array) -> Losses:
        xt = q_sample(schedule, batch["image"], batch["t"], batch["eps"])
        told = jnp.asarray(schedule.timesteps)[batch["t"]]
        logits = cast(jax.Array, network.apply({"params": params}, xt, told, train=True, rngs={"dropout": key}))
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"])
        return Losses(losses, {"correct": logits.argmax(axis=-1) == batch["label"]})

    return loss_fn


def accuracy_by_quarter(steps: int) -> Measure:
    """How often a classifier is right: "accuracy", and "accuracy_q1" where the noise is least to "accuracy_q4".

    Args:
      steps: T, of the chain that is taken in quarters.
    """

    def measure(t: jax.Array, further: dict[str, jax.Array]) -> Metrics:
        correct, quarters = further["correct"], t * QUARTERS // steps

        def among(chosen: jax.Array) -> Tally:
            return Tally(jnp.sum(correct & chosen), jnp.sum(chosen))

        by_quarter = {f"accuracy_q{number + 1}": among(quarters == number) for number in range(QUARTERS)}
        return {"accuracy": among(jnp.ones_like(correct)), **by_quarter}

    return measure


def make_optimizer(config: ConfigDict) -> optax.GradientTransformation:
    """Adam with decoupled weight decay; the learning rate warms up linearly and may decay to 0. The step clips the gradient."""
    train = config.train
    decay = choose("train.decay", train.decay, DECAYS)(train.steps)
    # A schedule where there is no warm-up too, so that the optimizer's state has one form and a run may change its settings.
    warm = optax.linear_schedule(0.0, 1.0, train.warmup_steps) if train.warmup_steps else optax.constant_schedule(1.0)
    mu_dtype = choose("train.adam_mu_dtype", train.adam_mu_dtype, DTYPES)
    # A number of Python's takes the type of what it multiplies, and .9 in bfloat16 is .8984: the mean would be 1.5 % too small.
    b1 = train.adam_b1 if mu_dtype == jnp.float32 else np.float32(train.adam_b1)
    betas = {"b1": b1, "b2": train.adam_b2, "eps": train.adam_eps, "mu_dtype": mu_dtype}
    adam = optax.adamw(lambda n: train.learning_rate * warm(n) * decay(n), **betas, weight_decay=train.weight_decay)
    return optax.chain(optax.identity(), adam)  # two, as when the first of them clipped: checkpoints of that time open


def make_step(config: ConfigDict, layout: Layout = WHOLE_BATCH) -> TrainStep:
    """The train step, for batch and parameters that lie on the devices so."""
    classifies = isinstance(make_network(config), NoisyClassifier)
    return make_train_step(
        make_prepare(config),
        make_loss_fn(config),
        make_optimizer(config),
        decay=config.train.ema_decay,
        warmup=config.train.ema_warmup,
        clip_norm=config.train.clip_norm,
        accumulate=config.train.accumulate,
        remember=make_timesteps(config).update,
        layout=layout,
        **({"measure": accuracy_by_quarter(config.diffusion.steps)} if classifies else {}),
    )
