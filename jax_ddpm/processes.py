"""What the processes of one command share out among them, and put together bit for bit; one alone has all of it."""

from collections.abc import Iterator

import jax
import numpy as np
from jax.experimental import multihost_utils

BYTES_AT_ONCE = 2**26  # of all processes together, on each device, while they are put together


def own_share(total: int) -> range:
    """Which of so many things are this process's: as many as the others' but for one, and they follow one another."""
    number, processes = jax.process_index(), jax.process_count()
    return range(number * total // processes, (number + 1) * total // processes)


def of_each(own: np.ndarray) -> np.ndarray:
    """[...] of this process -> [processes, ...] of all of them, in their order.

    Every process has to call it, each with an array of the same shape and type. Bytes are sent, for of numbers in float64 JAX
    would send half the bits.
    """
    pieces = [_sent(piece) for piece in _pieces(np.ascontiguousarray(own).reshape(-1).view(np.uint8))]
    return np.concatenate(pieces, axis=1).view(own.dtype).reshape(jax.process_count(), *own.shape)


def summed(own: np.ndarray) -> np.ndarray:
    """[...] of this process -> [...] the sum over all processes, in the type that it has: the same bits in all of them."""
    flat = np.ascontiguousarray(own).reshape(-1)
    return np.concatenate([of_each(piece).sum(axis=0, dtype=own.dtype) for piece in _pieces(flat)]).reshape(own.shape)


def joined(own: np.ndarray) -> np.ndarray:
    """[N, ...] of this process, of whatever length -> those of all processes, one after the other."""
    lengths = of_each(np.array(len(own)))
    filled = np.zeros((lengths.max(), *own.shape[1:]), own.dtype)
    filled[: len(own)] = own
    return np.concatenate([each[:length] for each, length in zip(of_each(filled), lengths, strict=True)])


def _pieces(flat: np.ndarray) -> Iterator[np.ndarray]:
    """[n] -> parts of it, of which all processes together have no more than BYTES_AT_ONCE; one at least."""
    most = max(BYTES_AT_ONCE // (flat.itemsize * jax.process_count()), 1)
    return (flat[first : first + most] for first in range(0, max(len(flat), 1), most))


def _sent(own: np.ndarray) -> np.ndarray:
    return np.asarray(multihost_utils.process_allgather(own)) if own.size else own[None].repeat(jax.process_count(), axis=0)
