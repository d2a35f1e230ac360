"""Training losses, one value an example, not reduced over the batch."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jax_ddpm.diffusion.gaussian import discretized_log_likelihood, gaussian_kl, q_posterior, q_sample
from jax_ddpm.diffusion.prediction import Clip, from_x0, p_mean_variance, to_x0
from jax_ddpm.diffusion.schedules import NoiseSchedule

Denoiser = Callable[[jax.Array, jax.Array], jax.Array]
"""(x_t [B, ...], t [B]) -> output [B, ...]; what it is conditioned on is closed over already."""


Loss = Callable[[NoiseSchedule, Denoiser, jax.Array, jax.Array, jax.Array], jax.Array]
"""(schedule, denoiser, x0 [B, ...], t [B], eps [B, ...]) -> [B]."""


def sum_over_example(values: jax.Array) -> jax.Array:
    """[B, ...] -> [B]: the sum over all but the first axis."""
    return jnp.sum(values, axis=tuple(range(1, values.ndim)))


def mean_over_example(values: jax.Array) -> jax.Array:
    """[B, ...] -> [B]: the mean over all but the first axis."""
    return jnp.mean(values, axis=tuple(range(1, values.ndim)))


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
      prediction: what the denoiser's output is, "eps" or "x0".
    Returns:
      [B] mean square errors.
    """
    xt = q_sample(schedule, x0, t, eps)
    output = denoiser(xt, t)
    if prediction != "eps":
        output = from_x0(schedule, to_x0(schedule, output, xt, t, prediction), xt, t, "eps")
    return mean_over_example((eps - output) ** 2)


def x0_loss(
    schedule: NoiseSchedule, denoiser: Denoiser, x0: jax.Array, t: jax.Array, eps: jax.Array, *, prediction: str = "x0"
) -> jax.Array:
    """How far the reconstruction is from the data.

    mean over pixels of (x_0 - x_θ(x_t, t))²        (Ho et al. 2020, section 3.2: predicting x_0)

    Arguments and result are those of `eps_loss`.
    """
    xt = q_sample(schedule, x0, t, eps)
    return mean_over_example((x0 - to_x0(schedule, denoiser(xt, t), xt, t, prediction)) ** 2)


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
    p, _ = p_mean_variance(schedule, denoiser(xt, t), xt, t, prediction=prediction, variance=variance, clip=clip)
    kl = sum_over_example(gaussian_kl(q_posterior(schedule, x0, xt, t), p))
    decoder = -sum_over_example(discretized_log_likelihood(x0, p))
    return jnp.where(t == 0, decoder, kl)
