"""Sets of the Hugging Face hub, by a stand-in for the library; parity/test_hugging_face.py does it with the real one."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest

from jax_ddpm.data.sources.columns import Columns
from jax_ddpm.data.sources.load import load_source
from jax_ddpm.data.sources.source import DamagedImage
from jax_ddpm.errors import InvalidInput
from tests.data.sources.library import PICTURES, ClassLabel, Image, table
from tests.data.sources.made import everything, write


@pytest.fixture
def library(monkeypatch):
    """The stand-in; `asked` says what was loaded how, `loaded` is what it gives."""
    made = SimpleNamespace(Image=Image, ClassLabel=ClassLabel, asked=[], loaded=table())

    def load_dataset(path, configuration, *, split, cache_dir):
        made.asked.append((path, configuration, split, cache_dir))
        if isinstance(made.loaded, Exception):
            raise made.loaded
        return made.loaded

    def load_from_disk(path):
        made.asked.append(path)
        return made.loaded

    made.load_dataset, made.load_from_disk = load_dataset, load_from_disk
    monkeypatch.setitem(sys.modules, "datasets", made)
    return made


def test_set_of_the_hub_has_its_images_labels_and_what_is_known_of_it(library):
    library.loaded = table(splits={"train": SimpleNamespace(num_examples=4), "test": None}, licence="mit")
    source = load_source("hf:somebody/birds", "train[:4]+test")
    images, labels = everything(source)
    np.testing.assert_array_equal(images, PICTURES)
    assert (labels, source.class_names) == ([1, 0, 1, 0], ("cat", "owl"))
    assert (source.name, source.split, source.splits) == ("hf:somebody/birds", "train[:4]+test", {"train": 4, "test": None})
    assert (source.shape, source.licence) == (None, "mit")
    assert library.asked == [("somebody/birds", None, "train[:4]+test", None)]


def test_configuration_and_place_are_passed_on(library, tmp_path):
    load_source("hf:somebody/birds:large", "train", "/somewhere")
    load_source(f"hf:{tmp_path}", "test")
    assert library.asked == [("somebody/birds", "large", "train", "/somewhere"), (str(tmp_path), None, "test", None)]


def test_the_only_column_of_its_kind_will_do_where_it_has_no_usual_name(library):
    library.loaded = table(image="picture")
    del library.loaded.features["label"]
    source = load_source("hf:birds", "train")
    np.testing.assert_array_equal(everything(source)[0], PICTURES)
    assert source.class_names == ("x", "y", "z")


def test_another_column_can_be_asked_for(library):
    assert load_source("hf:birds", "train", columns=Columns(label="fine")).class_names == ("x", "y", "z")
    with pytest.raises(InvalidInput, match="unknown label column of hf:birds 'fin': expected one of fine, label"):
        load_source("hf:birds", "train", columns=Columns(label="fin"))


def test_of_several_columns_without_a_usual_name_none_is_guessed(library):
    library.loaded.features["coarse"] = library.loaded.features.pop("label")
    with pytest.raises(
        InvalidInput, match=r"'hf:birds' has several label columns, fine, coarse: say which .*label_column=fine"
    ):
        load_source("hf:birds", "train")


@pytest.mark.parametrize("labels", [(-1,) * 4, (None, 1, 1, 0)])
def test_set_without_labels_has_no_classes(library, labels):
    library.loaded = table(labels=labels)
    unlabelled = load_source("hf:birds", "test")
    assert (unlabelled.class_names, everything(unlabelled)[1]) == ((), [0] * 4)
    library.loaded = table()
    del library.loaded.features["label"], library.loaded.features["fine"]
    assert (load_source("hf:birds", "test").class_names, load_source("hf:birds", "test")[0]["label"]) == ((), 0)


def test_folder_that_save_to_disk_made_is_one_split_or_several(library, tmp_path):
    (tmp_path / "state.json").write_text("{}")
    assert (load_source(f"hf:{tmp_path}", "whatever").split, library.asked) == ("", [str(tmp_path)])
    (tmp_path / "state.json").rename(tmp_path / "dataset_dict.json")
    library.loaded = {"train": table(), "test": table(2)}
    source = load_source(f"hf:{tmp_path}", "test")
    assert (len(source), source.split, source.splits) == (2, "test", {"train": 4, "test": 2})
    with pytest.raises(
        InvalidInput, match=r"unknown split of hf:.* 'tets': expected one of train, test\. Did you mean 'test'\?"
    ):
        load_source(f"hf:{tmp_path}", "tets")


def test_images_may_lie_in_files_and_damaged_ones_are_told_by_their_numbers(library, tmp_path):
    write(tmp_path / "a.png", PICTURES[0])
    library.loaded.columns["image"][0] = {"bytes": None, "path": str(tmp_path / "a.png")}
    library.loaded.columns["image"][1] = {"bytes": b"text", "path": None}
    library.loaded.columns["image"][2] = None
    source = load_source("hf:birds", "train")
    np.testing.assert_array_equal(source[0]["image"], PICTURES[0])
    for number in (1, 2):
        with pytest.raises(DamagedImage, match=rf"image {number} of hf:birds \(train\) cannot be read as an image"):
            source[number]


def test_set_that_cannot_be_had_or_has_no_images_is_told(library):
    with pytest.raises(InvalidInput, match="data set 'hf:' has no name: expected one on the hub"):
        load_source("hf:", "train")
    del library.loaded.features["image"]
    with pytest.raises(InvalidInput, match="data set 'hf:birds' has no column of images: its columns are text, fine, label"):
        load_source("hf:birds", "train")
    library.loaded = ConnectionError("Couldn't reach the Hub")
    with pytest.raises(InvalidInput, match="data set 'hf:birds': Couldn't reach the Hub"):
        load_source("hf:birds", "train")


def test_library_that_is_not_installed_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(InvalidInput, match="read by the library datasets: pip install datasets"):
        load_source("hf:birds", "train")
