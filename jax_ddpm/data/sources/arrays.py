"""Images that lie in one .npy or .npz file."""

import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jax_ddpm.data.sources.image_files import upper_bits
from jax_ddpm.data.sources.source import Example, Source
from jax_ddpm.errors import InvalidInput, choose

LAYOUTS: tuple[dict[str, tuple[str, str]], ...] = (  # by split, the names of the images and of their labels in an .npz file
    {"": ("arr_0", "arr_1")},  # guided-diffusion's samples, and our own
    {"": ("images", "labels")},
    {split: (f"x_{split}", f"y_{split}") for split in ("train", "test")},  # Keras
    {split: (f"{split}_images", f"{split}_labels") for split in ("train", "val", "test")},  # MedMNIST
)
LOOKED_AT = 16  # images of sixteen bits at the most, to see whether they use them
FEW, MANY = 1000, 100_000  # classes: so many may be named whatever the number of images, and more than so many never


def arrays(split: str, path: str) -> Source:
    """Images [N, H, W] or [N, H, W, 1 or 3] in a NumPy file, uint8, or uint16, of which the upper eight bits are kept.

    An .npy file is mapped into memory, not read as a whole. An .npz file may hold labels too, integers [N] or [N, 1] from 0 on,
    and splits; LAYOUTS says by what names. Classes are named by their numbers: those of all splits together. Where there are no
    splits, `split` counts for nothing.

    Raises:
      InvalidInput: no such file, or of another kind; arrays of other names, shapes or values; labels that are no numbers of
        classes; no such split.
    """
    if not path:
        raise InvalidInput("no file given: say where the images are, --config.data.directory=FILE.npz or FILE.npy")
    file = Path(path).expanduser().absolute()
    opened = _open(file)
    layout = _layout(file, opened)
    splits = tuple(name for name in layout if name)
    chosen = choose(f"split of {file}", split, {name: name for name in splits}) if splits else ""
    image_name, label_name = layout[chosen]
    images = _images(f"{image_name} in {file}", _array(file, opened, image_name))
    all_labels = {
        name: _labels(f"{names[1]} in {file}", _array(file, opened, names[1]))
        for name, names in layout.items()
        if names[1] in opened
    }
    labels = all_labels.get(chosen, np.zeros(len(images), int))
    if len(labels) != len(images):
        raise InvalidInput(f"{file} holds {len(images):,} {image_name} and {len(labels):,} {label_name}: expected as many")
    classes = _classes(file, list(all_labels.values())) if chosen in all_labels else 0

    def read(index: int) -> Example:
        return {"image": np.array(upper_bits(images[index])), "label": int(labels[index])}

    sizes = {name: len(images) if name == chosen else _size(all_labels.get(name)) for name in splits}
    shape = (images.shape[1], images.shape[2], images.shape[3])
    return Source("arrays", len(images), read, tuple(map(str, range(classes))), chosen, sizes, shape)


def _size(labels: np.ndarray | None) -> int | None:
    """How many images a split has, by its labels; where it has none, only reading its images would tell."""
    return None if labels is None else len(labels)


def _open(file: Path) -> Mapping[str, np.ndarray]:
    """The arrays by name; those of an .npz file are read when they are asked for. That of an .npy file is called images."""
    if not file.is_file():
        raise InvalidInput(f"no file at {file}: --config.data.directory must name an .npy or .npz file")
    try:
        opened: Any = np.load(file, mmap_mode="r")
    except (OSError, EOFError, ValueError, zipfile.BadZipFile) as error:
        raise InvalidInput(f"{file} cannot be read as an .npy or .npz file: {error}") from error
    return {"images": opened} if isinstance(opened, np.ndarray) else opened


def _array(file: Path, opened: Mapping[str, np.ndarray], name: str) -> np.ndarray:
    try:
        return opened[name]
    except (OSError, EOFError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise InvalidInput(f"{name} in {file} cannot be read: {error}") from error


def _layout(file: Path, opened: Mapping[str, np.ndarray]) -> dict[str, tuple[str, str]]:
    """Of the first layout whose images are there, the splits that are."""
    for layout in LAYOUTS:
        if there := {split: names for split, names in layout.items() if names[0] in opened}:
            return there
    expected = ", ".join(names[0] for layout in LAYOUTS for names in layout.values())
    raise InvalidInput(f"{file} holds {', '.join(opened) or 'nothing'}: expected images under one of the names {expected}")


def _images(name: str, images: np.ndarray) -> np.ndarray:
    """[N, H, W, 1 or 3] uint8 or uint16.

    Raises:
      InvalidInput: they are something else; the message says how to make this of it.
    """
    if images.ndim == 3 and images.shape[-1] not in (1, 3):  # these would be the channels of a single image
        images = images[..., None]
    if images.ndim != 4 or images.shape[-1] not in (1, 3) or not images.size:
        moved = images.ndim == 4 and images.shape[1] in (1, 3)
        hint = ". The channels go last: np.moveaxis(images, 1, -1)" if moved else ""
        raise InvalidInput(f"{name} has the shape {images.shape}: expected [N, H, W], [N, H, W, 1] or [N, H, W, 3]{hint}")
    if images.dtype.kind != "u" or images.dtype.itemsize > 2:
        span = f", in the first image from {images[0].min()} to {images[0].max()}" if images.dtype.kind in "biuf" else ""
        raise InvalidInput(
            f"{name} has values of type {images.dtype}{span}: expected uint8, 0..255, or uint16, 0..65535. Of numbers in "
            "[0, 1] it is np.rint(images * 255).astype(np.uint8), in [-1, 1] np.rint(images * 127.5 + 127.5).astype(np.uint8), "
            "of whole ones in 0..255 images.astype(np.uint8), in 0..65535 images.astype(np.uint16)"
        )
    if images.dtype.itemsize == 2 and (highest := images[:: len(images) // LOOKED_AT + 1].max()) < 256:
        raise InvalidInput(
            f"{name} has values of type uint16, of which the upper eight bits are kept: those that were looked at are no more "
            f"than {highest}, and would be black. Of numbers in 0..255 it is images.astype(np.uint8)"
        )
    return images


def _labels(name: str, labels: np.ndarray) -> np.ndarray:
    """[N] integers.

    Raises:
      InvalidInput: they are something else.
    """
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer) or labels.min(initial=0) < 0:
        hint = ". Of one-hot rows it is labels.argmax(axis=1)" if labels.ndim == 2 else ""
        raise InvalidInput(
            f"{name} has the shape {labels.shape} and the type {labels.dtype}"
            f"{f', from {labels.min()} on' if labels.ndim == 1 and labels.dtype.kind == 'i' else ''}: "
            f"expected integers [N] from 0 on{hint}"
        )
    return labels


def _classes(file: Path, labels: Sequence[np.ndarray]) -> int:
    """How many classes there are, by the labels of each split.

    Raises:
      InvalidInput: far more than the images can have, as where numbers of persons or days stand for classes.
    """
    classes, images = max(int(each.max()) for each in labels if each.size) + 1, sum(map(len, labels))
    if classes > min(max(images, FEW), MANY):
        raise InvalidInput(
            f"the labels in {file} go up to {classes - 1}, which makes {classes:,} classes of {images:,} images: expected the "
            "classes to be numbered 0, 1, 2 and so on. Of other numbers np.unique(labels, return_inverse=True)[1] makes such "
            "(of those of all splits together, where there are splits)"
        )
    return classes
