"""What all sources have in common, one by one."""

import json
import sys
from types import SimpleNamespace
from typing import NamedTuple

import grain
import numpy as np
import pytest

from jax_ddpm.data.sources.emoji import EMOJI_NAMES
from jax_ddpm.data.sources.load import SOURCES, load_source
from tests.data.sources import library
from tests.data.sources.made import clothes, noise, write


class Expected(NamedTuple):
    size: int
    classes: int
    split: str
    splits: dict[str, int | None]
    shape: tuple[int, int, int] | None
    licence: str


EMOJI = {"train": 18, "test": 2, "all": 20, "train+skin_tones": 18}
EXPECTED = {
    "digits": Expected(1500, 10, "train", {"train": 1500, "test": 297, "all": 1797}, (8, 8, 1), "BSD-3-Clause"),
    "fashion_mnist": Expected(12, 10, "train", {"train": 12, "test": 5}, (32, 32, 1), "MIT"),
    "emoji": Expected(18, 10, "train", EMOJI, (64, 64, 3), "Apache-2.0"),
    "folder": Expected(2, 2, "train", {"train": 2, "test": 1}, None, "not known"),
    "arrays": Expected(3, 0, "", {}, (4, 5, 3), "not known"),
    "cifar10": Expected(20, 10, "train", {"train": 20, "test": 6}, (32, 32, 3), "not known"),
    "hf:birds": Expected(4, 2, "train", {"train": None, "test": None}, None, "cc0"),
}


def place(name: str, folder, prepared) -> str:
    """Makes the set and says where it is."""
    if name == "fashion_mnist":
        clothes(folder)
    elif name == "emoji":
        entries = [{"unified": f"{n:02}", "image": f"{n}.png", "category": EMOJI_NAMES[n % 10]} for n in range(20)]
        (folder / "emoji.json").write_text(json.dumps(entries))
        for entry in entries:
            write(folder / "img" / "google" / "64" / entry["image"], noise(64, 64, 4))
    elif name == "folder":
        for number, file in enumerate(("train/cat/1.png", "train/owl/1.png", "test/owl/1.png")):
            write(folder / file, noise(3, 4 + number, 1 if number else 3))
    elif name == "arrays":
        np.save(folder / "a.npy", noise(3, 4, 5, 3))
        return str(folder / "a.npy")
    return {"cifar10": str(prepared), "digits": "", "hf:birds": ""}.get(name, str(folder))


def test_every_source_is_tried_here():
    assert set(SOURCES) == set(EXPECTED) - {"cifar10", "hf:birds"}


@pytest.mark.parametrize("name", EXPECTED)
def test_source_says_what_it_is_and_gives_examples_of_that(name, tmp_path, prepared, monkeypatch):
    birds = library.table(splits={"train": None, "test": None}, licence="cc0")
    datasets = SimpleNamespace(Image=library.Image, ClassLabel=library.ClassLabel, load_dataset=lambda *given, **named: birds)
    monkeypatch.setitem(sys.modules, "datasets", datasets)
    expected = EXPECTED[name]
    source = load_source(name, "train", place(name, tmp_path, prepared))
    assert (source.name, len(source), len(source.class_names)) == (name, expected.size, expected.classes)
    assert (source.split, source.splits, source.shape, source.licence) == expected[2:]
    given = grain.MapDataset.source(source)
    assert len(given) == expected.size
    for index in (0, len(source) - 1):
        np.testing.assert_array_equal(given[index]["image"], source[index]["image"])
        assert given[index]["label"] == source[index]["label"]
    for index in (0, np.int64(len(source) - 1)):
        example = source[index]
        image, label = example["image"], example["label"]
        assert (type(image), image.dtype, image.ndim, image.shape[-1] in (1, 3)) == (np.ndarray, np.uint8, 3, True)
        assert (type(label), 0 <= label < max(expected.classes, 1)) == (int, True)
        assert expected.shape in (None, image.shape)
        np.testing.assert_array_equal(source[index]["image"], image)
