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
Points = tuple[float, ...]
PAIRS: Points = (0, 1, -1)  # of `winograd`
FOURS: Points = (0, 0.5**0.5, -(0.5**0.5), 2**0.5, -(2**0.5))  # rounded less than with 0, ±1, ±2, but more than pairs
_as_usual = ContextVar("_as_usual", default=False)


def convolve3x3(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """y_p = Σ_d x_{p+d} K_d over p and its eight neighbours, where x is 0 outside of the image.

    A pixel that is no finite number may spoil, on a CPU, all pixels of the four that a neighbour of it is computed with. The
    gradient of the kernel is taken by fours there, and is rounded twice as coarsely as the usual one, to some 1e-6 of it.

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
        by_fours = x.shape[1] % 4 == x.shape[2] % 4 == 0
        return _on_cpu(partial(winograd, points=FOURS if by_fours else PAIRS), usual_convolve3x3, x, change, _is_number(kernel))


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


def winograd(x: jax.Array, kernel: jax.Array, is_number: jax.Array, points: Points = PAIRS) -> jax.Array:
    """`convolve3x3`, by fewer multiplications: 4/9 of what is usual for pairs of pixels, 1/4 for fours.

    Y = Aᵀ[(G K Gᵀ) ∘ (Bᵀ D B)]A for each m×m pixels Y of the output, and the (m+2)×(m+2) of the input, D, that they see, with
    m = 2 for `PAIRS`, 4 for `FOURS`; the products are sums over the channels.     (Lavin & Gray 2016, eq. 8, F(m×m, 3×3))

    Args:
      x: [B, H, W, I], H and W multiples of m.
      is_number: false if the result is to be nan, or a part of it; see `_alone`.
      points: those at which the polynomials are multiplied; see `_toom_cook`.
    """
    to_products, of_kernel, of_image = _toom_cook(points)
    pixels, seen = to_products.shape
    batch, height, width, channels = x.shape
    rows, columns, tile = height // pixels, width // pixels, (seen, seen)
    matrices = jnp.asarray(np.kron(of_kernel, of_kernel), kernel.dtype) @ kernel.reshape(9, -1)
    one = jnp.where(is_number, 1, jnp.nan).astype(x.dtype)
    tiles = _alone(is_number, lambda x: _seen(_seen(x, of_image), of_image), one * x)  # along the width, then along the height
    products = tiles.reshape(seen**2, batch * rows * columns, channels) @ matrices.reshape(seen**2, *kernel.shape[2:])
    products = products.reshape(*tile, batch, rows, columns, kernel.shape[3])
    joined = _alone(is_number, lambda products: _joined(_joined(products, to_products), to_products), products)
    return one * joined  # along the height, then the width


def _toom_cook(points: Points) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Aᵀ [m, m+2], G [m+2, 3], Bᵀ [m+2, m+2]: y_i = Σ_k d_{i+k} g_k for i < m is Aᵀ[(G g) ∘ (Bᵀ d)].

    Two polynomials are multiplied by their values at m + 1 points and at infinity; this is the transpose of that.
    """
    others = [[b for b in points if b != a] for a in points]
    scale = [np.prod(np.subtract(a, each)) for a, each in zip(points, others, strict=True)]

    def values(count: int) -> np.ndarray:
        """Of polynomials of so many coefficients at each point; at infinity, the last coefficient."""
        return np.concatenate([np.vander(points, count, increasing=True), np.eye(count)[-1:]])

    of_image = np.array([*(np.append(np.poly(each)[::-1], 0) for each in others), np.poly(points)[::-1]])
    return values(len(points) - 1).T, values(3) / np.append(scale, 1)[:, None], np.where(abs(of_image) < 1e-12, 0, of_image)


def _alone(condition: jax.Array, change: Callable[[jax.Array], jax.Array], x: jax.Array) -> jax.Array:
    """change(x), or 0, in a branch, into which XLA's CPU fuses nothing.

    Else what x is made of, such as an activation, would be computed anew for each sum that it goes into; so would, in the
    backward pass, what the gradient is made of.
    """
    return jax.lax.cond(condition, change, lambda x: jnp.zeros(jax.eval_shape(change, x).shape, x.dtype), x)


def _seen(x: jax.Array, of_image: np.ndarray) -> jax.Array:
    """Bᵀ D: [:, :, mn, …] -> [m+2, :, :, n, …], of each m pixels along the third axis and the one before and behind."""
    pixels = len(of_image) - 2
    parts = _unstack(x.reshape(*x.shape[:2], x.shape[2] // pixels, pixels, *x.shape[3:]), 3)
    return jnp.stack(_sums(of_image, [_shift(parts[-1], 2, 1), *parts, _shift(parts[0], 2, -1)]))


def _joined(products: jax.Array, to_products: np.ndarray) -> jax.Array:
    """Aᵀ P: [m+2, :, :, n, …] -> [:, :, mn, …]."""
    parts = jnp.stack(_sums(to_products, _unstack(products, 0)), 3)
    return parts.reshape(*parts.shape[:2], parts.shape[2] * parts.shape[3], *parts.shape[4:])


def _sums(matrix: np.ndarray, parts: list[jax.Array]) -> list[jax.Array]:
    """Σ_j M_ij parts_j."""
    return [reduce(jnp.add, (float(c) * part for c, part in zip(row, parts, strict=True) if c)) for row in matrix]


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
