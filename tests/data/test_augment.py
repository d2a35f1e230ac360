"""What is done to images at random: where each point goes, how often, and what the network is told of it."""

import math

import numpy as np
import pytest
from scipy import ndimage

from jax_ddpm.data.augment import Augmentation, Moves, augment, draw_moves, matrix, tell

MANY = 4000


def spot(x: float, y: float, size: int = 32) -> np.ndarray:
    """[S, S, 1] a soft white spot on black, its middle at (x, y) pixels from the image's centre."""
    rows, columns = np.indices((size, size)) + 0.5 - size / 2
    return np.rint(255 * np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / 8))[..., None].astype(np.uint8)


def middle(image: np.ndarray) -> tuple[float, float]:
    """The middle of the light, (x, y) pixels from the image's centre."""
    row, column = ndimage.center_of_mass(image[..., 0].astype(float))
    return column + 0.5 - image.shape[1] / 2, row + 0.5 - image.shape[0] / 2


class Scripted:
    """Random numbers that are known beforehand: every move is made, with these numbers."""

    def __init__(self, flips=(0, 0), normals=(0, 0, 0, 0), angles=(0, 0)):
        self.flips, self.normals, self.angles = (np.array(each) for each in (flips, normals, angles))

    def random(self, count):
        return np.zeros(count)

    def integers(self, high, size):
        assert (high, size) == (2, 2)
        return self.flips

    def normal(self, size):
        assert size == 4
        return self.normals

    def uniform(self, low, high, size):
        assert (low, high, size) == (-math.pi, math.pi, 2)
        return self.angles


# Karras et al. 2022, table 6, each move worked out by hand for the point (4, 2): x to the right, y down, in an image of 32.
QUARTER = math.pi / 2
MOVES = {
    "x-flip": (Scripted(flips=(1, 0)), (-4, 2), [1, 0, 0, 0, 0, 0, 0, 0, 0]),
    "y-flip": (Scripted(flips=(0, 1)), (4, -2), [0, 1, 0, 0, 0, 0, 0, 0, 0]),
    "scale": (Scripted(normals=(2.5, 0, 0, 0)), (4 * 2**0.5, 2 * 2**0.5), [0, 0, 2.5, 0, 0, 0, 0, 0, 0]),
    "rotation": (Scripted(angles=(QUARTER, 0)), (2, -4), [0, 0, 0, -1, 1, 0, 0, 0, 0]),
    "stretch": (Scripted(normals=(0, 2.5, 0, 0)), (4 * 2**0.5, 2 / 2**0.5), [0, 0, 0, 0, 0, 2.5, 0, 0, 0]),
    "stretch down": (
        Scripted(normals=(0, 2.5, 0, 0), angles=(0, QUARTER)),
        (4 / 2**0.5, 2 * 2**0.5),
        [0, 0, 0, 0, 0, 0, 2.5, 0, 0],
    ),
    "shift": (Scripted(normals=(0, 0, 0.7, -1.1)), (4 + 4 * 0.7, 2 - 4 * 1.1), [0, 0, 0, 0, 0, 0, 0, 0.7, -1.1]),
    "flipped, then turned, then shifted": (
        Scripted(flips=(1, 0), angles=(QUARTER, 0), normals=(0, 0, 1, 0)),
        (2 + 4, 4),
        [1, 0, 0, -1, 1, 0, 0, 1, 0],
    ),
}


@pytest.mark.parametrize(("rng", "goal", "told"), MOVES.values(), ids=MOVES)
def test_each_move_takes_a_point_where_the_paper_says_and_is_told(rng, goal, told):
    image, found = augment(spot(4, 2), 32, Augmentation(non_leaking=1.0), rng)
    np.testing.assert_allclose(middle(image), goal, rtol=0, atol=0.05)
    np.testing.assert_allclose(found, told, rtol=0, atol=1e-6)
    assert found.dtype == np.float32


