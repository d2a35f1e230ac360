"""Sources made of sources: what they give, how often they read, and what they say of damage."""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from jax_ddpm.data.reading import Damages, cached, fitted, readable, without_damaged
from jax_ddpm.data.sources.source import DamagedImage, Source
from jax_ddpm.data.transforms import fit
from jax_ddpm.errors import InvalidInput

COUNT = 40
IMAGES = np.random.default_rng(0).integers(0, 256, (COUNT, 6, 8, 3), np.uint8)


def source_of(reads: Counter, damaged: tuple[int, ...] = ()) -> Source:
    """Numbered images, which notes how often each is read."""

    def read(number):
        reads[number] += 1
        if number in damaged:
            raise DamagedImage(f"number {number} is broken")
        return {"image": IMAGES[number], "label": number % 10}

    return Source("noted", COUNT, read, tuple("0123456789"), "train", {"train": COUNT}, (6, 8, 3), "mine")


def test_a_fitted_source_has_the_network_s_shape_and_all_else_as_it_was():
    source = source_of(Counter())
    made = fitted(source, 4, 1)
    assert (made.shape, made.licence, made.class_names, len(made)) == ((4, 4, 1), "mine", source.class_names, COUNT)
    np.testing.assert_array_equal(made[3]["image"], fit(IMAGES[3], 4, 1))
    assert made[13]["label"] == 3


@pytest.mark.parametrize(
    ("shape", "made"),
    [
        ((6, 8, 3), (6, 6, 1)),
        ((40, 30, 3), (10, 10, 1)),
        ((9, 3, 3), (4, 4, 1)),
        ((4, 4, 1), (4, 4, 1)),
        ((12, 10, 1), (10, 10, 1)),
    ],
)
def test_an_image_is_not_enlarged_beyond_the_least_that_is_asked_for(shape, made):
    image = np.random.default_rng(1).integers(0, 256, shape, np.uint8)
    for known in (shape, None):
        source = fitted(Source("one", 1, lambda _: {"image": image, "label": 0}, shape=known), 10, 1, least=4)
        assert source.shape == (made if known else None)
        np.testing.assert_array_equal(source[0]["image"], fit(image, made[0], 1))


def test_images_of_several_sizes_are_kept_too_where_the_largest_would_fit():
    reads = Counter()

    def read(number):
        reads[number] += 1
        return {"image": IMAGES[number, :, : 3 + number % 4], "label": number}

    source = Source("mixed", COUNT, read)
    assert cached(source, COUNT * 6 * 8 * 3 / 2**20 - 1e-9, (6, 8, 3)) is source
    kept = cached(source, COUNT * 6 * 8 * 3 / 2**20, (6, 8, 3))
    for number in [*range(COUNT)] * 2:
        np.testing.assert_array_equal(kept[number]["image"], IMAGES[number, :, : 3 + number % 4])
        assert kept[number]["label"] == number
    assert set(reads.values()) == {1}


def test_many_threads_find_the_same_in_what_is_kept():
    reads = Counter()
    kept = cached(source_of(reads), 1)
    numbers = np.random.default_rng(1).integers(COUNT, size=2000).tolist()
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(kept.read, numbers))
    for number, example in zip(numbers, found, strict=True):
        np.testing.assert_array_equal(example["image"], IMAGES[number])
        assert example["label"] == number % 10
    assert sum(reads.values()) < COUNT + 8 * 8, "but for several threads that come at once each is read once"


@pytest.mark.parametrize("mebibytes", [0, (COUNT * 6 * 8 * 3 - 1) / 2**20])
def test_what_does_not_fit_is_not_kept(mebibytes):
    source = source_of(Counter())
    assert cached(source, mebibytes) is source
    assert cached(source, COUNT * 6 * 8 * 3 / 2**20) is not source


def test_images_of_unknown_shape_are_not_kept():
    source = Source("mixed", 3, lambda number: {"image": IMAGES[number], "label": 0})
    assert cached(source, 1) is source


def test_the_next_readable_image_stands_in_and_after_the_last_comes_the_first(capsys):
    damages = Damages()
    source = without_damaged(source_of(Counter(), (0, 5, 6, 39)), damages)
    found = [source[number]["image"] for number in (4, 5, 6, 39, 39)]
    for image, number in zip(found, (4, 7, 7, 1, 1), strict=True):
        np.testing.assert_array_equal(image, IMAGES[number])
    assert damages.found == {number: f"number {number} is broken" for number in (5, 6, 39, 0)}
    assert capsys.readouterr().err.splitlines() == [
        "skipped: number 5 is broken (1 damaged image so far)",
        "skipped: number 6 is broken (2 damaged images so far)",
        "skipped: number 39 is broken (3 damaged images so far)",
        "skipped: number 0 is broken (4 damaged images so far)",
    ]


def test_a_stretch_of_damaged_images_is_gone_through_once(capsys):
    reads = Counter()
    source = without_damaged(source_of(reads, tuple(range(1, COUNT))), Damages())
    for number in range(COUNT):
        np.testing.assert_array_equal(source[number]["image"], IMAGES[0])
    assert reads == {0: COUNT, **dict.fromkeys(range(1, COUNT), 1)}


def test_nothing_is_told_by_who_is_to_be_quiet(capsys):
    damages = Damages(quiet=True)
    without_damaged(source_of(Counter(), (0,)), damages)[0]
    assert damages.found == {0: "number 0 is broken"}
    assert capsys.readouterr().err == ""


def test_in_order_damaged_images_are_left_out_or_stop_it(capsys):
    source = source_of(Counter(), (0, 2))
    found = [example["image"] for example in readable(source, "skip", 5)]
    np.testing.assert_array_equal(found, IMAGES[[1, 3, 4]])
    assert "2 of 5 images cannot be read and are left out" in capsys.readouterr().err
    assert len(list(readable(source, "skip"))) == COUNT - 2
    with pytest.raises(DamagedImage, match="number 0 is broken"):
        next(readable(source, "stop"))
    with pytest.raises(InvalidInput, match="none of 1 images of data set 'noted' can be read"):
        list(readable(source, "skip", 1))


def test_an_error_that_is_not_of_one_image_is_not_skipped():
    def read(number):
        raise InvalidInput("the set is gone")

    with pytest.raises(InvalidInput, match="the set is gone"):
        without_damaged(Source("gone", 3, read), Damages())[0]
