"""The exponential moving average of the parameters, which is what is sampled from."""

import jax
import jax.numpy as jnp
import optax

from jax_ddpm.training.state import Params


def ema_decay(step: jax.Array, decay: float, warmup: bool) -> jax.Array:
    """The decay after `step` steps: `decay`, or with warm-up min(decay, (1 + step)/(10 + step)).

    Without the warm-up a run of n ≪ 1/(1 - decay) steps keeps averaging its random start in.
    """
    if not warmup:
        return jnp.float32(decay)
    return jnp.minimum(decay, (1.0 + step) / (10.0 + step)).astype(jnp.float32)


def update_ema(average: Params, params: Params, decay: jax.Array) -> Params:
    """decay·average + (1 - decay)·params, leaf by leaf."""
    return optax.incremental_update(params, average, 1.0 - decay)
