"""What a person gives the page: a picture and a mask, neither of which is trusted."""

import io

import numpy as np
from ml_collections import ConfigDict
from PIL import Image, UnidentifiedImageError

from jax_ddpm.data.sources.image_files import read_image
from jax_ddpm.data.transforms import fit
from jax_ddpm.errors import InvalidInput

MOST_PIXELS = 2**24  # of a picture, as its head says: 48 MiB when it is decoded


def picture_of(config: ConfigDict, file: bytes) -> np.ndarray:
    """An image file of any format as [H, W, C] uint8 of the network's size.

    Its head is looked at before anything is decoded, for a small file can hold a huge picture.

    Raises:
      InvalidInput: it is larger than `serve.upload_mib` or has more than MOST_PIXELS pixels, or it cannot be read.
    """
    if len(file) > config.serve.upload_mib * 2**20:
        raise InvalidInput(f"the picture has {len(file) / 2**20:.1f} MiB: expected at most {config.serve.upload_mib}")
    try:
        with Image.open(io.BytesIO(file)) as picture:
            width, height = picture.size
    except (UnidentifiedImageError, Image.DecompressionBombError, ValueError, OSError) as error:
        raise InvalidInput("the file cannot be read as a picture. Expected a PNG, JPEG, WebP, GIF, BMP or TIFF") from error
    if width * height > MOST_PIXELS:
        raise InvalidInput(f"the picture has {width}×{height} pixels: expected at most {MOST_PIXELS:,} in all")
    return fit(read_image(io.BytesIO(file), "the picture"), config.data.image_size, config.data.channels)


def mask_of(config: ConfigDict, drawn: object) -> np.ndarray:
    """[H, W, 1] uint8, 255 where the image is to be drawn anew, else 0.

    Args:
      drawn: a 1 or a 0 for each pixel, row by row.
    Raises:
      InvalidInput: it is none of this size, or all of the image or nothing is to be drawn.
    """
    size = config.data.image_size
    if not (drawn is None or isinstance(drawn, str)):
        raise InvalidInput(f"the mask is of type {type(drawn).__name__}: expected {size * size} characters, a 0 or a 1 a pixel")
    if drawn and (len(drawn) != size * size or drawn.strip("01")):
        raise InvalidInput(f"the mask has {len(drawn)} characters: expected {size * size}, a 0 or a 1 a pixel")
    if not drawn or not drawn.strip("0"):
        raise InvalidInput("the mask is empty: expected a part of the picture to be painted over, which is then drawn anew")
    if not drawn.strip("1"):
        raise InvalidInput("the mask is everywhere: nothing of the picture is kept. Expected a part of it left")
    return (np.frombuffer(drawn.encode(), np.uint8).reshape(size, size, 1) - ord("0")) * np.uint8(255)
