"""The parts of the networks, as in the public code of Ho et al. 2020 but where another source is named.

Parameters are float32. `dtype` is what a layer computes in; normalisation statistics and softmax are float32 whatever it is, or
float64 where it is that.
"""

from collections.abc import Callable, Sequence
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name
from jax.typing import DTypeLike

from jax_ddpm.errors import choose
from jax_ddpm.models.products import PRODUCT, convolve3x3, matmul

init_weight = nn.initializers.variance_scaling(1.0, "fan_avg", "uniform")
init_near_zero = nn.initializers.variance_scaling(1e-10, "fan_avg", "uniform")  # so that a block starts as its skip

Resample = Callable[[jax.Array], jax.Array]
"""[B, H, W, C] -> the same image at another size."""


def timestep_embedding(t: jax.Array, features: int, *, cosine_first: bool = False, frequency_shift: int = 1) -> jax.Array:
    """Sines and cosines of t at geometrically spaced frequencies.

    [sin(t ω_0), sin(t ω_1), …, cos(t ω_0), cos(t ω_1), …] with ω_i = 10⁴^(-i/(features/2 - 1))
    (Vaswani et al. 2017, section 3.5, in the layout of Ho et al. 2020)

    Args:
      t: [B] numbers.
      features: an even number, at least 4.
      cosine_first: the cosines stand before the sines (Nichol & Dhariwal 2021).
      frequency_shift: what is taken from features/2 in the exponent; 0 there.
    Returns:
      [B, features] float32; float64 of such t.
    """
    half = features // 2
    angles = t.astype(jnp.promote_types(t.dtype, jnp.float32))[:, None]
    frequencies = jnp.exp(-jnp.log(1e4) * jnp.arange(half, dtype=angles.dtype) / (half - frequency_shift))
    angles = angles * frequencies
    parts = [jnp.sin(angles), jnp.cos(angles)]
    return jnp.concatenate(parts[::-1] if cosine_first else parts, axis=-1)


class GroupNorm(nn.Module):
    """Group normalisation, γ (x - μ)/√(σ² + ε) + β, by mean and variance of a group of channels at all positions.

    (Wu & He 2018, section 3.1; taken as a·x + b from the sums of each channel: one pass over x, and one over its gradient)

    Statistics are float32 at the least.

    Attributes:
      groups: divides the channels.
      epsilon: DDPM's, if no other is given.
    """

    groups: int
    dtype: DTypeLike
    epsilon: float = 1e-6

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, H, W, C] -> the same."""
        channels = x.shape[-1]
        gamma = self.param("scale", nn.initializers.ones, (channels,), jnp.float32)
        beta = self.param("bias", nn.initializers.zeros, (channels,), jnp.float32)
        wide = x.astype(jnp.result_type(x.dtype, self.dtype, jnp.float32))

        def group_means(values: jax.Array) -> jax.Array:
            """[B, H, W, C] -> [B, 1, 1, C], each channel with the mean of its group."""
            means = values.mean(axis=(1, 2)).reshape(x.shape[0], self.groups, channels // self.groups).mean(axis=2)
            return jnp.repeat(means, channels // self.groups, axis=1)[:, None, None, :]

        mean, square = group_means(wide), group_means(wide**2)
        a = gamma * jax.lax.rsqrt(jnp.maximum(square - mean**2, 0) + self.epsilon)
        return (a * wide + (beta - a * mean)).astype(self.dtype)


def _in_flax(product: Callable[[jax.Array, jax.Array], jax.Array]) -> Callable[[], Callable[..., jax.Array]]:
    """A product with weights, as Flax's layers take it: they give it settings too, which are the usual ones here."""
    return lambda: lambda x, weights, *settings, **others: product(x, weights)


def dense(
    features: int,
    dtype: DTypeLike | None,
    name: str,
    *,
    bias: bool = True,
    kernel_init: nn.initializers.Initializer = init_weight,
) -> nn.Dense:
    """A product with a matrix, [..., I] -> [..., features], by `products.matmul`; of an image, a 1×1 convolution.

    Without a dtype it computes in that of what it is given.
    """
    return nn.Dense(features, bias, kernel_init=kernel_init, dtype=dtype, dot_general_cls=_in_flax(matmul), name=name)


Padding = str | Sequence[tuple[int, int]]


