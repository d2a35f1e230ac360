"""The Gaussians of the forward process and of its reversal, and the distance between two of them."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jax_ddpm.diffusion.schedules import NoiseSchedule, at

PIXEL_STEP = 2 / 255  # the distance between two neighbouring 8-bit values in [-1, 1]


class Gaussian(NamedTuple):
    """A Gaussian with independent components. `log_variance` broadcasts over `mean`."""

    mean: jax.Array
    log_variance: jax.Array


def q_mean_variance(schedule: NoiseSchedule, x0: jax.Array, t: jax.Array) -> Gaussian:
    """The forward process in one stride, q(x_t | x_0).

    mean = √ᾱ_t x_0,  variance = 1 - ᾱ_t        (Ho et al. 2020, eq. 4)

    Args:
      x0: [B, ...] clean data.
      t: [B] integers in [0, T).
    Returns:
      Gaussian with mean [B, ...] and log-variance [B, 1, ...].
    """
    return Gaussian(at(schedule.sqrt_alphas_bar, t, x0) * x0, at(schedule.log_one_minus_alphas_bar, t, x0))


def q_sample(schedule: NoiseSchedule, x0: jax.Array, t: jax.Array, eps: jax.Array) -> jax.Array:
    """A draw from q(x_t | x_0), by the noise it is made of.

    x_t = √ᾱ_t x_0 + √(1-ᾱ_t) ε        (Ho et al. 2020, eq. 4 reparameterised)

    Args:
      x0: [B, ...] clean data.
      t: [B] integers in [0, T).
      eps: [B, ...] standard normal noise.
    Returns:
      x_t, [B, ...].
    """
    return at(schedule.sqrt_alphas_bar, t, x0) * x0 + at(schedule.sqrt_one_minus_alphas_bar, t, x0) * eps


def q_posterior(schedule: NoiseSchedule, x0: jax.Array, xt: jax.Array, t: jax.Array) -> Gaussian:
    """Posterior of one forward step, q(x_{t-1} | x_t, x_0).

    mean = (√ᾱ_{t-1} β_t x_0 + √α_t (1-ᾱ_{t-1}) x_t) / (1-ᾱ_t)
    variance = β_t (1-ᾱ_{t-1}) / (1-ᾱ_t)        (Ho et al. 2020, eq. 6 and 7)

    Args:
      x0, xt: [B, ...] clean and noisy data.
      t: [B] integers in [0, T).
    Returns:
      Gaussian with mean [B, ...] and log-variance [B, 1, ...]. At t = 0 the variance is 0; its log is that of t = 1.
    """
    mean = at(schedule.posterior_mean_x0, t, xt) * x0 + at(schedule.posterior_mean_xt, t, xt) * xt
    return Gaussian(mean, at(schedule.posterior_log_variance, t, xt))


def gaussian_kl(p: Gaussian, q: Gaussian) -> jax.Array:
    """KL(p ‖ q) of each component, in nats.

    ½ (log σ_q² - log σ_p² + (σ_p² + (μ_p - μ_q)²)/σ_q² - 1)

    Returns:
      The shape that the means and the log-variances broadcast to; not negative up to round-off.
    """
    log_ratio = p.log_variance - q.log_variance
    return 0.5 * (jnp.expm1(log_ratio) - log_ratio + (p.mean - q.mean) ** 2 * jnp.exp(-q.log_variance))


def discretized_log_likelihood(x0: jax.Array, gaussian: Gaussian) -> jax.Array:
    """log of the probability that `gaussian` gives to the 8-bit bin around each x_0, in nats.

    The bin is x_0 ± 1/255; the first and the last reach to -∞ and +∞        (Ho et al. 2020, eq. 13)

    Args:
      x0: [B, ...] data on the 256 levels -1, -1 + 2/255, … 1.
    Returns:
      [B, ...]; at least log 1e-12, as in the paper's code.
    """
    inverse_deviation = jnp.exp(-0.5 * gaussian.log_variance)
    centred = x0 - gaussian.mean
    upper = jnp.where(x0 > 0.999, jnp.inf, (centred + PIXEL_STEP / 2) * inverse_deviation)
    lower = jnp.where(x0 < -0.999, -jnp.inf, (centred - PIXEL_STEP / 2) * inverse_deviation)
    # Φ(b) - Φ(a) = Φ(-a) - Φ(-b): taken in the tail where both are small, the difference keeps its digits.
    mirrored = centred > 0
    high, low = jnp.where(mirrored, -lower, upper), jnp.where(mirrored, -upper, lower)
    cdf = jax.scipy.special.ndtr
    return jnp.log(jnp.maximum(cdf(high) - cdf(low), 1e-12))
