"""Which t a training step looks at, and how much each draw then counts."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jax_ddpm.errors import InvalidInput

History = Any
"""What a sampler remembers of the losses, a pytree of arrays."""


class TimestepSampler(NamedTuple):
    """A way to draw t, as three pure functions.

    Attributes:
      init: () -> the history before training.
      draw: (key, history, count) -> t [count] int32 in [0, T), and their weights [count]: with these the weighted mean of any
        function of t is, in expectation, its mean over uniform t.
      update: (history, t [B], losses [B]) -> the history with these losses in it.
    """

    init: Callable[[], History]
    draw: Callable[[jax.Array, History, int], tuple[jax.Array, jax.Array]]
    update: Callable[[History, jax.Array, jax.Array], History]


def _without_history(draw_t: Callable[[jax.Array, int], jax.Array]) -> TimestepSampler:
    def draw(key: jax.Array, history: History, count: int) -> tuple[jax.Array, jax.Array]:
        return draw_t(key, count), jnp.ones(count)

    return TimestepSampler(init=lambda: (), draw=draw, update=lambda history, t, losses: history)


def uniform_timesteps(steps: int) -> TimestepSampler:
    """Each t independent, all of 0..T-1 alike        (Ho et al. 2020, algorithm 1)."""
    return _without_history(lambda key, count: jax.random.randint(key, (count,), 0, steps))


def stratified_timesteps(steps: int) -> TimestepSampler:
    """t_i = ⌊T ((u + i/B) mod 1)⌋ with one u for the batch: evenly spread, and each t_i alone uniform.

    (Kingma et al. 2021, appendix I.1: the low-discrepancy sampler)
    """

    def draw_t(key: jax.Array, count: int) -> jax.Array:
        shares = (jax.random.uniform(key) + jnp.arange(count) / count) % 1
        return jnp.minimum((steps * shares).astype(jnp.int32), steps - 1)  # a share may round up to 1

    return _without_history(draw_t)


def antithetic_timesteps(steps: int) -> TimestepSampler:
    """Half of the batch uniform, the other half T-1-t        (Song et al. 2021, DDIM, public code)."""

    def draw_t(key: jax.Array, count: int) -> jax.Array:
        t = jax.random.randint(key, ((count + 1) // 2,), 0, steps)
        return jnp.concatenate([t, steps - 1 - t])[:count]

    return _without_history(draw_t)


class LossHistory(NamedTuple):
    """The last losses of each t.

    Attributes:
      losses: [T, K] the last K losses, in no particular order.
      counts: [T] int32, how many losses of each t there have been.
    """

    losses: jax.Array
    counts: jax.Array


def second_moment_timesteps(steps: int, history: int = 10, uniform_share: float = 1e-3) -> TimestepSampler:
    """Each t as often as its losses are large: importance sampling, which lowers the variance of the bound's gradient.

    p_t ∝ √E[L_t²] over the last K losses of t, weight 1/(T p_t); uniform until every t has K of them
    (Nichol & Dhariwal 2021, eq. 18 and section 3.3)

    Args:
      history: K.
      uniform_share: this much of the probability is shared out evenly, so that no t is forgotten.
    Raises:
      InvalidInput: a number out of range.
    """
    if history < 1 or not 0 <= uniform_share <= 1:
        raise InvalidInput(f"history={history}, uniform_share={uniform_share}: expected at least 1, and a share in [0, 1]")

    def init() -> LossHistory:
        return LossHistory(jnp.zeros((steps, history)), jnp.zeros(steps, jnp.int32))

    def draw(key: jax.Array, past: LossHistory, count: int) -> tuple[jax.Array, jax.Array]:
        probabilities = second_moment_probabilities(past, uniform_share)
        t = jax.random.choice(key, steps, (count,), p=probabilities).astype(jnp.int32)
        return t, 1 / (steps * probabilities[t])

    return TimestepSampler(init, draw, remember)


def second_moment_probabilities(past: LossHistory, uniform_share: float) -> jax.Array:
    """[T] p_t ∝ √E[L_t²], mixed with the uniform; uniform alone until the history is full."""
    steps, size = past.losses.shape
    moments = jnp.sqrt(jnp.mean(past.losses**2, axis=1))
    total = jnp.sum(moments)
    ready = jnp.all(past.counts >= size) & (total > 0) & jnp.isfinite(total)
    shares = jnp.where(ready, moments / jnp.where(ready, total, 1), 1 / steps)
    return (1 - uniform_share) * shares + uniform_share / steps


def remember(past: LossHistory, t: jax.Array, losses: jax.Array) -> LossHistory:
    """The history after the losses [B] of t [B], in the order of the batch; the oldest ones fall out."""
    steps, size = past.losses.shape
    same = t[:, None] == t[None, :]
    before = jnp.sum(jnp.tril(same, -1), axis=1)  # how many of this t come earlier in the batch
    after = jnp.sum(jnp.triu(same, 1), axis=1)
    row = jnp.where(after < size, t, steps)  # those that would fall out within this batch are not written: row T is not there
    slot = (past.counts[t] + before) % size
    return LossHistory(
        losses=past.losses.at[row, slot].set(losses, mode="drop"),
        counts=past.counts.at[t].add(1),
    )
