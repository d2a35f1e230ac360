"""What training carries from step to step."""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

Params = Any
"""A nested dict of arrays."""


class TrainState(flax.struct.PyTreeNode):
    """Everything that the next step depends on, besides the data.

    Attributes:
      step: how many steps have been taken, int32.
      params: the parameters.
      ema_params: their exponential moving average.
      opt_state: of the optimizer.
      key: never changes; step n draws from `fold_in(key, n)`.
      timestep_history: what the drawing of t remembers of the losses; () where it remembers nothing.
    """

    step: jax.Array
    params: Params
    ema_params: Params
    opt_state: optax.OptState
    key: jax.Array
    timestep_history: Any = ()


def create_state(
    params: Params, optimizer: optax.GradientTransformation, key: jax.Array, timestep_history: Any = ()
) -> TrainState:
    """The state before the first step: the average starts as a copy of the parameters."""
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        ema_params=jax.tree.map(jnp.copy, params),
        opt_state=optimizer.init(params),
        key=key,
        timestep_history=timestep_history,
    )
