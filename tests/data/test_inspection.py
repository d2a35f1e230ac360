"""What is found in a source against NumPy over all of it at once."""

import numpy as np
import pytest

from jax_ddpm.data.inspection import inspect, spread
from jax_ddpm.data.sources.source import DamagedImage, Source
from jax_ddpm.data.transforms import fit
from tests.data.sources.made import noise

IMAGES = [noise(4, 4, 3, seed=1) // 2 + 9, noise(9, 5, 1, seed=2) // 3, None, noise(4, 4, 3, seed=3), noise(2, 2, 3, seed=4)]
LABELS = [1, 0, 0, 1, 1]


def read(number):
    if IMAGES[number] is None:
        raise DamagedImage(f"image {number} is damaged")
    return {"label": LABELS[number], "image": IMAGES[number]}


SOURCE = Source("made", len(IMAGES), read, ("none", "some"))


@pytest.mark.parametrize("channels", [1, 3])
def test_figures_are_those_of_all_images_together(channels):
    found = inspect(SOURCE, range(5), 4, channels, keep=9)
    whole = [image for image in IMAGES if image is not None]
    assert found.shapes == {(4, 4, 3): 2, (9, 5, 1): 1, (2, 2, 3): 1}
    assert found.labels == {0: 1, 1: 3}
    assert found.damaged == {2: "image 2 is damaged"}
    assert found.readable == 4
    assert found.lowest == min(image.min() for image in whole)
    assert found.highest == max(image.max() for image in whole)
    values = np.stack([fit(image, 4, channels) for image in whole]) / 127.5 - 1
    # to_float rounds each value to float32.
    np.testing.assert_allclose(found.mean, values.mean(axis=(0, 1, 2)), rtol=0, atol=1e-6)
    np.testing.assert_allclose(found.deviation, values.std(axis=(0, 1, 2)), rtol=0, atol=1e-6)
    assert found.mean.shape == found.deviation.shape == (channels,)


def test_only_what_is_asked_for_is_read():
    found = inspect(SOURCE, [3, 0], 4, 3, keep=9)
    assert (found.readable, found.damaged, found.labels) == (2, {}, {1: 2})
    np.testing.assert_array_equal(found.kept[1], [IMAGES[3], IMAGES[0]])


def test_time_is_that_of_reading_damaged_images_too(monkeypatch):
    clock = iter(range(100))
    monkeypatch.setattr("jax_ddpm.data.inspection.time.perf_counter", lambda: next(clock))
    assert inspect(SOURCE, range(5), 4, 3, keep=1).seconds == 5


def test_nothing_readable_is_no_error():
    found = inspect(SOURCE, [2], 4, 3, keep=1)
    assert (found.readable, found.kept, len(found.damaged)) == (0, {}, 1)
    assert np.isfinite([*found.mean, *found.deviation]).all()


def test_images_of_a_class_are_kept_each_with_the_same_probability():
    source = Source("n", 2000, lambda i: {"image": np.full((1, 1, 1), i // 200, np.uint8), "label": 0})
    kept = inspect(source, range(2000), 1, 1, keep=500).kept[0]
    shares = np.bincount([image.item() for image in kept], minlength=10)  # of ten stretches of the source
    assert shares.sum() == 500
    # Each is binomial with mean 50 and a standard deviation below 7.
    assert shares.min() > 22
    assert shares.max() < 78


@pytest.mark.parametrize(("size", "count"), [(5, 0), (3, 5), (3, 3), (0, 4)])
def test_where_no_fewer_are_wanted_than_there_are_all_are_taken(size, count):
    assert spread(size, count) == list(range(size))


@pytest.mark.parametrize(("size", "count"), [(10, 4), (7, 1), (60_000, 2000), (2001, 2000)])
def test_numbers_are_spread_one_in_each_stretch_and_the_same_each_time(size, count):
    numbers = spread(size, count)
    assert len(numbers) == count
    assert all(place * size // count <= number < (place + 1) * size // count for place, number in enumerate(numbers))
    assert {type(number) for number in numbers} == {int}
    assert spread(size, count) == numbers


@pytest.mark.parametrize("label", [lambda number: number % 10, lambda number: number // 6000], ids=["in turn", "one by one"])
def test_classes_are_found_in_their_shares_however_they_are_ordered(label):
    source = Source("n", 60_000, lambda i: {"image": np.zeros((1, 1, 1), np.uint8), "label": label(i)}, tuple("0123456789"))
    found = inspect(source, spread(60_000, 2000), 1, 1, keep=1)
    assert sorted(found.kept) == list(range(10))
    # In turn, each count is binomial with mean 200 and a standard deviation of 13.4; one by one it is 200.
    assert all(abs(found.labels[number] - 200) < 60 for number in range(10))
