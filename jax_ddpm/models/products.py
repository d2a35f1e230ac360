"""The 3×3 convolution that keeps the size, and the product with a matrix.

Both give what JAX's own give. A CPU has ways of its own: in float32 it multiplies less for the convolution, and it comes by the
gradients of the weights by products that XLA is quicker at.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial, reduce
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name
from jax.custom_derivatives import SymbolicZero

Product = Callable[[jax.Array, jax.Array], jax.Array]
Pair = tuple[Any, Any]
NARROW = 16  # channels in, below which the usual gradient of a convolution is the quicker one
WIDE = 64  # channels in and out from which on Winograd's convolution is the quicker one, where there are
LARGE = 256  # pixels
PRODUCT = "product"  # the name by which a policy of `jax.checkpoint` knows what they give
_G = np.array([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]])  # in `winograd`
_as_usual = ContextVar("_as_usual", default=False)


def convolve3x3(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """y_p = Σ_d x_{p+d} K_d over p and its eight neighbours, where x is 0 outside of the image.

    A pixel that is no finite number may spoil, on a CPU, all pixels of the four that a neighbour of it is computed with.

    Args:
      x: [B, H, W, I].
      kernel: [3, 3, I, O].
    Returns:
      [B, H, W, O].
    """
    return checkpoint_name(_convolution(x, kernel), PRODUCT)


def matmul(x: jax.Array, matrix: jax.Array) -> jax.Array:
    """x M: [..., I] by [I, O] -> [..., O]."""
    return checkpoint_name(_matmul(x, matrix), PRODUCT)


@contextmanager
def as_usual() -> Iterator[None]:
    """What is traced within has nothing of a CPU's own ways: for where its compiler stands in for that of another."""
    before = _as_usual.set(True)
    try:
        yield
    finally:
        _as_usual.reset(before)


