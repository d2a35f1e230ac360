"""Fashion-MNIST's four files, of a few images, written here."""

import gzip

import numpy as np
import pytest

from jax_ddpm.data.sources import fashion_mnist
from jax_ddpm.data.sources.load import load_source
from jax_ddpm.errors import InvalidInput
from tests.data.sources.made import CLOTHES, clothes, everything, idx, noise


@pytest.mark.parametrize("suffix", ["", ".gz"], ids=["unpacked", "gzipped"])
@pytest.mark.parametrize(("split", "begin"), [("train", "train"), ("test", "t10k")])
def test_fashion_mnist_is_its_files_with_two_black_pixels_all_round(tmp_path, suffix, split, begin):
    source = load_source("fashion_mnist", split, str(clothes(tmp_path, suffix)))
    images, labels = everything(source)
    expected, expected_labels = CLOTHES[begin]
    assert (source.name, len(source), labels) == ("fashion_mnist", len(expected), expected_labels.tolist())
    assert {type(label) for label in labels} == {int}
    assert len(source.class_names) == 10
    assert [source.class_names[label] for label in (0, 9)] == ["T-shirt/top", "Ankle boot"]
    assert {(image.shape, image.dtype.name) for image in images} == {((32, 32, 1), "uint8")}
    inside = np.stack(images)[:, 2:-2, 2:-2, 0]
    np.testing.assert_array_equal(inside, expected)
    assert np.sum(images) == np.sum(expected)  # so the rest is 0


def test_fashion_mnist_is_looked_for_where_it_is_put_unless_a_folder_is_given(tmp_path, monkeypatch):
    made, of_debian = fashion_mnist.FASHION_PLACES
    assert (str(made), str(of_debian)) == ("data/fashion_mnist", "/usr/share/datasets/fashion-mnist")
    (tmp_path / made).mkdir(parents=True)
    (tmp_path / "of_debian").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(fashion_mnist, "FASHION_PLACES", (made, clothes(tmp_path / "of_debian", ".gz")))
    assert len(load_source("fashion_mnist", "train")) == 12
    clothes(tmp_path / made)
    for file in ("images-idx3", "labels-idx1"):  # so that one can see that they are read
        values = CLOTHES["t10k"][file == "labels-idx1"]
        (tmp_path / made / f"train-{file}-ubyte").write_bytes(idx(values))
    assert len(load_source("fashion_mnist", "train")) == 5
    with pytest.raises(InvalidInput, match=r"'fashion_mnist' is not prepared in .*elsewhere"):
        load_source("fashion_mnist", "train", str(tmp_path / "elsewhere"))


def test_fashion_mnist_that_is_nowhere_is_told_with_both_ways_to_get_it(tmp_path):
    with pytest.raises(InvalidInput) as error:
        load_source("fashion_mnist", "train", str(tmp_path))
    message = str(error.value)
    assert "data set 'fashion_mnist' is not prepared in" in message
    assert "download_and_prepare()" in message
    assert "`make data`" in message
    assert "\n  apt-get install dataset-fashion-mnist\n" in message


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_the_size_of_the_other_split_is_told_where_its_file_says_it(tmp_path, suffix):
    place = clothes(tmp_path, suffix)
    assert load_source("fashion_mnist", "test", str(place)).splits == {"train": 12, "test": 5}
    labels = place / f"t10k-labels-idx1-ubyte{suffix}"
    for damaged in (labels.read_bytes()[:6], b"a text, no labels"):
        labels.write_bytes(damaged)
        assert load_source("fashion_mnist", "train", str(place)).splits == {"train": 12, "test": None}
    labels.unlink()
    assert load_source("fashion_mnist", "train", str(place)).splits == {"train": 12, "test": None}


def test_fashion_mnist_has_no_other_split(tmp_path):
    message = r"unknown split of fashion_mnist 'tests': expected one of train, test\. Did you mean 'test'\?"
    with pytest.raises(InvalidInput, match=message):
        load_source("fashion_mnist", "tests", str(clothes(tmp_path)))


IMAGE_FILE, LABEL_FILE = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        (LABEL_FILE, None, rf"no {LABEL_FILE} or {LABEL_FILE}\.gz in .*, where other files of fashion_mnist are"),
        (
            IMAGE_FILE,
            idx(noise(12)),
            rf"{IMAGE_FILE} begins with the bytes 00 00 08 01: .* 3 dimensions begins with 00 00 08 03",
        ),
        (LABEL_FILE, b"a text", rf"{LABEL_FILE} begins with the bytes 61 20 74 65: "),
        (LABEL_FILE, b"", rf"{LABEL_FILE} begins with the bytes : "),
        (IMAGE_FILE, idx(CLOTHES["train"][0])[:-1], "is cut short or damaged: it holds 9,423 bytes, by its own count 9,424"),
        (IMAGE_FILE, idx(CLOTHES["train"][0]) + b"0", "it holds 9,425 bytes, by its own count 9,424"),
        (IMAGE_FILE, idx(CLOTHES["train"][0])[:9], r"is cut short or damaged: it holds 9 bytes"),
        (IMAGE_FILE, idx(CLOTHES["train"][0])[:4], r"is cut short or damaged: it holds 4 bytes"),
        (IMAGE_FILE, idx(noise(12, 28, 27)), "holds images of 28×27: those of fashion_mnist are 28×28"),
        (LABEL_FILE, idx(noise(11) % 10), rf"{IMAGE_FILE} holds 12 images, .*{LABEL_FILE} 11 labels: expected as many"),
        (LABEL_FILE, idx(np.arange(12, dtype=np.uint8)), "holds a label 11: those of fashion_mnist are 0..9"),
    ],
)
def test_file_of_fashion_mnist_that_is_missing_or_damaged_is_told(tmp_path, file, content, message):
    clothes(tmp_path)
    if content is None:
        (tmp_path / file).unlink()
    else:
        (tmp_path / file).write_bytes(content)
    with pytest.raises(InvalidInput, match=message):
        load_source("fashion_mnist", "train", str(tmp_path))


@pytest.mark.parametrize("damage", ["cut off", "not gzip", "changed"])
def test_gzipped_file_that_cannot_be_unpacked_is_named(tmp_path, damage):
    path = clothes(tmp_path, ".gz") / f"{IMAGE_FILE}.gz"
    whole = path.read_bytes()
    changed = whole[:200] + bytes(100) + whole[300:]
    path.write_bytes({"cut off": whole[: len(whole) // 2], "not gzip": gzip.decompress(whole), "changed": changed}[damage])
    with pytest.raises(InvalidInput, match=rf"{IMAGE_FILE}\.gz cannot be read: "):
        load_source("fashion_mnist", "train", str(tmp_path))


def test_prepared_fashion_mnist_gives_what_its_files_give(prepared, tmp_path):
    from_files, as_prepared = (
        everything(load_source("fashion_mnist", "train", str(directory))) for directory in (clothes(tmp_path), prepared)
    )
    found = {image.tobytes(): label for image, label in zip(*as_prepared, strict=True)}
    assert found == {image.tobytes(): label for image, label in zip(*from_files, strict=True)}
    assert {image.shape for image in as_prepared[0]} == {(32, 32, 1)}
