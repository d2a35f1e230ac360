"""Files that are whole or not there, whenever the process is killed; of several processes the first one writes.

A path is of a local disk, or of object storage: gs://BUCKET/… or s3://BUCKET/…, an epath.Path, which has the methods of
pathlib's that are called here. What the two do differently is in this file.
"""

import contextlib
import importlib.util
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import fsspec
import jax
import numpy as np
from etils import epath
from jax.experimental import multihost_utils

from jax_ddpm.errors import InvalidInput, choose

CLIENTS = {"gs": "gcsfs", "s3": "s3fs"}  # the package that each kind of object storage needs
PATIENCE = 30.0  # seconds between two times that a growing text is written anew


class NotWritten(InvalidInput):
    """A disk or object storage did not take a file."""


def is_first_process() -> bool:
    """Whether this is the process that writes and speaks, where there are several."""
    return jax.process_index() == 0


def wait_for_all(reason: str) -> None:
    """Returns when all processes have come here."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(reason)


def by_all(yes: bool) -> bool:
    """Whether all processes say yes."""
    return yes if jax.process_count() == 1 else bool(multihost_utils.process_allgather(np.array(yes)).all())


def place(name: str | Path) -> Path:
    """The folder that a person names: a local path, where ~ is their home, or one of object storage.

    Raises:
      InvalidInput: it is of a kind of storage that is not known, whose package is not there, or that cannot be reached.
    """
    kind, is_address, rest = str(name).partition("://")
    if not is_address:
        return Path(name).expanduser()
    client = choose("storage", kind, CLIENTS)
    if importlib.util.find_spec(client) is None:
        raise InvalidInput(f"{name}: {kind}:// needs the package {client}, which is not installed: pip install {client}")
    if not rest.strip("/"):
        raise InvalidInput(f"{name} names no bucket: expected {kind}://BUCKET/FOLDER")
    # The listings that it would keep know nothing of what Orbax writes.
    fsspec.config.conf.setdefault(kind, {})["use_listings_cache"] = False
    path = epath.Path(str(name))
    _check_reached(path)
    return cast(Path, path)


def is_remote(path: Path) -> bool:
    """Whether a path is of object storage."""
    return "://" in str(path)


def absolute(path: Path) -> Path:
    """The path that does not depend on the working directory."""
    return path if is_remote(path) else path.absolute()


@contextlib.contextmanager
def refusal_told(path: Path) -> Iterator[None]:
    """Within it, what a disk says of a file that it does not take, because it is full or for want of a right, is NotWritten."""
    try:
        yield
    except OSError as error:
        raise NotWritten(f"{path} could not be written: {_first_line(error)}") from error


def make_directory(path: Path) -> Path:
    """Makes a folder that every process then sees, and none saw before all had come here.

    Object storage knows no folders: there are names, of which several may begin alike.

    Raises:
      NotWritten: the disk does not take it.
    """
    wait_for_all(f"to make {path}")
    if is_first_process() and not is_remote(path):
        with refusal_told(path):
            path.mkdir(parents=True, exist_ok=True)
    wait_for_all(f"until {path} is made")
    return path


def write_whole(path: Path, save: Callable[[Path], object]) -> Path:
    """Writes a file beside its place, then moves it there; makes the folder where there is none.

    To object storage it is sent when it is whole, and is there when all of it has come.

    Args:
      save: writes the file to the path that it is given, which is a local one.
    Returns:
      path.
    Raises:
      NotWritten: the disk, or object storage, does not take it; what was there stays.
    """
    if not is_first_process():
        return path
    with refusal_told(path):
        if is_remote(path):
            with tempfile.TemporaryDirectory() as folder:
                partial = Path(folder) / path.name
                save(partial)
                _send(partial, path)
            return path
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f"{path.name}.partial")
        save(partial)
        return partial.replace(path)


@contextlib.contextmanager
def as_local(path: Path) -> Iterator[Path]:
    """Within it, a file at a local path, for what opens no others."""
    if not is_remote(path):
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        fetched = Path(folder) / path.name
        fetched.write_bytes(path.read_bytes())
        yield fetched


def remove(directory: Path) -> None:
    """Removes a folder, if it is there, and all that is in it."""
    if not is_first_process():
        return
    if is_remote(directory):
        cast(epath.Path, directory).rmtree(missing_ok=True)
    else:
        shutil.rmtree(directory, ignore_errors=True)


def move(directory: Path, target: Path) -> None:
    """Moves a folder to where there is none. On object storage each file is copied, then the old ones are removed."""
    if is_remote(directory):
        storage, source = fsspec.url_to_fs(str(directory))
        _, aim = fsspec.url_to_fs(str(target))
        for name in storage.find(source):
            storage.cp_file(name, aim + name.removeprefix(source))
        storage.rm(source, recursive=True)
    else:
        with refusal_told(target):
            directory.rename(target)


def write_json(path: Path, values: Any, *, allow_nan: bool = True) -> Path:
    """Writes nested dicts and lists.

    Args:
      allow_nan: whether numbers that are not finite are written, which not every program reads; else they raise ValueError.
    """
    text = json.dumps(values, indent=2, allow_nan=allow_nan) + "\n"
    return write_whole(path, lambda path: path.write_text(text))


def write_npz(path: Path, **arrays: np.ndarray) -> Path:
    """Writes arrays by name."""

    def save(partial: Path) -> None:
        with partial.open("wb") as file:
            np.savez(file, allow_pickle=False, **arrays)

    return write_whole(path, save)


class GrowingText:
    """A text file to which lines are added. On object storage, where nothing can be added, it is written anew now and then."""

    def __init__(self, path: Path, text: str) -> None:
        """Begins with `text`, in place of what is there."""
        self._path, self._text, self._written = path, text, time.monotonic()
        write_whole(path, lambda partial: partial.write_text(text))
        local = Path(os.devnull) if is_remote(path) or not is_first_process() else path
        self._file = local.open("a")

    def add(self, line: str) -> None:
        """A line more; on a local disk it is there at once, on object storage after PATIENCE seconds or by `flush`.

        Raises:
          NotWritten: the disk, or object storage, does not take it.
        """
        with refusal_told(self._path):
            self._file.write(line + "\n")
            self._file.flush()
        self._text += f"{line}\n" if is_remote(self._path) else ""
        if time.monotonic() - self._written > PATIENCE:
            self.flush()

    def flush(self) -> None:
        """Writes what is not there yet."""
        if is_remote(self._path):
            write_whole(self._path, lambda partial: partial.write_text(self._text))
            self._written = time.monotonic()

    def close(self) -> None:
        """Ends it."""
        with refusal_told(self._path), self._file:
            self.flush()


class LocalFolder:
    """A folder for what writes to local paths alone: `path` is it, or stands for it until its files are sent to where it is."""

    def __init__(self, directory: Path) -> None:
        """Of a folder of object storage nothing that it holds is fetched."""
        self._directory, self._sent = directory, dict[Path, int]()
        self.path = Path(tempfile.mkdtemp()) if is_remote(directory) else directory

    def flush(self) -> None:
        """Sends each file that has grown since the last time."""
        if not is_remote(self._directory):
            return
        for file in (each for each in self.path.rglob("*") if each.is_file()):
            if (size := file.stat().st_size) != self._sent.get(file):
                _send(file, self._directory / file.relative_to(self.path).as_posix())
                self._sent[file] = size

    def close(self) -> None:
        """Sends what is left, and keeps nothing."""
        try:
            self.flush()
        finally:
            if is_remote(self._directory):
                shutil.rmtree(self.path)


def _send(file: Path, path: Path) -> None:
    """Writes a file to object storage, in one piece: what is there already stays until all of it has come."""
    try:
        storage, name = fsspec.url_to_fs(str(path))
        storage.pipe_file(name, file.read_bytes())
    except Exception as error:  # each client has others for a network, a right or a bucket that is not there
        raise NotWritten(f"{path} could not be written: {_first_line(error)}") from error


def _check_reached(path: epath.Path) -> None:
    """Raises InvalidInput where nothing is to be learned of a folder; that it is not there is no reason."""
    with contextlib.suppress(FileNotFoundError):
        try:
            storage, name = fsspec.url_to_fs(str(path))
            storage.ls(name, detail=False)
        except FileNotFoundError:
            raise
        except Exception as error:  # as above
            raise InvalidInput(f"{path} cannot be reached: {_first_line(error)}") from error


def _first_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]
