"""Pictures as they are put into a page: as data: URIs, each pixel once, and chains cut into their states."""

import base64
import io
import math
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image as Pillow

from jax_ddpm.pictures import SHOWN_SIZE, grid
from jax_ddpm.reporting.parts import Animation, Hint, Image

SECONDS_A_STATE = 0.25
SECONDS_OF_THE_LAST = 2.0
MOST_PIXELS = 2**25  # of a picture in a page: more make it tens of megabytes, and of far more Pillow takes none
_PNG_BEGINS = struct.Struct(">16xII")  # what a PNG file is known by, the name of its first part, its width and its height


def read_picture(path: Path) -> np.ndarray:
    """[H, W, C] uint8 of an image file."""
    with Pillow.open(io.BytesIO(path.read_bytes())) as picture:
        pixels = np.asarray(picture)
    return pixels if pixels.ndim == 3 else pixels[..., None]


def is_too_large(path: Path) -> bool:
    """Whether a PNG file has more pixels than a page takes: the pictures of earlier versions had all samples, be it 50,000."""
    with path.open("rb") as file:
        width, height = _PNG_BEGINS.unpack(file.read(_PNG_BEGINS.size).ljust(_PNG_BEGINS.size, b"\0"))
    return bool(width * height > MOST_PIXELS)


def left_out(paths: Sequence[Path]) -> list[Hint]:
    """What a page says in place of those pictures that are too large for it."""
    return [Hint(f"{path} has too many pixels for a page, and is left out.") for path in paths if is_too_large(path)]


def scale_of(image_size: int) -> int:
    """Pixels a side that each pixel of small images was enlarged to, see `save_png`."""
    return math.ceil(SHOWN_SIZE / image_size)


def embed(pixels: np.ndarray, alt: str, *, image_size: int, caption: str = "") -> Image:
    """A picture [H, W, C] uint8 for a page.

    Args:
      image_size: of the images that it is made of. Where each of their pixels was enlarged to a square, the page has it but
        once and the browser enlarges it again, for that is many times smaller.
    """
    scale = scale_of(image_size)
    once = pixels[::scale, ::scale]
    scale, pixels = (scale, once) if np.array_equal(_enlarged(once, scale), pixels) else (1, pixels)
    return Image(data_uri([pixels]), alt, pixels.shape[1], pixels.shape[0], scale, caption)


def states_of(filmstrip: np.ndarray, image_size: int) -> list[np.ndarray]:
    """The pictures of each state of a chain, from those of `filmstrip`: a row a chain, a column a state.

    Returns:
      For each state the images of all chains side by side, [H, W, C] uint8, each pixel once.
    """
    scale = scale_of(image_size)
    pixels, step = filmstrip[::scale, ::scale], image_size + 1  # a white line between them
    rows, columns = pixels.shape[0] // step, pixels.shape[1] // step
    cut = pixels[1 : 1 + rows * step, 1 : 1 + columns * step].reshape(rows, step, columns, step, -1)
    return [grid(cut[:, :image_size, column, :image_size], columns=min(rows, 10)) for column in range(columns)]


def animate(name: str, states: Sequence[np.ndarray], alt: str, *, image_size: int, caption: str = "") -> Animation:
    """The states one after another, as an animated PNG, which keeps all colours; and the first alone."""
    scale = scale_of(image_size)
    shown = [_enlarged(state, scale) for state in states]
    height, width = shown[0].shape[:2]
    moving = Image(data_uri(shown), alt, width, height, 1, caption)
    return Animation(name, moving, moving._replace(source=data_uri(shown[:1])))


def _enlarged(pixels: np.ndarray, scale: int) -> np.ndarray:
    return pixels.repeat(scale, axis=0).repeat(scale, axis=1)


def data_uri(frames: Sequence[np.ndarray], *, smallest: bool = True) -> str:
    """A PNG as a data: URI; of several frames [H, W, C] uint8 an animated one, which begins again and again.

    Args:
      smallest: whether time is taken to make it as small as can be.
    """
    pictures = [Pillow.fromarray(each.squeeze(-1) if each.shape[-1] == 1 else each) for each in frames]
    moving: dict[str, Any] = {}
    if len(pictures) > 1:
        seconds = [SECONDS_A_STATE] * (len(pictures) - 1) + [SECONDS_OF_THE_LAST]
        moving = {"save_all": True, "append_images": pictures[1:], "duration": [1000 * each for each in seconds], "loop": 0}
    file = io.BytesIO()
    pictures[0].save(file, format="PNG", optimize=smallest, **moving)
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
