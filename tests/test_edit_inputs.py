"""What --mode edit reads: images and their classes, masks, pairs, small images."""

import numpy as np
import pytest
from PIL import Image

from jax_ddpm.data.sources.digits import digits
from jax_ddpm.data.sources.source import DamagedImage
from jax_ddpm.edit_inputs import as_arrays, read_given
from jax_ddpm.errors import InvalidInput
from tests.commands.conftest import make_tiny_config


def make_config(task="encode", label_dropout=0.0, conditional=True, classifier="", low_res_size=0, **settings):
    """A config of digits, as it is once training has noted its classes."""
    config = make_tiny_config()
    config.data.class_names = tuple("0123456789")
    config.model.update(label_dropout=label_dropout, class_conditional=conditional, low_res_size=low_res_size)
    config.guidance.classifier = classifier
    config.edit.update(task=task, **settings)
    return config


def save(path, image):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)
    return str(path)


def noise(*shape):
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


def test_classes_without_names_are_those_of_a_source_that_has_as_many():
    config = make_config(count=5)
    config.data.update(class_names=tuple("abcdefghij"), classes_named=False)
    np.testing.assert_array_equal(read_given(config)["label"], [digits("test")[number]["label"] for number in range(5)])


def test_without_images_they_are_the_first_held_out_ones_with_their_classes():
    given = read_given(make_config(count=5))
    held_out = [digits("test")[number] for number in range(5)]
    np.testing.assert_array_equal(given["image"], [example["image"] for example in held_out])
    np.testing.assert_array_equal(given["label"], [example["label"] for example in held_out])


def test_a_file_is_one_image_fitted_to_the_network(tmp_path):
    image = noise(8, 8)
    large = image.repeat(4, axis=0).repeat(4, axis=1)  # whose halvings give the small one again
    given = read_given(make_config(images=save(tmp_path / "a.png", np.stack([large] * 3, axis=-1)), labels=(4,)))
    np.testing.assert_array_equal(given["image"], image[None, :, :, None])
    np.testing.assert_array_equal(given["label"], [4])


def test_of_a_folder_the_first_images_count_and_labels_are_taken_in_turn(tmp_path):
    for number in range(4):
        save(tmp_path / f"{number}.png", noise(8, 8) // 2 + number)
    given = read_given(make_config(images=str(tmp_path), count=3, labels=(1, 9)))
    np.testing.assert_array_equal(given["label"], [1, 9, 1])
    assert given["image"].shape == (3, 8, 8, 1)
    assert (given["image"][2] - given["image"][0] == 2).all()


def test_damaged_images_are_left_out_where_the_config_says_so(tmp_path, capsys):
    """Those of the data that are held out, and a user's."""
    for number in range(4):
        save(tmp_path / "test" / f"{number}.png", noise(8, 8) // 2 + number)
    (tmp_path / "test/1.png").write_bytes(b"")
    save(tmp_path / "train/0.png", noise(8, 8))
    for settings in ({}, {"images": str(tmp_path / "test")}):
        config = make_config(count=2, conditional=False, **settings)
        config.data.update(name="folder", directory=str(tmp_path))
        with pytest.raises(DamagedImage, match=r"1\.png"):
            read_given(config)
        config.data.on_damaged = "skip"
        given = read_given(config)["image"]
        assert (given[1] - given[0] == 2).all()
        assert "1.png" in capsys.readouterr().err


def test_subfolders_named_as_classes_say_what_is_in_them(tmp_path):
    for name in ("7", "3"):
        save(tmp_path / name / "a.png", noise(8, 8))
    np.testing.assert_array_equal(read_given(make_config(images=str(tmp_path)))["label"], [3, 7])


@pytest.mark.parametrize("name", ["a.png", "cats/a.png"])
def test_without_a_class_it_is_no_class_where_the_network_knows_that(tmp_path, name):
    save(tmp_path / name, noise(8, 8))
    np.testing.assert_array_equal(read_given(make_config(images=str(tmp_path), label_dropout=0.1))["label"], [10])
    np.testing.assert_array_equal(read_given(make_config(images=str(tmp_path), conditional=False))["label"], [10])
    with pytest.raises(InvalidInput, match=r"expected edit\.labels, such as .*labels in 0\.\.9"):
        read_given(make_config(images=str(tmp_path)))


def test_a_classifier_is_told_a_class_where_it_guides(tmp_path):
    images = save(tmp_path / "a.png", noise(8, 8))
    options = {"images": images, "classifier": "somewhere", "conditional": False}
    with pytest.raises(InvalidInput, match=r"expected edit\.labels"):
        read_given(make_config("sdedit", **options))
    np.testing.assert_array_equal(read_given(make_config("sdedit", labels=(2,), **options))["label"], [2])
    read_given(make_config("encode", **options))
    np.testing.assert_array_equal(read_given(make_config("translate", **options))["targets"], [range(10)])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"labels": (10,)}, r"edit\.labels=\(10,\): expected labels in 0\.\.9"),
        ({"labels": (1,), "conditional": False}, r"edit\.labels=\(1,\): neither the network nor a classifier"),
        ({"task": "translate", "targets": (3, 10)}, r"edit\.targets=\(3, 10\): expected labels in 0\.\.9"),
        ({"task": "translate", "conditional": False}, r"translate goes to other classes, and neither"),
        ({"task": "interpolate", "count": 1}, r"expected two or more"),
        ({"images": "/nowhere/at.all"}, r"no image or folder of images at /nowhere/at\.all: --images must name one"),
        ({"task": "inpaint", "region": "lft"}, r"unknown edit\.region 'lft'.*Did you mean 'left'\?"),
        ({"task": "inpaint", "mask": "/nowhere/at.all"}, r"/nowhere/at\.all cannot be read"),
    ],
)
def test_what_cannot_be_done_is_told(settings, message):
    with pytest.raises(InvalidInput, match=message):
        read_given(make_config(**settings))


