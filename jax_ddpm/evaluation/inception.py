"""The Inception network of the Fréchet Inception distance: its layers, its weights, and how an image is brought to its size.

It is Inception v3 (Szegedy et al. 2016) as TensorFlow's archive of 2015-12-05 holds it, under the names that torchvision gave
its layers. From torchvision's it differs in that what pads an image counts in no average, that the last block takes the largest
where the others take the average, and that it knows 1008 classes.
"""

import functools
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from jax_ddpm.errors import InvalidInput
from jax_ddpm.training.state import Params

SIZE = 299  # pixels a side
SPATIAL, CLASSES = 7 * 17 * 17, 1008


class Conv(NamedTuple):
    """A convolution without bias, batch normalisation by what was seen in training, and what is more than 0 of it."""

    name: str
    features: int
    kernel: tuple[int, int] = (1, 1)
    stride: int = 1
    padding: str = "SAME"


class Fork(NamedTuple):
    """Convolutions of one and the same, side by side."""

    ways: tuple[Conv, ...]


Pool = Callable[[jax.Array], jax.Array]
Branch = tuple[Conv | Fork | Pool, ...]
"""One after the other."""


def _average(x: jax.Array) -> jax.Array:
    return nn.avg_pool(x, (3, 3), (1, 1), "SAME", count_include_pad=False)


def _largest(x: jax.Array) -> jax.Array:
    return nn.max_pool(x, (3, 3), (1, 1), "SAME")


def _halved(x: jax.Array) -> jax.Array:
    return nn.max_pool(x, (3, 3), (2, 2), "VALID")


def _a(pooled: int) -> tuple[Branch, ...]:
    return (
        (Conv("branch1x1", 64),),
        (Conv("branch5x5_1", 48), Conv("branch5x5_2", 64, (5, 5))),
        (Conv("branch3x3dbl_1", 64), Conv("branch3x3dbl_2", 96, (3, 3)), Conv("branch3x3dbl_3", 96, (3, 3))),
        (_average, Conv("branch_pool", pooled)),
    )


def _b() -> tuple[Branch, ...]:
    doubled = (Conv("branch3x3dbl_1", 64), Conv("branch3x3dbl_2", 96, (3, 3)))
    return (
        (Conv("branch3x3", 384, (3, 3), 2, "VALID"),),
        (*doubled, Conv("branch3x3dbl_3", 96, (3, 3), 2, "VALID")),
        (_halved,),
    )


def _c(width: int) -> tuple[Branch, ...]:
    across, down = (1, 7), (7, 1)
    doubled = [Conv(f"branch7x7dbl_{2 + number}", width, kernel) for number, kernel in enumerate((down, across, down))]
    return (
        (Conv("branch1x1", 192),),
        (Conv("branch7x7_1", width), Conv("branch7x7_2", width, across), Conv("branch7x7_3", 192, down)),
        (Conv("branch7x7dbl_1", width), *doubled, Conv("branch7x7dbl_5", 192, across)),
        (_average, Conv("branch_pool", 192)),
    )


def _d() -> tuple[Branch, ...]:
    sevens = (Conv("branch7x7x3_1", 192), Conv("branch7x7x3_2", 192, (1, 7)), Conv("branch7x7x3_3", 192, (7, 1)))
    return (
        (Conv("branch3x3_1", 192), Conv("branch3x3_2", 320, (3, 3), 2, "VALID")),
        (*sevens, Conv("branch7x7x3_4", 192, (3, 3), 2, "VALID")),
        (_halved,),
    )


def _e(pool: Pool) -> tuple[Branch, ...]:
    def fork(name: str) -> Fork:
        return Fork((Conv(f"{name}a", 384, (1, 3)), Conv(f"{name}b", 384, (3, 1))))

    return (
        (Conv("branch1x1", 320),),
        (Conv("branch3x3_1", 384), fork("branch3x3_2")),
        (Conv("branch3x3dbl_1", 448), Conv("branch3x3dbl_2", 384, (3, 3)), fork("branch3x3dbl_3")),
        (pool, Conv("branch_pool", 192)),
    )


