"""How much each noise level counts. Every weighting is a factor on the squared error of the predicted x_0.

The errors of ε, x_0 and v are the same error on other scales (ε: SNR times that of x_0; v: SNR + 1 times), so `weighted` makes
one weighting mean one objective, whichever of them the loss is.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jax_ddpm.diffusion.losses import Loss
from jax_ddpm.diffusion.prediction import Denoiser, fixed_log_variance
from jax_ddpm.diffusion.schedules import NoiseSchedule
from jax_ddpm.errors import choose

Weighting = Callable[[NoiseSchedule, jax.Array], jax.Array]
"""(schedule, t [B]) -> [B]."""


def snr(schedule: NoiseSchedule, t: jax.Array) -> jax.Array:
    """The signal-to-noise ratio ᾱ_t/(1-ᾱ_t), [B]        (Kingma et al. 2021, eq. 2)."""
    return (jnp.asarray(schedule.sqrt_alphas_bar)[t] / jnp.asarray(schedule.sqrt_one_minus_alphas_bar)[t]) ** 2


def snr_weight(schedule: NoiseSchedule, t: jax.Array) -> jax.Array:
    """SNR_t: L_simple, seen as an error of x_0        (Salimans & Ho 2022, section 4)."""
    return snr(schedule, t)


def truncated_snr_weight(schedule: NoiseSchedule, t: jax.Array) -> jax.Array:
    """max(SNR_t, 1)        (Salimans & Ho 2022, section 4)."""
    return jnp.maximum(snr(schedule, t), 1)


def min_snr_weight(schedule: NoiseSchedule, t: jax.Array, gamma: float = 5.0) -> jax.Array:
    """min(SNR_t, γ)        (Hang et al. 2023, section 3.4)."""
    return jnp.minimum(snr(schedule, t), gamma)


def p2_weight(schedule: NoiseSchedule, t: jax.Array, k: float = 1.0, gamma: float = 1.0) -> jax.Array:
    """SNR_t/(k + SNR_t)^γ: perception-prioritised        (Choi et al. 2022, P2, there a factor on the error of ε)."""
    ratio = snr(schedule, t)
    return ratio / (k + ratio) ** gamma


def vlb_weight(schedule: NoiseSchedule, t: jax.Array, variance: str = "fixed_large") -> jax.Array:
    """[B] what turns the error of x_0, summed over the components, into the term L_t of the bound, less a constant.

    (√ᾱ_{t-1} β_t/(1-ᾱ_t))²/(2σ_t²)        (Ho et al. 2020, eq. 8 with eq. 7; eq. 12 is the same for the error of ε)

    The constant is what σ_t² ≠ β̃_t costs; for "fixed_small" it is zero and the weight (SNR_{t-1} - SNR_t)/2. That is for t ≥ 1;
    at t = 0 it is the weight in a decoder that is not discretised.

    Args:
      variance: "fixed_small" or "fixed_large".
    Raises:
      InvalidInput: another variance.
    """
    log_variance = jnp.asarray(fixed_log_variance(schedule, variance))[t]
    return 0.5 * jnp.asarray(schedule.posterior_mean_x0)[t] ** 2 * jnp.exp(-log_variance)


_ERROR_OF_X0 = {"eps": snr, "x0": lambda schedule, t: jnp.ones(t.shape), "v": lambda schedule, t: snr(schedule, t) + 1}


def weighted(loss: Loss, weighting: Weighting, error: str) -> Loss:
    """A loss, each example counted by the noise that it got.

    Where nothing of x_0 is left (SNR 0) an error of ε says nothing of x_0 and its weight is not defined: use that of v or x_0.

    Args:
      loss: a mean square error, such as `eps_loss`.
      weighting: the factor on the error of x_0.
      error: what the loss is the error of, "eps", "x0" or "v".
    Raises:
      InvalidInput: an error of something else.
    """
    scale = choose("error", error, _ERROR_OF_X0)

    def loss_of_each(schedule: NoiseSchedule, denoiser: Denoiser, x0: jax.Array, t: jax.Array, eps: jax.Array) -> jax.Array:
        return weighting(schedule, t) / scale(schedule, t) * loss(schedule, denoiser, x0, t, eps)

    return loss_of_each
