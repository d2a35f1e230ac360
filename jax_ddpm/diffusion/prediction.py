"""What the network's output means, and what p(x_{t-1} | x_t) follows from it. Every conversion goes through x_0."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jax_ddpm.diffusion.gaussian import Gaussian, q_posterior
from jax_ddpm.diffusion.schedules import NoiseSchedule, at
from jax_ddpm.errors import choose

Clip = Callable[[jax.Array], jax.Array]
"""What is done to a predicted x_0 before the mean is derived from it."""


def x0_from_eps(schedule: NoiseSchedule, xt: jax.Array, t: jax.Array, eps: jax.Array) -> jax.Array:
    """x_0 = x_t/√ᾱ_t - √(1/ᾱ_t - 1) ε        (Ho et al. 2020, eq. 4 solved for x_0). All [B, ...], t [B]."""
    return at(schedule.sqrt_recip_alphas_bar, t, xt) * xt - at(schedule.sqrt_recip_alphas_bar_minus_one, t, xt) * eps


def eps_from_x0(schedule: NoiseSchedule, xt: jax.Array, t: jax.Array, x0: jax.Array) -> jax.Array:
    """ε = (x_t - √ᾱ_t x_0)/√(1-ᾱ_t)        (Ho et al. 2020, eq. 4 solved for ε). All [B, ...], t [B]."""
    return (xt - at(schedule.sqrt_alphas_bar, t, xt) * x0) / at(schedule.sqrt_one_minus_alphas_bar, t, xt)


def _x0_itself(schedule: NoiseSchedule, xt: jax.Array, t: jax.Array, x0: jax.Array) -> jax.Array:
    return x0


_TO_X0 = {"eps": x0_from_eps, "x0": _x0_itself}
_FROM_X0 = {"eps": eps_from_x0, "x0": _x0_itself}
PREDICTIONS = tuple(_TO_X0)


def to_x0(schedule: NoiseSchedule, output: jax.Array, xt: jax.Array, t: jax.Array, prediction: str) -> jax.Array:
    """The x_0 that a network's output stands for.

    Args:
      output, xt: [B, ...].
      t: [B] integers in [0, T).
      prediction: what the output is, "eps" or "x0".
    Raises:
      InvalidInput: there is no such prediction.
    """
    return choose("prediction", prediction, _TO_X0)(schedule, xt, t, output)


def from_x0(schedule: NoiseSchedule, x0: jax.Array, xt: jax.Array, t: jax.Array, prediction: str) -> jax.Array:
    """The output, of the kind `prediction`, that stands for x_0: the inverse of `to_x0`."""
    return choose("prediction", prediction, _FROM_X0)(schedule, xt, t, x0)


def static_clip(x0: jax.Array) -> jax.Array:
    """x_0 held within [-1, 1], the range of the data."""
    return jnp.clip(x0, -1.0, 1.0)


def _fixed_small(schedule: NoiseSchedule, xt: jax.Array, t: jax.Array) -> jax.Array:
    return at(schedule.posterior_log_variance, t, xt)


def _fixed_large(schedule: NoiseSchedule, xt: jax.Array, t: jax.Array) -> jax.Array:
    return at(schedule.upper_log_variance, t, xt)


_LOG_VARIANCE = {"fixed_small": _fixed_small, "fixed_large": _fixed_large}
VARIANCES = tuple(_LOG_VARIANCE)


def p_mean_variance(
    schedule: NoiseSchedule,
    output: jax.Array,
    xt: jax.Array,
    t: jax.Array,
    *,
    prediction: str,
    variance: str,
    clip: Clip | None,
) -> tuple[Gaussian, jax.Array]:
    """One step of the learned reverse process, p(x_{t-1} | x_t).

    mean = that of q(x_{t-1} | x_t, x_0) at the predicted x_0        (Ho et al. 2020, eq. 7 and 11)

    Args:
      output: [B, ...] what the network said of x_t.
      xt: [B, ...] noisy data.
      t: [B] integers in [0, T).
      prediction: what the output is, "eps" or "x0".
      variance: "fixed_small" (β̃_t, right for data that is a point) or "fixed_large" (β_t, right for data N(0, I));
        section 3.2. At t = 0 both are β̃_1.
      clip: applied to the predicted x_0 before the mean is derived; None leaves it as it is.
    Returns:
      The Gaussian, with mean [B, ...] and log-variance [B, 1, ...]; and the predicted x_0, [B, ...], clipped.
    """
    log_variance = choose("variance", variance, _LOG_VARIANCE)(schedule, xt, t)
    x0 = to_x0(schedule, output, xt, t, prediction)
    if clip is not None:
        x0 = clip(x0)
    return Gaussian(q_posterior(schedule, x0, xt, t).mean, log_variance), x0
