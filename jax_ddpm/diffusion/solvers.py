"""Solvers of higher order for the probability flow, as tables for `sample`: Euler, Heun, DPM-Solver++ and UniPC.

All predict data: they follow x̂_0, which may be clipped. h is the step in λ = log √(ᾱ/(1-ᾱ)), half the log SNR.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from jax_ddpm.diffusion.prediction import Clip, static_clip
from jax_ddpm.diffusion.respacing import Spacing, noise_levels, respace, sampler_times
from jax_ddpm.diffusion.samplers import visited_levels
from jax_ddpm.diffusion.sampling import Sampler, from_table
from jax_ddpm.diffusion.schedules import NoiseSchedule
from jax_ddpm.errors import InvalidInput

EVERYWHERE = (0.0, math.inf)
MAX_CHURN = math.sqrt(2) - 1  # a step: more than this would more than double the variance


def euler(
    schedule: NoiseSchedule,
    *,
    steps: int | None = None,
    spacing: Spacing = "karras",
    churn: float = 0.0,
    churn_range: tuple[float, float] = EVERYWHERE,
    churn_noise: float = 1.0,
    prediction: str = "eps",
    clip: Clip | None = static_clip,
) -> Sampler:
    """Euler's method for dx/dσ = (x - x̂_0)/σ in x/√ᾱ and σ = √((1-ᾱ)/ᾱ)        (Karras et al. 2022, algorithm 2, no correction)

    Without churn this is `ddim` with eta = 0 at other times. Its arguments are those of `heun`.
    """
    return _edm(schedule, steps, spacing, churn, churn_range, churn_noise, prediction, clip, correct=False)


def heun(
    schedule: NoiseSchedule,
    *,
    steps: int | None = None,
    spacing: Spacing = "karras",
    churn: float = 0.0,
    churn_range: tuple[float, float] = EVERYWHERE,
    churn_noise: float = 1.0,
    prediction: str = "eps",
    clip: Clip | None = static_clip,
) -> Sampler:
    """Heun's method for dx/dσ = (x - x̂_0)/σ in x/√ᾱ and σ = √((1-ᾱ)/ᾱ)        (Karras et al. 2022, algorithms 1 and 2)

    Of second order, with two evaluations a step, but one for the last, which leads to σ = 0: 2·steps - 1 in all.

    Args:
      steps, spacing: see `sampler_times`. The paper's is "karras".
      churn: S_churn; before each step noise is added that raises σ by a factor 1 + min(churn/steps, √2 - 1), though not past
        that of T-1, the highest that the network knows; x_T is taken to lie where the first step starts. 0 adds none.
      churn_range: S_tmin and S_tmax, the σ between which it is.
      churn_noise: S_noise, the standard deviation of that noise, if not quite 1.
      prediction, clip: as in `p_mean_variance`. A variance that the network says too is passed over.
    Raises:
      InvalidInput: an unknown name, a negative churn, or a schedule with zero terminal SNR.
    """
    return _edm(schedule, steps, spacing, churn, churn_range, churn_noise, prediction, clip, correct=True)


class _Level(NamedTuple):
    """A level of noise: its row in the sampler's chain, √ᾱ and √(1-ᾱ)."""

    row: int
    signal: float
    noise: float


_CLEAN = _Level(-1, 1.0, 0.0)


class _Line(NamedTuple):
    """One evaluation of Euler's or Heun's method: see `Sampler`."""

    asked: _Level
    reached: _Level
    of_x: float
    of_x0: tuple[float, float]
    deviation: float = 0.0


def _edm(
    schedule: NoiseSchedule,
    steps: int | None,
    spacing: Spacing,
    churn: float,
    churn_range: tuple[float, float],
    churn_noise: float,
    prediction: str,
    clip: Clip | None,
    *,
    correct: bool,
) -> Sampler:
    """Euler's method, or Heun's, in which each step but the last is corrected by a second evaluation where it ends."""
    if churn < 0 or churn_noise < 0:
        raise InvalidInput(f"churn={churn}, churn_noise={churn_noise}: expected 0 or more")
    if len(churn_range) != 2:
        raise InvalidInput(f"churn_range={churn_range}: expected two values of √((1-ᾱ)/ᾱ), such as (0.05, 50.0)")
    times = sampler_times(schedule, steps, spacing)[::-1]
    raised = _churned(schedule, times, churn, churn_range)
    every = np.unique(np.append(times, raised))
    short = respace(schedule, every)
    signal, noise = (level[:-1][::-1] for level in visited_levels(short))
    stops, starts = (
        [_Level(row, signal[row], noise[row]) for row in np.searchsorted(every, chosen)] for chosen in (times, raised)
    )
    lines: list[_Line] = []
    for start, stop, following in zip(starts, [*stops[1:], _CLEAN], [*starts[1:], _CLEAN], strict=True):
        lines.append(_predicted(start, stop))
        if correct and stop is not _CLEAN:
            lines.append(_corrected(start, stop))
        lines[-1] = _with_churn(lines[-1], following, churn_noise)
    return from_table(
        short,
        np.array([line.asked.row for line in lines]),
        np.array([line.reached.signal**2 for line in lines]),
        np.array([line.of_x for line in lines]),
        np.array([line.of_x0[: 1 + correct] for line in lines]),
        deviations=np.array([line.deviation for line in lines]),
        prediction=prediction,
        clip=clip,
    )


