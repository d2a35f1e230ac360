"""The 3×3 convolution that keeps the size, and the product with a matrix.

Both give what JAX's own give. Their gradients by the weights are come by in another way on a CPU, where XLA is slow at
the usual one.
"""

from collections.abc import Callable
from functools import partial, reduce
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero

Product = Callable[[jax.Array, jax.Array], jax.Array]
Pair = tuple[Any, Any]
NARROW = 16  # channels in, below which the usual gradient of a convolution is the quicker one


@jax.custom_jvp
def convolve3x3(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """y_p = Σ_d x_{p+d} K_d over p and its eight neighbours, where x is 0 outside of the image.

    Args:
      x: [B, H, W, I].
      kernel: [3, 3, I, O].
    Returns:
      [B, H, W, O].
    """
    return usual_convolve3x3(x, kernel)


@jax.custom_jvp
def matmul(x: jax.Array, matrix: jax.Array) -> jax.Array:
    """x M: [..., I] by [I, O] -> [..., O]."""
    return jnp.matmul(x, matrix)


def usual_convolve3x3(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """`convolve3x3`, with the derivatives that JAX has for it."""
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


def _jvp(usual: Product, on_cpu: Product, primals: Pair, tangents: Pair) -> Pair:
    """(x W)' = x' W + x W', one of which may be known to be 0. On a CPU the latter is `on_cpu`, whose transpose is quick.

    All else is JAX's own, which policies of `jax.checkpoint` know.
    """
    (x, weights), (dx, dweights) = primals, tangents
    terms = []
    if not isinstance(dx, SymbolicZero):
        terms.append(usual(dx, weights))
    if not isinstance(dweights, SymbolicZero):
        terms.append(jax.lax.platform_dependent(x, dweights, cpu=on_cpu, default=usual))
    return usual(x, weights), reduce(jnp.add, terms)


def shifted_products(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """`convolve3x3` as three products with matrices, whose columns are moved by a pixel and added.

    Its gradient by the kernel is three products too, of x with what comes back, moved. XLA's CPU has the usual one as a
    convolution with a kernel of the size of the image: a half to a sixth as fast.
    """
    if x.shape[-1] < NARROW:
        return usual_convolve3x3(x, kernel)
    by_row = jnp.split(kernel.swapaxes(1, 2).reshape(3, kernel.shape[2], -1), 3)  # the three columns beside each other
    rows = reduce(jnp.add, (_shift(flat_product(x, matrix[0]), 1, 1 - row) for row, matrix in enumerate(by_row)))
    columns = jnp.split(jax.lax.optimization_barrier(rows), 3, axis=-1)  # laid down once, not gathered anew in each product
    return reduce(jnp.add, (_shift(part, 2, 1 - column) for column, part in enumerate(columns)))


def flat_product(x: jax.Array, matrix: jax.Array) -> jax.Array:
    """`matmul`, as a convolution over no axes: its gradient by the matrix is xᵀ g, that of a product (gᵀ x)ᵀ.

    The latter has g laid down anew, transposed, which takes about as long as the product itself.
    """
    rows = jax.lax.conv_general_dilated(x.reshape(-1, x.shape[-1]), matrix, (), "VALID", dimension_numbers=("NC", "IO", "NC"))
    return rows.reshape(*x.shape[:-1], matrix.shape[-1])


def _shift(x: jax.Array, axis: int, by: int) -> jax.Array:
    """x moved along an axis, with 0 coming in."""
    edges = [(0, 0, 0)] * x.ndim
    edges[axis] = (by, -by, 0)
    return jax.lax.pad(x, jnp.zeros((), x.dtype), edges)


convolve3x3.defjvp(partial(_jvp, usual_convolve3x3, shifted_products), symbolic_zeros=True)
matmul.defjvp(partial(_jvp, jnp.matmul, flat_product), symbolic_zeros=True)
