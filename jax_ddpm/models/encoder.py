"""What the U-Net and the classifier share: the time, the way down and the middle."""

from collections.abc import Callable, Sequence
from typing import TypeVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from jax_ddpm.errors import InvalidInput, choose
from jax_ddpm.models.layers import (
    AttentionBlock,
    Downsample,
    Resample,
    ResBlock,
    conv3x3,
    dense,
    halved,
    timestep_embedding,
)
from jax_ddpm.models.products import PRODUCT

Block = TypeVar("Block", ResBlock, AttentionBlock)
REMAT: dict[str, Callable[..., bool]] = {
    "none": jax.checkpoint_policies.everything_saveable,
    "blocks": jax.checkpoint_policies.nothing_saveable,
    "dots": jax.checkpoint_policies.save_only_these_names(PRODUCT),
}
"""What of a block is kept for the backward pass, where the rest is computed again: all, its input, or
products too, with weights and within attention."""


class Encoder(nn.Module):
    """The settings and the parts that are the same in each network; those that inherit from it say what is done with them.

    Attributes:
      channels: channels at the finest resolution.
      multipliers: channels at each resolution, in units of `channels`; each next one is half as high and wide.
      blocks: residual blocks at each resolution on the way down.
      attention_resolutions: heights at which self-attention follows every block.
      heads: of the attention.
      head_channels: how many channels each head has; 0 where `heads` says how many there are.
      dropout: the share of values dropped in each block, in training.
      groups: of the group normalisation.
      scale_shift: whether the embedding scales and shifts the normalisation in each block, rather than being added before it.
      block_resampling: whether the image changes its size within a residual block, rather than by a layer of its own.
      downsample: that layer on the way down, as in `Downsample`.
      middle_attention: whether the coarsest resolution has attention in the middle.
      norm_eps: of the normalisation; OpenAI's networks have 1e-5.
      time_cosine_first, time_frequency_shift: as in `timestep_embedding`; OpenAI's networks have True and 0.
      time_channels: how many sines and cosines of t there are, a quarter of the width of its embedding; 0: as `channels`.
      time_scale: what t is multiplied by before.
      remat: what of each block is kept from the forward to the backward pass: all ("none"), or what REMAT says.
      dtype: what the body computes in, float32 or bfloat16. Parameters, statistics, softmax and output are float32.
    """

    channels: int = 128
    multipliers: Sequence[int] = (1, 2, 2, 2)
    blocks: int = 2
    attention_resolutions: Sequence[int] = (16,)
    heads: int = 1
    head_channels: int = 0
    dropout: float = 0.1
    groups: int = 32
    scale_shift: bool = False
    block_resampling: bool = False
    downsample: str = "conv"
    middle_attention: bool = True
    norm_eps: float = 1e-6
    time_cosine_first: bool = False
    time_frequency_shift: int = 1
    time_channels: int = 0
    time_scale: float = 1.0
    remat: str = "none"
    dtype: DTypeLike = jnp.float32

    def encode(self, x: jax.Array, embedding: jax.Array, train: bool) -> tuple[jax.Array, list[jax.Array]]:
        """x [B, H, W, C], embedding [B, E] -> the middle, and what each step on the way down has come to."""
        x = conv3x3(self.channels, self.dtype, "conv_in")(x)
        skips = [x]
        for level, multiplier in enumerate(self.multipliers):
            for block in range(self.blocks):
                x = self.block(x, embedding, multiplier, f"down_{level}_{block}", train)
                skips.append(x)
            if level < len(self.multipliers) - 1:
                x = self._downsample(x, embedding, multiplier, f"down_{level}_downsample", train)
                skips.append(x)

        x = self.res_block(multiplier, "mid_0_resnet")(x, embedding, train)
        x = self._attention("mid_attention", x) if self.middle_attention else x
        return self.res_block(multiplier, "mid_1_resnet")(x, embedding, train), skips

    @property
    def embedding_width(self) -> int:
        """Of what the blocks are told."""
        return 4 * (self.time_channels or self.channels)

    def time_embedding(self, t: jax.Array, name: str = "time", also: jax.Array | None = None) -> jax.Array:
        """t [B], and what else it is to be combined with, [B, embedding_width] -> [B, embedding_width]."""
        width = self.embedding_width
        told = timestep_embedding(
            t if self.time_scale == 1 else t * self.time_scale,
            width // 4,
            cosine_first=self.time_cosine_first,
            frequency_shift=self.time_frequency_shift,
        )
        h = dense(width, None, f"{name}_0")(told)
        h = h if also is None else h + also
        return dense(width, None, f"{name}_1")(nn.silu(h))

    def block(self, x: jax.Array, embedding: jax.Array, multiplier: int, name: str, train: bool) -> jax.Array:
        """A residual block, and the attention that follows it at this height, if any does."""
        x = self.res_block(multiplier, f"{name}_resnet")(x, embedding, train)
        return self._attention(f"{name}_attention", x) if x.shape[1] in self.attention_resolutions else x

    def res_block(self, multiplier: int, name: str, resample: Resample | None = None) -> ResBlock:
        """One that ends with multiplier · channels."""
        features = multiplier * self.channels
        kind = self._kept(ResBlock, static_argnums=(3,))  # train
        return kind(features, self.groups, self.dropout, self.dtype, self.scale_shift, resample, self.norm_eps, name=name)

    def heads_for(self, width: int) -> int:
        """How many heads attention over `width` channels has."""
        return width // self.head_channels if self.head_channels else self.heads

    def check_image(self, x: jax.Array) -> None:
        """Raises InvalidInput for sizes and channels that this network cannot take."""
        halvings = len(self.multipliers) - 1
        if x.ndim != 4 or any(size % 2**halvings for size in x.shape[1:3]):
            raise InvalidInput(
                f"x has shape {x.shape}: expected [B, H, W, C] with H and W multiples of {2**halvings}, for "
                f"{len(self.multipliers)} multipliers halve the image {halvings} times"
            )
        for multiplier in (1, *self.multipliers):
            self._check_width(multiplier * self.channels)
        heights = [x.shape[1] // 2**level for level in range(halvings + 1)]
        if not set(self.attention_resolutions) <= set(heights):
            raise InvalidInput(f"attention_resolutions={tuple(self.attention_resolutions)}: the heights here are {heights}")
        if self.embedding_width % 8 or self.embedding_width < 16:
            name = "time_channels" if self.time_channels else "channels"
            raise InvalidInput(f"{name}={getattr(self, name)}: expected an even number, at least 4, for sines and cosines of t")

        if not 0 <= self.time_frequency_shift < self.embedding_width // 8:
            raise InvalidInput(
                f"time_frequency_shift={self.time_frequency_shift}: expected from 0 to less than the "
                f"{self.embedding_width // 8} frequencies there are"
            )

    def _check_width(self, width: int) -> None:
        if width % self.groups or width % (self.head_channels or self.heads):
            heads = f"heads of head_channels={self.head_channels}" if self.head_channels else f"heads={self.heads}"
            raise InvalidInput(
                f"{width} channels do not split into groups={self.groups} and {heads}: choose channels "
                f"({self.channels}) that both divide"
            )

    def _downsample(self, x: jax.Array, embedding: jax.Array, multiplier: int, name: str, train: bool) -> jax.Array:
        if self.block_resampling:
            return self.res_block(multiplier, name, halved)(x, embedding, train)
        return Downsample(self.dtype, self.downsample, name=name)(x)

    def _kept(self, kind: type[Block], static_argnums: tuple[int, ...] = ()) -> type[Block]:
        """A kind of block of which `remat` is kept; its parameters and their names stay the same."""
        if self.remat == "none":
            return kind
        policy = choose("remat", self.remat, REMAT)
        return nn.remat(kind, static_argnums=static_argnums, policy=policy)

    def _attention(self, name: str, x: jax.Array) -> jax.Array:
        return self._kept(AttentionBlock)(self.heads_for(x.shape[-1]), self.groups, self.dtype, self.norm_eps, name=name)(x)
