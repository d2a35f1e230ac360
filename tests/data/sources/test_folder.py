"""Folders and zips of images made here."""

import threading
import zipfile
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from jax_ddpm.data.sources.load import load_source
from jax_ddpm.data.sources.source import DamagedImage
from jax_ddpm.errors import InvalidInput
from tests.data.sources.made import everything, noise, png, write


def test_folder_of_subfolders_has_a_class_for_each(tmp_path):
    images = {
        name: noise(4, 5, 3, seed=seed) for seed, name in enumerate(("wren/2.png", "owl/b/deep.png", "owl/a.PNG", "emu/1.png"))
    }
    for name, image in images.items():
        write(tmp_path / name, image)
    (tmp_path / "owl" / "notes.txt").write_text("not an image")
    (tmp_path / "empty").mkdir()
    source = load_source("folder", "train", str(tmp_path))
    found, labels = everything(source)
    assert source.class_names == ("emu", "owl", "wren")
    assert labels == [0, 1, 1, 2]
    for image, name in zip(found, ("emu/1.png", "owl/a.PNG", "owl/b/deep.png", "wren/2.png"), strict=True):
        np.testing.assert_array_equal(image, images[name])


def test_folder_without_subfolders_has_no_classes(tmp_path, monkeypatch):
    for number in range(3):
        write(tmp_path / "pictures" / f"{number}.png", np.full((2, 2, 1), number, np.uint8))
    monkeypatch.setenv("HOME", str(tmp_path))
    source = load_source("folder", "train", "~/pictures")
    images, labels = everything(source)
    assert (source.class_names, labels) == ((), [0, 0, 0])
    np.testing.assert_array_equal([image[0, 0, 0] for image in images], [0, 1, 2])


def test_folder_that_mixes_images_and_subfolders_is_refused(tmp_path):
    for name in ("a.png", "b.png", "cats/1.png"):
        write(tmp_path / name, noise(2, 2, 3))
    with pytest.raises(InvalidInput, match=r"holds 2 images beside its subfolders \(cats, …\)"):
        load_source("folder", "train", str(tmp_path))


@pytest.mark.parametrize(
    ("directory", "message"),
    [
        ("", "no folder given: .*directory=PATH"),
        ("missing", "no folder or zip at .*missing"),
        ("bare", r"no images in .*bare: .*\.png"),
    ],
)
def test_folder_that_is_not_there_or_has_no_images_is_refused(tmp_path, directory, message):
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare" / "notes.txt").write_text("nothing")
    with pytest.raises(InvalidInput, match=message):
        load_source("folder", "train", directory and str(tmp_path / directory))


def test_images_of_any_size_and_colour_lie_together_and_a_single_one_will_do(tmp_path):
    images = {"a.png": noise(5, 9, 3), "b.png": noise(33, 1, 1), "c.png": noise(2, 2, 3)}
    for name, image in images.items():
        write(tmp_path / "many" / name, image)
    source = load_source("folder", "train", str(tmp_path / "many"))
    assert source.shape is None
    assert [image.shape for image in everything(source)[0]] == [(5, 9, 3), (33, 1, 1), (2, 2, 3)]
    write(tmp_path / "one" / "a.png", images["a.png"])
    assert len(load_source("folder", "train", str(tmp_path / "one"))) == 1


