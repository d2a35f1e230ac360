"""Images that are judged, or that others are judged by, wherever they are."""

import contextlib
import dataclasses
from collections.abc import Iterator
from pathlib import Path

from ml_collections import ConfigDict

from jax_ddpm.data.sources.arrays import arrays
from jax_ddpm.data.sources.folder import image_folder
from jax_ddpm.data.sources.source import Source
from jax_ddpm.errors import InvalidInput
from jax_ddpm.experiment import make_source
from jax_ddpm.files import as_local, is_remote, place

ARCHIVE, HOW_DRAWN = "samples.npz", "samples.json"  # of --mode sample: all images, and how they were drawn


def open_images(name: str, config: ConfigDict) -> Source:
    """Images by where they are: an .npz or .npy file, a folder or a zip of image files, or the name of a data set.

    Of a folder that --mode sample wrote they are those of its archive: its pictures may be fewer, and one is their grid.

    Raises:
      InvalidInput: there are none, or not where they can be read: of object storage that is .npz and .npy files alone.
    """
    path = images_at(name)
    if path.suffix in (".npz", ".npy"):
        with _fetched(path) as file:
            return dataclasses.replace(arrays(config.data.split, str(file)), name=str(path))
    if is_remote(path):
        raise InvalidInput(
            f"{path}: of object storage an .npz or .npy file is read. Copy a folder or a zip of images to a disk"
        )
    if path.is_dir() or path.suffix == ".zip":
        return dataclasses.replace(image_folder(str(path), config.data.split), name=str(path))
    return make_source(config, name=name)


def images_at(name: str) -> Path:
    """The path that a person names, or in a folder that --mode sample wrote, the archive with all its images.

    Raises:
      InvalidInput: the folder was written so, and the archive is gone.
    """
    path = place(name)
    if (path / ARCHIVE).is_file():
        return path / ARCHIVE
    if (path / HOW_DRAWN).is_file():
        raise InvalidInput(f"{path} was written by --mode sample, and has no {ARCHIVE} any more: its pictures may not be all")
    return path


@contextlib.contextmanager
def _fetched(path: Path) -> Iterator[Path]:
    if is_remote(path) and not path.is_file():
        raise InvalidInput(f"no file at {path}")
    with as_local(path) as file:
        yield file
