"""The classifier of noisy images of Dhariwal & Nichol 2021 (section 4): the way down of the U-Net, then attention pooling."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from jax_ddpm.errors import InvalidInput
from jax_ddpm.models.encoder import Encoder
from jax_ddpm.models.layers import AttentionPool, GroupNorm, dense


class NoisyClassifier(Encoder):
    """Says what class an image is of, whatever the noise on it.

    `NoisyClassifier(num_classes=10).init(key, x, t)` makes the parameters. The classifiers of the paper have
    block_resampling, scale_shift and head_channels=64. Its parameters fit one size of image alone, that of `init`: each
    position has its own in the pooling.

    Attributes:
      num_classes: how many classes there are.
      channels, multipliers, blocks and all the others: as in `Encoder`.
    """

    num_classes: int = 1000

    @nn.compact
    def __call__(self, x: jax.Array, t: jax.Array, *, train: bool = False, features: bool = False) -> jax.Array:
        """One evaluation.

        Args:
          x: [B, H, W, C]; H and W must halve evenly as often as there are multipliers less one.
          t: [B] the time of each image.
          train: whether dropout is on; it then needs an rng named "dropout".
          features: stop before the last projection.
        Returns:
          [B, num_classes] float32 logits; or with `features` the pooled vectors that they are a projection of, float32
          [B, multipliers[-1]·channels].
        Raises:
          InvalidInput: sizes or channels that this network cannot take.
        """
        if self.num_classes < 1:
            raise InvalidInput(f"num_classes={self.num_classes}: expected at least 1")
        self.check_image(x)
        x, _ = self.encode(x, self.time_embedding(t), train)
        x = nn.silu(GroupNorm(self.groups, self.dtype, self.norm_eps, name="norm_out")(x))
        x = AttentionPool(self.heads_for(x.shape[-1]), self.dtype, name="pool")(x)
        x = x.astype(jnp.promote_types(self.dtype, jnp.float32))
        return x if features else dense(self.num_classes, None, "logits")(x)