STEM: Branch = (
    Conv("Conv2d_1a_3x3", 32, (3, 3), 2, "VALID"),
    Conv("Conv2d_2a_3x3", 32, (3, 3), 1, "VALID"),
    Conv("Conv2d_2b_3x3", 64, (3, 3)),
    _halved,
    Conv("Conv2d_3b_1x1", 80),
    Conv("Conv2d_4a_3x3", 192, (3, 3), 1, "VALID"),
    _halved,
)
MIXED: dict[str, tuple[Branch, ...]] = {  # by height and width of what comes out
    **{"Mixed_5b": _a(32), "Mixed_5c": _a(64), "Mixed_5d": _a(64)},  # 35
    **{"Mixed_6a": _b(), "Mixed_6b": _c(128), "Mixed_6c": _c(160), "Mixed_6d": _c(160), "Mixed_6e": _c(192)},  # 17
    **{"Mixed_7a": _d(), "Mixed_7b": _e(_average), "Mixed_7c": _e(_largest)},  # 8
}
_SPATIAL_BLOCK = "Mixed_6d"  # its first branch is mixed_6/conv in TensorFlow's graph


class Features(NamedTuple):
    """What the network says of images.

    Attributes:
      pooled: [B, 2048] the averages over the last 8×8 places, which FID, KID and the manifolds are of.
      spatial: [B, 2023] seven channels of 17×17 places in the middle of the network, which sFID is of (Nash et al. 2021).
      logits: [B, 1008] of the classes, without the bias, as the Inception score has always been computed.
    """

    pooled: Any
    spatial: Any
    logits: Any


class _Block(nn.Module):
    """Branches of one and the same, whose channels then follow one another."""

    branches: tuple[Branch, ...]

    @nn.compact
    def __call__(self, x: jax.Array) -> list[jax.Array]:
        """[B, H, W, C] -> what each branch has come to."""
        found = []
        for branch in self.branches:
            h = x
            for step in branch:
                h = self._step(step, h)
            found.append(h)
        return found

    def _step(self, step: Conv | Fork | Pool, x: jax.Array) -> jax.Array:
        if isinstance(step, Conv):
            return _Convolution(step, name=step.name)(x)
        if isinstance(step, Fork):
            return jnp.concatenate([_Convolution(way, name=way.name)(x) for way in step.ways], axis=-1)
        return step(x)


class _Convolution(nn.Module):
    conv: Conv

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        _, features, kernel, stride, padding = self.conv
        x = nn.Conv(features, kernel, (stride, stride), padding, use_bias=False, name="conv")(x)
        return nn.relu(nn.BatchNorm(use_running_average=True, epsilon=1e-3, name="bn")(x))


class Inception(nn.Module):
    """The network. Its parameters come from `from_torchvision`."""

    @nn.compact
    def __call__(self, x: jax.Array) -> Features:
        """One evaluation.

        Args:
          x: [B, 299, 299, 3] in [-1, 1]; see `RESIZES`.
        """
        (x,) = _Block((STEM,), name="stem")(x)
        spatial = x
        for name, branches in MIXED.items():
            parts = _Block(branches, name=name)(x)
            spatial = parts[0] if name == _SPATIAL_BLOCK else spatial
            x = jnp.concatenate(parts, axis=-1)
        pooled = x.mean(axis=(1, 2))
        logits = nn.Dense(CLASSES, use_bias=False, name="fc")(pooled)
        return Features(pooled, spatial[..., :7].reshape(len(x), -1), logits)


