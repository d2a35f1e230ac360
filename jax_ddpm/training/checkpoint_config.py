"""The config that lies in a checkpoint, read without Orbax: it would start the devices, and settings say how many are made."""

import json
from pathlib import Path

from jax_ddpm.files import is_remote

_WHOLE = "commit_success.txt"  # where a folder cannot be moved to its name, see `commit_by_file`


def newest_config(checkpoints: Path) -> Path | None:
    """The config, undamaged, of the newest whole checkpoint in a folder that has one: its file; None where there is none."""
    if not checkpoints.is_dir():
        return None
    steps = sorted((each for each in checkpoints.iterdir() if each.name.isdecimal()), key=lambda each: int(each.name))
    whole = (each for each in reversed(steps) if not is_remote(checkpoints) or (each / _WHOLE).is_file())
    return next((file for each in whole if _is_json(file := each / "config/metadata")), None)


def _is_json(path: Path) -> bool:
    try:
        json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return False
    return True
