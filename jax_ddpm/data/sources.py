"""Where images come from. Each source is a random-access sequence of {"image": [H, W, C] uint8, "label": int}."""

import dataclasses
import gzip
import math
import re
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
from PIL import Image, ImageOps

from jax_ddpm.errors import InvalidInput, choose, did_you_mean

IMAGE_SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")

FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")  # where Debian's package dataset-fashion-mnist puts its files
FASHION_NAMES = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
FASHION_FILES = {"train": "train", "test": "t10k"}  # what the names of a split's two files begin with


class Example(TypedDict):
    """One image and its label; the label is 0 where a source has none."""

    image: np.ndarray
    label: int


@dataclasses.dataclass(frozen=True)
class Source:
    """A sequence of examples.

    Attributes:
      name: as in the config.
      size: how many examples there are.
      read: number -> example.
      class_names: by label; empty where the images have no labels.
    """

    name: str
    size: int
    read: Callable[[int], Example]
    class_names: tuple[str, ...] = ()

    def __len__(self) -> int:
        """How many examples there are."""
        return self.size

    def __getitem__(self, index: Any) -> Example:
        """Example `index`, 0 ≤ index < len."""
        return self.read(int(index))


def load_source(name: str, split: str, directory: str = "") -> Source:
    """A source by name.

    Args:
      name: "digits", "fashion_mnist", "folder", or any image set of TensorFlow Datasets: "cifar10", "mnist", …
      split: "train", "test", and for TensorFlow Datasets whatever its split language says, "train[:90%]".
      directory: for a folder or Fashion-MNIST's files, where they are; for TensorFlow Datasets, where sets are prepared ("" is
        its own default).
    Raises:
      InvalidInput: there is no such data set, or it is not here; the message says how to get it.
    """
    if name == "digits":
        return digits(split)
    if name == "fashion_mnist":
        return fashion_mnist(split, directory)
    if name == "folder":
        return image_folder(directory)
    return tensorflow_dataset(name, split, directory)


def digits(split: str) -> Source:
    """scikit-learn's 1,797 handwritten digits, grey, 8×8, ten classes.

    Split by a fixed shuffle into "train" (1,500) and "test" (297); "all" is both.
    """
    from sklearn.datasets import load_digits

    order = np.random.default_rng(0).permutation(1797)
    chosen = choose("split of digits", split, {"train": order[:1500], "test": order[1500:], "all": order})
    bunch = load_digits()
    images = np.rint(bunch.images[chosen] * (255 / 16)).astype(np.uint8)[..., None]
    labels = bunch.target[chosen]
    names = tuple(str(name) for name in bunch.target_names)
    return Source("digits", len(images), lambda i: {"image": images[i], "label": int(labels[i])}, names)


def fashion_mnist(split: str, directory: str = "") -> Source:
    """Zalando's 70,000 pictures of clothes (Xiao, Rasul & Vollgraf 2017), grey, ten classes: "train" (60,000), "test" (10,000).

    They are 28×28. Two black pixels on every side make them 32×32, which halves more often; at that image size no
    pixel is resampled.

    Read from the four IDX files in which they are published, gzipped or unpacked, in `directory` or, where none is given, where
    Debian puts them. If they are not there, from TensorFlow Datasets.

    Raises:
      InvalidInput: another split, files that are missing or damaged, or no files and no prepared set; the message says how to
        get either.
    """
    folder = Path(directory).expanduser() if directory else FASHION_MNIST
    if any(folder.glob("*-idx?-ubyte*")):
        source = _fashion_files(folder, choose("split of fashion_mnist", split, FASHION_FILES))
    else:
        try:
            source = tensorflow_dataset("fashion_mnist", split, directory)
        except InvalidInput as error:
            raise InvalidInput(f"{error}\n{_NO_FASHION_FILES}") from error

    def padded(index: int) -> Example:
        example = source.read(index)
        return {**example, "image": np.pad(example["image"], ((2, 2), (2, 2), (0, 0)))}

    return dataclasses.replace(source, read=padded)


_NO_FASHION_FILES = (
    "Or have its four files, train-images-idx3-ubyte.gz and so on, which need no preparing: on Debian\n"
    "  apt-get install dataset-fashion-mnist\n"
    "elsewhere from https://github.com/zalandoresearch/fashion-mnist, with --config.data.directory=FOLDER"
)


def _fashion_files(folder: Path, begin: str) -> Source:
    """The 28×28 images of the two files whose names begin so."""

    def find(name: str) -> Path:
        for path in (folder / name, folder / f"{name}.gz"):
            if path.is_file():
                return path
        raise InvalidInput(f"no {name} or {name}.gz in {folder.absolute()}, where other files of fashion_mnist are")

    of_images, of_labels = find(f"{begin}-images-idx3-ubyte"), find(f"{begin}-labels-idx1-ubyte")
    images, labels = read_idx(of_images, 3), read_idx(of_labels, 1)
    if images.shape[1:] != (28, 28):
        raise InvalidInput(f"{of_images} holds images of {images.shape[1]}×{images.shape[2]}: those of fashion_mnist are 28×28")
    if len(images) != len(labels):
        raise InvalidInput(f"{of_images} holds {len(images):,} images, {of_labels} {len(labels):,} labels: expected as many")
    if labels.max(initial=0) >= len(FASHION_NAMES):
        raise InvalidInput(f"{of_labels} holds a label {labels.max()}: those of fashion_mnist are 0..{len(FASHION_NAMES) - 1}")

    def read(index: int) -> Example:
        return {"image": images[index, :, :, None], "label": int(labels[index])}

    return Source("fashion_mnist", len(images), read, FASHION_NAMES)


