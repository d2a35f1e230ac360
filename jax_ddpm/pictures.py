"""Pictures for a person: grids of samples, the chain as a filmstrip, the loss as a curve."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from jax_ddpm.files import write_whole

SHOWN_SIZE = 64  # pixels a side that a small image is enlarged to, at the least


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
    scale = 1 if image_size is None else math.ceil(SHOWN_SIZE / image_size)
    enlarged = image.repeat(scale, axis=0).repeat(scale, axis=1)
    picture = Image.fromarray(enlarged.squeeze(-1) if enlarged.shape[-1] == 1 else enlarged)
    return write_whole(path, lambda partial: picture.save(partial, format="PNG"))


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
