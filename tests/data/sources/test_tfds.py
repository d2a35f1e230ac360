"""TensorFlow Datasets: real prepared sets, written by builders of these tests, without TensorFlow."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import jax_ddpm
from jax_ddpm.data.sources.columns import Columns
from jax_ddpm.data.sources.load import load_source
from jax_ddpm.data.sources.source import DamagedImage
from jax_ddpm.errors import InvalidInput
from tests.data.sources.made import DEEP, DOWNSAMPLED, IMAGES, MIXED, NAMES, SIZES, everything, noise


@pytest.mark.parametrize("split", SIZES)
def test_prepared_data_set_has_the_images_and_labels_written(prepared, split):
    source = load_source("cifar10", split, str(prepared))
    images, labels = everything(source)
    assert (source.name, len(source), source.class_names) == ("cifar10", SIZES[split], NAMES)
    assert {type(label) for label in labels} == {int}
    found = {image.tobytes(): label for image, label in zip(images, labels, strict=True)}
    assert found == {image.tobytes(): i % 10 for i, image in enumerate(IMAGES[split])}


@pytest.mark.parametrize(
    ("split", "numbers"),
    [
        ("train[:50%]", range(10)),
        ("train[5:8]", range(5, 8)),
        ("train[-10%:]", range(18, 20)),
        ("train[:2]+train[4:6]", [0, 1, 4, 5]),
    ],
)
def test_split_language_takes_a_part(prepared, split, numbers):
    whole, _ = everything(load_source("cifar10", "train", str(prepared)))
    part, _ = everything(load_source("cifar10", split, str(prepared)))
    np.testing.assert_array_equal(part, [whole[number] for number in numbers])


def test_splits_can_be_joined(prepared):
    assert len(load_source("cifar10", "train+test", str(prepared))) == 26


def test_set_of_several_configurations_is_read_by_name_and_configuration(prepared):
    source = load_source("downsampled_imagenet/64x64", "validation", str(prepared))
    images, labels = everything(source)
    assert (source.class_names, labels) == ((), [0] * 3)
    assert {image.tobytes() for image in images} == {image.tobytes() for image in DOWNSAMPLED}


def test_data_set_says_its_splits_its_shape_and_its_licence(prepared):
    cifar = load_source("cifar10", "train[:3]", str(prepared))
    assert (cifar.split, cifar.splits, cifar.shape, cifar.licence) == ("train[:3]", SIZES, (32, 32, 3), "not known")
    imagenet = load_source("downsampled_imagenet/64x64", "validation", str(prepared))
    assert (imagenet.splits, imagenet.shape, imagenet.licence) == ({"validation": 3}, None, "CC BY 4.0")


def test_damaged_record_is_told_by_its_number_when_it_is_read(prepared):
    source = load_source("damaged", "train", str(prepared))
    assert len(source) == 1
    with pytest.raises(DamagedImage, match=r"image 0 of damaged \(train\) cannot be read as an image: "):
        source[0]


def test_set_without_labels_has_no_classes(prepared):
    source = load_source("unlabelled", "train", str(prepared))
    assert (source.class_names, everything(source)[1]) == ((), [0] * 6)


def test_columns_are_found_by_what_they_hold_whatever_they_are_called(prepared):
    source = load_source("alone", "train", str(prepared))
    images, labels = everything(source)
    assert source.class_names == ("cat", "owl")
    assert {image.tobytes(): label for image, label in zip(images, labels, strict=True)} == {
        IMAGES["test"][i].tobytes(): i % 2 for i in range(3)
    }


# With seed 100 n of the n-th column on: see `prepare_as_in_catalogue`.
@pytest.mark.parametrize(
    ("name", "columns", "shape", "seed", "labels", "classes"),
    [
        ("div2k/bicubic_x2", Columns("lr"), (8, 8, 3), 0, [0, 0, 0], 0),
        ("div2k/bicubic_x2", Columns("hr"), (8, 8, 3), 100, [0, 0, 0], 0),
        ("dsprites", Columns(label="label_shape"), (64, 64, 1), 0, [100 % 3, 101 % 3, 102 % 3], 3),
        ("dsprites", Columns("image", "label_scale"), (64, 64, 1), 0, [200 % 6, 201 % 6, 202 % 6], 6),
        ("smallnorb", Columns(label="label_category"), (96, 96, 1), 0, [200 % 5, 201 % 5, 202 % 5], 5),
        ("smallnorb", Columns("image2", "label_lighting"), (96, 96, 1), 100, [600 % 6, 601 % 6, 602 % 6], 6),
    ],
)
def test_of_several_columns_that_is_read_which_is_asked_for(prepared, name, columns, shape, seed, labels, classes):
    source = load_source(name, "train", str(prepared), columns)
    found = {image.tobytes(): label for image, label in zip(*everything(source), strict=True)}
    assert found == {noise(*shape, seed=seed + row).tobytes(): labels[row] for row in range(3)}
    assert len(source.class_names) == classes
    assert source.shape == (None if classes == 0 else shape)


@pytest.mark.parametrize(
    ("name", "columns", "message"),
    [
        ("div2k/bicubic_x2", Columns(), r"'div2k/bicubic_x2' has several image columns, lr, hr: .*image_column=lr$"),
        ("div2k/bicubic_x2", Columns("rh"), r"unknown image column of div2k/bicubic_x2 'rh': expected one of lr, hr"),
        ("dsprites", Columns(), "'dsprites' has several label columns, label_shape, label_scale, .*label_column=label_shape$"),
        ("smallnorb", Columns("image2"), "'smallnorb' has several label columns, label_category, instance, label_elevation, "),
        ("cifar10", Columns("id"), "unknown image column of cifar10 'id': expected one of image"),
    ],
)
def test_which_of_several_columns_is_meant_must_be_said(prepared, name, columns, message):
    with pytest.raises(InvalidInput, match=message):
        load_source(name, "train", str(prepared), columns)


@pytest.mark.parametrize(
    ("name", "shape"), [("mixed", (32, 32, 3)), ("mixed_grey", (32, 32, 1)), ("sizes_open", None), ("all_open", None)]
)
def test_images_have_the_channels_that_the_set_says_whatever_their_files_have(prepared, name, shape):
    colour, grey, clear = MIXED
    alpha = clear[..., 3:] / 255
    white = 255 * (1 - alpha) + clear[..., :3] * alpha
    light = [np.dot(each, [0.299, 0.587, 0.114])[..., None] for each in (colour, white)]
    expected = {
        "mixed": [colour, np.stack([grey] * 3, axis=-1), white],
        "mixed_grey": [light[0], grey[..., None], light[1]],
        "sizes_open": [colour, np.stack([grey] * 3, axis=-1), white],
        "all_open": [colour, grey[..., None], white],
    }[name]
    source = load_source(name, "train", str(prepared))
    assert source.shape == shape
    found = everything(source)[0]
    assert {image.dtype.name for image in found} == {"uint8"}
    for each in expected:  # rounded, that with transparency twice; in an order of the set's own
        assert any(image.shape == each.shape and abs(image - each).max() < 2 for image in found)


def test_of_sixteen_bits_the_upper_eight_are_kept(prepared):
    images, _ = everything(load_source("sixteen_bits", "train", str(prepared)))
    np.testing.assert_array_equal(images, DEEP[None, ..., None] >> 8)


def test_numbers_that_are_packed_as_images_are_refused_with_a_way_out(prepared, tmp_path):
    folder = shutil.copytree(prepared / "sixteen_bits", tmp_path / "sixteen_bits") / "3.0.2"
    text = (folder / "features.json").read_text()
    assert "uint16" in text
    (folder / "features.json").write_text(text.replace("uint16", "float32"))
    message = r"'sixteen_bits' has images of type float32: expected uint8 or uint16\. .*, which --config\.data\.name=arrays"
    with pytest.raises(InvalidInput, match=message):
        load_source("sixteen_bits", "train", str(tmp_path))


@pytest.mark.parametrize(
    ("name", "split", "message"),
    [
        ("cifar10", "trian", r"unknown split of cifar10 'trian': expected one of .*train.* Did you mean 'train'\?"),
        ("cifar10", "trian[:50%]", "unknown split of cifar10 'trian"),
        ("cifar10", "train+tets", "tets"),
        ("cifar10", "train[:50%", r"train\[:50%"),
        ("cifar10", "train[10:3]", r"unknown split of cifar10 'train\[10:3\]'"),
        ("cifar10:1.0.0", "train", "cifar10:1.0.0.*cannot be loaded at version 1.0.0"),
        ("cifar10/zzz", "train", "BuilderConfig zzz not found"),
        ("a b", "train", r"data set 'a b': Parsing builder name string a b failed"),
        ("cifr10", "train", r"unknown data set 'cifr10': .* Did you mean 'cifar10'\?"),
        ("digit", "train", r"unknown data set 'digit': .* Did you mean 'digits'\?"),
        ("digots", "train", r"expected digits, fashion_mnist, emoji, folder, arrays, hf:NAME, or a name from the catalogue"),
        ("emojis", "train", r"Did you mean 'emoji'\?"),
        ("words", "train", "data set 'words' has no column of images: its columns are .*text"),
    ],
)
def test_what_is_not_there_is_told_with_the_nearest_choice(prepared, name, split, message):
    with pytest.raises(InvalidInput, match=message):
        load_source(name, split, str(prepared))


@pytest.mark.parametrize(
    ("name", "folder"), [("mnist", "mnist/3.0.1"), ("cifar10_corrupted/fog_2", "cifar10_corrupted/fog_2/1.0.0")]
)
def test_set_that_is_not_prepared_is_told_with_where_and_how(tmp_path, name, folder):
    with pytest.raises(InvalidInput) as error:
        load_source(name, "train", str(tmp_path))
    message = str(error.value)
    assert f"data set {name!r} is not prepared in {tmp_path / folder}." in message
    command = f"tfds.builder({name!r}, data_dir='{tmp_path}', file_format='array_record').download_and_prepare()"
    assert f'\n  python -c "import tensorflow_datasets as tfds; {command}"\n' in message
    assert f"--config.data.directory={tmp_path}" in message


def test_set_prepared_in_another_file_format_is_told_as_such(prepared, tmp_path):
    folder = shutil.copytree(prepared / "cifar10", tmp_path / "cifar10") / "3.0.2"
    info = json.loads((folder / "dataset_info.json").read_text())
    assert info["fileFormat"] == "array_record"
    (folder / "dataset_info.json").write_text(json.dumps(info | {"fileFormat": "tfrecord"}))
    for path in folder.glob("*array_record*"):
        path.rename(folder / path.name.replace("array_record", "tfrecord"))
    with pytest.raises(InvalidInput, match="data set 'cifar10' is prepared, but not as array_record") as error:
        load_source("cifar10", "train", str(tmp_path))
    assert str(folder) in str(error.value)


def test_prepared_data_set_is_read_without_tensorflow(prepared):
    program = f"""
import sys
from jax_ddpm.data.sources.load import load_source
print(load_source("cifar10", "train", {str(prepared)!r})[0]["image"].shape, "tensorflow" in sys.modules)
"""
    root = Path(jax_ddpm.__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, text=True, check=False)
    assert done.stdout == "(32, 32, 3) False\n", done.stderr
