"""Any image set of TensorFlow Datasets, read without TensorFlow."""

import io
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from jax_ddpm.data.sources.columns import USUAL, Columns, image_column, label_column
from jax_ddpm.data.sources.image_files import read_image
from jax_ddpm.data.sources.source import Example, Shape, Source, told_as_damaged
from jax_ddpm.errors import InvalidInput, did_you_mean

CHANNELS = {1: 1, 2: 1, 3: 3, 4: 3}  # of what is read, by those that the set says that its images have: less transparency


def tensorflow_dataset(
    name: str, split: str, directory: str = "", columns: Columns = USUAL, besides: Sequence[str] = ()
) -> Source:
    """An image set of TensorFlow Datasets, read without TensorFlow from a prepared folder.

    Its images are the files that it was made of, and are read as all others are.

    Args:
      columns: of the images and of the classes; see `Columns`.
      besides: what else the name might have been meant to be, for the message.
    Raises:
      InvalidInput: an unknown name or split, a set that is not prepared (the message has the command), one without images, or
        with several columns of them or of classes.
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
    image = image_column(name, features, tfds.features.Image, columns.image)
    label = label_column(name, features, tfds.features.ClassLabel, columns.label)
    _check_images(name, features[image])
    undecoded = {each: tfds.decode.SkipDecoding() for each in features if isinstance(features[each], tfds.features.Image)}
    try:
        examples: Sequence[Any] = builder.as_data_source(split, decoders=undecoded)
        size = len(examples)
    except NotImplementedError as error:
        raise InvalidInput(_how_to_prepare(name, builder, "is prepared, but not as array_record,", "array_record")) from error
    except ValueError as error:
        wrong = next((part for part in re.split(r"\+|\[.*?\]", split) if part and part not in splits), split)
        raise InvalidInput(
            f"unknown split of {name} {split!r}: expected one of {', '.join(splits)}, or parts of them as in train[:90%]+test."
            f"{did_you_mean(wrong, splits)}"
        ) from error
    names = tuple(features[label].names) if label and features[label].num_classes else ()
    channels = CHANNELS.get(features[image].shape[-1])

    def read(index: int) -> Example:
        what = f"image {index} of {name} ({split})"
        with told_as_damaged(what):
            example = examples[index]
            found = _with_channels(read_image(io.BytesIO(example[image]), what), channels)
            return {"image": found, "label": int(example[label]) if names else 0}

    sizes = {each: info.num_examples for each, info in splits.items()}
    licence = builder.info.redistribution_info.license.strip().partition("\n")[0]
    return Source(name, size, read, names, split, sizes, _shape(features[image].shape, channels), licence or "not known")


def _check_images(name: str, feature: Any) -> None:
    """Raises InvalidInput where they are no image files, but numbers packed as such."""
    if feature.np_dtype not in (np.uint8, np.uint16):
        raise InvalidInput(
            f"data set {name!r} has images of type {np.dtype(feature.np_dtype)}: expected uint8 or uint16. Write them "
            "as uint8, 0..255, into an .npy file, which --config.data.name=arrays --config.data.directory=FILE.npy reads"
        )


def _shape(declared: tuple[int | None, ...], channels: int | None) -> Shape | None:
    """That of all images, where the set says that they have one; what has four dimensions is a film, of which one is read."""
    height, width = declared[-3:-1]
    return (height, width, channels) if height and width and channels else None


def _with_channels(image: np.ndarray, channels: int | None) -> np.ndarray:
    """An image of as many channels as the set says that it has, whatever its file has."""
    if channels in (None, image.shape[-1]):
        return image
    if channels == 3:
        return np.broadcast_to(image, (*image.shape[:2], 3))
    return np.asarray(Image.fromarray(image).convert("L"))[..., None]


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