def test_the_moves_are_made_in_the_order_of_the_table():
    moves = Moves(1.0, 1.0, 0.5, 0.3, -1.2, 0.8, 0.4, -0.2)
    cos, sin = math.cos(-0.3), math.sin(-0.3)
    axis = np.array([math.cos(-1.2), math.sin(-1.2)])
    factor = 2 ** (0.2 * 0.8)
    stretch = factor * np.outer(axis, axis) + (np.eye(2) - np.outer(axis, axis)) / factor  # along one direction, and across it
    point = np.array([3.0, -7.0])
    expected = stretch @ (np.array([[cos, -sin], [sin, cos]]) @ (-(2**0.1) * point)) + 64 / 8 * np.array([0.4, -0.2])
    np.testing.assert_allclose(matrix(moves, 64) @ [*point, 1], [*expected, 1], rtol=1e-12)


def test_nothing_done_is_told_by_zeros():
    np.testing.assert_array_equal(tell(Moves()), np.zeros(9, np.float32))
    image = spot(3, 1)
    same, told = augment(image, 32, Augmentation(non_leaking=1e-12), np.random.default_rng(0))
    np.testing.assert_array_equal(same, image)
    np.testing.assert_array_equal(told, 0)


def drawn(how: Augmentation) -> np.ndarray:
    """[MANY, 8]"""
    rng = np.random.default_rng(0)
    return np.array([draw_moves(how, rng) for _ in range(MANY)])


def test_each_move_is_made_as_often_as_asked_for_and_drawn_as_in_the_paper():
    moves = drawn(Augmentation(non_leaking=0.3))
    made = moves != 0
    deviation = math.sqrt(0.3 * 0.7 / MANY)
    shares = np.array([0.15, 0.15, 0.3, 0.3, 0.3, 0.3, 0.3, 0.3])  # of the flips that are drawn half come out as none
    np.testing.assert_allclose(made.mean(axis=0), shares, rtol=0, atol=5 * deviation)
    np.testing.assert_array_equal(made[:, 4], made[:, 5])  # a direction goes with its stretch, and both shifts together
    np.testing.assert_array_equal(made[:, 6], made[:, 7])
    together = np.corrcoef(made[:, [0, 1, 2, 3, 4, 6]].T) - np.eye(6)
    assert np.abs(together).max() < 5 / math.sqrt(MANY), "each is drawn on its own"
    for column in (2, 5, 6, 7):
        values = moves[made[:, column], column]
        assert values.mean() == pytest.approx(0, abs=5 / math.sqrt(len(values)))
        assert values.std() == pytest.approx(1, abs=5 / math.sqrt(2 * len(values)))
    for column in (3, 4):
        values = moves[made[:, column], column]
        assert np.abs(values).max() == pytest.approx(math.pi, abs=0.05)
        assert values.std() == pytest.approx(math.pi / math.sqrt(3), rel=0.05)
    assert set(moves[:, 0]) == set(moves[:, 1]) == {0.0, 1.0}


def test_where_mirrored_images_are_the_data_s_own_the_flip_is_always_drawn_and_told():
    moves = drawn(Augmentation(flip=True, non_leaking=0.1))
    assert moves[:, 0].mean() == pytest.approx(0.5, abs=5 * math.sqrt(0.25 / MANY))
    assert moves[:, 1].mean() == pytest.approx(0.05, abs=5 * math.sqrt(0.05 * 0.95 / MANY))
    rng = np.random.default_rng(1)
    for _ in range(50):
        image, told = augment(spot(5, 0), 32, Augmentation(flip=True, non_leaking=1e-12), rng)
        assert middle(image)[0] == pytest.approx(-5 if told[0] else 5, abs=0.05)


def test_a_flip_is_one_of_two_draws_and_exact_and_not_told():
    image = np.random.default_rng(0).integers(0, 256, (6, 6, 3), np.uint8)
    rng, seen = np.random.default_rng(1), 0
    for _ in range(1000):
        found, told = augment(image, 6, Augmentation(flip=True), rng)
        mirrored = np.array_equal(found, image[:, ::-1])
        assert mirrored or np.array_equal(found, image)
        assert not told.any()
        seen += mirrored
    assert 420 < seen < 580  # 500 and five deviations of √250


