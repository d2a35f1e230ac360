"""Images in NumPy files, written here in the layouts in use."""

import re
from pathlib import Path

import numpy as np
import pytest

from jax_ddpm.data.sources.load import load_source
from jax_ddpm.errors import InvalidInput
from tests.data.sources.made import everything, noise

COLOUR, GREY = noise(6, 4, 5, 3), noise(6, 4, 5)
LABELS = np.array([0, 2, 1, 2, 0, 1])


def saved(path, *unnamed, **named) -> str:
    (np.save if path.suffix == ".npy" else np.savez)(path, *unnamed, **named)
    return str(path)


@pytest.mark.parametrize(
    ("images", "expected"), [(COLOUR, COLOUR), (GREY, GREY[..., None]), (GREY[..., None], GREY[..., None])]
)
def test_npy_file_holds_images_alone(tmp_path, images, expected):
    source = load_source("arrays", "train", saved(tmp_path / "a.npy", images))
    found, labels = everything(source)
    np.testing.assert_array_equal(found, expected)
    assert {image.dtype.name for image in found} == {"uint8"}
    assert (source.name, source.shape, source.class_names, labels) == ("arrays", expected.shape[1:], (), [0] * 6)
    assert (source.split, source.splits, source.licence) == ("", {}, "not known")


def test_npy_file_is_not_read_as_a_whole(tmp_path):
    place = saved(tmp_path / "a.npy", COLOUR)
    source = load_source("arrays", "train", place)
    with open(place, "r+b") as file:
        file.seek(-1, 2)
        file.write(bytes([255 - COLOUR[-1, -1, -1, -1]]))
    assert source[5]["image"][-1, -1, -1] == 255 - COLOUR[-1, -1, -1, -1]
    np.testing.assert_array_equal(source[4]["image"], COLOUR[4])


