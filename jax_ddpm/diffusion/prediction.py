"""What the network's output means, and what p(x_{t-1} | x_t) follows from it. Every conversion goes through x_0."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jax_ddpm.diffusion.gaussian import Gaussian, q_posterior
from jax_ddpm.diffusion.schedules import NoiseSchedule, at, ends_in_noise
from jax_ddpm.errors import InvalidInput, choose

Denoiser = Callable[[jax.Array, jax.Array], jax.Array]
"""(x_t [B, ..., C], t [B]) -> output [B, ..., C], or [B, ..., 2C] of a learned variance; its conditions are closed over."""

Clip = Callable[[jax.Array], jax.Array]
"""What is done to a predicted x_0 before the mean is derived from it."""


def network_output(schedule: NoiseSchedule, denoiser: Denoiser, xt: jax.Array, t: jax.Array) -> jax.Array:
    """What the denoiser says of x_t, told the time of the whole chain where the schedule is a shortened one."""
    return denoiser(xt, jnp.asarray(schedule.timesteps)[t])


def split_output(output: jax.Array, xt: jax.Array) -> tuple[jax.Array, jax.Array | None]:
    """A network's output as what it predicts, [B, ..., C], and what it says of the variance, the same or None.

    Raises:
      InvalidInput: it has neither as many channels as xt nor twice as many.
    """
    channels = xt.shape[-1]
    if output.shape == xt.shape:
        return output, None
    if output.shape == (*xt.shape[:-1], 2 * channels):
        return output[..., :channels], output[..., channels:]
    raise InvalidInput(
        f"the denoiser's output has shape {output.shape}: expected that of x_t, {xt.shape}, or twice its channels where the "
        "variance is learned"
    )


def x0_from_eps(schedule: NoiseSchedule, xt: jax.Array, t: jax.Array, eps: jax.Array) -> jax.Array:
    """x_0 = x_t/√ᾱ_t - √(1/ᾱ_t - 1) ε        (Ho et al. 2020, eq. 4 solved for x_0). All [B, ...], t [B]."""
    return at(schedule.sqrt_recip_alphas_bar, t, xt) * xt - at(schedule.sqrt_recip_alphas_bar_minus_one, t, xt) * eps


def eps_from_x0(schedule: NoiseSchedule, xt: jax.Array, t: jax.Array, x0: jax.Array) -> jax.Array:
    """ε = (x_t - √ᾱ_t x_0)/√(1-ᾱ_t)        (Ho et al. 2020, eq. 4 solved for ε). All [B, ...], t [B]."""
    return (xt - at(schedule.sqrt_alphas_bar, t, xt) * x0) / at(schedule.sqrt_one_minus_alphas_bar, t, xt)


def x0_from_v(schedule: NoiseSchedule, xt: jax.Array, t: jax.Array, v: jax.Array) -> jax.Array:
    """x_0 = √ᾱ_t x_t - √(1-ᾱ_t) v        (Salimans & Ho 2022, appendix D). All [B, ...], t [B]."""
    return at(schedule.sqrt_alphas_bar, t, xt) * xt - at(schedule.sqrt_one_minus_alphas_bar, t, xt) * v


def v_from_x0(schedule: NoiseSchedule, xt: jax.Array, t: jax.Array, x0: jax.Array) -> jax.Array:
    """v = √ᾱ_t ε - √(1-ᾱ_t) x_0 = (√ᾱ_t x_t - x_0)/√(1-ᾱ_t)        (Salimans & Ho 2022, section 4). All [B, ...], t [B]."""
    return (at(schedule.sqrt_alphas_bar, t, xt) * xt - x0) / at(schedule.sqrt_one_minus_alphas_bar, t, xt)


def x0_from_mean(schedule: NoiseSchedule, xt: jax.Array, t: jax.Array, mean: jax.Array) -> jax.Array:
    """x_0 from the mean of p(x_{t-1} | x_t)        (Ho et al. 2020, eq. 7 solved for x_0). All [B, ...], t [B]."""
    return (mean - at(schedule.predicted_mean_xt, t, xt) * xt) / at(schedule.predicted_mean_x0, t, xt)


def mean_from_x0(schedule: NoiseSchedule, xt: jax.Array, t: jax.Array, x0: jax.Array) -> jax.Array:
    """The mean of q(x_{t-1} | x_t, x_0), a step of the whole chain        (Ho et al. 2020, eq. 7). All [B, ...], t [B]."""
    return at(schedule.predicted_mean_x0, t, xt) * x0 + at(schedule.predicted_mean_xt, t, xt) * xt


def x0_from_score(schedule: NoiseSchedule, xt: jax.Array, t: jax.Array, score: jax.Array) -> jax.Array:
    """x_0 = (x_t + (1-ᾱ_t) ∇log q(x_t))/√ᾱ_t        (Tweedie's formula; Efron 2011, eq. 1.4). All [B, ...], t [B]."""
    return x0_from_eps(schedule, xt, t, -at(schedule.sqrt_one_minus_alphas_bar, t, xt) * score)


def score_from_x0(schedule: NoiseSchedule, xt: jax.Array, t: jax.Array, x0: jax.Array) -> jax.Array:
    """∇log q(x_t | x_0) = -ε/√(1-ᾱ_t)        (Song et al. 2021, score-based modelling, section 3.3). All [B, ...], t [B]."""
    return -eps_from_x0(schedule, xt, t, x0) / at(schedule.sqrt_one_minus_alphas_bar, t, xt)


def _x0_itself(schedule: NoiseSchedule, xt: jax.Array, t: jax.Array, x0: jax.Array) -> jax.Array:
    return x0


_TO_X0 = {"eps": x0_from_eps, "x0": _x0_itself, "v": x0_from_v, "mean": x0_from_mean, "score": x0_from_score}
_FROM_X0 = {"eps": eps_from_x0, "x0": _x0_itself, "v": v_from_x0, "mean": mean_from_x0, "score": score_from_x0}
PREDICTIONS = tuple(_TO_X0)


def to_x0(schedule: NoiseSchedule, output: jax.Array, xt: jax.Array, t: jax.Array, prediction: str) -> jax.Array:
    """The x_0 that a network's output stands for.

    Args:
      output, xt: [B, ...].
      t: [B] integers in [0, T).
      prediction: what the output is: "eps", "x0", "v", "mean" (of p(x_{t-1} | x_t)) or "score".
    Raises:
      InvalidInput: there is no such prediction.
    """
    return choose("prediction", prediction, _TO_X0)(schedule, xt, t, output)


def from_x0(schedule: NoiseSchedule, x0: jax.Array, xt: jax.Array, t: jax.Array, prediction: str) -> jax.Array:
    """The output [B, ...], of the kind `prediction`, that stands for x_0: the inverse of `to_x0`, whose errors it has."""
    return choose("prediction", prediction, _FROM_X0)(schedule, xt, t, x0)


def convert(schedule: NoiseSchedule, output: jax.Array, xt: jax.Array, t: jax.Array, source: str, target: str) -> jax.Array:
    """An output [B, ...] of the kind `source` as one of the kind `target`, by way of x_0; one of its own kind stays as it is.

    Raises:
      InvalidInput: there is no such prediction.
    """
    if source == target:
        choose("prediction", source, _TO_X0)
        return output
    return from_x0(schedule, to_x0(schedule, output, xt, t, source), xt, t, target)


def check_prediction(schedule: NoiseSchedule, prediction: str) -> None:
    """Raises InvalidInput where no x_0 follows from what the network predicts.

    That is so of noise or score where x_T is noise alone, and of the mean of a step where the times lie between steps.
    """
    choose("prediction", prediction, _TO_X0)
    if prediction in ("eps", "score") and ends_in_noise(schedule):
        raise InvalidInput(
            f"prediction {prediction!r} cannot say x_0 where ᾱ_T = 0: expected v, x0 or mean, with zero terminal SNR"
        )
    if prediction == "mean" and jnp.issubdtype(schedule.timesteps.dtype, jnp.floating):
        raise InvalidInput(
            "prediction 'mean' is of a step, not of a level of noise between two: expected whole times, as linspace has"
        )


def static_clip(x0: jax.Array) -> jax.Array:
    """x_0 held within [-1, 1], the range of the data."""
    return jnp.clip(x0, -1.0, 1.0)


def dynamic_threshold(quantile: float = 0.995) -> Clip:
    """x_0 held within ±s and divided by s, where s is this quantile of an example's |x_0|, but at least 1.

    (Saharia et al. 2022, Imagen, section 2.3)
    """
    if not 0 < quantile <= 1:
        raise InvalidInput(f"quantile={quantile}: expected a share, more than 0 and at most 1, such as .995")

    def clip(x0: jax.Array) -> jax.Array:
        sizes = jnp.abs(x0).reshape(x0.shape[0], -1)
        limit = jnp.maximum(jnp.quantile(sizes, quantile, axis=1), 1.0)
        limit = limit.reshape(-1, *(1,) * (x0.ndim - 1))
        return jnp.clip(x0, -limit, limit) / limit

    return clip


def _learned(schedule: NoiseSchedule, values: jax.Array, t: jax.Array) -> jax.Array:
    return values


def _learned_range(schedule: NoiseSchedule, values: jax.Array, t: jax.Array) -> jax.Array:
    share = (values + 1) / 2
    return share * jnp.log(at(schedule.betas, t, values)) + (1 - share) * at(schedule.posterior_log_variance, t, values)


_FIXED = {"fixed_small": "posterior_log_variance", "fixed_large": "upper_log_variance"}  # the tables
_LEARNED = {"learned": _learned, "learned_range": _learned_range}
LEARNED_VARIANCES = tuple(_LEARNED)
VARIANCES = (*_FIXED, *_LEARNED)


def fixed_log_variance(schedule: NoiseSchedule, variance: str) -> jax.Array:
    """[T] log σ_t² of "fixed_small" or "fixed_large", see `p_mean_variance`."""
    return getattr(schedule, choose("fixed variance", variance, _FIXED))


def predicted_log_variance(
    schedule: NoiseSchedule, values: jax.Array | None, xt: jax.Array, t: jax.Array, variance: str
) -> jax.Array:
    """log σ_t² of p(x_{t-1} | x_t), [B, 1, ...] or, where it is learned, [B, ...]; see `p_mean_variance`.

    Args:
      values: [B, ...] what the network said of it, or None.
    Raises:
      InvalidInput: an unknown variance, or a learned one of which the network said nothing.
    """
    choose("variance", variance, dict.fromkeys(VARIANCES))
    if variance in _FIXED:
        return at(fixed_log_variance(schedule, variance), t, xt)
    if values is None:
        raise InvalidInput(
            f"variance {variance!r}, but the denoiser's output has no more than the {xt.shape[-1]} channels of x_t: expected "
            f"{2 * xt.shape[-1]}, or variance 'fixed_large'"
        )
    return _LEARNED[variance](schedule, values, t)


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

    The variance is one of
      "fixed_small": β̃_t, right for data that is a point;
      "fixed_large": β_t, right for data N(0, I) (Ho et al. 2020, section 3.2); at t = 0 both are β̃_1;
      "learned": log σ² is the second half of the output's channels, v, for steps of the whole chain (Nichol & Dhariwal 2021,
        public code);
      "learned_range": log σ² = f log β_t + (1-f) log β̃_t with f = (v+1)/2 (Nichol & Dhariwal 2021, eq. 15).

    Args:
      output: [B, ..., C] what the network said of x_t, or [B, ..., 2C] where it says the variance too.
      xt: [B, ..., C] noisy data.
      t: [B] integers in [0, T).
      prediction: what the output is, see `to_x0`.
      variance: see above.
      clip: applied to the predicted x_0 before the mean is derived; None leaves it as it is.
    Returns:
      The Gaussian, with mean [B, ...] and log-variance [B, 1, ...], or [B, ...] where it is learned; and the predicted x_0,
      [B, ...], clipped.
    Raises:
      InvalidInput: an unknown name, an output of another shape, or "eps" or "score" where ᾱ_T = 0.
    """
    check_prediction(schedule, prediction)
    predicted, values = split_output(output, xt)
    log_variance = predicted_log_variance(schedule, values, xt, t, variance)
    x0 = to_x0(schedule, predicted, xt, t, prediction)
    if clip is not None:
        x0 = clip(x0)
    return Gaussian(q_posterior(schedule, x0, xt, t).mean, log_variance), x0
