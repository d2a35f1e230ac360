"""One train step, as a pure function."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jax_ddpm.training.ema import ema_decay, update_ema
from jax_ddpm.training.layouts import WHOLE_BATCH, Layout
from jax_ddpm.training.state import Params, TrainState

SKIPPED = "skipped"
Batch = Any
"""A tree of arrays [B, ...]."""


class Tally(NamedTuple):
    """A mean that goes on over several steps: of so many examples, whose values add up to `total`. Of none there is no mean."""

    total: jax.Array
    examples: jax.Array


Metrics = dict[str, jax.Array | Tally]
"""Scalars, and means of some of the examples."""


class Losses(NamedTuple):
    """What a loss function finds.

    Attributes:
      values: [B] the losses.
      further: by name, [B] what else is to be known of each example; nothing is learned from it.
    """

    values: jax.Array
    further: dict[str, jax.Array]


class Prepared(NamedTuple):
    """A batch with all that is drawn for it.

    Attributes:
      batch: a tree of arrays [B, ...].
      t: [B] the times drawn.
      weights: [B] what each example counts.
    """

    batch: Batch
    t: jax.Array
    weights: jax.Array


Prepare = Callable[[jax.Array, Batch, Any], Prepared]
"""(key, batch, timestep history): all is drawn here, so that splitting the batch changes nothing."""
LossFn = Callable[[Params, Batch, jax.Array], Losses]
"""(params, prepared batch, key) -> the losses."""
Measure = Callable[[jax.Array, dict[str, jax.Array]], Metrics]
"""(t [B], what else the loss function found, [B] each) -> metrics."""
Remember = Callable[[Any, jax.Array, jax.Array], Any]
"""(timestep history, t [B], losses [B]) -> the history after them."""
TrainStep = Callable[[TrainState, Batch], tuple[TrainState, Metrics]]


def make_train_step(
    prepare: Prepare,
    loss_fn: LossFn,
    optimizer: optax.GradientTransformation,
    *,
    decay: float,
    warmup: bool = True,
    clip_norm: float = 0.0,
    accumulate: int = 1,
    remember: Remember = lambda history, t, losses: history,
    measure: Measure = lambda t, further: {},
    layout: Layout = WHOLE_BATCH,
) -> TrainStep:
    """(state, batch) -> (state, metrics): one gradient step on the weighted mean loss, then one of the average.

    Args:
      prepare, loss_fn: what is minimised, the mean of weights · losses.
      optimizer: from optax.
      decay, warmup: of the average; see `ema_decay`.
      clip_norm: what a longer gradient is shortened to, by the norm of it all; 0 does not.
      accumulate: the number of equal parts whose gradients are added up; must divide the batch.
      remember: what the drawing of t keeps of the losses, which it is shown without their weights.
      measure: what is to be said of what else the loss function found.
      layout: how batch and parameters lie on the devices, where the step has to know.
    Returns:
      A pure function. Its metrics are "loss", the weighted mean of the batch, "grad_norm", before clipping, "skipped", whether
      one of these was not finite, so that nothing was learned, and those of `measure`.
    """

    def weighted_loss(params: Params, part: Prepared, key: jax.Array) -> tuple[jax.Array, Losses]:
        losses = loss_fn(layout.params(params), part.batch, key)
        return jnp.mean(part.weights * losses.values), losses

    value_and_grad = jax.value_and_grad(weighted_loss, has_aux=True)

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        draw_key, loss_key = jax.random.split(jax.random.fold_in(state.key, state.step))
        prepared = prepare(draw_key, layout.batch(batch), state.timestep_history)
        part, part_key = layout.part(prepared), layout.key(loss_key)
        (loss, losses), grads = _accumulated(value_and_grad, state.params, part, part_key, accumulate)
        (loss, grads), losses = layout.mean((loss, grads)), layout.batch(losses)
        grad_norm = optax.tree.norm(grads)
        finite = jnp.isfinite(loss) & jnp.isfinite(grad_norm)

        def learn(state: TrainState) -> TrainState:
            updates, opt_state = optimizer.update(_shortened(grads, grad_norm, clip_norm), state.opt_state, state.params)
            params = optax.apply_updates(state.params, updates)
            average = update_ema(state.ema_params, params, ema_decay(state.step, decay, warmup))
            history = remember(state.timestep_history, prepared.t, losses.values)
            return state.replace(params=params, ema_params=average, opt_state=opt_state, timestep_history=history)

        state = _where(finite, learn, state)
        state = state.replace(step=state.step + 1)
        metrics: Metrics = {"loss": loss, "grad_norm": grad_norm, SKIPPED: ~finite}
        return state, metrics | measure(prepared.t, losses.further)

    return train_step


def _where(condition: jax.Array, change: Callable[[TrainState], TrainState], state: TrainState) -> TrainState:
    """change(state) where the condition holds, else the state.

    In a branch, for to choose each number after the fact goes through the whole state once more. A GPU's program would wait for
    the condition at each step to know which branch to launch, and chooses.
    """

    def branch(condition: jax.Array, state: TrainState) -> TrainState:
        return jax.lax.cond(condition, change, lambda state: state, state)

    def choice(condition: jax.Array, state: TrainState) -> TrainState:
        return jax.tree.map(partial(jnp.where, condition), change(state), state)

    return jax.lax.platform_dependent(condition, state, cpu=branch, tpu=branch, default=choice)


def _shortened(grads: Params, norm: jax.Array, most: float) -> Params:
    """The gradient, of this norm, no longer than `most`; 0 leaves it as it is."""
    if not most:
        return grads
    scale = jnp.minimum(1.0, most / norm)
    return jax.tree.map(lambda leaf: leaf * scale.astype(leaf.dtype), grads)


def _accumulated(
    value_and_grad: Callable[..., tuple[tuple[jax.Array, Losses], Params]],
    params: Params,
    batch: Prepared,
    key: jax.Array,
    parts: int,
) -> tuple[tuple[jax.Array, Losses], Params]:
    """Value and gradient averaged over equal parts of the batch, one part in memory at a time; and the losses of it all."""
    if parts == 1:
        return value_and_grad(params, batch, key)

    def add_part(total, row):
        part, number = row
        (loss, losses), grads = value_and_grad(params, part, jax.random.fold_in(key, number))
        return jax.tree.map(jnp.add, total, (loss, grads)), losses

    # Part i takes every parts-th example from i on: each device splits what it holds, and nothing moves between devices.
    split = jax.tree.map(lambda x: x.reshape(-1, parts, *x.shape[1:]).swapaxes(0, 1), batch)
    zero = jax.tree.map(jnp.zeros_like, (jnp.zeros(()), params))
    total, losses = jax.lax.scan(add_part, zero, (split, jnp.arange(parts)))
    loss, grads = jax.tree.map(lambda x: x / parts, total)
    return (loss, jax.tree.map(lambda x: x.swapaxes(0, 1).reshape(-1), losses)), grads