def test_a_turn_is_spread_evenly_up_to_its_limit_either_way():
    rng = np.random.default_rng(0)
    angles = []
    for _ in range(300):
        image, told = augment(spot(9, 0), 32, Augmentation(rotate=20.0), rng)
        assert not told.any()
        x, y = middle(image)
        assert math.hypot(x, y) == pytest.approx(9, abs=0.05)
        angles.append(math.degrees(math.atan2(y, x)))
    assert -20.4 < min(angles) < -18.5
    assert 18.5 < max(angles) < 20.4
    assert np.std(angles) == pytest.approx(20 / math.sqrt(3), rel=0.12)  # of an even spread, and three of its deviations


def test_no_corner_goes_black():
    white = np.full((16, 16, 3), 255, np.uint8)
    for how in (Augmentation(rotate=45.0), Augmentation(non_leaking=1.0)):
        rng = np.random.default_rng(0)
        for _ in range(20):
            np.testing.assert_array_equal(augment(white, 16, how, rng)[0], 255)


def ramps(size: int) -> np.ndarray:
    """[S, S, 3]: 5 brighter for each pixel to the right, and down."""
    rows, columns = np.indices((size, size))
    return np.stack([5 * columns, 5 * rows, 0 * rows], axis=-1).astype(np.uint8)


def test_crops_are_squares_of_every_size_and_place():
    how, rng = Augmentation(crop=0.5), np.random.default_rng(0)
    assert how.stored_size(16) == 32
    stored, sides, places = ramps(32), [], []
    for _ in range(400):
        image, told = augment(stored, 16, how, rng)
        assert image.shape == (16, 16, 3)
        assert not told.any()
        inner = image[3:-3, 3:-3].astype(float)  # near the edges of the picture its mirror image is mixed in
        across, down = inner[..., 0].mean(axis=0) / 5, inner[..., 1].mean(axis=1) / 5
        side, height = 16 * np.polyfit(np.arange(10), across, 1)[0], 16 * np.polyfit(np.arange(10), down, 1)[0]
        left, top = across.mean() + 0.5 - side / 2, down.mean() + 0.5 - side / 2
        assert -0.5 < left < 32 - side + 0.5
        assert -0.5 < top < 32 - side + 0.5
        assert side == pytest.approx(height, abs=0.6)  # a byte is a fifth of a pixel
        sides.append(side)
        places.append((left, top))
    assert 15.5 < min(sides) < 17
    assert 31 < max(sides) < 32.5
    counts, _ = np.histogram(sides, np.linspace(16, 32, 17))
    assert 6 < counts.min() <= counts.max() < 55  # 400/16 = 25 each, and six deviations of √23
    small = np.array(places)[np.array(sides) < 20.5]
    assert small.min() < 1
    assert small.max() > 11
    assert abs(np.corrcoef(small.T)[0, 1]) < 0.4


@pytest.mark.parametrize("crop", [0.99, 0.8])
def test_a_crop_of_an_image_of_the_network_s_own_size_is_that_part_of_it(crop):
    """Whose pixels, not those of an enlarged one, are what is resampled; and each crop is another."""
    rng, widths = np.random.default_rng(0), []
    for _ in range(60):
        image, _ = augment(ramps(32), 32, Augmentation(crop=crop), rng)
        widths.append(32 * np.polyfit(np.arange(24), image[4:-4, 4:-4, 0].mean(axis=0) / 5, 1)[0])
    assert 32 * crop - 0.2 < min(widths) < 32 * (crop + (1 - crop) * 0.2) + 0.1
    assert 32 * (1 - (1 - crop) * 0.2) - 0.1 < max(widths) < 32.2
    assert len({round(width, 3) for width in widths}) > 1, "a crop that is all but nothing does something all the same"


def test_what_does_nothing_is_false():
    assert not Augmentation()
    assert all((Augmentation(True), Augmentation(crop=0.9), Augmentation(rotate=1.0), Augmentation(non_leaking=0.1)))
    assert Augmentation().stored_size(17) == 17