_LEAVES = {"kernel": "weight", "scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}
_UNUSED = re.compile(r".*\.num_batches_tracked|fc\.bias|AuxLogits\..*")


def from_torchvision(tensors: Mapping[str, np.ndarray]) -> Params:
    """The network's variables from a state dict with torchvision's names, such as pytorch-fid's.

    Args:
      tensors: by name; convolutions are [out, in, height, width], the dense layer [1008, 2048].
    Raises:
      InvalidInput: a tensor is missing, left over or of another shape; the message names it.
    """
    wanted = flatten_dict(variable_shapes(), sep=".")
    theirs = {name: _their_name(name) for name in wanted}
    given = {name for name in tensors if not _UNUSED.fullmatch(name)}
    missing, left_over = set(theirs.values()) - given, given - set(theirs.values())
    if missing or left_over:
        raise InvalidInput(
            f"these are not the weights of the FID's Inception network: missing {_some(missing)}; left over {_some(left_over)}"
        )
    turned = {name: _turned(theirs[name], tensors[theirs[name]], wanted[name].shape) for name in wanted}
    return cast(Params, unflatten_dict(turned, sep="."))


@functools.cache
def variable_shapes() -> Params:
    """The network's variables as shapes, by which all are known that it needs."""
    return jax.eval_shape(Inception().init, jax.random.key(0), jax.ShapeDtypeStruct((1, SIZE, SIZE, 3), jnp.float32))


def _their_name(name: str) -> str:
    """params.Mixed_5b.branch1x1.conv.kernel is Mixed_5b.branch1x1.conv.weight, batch_stats.… running_mean and running_var."""
    _, *path, leaf = name.replace(".stem.", ".").split(".")
    return ".".join([*path, _LEAVES[leaf]])


def _some(names: set[str]) -> str:
    return ", ".join(sorted(names)[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "") or "none"


def _turned(name: str, tensor: np.ndarray, wanted: tuple[int, ...]) -> np.ndarray:
    """[out, in, height, width] -> [height, width, in, out], [out, in] -> [in, out]."""
    turned = np.asarray(tensor, np.float32).transpose({4: (2, 3, 1, 0), 2: (1, 0), 1: (0,)}.get(tensor.ndim))
    if turned.shape != wanted:
        raise InvalidInput(f"{name} has shape {tensor.shape}: turned to our order {turned.shape}, expected {wanted}")
    return turned


def resized(images: jax.Array, *, half_pixel: bool) -> jax.Array:
    """Images at the network's size, each pixel from the four nearest, whatever lies between them: nothing is smoothed.

    Args:
      images: [B, H, W, C].
      half_pixel: whether pixels are areas, so that of each image the middle stays where it is, as PyTorch has it; else they are
        points and the first stays where it is, as TensorFlow 1 has it.
    Returns:
      [B, 299, 299, C].
    """
    rows, columns = (jnp.asarray(_weights(side, half_pixel)) for side in images.shape[1:3])
    return jnp.einsum("bhwc,ih,jw->bijc", images, rows, columns, precision=jax.lax.Precision.HIGHEST)


def _weights(side: int, half_pixel: bool) -> np.ndarray:
    """[299, side] what of each pixel goes into each new one."""
    shift = 0.5 if half_pixel else 0.0
    place = np.clip((np.arange(SIZE) + shift) * (side / SIZE) - shift, 0, side - 1)
    below = np.floor(place).astype(int)
    weights = np.zeros((SIZE, side))
    np.add.at(weights, (np.arange(SIZE), below), 1 - (place - below))
    np.add.at(weights, (np.arange(SIZE), np.minimum(below + 1, side - 1)), place - below)
    return weights.astype(np.float32)


RESIZES: dict[str, Callable[[jax.Array], jax.Array]] = {
    "pytorch": lambda images: resized(images, half_pixel=True) / 127.5 - 1,
    "tensorflow": lambda images: (resized(images, half_pixel=False) - 128) / 128,
}
"""[B, H, W, 3] of 0..255 -> what the network takes: as pytorch-fid has it, and as the original, guided-diffusion's evaluator
and torch-fidelity do. The two give other figures of the same images."""


def describe_images(variables: Params, images: jax.Array, resize: Callable[[jax.Array], jax.Array]) -> Features:
    """What the network says of images.

    Args:
      variables: as `from_torchvision` gives them.
      images: [B, H, W, 1 or 3] of 0..255; grey ones are shown as grey RGB.
      resize: one of RESIZES.
    """
    x = jnp.broadcast_to(jnp.asarray(images, jnp.float32), (*images.shape[:3], 3))
    return cast(Features, Inception().apply(variables, resize(x)))
