"""The U-Net of DDPM (Ho et al. 2020, appendix B)."""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from jax_ddpm.errors import InvalidInput
from jax_ddpm.models.layers import (
    AttentionBlock,
    Downsample,
    ResBlock,
    Upsample,
    conv3x3,
    group_norm,
    init_near_zero,
    init_weight,
    timestep_embedding,
)


class UNet(nn.Module):
    """Down to the coarsest resolution and up again, each block on the way up joined to its mate on the way down.

    `UNet().init(key, x, t)` makes the parameters, `UNet().apply({"params": params}, x, t)` runs it. The defaults are the
    network that the paper trains on CIFAR-10, of 35,746,307 parameters.

    Attributes:
      out_channels: channels of the output.
      channels: channels at the finest resolution.
      multipliers: channels at each resolution, in units of `channels`; each next one is half as high and wide.
      blocks: residual blocks at each resolution on the way down; one more on the way up.
      attention_resolutions: heights at which self-attention follows every block; the coarsest always has it in the middle.
      heads: of the attention.
      dropout: the share of values dropped in each block, in training.
      groups: of the group normalisation.
      scale_shift: whether the embedding scales and shifts the normalisation in each block, rather than being added before it.
      num_classes: 0, or how many labels there are; then an embedding of the label is added to that of t.
      dtype: what the body computes in, float32 or bfloat16. Parameters, statistics, softmax and output are float32.
    """

    out_channels: int = 3
    channels: int = 128
    multipliers: Sequence[int] = (1, 2, 2, 2)
    blocks: int = 2
    attention_resolutions: Sequence[int] = (16,)
    heads: int = 1
    dropout: float = 0.1
    groups: int = 32
    scale_shift: bool = False
    num_classes: int = 0
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, t: jax.Array, labels: jax.Array | None = None, *, train: bool = False) -> jax.Array:
        """One evaluation.

        Args:
          x: [B, H, W, C]; H and W must halve evenly as often as there are multipliers less one.
          t: [B] the time of each image.
          labels: [B] integers in [0, num_classes), if and only if num_classes is not 0.
          train: whether dropout is on; it then needs an rng named "dropout".
        Returns:
          [B, H, W, out_channels] float32.
        Raises:
          InvalidInput: sizes, channels or labels that this network cannot take.
        """
        self._check(x, labels)
        embedding = self._embedding(t, labels)
        x = conv3x3(self.channels, self.dtype, "conv_in")(x)

        skips = [x]
        for level, multiplier in enumerate(self.multipliers):
            for block in range(self.blocks):
                x = self._block(x, embedding, multiplier, f"down_{level}_{block}", train)
                skips.append(x)
            if level < len(self.multipliers) - 1:
                x = Downsample(self.dtype, name=f"down_{level}_downsample")(x)
                skips.append(x)

        x = self._res_block(x, embedding, self.multipliers[-1], "mid_0_resnet", train)
        x = AttentionBlock(self.heads, self.groups, self.dtype, name="mid_attention")(x)
        x = self._res_block(x, embedding, self.multipliers[-1], "mid_1_resnet", train)

        for level, multiplier in reversed(list(enumerate(self.multipliers))):
            for block in range(self.blocks + 1):
                x = jnp.concatenate([x, skips.pop()], axis=-1)
                x = self._block(x, embedding, multiplier, f"up_{level}_{block}", train)
            if level > 0:
                x = Upsample(self.dtype, name=f"up_{level}_upsample")(x)

        x = nn.silu(group_norm(self.groups, self.dtype, "norm_out")(x))
        return conv3x3(self.out_channels, jnp.promote_types(self.dtype, jnp.float32), "conv_out", kernel_init=init_near_zero)(x)

    def _embedding(self, t: jax.Array, labels: jax.Array | None) -> jax.Array:
        """[B, 4·channels]: the time, and the label where there is one."""
        width = 4 * self.channels
        h = nn.Dense(width, kernel_init=init_weight, name="time_0")(timestep_embedding(t, self.channels))
        h = nn.Dense(width, kernel_init=init_weight, name="time_1")(nn.silu(h))
        if labels is not None:
            h = h + nn.Embed(self.num_classes, width, embedding_init=nn.initializers.normal(1.0), name="label")(labels)
        return h

    def _res_block(self, x: jax.Array, embedding: jax.Array, multiplier: int, name: str, train: bool) -> jax.Array:
        features = multiplier * self.channels
        block = ResBlock(features, self.groups, self.dropout, self.dtype, self.scale_shift, name=name)
        return block(x, embedding, train)

    def _block(self, x: jax.Array, embedding: jax.Array, multiplier: int, name: str, train: bool) -> jax.Array:
        x = self._res_block(x, embedding, multiplier, f"{name}_resnet", train)
        if x.shape[1] in self.attention_resolutions:
            x = AttentionBlock(self.heads, self.groups, self.dtype, name=f"{name}_attention")(x)
        return x

    def _check(self, x: jax.Array, labels: jax.Array | None) -> None:
        halvings = len(self.multipliers) - 1
        if x.ndim != 4 or any(size % 2**halvings for size in x.shape[1:3]):
            raise InvalidInput(
                f"x has shape {x.shape}: expected [B, H, W, C] with H and W multiples of {2**halvings}, for "
                f"{len(self.multipliers)} multipliers halve the image {halvings} times"
            )
        if (labels is not None) != (self.num_classes > 0):
            expected = f"labels in 0..{self.num_classes - 1}" if self.num_classes else "no labels"
            given = "labels" if labels is not None else "no labels"
            raise InvalidInput(f"{given} given: a network with num_classes={self.num_classes} takes {expected}")
        for multiplier in (1, *self.multipliers):
            width = multiplier * self.channels
            if width % self.groups or width % self.heads:
                raise InvalidInput(
                    f"{width} channels do not split into groups={self.groups} and heads={self.heads}: choose channels "
                    f"({self.channels}) that both divide"
                )
        heights = [x.shape[1] // 2**level for level in range(halvings + 1)]
        if not set(self.attention_resolutions) <= set(heights):
            raise InvalidInput(f"attention_resolutions={tuple(self.attention_resolutions)}: the heights here are {heights}")
        if self.channels % 2 or self.channels < 4:
            raise InvalidInput(f"channels={self.channels}: expected an even number, at least 4, for sines and cosines of t")
