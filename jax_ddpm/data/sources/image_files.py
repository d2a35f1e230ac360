"""Image files of any format, as arrays."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from jax_ddpm.errors import InvalidInput

IMAGE_SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")


def read_image(path: Path) -> np.ndarray:
    """An image file, upright, as [H, W, 1 or 3] uint8; what is transparent becomes white.

    Raises:
      InvalidInput: the file cannot be read as an image; the message names it.
    """
    try:
        with Image.open(path) as file:
            picture = ImageOps.exif_transpose(file)
            if picture.mode.startswith("I;16"):
                picture = Image.fromarray((np.asarray(picture) // 257).astype(np.uint8))
            if picture.mode in ("I", "F"):
                raise InvalidInput(f"{path} has pixels of mode {picture.mode}, 32 bits each: expected 8 or 16 bits")
            if picture.has_transparency_data:
                picture = picture.convert("RGBA")
                picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
            image = np.asarray(picture.convert("L" if picture.mode in ("1", "L") else "RGB"))
    except InvalidInput:
        raise
    except (OSError, SyntaxError, ValueError) as error:
        raise InvalidInput(f"{path} cannot be read as an image: {error}") from error
    return image if image.ndim == 3 else image[..., None]