def test_what_systems_and_archivers_leave_behind_is_passed_over(tmp_path):
    for name in ("a.png", ".a.png", "__MACOSX/cats/1.png", ".thumbnails/a.png", "cats.png/notes.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(png(noise(2, 2, 3)).getvalue())
    source = load_source("folder", "train", str(tmp_path))
    assert (len(source), source.class_names) == (1, ())


def test_damaged_image_is_told_when_it_is_read(tmp_path):
    write(tmp_path / "cats" / "good.png", noise(2, 2, 3))
    (tmp_path / "cats" / "worse.png").write_bytes(b"")
    source = load_source("folder", "train", str(tmp_path))
    assert source[0]["image"].shape == (2, 2, 3)
    with pytest.raises(DamagedImage, match=r"cats/worse\.png cannot be read as an image"):
        source[1]


# Splits.


def images_of(source):
    """By the value that fills them; see `filled`."""
    return [int(image[0, 0, 0]) for image in everything(source)[0]]


def filled(root, names):
    """Writes images, the first filled with 0, the second with 1, and so on."""
    for value, name in enumerate(names):
        write(root / name, np.full((2, 2, 3), value, np.uint8))
    return str(root)


def test_folders_called_as_splits_are_splits_with_the_same_classes(tmp_path):
    place = filled(tmp_path, ("train/cat/1.png", "train/owl/deep/1.png", "test/owl/1.png", "test/emu/1.png", "valid/cat/1.png"))
    found = {split: load_source("folder", split, place) for split in ("train", "valid", "test")}
    assert {source.class_names for source in found.values()} == {("cat", "emu", "owl")}
    assert [tuple(source.splits.items()) for source in found.values()] == [(("train", 2), ("valid", 1), ("test", 2))] * 3
    assert {split: source.split for split, source in found.items()} == {split: split for split in found}
    assert {split: images_of(source) for split, source in found.items()} == {"train": [0, 1], "valid": [4], "test": [3, 2]}
    assert {split: everything(source)[1] for split, source in found.items()} == {"train": [0, 2], "valid": [0], "test": [1, 2]}


@pytest.mark.parametrize("folder", ["val", "valid", "validation"])
def test_the_validation_split_goes_by_any_of_its_names(tmp_path, folder):
    place = filled(tmp_path, ("train/1.png", f"{folder}/1.png"))
    for split in ("val", "valid", "validation"):
        source = load_source("folder", split, place)
        assert (images_of(source), source.split, source.class_names) == ([1], folder, ())


def test_split_whose_images_lie_in_no_classes_has_none(tmp_path):
    place = filled(tmp_path, ("train/cat/1.png", "train/owl/1.png", "test/1.png"))
    test, train = load_source("folder", "test", place), load_source("folder", "train", place)
    assert (images_of(test), test.class_names, everything(test)[1]) == ([2], (), [0])
    assert train.class_names == ("cat", "owl")


@pytest.mark.parametrize(
    ("folders", "asked"),
    [
        (("Train", "Valid", "Test"), {"train": "Train", "val": "Valid", "validation": "Valid", "test": "Test"}),
        (("training", "validation", "testing"), {"train": "training", "valid": "validation", "test": "testing"}),
        (("train", "eval", "test"), {"training": "train", "eval": "eval", "test": "test", "testing": "eval"}),
        (("TRAIN", "evaluation"), {"train": "TRAIN", "test": "evaluation", "evaluation": "evaluation"}),
        (("val", "test"), {"valid": "val", "test": "test"}),
        (("train",), {"train": "train", "Train": "train"}),
    ],
)
def test_splits_go_by_their_other_names_in_letters_of_any_case(tmp_path, folders, asked):
    place = filled(tmp_path, [f"{folder}/{bird}/1.png" for folder in folders for bird in ("emu", "owl")])
    for split, folder in asked.items():
        source, first = load_source("folder", split, place), 2 * folders.index(folder)
        assert (source.split, images_of(source), source.class_names) == (folder, [first, first + 1], ("emu", "owl"))
        assert set(source.splits) == set(folders)


def test_folders_for_testing_alone_are_not_trained_on(tmp_path):
    with pytest.raises(InvalidInput, match=r"unknown split of .* 'train': expected one of val, test\."):
        load_source("folder", "train", filled(tmp_path, ("test/1.png", "val/1.png")))


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("train/1.png", "test/1.png", "extra/1.png"), "{place} holds test, train beside extra: splits must be all"),
        (("Training/1.png", "Eval/1.png", "a/1.png"), "{place} holds Eval, Training beside a: .* are really called so, rename"),
        (("cifar/train/owl/1.png", "cifar/test/owl/1.png"), "{place}/cifar holds test, train: .*Name that folder"),
        (
            ("owl/train/1.png", "owl/val/1.png", "owl/1.png", "emu/1.png"),
            "{place}/owl holds train, val: .*must be in them",
        ),
    ],
)
def test_splits_that_would_be_taken_for_classes_are_refused(tmp_path, names, message):
    with pytest.raises(InvalidInput, match=message.format(place=tmp_path)):
        load_source("folder", "train", filled(tmp_path, names))


def test_folders_of_other_names_are_classes_and_any_split_is_all_of_them(tmp_path):
    for names in (("train/1.png", "plane/1.png"), ("val/1.png", "owl/1.png"), ("trained/1.png",), ("owl/train/1.png",)):
        place = filled(tmp_path / names[0].replace("/", "_"), names)
        source = load_source("folder", "whatever", place)
        assert (len(source), source.split, source.splits) == (len(names), "", {})
        assert source.class_names == tuple(sorted(name.partition("/")[0] for name in names))


def test_split_that_is_not_there_and_images_beside_the_classes_of_one_are_refused(tmp_path):
    place = filled(tmp_path, ("train/1.png", "train/2.png", "train/cats/1.png", "test/cats/1.png"))
    with pytest.raises(InvalidInput, match=r"unknown split of .* 'tets': expected one of train, test\. Did you mean 'test'\?"):
        load_source("folder", "tets", place)
    with pytest.raises(InvalidInput, match="'val': expected one of train, test"):
        load_source("folder", "val", place)
    with pytest.raises(InvalidInput, match=r"/train holds 2 images beside its subfolders \(cats, …\)"):
        load_source("folder", "train", place)
    assert len(load_source("folder", "test", place)) == 1


# Zips.


