"""Any image set of the Hugging Face hub, or in the formats that the library `datasets` reads."""

import importlib
import io
from pathlib import Path
from typing import Any

import numpy as np

from jax_ddpm.data.sources.columns import USUAL, Columns, image_column, label_column
from jax_ddpm.data.sources.image_files import read_image
from jax_ddpm.data.sources.source import Example, Source, told_as_damaged
from jax_ddpm.errors import InvalidInput, choose

PREFIX = "hf:"  # what the names of these sets begin with


def hugging_face(name: str, split: str, directory: str = "", columns: Columns = USUAL) -> Source:
    """An image set by the library `datasets`, which alone needs to be installed for it.

    Where a split has labels of none (-1), it has no classes.

    Args:
      name: "hf:" and a name on the hub, "hf:ylecun/mnist", with a configuration "hf:USER/SET:CONFIGURATION"; or a folder, be it
        one that `save_to_disk` made or of files that `load_dataset` knows: "hf:path/to/folder".
      split: also a part or several, "train[:10%]+test".
      directory: where sets are kept ("" is the library's own default).
      columns: of the images and of the classes; see `Columns`.
    Raises:
      InvalidInput: the library is not installed, there is no such set or split, it cannot be had, it has no images, or several
        columns of them or of classes.
    """
    datasets = _library()
    dataset, splits = _open(datasets, name, split, directory)
    features = dataset.features
    image = image_column(name, features, datasets.Image, columns.image)
    label = label_column(name, features, datasets.ClassLabel, columns.label)
    labels = np.array([-1 if each is None else each for each in dataset[label][:]] if label else [-1], np.int64)
    has_classes = labels.min(initial=0) >= 0
    rows = dataset.select_columns([image]).cast_column(image, datasets.Image(decode=False))  # read as every other file is

    def read(index: int) -> Example:
        what = f"image {index} of {name} ({split})"
        with told_as_damaged(what):
            stored = rows[index][image]
            file = Path(stored["path"]) if stored["bytes"] is None else io.BytesIO(stored["bytes"])
            return {"image": read_image(file, what), "label": int(labels[index]) if has_classes else 0}

    class_names = tuple(features[label].names) if label and has_classes else ()
    licence = str(getattr(dataset.info, "license", "") or "not known")
    return Source(name, len(dataset), read, class_names, split if splits else "", splits, licence=licence)


def _library() -> Any:
    try:
        return importlib.import_module("datasets")
    except ModuleNotFoundError as error:
        raise InvalidInput(
            f"sets of the Hugging Face hub are read by the library datasets: pip install datasets ({error})"
        ) from error


def _open(datasets: Any, name: str, split: str, directory: str) -> tuple[Any, dict[str, int | None]]:
    """The set, giving plain values, and the splits that there are, each with its size, as far as that is known."""
    where = name.removeprefix(PREFIX)
    if not where:
        raise InvalidInput(f"data set {name!r} has no name: expected one on the hub, {PREFIX}ylecun/mnist, or {PREFIX}FOLDER")
    folder = Path(where).expanduser()
    try:
        if any((folder / file).is_file() for file in ("dataset_dict.json", "state.json")):
            dataset, splits = _saved(datasets, folder, name, split)
        else:
            path, configuration = (str(folder), "") if folder.is_dir() else where.partition(":")[::2]
            dataset = datasets.load_dataset(path, configuration or None, split=split, cache_dir=directory or None)
            splits = {each: getattr(info, "num_examples", None) for each, info in (dataset.info.splits or {}).items()}
    except InvalidInput:
        raise
    except Exception as error:  # of the network, of the hub, of any format of files
        raise InvalidInput(f"data set {name!r}: {str(error) or type(error).__name__}") from error
    return dataset.with_format(None), splits


def _saved(datasets: Any, folder: Path, name: str, split: str) -> tuple[Any, dict[str, int | None]]:
    """What `save_to_disk` made: a set of splits, or a single one, of which `split` says nothing."""
    saved = datasets.load_from_disk(str(folder))
    if not isinstance(saved, dict):
        return saved, {}
    return choose(f"split of {name}", split, saved), {each: len(part) for each, part in saved.items()}