def usual_convolve3x3(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """`convolve3x3`, with the derivatives that JAX has for it."""
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


@jax.custom_jvp
def _convolution(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return _quick_by_x(x, kernel)


@jax.custom_jvp
def _matmul(x: jax.Array, matrix: jax.Array) -> jax.Array:
    return jnp.matmul(x, matrix)


def _quick_by_x(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """`convolve3x3`, whose gradient by x is quick too."""
    if not _is_large(x, kernel):
        return usual_convolve3x3(x, kernel)
    return _on_cpu(winograd, usual_convolve3x3, x, kernel, _is_number(kernel))


def _quick_by_kernel(x: jax.Array, change: jax.Array, kernel: jax.Array) -> jax.Array:
    """`convolve3x3` of a change of the kernel, by which its gradient is quick, and has a name in profiles."""
    with jax.named_scope("by_kernel"):
        if not _is_large(x, kernel):
            return _on_cpu(shifted_products, usual_convolve3x3, x, change)
        return _on_cpu(winograd, usual_convolve3x3, x, change, _is_number(kernel))


def _is_large(x: jax.Array, kernel: jax.Array) -> bool:
    """Whether `winograd` can be used, and is worth it. In bfloat16 its sums and differences would be rounded too coarsely."""
    if not x.dtype == kernel.dtype == jnp.float32:
        return False
    height, width, *channels = *x.shape[1:3], *kernel.shape[2:]
    known = isinstance(height, int) and isinstance(width, int)  # `jax.export` has sizes that are not
    return known and height % 2 == width % 2 == 0 and height * width >= LARGE and min(channels) >= WIDE


def _is_number(kernel: jax.Array) -> jax.Array:
    """Whether its first number is one: nearly always, but no compiler knows."""
    return kernel[0, 0, 0, 0] == kernel[0, 0, 0, 0]


def _on_cpu(quick: Callable[..., jax.Array], usual: Product, x: jax.Array, weights: jax.Array, *more: jax.Array) -> jax.Array:
    """`quick` where the program is one for a CPU; nothing that it makes of x and weights waits for the backward pass."""
    if _as_usual.get():
        return usual(x, weights)
    return jax.lax.platform_dependent(
        x, weights, *more, cpu=jax.checkpoint(quick), default=lambda x, weights, *_: usual(x, weights)
    )


def _jvp(by_x: Product, by_weights: Callable[..., jax.Array], primals: Pair, tangents: Pair) -> Pair:
    """(x W)' = x' W + x W', one of which may be known to be 0; each as that whose transpose is quick."""
    (x, weights), (dx, dweights) = primals, tangents
    terms = []
    if not isinstance(dx, SymbolicZero):
        terms.append(by_x(dx, weights))
    if not isinstance(dweights, SymbolicZero):
        terms.append(by_weights(x, dweights, weights))
    return by_x(x, weights), reduce(jnp.add, terms)


def winograd(x: jax.Array, kernel: jax.Array, is_number: jax.Array) -> jax.Array:
    """`convolve3x3` of an even height and width, by 16 products with matrices of a quarter of the pixels, 4/9 of what is usual.

    Y = Aᵀ[(G K Gᵀ) ∘ (Bᵀ D B)]A for each 2×2 pixels Y of the output, and the 4×4 of the input, D, that they see; the products
    are sums over the channels.     (Lavin & Gray 2016, eq. 12, F(2×2, 3×3))

    Args:
      is_number: false if the result is to be nan, or a part of it; see `_alone`.
    """
    batch, height, width, channels = x.shape
    matrices = (jnp.asarray(np.kron(_G, _G), kernel.dtype) @ kernel.reshape(9, -1)).reshape(16, *kernel.shape[2:])
    one = jnp.where(is_number, 1, jnp.nan).astype(x.dtype)
    tiles = _alone(is_number, lambda x: _seen(_seen(x)), one * x)  # along the width, then along the height
    products = tiles.reshape(16, batch * (height // 2) * (width // 2), channels) @ matrices
    products = products.reshape(4, 4, batch, height // 2, width // 2, kernel.shape[3])
    return one * _alone(is_number, lambda products: _joined(_joined(products)), products)  # along the height, then the width


def _alone(condition: jax.Array, change: Callable[[jax.Array], jax.Array], x: jax.Array) -> jax.Array:
    """change(x), or 0, in a branch, into which XLA's CPU fuses nothing.

    Else what x is made of, such as an activation, would be computed anew for each sum that it goes into; so would, in the
    backward pass, what the gradient is made of.
    """
    return jax.lax.cond(condition, change, lambda x: jnp.zeros(jax.eval_shape(change, x).shape, x.dtype), x)


def _seen(x: jax.Array) -> jax.Array:
    """Bᵀ D: [:, :, 2n, …] -> [4, :, :, n, …], of each two pixels along the third axis and the one before and behind."""
    first, second = _unstack(x.reshape(*x.shape[:2], x.shape[2] // 2, 2, *x.shape[3:]), 3)
    before, behind = _shift(second, 2, 1), _shift(first, 2, -1)
    return jnp.stack([before - second, first + second, second - first, first - behind])


def _joined(products: jax.Array) -> jax.Array:
    """Aᵀ P: [4, :, :, n, …] -> [:, :, 2n, …]."""
    a, b, c, d = _unstack(products, 0)
    pairs = jnp.stack([a + b + c, b - c - d], 3)
    return pairs.reshape(*pairs.shape[:2], 2 * pairs.shape[2], *pairs.shape[4:])


def _unstack(x: jax.Array, axis: int) -> list[jax.Array]:
    """As `jnp.unstack`, but by one operation, whose gradient is one again."""
    return [part.squeeze(axis) for part in jnp.split(x, x.shape[axis], axis)]


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


_convolution.defjvp(partial(_jvp, _quick_by_x, _quick_by_kernel), symbolic_zeros=True)
_matmul.defjvp(
    partial(_jvp, jnp.matmul, lambda x, change, matrix: _on_cpu(flat_product, jnp.matmul, x, change)), symbolic_zeros=True
)
