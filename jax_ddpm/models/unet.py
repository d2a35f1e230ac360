"""The U-Net of DDPM (Ho et al. 2020, appendix B), with what later papers added to it."""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from jax_ddpm.errors import InvalidInput, choose
from jax_ddpm.models.encoder import Encoder
from jax_ddpm.models.layers import GroupNorm, Upsample, conv3x3, dense, doubled, init_near_zero


def _beside(x: jax.Array, skip: jax.Array, name: str, dtype: DTypeLike) -> jax.Array:
    return jnp.concatenate([x, skip], axis=-1)


def _added(x: jax.Array, skip: jax.Array, name: str, dtype: DTypeLike) -> jax.Array:
    if skip.shape == x.shape:
        return x + skip
    return x + dense(x.shape[-1], dtype, name)(skip)


JOINS: dict[str, Callable[[jax.Array, jax.Array, str, DTypeLike], jax.Array]] = {"concatenate": _beside, "add": _added}


class UNet(Encoder):
    """Down to the coarsest resolution and up again, each block on the way up joined to its mate on the way down.

    `UNet().init(key, x, t)` makes the parameters, `UNet().apply({"params": params}, x, t)` runs it. The defaults are the
    network that the paper trains on CIFAR-10, of 35,746,307 parameters.

    Attributes:
      out_channels: channels of the output.
      num_classes: 0, or how many labels there are; then an embedding of the label is added to that of t.
      null_label: whether it also knows the label num_classes, "no class" (Ho & Salimans 2022).
      low_resolution: whether it is told a small image that it is to enlarge (Ho et al. 2021, cascaded diffusion).
      low_res_time: whether it is told, too, how far the small image was noised.
      augmentation: 0, or how many numbers it is told of how each image was augmented (Karras et al. 2022, appendix F.2).
      upsample: how the image doubles its size, as in `Upsample`, where not within a block.
      skip: how what comes from the way down is joined to the way up: laid beside it as further channels ("concatenate"), or
        added to it ("add"), through a 1×1 convolution where it has other channels.
      channels, multipliers, blocks and all the others: as in `Encoder`; there is one residual block more at each resolution on
        the way up.
    """

    out_channels: int = 3
    num_classes: int = 0
    null_label: bool = False
    low_resolution: bool = False
    low_res_time: bool = True
    augmentation: int = 0
    upsample: str = "nearest"
    skip: str = "concatenate"

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        t: jax.Array,
        labels: jax.Array | None = None,
        *,
        low_res: jax.Array | None = None,
        low_res_t: jax.Array | None = None,
        augmentation: jax.Array | None = None,
        train: bool = False,
    ) -> jax.Array:
        """One evaluation.

        Args:
          x: [B, H, W, C]; H and W must halve evenly as often as there are multipliers less one.
          t: [B] the time of each image.
          labels: [B] integers in [0, num_classes), and num_classes itself with null_label, if and only if num_classes is not 0.
          low_res: [B, H, W, C'] the small image, brought to the size of x, if and only if the network has low_resolution; it
            is laid beside x as further channels.
          low_res_t: [B] how far the small image was noised, with it.
          augmentation: [B, K] what was done to each image, of a network that is told K numbers; without it nothing was, and
            so it is where all are 0.
          train: whether dropout is on; it then needs an rng named "dropout".
        Returns:
          [B, H, W, out_channels] float32.
        Raises:
          InvalidInput: sizes, channels, labels, a small image or an augmentation that this network cannot take.
        """
        self.check_image(x)
        self._check_labels(labels)
        self._check_low_res(x, low_res, low_res_t)
        self._check_augmentation(x, augmentation)
        embedding = self._embedding(t, labels, low_res_t, augmentation)
        x, skips = self.encode(x if low_res is None else jnp.concatenate([x, low_res], axis=-1), embedding, train)

        join = choose("skip", self.skip, JOINS)
        for level, multiplier in reversed(list(enumerate(self.multipliers))):
            for block in range(self.blocks + 1):
                x = join(x, skips.pop(), f"up_{level}_{block}_skip", self.dtype)
                x = self.block(x, embedding, multiplier, f"up_{level}_{block}", train)
            if level > 0:
                x = self._upsample(x, embedding, multiplier, f"up_{level}_upsample", train)

        x = nn.silu(GroupNorm(self.groups, self.dtype, self.norm_eps, name="norm_out")(x))
        return conv3x3(self.out_channels, jnp.promote_types(self.dtype, jnp.float32), "conv_out", kernel_init=init_near_zero)(x)

    def _embedding(
        self, t: jax.Array, labels: jax.Array | None, low_res_t: jax.Array | None, augmentation: jax.Array | None
    ) -> jax.Array:
        """[B, embedding_width]: the time and the augmentation, the label, how far the small image is noised."""
        h = self.time_embedding(t, also=self._augmentation_embedding(t, augmentation))
        if labels is not None:
            rows = self.num_classes + self.null_label
            h = h + nn.Embed(rows, h.shape[-1], embedding_init=nn.initializers.normal(1.0), name="label")(labels)
        return h if low_res_t is None or not self.low_res_time else h + self.time_embedding(low_res_t, "low_res_time")

    def _augmentation_embedding(self, t: jax.Array, augmentation: jax.Array | None) -> jax.Array | None:
        """[B, embedding_width], 0 where nothing was done; None where the network is told nothing."""
        if not self.augmentation:
            return None
        told = jnp.zeros((t.shape[0], self.augmentation)) if augmentation is None else augmentation
        return dense(self.embedding_width, None, "augmentation_embedding", bias=False)(told)

    def _upsample(self, x: jax.Array, embedding: jax.Array, multiplier: int, name: str, train: bool) -> jax.Array:
        if self.block_resampling:
            return self.res_block(multiplier, name, doubled)(x, embedding, train)
        return Upsample(self.dtype, self.upsample, name=name)(x)

    def _check_labels(self, labels: jax.Array | None) -> None:
        if self.null_label and not self.num_classes:
            raise InvalidInput(
                "null_label=True with num_classes=0: expected classes, where there is to be a label for none of them"
            )
        if (labels is not None) != (self.num_classes > 0):
            expected = f"labels in 0..{self.num_classes - 1 + self.null_label}" if self.num_classes else "no labels"
            given = "labels" if labels is not None else "no labels"
            raise InvalidInput(f"{given} given: a network with num_classes={self.num_classes} takes {expected}")

    def _check_augmentation(self, x: jax.Array, augmentation: jax.Array | None) -> None:
        if augmentation is not None and (not self.augmentation or augmentation.shape != (x.shape[0], self.augmentation)):
            expected = f"{self.augmentation} numbers for each of {x.shape[0]} images" if self.augmentation else "none"
            raise InvalidInput(
                f"augmentation given, of shape {augmentation.shape}: a network with augmentation={self.augmentation} takes "
                f"{expected}"
            )

    def _check_low_res(self, x: jax.Array, low_res: jax.Array | None, low_res_t: jax.Array | None) -> None:
        given = {"low_res": low_res, "low_res_t": low_res_t}
        for name, value in given.items():
            if (value is not None) != self.low_resolution:
                raise InvalidInput(
                    f"{'no ' if value is None else ''}{name} given: a network with low_resolution={self.low_resolution} takes "
                    f"{'low_res and low_res_t' if self.low_resolution else 'neither low_res nor low_res_t'}"
                )
        if low_res is not None and low_res.shape[:3] != x.shape[:3]:
            raise InvalidInput(f"low_res has shape {low_res.shape}: expected it brought to the size of x, {x.shape}")
