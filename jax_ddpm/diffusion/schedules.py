"""Noise schedules: how much noise the forward process adds at each step.

Every table is computed in float64 on the host and stored in float32, because 1 - ᾱ_t near t = 0 and ᾱ_t near t = T - 1 lose
their digits otherwise. `dtype=np.float64` keeps all of them, for references and for runs with `jax_enable_x64`.
"""

import dataclasses
from typing import Any, cast

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
      timesteps: the times that the network is told: 0 … T-1, or where a chain was shortened, those of the whole one. int32, or
        real where they lie between its steps.
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
      predicted_mean_x0, predicted_mean_xt: the weights of the mean that a network may predict. They are those of the posterior,
        and in a shortened chain those of the whole one, for which the network was trained.
    """

    timesteps: jax.Array
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
    predicted_mean_x0: jax.Array
    predicted_mean_xt: jax.Array

    @property
    def steps(self) -> int:
        """T, the number of steps."""
        return self.betas.shape[0]


def schedule_from_betas(betas: ArrayLike, dtype: DTypeLike = np.float32) -> NoiseSchedule:
    """The tables that follow from β_1 … β_T.

    Args:
      betas: [T] with every value between 0 and 1, both excluded; the last may be 1, which leaves nothing of x_0 (zero SNR).
      dtype: what the tables are stored in, float32 or float64; the arithmetic is float64 whatever this is.
    Raises:
      InvalidInput: betas is not a non-empty vector, a value lies outside (0, 1), or the dtype has too few digits.
    """
    betas = np.asarray(betas, np.float64)
    if betas.ndim != 1 or not betas.size:
        raise InvalidInput(f"betas has shape {betas.shape}: expected [T] with T ≥ 1")
    if not np.all((betas > 0) & (betas <= 1)) or np.any(betas[:-1] == 1):
        raise InvalidInput(
            f"betas lie in [{betas.min():g}, {betas.max():g}]: each must lie between 0 and 1, both excluded but for β_T = 1"
        )
    if np.dtype(dtype) not in (np.float32, np.float64):
        raise InvalidInput(f"dtype={np.dtype(dtype)}: a schedule keeps its digits in float32 or float64 alone")
    with np.errstate(divide="ignore"):
        log_signal = np.cumsum(np.log1p(-betas))
    tables = _marginal_tables(log_signal) | _step_tables(betas, log_signal)
    stored: dict[str, Any] = {name: table.astype(dtype) for name, table in tables.items()}
    return NoiseSchedule(**stored, timesteps=cast(jax.Array, np.arange(betas.size, dtype=np.int32)))


def log_alphas(schedule: NoiseSchedule) -> np.ndarray:
    """[T] log α_t in float64, from whichever table has kept its digits; -∞ where β_t = 1."""
    betas, alphas = np.asarray(schedule.betas, np.float64), np.asarray(schedule.alphas, np.float64)
    with np.errstate(divide="ignore"):
        return np.where(betas < 0.5, np.log1p(-betas), np.log(alphas))


def ends_in_noise(schedule: NoiseSchedule) -> bool:
    """Whether ᾱ_T is known to be 0; within a function that takes the schedule as an argument nothing is known of it yet."""
    return not isinstance(schedule.alphas_bar, jax.core.Tracer) and bool(schedule.alphas_bar[-1] == 0)


def _marginal_tables(log_signal: np.ndarray) -> dict[str, np.ndarray]:
    """What q(x_t | x_0) needs, from log ᾱ_t."""
    signal, noise = np.exp(log_signal), -np.expm1(log_signal)  # ᾱ and 1-ᾱ
    with np.errstate(divide="ignore"):
        return {
            "alphas_bar": signal,
            "sqrt_alphas_bar": np.sqrt(signal),
            "sqrt_one_minus_alphas_bar": np.sqrt(noise),
            "log_one_minus_alphas_bar": np.where(signal < 0.5, np.log1p(-signal), np.log(noise)),
            "sqrt_recip_alphas_bar": np.sqrt(1 / signal),
            "sqrt_recip_alphas_bar_minus_one": np.sqrt(noise / signal),
        }


MARGINALS = tuple(_marginal_tables(np.zeros(1)))  # the names of the tables that do not depend on the steps between


def _step_tables(betas: np.ndarray, log_signal: np.ndarray) -> dict[str, np.ndarray]:
    """What q(x_{t-1} | x_t, x_0) and p(x_{t-1} | x_t) need, from β_t and log ᾱ_t."""
    noise = -np.expm1(log_signal)
    log_signal_prev, noise_prev = np.append(0.0, log_signal[:-1]), np.append(0.0, noise[:-1])
    posterior_variance = betas * noise_prev / noise
    # The posterior at t = 0 is a point. Its log-variance takes the value of t = 1 (Ho et al., public code); a chain of one
    # step has no t = 1, so there it is log β.
    first = posterior_variance[1] if betas.size > 1 else betas[0]
    of_x0 = np.exp(0.5 * log_signal_prev) * betas / noise
    of_xt = np.sqrt(1 - betas) * noise_prev / noise
    return {
        "betas": betas,
        "alphas": 1 - betas,
        "posterior_mean_x0": of_x0,
        "posterior_mean_xt": of_xt,
        "predicted_mean_x0": of_x0,
        "predicted_mean_xt": of_xt,
        "posterior_variance": posterior_variance,
        "posterior_log_variance": np.log(np.append(first, posterior_variance[1:])),
        "upper_log_variance": np.log(np.append(first, betas[1:])),
    }


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


def at_level(schedule: NoiseSchedule, level: jax.Array) -> NoiseSchedule:
    """The marginals where log √((1-ᾱ)/ᾱ) is `level`, [B], as a schedule of B rows.

    The other tables have no meaning there. It is enough for all predictions but the mean, which is of a step.
    """
    return dataclasses.replace(
        schedule,
        alphas_bar=jax.nn.sigmoid(-2 * level),
        sqrt_alphas_bar=jnp.sqrt(jax.nn.sigmoid(-2 * level)),
        sqrt_one_minus_alphas_bar=jnp.sqrt(jax.nn.sigmoid(2 * level)),
        log_one_minus_alphas_bar=jax.nn.log_sigmoid(2 * level),
        sqrt_recip_alphas_bar=jnp.exp(0.5 * jax.nn.softplus(2 * level)),
        sqrt_recip_alphas_bar_minus_one=jnp.exp(level),
    )


def at_times(schedule: NoiseSchedule, times: jax.Array) -> NoiseSchedule:
    """The schedule of B rows that a network, told the times [B], is in.

    Args:
      times: some of `schedule.timesteps`; or real numbers, between which the marginals are interpolated, see `at_level`.
    """
    known = jnp.asarray(schedule.timesteps)
    if jnp.issubdtype(times.dtype, jnp.integer):
        rows = jnp.searchsorted(known, times, method="compare_all")  # without a loop
        return jax.tree.map(lambda table: jnp.asarray(table)[rows], schedule)
    levels = jnp.log(jnp.asarray(schedule.sqrt_recip_alphas_bar_minus_one))
    # What jnp.interp does, without the loop of its search.
    below = jnp.maximum(jnp.searchsorted(known, times, side="right", method="compare_all") - 1, 0)
    above = jnp.minimum(below + 1, known.size - 1)
    gap = jnp.maximum(known[above] - known[below], jnp.finfo(times.dtype).tiny)
    share = jnp.clip((times - known[below]) / gap, 0, 1)
    between = at_level(schedule, levels[below] + share * (levels[above] - levels[below]))
    return dataclasses.replace(between, timesteps=times)


def _check_steps(steps: int) -> None:
    if not isinstance(steps, int | np.integer) or steps < 1:
        raise InvalidInput(f"steps={steps}: expected a whole number, for a chain has at least one step")


def _scaled(steps: int, beta_start: float, beta_end: float) -> tuple[float, float]:
    """The ends of a β range given for T = 1000, for T = steps: ᾱ_T stays about the same, as long as no β comes near 1."""
    _check_steps(steps)
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
    _check_steps(steps)
    return _clipped(1 / np.linspace(steps, 1, steps), dtype)


def cosine_schedule(steps: int, offset: float = 0.008, *, dtype: DTypeLike = np.float32) -> NoiseSchedule:
    """ᾱ_t ∝ cos²((t/T + s)/(1 + s)·π/2), β_t at most .999 (Nichol & Dhariwal 2021, eq. 17). `offset` is s."""
    _check_steps(steps)
    if not 0 <= offset < np.inf:
        raise InvalidInput(f"offset={offset}: expected 0 or more, such as .008")
    alphas_bar = np.cos((np.arange(steps + 1) / steps + offset) / (1 + offset) * np.pi / 2) ** 2
    return _clipped(1 - alphas_bar[1:] / alphas_bar[:-1], dtype)


def zero_terminal_snr(schedule: NoiseSchedule) -> NoiseSchedule:
    """The schedule with √ᾱ_t shifted and stretched so that nothing of x_0 is left in x_T, and x_1 stays as it is.

    √ᾱ'_t = (√ᾱ_t - √ᾱ_T) √ᾱ_1 / (√ᾱ_1 - √ᾱ_T)        (Lin et al. 2023, algorithm 1)

    At the last step the noise no longer says what x_0 was, so the network has to predict "v", "x0" or "mean", and a loss that
    is the error of ε trains nothing there. Shorten the chain afterwards, not before.

    Args:
      schedule: its tables on the host.
    Raises:
      InvalidInput: a chain of one step, which would keep nothing at all, or one that was shortened.
    """
    if schedule.steps < 2:
        raise InvalidInput("zero_terminal_snr: a chain of one step has its only step at the end; expected 2 or more")
    if not np.array_equal(schedule.timesteps, np.arange(schedule.steps)):
        raise InvalidInput("zero_terminal_snr of a shortened chain: expected the whole one, respace(zero_terminal_snr(…), …)")
    roots = np.exp(0.5 * np.cumsum(log_alphas(schedule)))
    alphas_bar = ((roots - roots[-1]) * roots[0] / (roots[0] - roots[-1])) ** 2
    betas = np.append(schedule.betas[0], 1 - alphas_bar[1:] / alphas_bar[:-1])
    return schedule_from_betas(betas, schedule.betas.dtype)