def packed(path, contents, **options):
    with zipfile.ZipFile(path, "w", **options) as archive:
        for name, content in contents.items():
            archive.writestr(name, content if isinstance(content, bytes) else png(content.squeeze()).getvalue())
    return str(path)


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA])
@pytest.mark.parametrize("outer", ["", "photos/", "my/photos/"])
def test_zip_is_read_as_what_was_packed_into_it(tmp_path, compression, outer):
    images = {name: noise(3, 4, 3, seed=seed) for seed, name in enumerate(("owl/2.png", "emu/1.png", "owl/1.png"))}
    left_behind = {
        f"__MACOSX/{outer}owl/._2.png": b"",
        f"{outer}owl/": b"",
        f"{outer}.DS_Store": b"",
        f"{outer}read me.txt": b"",
    }
    contents = {f"{outer}{name}": image for name, image in images.items()}
    source = load_source("folder", "train", packed(tmp_path / "a.zip", contents | left_behind, compression=compression))
    found, labels = everything(source)
    assert (source.class_names, labels) == (("emu", "owl"), [0, 1, 1])
    for image, name in zip(found, ("emu/1.png", "owl/1.png", "owl/2.png"), strict=True):
        np.testing.assert_array_equal(image, images[name])


def test_zip_packed_with_the_separators_of_windows_has_its_folders(tmp_path):
    images = {"photos\\cat\\1.png": noise(2, 2, 3), "photos\\owl\\1.png": noise(3, 3, 3)}
    source = load_source("folder", "train", packed(tmp_path / "a.zip", images))
    assert (source.class_names, everything(source)[1]) == (("cat", "owl"), [0, 1])
    assert [image.shape for image in everything(source)[0]] == [(2, 2, 3), (3, 3, 3)]


def test_zip_of_one_folder_of_images_has_no_classes_and_one_of_splits_has_them(tmp_path):
    place = packed(tmp_path / "flat.zip", {"photos/1.png": noise(2, 2, 3), "photos/2.png": noise(2, 2, 1)})
    assert (len(load_source("folder", "train", place)), load_source("folder", "train", place).class_names) == (2, ())
    names = ("all/train/cat/1.png", "all/train/owl/1.png", "all/Testing/owl/1.png")
    test = load_source("folder", "test", packed(tmp_path / "splits.zip", {name: noise(2, 2, 3) for name in names}))
    assert (len(test), test.splits, test.class_names, test[0]["label"]) == (1, {"train": 2, "Testing": 1}, ("cat", "owl"), 1)
    only = load_source("folder", "train", packed(tmp_path / "only.zip", {"Train/cat/1.png": noise(2, 2, 3)}))
    assert (only.splits, only.class_names) == ({"Train": 1}, ("cat",))


@pytest.mark.parametrize("kind", ["cut off", "text", "empty", "without images"])
def test_zip_that_is_damaged_or_has_no_images_is_refused(tmp_path, kind):
    path = tmp_path / "wrong.zip"
    packed(path, {"notes.txt": b"nothing"} if kind == "without images" else {"1.png": noise(9, 9, 3), "2.png": noise(9, 9, 3)})
    whole = path.read_bytes()
    path.write_bytes({"cut off": whole[: len(whole) // 2], "text": b"a text", "empty": b""}.get(kind, whole))
    message = (
        r"no images in .*wrong\.zip" if kind == "without images" else r"wrong\.zip is no folder, and cannot be read as a zip"
    )
    with pytest.raises(InvalidInput, match=message):
        load_source("folder", "train", str(path))


def test_damaged_image_in_a_zip_is_told_by_its_name(tmp_path):
    contents = {"a/1.png": noise(2, 2, 3), "a/2.png": b"text", "b/3.png": noise(2, 2, 3)}
    path = packed(tmp_path / "some.zip", contents)
    stored = (tmp_path / "some.zip").read_bytes()
    start = stored.rindex(png(contents["b/3.png"]).getvalue())  # whose checksum will not be what the zip says
    (tmp_path / "some.zip").write_bytes(stored[: start + 20] + b"damage" + stored[start + 26 :])
    source = load_source("folder", "train", path)
    assert source[0]["image"].shape == (2, 2, 3)
    with pytest.raises(DamagedImage, match=r"some\.zip/a/2\.png cannot be read as an image: it begins as none"):
        source[1]
    with pytest.raises(DamagedImage, match=r"some\.zip/b/3\.png cannot be read as an image: Bad CRC-32"):
        source[2]


def test_threads_read_a_zip_at_once(tmp_path):
    images = [noise(16, 16, 3, seed=seed) for seed in range(40)]
    place = packed(tmp_path / "a.zip", {f"{number:02}.png": image for number, image in enumerate(images)})
    source, together = load_source("folder", "train", place), threading.Barrier(8)

    def read(_):
        together.wait()
        return [source[number]["image"] for number in range(len(source))]

    with ThreadPoolExecutor(8) as pool:
        for found in pool.map(read, range(8)):
            np.testing.assert_array_equal(found, images)