def test_a_mask_is_white_where_the_image_is_drawn_anew(tmp_path):
    white = np.zeros((16, 16), np.uint8)
    white[4:8, 10:] = 255
    given = read_given(make_config("inpaint", count=2, mask=save(tmp_path / "mask.png", white)))
    expected = np.zeros((8, 8), np.uint8)
    expected[2:4, 5:] = 255
    np.testing.assert_array_equal(given["mask"], np.stack([expected[..., None]] * 2))
    np.testing.assert_array_equal(as_arrays(given)["mask"], 1 - given["mask"] / 255.0)  # the library's is 1 where known


@pytest.mark.parametrize(("grey", "drawn"), [(0, "black"), (127, "black"), (128, "white"), (255, "white")])
def test_a_mask_of_one_colour_is_refused(tmp_path, grey, drawn):
    with pytest.raises(InvalidInput, match=rf"mask\.png is all {drawn}"):
        read_given(make_config("inpaint", mask=save(tmp_path / "mask.png", np.full((8, 8), grey, np.uint8))))


REGIONS = {"left": (3, 1), "right": (3, 6), "top": (1, 3), "bottom": (6, 3), "centre": (3, 4)}


@pytest.mark.parametrize("region", REGIONS)
def test_without_a_mask_it_is_a_region(region):
    mask = read_given(make_config("inpaint", count=1, region=region))["mask"][0, ..., 0]
    assert mask[REGIONS[region]] == 255
    assert (mask == 255).sum() == (16 if region == "centre" else 32)
    assert mask[7 - REGIONS[region][0], 7 - REGIONS[region][1]] == (255 if region == "centre" else 0)


def test_interpolation_is_between_neighbours_and_takes_the_class_of_the_nearer():
    given = read_given(make_config("interpolate", count=3, frames=5))
    whole = read_given(make_config(count=3))
    for name in ("image", "label"):
        np.testing.assert_array_equal(given[name], whole[name][:2])
        np.testing.assert_array_equal(given[f"{name}_2"], whole[name][1:])
    a, b, c = whole["label"]
    np.testing.assert_array_equal(given["labels"], [[a, a, b, b, b], [b, b, c, c, c]])


def test_between_two_classes_is_no_class_where_the_network_knows_that():
    given = read_given(make_config("interpolate", label_dropout=0.1, count=3, frames=4))  # a 0, a 4 and another 4
    np.testing.assert_array_equal(given["labels"], [[10] * 4, [4] * 4])
    np.testing.assert_array_equal([given["label"], given["label_2"]], [[10, 4]] * 2)
    guided = read_given(make_config("interpolate", label_dropout=0.1, count=2, frames=2, classifier="somewhere"))
    np.testing.assert_array_equal(guided["labels"], [[0, 4]])


def test_a_small_image_is_enlarged_as_it_is_and_a_large_one_is_made_small_first(tmp_path):
    small, large = noise(4, 4), noise(8, 8)
    save(tmp_path / "a.png", small)
    save(tmp_path / "b.png", large)
    given = read_given(make_config("enlarge", images=str(tmp_path), labels=(0,), low_res_size=4))
    np.testing.assert_array_equal(given["small"][0, ..., 0], small)
    np.testing.assert_array_equal(given["image"][0, ..., 0], small.repeat(2, axis=0).repeat(2, axis=1))
    np.testing.assert_array_equal(given["image"][1, ..., 0], large)
    means = (large[::2, ::2].astype(float) + large[1::2, ::2] + large[::2, 1::2] + large[1::2, 1::2]) / 4
    np.testing.assert_array_equal(given["small"][1, ..., 0], np.rint(means))


def test_the_devices_get_images_between_minus_one_and_one():
    given = read_given(make_config("interpolate", count=2))
    arrays = as_arrays(given)
    for name in ("image", "image_2"):
        np.testing.assert_allclose(arrays[name], given[name] / 127.5 - 1, atol=1e-6)  # float32
    np.testing.assert_array_equal(arrays["label"], given["label"])
