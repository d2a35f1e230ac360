"""The image files that lie in a folder or in a zip, by their names."""

import io
import os
import posixpath
import threading
import zipfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jax_ddpm.data.sources.image_files import IMAGE_SUFFIXES, read_image
from jax_ddpm.data.sources.source import told_as_damaged
from jax_ddpm.errors import InvalidInput

SPLIT_NAMES = {  # what folders of splits are called, in letters of any case
    "train": ("train", "training"),
    "val": ("val", "valid", "validation"),
    "test": ("test", "testing", "eval", "evaluation"),
}
LEFT_BEHIND = (".", "__")  # what names begin with that are passed over


class Listing(NamedTuple):
    """Image files.

    Attributes:
      place: the folder or the zip that they are in.
      names: as seen from there, the parts separated by "/"; in order, folder by folder.
      read: name -> image, [H, W, 1 or 3] uint8.
    """

    place: Path
    names: tuple[str, ...]
    read: Callable[[str], np.ndarray]


def split_called(name: str) -> str:
    """The split that a folder of this name is: train, val or test; "" where it is the name of none."""
    return next((split for split, names in SPLIT_NAMES.items() if name.lower() in names), "")


def list_images(place: Path) -> Listing:
    """The image files in a folder or a zip, at any depth.

    Names that begin with a dot or with two underscores are passed over: systems and archivers leave such things behind. Links
    are followed; one that leads nowhere is listed as the image that it should be. Where all that a zip holds lies in one
    folder, which is no split, it is as if its content alone had been packed; what would lie outside of it is passed over.

    Raises:
      InvalidInput: there is neither a folder nor a zip, the zip is damaged, or no image is in it.
    """
    place = place.absolute()
    if not place.exists():
        raise InvalidInput(f"no folder or zip at {place}: --config.data.directory must name one that holds images")
    listing = _in_folder(place) if place.is_dir() else _in_zip(place)
    if not listing.names:
        raise InvalidInput(f"no images in {place}: looked, in subfolders too, for {', '.join(IMAGE_SUFFIXES)}")
    return listing


def _in_folder(root: Path) -> Listing:
    return Listing(root, _of_images(_files(root)), lambda name: read_image(root / name))


def _files(folder: Path, inside: str = "", above: tuple[str, ...] = ()) -> Iterator[str]:
    """The names of all files, seen from the first folder; where a link leads back to a folder that it is in, it ends."""
    real = os.path.realpath(folder)
    if real in above:
        return
    _, folders, files = next(os.walk(folder), ("", [], []))
    yield from (inside + name for name in files)
    for name in folders:
        if not name.startswith(LEFT_BEHIND):
            yield from _files(folder / name, f"{inside}{name}/", (*above, real))


def _in_zip(path: Path) -> Listing:
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise InvalidInput(f"{path} is no folder, and cannot be read as a zip of images: {error}") from error
    members = {plain: name for name in archive.namelist() if (plain := _plain(name))}
    names, outer, one_at_a_time = _of_images(members), "", threading.Lock()
    while folder := _only_folder(name.removeprefix(outer) for name in names):
        outer += f"{folder}/"

    def read(name: str) -> np.ndarray:
        with told_as_damaged(f"{path}/{name}"):
            with one_at_a_time:  # threads share the open file
                content = archive.read(members[outer + name])
            return read_image(io.BytesIO(content), f"{path}/{name}")

    return Listing(path, tuple(name.removeprefix(outer) for name in names), read)


def _plain(name: str) -> str:
    """Of a zip's member the name a/b.png, whether it is packed as ./a/b.png, /a/b.png or a\\b.png; "" of a folder."""
    name = name.replace("\\", "/")
    return "" if name.endswith("/") else posixpath.normpath(name).lstrip("/")


def _of_images(names: Iterable[str]) -> tuple[str, ...]:
    """Those that are names of images, in their order."""
    images = (name.split("/") for name in names if name.lower().endswith(IMAGE_SUFFIXES))
    return tuple("/".join(parts) for parts in sorted(images) if not any(part.startswith(LEFT_BEHIND) for part in parts))


def _only_folder(names: Iterable[str]) -> str:
    """The folder in which all of them are; "" where there is none, or it is a split."""
    first = {name.rpartition("/")[0].partition("/")[0] for name in names}
    folder = first.pop() if len(first) == 1 else ""
    return "" if split_called(folder) else folder
