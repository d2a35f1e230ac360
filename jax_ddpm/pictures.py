"""Pictures for a person: grids of samples, tables of images, the chain as a filmstrip, the loss as a curve."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from jax_ddpm.files import write_whole

SHOWN_SIZE = 64  # pixels a side that a small image is enlarged to, at the least
TITLE_HEIGHT = 13  # of the letters, in pixels


def grid(images: np.ndarray, columns: int = 0, gap: int = 1) -> np.ndarray:
    """Images side by side, row by row.

    Args:
      images: [N, H, W, C] uint8.
      columns: images a row; 0 makes about as many columns as rows.
      gap: white pixels between them.
    Returns:
      [rows·(H + gap) + gap, columns·(W + gap) + gap, C] uint8.
    """
    count, height, width, channels = images.shape
    columns = columns or math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    canvas = np.full((rows * (height + gap) + gap, columns * (width + gap) + gap, channels), 255, np.uint8)
    for number, image in enumerate(images):
        top, left = number // columns * (height + gap) + gap, number % columns * (width + gap) + gap
        canvas[top : top + height, left : left + width] = image
    return canvas


def filmstrip(states: np.ndarray) -> np.ndarray:
    """The states of a chain: [K, B, H, W, C] uint8 -> B rows of K pictures, from noise to image."""
    kept, chains = states.shape[:2]
    return grid(states.swapaxes(0, 1).reshape(chains * kept, *states.shape[2:]), columns=kept)


def save_png(path: Path, image: np.ndarray, *, image_size: int | None = None) -> Path:
    """Writes [H, W, 1 or 3] uint8.

    Args:
      image_size: of the images that the picture is made of; small ones are enlarged, each pixel to a square.
    """
    picture = _picture(image if image_size is None else _enlarged(image, image_size))
    return write_whole(path, lambda partial: picture.save(partial, format="PNG"))


def _picture(image: np.ndarray) -> Image.Image:
    return Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image)


def _enlarged(image: np.ndarray, image_size: int) -> np.ndarray:
    """[H, W, C], each pixel made the smallest square with which an image of `image_size` has SHOWN_SIZE pixels a side."""
    scale = math.ceil(SHOWN_SIZE / image_size)
    return image.repeat(scale, axis=0).repeat(scale, axis=1)


def table(images: np.ndarray, columns: Sequence[str], rows: Sequence[str] = (), gap: int = 2) -> np.ndarray:
    """Images row by row, with a title above each column and, where there are some, one before each row.

    Args:
      images: [R, K, H, W, C] uint8. Small ones are enlarged, each pixel to a square.
      columns: K titles; one that is too long is written smaller, then cut.
      rows: R titles.
      gap: white pixels between the images.
    Returns:
      [height, width, C] uint8, black letters on white.
    """
    across = images.shape[1]
    shown = np.stack([_enlarged(image, images.shape[3]) for image in images.reshape(-1, *images.shape[2:])])
    body = grid(shown, across, gap)
    above, before = TITLE_HEIGHT + gap, math.ceil(max((_length(title) for title in rows), default=-gap)) + gap
    canvas = np.pad(body, ((above, 0), (before, 0), (0, 0)), constant_values=255)
    picture = _picture(canvas)
    draw, black = ImageDraw.Draw(picture), (0,) * canvas.shape[2]
    high, wide = (side + gap for side in shown.shape[1:3])
    for number, title in enumerate(columns):
        text, font = _fitted(title, wide - gap)
        draw.text((before + gap + number * wide + (wide - gap) / 2, above - gap), text, black, font, anchor="ms")
    for number, title in enumerate(rows):
        draw.text((before, above + gap + number * high + (high - gap) / 2), title, black, _font(TITLE_HEIGHT), anchor="rm")
    return np.asarray(picture).reshape(canvas.shape)


def _font(height: int) -> Any:
    """Pillow's own letters, which are everywhere."""
    return ImageFont.load_default(height)


def _length(text: str) -> float:
    return _font(TITLE_HEIGHT).getlength(text)


def _fitted(title: str, width: int) -> tuple[str, Any]:
    """The title and the letters in which it is no wider than `width`."""
    font = next((_font(height) for height in range(TITLE_HEIGHT, 8, -1) if _font(height).getlength(title) <= width), _font(9))
    while title and font.getlength(title) > width:
        title = title[:-1]
    return title, font


def loss_curve(path: Path, steps: Sequence[int], losses: Sequence[float]) -> Path:
    """Writes a plot of the loss against the step, both on logarithmic scales."""
    return curve(path, steps, losses, xscale="log", yscale="log", xlabel="step", ylabel="loss")


def curve(path: Path, x: Sequence[float] | np.ndarray, y: Sequence[float] | np.ndarray, **axes_settings: str) -> Path:
    """Writes a plot of y against x; the settings are those of matplotlib's axes, such as xlabel and yscale."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    axes.plot(x, y, linewidth=1.2, marker="" if len(x) > 1 else "o")  # a single point is no line
    axes.set(**axes_settings)
    axes.grid(which="both", alpha=0.3)
    return write_whole(path, lambda partial: figure.savefig(partial, dpi=120, format="png"))
