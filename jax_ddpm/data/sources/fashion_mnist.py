"""Fashion-MNIST, from its IDX files or from TensorFlow Datasets."""

import dataclasses
import gzip
import math
import zlib
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np

from jax_ddpm.data.sources.source import Example, Source
from jax_ddpm.data.sources.tfds import tensorflow_dataset
from jax_ddpm.errors import InvalidInput, choose

FASHION_PLACES = (  # where its files are looked for
    Path("data/fashion_mnist"),  # `make data` puts them here
    Path("/usr/share/datasets/fashion-mnist"),  # Debian's package dataset-fashion-mnist
)
FASHION_NAMES = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
FASHION_FILES = {"train": "train", "test": "t10k"}  # what the names of a split's two files begin with


def fashion_mnist(split: str, directory: str = "") -> Source:
    """Zalando's 70,000 pictures of clothes (Xiao, Rasul & Vollgraf 2017), grey, ten classes: "train" (60,000), "test" (10,000).

    They are 28×28. Two black pixels on every side make them 32×32, which halves more often; at that image size no
    pixel is resampled.

    Read from the four IDX files in which they are published, gzipped or unpacked, in `directory` or, where none is given, the
    first of FASHION_PLACES that has any. If none are there, from TensorFlow Datasets.

    Raises:
      InvalidInput: another split, files that are missing or damaged, or no files and no prepared set; the message says how to
        get either.
    """
    places = [Path(directory).expanduser()] if directory else FASHION_PLACES
    folder = next((place for place in places if any(place.glob("*-idx?-ubyte*"))), None)
    if folder:
        source = _fashion_files(folder, split)
    else:
        try:
            source = tensorflow_dataset("fashion_mnist", split, directory)
        except InvalidInput as error:
            raise InvalidInput(f"{error}\n{_NO_FASHION_FILES}") from error

    def padded(index: int) -> Example:
        example = source.read(index)
        return {**example, "image": np.pad(example["image"], ((2, 2), (2, 2), (0, 0)))}

    return dataclasses.replace(source, read=padded, shape=(32, 32, 1), licence="MIT")


_NO_FASHION_FILES = (
    "Or have its four files, train-images-idx3-ubyte.gz and so on, which need no preparing: `make data` gets them; on Debian\n"
    "  apt-get install dataset-fashion-mnist\n"
    "does too, elsewhere they are at https://github.com/zalandoresearch/fashion-mnist, with --config.data.directory=FOLDER"
)


def _fashion_files(folder: Path, split: str) -> Source:
    """The 28×28 images of a split's two files."""
    begin = choose("split of fashion_mnist", split, FASHION_FILES)
    of_images, of_labels = _find(folder, f"{begin}-images-idx3-ubyte"), _find(folder, f"{begin}-labels-idx1-ubyte")
    images, labels = read_idx(of_images, 3), read_idx(of_labels, 1)
    if images.shape[1:] != (28, 28):
        raise InvalidInput(f"{of_images} holds images of {images.shape[1]}×{images.shape[2]}: those of fashion_mnist are 28×28")
    if len(images) != len(labels):
        raise InvalidInput(f"{of_images} holds {len(images):,} images, {of_labels} {len(labels):,} labels: expected as many")
    if labels.max(initial=0) >= len(FASHION_NAMES):
        raise InvalidInput(f"{of_labels} holds a label {labels.max()}: those of fashion_mnist are 0..{len(FASHION_NAMES) - 1}")

    def read(index: int) -> Example:
        return {"image": images[index, :, :, None], "label": int(labels[index])}

    sizes = {other: _said_size(folder, of_other) for other, of_other in FASHION_FILES.items()}
    return Source("fashion_mnist", len(images), read, FASHION_NAMES, split, sizes)


def _find(folder: Path, name: str) -> Path:
    """A file by its name, unpacked or gzipped."""
    for path in (folder / name, folder / f"{name}.gz"):
        if path.is_file():
            return path
    raise InvalidInput(f"no {name} or {name}.gz in {folder.absolute()}, where other files of fashion_mnist are")


def _said_size(folder: Path, begin: str) -> int | None:
    """How many labels a split's file says that it has; None where it says nothing, for it may be missing or damaged."""
    try:
        with _opened(_find(folder, f"{begin}-labels-idx1-ubyte")) as file:
            head = file.read(8)
    except (InvalidInput, OSError, EOFError, zlib.error):
        return None
    return int.from_bytes(head[4:]) if len(head) == 8 and head.startswith(bytes((0, 0, 8, 1))) else None


def _opened(path: Path) -> BinaryIO:
    return cast(BinaryIO, gzip.open(path)) if path.suffix == ".gz" else path.open("rb")


def read_idx(path: Path, dimensions: int) -> np.ndarray:
    """An IDX file of bytes, gzipped if its name ends in .gz, as a uint8 array.

    The bytes 0, 0, 8 (the values are unsigned bytes) and the number of dimensions; then the length of each dimension as a
    big-endian 32-bit number; then the values, those of the last dimension side by side.    (LeCun, Cortes & Burges: MNIST)

    Raises:
      InvalidInput: the file is something else, or cut short; the message names it.
    """
    try:
        with _opened(path) as file:
            head, values = file.read(4 + 4 * dimensions), file.read()
    except (OSError, EOFError, zlib.error) as error:
        raise InvalidInput(f"{path} cannot be read: {error}") from error
    magic = bytes((0, 0, 8, dimensions))
    if not head.startswith(magic):
        raise InvalidInput(
            f"{path} begins with the bytes {head[:4].hex(' ')}: an IDX file of bytes in {dimensions} dimensions begins with "
            f"{magic.hex(' ')}"
        )
    shape = [int.from_bytes(head[4 * i : 4 * i + 4], "big") for i in range(1, dimensions + 1)]
    given, expected = len(head) + len(values), 4 + 4 * dimensions + math.prod(shape)
    if given != expected:
        raise InvalidInput(f"{path} is cut short or damaged: it holds {given:,} bytes, by its own count {expected:,}")
    return np.frombuffer(values, np.uint8).reshape(shape)