def _churned(schedule: NoiseSchedule, times: np.ndarray, churn: float, churn_range: tuple[float, float]) -> np.ndarray:
    """The times whose σ is that of the given ones, raised by churn."""
    if not churn:
        return times
    levels, rows = noise_levels(schedule), np.arange(schedule.steps)
    here = np.interp(times, rows, levels)
    inside = (np.exp(here) >= churn_range[0]) & (np.exp(here) <= churn_range[1])
    raised = np.interp(here + math.log1p(min(churn / len(times), MAX_CHURN)), levels, rows)
    return np.where(inside, raised, times)


def _predicted(start: _Level, stop: _Level) -> _Line:
    """x' = σ'/σ x + (√ᾱ' - √ᾱ σ'/σ) x̂_0: a step along the slope at its start."""
    share = stop.noise / start.noise
    return _Line(start, stop, share, (stop.signal - share * start.signal, 0.0))


def _corrected(start: _Level, stop: _Level) -> _Line:
    """What makes that step one along the mean of the slopes at both its ends, x' being where it led and D what the network
    says there: x' + √ᾱ'/2 (σ_start/σ_stop - 1) (D_stop - D_start), σ as in x/√ᾱ."""
    with np.errstate(divide="ignore"):
        ratio = np.divide(start.noise * stop.signal, start.signal * stop.noise)
    half = 0.5 * stop.signal * (ratio - 1)
    return _Line(stop, stop, 1.0, (half, -half))


def _with_churn(line: _Line, level: _Level, churn_noise: float) -> _Line:
    """The line, followed by noise that lifts what it reached to `level`."""
    if level == line.reached:
        return line
    stretch = level.signal / line.reached.signal
    deviation = churn_noise * math.sqrt(level.noise**2 - (stretch * line.reached.noise) ** 2)
    return _Line(line.asked, level, stretch * line.of_x, (stretch * line.of_x0[0], stretch * line.of_x0[1]), deviation)


def dpm_solver_pp(
    schedule: NoiseSchedule,
    *,
    steps: int | None = None,
    order: int = 2,
    spacing: Spacing = "log_snr",
    stochastic: bool = False,
    as_published: bool = False,
    prediction: str = "eps",
    clip: Clip | None = static_clip,
) -> Sampler:
    """DPM-Solver++, multistep: an exponential integrator with x̂_0 extrapolated from the evaluations before.

    (Lu et al. 2022, DPM-Solver++, algorithm 2 for order 2, equation 2; appendix A for order 3)

    The first steps are of lower order for want of a past, and the last, to no noise at all, is of order 1: there λ is infinite.

    Args:
      steps, spacing: see `sampler_times`.
      order: 1 (which is `ddim`), 2 ("2M", by the midpoint) or 3 ("3M").
      stochastic: solve the SDE instead ("SDE-DPM-Solver++", ibid. section 5): every step adds the noise of the posterior.
      as_published: take the curvature of order 3 by half, as the paper's public code and diffusers do. The integral of the
        parabola wants the whole of it, and by half the solver is of second order: see docs/samplers.md.
      prediction, clip: as in `p_mean_variance`. A variance that the network says too is passed over.
    Raises:
      InvalidInput: an unknown name, another order, or a prediction from which no x_0 follows.
    """
    _check_order(order)
    short = respace(schedule, sampler_times(schedule, steps, spacing))
    signal, noise = visited_levels(short)
    levels = _half_log_snr(signal, noise)
    of_x, of_x0 = np.zeros(short.steps), np.zeros((short.steps, order))
    deviations = np.zeros(short.steps)
    for step in range(short.steps):
        h = levels[step + 1] - levels[step]
        past = [] if np.isinf(h) and step else np.diff(levels[max(step - order + 1, 0) : step + 1])[::-1] / h
        weights = _dpm_weights((1 + stochastic) * h, past, curvature_share=0.5 if as_published else 1.0)
        of_x[step] = noise[step + 1] / noise[step] * (math.exp(-h) if stochastic else 1)
        of_x0[step, : len(weights)] = signal[step + 1] * weights
        deviations[step] = stochastic * noise[step + 1] * math.sqrt(-math.expm1(-2 * h))
    return from_table(
        short,
        np.arange(short.steps)[::-1],
        signal[1:] ** 2,
        of_x,
        of_x0,
        deviations=deviations,
        prediction=prediction,
        clip=clip,
    )