def read_idx(path: Path, dimensions: int) -> np.ndarray:
    """An IDX file of bytes, gzipped if its name ends in .gz, as a uint8 array.

    The bytes 0, 0, 8 (the values are unsigned bytes) and the number of dimensions; then the length of each dimension as a
    big-endian 32-bit number; then the values, those of the last dimension side by side.    (LeCun, Cortes & Burges: MNIST)

    Raises:
      InvalidInput: the file is something else, or cut short; the message names it.
    """
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
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


def image_folder(directory: str) -> Source:
    """The images in a folder; where they lie in subfolders, each subfolder is a class (in the order of their names).

    Names that begin with a dot or with two underscores are passed over: systems and archivers leave such things behind.

    Raises:
      InvalidInput: no folder, no images, or images both beside the subfolders and in them.
    """
    if not directory:
        raise InvalidInput("no folder given: say where the images are, --config.data.directory=PATH")
    root = Path(directory).expanduser()
    if not root.is_dir():
        raise InvalidInput(f"no folder at {root.absolute()}: --config.data.directory must name one that holds images")
    files = sorted(path for path in root.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file())
    files = [path for path in files if not any(part.startswith((".", "__")) for part in path.relative_to(root).parts)]
    if not files:
        raise InvalidInput(f"no images in {root.absolute()}: looked, in subfolders too, for {', '.join(IMAGE_SUFFIXES)}")
    folders = [path.relative_to(root).parts[0] if path.parent != root else None for path in files]
    names = sorted({folder for folder in folders if folder is not None})
    if names and None in folders:
        raise InvalidInput(
            f"{root.absolute()} holds {folders.count(None)} images beside its subfolders ({', '.join(names[:5])}, …): "
            "put every image into a subfolder, one a class, or none"
        )
    labels = [names.index(folder) if folder is not None else 0 for folder in folders]
    return Source("folder", len(files), lambda i: {"image": read_image(files[i]), "label": labels[i]}, tuple(names))


def read_image(path: Path) -> np.ndarray:
    """An image file, upright, as [H, W, 1 or 3] uint8; what is transparent becomes white.

    Raises:
      InvalidInput: the file cannot be read as an image; the message names it.
    """
    try:
        with Image.open(path) as file:
            picture = ImageOps.exif_transpose(file)
            if picture.mode.startswith("I;16"):
                picture = Image.fromarray((np.asarray(picture) // 257).astype(np.uint8))
            if picture.mode in ("I", "F"):
                raise InvalidInput(f"{path} has pixels of mode {picture.mode}, 32 bits each: expected 8 or 16 bits")
            if picture.has_transparency_data:
                picture = picture.convert("RGBA")
                picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
            image = np.asarray(picture.convert("L" if picture.mode in ("1", "L") else "RGB"))
    except InvalidInput:
        raise
    except (OSError, SyntaxError, ValueError) as error:
        raise InvalidInput(f"{path} cannot be read as an image: {error}") from error
    return image if image.ndim == 3 else image[..., None]


def tensorflow_dataset(name: str, split: str, directory: str = "") -> Source:
    """An image set of TensorFlow Datasets, read without TensorFlow from a prepared folder.

    Raises:
      InvalidInput: an unknown name or split, a set without images, or one that is not prepared; the message has the command.
    """
    import tensorflow_datasets as tfds

    try:
        builder = tfds.builder(name, data_dir=directory or None)
    except tfds.core.DatasetNotFoundError as error:
        known = ["digits", "folder", *tfds.list_builders(with_community_datasets=False)]
        raise InvalidInput(
            f"unknown data set {name!r}: expected digits, folder, or a name from the catalogue of TensorFlow Datasets."
            f"{did_you_mean(name, known)}"
        ) from error
    except (AssertionError, ValueError) as error:  # no such version or configuration, or no name at all
        raise InvalidInput(f"data set {name!r}: {error}") from error
    if not builder.is_prepared():
        raise InvalidInput(_how_to_prepare(name, builder, "is not prepared", "."))
    features, splits = builder.info.features, builder.info.splits
    if "image" not in features:
        raise InvalidInput(f"data set {name!r} has no images: its features are {', '.join(features)}")
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
    names = tuple(features["label"].names) if "label" in features else ()

    def read(index: int) -> Example:
        example = examples[index]
        return {"image": example["image"], "label": int(example.get("label", 0))}

    return Source(name, size, read, names)


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
