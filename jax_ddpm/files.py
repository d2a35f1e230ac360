"""Files that are whole or not there, whenever the process is killed; of several processes the first one writes."""

import shutil
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
from jax.experimental import multihost_utils


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


def make_directory(path: Path) -> Path:
    """Makes a folder that every process then sees, and none saw before all had come here."""
    wait_for_all(f"to make {path}")
    if is_first_process():
        path.mkdir(parents=True, exist_ok=True)
    wait_for_all(f"until {path} is made")
    return path


def write_whole(path: Path, save: Callable[[Path], object]) -> Path:
    """Writes a file beside its place, then moves it there; makes the folder where there is none.

    Args:
      save: writes the file to the path that it is given.
    Returns:
      path.
    """
    if not is_first_process():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.partial")
    save(partial)
    return partial.replace(path)


def remove(directory: Path) -> None:
    """Removes a folder, if it is there, and all that is in it."""
    if is_first_process():
        shutil.rmtree(directory, ignore_errors=True)


def write_npz(path: Path, **arrays: np.ndarray) -> Path:
    """Writes arrays by name."""

    def save(partial: Path) -> None:
        with partial.open("wb") as file:
            np.savez(file, allow_pickle=False, **arrays)

    return write_whole(path, save)