def conv3x3(
    features: int,
    dtype: DTypeLike,
    name: str,
    *,
    stride: int = 1,
    padding: Padding = "SAME",
    kernel_init: nn.initializers.Initializer = init_weight,
) -> nn.Conv:
    """A 3×3 convolution, by `products.convolve3x3` where it keeps the size.

    With stride 2 an even size is padded by (0, 1): below and to the right alone; or as is said.
    """
    conv = partial(nn.Conv, kernel_init=kernel_init, dtype=dtype, name=name)
    if stride == 1 and padding == "SAME":
        return conv(features, (3, 3), conv_general_dilated_cls=_in_flax(convolve3x3))
    return conv(features, (3, 3), (stride, stride), padding)


def attend(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
    """softmax(q kᵀ/√d) v        (Vaswani et al. 2017, eq. 1)

    Args:
      query: [B, Q, heads, d].
      key, value: [B, K, heads, d].
    Returns:
      [B, Q, heads, d]. Logits and softmax are float32 at the least.
    """
    wide = jnp.promote_types(query.dtype, jnp.float32)
    logits = checkpoint_name(jnp.einsum("bqhd,bkhd->bhqk", query, key, preferred_element_type=wide), PRODUCT)
    weights = jax.nn.softmax(logits * np.sqrt(1 / query.shape[-1]).astype(wide))
    return checkpoint_name(jnp.einsum("bhqk,bkhd->bqhd", weights.astype(value.dtype), value), PRODUCT)


def halved(x: jax.Array) -> jax.Array:
    """[B, H, W, C] -> [B, H/2, W/2, C], the mean of each four pixels."""
    batch, height, width, channels = x.shape
    return x.reshape(batch, height // 2, 2, width // 2, 2, channels).mean(axis=(2, 4))


def doubled(x: jax.Array) -> jax.Array:
    """[B, H, W, C] -> [B, 2H, 2W, C], each pixel four times."""
    return x.repeat(2, axis=1).repeat(2, axis=2)


def smoothly_doubled(x: jax.Array) -> jax.Array:
    """[B, H, W, C] -> [B, 2H, 2W, C], bilinear between the centres of pixels."""
    batch, height, width, channels = x.shape
    return jax.image.resize(x, (batch, 2 * height, 2 * width, channels), "linear")


class ResBlock(nn.Module):
    """Two convolutions and a skip. Between them the embedding is added to h, or scales and shifts its normalisation:

    norm(h + shift)                   (Ho et al. 2020)
    norm(h)·(1 + scale) + shift       (Nichol & Dhariwal 2021; "adaptive group normalization" in Dhariwal & Nichol 2021)

    where shift, or [scale, shift], is a projection of the embedding.

    Attributes:
      features: channels out. Where they differ from those in, the skip is a 1×1 convolution.
      groups: of the normalisation; divides the channels in and out.
      dropout: the share of values dropped before the second convolution, in training.
      scale_shift: the second of the two ways; the projection of the embedding is then twice as wide.
      resample: `halved` or `doubled`, to change the size of the image within the block, before the first convolution and on the
        skip ("BigGAN up/down" in Dhariwal & Nichol 2021, section 3).
      norm_eps: what keeps the normalisation from dividing by 0.
    """

    features: int
    groups: int
    dropout: float
    dtype: DTypeLike
    scale_shift: bool = False
    resample: Resample | None = None
    norm_eps: float = 1e-6

    @nn.compact
    def __call__(self, x: jax.Array, embedding: jax.Array, train: bool) -> jax.Array:
        """x [B, H, W, C], embedding [B, E] -> [B, H, W, features], of half or twice the size where it is resampled."""
        h = nn.silu(GroupNorm(self.groups, self.dtype, self.norm_eps, name="norm1")(x))
        if self.resample is not None:
            x, h = self.resample(x), self.resample(h)
        h = conv3x3(self.features, self.dtype, "conv1")(h)
        h = nn.silu(self._condition(h, nn.silu(embedding)))
        h = nn.Dropout(self.dropout, deterministic=not train)(h)
        h = conv3x3(self.features, self.dtype, "conv2", kernel_init=init_near_zero)(h)
        if x.shape[-1] != self.features:
            x = dense(self.features, self.dtype, "skip")(x)
        return x + h

    def _condition(self, h: jax.Array, embedding: jax.Array) -> jax.Array:
        """h normalised, and told of the embedding."""
        width = (1 + self.scale_shift) * self.features
        project = dense(width, self.dtype, "embedding")
        projected = project(embedding)[:, None, None, :]
        norm = GroupNorm(self.groups, self.dtype, self.norm_eps, name="norm2")
        if not self.scale_shift:
            return norm(h + projected)
        scale, shift = jnp.split(projected, 2, axis=-1)
        return norm(h) * (1 + scale) + shift


class AttentionBlock(nn.Module):
    """Self-attention over all positions, `attend`, added to its input.

    Attributes:
      heads: they share the channels out evenly.
      groups, norm_eps: of the normalisation.
    """

    heads: int
    groups: int
    dtype: DTypeLike
    norm_eps: float = 1e-6

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, H, W, C] -> the same."""
        batch, height, width, channels = x.shape
        h = GroupNorm(self.groups, self.dtype, self.norm_eps, name="norm")(x)

        def project(name: str) -> jax.Array:
            out = dense(channels, self.dtype, name)(h)
            return out.reshape(batch, height * width, self.heads, channels // self.heads)

        h = attend(project("query"), project("key"), project("value"))
        out = dense(channels, self.dtype, "out", kernel_init=init_near_zero)
        return x + out(h.reshape(x.shape))


class AttentionPool(nn.Module):
    """An image as one vector: what its mean attends to, among its positions and itself.

    softmax(q_0 kᵀ/√d) v with q, k, v of [mean(x), x_1, …, x_HW] + P, where P is learned
    (Radford et al. 2021, section 2.4; in the classifier of Dhariwal & Nichol 2021, section 4)

    What they multiply it by last is left to the caller. Logits and softmax are float32.

    Attributes:
      heads: they share the channels out evenly.
    """

    heads: int
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, H, W, C] -> [B, C]."""
        batch, channels = x.shape[0], x.shape[-1]
        x = x.reshape(batch, -1, channels)
        x = jnp.concatenate([x.mean(axis=1, keepdims=True), x], axis=1)
        position = self.param("position", nn.initializers.normal(channels**-0.5), x.shape[1:])
        x = x + position.astype(x.dtype)

        def project(x: jax.Array, name: str) -> jax.Array:
            out = dense(channels, self.dtype, name)(x)
            return out.reshape(batch, -1, self.heads, channels // self.heads)

        h = attend(project(x[:, :1], "query"), project(x, "key"), project(x, "value"))
        return h.reshape(batch, channels)


class Downsample(nn.Module):
    """Halves height and width.

    Attributes:
      kind: a 3×3 convolution of stride 2, padded below and to the right alone ("conv"), or all around ("conv_centred", Nichol &
        Dhariwal 2021); or the mean of each four pixels ("pool"), which has no parameters.
    """

    dtype: DTypeLike
    kind: str = "conv"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, H, W, C] -> [B, H/2, W/2, C]."""
        padding = choose("downsample", self.kind, DOWNSAMPLES)
        return halved(x) if padding is None else conv3x3(x.shape[-1], self.dtype, "conv", stride=2, padding=padding)(x)


DOWNSAMPLES: dict[str, Padding | None] = {"conv": "SAME", "conv_centred": [(1, 1), (1, 1)], "pool": None}
"""The ways down, and how a convolution is padded in them."""


class Upsample(nn.Module):
    """Doubles height and width.

    Attributes:
      kind: by repeating each pixel ("nearest") or between them ("bilinear"), then a 3×3 convolution; or by a transposed
        convolution, whose 4×4 weights meet every new pixel equally often ("transposed"; Odena et al. 2016).
    """

    dtype: DTypeLike
    kind: str = "nearest"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, H, W, C] -> [B, 2H, 2W, C]."""
        resample, channels = choose("upsample", self.kind, UPSAMPLES), x.shape[-1]
        if resample is not None:
            return conv3x3(channels, self.dtype, "conv")(resample(x))
        return nn.ConvTranspose(channels, (4, 4), (2, 2), kernel_init=init_weight, dtype=self.dtype, name="conv")(x)


UPSAMPLES: dict[str, Resample | None] = {"nearest": doubled, "bilinear": smoothly_doubled, "transposed": None}
"""The ways up, and what comes before the convolution in them."""
