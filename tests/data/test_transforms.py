"""Fitting an image to the network, and the way from bytes to floats and back."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy import ndimage

from jax_ddpm.data.transforms import fit, to_float, to_uint8, warp
from jax_ddpm.errors import InvalidInput


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


def ramp(height: int, width: int, *, down: int = 0, across: int = 0) -> np.ndarray:
    """[H, W, 3], each channel 10 brighter than the one before."""
    rows, columns, channels = np.indices((height, width, 3))
    return (down * rows + across * columns + 10 * channels).astype(np.uint8)


@pytest.mark.parametrize("channels", [1, 3])
def test_image_of_the_right_shape_is_returned_as_it_is(channels):
    image = noise(8, 8, channels)
    assert fit(image, 8, channels) is image


def averages(image: np.ndarray, side: int) -> np.ndarray:
    """Of squares of `side` pixels."""
    height, width, channels = image.shape
    return image.astype(float).reshape(height // side, side, width // side, side, channels).mean(axis=(1, 3))


def bicubic(image: np.ndarray, size: int) -> np.ndarray:
    return np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BICUBIC))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("halvings", [1, 2, 3])
def test_halving_averages_squares(halvings, channels):
    image = noise(8 << halvings, 8 << halvings, channels)
    # Each halving rounds twice, along the rows and along the columns: half a step each time.
    np.testing.assert_allclose(fit(image, 8, channels), averages(image, 1 << halvings), rtol=0, atol=halvings)


@pytest.mark.parametrize("side", [9, 12, 15])
def test_less_than_twice_too_large_is_resized_bicubically(side):
    image = noise(side, side, 3)
    np.testing.assert_array_equal(fit(image, 8, 3), bicubic(image, 8))


def test_what_is_left_after_halving_is_resized_bicubically():
    image = noise(24, 24, 3)
    expected = bicubic(np.rint(averages(image, 2)).astype(np.uint8), 8)
    np.testing.assert_allclose(fit(image, 8, 3).astype(int), expected, rtol=0, atol=2)  # halving may round a step away


@pytest.mark.parametrize(
    ("height", "width"), [(8, 14), (14, 8), (8, 15), (15, 8)], ids=["wide", "tall", "odd wide", "odd tall"]
)
def test_longer_side_is_cropped_at_the_centre(height, width):
    image = noise(height, width, 3)
    top, left = (height - 8) // 2, (width - 8) // 2
    np.testing.assert_array_equal(fit(image, 8, 3), image[top : top + 8, left : left + 8])


@pytest.mark.parametrize(("height", "width"), [(13, 21), (40, 25), (5, 7), (31, 16), (9, 100)])
def test_what_is_cropped_is_the_middle_of_the_whole_image_resized(height, width):
    image = noise(height, width, 3)
    factor = 2 ** int(math.log2(max(min(height, width) / 8, 1)))
    picture = Image.fromarray(image).reduce(factor)
    scale = 8 / min(picture.size)
    picture = picture.resize((round(picture.width * scale), round(picture.height * scale)), Image.Resampling.BICUBIC)
    left, top = (picture.width - 8) // 2, (picture.height - 8) // 2
    expected = np.asarray(picture.crop((left, top, left + 8, top + 8)))
    # Where a filter begins is worked out in other steps, which may round to the byte beside.
    np.testing.assert_allclose(fit(image, 8, 3).astype(int), expected, rtol=0, atol=1)


def test_a_strip_is_not_enlarged_as_a_whole():
    image = np.tile(ramp(2, 1, down=40), (1, 30_000, 1))
    with pytest.MonkeyPatch.context() as patch:
        sizes, resize = [], Image.Image.resize
        patch.setattr(Image.Image, "resize", lambda self, size, *rest: sizes.append(size) or resize(self, size, *rest))
        found = fit(image, 256, 3)
    assert sizes == [(256, 256)]
    np.testing.assert_array_equal(found, np.broadcast_to(fit(image[:, :2], 256, 3)[:, 100:101], found.shape))


def test_wide_gradient_keeps_its_direction_and_loses_its_ends():
    image = fit(ramp(16, 64, across=3), 8, 3)
    # Columns 24 … 39 in pairs: 3·24.5, 3·26.5, …, and 10 a channel.
    expected = np.broadcast_to(3 * (24.5 + 2 * np.arange(8))[:, None] + 10 * np.arange(3), (8, 8, 3))
    np.testing.assert_allclose(image, expected, rtol=0, atol=0.5)


def test_tall_gradient_keeps_its_direction_and_loses_its_ends():
    image = fit(ramp(64, 16, down=3), 8, 3)
    expected = np.broadcast_to(3 * (24.5 + 2 * np.arange(8))[:, None, None] + 10 * np.arange(3), (8, 8, 3))
    np.testing.assert_allclose(image, expected, rtol=0, atol=0.5)


def test_small_image_is_enlarged_smoothly():
    image = fit(ramp(4, 4, across=40), 16, 3)
    assert (np.diff(image.astype(int), axis=1) >= 0).all()
    # Away from the edges a cubic follows a straight line: pixel i of 16 stands at (i + ½)/4 - ½ of 4.
    expected = 40 * ((np.arange(16) + 0.5) / 4 - 0.5)[6:10]
    np.testing.assert_allclose(image[:, 6:10, 0], np.broadcast_to(expected, (16, 4)), rtol=0, atol=1)


def test_grey_becomes_three_equal_channels():
    image = noise(8, 8, 1)
    np.testing.assert_array_equal(fit(image, 8, 3), np.broadcast_to(image, (8, 8, 3)))


def test_colour_becomes_its_luma():
    image = noise(8, 8, 3)
    # ITU-R 601: 0.299 R + 0.587 G + 0.114 B, in whole steps.
    np.testing.assert_allclose(fit(image, 8, 1), image @ np.array([[0.299], [0.587], [0.114]]), rtol=0, atol=1)


@settings(derandomize=True, deadline=None, database=None, max_examples=60)
@given(st.integers(1, 70), st.integers(1, 70), st.sampled_from([1, 3]), st.integers(1, 20), st.sampled_from([1, 3]))
def test_every_size_and_colour_comes_out_as_asked_for(height, width, given_channels, size, channels):
    image = fit(np.full((height, width, given_channels), 77, np.uint8), size, channels)
    assert image.dtype == np.uint8
    np.testing.assert_array_equal(image, np.full((size, size, channels), 77))  # what is even stays even


def smooth(height: int, width: int) -> np.ndarray:
    """[H, W, 3] a picture of long waves, in which a filter has little to lose."""
    rows, columns = np.indices((height, width)) / 16
    waves = [np.sin(3 * rows + columns), np.cos(2 * columns - rows), np.sin(2 * rows) * np.cos(columns)]
    return np.rint(127.5 + 100 * np.stack(waves, axis=-1)).astype(np.uint8)


def interpolated(image: np.ndarray, inverse: np.ndarray, size: int) -> np.ndarray:
    """The same by cubic splines, in float64."""
    rows, columns = np.indices((size, size)) + 0.5
    x, y = np.tensordot(inverse, np.stack([columns, rows, np.ones((size, size))]), axes=1)
    channels = [ndimage.map_coordinates(channel, [y - 0.5, x - 0.5], order=3, mode="reflect") for channel in each(image)]
    return np.stack(channels, axis=-1)


def each(image: np.ndarray) -> list[np.ndarray]:
    return [image[..., channel].astype(float) for channel in range(image.shape[-1])]


MAPS = {
    "turned": [[0.8, -0.6, 9.0], [0.6, 0.8, -5.0]],
    "shrunk": [[1.5, 0.0, -8.0], [0.0, 1.5, -8.0]],
    "enlarged": [[0.7, 0.0, 5.2], [0.0, 0.7, 4.1]],
    "stretched and mirrored": [[-1.2, 0.1, 30.0], [0.2, 0.8, 0.5]],
    "shifted by part of a pixel": [[1.0, 0.0, 0.3], [0.0, 1.0, -12.6]],
}


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("inverse", MAPS.values(), ids=MAPS)
def test_an_affine_map_shows_each_point_where_it_says(inverse, channels):
    image, inverse = smooth(32, 28)[..., :channels], np.array(inverse)
    found = warp(image, inverse, 32)
    assert (found.shape, found.dtype) == ((32, 32, channels), np.uint8)
    difference = np.abs(found - interpolated(image, inverse, 32))
    # Where the image meets its mirror image it has a kink, which each filter rounds off in its way; a slope of up to 20 a pixel
    # shifted by a tenth of a pixel would be off by 2 all over.
    assert np.median(difference) < 0.75
    assert difference.mean() < 1.5
    assert difference.max() < 16


@pytest.mark.parametrize("size", [7, 8])
def test_mirroring_and_shifts_by_whole_pixels_keep_the_values(size):
    image = noise(size, size, 3)
    np.testing.assert_array_equal(warp(image, np.array([[-1, 0, size], [0, 1, 0]]), size), image[:, ::-1])
    np.testing.assert_array_equal(warp(image, np.array([[1, 0, 0], [0, -1, size]]), size), image[::-1])
    np.testing.assert_array_equal(warp(image, np.array([[1, 0, 2], [0, 1, 1]]), 4), image[1:5, 2:6])


def test_beyond_an_edge_is_its_mirror_image_over_and_over():
    image = noise(4, 3, 1)
    found = warp(image, np.array([[1, 0, -7], [0, 1, -9]]), 20)
    np.testing.assert_array_equal(found, np.pad(image, ((9, 7), (7, 10), (0, 0)), mode="symmetric"))


EVERY_BYTE = np.arange(256, dtype=np.uint8)


def test_to_float_maps_bytes_onto_minus_one_to_one():
    floats = to_float(EVERY_BYTE)
    assert floats.dtype == np.float32
    assert (floats[0], floats[255]) == (-1, 1)
    np.testing.assert_allclose(
        floats, EVERY_BYTE / 127.5 - 1, rtol=0, atol=2**-23
    )  # a rounding of a number up to 2, and one more


def test_to_uint8_is_the_inverse_of_to_float():
    np.testing.assert_array_equal(to_uint8(to_float(EVERY_BYTE)), EVERY_BYTE)
    assert to_uint8(to_float(EVERY_BYTE)).dtype == np.uint8


def test_to_uint8_rounds_to_the_nearest_and_clips():
    floats = to_float(EVERY_BYTE)
    np.testing.assert_array_equal(to_uint8(floats + 0.49 / 127.5), EVERY_BYTE)
    np.testing.assert_array_equal(to_uint8(floats - 0.49 / 127.5), EVERY_BYTE)
    np.testing.assert_array_equal(to_uint8(np.array([-1.5, -1e30, 1.01, 300.0])), [0, 0, 255, 255])


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_to_uint8_refuses_what_is_not_finite(wrong):
    with pytest.raises(InvalidInput, match="2 of the images' 6 values are not finite"):
        to_uint8(np.array([[0.0, wrong, 1.0], [wrong, 0.5, -1.0]], np.float32))
