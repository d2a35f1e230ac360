"""Shorter chains over the same marginals: which times to visit, and the chain that visits only these."""

import dataclasses
import re
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from jax_ddpm.diffusion.schedules import MARGINALS, NoiseSchedule, ends_in_noise, log_alphas, schedule_from_betas
from jax_ddpm.errors import InvalidInput, choose, did_you_mean

_KEPT = (*MARGINALS, "timesteps", "predicted_mean_x0", "predicted_mean_xt")  # what stays that of the whole chain


Spacing = str | Sequence[float] | np.ndarray
"""Times that increase, or a text that stands for them: see `sampler_times`, and for `respace` `spaced_timesteps`."""


def respace(schedule: NoiseSchedule, timesteps: Spacing) -> NoiseSchedule:
    """The chain that visits only some of the times; q(x_t | x_0) at each of them is that of the whole chain, bit for bit.

    β'_i = 1 - ᾱ_{τ_i} / ᾱ_{τ_{i-1}}, with 1 for ᾱ before the first        (Nichol & Dhariwal 2021, eq. 19)

    The network is still told the original times, `timesteps`, and a mean that it predicts is still that of a step of the whole
    chain; a chain that was shortened already remembers both. But a "learned" variance is taken as it is said, that of one step
    of the whole chain, and does not fit this one ("learned_range" does).

    Real numbers lie between two steps: there log √((1-ᾱ)/ᾱ) is interpolated, the network is told the real number, and a
    predicted mean has no meaning.

    Args:
      schedule: of T steps, its tables on the host.
      timesteps: numbers in [0, T-1] that increase, all whole or real; or a text, see `spaced_timesteps`.
    Raises:
      InvalidInput: numbers that do not increase or lie outside, or a text that stands for no spacing of T steps.
    """
    if isinstance(schedule.betas, jax.core.Tracer):
        raise InvalidInput(
            "a chain is shortened, and a sampler made, on the host: close over the schedule within jit, do not pass it"
        )
    if isinstance(timesteps, str):
        timesteps = spaced_timesteps(schedule.steps, timesteps)
    kept = np.asarray(timesteps)
    if kept.ndim != 1 or not kept.size or kept.dtype.kind not in "iuf":
        raise InvalidInput(f"timesteps={timesteps}: expected numbers, at least one")
    if not np.all(np.diff(kept) > 0) or kept[0] < 0 or kept[-1] > schedule.steps - 1:
        raise InvalidInput(f"timesteps={kept.tolist()}: expected increasing numbers in 0..{schedule.steps - 1}")
    if kept.dtype.kind == "f":
        return _between(schedule, kept)
    between = np.add.reduceat(log_alphas(schedule)[: kept[-1] + 1], np.append(0, kept[:-1] + 1))
    shorter = schedule_from_betas(-np.expm1(between), schedule.betas.dtype)
    return dataclasses.replace(shorter, **{name: getattr(schedule, name)[kept] for name in _KEPT})


def _between(schedule: NoiseSchedule, times: np.ndarray) -> NoiseSchedule:
    """The chain over real-valued times, its marginals interpolated."""
    rows = np.arange(schedule.steps)
    log_signal = -np.logaddexp(0.0, 2 * np.interp(times, rows, noise_levels(schedule)))  # ᾱ = 1/(1 + (σ/√ᾱ)²)
    shorter = schedule_from_betas(-np.expm1(np.diff(log_signal, prepend=0.0)), schedule.betas.dtype)
    told = np.interp(times, rows, np.asarray(schedule.timesteps, np.float64)).astype(schedule.betas.dtype)
    unknown = np.full(times.shape, np.nan, schedule.betas.dtype)
    between: dict[str, Any] = {"timesteps": told, "predicted_mean_x0": unknown, "predicted_mean_xt": unknown}
    return dataclasses.replace(shorter, **between)


def noise_levels(schedule: NoiseSchedule) -> np.ndarray:
    """[T] log √((1-ᾱ_t)/ᾱ_t) in float64, half the negative log SNR: what is linear between two steps. ∞ where ᾱ_t = 0."""
    noise, signal = (np.asarray(table, np.float64) for table in (schedule.sqrt_one_minus_alphas_bar, schedule.sqrt_alphas_bar))
    with np.errstate(divide="ignore"):
        return np.log(noise) - np.log(signal)


def sampler_times(schedule: NoiseSchedule, steps: int | None, spacing: Spacing) -> np.ndarray:
    """The times at which a sampler stops, increasing, for `respace`.

    Args:
      schedule: of T steps.
      steps: how many; None takes every one of them where the spacing is one of whole steps, and as many where it is not.
      spacing: the times themselves; a text such as "10,15,20" (see `spaced_timesteps`), which says how many there are; or
        - "linspace": evenly spaced, the first and the last among them;
        - "leading": every (T // steps)-th from 0 on (Song et al. 2021, DDIM, public code);
        - "trailing": every (T / steps)-th from T-1 down (Lin et al. 2023, section 3.3);
        - "quad": the squares of evenly spaced numbers (Song et al. 2021, DDIM, appendix D);
        - "karras": σ^(1/7) evenly spaced, σ = √((1-ᾱ)/ᾱ) (Karras et al. 2022, eq. 5), real-valued;
        - "log_snr": log σ evenly spaced (Lu et al. 2022, DPM-Solver, section 3.3), real-valued.
    Raises:
      InvalidInput: another spacing, or more times than there are.
    """
    if not isinstance(spacing, str) or "," in spacing:
        times = spaced_timesteps(schedule.steps, spacing) if isinstance(spacing, str) else np.asarray(spacing)
        if steps not in (None, times.size):
            raise InvalidInput(f"steps={steps}, but the spacing has {times.size} of them: {spacing}")
        return times
    count = schedule.steps if steps is None else steps
    if spacing in _REAL_SPACINGS:
        if count < 1:
            raise InvalidInput(f"steps={count}: expected at least 1")
        if ends_in_noise(schedule):
            raise InvalidInput(f"spacing {spacing!r} where ᾱ_T = 0, so σ infinite: expected linspace, trailing or leading")
        return _REAL_SPACINGS[spacing](schedule, count)
    choose("spacing", spacing, {**_SPACINGS, **_REAL_SPACINGS})
    return spaced_timesteps(schedule.steps, f"{spacing}{count}")


