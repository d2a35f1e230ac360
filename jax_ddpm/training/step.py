"""One train step, as a pure function."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jax_ddpm.training.ema import ema_decay, update_ema
from jax_ddpm.training.state import Params, TrainState

Batch = Any
"""A tree of arrays [B, ...]."""
Metrics = dict[str, jax.Array]
Prepare = Callable[[jax.Array, Batch], Batch]
"""(key, batch) -> the batch with all that is drawn for it: drawn here, so that splitting the batch changes nothing."""
LossFn = Callable[[Params, Batch, jax.Array], jax.Array]
"""(params, prepared batch, key) -> [B] losses."""
TrainStep = Callable[[TrainState, Batch], tuple[TrainState, Metrics]]


def make_train_step(
    prepare: Prepare,
    loss_fn: LossFn,
    optimizer: optax.GradientTransformation,
    *,
    decay: float,
    warmup: bool = True,
    accumulate: int = 1,
) -> TrainStep:
    """(state, batch) -> (state, metrics): one gradient step on the mean loss, then one of the average.

    Args:
      prepare, loss_fn: what is minimised.
      optimizer: from optax.
      decay, warmup: of the average; see `ema_decay`.
      accumulate: the number of equal parts whose gradients are added up; must divide the batch.
    Returns:
      A pure function. Its metrics are scalars: "loss", the mean over the batch, and "grad_norm", before clipping.
    """

    def mean_loss(params: Params, part: Batch, key: jax.Array) -> jax.Array:
        return jnp.mean(loss_fn(params, part, key))

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        draw_key, loss_key = jax.random.split(jax.random.fold_in(state.key, state.step))
        batch = prepare(draw_key, batch)
        loss, grads = _accumulated(jax.value_and_grad(mean_loss), state.params, batch, loss_key, accumulate)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        ema_params = update_ema(state.ema_params, params, ema_decay(state.step, decay, warmup))
        state = state.replace(step=state.step + 1, params=params, ema_params=ema_params, opt_state=opt_state)
        return state, {"loss": loss, "grad_norm": optax.tree.norm(grads)}

    return train_step


def _accumulated(
    value_and_grad: Callable[..., tuple[jax.Array, Params]], params: Params, batch: Batch, key: jax.Array, parts: int
) -> tuple[jax.Array, Params]:
    """Value and gradient averaged over equal parts of the batch, one part in memory at a time."""
    if parts == 1:
        return value_and_grad(params, batch, key)

    def add_part(total, row):
        part, number = row
        return jax.tree.map(jnp.add, total, value_and_grad(params, part, jax.random.fold_in(key, number))), None

    # Part i takes every parts-th example from i on: each device splits what it holds, and nothing moves between devices.
    split = jax.tree.map(lambda x: x.reshape(-1, parts, *x.shape[1:]).swapaxes(0, 1), batch)
    zero = jax.tree.map(jnp.zeros_like, jax.eval_shape(value_and_grad, params, jax.tree.map(lambda x: x[0], split), key))
    total, _ = jax.lax.scan(add_part, zero, (split, jnp.arange(parts)))
    return jax.tree.map(lambda x: x / parts, total)
