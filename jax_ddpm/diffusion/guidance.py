"""Guidance: what draws the chain towards a class.

A classifier of noisy data bends either the score, whatever the sampler, or the mean of a sampler that adds noise; without a
classifier, a network that knows the class and also no class is extrapolated from one to the other.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jax_ddpm.diffusion.prediction import Denoiser, from_x0, split_output
from jax_ddpm.diffusion.sampling import Gradient, Sampler
from jax_ddpm.diffusion.schedules import NoiseSchedule, at, at_times, ends_in_noise
from jax_ddpm.errors import InvalidInput

Classifier = Callable[[jax.Array, jax.Array], jax.Array]
"""(x_t [B, ...], t [B]) -> logits [B, classes]."""

LabelledDenoiser = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]
"""(x_t [B, ...], t [B], labels [B]) -> output, as of a `Denoiser`."""

Interval = tuple[float, float] | None
"""The first and the last of the times, as told to the network, at which guidance acts; None is all of them."""


def classifier_gradient(
    classifier: Classifier, labels: jax.Array, *, scale: ArrayLike = 1.0, interval: Interval = None
) -> Gradient:
    """(x_t, t) -> s ∇ log p(y | x_t), the gradient by x_t        (Dhariwal & Nichol 2021, algorithm 1)

    Args:
      classifier: told the time as the denoiser is.
      labels: [B] integers, the y of each example.
      scale: s, a number or [B].
      interval: outside it the gradient is 0.
    """

    def log_probability(xt: jax.Array, t: jax.Array) -> jax.Array:
        chosen = jnp.take_along_axis(jax.nn.log_softmax(classifier(xt, t)), labels[:, None], axis=1)
        return chosen.sum()  # of the whole batch: no example's depends on another

    def gradient(xt: jax.Array, t: jax.Array) -> jax.Array:
        return _strength(scale, 0.0, t, interval, xt) * jax.grad(log_probability)(xt, t)

    return gradient


def classifier_guided(
    denoiser: Denoiser,
    classifier: Classifier,
    labels: jax.Array,
    schedule: NoiseSchedule,
    *,
    scale: ArrayLike = 1.0,
    prediction: str = "eps",
    interval: Interval = None,
) -> Denoiser:
    """The denoiser whose score is that of p(x_t) p(y | x_t)^s: for `ddim` and the solvers of the probability flow.

    ε̂ = ε_θ - √(1-ᾱ_t) s ∇ log p(y | x_t)        (Dhariwal & Nichol 2021, algorithm 2; Song et al. 2021, eq. 14)

    Whatever the network predicts is moved by as much as stands for that, before any clipping. At s = 1 it is Bayes' rule.

    Args:
      denoiser, classifier: told the same time.
      labels: [B] integers.
      schedule: the one whose times they are told: the whole chain, however short the sampler's is.
      scale: s, a number or [B].
      prediction: what the denoiser's output is, see `to_x0`.
      interval: outside it the denoiser is left as it is.
    Raises:
      InvalidInput: the schedule has zero terminal SNR.
    """
    if ends_in_noise(schedule):
        raise InvalidInput("a guided score says nothing of x_0 where ᾱ_T = 0: expected a schedule without zero terminal SNR")
    gradient = classifier_gradient(classifier, labels, scale=scale, interval=interval)

    def guided(xt: jax.Array, t: jax.Array) -> jax.Array:
        output, values = split_output(denoiser(xt, t), xt)
        here, rows = at_times(schedule, t), jnp.arange(t.shape[0])
        moved_x0 = at(here.sqrt_one_minus_alphas_bar, rows, xt) ** 2 / at(here.sqrt_alphas_bar, rows, xt) * gradient(xt, t)
        moved = output + from_x0(here, moved_x0, jnp.zeros_like(xt), rows, prediction)  # an output is affine in x_0 and x_t
        return moved if values is None else jnp.concatenate([moved, values], axis=-1)

    return guided


def guided_mean(
    sampler: Sampler, classifier: Classifier, labels: jax.Array, *, scale: ArrayLike = 1.0, interval: Interval = None
) -> Sampler:
    """The sampler with the mean of each step moved up the classifier's gradient.

    x_{t-1} ~ N(μ + s σ_t² ∇ log p(y | x_t), σ_t²)        (Dhariwal & Nichol 2021, algorithm 1)

    σ_t² is the variance of the step; of `ancestral` at the last one too, though no noise is added there. It has to be that of
    the reverse process: so this is for `ancestral`, for `ddim` with eta = 1 and for the stochastic `dpm_solver_pp`.

    Args:
      classifier, labels, scale, interval: as in `classifier_guided`.
    Raises:
      InvalidInput: the sampler adds less noise than the reverse process has.
    """
    check_guided_mean(sampler)
    gradient = classifier_gradient(classifier, labels, scale=scale, interval=interval)
    return dataclasses.replace(sampler, gradient=gradient)


def check_guided_mean(sampler: Sampler) -> None:
    """Raises InvalidInput where the steps have less variance than those of the reverse process."""
    here, there = np.asarray(sampler.schedule.alphas_bar, np.float64)[sampler.rows], sampler.reached
    variance = (1 - there) / (1 - here) * (1 - here / there)  # of the posterior, the least that the reverse process has
    if np.any(there <= here) or np.any(sampler.deviations**2 < 0.99 * variance):
        raise InvalidInput(
            "guided_mean moves the mean by the variance of the reverse process, and this sampler has none, or less: expected "
            "ancestral, ddim with eta=1 or a stochastic dpm_solver_pp, or classifier_guided, which goes with all"
        )


def classifier_free(
    denoiser: LabelledDenoiser, labels: jax.Array, *, null_label: int, scale: ArrayLike, interval: Interval = None
) -> Denoiser:
    """The denoiser extrapolated from what it says of no class past what it says of the class.

    ε̂ = ε_θ(x_t, ∅) + s (ε_θ(x_t, y) - ε_θ(x_t, ∅))        (Ho & Salimans 2022, eq. 6 with s = 1 + w)

    s = 0 is unconditional, s = 1 is conditional. It holds for every prediction, for the output is affine in x_0; a learned
    variance is the conditional one.

    Args:
      denoiser: (x_t, t, labels) -> output. It is called once, for both at a time, with a batch twice as large.
      labels: [B] integers.
      null_label: what stands for no class.
      scale: s, a number or [B].
      interval: outside it the denoiser is the conditional one.
    """

    def guided(xt: jax.Array, t: jax.Array) -> jax.Array:
        twice = jnp.concatenate([labels, jnp.full_like(labels, null_label)])
        both = denoiser(jnp.concatenate([xt, xt]), jnp.concatenate([t, t]), twice)
        conditional, unconditional = jnp.split(both, 2)
        (said, values), (without, _) = split_output(conditional, xt), split_output(unconditional, xt)
        moved = said + (_strength(scale, 1.0, t, interval, xt) - 1) * (said - without)
        return moved if values is None else jnp.concatenate([moved, values], axis=-1)

    return guided


def _strength(scale: ArrayLike, outside: float, t: jax.Array, interval: Interval, xt: jax.Array) -> jax.Array:
    """[B, 1, ...] the scale where t lies within the interval, else what it is outside."""
    inside = True if interval is None else (t >= interval[0]) & (t <= interval[1])
    strength = jnp.where(inside, jnp.asarray(scale, xt.dtype), outside)
    return jnp.broadcast_to(strength, t.shape).reshape(t.shape + (1,) * (xt.ndim - 1))
