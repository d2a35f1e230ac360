"""scikit-learn's digits against scikit-learn."""

import numpy as np
import pytest
from sklearn.datasets import load_digits

from jax_ddpm.data.sources.load import load_source
from jax_ddpm.errors import InvalidInput
from tests.data.sources.made import everything


@pytest.mark.parametrize(("split", "size"), [("train", 1500), ("test", 297), ("all", 1797)])
def test_digits_are_grey_bytes_with_labels(split, size):
    source = load_source("digits", split)
    images, labels = everything(source)
    assert (source.name, len(source), len(images)) == ("digits", size, size)
    assert source.class_names == tuple("0123456789")
    assert {(image.shape, image.dtype.name) for image in images} == {((8, 8, 1), "uint8")}
    assert set(labels) == set(range(10))
    assert {type(label) for label in labels} == {int}


@pytest.mark.parametrize("splits", [("train", "test"), ("all",)])
def test_digits_splits_are_scikit_learns_images_each_once(splits):
    found = []
    for split in splits:
        images, labels = everything(load_source("digits", split))
        found += [(label, image.tobytes()) for image, label in zip(images, labels, strict=True)]
    bunch = load_digits()
    expected = np.round(255 * bunch.images / 16).astype(np.uint8)
    assert sorted(found) == sorted((label, image.tobytes()) for image, label in zip(expected, bunch.target, strict=True))


def test_digits_are_split_the_same_every_time():
    (first, _), (second, _) = everything(load_source("digits", "test")), everything(load_source("digits", "test"))
    np.testing.assert_array_equal(first, second)


def test_digits_have_no_other_split():
    with pytest.raises(
        InvalidInput, match=r"unknown split of digits 'tets': expected one of train, test, all\. Did you mean 'test'\?"
    ):
        load_source("digits", "tets")
