"""Noise schedules: how much noise the forward process adds at each step.

Every table is computed in float64 on the host and stored in float32, because 1 - ᾱ_t near t = 0 and ᾱ_t near t = T - 1 lose
their digits otherwise. `dtype=np.float64` keeps all of them, for references and for runs with `jax_enable_x64`.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike, DTypeLike

from jax_ddpm.errors import InvalidInput

MAX_BETA = 0.999  # β = 1 would wipe x_{t-1} out and make 1/√ᾱ_t infinite (Nichol & Dhariwal 2021, section 3.2)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class NoiseSchedule:
    """The tables of a forward process, each [T]; index 0 is the least noisy step, x_1 in the paper's numbering.

    Attributes:
      betas: β_t, the variance that step t adds.
      alphas: α_t = 1 - β_t.
      alphas_bar: ᾱ_t = Π_{s≤t} α_s.
      sqrt_alphas_bar: √ᾱ_t, the share of x_0 in x_t.
      sqrt_one_minus_alphas_bar: √(1-ᾱ_t), the share of the noise in x_t.
      log_one_minus_alphas_bar: log(1-ᾱ_t), the log-variance of q(x_t | x_0).
      sqrt_recip_alphas_bar: 1/√ᾱ_t.
      sqrt_recip_alphas_bar_minus_one: √(1/ᾱ_t - 1).
      posterior_mean_x0: √ᾱ_{t-1} β_t / (1-ᾱ_t), the weight of x_0 in the mean of q(x_{t-1} | x_t, x_0).
      posterior_mean_xt: √α_t (1-ᾱ_{t-1}) / (1-ᾱ_t), the weight of x_t in it.
      posterior_variance: β̃_t = β_t (1-ᾱ_{t-1}) / (1-ᾱ_t); zero at t = 0.
      posterior_log_variance: log β̃_t, with the value of t = 1 at t = 0.
      upper_log_variance: log β_t, with the value of log β̃_1 at t = 0.
    """

    betas: jax.Array
    alphas: jax.Array
    alphas_bar: jax.Array
    sqrt_alphas_bar: jax.Array
    sqrt_one_minus_alphas_bar: jax.Array
    log_one_minus_alphas_bar: jax.Array
    sqrt_recip_alphas_bar: jax.Array
    sqrt_recip_alphas_bar_minus_one: jax.Array
    posterior_mean_x0: jax.Array
    posterior_mean_xt: jax.Array
    posterior_variance: jax.Array
    posterior_log_variance: jax.Array
    upper_log_variance: jax.Array

    @property
    def steps(self) -> int:
        """T, the number of steps."""
        return self.betas.shape[0]


def schedule_from_betas(betas: ArrayLike, dtype: DTypeLike = np.float32) -> NoiseSchedule:
    """The tables that follow from β_1 … β_T.

    Args:
      betas: [T] with every value in (0, 1).
      dtype: what the tables are stored in; the arithmetic is float64 whatever this is.
    Raises:
      InvalidInput: betas is not a non-empty vector, or a value lies outside (0, 1).
    """
    betas = np.asarray(betas, np.float64)
    if betas.ndim != 1 or not betas.size:
        raise InvalidInput(f"betas has shape {betas.shape}: expected [T] with T ≥ 1")
    if not np.all((betas > 0) & (betas < 1)):
        raise InvalidInput(f"betas lie in [{betas.min():g}, {betas.max():g}]: each must lie between 0 and 1, both excluded")
    alphas = 1 - betas
    alphas_bar = np.cumprod(alphas)
    alphas_bar_prev = np.append(1.0, alphas_bar[:-1])
    posterior_variance = betas * (1 - alphas_bar_prev) / (1 - alphas_bar)
    # The posterior at t = 0 is a point. Its log-variance takes the value of t = 1 (Ho et al., public code); a chain of one
    # step has no t = 1, so there it is log β.
    first = posterior_variance[1] if betas.size > 1 else betas[0]
    tables = {
        "betas": betas,
        "alphas": alphas,
        "alphas_bar": alphas_bar,
        "sqrt_alphas_bar": np.sqrt(alphas_bar),
        "sqrt_one_minus_alphas_bar": np.sqrt(1 - alphas_bar),
        "log_one_minus_alphas_bar": np.log1p(-alphas_bar),
        "sqrt_recip_alphas_bar": np.sqrt(1 / alphas_bar),
        "sqrt_recip_alphas_bar_minus_one": np.sqrt((1 - alphas_bar) / alphas_bar),
        "posterior_mean_x0": np.sqrt(alphas_bar_prev) * betas / (1 - alphas_bar),
        "posterior_mean_xt": np.sqrt(alphas) * (1 - alphas_bar_prev) / (1 - alphas_bar),
        "posterior_variance": posterior_variance,
        "posterior_log_variance": np.log(np.append(first, posterior_variance[1:])),
        "upper_log_variance": np.log(np.append(first, betas[1:])),
    }
    return NoiseSchedule(**{name: table.astype(dtype) for name, table in tables.items()})


def at(table: ArrayLike, t: jax.Array, like: jax.Array) -> jax.Array:
    """`table[t]`, with axes of size 1 added so that it broadcasts over `like`.

    Args:
      table: [T].
      t: [B] integers in [0, T).
      like: [B, ...].
    Returns:
      [B, 1, ...] with as many axes as `like`.
    """
    values = jnp.asarray(table)[t]
    return values.reshape(values.shape + (1,) * (like.ndim - values.ndim))


def _scaled(steps: int, beta_start: float, beta_end: float) -> tuple[float, float]:
    """The ends of a β range given for T = 1000, for T = steps: ᾱ_T stays about the same, as long as no β comes near 1."""
    if steps < 1:
        raise InvalidInput(f"steps={steps}: a chain has at least one step")
    if not 0 < beta_start <= beta_end < 1:
        raise InvalidInput(f"beta_start={beta_start}, beta_end={beta_end}: expected 0 < beta_start ≤ beta_end < 1")
    return beta_start * 1000 / steps, beta_end * 1000 / steps


def _clipped(betas: np.ndarray, dtype: DTypeLike) -> NoiseSchedule:
    return schedule_from_betas(np.minimum(betas, MAX_BETA), dtype)


def linear_schedule(
    steps: int, beta_start: float = 1e-4, beta_end: float = 2e-2, *, dtype: DTypeLike = np.float32
) -> NoiseSchedule:
    """β_t on a line (Ho et al. 2020, section 4), its ends scaled by 1000/T, at most .999."""
    return _clipped(np.linspace(*_scaled(steps, beta_start, beta_end), steps), dtype)


def quadratic_schedule(
    steps: int, beta_start: float = 1e-4, beta_end: float = 2e-2, *, dtype: DTypeLike = np.float32
) -> NoiseSchedule:
    """√β_t on a line (Song et al. 2021, DDIM, appendix D), its ends scaled by 1000/T, at most .999."""
    start, end = np.sqrt(_scaled(steps, beta_start, beta_end))
    return _clipped(np.linspace(start, end, steps) ** 2, dtype)


def sigmoid_schedule(
    steps: int, beta_start: float = 1e-4, beta_end: float = 2e-2, *, dtype: DTypeLike = np.float32
) -> NoiseSchedule:
    """β_t on a logistic curve over [-6, 6] between the two ends (Xu et al. 2022, GeoDiff), scaled by 1000/T, at most .999."""
    start, end = _scaled(steps, beta_start, beta_end)
    return _clipped(start + (end - start) / (1 + np.exp(-np.linspace(-6, 6, steps))), dtype)


def constant_schedule(steps: int, beta: float = 2e-2, *, dtype: DTypeLike = np.float32) -> NoiseSchedule:
    """β_t = β·1000/T at every step (compared by Ho et al. 2020, section 4), at most .999."""
    return _clipped(np.full(steps, _scaled(steps, beta, beta)[1]), dtype)


def jsd_schedule(steps: int, *, dtype: DTypeLike = np.float32) -> NoiseSchedule:
    """β_t = 1/(T-t), 1/T … 1, at most .999 (Sohl-Dickstein et al. 2015, section 2.4.1): every step erases an equal share."""
    if steps < 1:
        raise InvalidInput(f"steps={steps}: a chain has at least one step")
    return _clipped(1 / np.linspace(steps, 1, steps), dtype)


def cosine_schedule(steps: int, offset: float = 0.008, *, dtype: DTypeLike = np.float32) -> NoiseSchedule:
    """ᾱ_t ∝ cos²((t/T + s)/(1 + s)·π/2), β_t at most .999 (Nichol & Dhariwal 2021, eq. 17). `offset` is s."""
    if steps < 1:
        raise InvalidInput(f"steps={steps}: a chain has at least one step")
    alphas_bar = np.cos((np.arange(steps + 1) / steps + offset) / (1 + offset) * np.pi / 2) ** 2
    return _clipped(1 - alphas_bar[1:] / alphas_bar[:-1], dtype)
