"""The small image that a network is given to enlarge (Ho et al. 2021, "Cascaded diffusion models", sections 2 and 4)."""

from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from jax_ddpm.diffusion.gaussian import q_sample
from jax_ddpm.diffusion.schedules import NoiseSchedule
from jax_ddpm.errors import InvalidInput

AnyArray = TypeVar("AnyArray", jax.Array, np.ndarray)


class LowResolution(NamedTuple):
    """What a network that enlarges is told.

    Attributes:
      image: [B, H, W, C] the small image, noised, then brought to the size of the large one.
      t: [B] how many steps of the forward process it was noised by; 0 where it is as it was.
    """

    image: jax.Array
    t: jax.Array


def shrunk(x: AnyArray, size: int) -> AnyArray:
    """[B, H, W, C] -> [B, size, size, C], each pixel the mean of those that it stands for; size divides H and W."""
    batch, height, width, channels = x.shape
    return x.reshape(batch, size, height // size, size, width // size, channels).mean(axis=(2, 4))


def enlarged(x: jax.Array, size: int) -> jax.Array:
    """[B, H, W, C] -> [B, size, size, C], bilinear."""
    return jax.image.resize(x, (len(x), size, size, x.shape[-1]), "linear")


def low_resolution(
    schedule: NoiseSchedule, small: jax.Array, size: int, steps: jax.Array | None = None, eps: jax.Array | None = None
) -> LowResolution:
    """The condition that small images make.

    With `steps` they are noised, which lets a network do with small images that are not quite right, such as samples of another
    network: "conditioning augmentation" in Ho et al. 2021, section 4.

    Args:
      small: [B, h, w, C].
      size: pixels a side of the image to be made.
      steps: [B] integers in [0, T], of the forward process.
      eps: [B, h, w, C] standard normal noise, with them.
    Raises:
      InvalidInput: one of `steps` and `eps` without the other.
    """
    if (steps is None) != (eps is None):
        there, missing = ("eps", "steps") if steps is None else ("steps", "eps")
        raise InvalidInput(f"{there} without {missing}: expected both, which noise the small images, or neither")
    if steps is None or eps is None:
        return LowResolution(enlarged(small, size), jnp.zeros(len(small), jnp.int32))
    noised = q_sample(schedule, small, jnp.maximum(steps - 1, 0), eps)
    as_it_is = (steps == 0)[:, None, None, None]
    return LowResolution(enlarged(jnp.where(as_it_is, small, noised), size), steps)
