"""A number for each array of a tree, by which damage to it is known."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

_KNUTH = np.uint32(2654435761)  # of multiplicative hashing; odd


def digest(tree: Any) -> list[int]:
    """Σ_i bits_i · m_i mod 2³² for each array, where m_i is an odd number that follows from the place i.

    Another value in one place changes it for sure: an odd number times what is not 0 is not 0 mod 2³². Changes in several
    leave it as it is with probability 2⁻³². Whole numbers add up alike in every order: so it is the same however the array is
    split over devices and processes; each process adds up what it holds.

    Args:
      tree: jax arrays, random keys among them, of numbers of 32 bits or fewer.
    Returns:
      A number below 2³² for each leaf, in the tree's order.
    """
    own = np.array([_of_own_parts(leaf) for leaf in jax.tree.leaves(tree)], np.uint32)
    if jax.process_count() > 1:
        own = np.sum(multihost_utils.process_allgather(own), axis=0, dtype=np.uint32)
    return [int(number) for number in own]


def _of_own_parts(leaf: jax.Array) -> int:
    """The sum over what lies on the devices of this process, each part once."""
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    own = [part for part in leaf.addressable_shards if part.replica_id == 0]
    return sum(_of_part(np.asarray(part.data), part.index, leaf.shape) for part in own) % 2**32


def _of_part(part: np.ndarray, index: tuple[slice, ...], shape: tuple[int, ...]) -> int:
    bits = np.ascontiguousarray(part).reshape(-1).view(f"uint{8 * part.dtype.itemsize}").astype(np.uint32)
    places: Any = np.zeros(1, np.uint32)
    for along, size in zip(index, shape, strict=True):
        places = (places[:, None] * np.uint32(size) + np.arange(*along.indices(size), dtype=np.uint32)).reshape(-1)
    return int(np.sum(bits * (places * _KNUTH | np.uint32(1)), dtype=np.uint32))
