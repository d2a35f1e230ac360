"""Grids, tables, filmstrips, PNG files and the curve of the loss."""

import numpy as np
import pytest
from PIL import Image

from jax_ddpm.pictures import filmstrip, grid, loss_curve, save_png, table


def shades(count: int, height: int = 2, width: int = 3, channels: int = 1) -> np.ndarray:
    """[N, H, W, C], image number n filled with n; none is white."""
    return np.broadcast_to(np.arange(count, dtype=np.uint8)[:, None, None, None], (count, height, width, channels)).copy()


@pytest.mark.parametrize(
    ("count", "columns", "gap", "shape"),
    [
        (6, 3, 1, (7, 13)),  # 2·(2 + 1) + 1 high, 3·(3 + 1) + 1 wide
        (5, 3, 1, (7, 13)),
        (6, 6, 2, (6, 32)),
        (4, 1, 0, (8, 3)),
        (1, 0, 1, (4, 5)),
        (4, 0, 1, (7, 9)),
        (5, 0, 1, (7, 13)),  # three columns, two rows
        (10, 0, 1, (10, 17)),
    ],
)
@pytest.mark.parametrize("channels", [1, 3])
def test_grid_lays_images_row_by_row_on_white(count, columns, gap, shape, channels):
    picture = grid(shades(count, channels=channels), columns, gap)
    assert (picture.shape, picture.dtype) == ((*shape, channels), np.uint8)
    a_row = (shape[1] - gap) // (3 + gap)
    for number in range(count):
        top, left = number // a_row * (2 + gap) + gap, number % a_row * (3 + gap) + gap
        assert (picture[top : top + 2, left : left + 3] == number).all()
    assert (picture != 255).sum() == count * 6 * channels  # everything else is white


def test_grid_keeps_the_pixels_of_each_image():
    images = np.random.default_rng(0).integers(0, 256, (2, 4, 5, 3), np.uint8)
    picture = grid(images, columns=2)
    np.testing.assert_array_equal(picture[1:5, 1:6], images[0])
    np.testing.assert_array_equal(picture[1:5, 7:12], images[1])


def test_filmstrip_has_a_row_for_each_chain_and_a_column_for_each_state():
    states = shades(6).reshape(3, 2, 2, 3, 1)  # states[k, b] is 2k + b
    picture = filmstrip(states)
    assert picture.shape == (7, 13, 1)
    np.testing.assert_array_equal(picture[1:7:3, 1:13:4, 0], [[0, 2, 4], [1, 3, 5]])


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("image_size", "scale"), [(8, 8), (28, 3), (32, 2), (48, 2), (64, 1), (256, 1), (None, 1)])
def test_png_is_enlarged_by_whole_pixels_where_its_images_are_small(tmp_path, channels, image_size, scale):
    image = np.random.default_rng(0).integers(0, 256, (5, 7, channels), np.uint8)
    path = save_png(tmp_path / "deep" / "folder" / "picture.png", image, image_size=image_size)
    with Image.open(path) as file:
        assert (file.format, file.mode) == ("PNG", {1: "L", 3: "RGB"}[channels])
        read = np.asarray(file).reshape(5 * scale, 7 * scale, channels)
    for row, column in np.ndindex(scale, scale):
        np.testing.assert_array_equal(read[row::scale, column::scale], image)


def test_png_is_written_where_it_is_said_to_be(tmp_path):
    path = tmp_path / "a.png"
    assert save_png(path, shades(1)[0]) == path
    assert path.is_file()


def test_loss_curve_is_a_readable_picture_that_follows_the_losses(tmp_path):
    steps = [1, 10, 100, 1000]

    def pixels(name, losses):
        path = loss_curve(tmp_path / "figures" / name, steps, losses)
        assert path == tmp_path / "figures" / name
        with Image.open(path) as file:
            assert (file.format, file.size) == ("PNG", (840, 480))
            return np.asarray(file.convert("L")).astype(int)

    falling, rising = pixels("falling.png", [1, 0.1, 0.01, 0.001]), pixels("rising.png", [0.001, 0.01, 0.1, 1])
    line_only_in_falling, line_only_in_rising = np.argwhere(rising - falling > 60), np.argwhere(falling - rising > 60)
    # On two logarithmic scales a power of the step is a straight line, from corner to corner here.
    for line, sign in ((line_only_in_falling, 1), (line_only_in_rising, -1)):
        correlation = np.corrcoef(line[:, 1], line[:, 0])[0, 1]
        assert sign * correlation > 0.999


def test_table_has_titles_above_its_columns_and_before_its_rows():
    images = np.random.default_rng(0).integers(0, 256, (2, 3, 32, 32, 3), np.uint8)
    plain, titled = table(images, ["", "", ""]), table(images, ["first", "", "third"], ["one", ""])
    left, top = titled.shape[1] - plain.shape[1], plain.shape[0] - 2 * (64 + 2) - 2
    assert titled.shape[0] == plain.shape[0]
    for row, column in np.ndindex(2, 3):
        y, x = top + 2 + row * 66, left + 2 + column * 66
        shown = titled[y : y + 64, x : x + 64]
        np.testing.assert_array_equal(shown, images[row, column].repeat(2, axis=0).repeat(2, axis=1))
    above, before = titled[:top, left:] < 128, titled[top:, :left] < 128
    ink = [above[:, 2 + column * 66 : 66 + column * 66].sum() for column in range(3)]
    assert ink[0] > 50 < ink[2]
    assert ink[1] == 0
    assert sum(ink) == above.sum()  # no title reaches beyond its column
    assert before[2:66].sum() > 50
    assert before[66:].sum() == 0
    assert (titled[:top, :left] == 255).all()


def test_a_long_title_is_written_smaller_and_then_cut():
    images = shades(2, 64, 64).reshape(1, 2, 64, 64, 1)
    picture = table(images, ["a title of many words " * 3, ""])
    above = picture[: picture.shape[0] - 64 - 4] < 128
    assert above[:, 2:66].any()
    assert not above[:, 66:].any()
    narrow, wide = (np.flatnonzero(table(images, [title, ""])[:15].min(axis=0) < 128) for title in ("ii", "wwwwww"))
    assert (narrow.min() + narrow.max()) / 2 == pytest.approx(
        (wide.min() + wide.max()) / 2, abs=1.5
    )  # centred, by whole pixels