@pytest.mark.parametrize("kind", ["<u2", ">u2"])
@pytest.mark.parametrize("file", ["a.npy", "a.npz"])
def test_of_sixteen_bits_the_upper_eight_are_kept(tmp_path, kind, file):
    deep = np.random.default_rng(0).integers(0, 2**16, COLOUR.shape).astype(kind)
    deep[0, 0, 0] = 255, 256, 65535
    images, _ = everything(load_source("arrays", "train", saved(tmp_path / file, deep)))
    assert {image.dtype.name for image in images} == {"uint8"}
    np.testing.assert_array_equal(images, deep // 256)
    assert images[0][0, 0].tolist() == [0, 1, 255]


@pytest.mark.parametrize("names", [("arr_0", "arr_1"), ("images", "labels")])
@pytest.mark.parametrize("pack", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("shape", [(6,), (6, 1)])
def test_npz_file_may_hold_labels(tmp_path, names, pack, shape):
    pack(tmp_path / "a.npz", **{names[0]: COLOUR, names[1]: LABELS.astype(np.uint8).reshape(shape)})
    source = load_source("arrays", "whatever", str(tmp_path / "a.npz"))
    found, labels = everything(source)
    np.testing.assert_array_equal(found, COLOUR)
    assert (labels, source.class_names, source.split, source.splits) == (LABELS.tolist(), ("0", "1", "2"), "", {})
    assert {type(label) for label in labels} == {int}


@pytest.mark.parametrize("named", [{"images": COLOUR}, {"arr_0": COLOUR, "extra": LABELS}])
def test_npz_file_without_labels_has_no_classes(tmp_path, named):
    source = load_source("arrays", "train", saved(tmp_path / "a.npz", **named))
    assert (source.class_names, everything(source)[1]) == ((), [0] * 6)


LAYOUTS = {
    "Keras": {"x_train": GREY, "y_train": LABELS % 2, "x_test": GREY[:2], "y_test": LABELS[:2]},
    "MedMNIST": {
        "train_images": GREY,
        "train_labels": LABELS[:, None] % 2,
        "test_images": GREY[:2],
        "test_labels": LABELS[:2, None],
    }
    | {"val_images": GREY[2:5], "val_labels": np.array([[1], [0], [1]])},
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_with_splits_have_the_same_classes_in_each(tmp_path, layout):
    place = saved(tmp_path / "a.npz", **LAYOUTS[layout])
    train, test = load_source("arrays", "train", place), load_source("arrays", "test", place)
    np.testing.assert_array_equal(everything(train)[0], GREY[..., None])
    np.testing.assert_array_equal(everything(test)[0], GREY[:2, ..., None])
    assert everything(train)[1] == (LABELS % 2).tolist()
    assert everything(test)[1] == LABELS[:2].tolist()
    assert train.class_names == test.class_names == ("0", "1", "2")
    splits = {"train": 6, "val": 3, "test": 2} if layout == "MedMNIST" else {"train": 6, "test": 2}
    assert (train.split, test.split, train.splits, test.splits) == ("train", "test", splits, splits)
    with pytest.raises(
        InvalidInput, match=rf"unknown split of .* 'tets': expected one of {', '.join(splits)}\. Did you mean 'test'"
    ):
        load_source("arrays", "tets", place)


@pytest.mark.parametrize("highest", [1000, 20_231_123, 2**63 + 5])
def test_labels_that_are_no_numbers_of_classes_are_refused(tmp_path, highest):
    labels = np.array([7, 7, highest, 0, 0, 1], np.uint64)
    place = saved(tmp_path / "a.npz", x_train=COLOUR, y_train=LABELS, x_test=COLOUR, y_test=labels)
    message = rf"a\.npz go up to {highest}, which makes {highest + 1:,} classes of 12 images: .*np\.unique\(labels, return"
    for split in ("train", "test"):  # for a label means the same in each
        with pytest.raises(InvalidInput, match=message):
            load_source("arrays", split, place)


@pytest.mark.parametrize(("images", "classes"), [(1, 1000), (2000, 2000)])
def test_some_of_many_classes_may_have_no_images(tmp_path, images, classes):
    labels = np.full(images // 2 + 1, classes - 1)
    data = {"train_images": noise(len(labels), 1, 1, 1), "train_labels": labels}
    place = saved(tmp_path / "a.npz", **data, test_images=noise(images, 1, 1, 1), test_labels=np.zeros(images, int))
    assert len(load_source("arrays", "train", place).class_names) == classes


def test_there_are_never_more_than_a_hundred_thousand_classes(tmp_path):
    for count in (100_000, 100_001):
        place = saved(tmp_path / f"{count}.npz", images=np.zeros((count, 1, 1, 1), np.uint8), labels=np.arange(count))
        if count == 100_000:
            assert len(load_source("arrays", "train", place).class_names) == count
        else:
            with pytest.raises(InvalidInput, match="100,001 classes of 100,001 images"):
                load_source("arrays", "train", place)


def test_split_without_images_does_not_disturb_the_others(tmp_path):
    place = saved(tmp_path / "a.npz", **LAYOUTS["Keras"] | {"x_test": GREY[:0], "y_test": LABELS[:0]})
    assert load_source("arrays", "train", place).class_names == ("0", "1")


def test_the_size_of_another_split_without_labels_is_not_known(tmp_path):
    source = load_source("arrays", "train", saved(tmp_path / "a.npz", x_train=COLOUR, x_test=COLOUR[:2]))
    assert source.splits == {"train": 6, "test": None}


def test_the_third_split_of_medmnist_is_val(tmp_path):
    source = load_source("arrays", "val", saved(tmp_path / "a.npz", **LAYOUTS["MedMNIST"]))
    assert everything(source)[1] == [1, 0, 1]


@pytest.mark.parametrize(
    ("named", "message"),
    [
        ({"images": COLOUR / 255}, "images in .*a.npz has values of type float64, in the first image from 0.* expected uint8"),
        ({"images": COLOUR.astype(int)}, r"type int64, in the first image .* of whole ones .* images\.astype\(np\.uint8\)"),
        ({"images": COLOUR.astype(np.uint32)}, r"type uint32, .* in 0\.\.65535 images\.astype\(np\.uint16\)"),
        ({"images": COLOUR.astype(np.uint16)}, r"uint16, .* no more than 2\d\d, .* 0\.\.255 it is images\.astype\(np\.uint8"),
        ({"images": COLOUR > 127}, "type bool, in the first image from False to True: expected uint8"),
        ({"images": COLOUR.astype(str)}, "type <U3: expected uint8"),
        ({"images": np.moveaxis(COLOUR, 3, 1)}, r"shape \(6, 3, 4, 5\): .*channels go last: np\.moveaxis\(images, 1, -1\)"),
        ({"images": noise(6, 4, 5, 4)}, r"shape \(6, 4, 5, 4\): expected \[N, H, W\], \[N, H, W, 1\] or \[N, H, W, 3\]$"),
        ({"images": COLOUR[0]}, r"shape \(4, 5, 3\): expected \[N, H, W\]"),
        ({"images": COLOUR[:0]}, r"shape \(0, 4, 5, 3\): expected"),
        ({"images": COLOUR.reshape(6, -1)}, r"shape \(6, 60\): expected"),
        ({"pictures": COLOUR, "y": LABELS}, "a.npz holds pictures, y: expected images under one of the names arr_0, images"),
        ({}, "a.npz holds nothing: expected"),
        ({"images": COLOUR, "labels": LABELS[:5]}, "holds 6 images and 5 labels: expected as many"),
        ({"images": COLOUR, "labels": LABELS - 1}, "labels in .* type int64, from -1 on: expected integers .* from 0 on"),
        ({"images": COLOUR, "labels": LABELS / 2}, "labels in .* type float64: expected integers"),
        ({"images": COLOUR, "labels": np.eye(3, dtype=int)[LABELS]}, r"shape \(6, 3\) .*one-hot rows it is labels\.argmax"),
        ({"images": COLOUR, "labels": np.array(["a"] * 6)}, "labels in .* type <U1: expected integers"),
        ({"images": np.array([None])}, "images in .* cannot be read: Object arrays cannot be loaded"),
    ],
)  # fmt: skip
def test_arrays_of_another_kind_are_refused(tmp_path, named, message):
    with pytest.raises(InvalidInput, match=message):
        load_source("arrays", "train", saved(tmp_path / "a.npz", **named))


@pytest.mark.parametrize("kind", ["cut off", "text", "empty", "folder", "missing", "not given", "damaged inside"])
def test_file_that_cannot_be_read_is_named(tmp_path, kind):
    path = tmp_path / "a.npz"
    whole = Path(saved(path, images=COLOUR)).read_bytes()
    damaged = whole[:300] + bytes(20) + whole[320:]
    contents = {"cut off": whole[: len(whole) // 2], "text": b"a text", "empty": b"", "damaged inside": damaged}
    path.write_bytes(contents.get(kind, whole))
    messages = {
        **dict.fromkeys(contents, rf"{re.escape(str(path))} cannot be read"),
        **{"folder": f"no file at {tmp_path}: ", "missing": "no file at .*b.npz: ", "not given": "no file given: .*FILE.npz"},
    }
    given = {"folder": str(tmp_path), "missing": str(tmp_path / "b.npz"), "not given": ""}.get(kind, str(path))
    with pytest.raises(InvalidInput, match=messages[kind]):
        load_source("arrays", "train", given)


@pytest.mark.parametrize("start", [100, 200, 300])
def test_damaged_compressed_array_is_named(tmp_path, start):
    path = tmp_path / "a.npz"
    np.savez_compressed(path, images=np.zeros_like(COLOUR), labels=noise(900).astype(int))
    whole = path.read_bytes()
    where = whole.rindex(b"labels.npy", 0, len(whole) // 2) + start
    path.write_bytes(whole[:where] + b"\xff" * 40 + whole[where + 40 :])
    with pytest.raises(InvalidInput, match=r"labels in .*a\.npz cannot be read: "):
        load_source("arrays", "train", str(path))


def test_npy_file_that_is_cut_off_is_named(tmp_path):
    path = tmp_path / "a.npy"
    whole = Path(saved(path, COLOUR)).read_bytes()
    path.write_bytes(whole[:-1])
    with pytest.raises(InvalidInput, match=r"a\.npy cannot be read as an \.npy or \.npz file: "):
        load_source("arrays", "train", str(path))