def spaced_timesteps(total: int, spacing: str) -> np.ndarray:
    """The times that a text stands for, increasing, each in [0, total).

    - "uniform50", or "linspace50": 50 times, evenly spaced, the first and the last among them (the last alone, if it is one);
    - "quad50": the squares of evenly spaced numbers, so that they lie closer where there is less noise (Song et al. 2021, DDIM,
      appendix D; there the last one lies at .8 T, here at T-1);
    - "leading50": every s-th time from 0 on, s = T // 50, until there are 50;
    - "trailing50": every (T/50)-th from T-1 down, rounded; the chain starts from x_T itself (Lin et al. 2023, section 3.3);
    - "ddim50": every s-th time from 0 on, with the least whole s that gives 50 of them (Song et al. 2021, DDIM); the last of
      them is not T-1, so the chain starts from a little less noise than N(0, I);
    - "10,15,20": the chain cut into three equal parts, of which 10, 15 and 20 evenly spaced times are taken (Nichol & Dhariwal
      2021, public code); of a part from which one is taken, the last.

    Raises:
      InvalidInput: another text, or more times than there are.
    """
    named = re.fullmatch(r"([a-z]+)(\d+)", spacing)
    if named and named[1] in _SPACINGS:
        count = int(named[2])
        if not 1 <= count <= total:
            raise InvalidInput(f"spacing {spacing!r}: expected 1 to {total} steps, as many as the chain has")
        return _SPACINGS[named[1]](total, count)
    if re.fullmatch(r"\d+(,\d+)*", spacing):
        return _sections(total, [int(count) for count in spacing.split(",")])
    examples = [f"{name}50" for name in _SPACINGS]
    raise InvalidInput(
        f"unknown spacing {spacing!r}: expected {', '.join(examples)} or 10,15,20.{did_you_mean(spacing, examples)}"
    )


def _uniform(total: int, count: int) -> np.ndarray:
    if count == 1:
        return np.array([total - 1])
    return np.rint(np.linspace(0, total - 1, count)).astype(np.int64)


def _quad(total: int, count: int) -> np.ndarray:
    if count == 1:
        return np.array([total - 1])
    squares = np.rint(np.linspace(0, np.sqrt(total - 1), count) ** 2).astype(np.int64)
    order = np.arange(count)  # where squares fall together, the next free time is taken
    return np.maximum.accumulate(squares - order) + order


def _ddim(total: int, count: int) -> np.ndarray:
    by_count = {len(range(0, total, stride)): stride for stride in range(total, 0, -1)}  # the least stride comes last
    if total > 1:
        by_count.pop(1)  # it would be the step with the least noise alone
    if count not in by_count:
        near = min(by_count, key=lambda found: abs(found - count))
        raise InvalidInput(f"spacing 'ddim{count}': no whole stride takes {count} of {total} steps; ddim{near} would do")
    return np.arange(0, total, by_count[count])


def _sections(total: int, counts: Sequence[int]) -> np.ndarray:
    parts = np.array_split(np.arange(total), len(counts))
    for part, count in zip(parts, counts, strict=True):
        if not 1 <= count <= len(part):
            raise InvalidInput(
                f"spacing {','.join(map(str, counts))!r}: a part of {len(part)} steps, of {total} in all, cannot give {count}"
            )
    return np.concatenate([part[_uniform(len(part), count)] for part, count in zip(parts, counts, strict=True)])


def _leading(total: int, count: int) -> np.ndarray:
    return np.arange(count) * (total // count)


def _trailing(total: int, count: int) -> np.ndarray:
    return np.rint(total - np.arange(count)[::-1] * (total / count)).astype(np.int64) - 1


def _karras(schedule: NoiseSchedule, count: int) -> np.ndarray:
    first, last = np.exp(noise_levels(schedule)[[0, -1]] / RHO)
    return _times_of_levels(schedule, RHO * np.log(np.linspace(first, last, count)))


def _log_snr(schedule: NoiseSchedule, count: int) -> np.ndarray:
    first, last = noise_levels(schedule)[[0, -1]]
    return _times_of_levels(schedule, np.linspace(first, last, count))


def _times_of_levels(schedule: NoiseSchedule, levels: np.ndarray) -> np.ndarray:
    """The real-valued times of values of log σ that reach from that of t = 0 to that of T-1, or of T-1 alone."""
    times, last = np.interp(levels, noise_levels(schedule), np.arange(schedule.steps)), schedule.steps - 1.0
    return np.array([last]) if len(levels) == 1 else np.concatenate([[0.0], times[1:-1], [last]])


RHO = 7  # of the noise levels of Karras et al. 2022, table 1
_SPACINGS = {
    "uniform": _uniform,
    "linspace": _uniform,
    "quad": _quad,
    "ddim": _ddim,
    "leading": _leading,
    "trailing": _trailing,
}
_REAL_SPACINGS = {"karras": _karras, "log_snr": _log_snr}