def _check_order(order: int) -> None:
    if order not in (1, 2, 3):
        raise InvalidInput(f"order={order}: expected 1, 2 or 3")


def _half_log_snr(signal: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """λ, from -∞ where there is no signal to ∞ where there is no noise."""
    with np.errstate(divide="ignore"):
        return np.log(signal) - np.log(noise)


def _dpm_weights(h: float, past: Sequence[float] | np.ndarray, curvature_share: float) -> np.ndarray:
    """The weights, in units of √ᾱ', of the estimates of x_0 from the newest on.

    ∫ over the step of e^(-remaining λ) times the polynomial through the estimates.

    Args:
      h: the step in λ; twice it for the SDE.
      past: the steps before, at most two, the newest first, in units of this one.
      curvature_share: how much of the parabola's curvature counts.
    """
    growth = math.expm1(-h)
    weights = np.zeros(1 + len(past))
    weights[0] = -growth
    if len(past) == 1:
        weights += -0.5 * growth * np.array([1, -1]) / past[0]
    if len(past) == 2:
        newest, before = np.array([1, -1, 0]) / past[0], np.array([0, 1, -1]) / past[1]
        slope = newest + past[0] / (past[0] + past[1]) * (newest - before)
        curvature = 2 * (newest - before) / (past[0] + past[1])  # the second derivative
        weights += (growth / h + 1) * slope - curvature_share * ((growth + h) / h**2 - 0.5) * curvature
    return weights


def unipc(
    schedule: NoiseSchedule,
    *,
    steps: int | None = None,
    order: int = 2,
    spacing: Spacing = "log_snr",
    prediction: str = "eps",
    clip: Clip | None = static_clip,
) -> Sampler:
    """UniPC: a multistep predictor, each of whose steps is corrected by the evaluation that the next one needs anyway.

    (Zhao et al. 2023, UniPC, algorithms 5 and 6 with B(h) = e^h - 1, which its code calls bh2)

    Args:
      steps, spacing: see `sampler_times`.
      order: 1, 2 or 3, of the predictor; the corrected result is one order better. It grows from 1 at the start and falls back
        to 1 at the end, where λ is infinite.
      prediction, clip: as in `p_mean_variance`. A variance that the network says too is passed over.
    Raises:
      InvalidInput: an unknown name, another order, or a prediction from which no x_0 follows.
    """
    _check_order(order)
    short = respace(schedule, sampler_times(schedule, steps, spacing))
    signal, noise = visited_levels(short)
    levels, total = _half_log_snr(signal, noise), short.steps
    of_x, of_x0 = noise[1:] / noise[:-1], np.zeros((total, order + 1))
    finite = np.cumsum(np.isfinite(levels[:-1]))  # with zero terminal SNR the first is not, and no polynomial goes through it
    correction = np.zeros(order + 1)  # to the state at hand, of the estimates of x_0 from the newest on
    for step in range(total):
        reached = min(order, max(finite[step], 1), total - step)
        past = levels[step - reached + 1 : step][::-1] - levels[step]
        h = levels[step + 1] - levels[step]
        predictor = signal[step + 1] * _unipc_weights(h, past)
        of_x0[step] = of_x[step] * correction
        of_x0[step, :reached] += predictor
        if step + 1 < total:
            correction[:] = 0
            correction[: reached + 1] = signal[step + 1] * _unipc_weights(h, past, ahead=True)
            correction[1 : reached + 1] -= predictor
    return from_table(short, np.arange(total)[::-1], signal[1:] ** 2, of_x, of_x0, prediction=prediction, clip=clip)


def _unipc_weights(h: float, past: np.ndarray, ahead: bool = False) -> np.ndarray:
    """The weights, in units of √ᾱ', of the estimates of x_0 at λ + h where `ahead`, at λ, and at λ + past, in this order."""
    nodes = np.append(past / h, 1.0 if ahead else [])
    powers, growth = math.expm1(-h), math.expm1(-h)  # of the series in -h; the first is B(h) too
    moments = []
    for n in range(1, len(nodes) + 1):
        powers = powers / -h - 1 / math.factorial(n)
        moments.append(powers * math.factorial(n) / growth)
    # One node alone is not solved for but halves the step, as in the paper's code.
    shares = np.full(1, 0.5) if len(nodes) == 1 else np.linalg.solve(np.vander(nodes, increasing=True).T, moments)
    slopes = -growth * shares / nodes
    weights = np.concatenate([[-growth - slopes.sum()], slopes])
    return np.roll(weights, 1) if ahead else weights
