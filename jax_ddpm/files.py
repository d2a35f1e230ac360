"""Files that are whole or not there, whenever the process is killed."""

from collections.abc import Callable
from pathlib import Path


def write_whole(path: Path, save: Callable[[Path], object]) -> Path:
    """Writes a file beside its place, then moves it there; makes the folder where there is none.

    Args:
      save: writes the file to the path that it is given.
    Returns:
      path.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.partial")
    save(partial)
    return partial.replace(path)
