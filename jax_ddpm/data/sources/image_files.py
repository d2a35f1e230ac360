"""Image files of any format, as arrays."""

import contextlib
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from jax_ddpm.data.sources.source import DamagedImage, told_as_damaged

IMAGE_SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP")  # as Pillow calls them
PHOTOMETRIC = 262  # the tag of a TIFF that says what its numbers stand for; 0: grey, the largest of which is black


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
    # Opened here, not by Pillow: what it opens itself it may map into memory, and a grey TIFF that lies on its side then comes
    # out garbled, its rows taken for as long as those of the upright image.
    with told_as_damaged(name), file.open("rb") if isinstance(file, Path) else contextlib.nullcontext(file) as content:
        picture = _upright(content, name)
        if picture.mode in ("I", "F"):
            raise DamagedImage(f"{name} has pixels of mode {picture.mode}, 32 bits each: expected 8 or 16 bits")
        mode = "L" if picture.mode in ("1", "L", "LA") else "RGB"
        if picture.has_transparency_data:
            picture = picture.convert("RGBA")
            picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
        image = np.asarray(picture.convert(mode))
    return image if image.ndim == 3 else image[..., None]


def upper_bits(values: np.ndarray) -> np.ndarray:
    """uint8 as it is, uint16 as its upper eight bits: uint8."""
    return values if values.itemsize == 1 else (values >> 8).astype(np.uint8)


def _upright(content: BinaryIO, name: str) -> Image.Image:
    """The picture as it is to be looked at, grey of sixteen bits as grey of eight."""
    try:
        stored = Image.open(content)
    except UnidentifiedImageError as error:  # which calls an open file by its address
        raise DamagedImage(f"{name} cannot be read as an image: {_begins(content)}") from error
    with stored:
        picture = ImageOps.exif_transpose(stored)
        inverted = getattr(stored, "tag_v2", {}).get(PHOTOMETRIC) == 0
        return _grey_of_eight_bits(picture, inverted) if picture.mode.startswith("I;16") else picture


def _begins(content: BinaryIO) -> str:
    """What Pillow has not made out: whether it is none of the known formats, or begins as one of them."""
    content.seek(0)
    first = content.read(16)
    for known in FORMATS:
        _, accepts = Image.OPEN[known]
        if accepts and accepts(first):
            return f"it begins as a {known}, but is cut short or of a kind of {known} that Pillow does not read"
    return "it begins as none of a known format does"


def _grey_of_eight_bits(picture: Image.Image, inverted: bool) -> Image.Image:
    """With the alpha of the value that is to be transparent, if there is one.

    Pillow would clip the values, and does not turn them round where the largest is black; of sixteen bits of colour it keeps
    the upper eight itself.
    """
    values = np.asarray(picture)
    alpha = np.where(values == picture.info.get("transparency", -1), 0, 255)
    grey = upper_bits(~values if inverted else values)
    return Image.fromarray(np.stack([grey, alpha], axis=-1).astype(np.uint8), "LA")
