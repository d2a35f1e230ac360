"""Any image set of TensorFlow Datasets, read without TensorFlow."""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from jax_ddpm.data.sources.source import Example, Source, told_as_damaged
from jax_ddpm.errors import InvalidInput, did_you_mean


def tensorflow_dataset(name: str, split: str, directory: str = "", besides: Sequence[str] = ()) -> Source:
    """An image set of TensorFlow Datasets, read without TensorFlow from a prepared folder.

    Args:
      besides: what else the name might have been meant to be, for the message.
    Raises:
      InvalidInput: an unknown name or split, a set without images, or one that is not prepared; the message has the command.
    """
    import tensorflow_datasets as tfds

    try:
        builder = tfds.builder(name, data_dir=directory or None)
    except tfds.core.DatasetNotFoundError as error:
        known = [*besides, *tfds.list_builders(with_community_datasets=False)]
        raise InvalidInput(
            f"unknown data set {name!r}: expected {''.join(f'{other}, ' for other in besides)}or a name from the catalogue of "
            f"TensorFlow Datasets.{did_you_mean(name, known)}"
        ) from error
    except (AssertionError, ValueError) as error:  # no such version or configuration, or no name at all
        raise InvalidInput(f"data set {name!r}: {error}") from error
    if not builder.is_prepared():
        raise InvalidInput(_how_to_prepare(name, builder, "is not prepared", "."))
    features, splits = builder.info.features, builder.info.splits
    if "image" not in features:
        raise InvalidInput(f"data set {name!r} has no images: its features are {', '.join(features)}")
    _check_images(name, features["image"])
    try:
        examples: Sequence[Any] = builder.as_data_source(split)
        size = len(examples)
    except NotImplementedError as error:
        raise InvalidInput(_how_to_prepare(name, builder, "is prepared, but not as array_record,", "array_record")) from error
    except ValueError as error:
        wrong = next((part for part in re.split(r"\+|\[.*?\]", split) if part and part not in splits), split)
        raise InvalidInput(
            f"unknown split of {name} {split!r}: expected one of {', '.join(splits)}, or parts of them as in train[:90%]+test."
            f"{did_you_mean(wrong, splits)}"
        ) from error
    names = tuple(getattr(features["label"], "names", None) or ()) if "label" in features else ()

    def read(index: int) -> Example:
        with told_as_damaged(f"image {index} of {name} ({split})"):
            example = examples[index]
        return {"image": example["image"], "label": int(example["label"]) if names else 0}

    shape = None if None in features["image"].shape else features["image"].shape
    licence = builder.info.redistribution_info.license.strip().partition("\n")[0]
    sizes = {each: info.num_examples for each, info in splits.items()}
    return Source(name, size, read, names, split, sizes, shape, licence or "not known")


def _check_images(name: str, feature: Any) -> None:
    """Raises InvalidInput where they are neither grey nor RGB of eight bits."""
    if feature.np_dtype != np.uint8 or feature.shape[-1] not in (1, 3):
        raise InvalidInput(
            f"data set {name!r} has images of {feature.shape[-1]} channels and type {np.dtype(feature.np_dtype)}: "
            "expected 1 or 3 channels of uint8"
        )


def _how_to_prepare(name: str, builder: Any, state: str, beside: str) -> str:
    """What to do; `beside` is where to prepare it, seen from where it was looked for."""
    root = builder.data_path.parents[2 if builder.builder_config else 1] / beside
    prepare = f"tfds.builder({name!r}, data_dir={str(root)!r}, file_format='array_record').download_and_prepare()"
    return (
        f"data set {name!r} {state} in {builder.data_path}. Prepare it once; this alone needs TensorFlow, in any environment:\n"
        "  pip install tensorflow-cpu tensorflow-datasets array-record importlib_resources\n"
        f'  python -c "import tensorflow_datasets as tfds; {prepare}"\n'
        f"then name the folder in which it is: --config.data.directory={root}"
    )
