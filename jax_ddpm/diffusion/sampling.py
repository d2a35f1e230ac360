"""The reverse chain: from noise to data, one `lax.scan` whatever the sampler."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jax_ddpm.diffusion.prediction import Clip, Denoiser, check_terminal_snr, network_output, p_mean_variance, static_clip
from jax_ddpm.diffusion.schedules import NoiseSchedule
from jax_ddpm.errors import InvalidInput


class Sampler(NamedTuple):
    """A way to run the chain.

    Attributes:
      timesteps: [S] the t of each step, a row of the schedule's tables, in the order in which they are taken.
      update: (denoiser, x_t [B, ...], t [B], key) -> x_{t-1} [B, ...].
    """

    timesteps: np.ndarray
    update: Callable[[Denoiser, jax.Array, jax.Array, jax.Array], jax.Array]


def ancestral(
    schedule: NoiseSchedule,
    *,
    prediction: str = "eps",
    variance: str = "fixed_large",
    clip: Clip | None = static_clip,
) -> Sampler:
    """Draws x_{t-1} from p(x_{t-1} | x_t) for t = T-1 … 0; no noise is added at t = 0.

    x_{t-1} = μ_θ(x_t, t) + σ_t z        (Ho et al. 2020, algorithm 2)

    Args:
      prediction, variance, clip: as in `p_mean_variance`. The paper's code clips.
    Raises:
      InvalidInput: the schedule leaves nothing of x_0 in x_T and the prediction is "eps" or "score".
    """
    check_terminal_snr(schedule, prediction)

    def update(denoiser: Denoiser, xt: jax.Array, t: jax.Array, key: jax.Array) -> jax.Array:
        output = network_output(schedule, denoiser, xt, t)
        p, _ = p_mean_variance(schedule, output, xt, t, prediction=prediction, variance=variance, clip=clip)
        noise = jax.random.normal(key, xt.shape, xt.dtype)
        deviation = jnp.where(t.reshape(t.shape + (1,) * (xt.ndim - 1)) > 0, jnp.exp(0.5 * p.log_variance), 0)
        return p.mean + deviation * noise

    return Sampler(np.arange(schedule.steps)[::-1], update)


def sample(sampler: Sampler, denoiser: Denoiser, x_T: jax.Array, key: jax.Array) -> jax.Array:
    """Runs the chain and returns its end.

    Args:
      denoiser: (x_t, t) -> output.
      x_T: [B, ...] standard normal noise.
      key: a typed key, `jax.random.key`; step s uses `fold_in(key, s)`.
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
      at_steps: K different numbers of steps taken, each in 0..S: 0 is x_T itself, S the end.
    Returns:
      The samples [B, ...], and the kept states [K, B, ...] in the order of `at_steps`. Only they take memory.
    Raises:
      InvalidInput: a step outside 0..S, or one named twice.
    """
    total = len(sampler.timesteps)
    if len(set(at_steps)) < len(at_steps) or any(step not in range(total + 1) for step in at_steps):
        raise InvalidInput(f"at_steps={tuple(at_steps)}: expected different whole numbers in 0..{total}")
    kept = len(at_steps)
    slots = np.full(total + 1, kept)  # the place of each state in the result; `kept` is past its end: not written
    slots[list(at_steps)] = np.arange(kept)

    def record(states: jax.Array, slot: jax.Array, x: jax.Array) -> jax.Array:
        return states.at[slot].set(x, mode="drop") if kept else states

    def step(carry, row):
        x, states = carry
        number, t, slot = row
        x = sampler.update(denoiser, x, jnp.full(x.shape[:1], t), jax.random.fold_in(key, number))
        return (x, record(states, slot, x)), None

    states = record(jnp.zeros((kept, *x_T.shape), x_T.dtype), slots[0], x_T)
    rows = (jnp.arange(total), jnp.asarray(sampler.timesteps), jnp.asarray(slots[1:]))
    (x, states), _ = jax.lax.scan(step, (x_T, states), rows)
    return x, states
