"""Pictures and masks that come from anywhere."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from jax_ddpm.errors import InvalidInput
from jax_ddpm.serving.inputs import mask_of, picture_of
from tests.test_generation import tiny


def stored(pixels, kind="PNG"):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format=kind)
    return file.getvalue()


def huge(side):
    """A PNG of a few bytes whose head speaks of side × side pixels."""
    head = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    chunks = ((b"IHDR", head), (b"IDAT", zlib.compress(bytes(100))), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )


def test_a_picture_is_fitted_to_the_network():
    exact = np.arange(64, dtype=np.uint8).reshape(8, 8)
    np.testing.assert_array_equal(picture_of(tiny(), stored(exact))[..., 0], exact)
    halves = np.repeat(np.repeat(exact, 4, 0), 4, 1)
    np.testing.assert_array_equal(picture_of(tiny(), stored(halves))[..., 0], exact)  # each pixel was a square of 4×4
    colour = np.full((20, 30, 3), (10, 200, 90), np.uint8)
    grey = round(0.299 * 10 + 0.587 * 200 + 0.114 * 90)
    np.testing.assert_allclose(picture_of(tiny(), stored(colour, "BMP")), np.full((8, 8, 1), grey), atol=1)
    assert picture_of(tiny(data={"channels": 3}), stored(exact)).shape == (8, 8, 3)


@pytest.mark.parametrize(
    ("file", "message"),
    [
        (b"", "cannot be read as a picture"),
        (b"GIF89a and no more", "cannot be read as a picture"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "cannot be read as a picture"),
        (huge(5000), "5000×5000 pixels: expected at most 16,777,216"),
        (huge(60000), "cannot be read as a picture"),  # Pillow refuses it as soon as it sees its head
        (huge(100), "the picture"),  # that a hundred bytes of pixels are missing shows when it is decoded
        (bytes(2**20 + 1), r"the picture has 1\.0 MiB: expected at most 1"),
    ],
)
def test_what_is_no_picture_or_too_large_is_refused(file, message):
    with pytest.raises(InvalidInput, match=message):
        picture_of(tiny(serve={"upload_mib": 1}), file)


def test_a_mask_says_of_each_pixel_whether_it_is_drawn_anew():
    pixels = np.random.default_rng(0).integers(0, 2, (8, 8))
    mask = mask_of(tiny(), "".join(map(str, pixels.ravel())))
    assert mask.dtype == np.uint8
    np.testing.assert_array_equal(mask[..., 0], 255 * pixels)


@pytest.mark.parametrize(
    ("drawn", "message"),
    [
        (None, "the mask is empty"),
        ("", "the mask is empty"),
        ("0" * 64, "the mask is empty"),
        ("0" * 63, "the mask has 63 characters"),
        (5, "the mask is of type int: expected 64 characters"),
        (["0", "1"], "the mask is of type list"),
        ({}, "the mask is of type dict"),
        ("1" * 64, "the mask is everywhere"),
        ("01" * 31, "the mask has 62 characters: expected 64"),
        ("01" * 33, "the mask has 66 characters: expected 64"),
        ("2" + "01" * 31 + "1", "a 0 or a 1 a pixel"),
        ("1" * 60 + "0①00", "a 0 or a 1 a pixel"),
    ],
)
def test_a_mask_of_another_size_or_of_all_or_nothing_is_refused(drawn, message):
    with pytest.raises(InvalidInput, match=message):
        mask_of(tiny(), drawn)
