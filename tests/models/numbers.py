"""Inputs and parameters in which nothing is zero."""

import jax
import jax.numpy as jnp
import numpy as np

from jax_ddpm.models.products import LARGE

F32, BF16 = jnp.float32, jnp.bfloat16
SIDE = round(LARGE**0.5)  # of the smallest square image that a CPU takes by Winograd's convolution


def normals(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def random_parameters(shapes, seed: int = 0):
    """Numbers for a tree of shapes: nothing is zero, every kernel keeps the size of what goes through it."""
    rng = np.random.default_rng(seed)

    def fill(path, leaf):
        values = rng.normal(size=leaf.shape)
        if path[-1].key == "kernel":
            values /= np.sqrt(np.prod(leaf.shape[:-1]))
        elif path[-1].key == "scale":
            values = 1 + 0.3 * values
        return jnp.asarray(values, F32)

    return jax.tree_util.tree_map_with_path(fill, shapes)
