"""How far apart two sets of features lie by a kernel: the kernel (Inception) distance, which does not grow with few samples."""

from typing import NamedTuple

import numpy as np

from jax_ddpm.errors import InvalidInput

BLOCK = 1000  # features, as Bińkowski et al. 2018 have it
FEWEST_BLOCKS = 10


class KernelDistance(NamedTuple):
    """An unbiased estimate of the squared maximum mean discrepancy.

    Attributes:
      mean: over blocks of the features; it can be less than 0 where they are of the same distribution.
      standard_error: of that mean, by how the blocks differ.
      blocks, block_size: how many, and how many features of each side are in one.
    """

    mean: float
    standard_error: float
    blocks: int
    block_size: int


def kernel_distance(x: np.ndarray, y: np.ndarray, seed: int = 0) -> KernelDistance:
    """The mean of `squared_discrepancy` over blocks that share nothing, so that their differences tell the error of the mean.

    The estimate is unbiased whatever the size of a block, which is 1000, or less where fewer than ten would come of it.

    Args:
      x, y: [N, D], [M, D] features, in any order: the blocks are drawn by `seed`.
    Raises:
      InvalidInput: there are fewer than 20 on one side.
    """
    fewest = min(len(x), len(y))
    size = min(BLOCK, fewest // FEWEST_BLOCKS)
    if size < 2:
        raise InvalidInput(f"a kernel distance of {len(x)} and {len(y)} images: expected {2 * FEWEST_BLOCKS} or more of each")
    rng, blocks = np.random.default_rng(seed), fewest // size
    chosen = [rng.permutation(len(each))[: blocks * size].reshape(blocks, size) for each in (x, y)]
    found = np.array([squared_discrepancy(x[rows], y[others]) for rows, others in zip(*chosen, strict=True)])
    return KernelDistance(float(found.mean()), float(found.std(ddof=1) / np.sqrt(blocks)), blocks, size)


def squared_discrepancy(x: np.ndarray, y: np.ndarray) -> float:
    """MMD²_u = Σ_{i≠j} k(x_i, x_j)/n(n-1) + Σ_{i≠j} k(y_i, y_j)/m(m-1) - 2 Σ k(x_i, y_j)/nm    (Gretton et al. 2012, eq. 3)

    with k(a, b) = (a·b/D + 1)³ (Bińkowski et al. 2018, section 4), in float64.

    Args:
      x, y: [n, D], [m, D] features, two or more of each.
    """
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    return _within(x) + _within(y) - 2 * float(_kernel(x, y).mean())


def _within(x: np.ndarray) -> float:
    kernel = _kernel(x, x)
    return float((kernel.sum() - np.trace(kernel)) / (len(x) * (len(x) - 1)))


def _kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return (x @ y.T / x.shape[1] + 1) ** 3
