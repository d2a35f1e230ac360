"""Running the chain: a sampler is a table of coefficients and one small update, and the run is one `lax.scan`.

Every sampler is linear in the state and in what the network has said of x_0, now and at the evaluations before. So what tells
them apart is numbers: `samplers.py` has those of `ancestral` and `ddim`, `solvers.py` those of higher order.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jax_ddpm.diffusion.prediction import (
    Clip,
    Denoiser,
    check_prediction,
    network_output,
    predicted_log_variance,
    split_output,
    to_x0,
)
from jax_ddpm.diffusion.schedules import NoiseSchedule
from jax_ddpm.errors import InvalidInput

Gradient = Callable[[jax.Array, jax.Array], jax.Array]
"""(x_t [B, ...], t [B]) -> ∇ log p(y | x_t), [B, ...]."""

After = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]
"""(state [B, ...], which evaluation it was, key) -> the state [B, ...] from which the chain goes on."""


@dataclasses.dataclass(frozen=True, eq=False)
class Sampler:
    """A way to run the chain. Evaluation n of the network takes the state x, which lies at level `rows[n]`, to

    x' = of_x[n]·x + Σ_j of_x0[n, j]·x̂_0^(n-j) + of_clipped[n]·(x̂_0 before - after clipping) + deviations[n]·z

    where x̂_0^(n) is the network's x_0, clipped, and z is fresh noise where `noisy[n]`.

    Attributes:
      schedule: the chain whose rows are the levels of noise at which the network is asked.
      rows: [N] the row of each evaluation, in the order in which they are made.
      reached: [N] ᾱ of the level at which x' lies; 1 is clean.
      of_x: [N] the weight of the state.
      of_x0: [N, K] the weights of the last K estimates of x_0, the newest first; 0 where there is none yet.
      of_clipped: [N] the weight of what clipping took away.
      deviations: [N] the standard deviation of the step.
      noisy: [N] whether that much noise is added.
      prediction: what the network's output is, see `to_x0`.
      clip: what is done to each estimate of x_0.
      learned: "", or the learned variance that takes the place of `deviations`, see `p_mean_variance`.
      gradient: None, or what the mean is moved by, times the variance of the step; see `guided_mean`.
      after: None, or what is done to the state after each update; see `inpaint`.
    """

    schedule: NoiseSchedule
    rows: np.ndarray
    reached: np.ndarray
    of_x: np.ndarray
    of_x0: np.ndarray
    of_clipped: np.ndarray
    deviations: np.ndarray
    noisy: np.ndarray
    prediction: str
    clip: Clip | None
    learned: str = ""
    gradient: Gradient | None = None
    after: After | None = None

    @property
    def evaluations(self) -> int:
        """How often the network is called."""
        return len(self.rows)

    @property
    def timesteps(self) -> np.ndarray:
        """[N] the time that the network is told at each evaluation."""
        return np.asarray(self.schedule.timesteps)[self.rows]

    @property
    def start(self) -> float:
        """ᾱ of the level at which the chain starts."""
        return float(self.schedule.alphas_bar[self.rows[0]])


def from_table(
    schedule: NoiseSchedule,
    rows: np.ndarray,
    reached: np.ndarray,
    of_x: np.ndarray,
    of_x0: np.ndarray,
    *,
    prediction: str,
    clip: Clip | None,
    of_clipped: np.ndarray | float = 0.0,
    deviations: np.ndarray | float = 0.0,
    noisy: np.ndarray | None = None,
    learned: str = "",
) -> Sampler:
    """A sampler from its table.

    Args:
      of_x0: [N, K], or [N] where only the newest estimate counts.
      noisy: where left out, wherever the deviation is not 0.
      schedule, rows, reached, of_x, prediction, clip, of_clipped, deviations, learned: as in `Sampler`; a single number stands
        for N of them.
    Raises:
      InvalidInput: the network's prediction says no x_0 there, or a coefficient is not finite.
    """
    check_prediction(schedule, prediction)
    of_clipped, deviations = (np.broadcast_to(np.asarray(each, np.float64), rows.shape) for each in (of_clipped, deviations))
    of_x0 = of_x0.reshape(len(rows), -1)
    if not all(np.isfinite(each).all() for each in (of_x, of_x0, of_clipped, deviations)):
        raise InvalidInput(
            "this sampler divides by √ᾱ_T, which is 0 here: expected another with zero terminal SNR, such as ddim"
        )
    noisy = deviations > 0 if noisy is None else noisy
    return Sampler(schedule, rows, reached, of_x, of_x0, of_clipped, deviations, noisy, prediction, clip, learned)


def sample(sampler: Sampler, denoiser: Denoiser, x_T: jax.Array, key: jax.Array) -> jax.Array:
    """Runs the chain and returns its end.

    Args:
      denoiser: (x_t, t) -> output.
      x_T: [B, ...] standard normal noise.
      key: a typed key, `jax.random.key`; evaluation n uses `fold_in(key, n)`.
    Returns:
      [B, ...] samples of x_0. Memory does not depend on the number of steps.
    """
    return sample_trajectory(sampler, denoiser, x_T, key, at_steps=())[0]


def sample_trajectory(
    sampler: Sampler, denoiser: Denoiser, x_T: jax.Array, key: jax.Array, at_steps: Sequence[int]
) -> tuple[jax.Array, jax.Array]:
    """Runs the chain and keeps some of its states.

    Args:
      denoiser, x_T, key: as in `sample`.
      at_steps: K different numbers of evaluations made, each in 0..N: 0 is x_T itself, N the end.
    Returns:
      The samples [B, ...], and the kept states [K, B, ...] in the order of `at_steps`. Only they take memory.
    Raises:
      InvalidInput: a step outside 0..N, or one named twice.
    """
    total = sampler.evaluations
    if len(set(at_steps)) < len(at_steps) or any(step not in range(total + 1) for step in at_steps):
        raise InvalidInput(f"at_steps={tuple(at_steps)}: expected different whole numbers in 0..{total}")
    kept = len(at_steps)
    slots = np.full(total + 1, kept)  # the place of each state in the result; `kept` is past its end: not written
    slots[list(at_steps)] = np.arange(kept)

    def record(states: jax.Array, slot: jax.Array, x: jax.Array) -> jax.Array:
        return states.at[slot].set(x, mode="drop") if kept else states

    def step(carry, row):
        x, earlier, states = carry
        line, slot = row
        x, estimates = _update(sampler, denoiser, x, earlier, line, jax.random.fold_in(key, line["number"]))
        return (x, estimates[:-1], record(states, slot, x)), None

    states = record(jnp.zeros((kept, *x_T.shape), x_T.dtype), slots[0], x_T)
    earlier = (jnp.zeros_like(x_T),) * (sampler.of_x0.shape[1] - 1)
    (x, _, states), _ = jax.lax.scan(step, (x_T, earlier, states), (_table(sampler, x_T.dtype), jnp.asarray(slots[1:])))
    return x, states


class Standing(NamedTuple):
    """Where a chain stands.

    Attributes:
      x: [B, ...] its state.
      estimates: the last estimates of x_0, each [B, ...], the newest first; zeros before there is one.
    """

    x: jax.Array
    estimates: tuple[jax.Array, ...]


def begun(sampler: Sampler, x_T: jax.Array) -> Standing:
    """Where the chain stands before the first evaluation."""
    return Standing(x_T, (jnp.zeros_like(x_T),) * sampler.of_x0.shape[1])


def go_on(
    sampler: Sampler, denoiser: Denoiser, standing: Standing, key: jax.Array, first: int | jax.Array, stop: int | jax.Array
) -> Standing:
    """Runs a part of the chain, so that it can be looked at on the way; all parts one after another come to what `sample` does.

    Args:
      denoiser, key: as in `sample`, the same for every part.
      standing: of `begun`, or where the part before has come to.
      first, stop: the evaluations of this part, first, first + 1, …, stop - 1. They may be traced: one compiled program then
        runs every part.
    Returns:
      Where the chain stands then; the first of its estimates is the x_0 of the last evaluation made.
    """
    table = _table(sampler, standing.x.dtype)

    def step(number: jax.Array, standing: Standing) -> Standing:
        line = {name: values[number] for name, values in table.items()}
        return Standing(*_update(sampler, denoiser, standing.x, standing.estimates[:-1], line, jax.random.fold_in(key, number)))

    return jax.lax.fori_loop(first, stop, step, standing)


def _table(sampler: Sampler, dtype: Any) -> dict[str, jax.Array]:
    """What the scan runs over."""
    table = {name: getattr(sampler, name) for name in ("of_x", "of_x0", "of_clipped", "deviations", "noisy")}
    numbers = {"number": jnp.arange(sampler.evaluations), "row": jnp.asarray(sampler.rows)}
    return {name: jnp.asarray(values, dtype) for name, values in table.items()} | numbers


def _update(
    sampler: Sampler,
    denoiser: Denoiser,
    x: jax.Array,
    earlier: tuple[jax.Array, ...],
    line: dict[str, jax.Array],
    key: jax.Array,
) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    """One evaluation: the next state, and the last estimates of x_0; all but the oldest count for the one after. What a
    column of zeros would multiply is left out when the sampler is traced."""
    noise_key, after_key = jax.random.split(key)
    t = jnp.full(x.shape[:1], line["row"])
    output, values = split_output(network_output(sampler.schedule, denoiser, x, t), x)
    said = to_x0(sampler.schedule, output, x, t, sampler.prediction)
    x0 = said if sampler.clip is None else sampler.clip(said)
    estimates = (x0, *earlier)
    moved = line["of_x"] * x + sum(line["of_x0"][j] * estimate for j, estimate in enumerate(estimates))
    if sampler.of_clipped.any():
        moved += line["of_clipped"] * (said - x0)
    if sampler.deviations.any():
        deviation = line["deviations"]
        if sampler.learned:
            deviation = jnp.exp(0.5 * predicted_log_variance(sampler.schedule, values, x, t, sampler.learned))
        if sampler.gradient is not None:
            moved += deviation**2 * sampler.gradient(x, jnp.asarray(sampler.schedule.timesteps)[t])
        moved += line["noisy"] * deviation * jax.random.normal(noise_key, x.shape, x.dtype)
    if sampler.after is not None:
        moved = sampler.after(moved, line["number"], after_key)
    return moved, estimates
