"""From an image as it is stored to an image as the network takes it."""

import math

import numpy as np
from PIL import Image

from jax_ddpm.errors import InvalidInput


def fit(image: np.ndarray, size: int, channels: int) -> np.ndarray:
    """An image of any size and colour, as a square one of `channels` channels.

    Halved by averaging until it is less than twice as large as wanted (all halvings in one, so that it is rounded once), then
    resized (bicubic) until its shorter side fits, and cropped at the centre: only what stays is worked out, for a narrow strip
    would become far larger than it is. An image that has the right shape already is returned as it is.

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
    (left, right), (top, bottom) = (_middle(side, min(picture.size), size) for side in picture.size)
    picture = picture.resize((size, size), Image.Resampling.BICUBIC, (left, top, right, bottom))
    return np.asarray(picture).reshape(size, size, channels)


def _middle(side: int, shorter: int, size: int) -> tuple[float, float]:
    """What of a side ends up in the square, when it is resized, to whole pixels, as the shorter side is to `size`."""
    resized = round(side * (size / shorter))
    first = (resized - size) // 2
    return first * side / resized, (first + size) * side / resized


def warp(image: np.ndarray, inverse: np.ndarray, size: int) -> np.ndarray:
    """The image under an affine map, continued by its mirror image beyond its edges.

    Where the map only mirrors, and shifts by whole pixels, values stay as they are. Else they are resampled at twice the
    resolution (Lanczos to there and back, bilinear between), so that little sharpness is lost.

    Args:
      image: [H, W, C] uint8.
      inverse: [2, 3] from a point (x, y, 1) of the result to the point of the image that is shown there, in pixels from the top
        left corner; the first pixel's centre is at (½, ½).
      size: pixels a side of the result.
    Returns:
      [size, size, C] uint8.
    """
    linear, shift = inverse[:, :2], inverse[:, 2]
    start = linear.sum(axis=1) / 2 + shift - 0.5  # which pixel the first one shows
    if np.allclose(abs(linear), np.eye(2), rtol=0, atol=1e-9) and np.allclose(start, start.round(), rtol=0, atol=1e-6):
        columns, rows = (round(start[axis]) + round(linear[axis, axis]) * np.arange(size) for axis in (0, 1))
        return _cut_out(image, rows, columns)
    corners = size * np.array([[0, 1, 0, 1], [0, 0, 1, 1]])
    shown = linear @ corners + shift[:, None]
    (left, top), (right, bottom) = np.floor(shown.min(axis=1)) - _MARGIN, np.ceil(shown.max(axis=1)) + _MARGIN
    part = _cut_out(image, np.arange(top, bottom, dtype=int), np.arange(left, right, dtype=int))
    picture = Image.fromarray(part.squeeze(-1) if part.shape[-1] == 1 else part)
    picture = picture.resize((2 * picture.width, 2 * picture.height), Image.Resampling.LANCZOS)
    coefficients = np.column_stack([linear, 2 * (shift - (left, top))]).ravel().tolist()
    picture = picture.transform((2 * size, 2 * size), Image.Transform.AFFINE, coefficients, Image.Resampling.BILINEAR)
    return np.asarray(picture.resize((size, size), Image.Resampling.LANCZOS)).reshape(size, size, -1)


_MARGIN = 4  # pixels around what is shown that the filters reach into


def _cut_out(image: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Pixels by their numbers, which may lie beyond the edges."""

    def mirrored(numbers: np.ndarray, length: int) -> np.ndarray:
        numbers = numbers % (2 * length)
        return np.where(numbers < length, numbers, 2 * length - 1 - numbers)

    return image[mirrored(rows, image.shape[0])][:, mirrored(columns, image.shape[1])]


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
