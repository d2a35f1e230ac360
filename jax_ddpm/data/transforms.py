"""From an image as it is stored to an image as the network takes it."""

import math

import numpy as np
from PIL import Image

from jax_ddpm.errors import InvalidInput


def fit(image: np.ndarray, size: int, channels: int) -> np.ndarray:
    """An image of any size and colour, as a square one of `channels` channels.

    Halved by averaging until it is less than twice as large as wanted (all halvings in one, so that it is rounded once), then
    resized (bicubic) until its shorter side fits, then cropped at the centre. An image that has the right shape already is
    returned as it is.

    Args:
      image: [H, W, 1 or 3] uint8.
      size: pixels a side.
      channels: 1 (grey) or 3 (RGB).
    Returns:
      [size, size, channels] uint8.
    """
    if image.shape == (size, size, channels):
        return image
    picture = Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image)
    picture = picture.convert("L" if channels == 1 else "RGB")
    if min(picture.size) >= 2 * size:
        picture = picture.reduce(2 ** int(math.log2(min(picture.size) / size)))
    scale = size / min(picture.size)
    picture = picture.resize((round(picture.width * scale), round(picture.height * scale)), Image.Resampling.BICUBIC)
    left, top = (picture.width - size) // 2, (picture.height - size) // 2
    return np.asarray(picture.crop((left, top, left + size, top + size))).reshape(size, size, channels)


def flip_randomly(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """[H, W, C], mirrored left to right in one of two draws."""
    return image[:, ::-1] if rng.random() < 0.5 else image


def to_float(images: np.ndarray) -> np.ndarray:
    """uint8 in 0..255 -> float32 in [-1, 1]: x/127.5 - 1."""
    return images.astype(np.float32) / np.float32(127.5) - np.float32(1)


def to_uint8(images: np.ndarray) -> np.ndarray:
    """float in [-1, 1] -> uint8 in 0..255, rounded; values outside are clipped. The inverse of `to_float`."""
    if not np.isfinite(images).all():
        raise InvalidInput(
            f"{np.size(images) - np.isfinite(images).sum()} of the images' {np.size(images)} values are not finite"
        )
    return np.rint(np.clip(np.asarray(images, np.float32), -1, 1) * 127.5 + 127.5).astype(np.uint8)
