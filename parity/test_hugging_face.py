"""Sets that the library `datasets` wrote, read through it, against what was put into them."""

from concurrent.futures import ThreadPoolExecutor

import datasets
import numpy as np
import pytest
from PIL import Image

from jax_ddpm.data.sources.load import load_source
from jax_ddpm.errors import InvalidInput

NAMES = ["cat", "owl"]
IMAGES = np.random.default_rng(0).integers(0, 256, (6, 8, 9, 3), np.uint8)
LABELS = [1, 0, 0, 1, 0, 1]


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    """Nothing is asked of the network."""
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)


def table(count: int) -> datasets.Dataset:
    features = {"number": datasets.Value("int32"), "img": datasets.Image(), "label": datasets.ClassLabel(names=NAMES)}
    pictures = [Image.fromarray(image) for image in IMAGES[:count]]
    rows = {"number": list(range(count)), "img": pictures, "label": LABELS[:count]}
    return datasets.Dataset.from_dict(rows, features=datasets.Features(features))


def check(source, numbers, names=NAMES):
    assert len(source) == len(numbers)
    assert source.class_names == tuple(names)
    for index, number in enumerate(numbers):
        example = source[index]
        np.testing.assert_array_equal(example["image"], IMAGES[number])
        assert example["label"] == (LABELS[number] if names else 0)


def test_what_save_to_disk_made_is_read(tmp_path):
    datasets.DatasetDict({"train": table(6), "test": table(2)}).save_to_disk(str(tmp_path / "both"))
    table(3).with_format("numpy").save_to_disk(str(tmp_path / "one"))
    source = load_source(f"hf:{tmp_path / 'both'}", "test")
    check(source, range(2))
    assert (source.split, source.splits) == ("test", {"train": 6, "test": 2})
    check(load_source(f"hf:{tmp_path / 'one'}", "train"), range(3))
    with pytest.raises(InvalidInput, match=r"unknown split of .* 'tets': expected one of train, test"):
        load_source(f"hf:{tmp_path / 'both'}", "tets")


def test_folder_of_parquet_files_is_read_with_the_split_language(tmp_path):
    (tmp_path / "set").mkdir()
    for split, count in (("train", 6), ("test", 2)):
        table(count).to_parquet(str(tmp_path / "set" / f"{split}-00000-of-00001.parquet"))
    name, kept = f"hf:{tmp_path / 'set'}", str(tmp_path / "kept")
    source = load_source(name, "train[:50%]+test", kept)
    check(source, [0, 1, 2, 0, 1])
    assert (source.split, source.splits) == ("train[:50%]+test", {"train": 6, "test": 2})
    with pytest.raises(
        InvalidInput, match=r"""data set '.*set': Unknown split "tets"\. Should be one of \['train', 'test'\]"""
    ):
        load_source(name, "tets", kept)


def test_folder_of_image_files_is_read(tmp_path):
    for number, label in enumerate(LABELS):
        folder = tmp_path / "set" / "train" / NAMES[label]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(IMAGES[number]).save(folder / f"{number}.png")
    check(load_source(f"hf:{tmp_path / 'set'}", "train", str(tmp_path / "kept")), [1, 2, 4, 0, 3, 5])


def test_threads_read_a_set_at_once(tmp_path):
    table(6).save_to_disk(str(tmp_path))
    source = load_source(f"hf:{tmp_path}", "train")
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda index: source[index % 6]["image"], range(600)))
    np.testing.assert_array_equal(found, np.tile(IMAGES, (100, 1, 1, 1)))


def test_set_without_labels_has_no_classes(tmp_path):
    table(3).remove_columns(["label"]).save_to_disk(str(tmp_path / "set"))
    check(load_source(f"hf:{tmp_path / 'set'}", "train"), range(3), names=[])


def test_set_that_cannot_be_had_is_told():
    with pytest.raises(InvalidInput, match="data set 'hf:nobody/nothing': "):
        load_source("hf:nobody/nothing", "train")
