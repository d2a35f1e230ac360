"""Training losses, one value an example, not reduced over the batch.

Where a denoiser says the variance too, the losses that concern the mean alone take the first half of its channels.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from jax_ddpm.diffusion.gaussian import discretized_log_likelihood, gaussian_kl, q_posterior, q_sample
from jax_ddpm.diffusion.prediction import (
    LEARNED_VARIANCES,
    Clip,
    Denoiser,
    convert,
    network_output,
    p_mean_variance,
    split_output,
)
from jax_ddpm.diffusion.schedules import NoiseSchedule, at
from jax_ddpm.errors import InvalidInput

Loss = Callable[[NoiseSchedule, Denoiser, jax.Array, jax.Array, jax.Array], jax.Array]
"""(schedule, denoiser, x0 [B, ...], t [B], eps [B, ...]) -> [B]."""


def sum_over_example(values: jax.Array) -> jax.Array:
    """[B, ...] -> [B]: the sum over all but the first axis."""
    return jnp.sum(values, axis=tuple(range(1, values.ndim)))


def mean_over_example(values: jax.Array) -> jax.Array:
    """[B, ...] -> [B]: the mean over all but the first axis."""
    return jnp.mean(values, axis=tuple(range(1, values.ndim)))


def nats_to_bits_per_dim(nats: jax.Array, components: int) -> jax.Array:
    """Nats an example -> bits for each of its components."""
    return nats / (components * math.log(2.0))


def eps_loss(
    schedule: NoiseSchedule, denoiser: Denoiser, x0: jax.Array, t: jax.Array, eps: jax.Array, *, prediction: str = "eps"
) -> jax.Array:
    """L_simple: how far the predicted noise is from the noise.

    mean over pixels of (ε - ε_θ(√ᾱ_t x_0 + √(1-ᾱ_t) ε, t))²        (Ho et al. 2020, eq. 14)

    Args:
      denoiser: (x_t, t) -> output.
      x0: [B, ...] clean data in [-1, 1].
      t: [B] integers in [0, T).
      eps: [B, ...] standard normal noise.
      prediction: what the denoiser's output is, see `to_x0`.
    Returns:
      [B] mean square errors.
    """
    xt = q_sample(schedule, x0, t, eps)
    output = network_output(schedule, denoiser, xt, t)
    return _square_error(schedule, output, xt, t, prediction, "eps", eps)


def _square_error(
    schedule: NoiseSchedule, output: jax.Array, xt: jax.Array, t: jax.Array, prediction: str, kind: str, truth: jax.Array
) -> jax.Array:
    """[B] mean square error of the quantity `kind` that an output stands for."""
    predicted, _ = split_output(output, xt)
    return mean_over_example((truth - convert(schedule, predicted, xt, t, prediction, kind)) ** 2)


def x0_loss(
    schedule: NoiseSchedule, denoiser: Denoiser, x0: jax.Array, t: jax.Array, eps: jax.Array, *, prediction: str = "x0"
) -> jax.Array:
    """How far the reconstruction is from the data.

    mean over pixels of (x_0 - x_θ(x_t, t))²        (Ho et al. 2020, section 3.2: predicting x_0)

    Arguments and result are those of `eps_loss`.
    """
    xt = q_sample(schedule, x0, t, eps)
    output = network_output(schedule, denoiser, xt, t)
    return _square_error(schedule, output, xt, t, prediction, "x0", x0)


def v_loss(
    schedule: NoiseSchedule, denoiser: Denoiser, x0: jax.Array, t: jax.Array, eps: jax.Array, *, prediction: str = "v"
) -> jax.Array:
    """How far the predicted velocity is from v = √ᾱ_t ε - √(1-ᾱ_t) x_0.

    mean over pixels of (v - v_θ(x_t, t))²        (Salimans & Ho 2022, section 4: the SNR+1 weighting of the error of x_0)

    Arguments and result are those of `eps_loss`.
    """
    xt = q_sample(schedule, x0, t, eps)
    output = network_output(schedule, denoiser, xt, t)
    v = at(schedule.sqrt_alphas_bar, t, x0) * eps - at(schedule.sqrt_one_minus_alphas_bar, t, x0) * x0
    return _square_error(schedule, output, xt, t, prediction, "v", v)


def kl_loss(
    schedule: NoiseSchedule,
    denoiser: Denoiser,
    x0: jax.Array,
    t: jax.Array,
    eps: jax.Array,
    *,
    prediction: str = "eps",
    variance: str = "fixed_large",
    clip: Clip | None = None,
) -> jax.Array:
    """One term of the variational bound, in nats an image.

    t ≥ 1: L_t = KL(q(x_{t-1} | x_t, x_0) ‖ p(x_{t-1} | x_t));  t = 0: -log p(x_0 | x_1), discretised
    (Ho et al. 2020, eq. 5 and 13). The prior term, KL(q(x_T | x_0) ‖ N(0, I)), does not depend on the network.

    Args:
      denoiser: (x_t, t) -> output.
      x0: [B, ...] clean data on the 256 levels of [-1, 1].
      t: [B] integers in [0, T).
      eps: [B, ...] standard normal noise.
      prediction, variance, clip: as in `p_mean_variance`. Training does not clip.
    Returns:
      [B] nats, summed over the components of an example.
    """
    xt = q_sample(schedule, x0, t, eps)
    output = network_output(schedule, denoiser, xt, t)
    return bound_term(schedule, output, x0, xt, t, prediction=prediction, variance=variance, clip=clip)[0]


def bound_term(
    schedule: NoiseSchedule,
    output: jax.Array,
    x0: jax.Array,
    xt: jax.Array,
    t: jax.Array,
    *,
    prediction: str,
    variance: str,
    clip: Clip | None,
) -> tuple[jax.Array, jax.Array]:
    """The term of the bound that follows from an output for x_t: [B] nats, and the predicted x_0, [B, ...]. See `kl_loss`."""
    p, predicted_x0 = p_mean_variance(schedule, output, xt, t, prediction=prediction, variance=variance, clip=clip)
    kl = sum_over_example(gaussian_kl(q_posterior(schedule, x0, xt, t), p))
    decoder = -sum_over_example(discretized_log_likelihood(x0, p))
    return jnp.where(t == 0, decoder, kl), predicted_x0


def rescaled_kl_loss(
    schedule: NoiseSchedule,
    denoiser: Denoiser,
    x0: jax.Array,
    t: jax.Array,
    eps: jax.Array,
    *,
    prediction: str = "eps",
    variance: str = "fixed_large",
    clip: Clip | None = None,
) -> jax.Array:
    """T · `kl_loss`: its mean over uniform t is L_vlb, the whole bound but for the prior.

    T L_t        (Nichol & Dhariwal 2021, eq. 4, one term drawn of the sum)

    Arguments and result are those of `kl_loss`.
    """
    term = kl_loss(schedule, denoiser, x0, t, eps, prediction=prediction, variance=variance, clip=clip)
    return schedule.steps * term


def hybrid_loss(
    schedule: NoiseSchedule,
    denoiser: Denoiser,
    x0: jax.Array,
    t: jax.Array,
    eps: jax.Array,
    *,
    prediction: str = "eps",
    variance: str = "learned_range",
    weight: float = 1e-3,
) -> jax.Array:
    """L_simple for the mean, and a little of the bound for the variance.

    L_hybrid = L_simple + λ L_vlb, no gradient reaching the mean through L_vlb        (Nichol & Dhariwal 2021, eq. 16)

    L_vlb stands for T L_t in bits per dimension, as in the paper's public code.

    Args:
      denoiser: (x_t, t) -> output [B, ..., 2C].
      x0, t, eps: as in `kl_loss`.
      prediction: what the first half of the output is, see `to_x0`.
      variance: "learned_range" or "learned".
      weight: λ.
    Returns:
      [B].
    Raises:
      InvalidInput: the variance is not learned, so that L_vlb would train nothing.
    """
    check_hybrid(variance)
    xt = q_sample(schedule, x0, t, eps)
    output = network_output(schedule, denoiser, xt, t)
    frozen = _with_mean_detached(output, xt)
    term, _ = bound_term(schedule, frozen, x0, xt, t, prediction=prediction, variance=variance, clip=None)
    vlb = schedule.steps * nats_to_bits_per_dim(term, x0[0].size)
    return _square_error(schedule, output, xt, t, prediction, "eps", eps) + weight * vlb


def check_hybrid(variance: str) -> None:
    """Raises InvalidInput where the variance is not learned."""
    if variance not in LEARNED_VARIANCES:
        raise InvalidInput(f"the hybrid loss trains the variance, and {variance!r} is fixed: expected learned_range or learned")


def _with_mean_detached(output: jax.Array, xt: jax.Array) -> jax.Array:
    """The same output, through whose first half no gradient goes."""
    predicted, values = split_output(output, xt)
    return output if values is None else jnp.concatenate([jax.lax.stop_gradient(predicted), values], axis=-1)
