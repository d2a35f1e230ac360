"""Image files of any format, as arrays."""

from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from jax_ddpm.data.sources.source import DamagedImage, told_as_damaged

IMAGE_SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")


def read_image(file: Path | BinaryIO, name: str = "") -> np.ndarray:
    """An image file, upright, as [H, W, 1 or 3] uint8; what is transparent becomes white.

    Grey stays grey, and black and white becomes it; every other kind of colour becomes RGB as Pillow converts it: a palette is
    looked up, and CMYK is (255 - C)(255 - K)/255 and so on, without a colour profile. Of sixteen bits the upper eight are kept.
    Of several frames the first is taken.

    Args:
      file: its path, or the file itself, open for reading bytes.
      name: what messages call it, where that is not its path.
    Raises:
      DamagedImage: the file cannot be read as an image; the message names it.
    """
    name = name or str(file)
    with told_as_damaged(name), _open(file, name) as stored:
        picture = ImageOps.exif_transpose(stored)
        if picture.mode.startswith("I;16"):
            picture = _upper_bits(picture)
        if picture.mode in ("I", "F"):
            raise DamagedImage(f"{name} has pixels of mode {picture.mode}, 32 bits each: expected 8 or 16 bits")
        mode = "L" if picture.mode in ("1", "L", "LA") else "RGB"
        if picture.has_transparency_data:
            picture = picture.convert("RGBA")
            picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
        image = np.asarray(picture.convert(mode))
    return image if image.ndim == 3 else image[..., None]


def _open(file: Path | BinaryIO, name: str) -> Image.Image:
    try:
        return Image.open(file)
    except UnidentifiedImageError as error:  # which calls an open file by its address
        raise DamagedImage(f"{name} cannot be read as an image: it begins as none of a known format does") from error


def _upper_bits(picture: Image.Image) -> Image.Image:
    """Sixteen bits of grey as eight, with the alpha of the value that is to be transparent, if there is one.

    Pillow would clip them; of sixteen bits of colour it keeps the upper eight itself.
    """
    values = np.asarray(picture)
    alpha = np.where(values == picture.info.get("transparency", -1), 0, 255)
    return Image.fromarray(np.stack([values >> 8, alpha], axis=-1).astype(np.uint8), "LA")
