"""Shorter chains over the same marginals: some of the steps of a schedule, and what a spacing's name stands for."""

import dataclasses
import re
from collections.abc import Sequence

import numpy as np

from jax_ddpm.diffusion.schedules import MARGINALS, NoiseSchedule, log_alphas, schedule_from_betas
from jax_ddpm.errors import InvalidInput, did_you_mean

_KEPT = (*MARGINALS, "timesteps", "predicted_mean_x0", "predicted_mean_xt")  # what stays that of the whole chain


def respace(schedule: NoiseSchedule, timesteps: Sequence[int] | np.ndarray | str) -> NoiseSchedule:
    """The chain that visits only some of the steps; q(x_t | x_0) at each of them is that of the whole chain, bit for bit.

    β'_i = 1 - ᾱ_{τ_i} / ᾱ_{τ_{i-1}}, with 1 for ᾱ before the first        (Nichol & Dhariwal 2021, eq. 19)

    The network is still told the original times, `timesteps`, and a mean that it predicts is still that of a step of the whole
    chain; a chain that was shortened already remembers both. But a "learned" variance is taken as it is said, that of one step
    of the whole chain, and does not fit this one ("learned_range" does).

    Args:
      schedule: of T steps, its tables on the host.
      timesteps: numbers in [0, T) that increase; or a text, see `spaced_timesteps`.
    Raises:
      InvalidInput: numbers that do not increase or lie outside, or a text that stands for no spacing of T steps.
    """
    if isinstance(timesteps, str):
        timesteps = spaced_timesteps(schedule.steps, timesteps)
    kept = np.asarray(timesteps)
    if kept.ndim != 1 or not kept.size or not np.issubdtype(kept.dtype, np.integer):
        raise InvalidInput(f"timesteps={timesteps}: expected whole numbers, at least one")
    if np.any(np.diff(kept) <= 0) or kept[0] < 0 or kept[-1] >= schedule.steps:
        raise InvalidInput(f"timesteps={kept.tolist()}: expected increasing numbers in 0..{schedule.steps - 1}")
    between = np.add.reduceat(log_alphas(schedule)[: kept[-1] + 1], np.append(0, kept[:-1] + 1))
    shorter = schedule_from_betas(-np.expm1(between), schedule.betas.dtype)
    return dataclasses.replace(shorter, **{name: getattr(schedule, name)[kept] for name in _KEPT})


def spaced_timesteps(total: int, spacing: str) -> np.ndarray:
    """The times that a text stands for, increasing, each in [0, total).

    - "uniform50": 50 times, evenly spaced, the first and the last among them (the last alone, if it is one);
    - "quad50": the squares of evenly spaced numbers, so that they lie closer where there is less noise (Song et al. 2021, DDIM,
      appendix D; there the last one lies at .8 T, here at T-1);
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


_SPACINGS = {"uniform": _uniform, "quad": _quad, "ddim": _ddim}
