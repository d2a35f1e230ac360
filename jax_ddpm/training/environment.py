"""What a run was trained on and by: noted when training starts, for nothing can tell it later."""

import importlib.metadata
import json
import os
import platform
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jax

from jax_ddpm.errors import InvalidInput
from jax_ddpm.files import write_json

FILE_NAME = "environment.json"
PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")


def note_start(workdir: Path, step: int, version: str) -> Path:
    """Adds this start of training to environment.json: one entry a start, the first one first.

    Args:
      step: at which it begins.
      version: of jax_ddpm.
    """
    return write_json(workdir / FILE_NAME, [*read_starts(workdir), describe_environment(version) | {"step": step}])


def read_starts(workdir: Path) -> list[dict[str, Any]]:
    """What `note_start` noted there; nothing, of a run that an earlier version trained.

    Raises:
      InvalidInput: the file is damaged.
    """
    path = workdir / FILE_NAME
    try:
        return json.loads(path.read_text()) if path.is_file() else []
    except json.JSONDecodeError as error:
        raise InvalidInput(f"{path} cannot be read ({error}): remove it, nothing but the report needs it") from error


def describe_environment(version: str) -> dict[str, Any]:
    """When and where this is: the time in UTC, versions, the devices of all processes, and the machine of this one."""
    device = jax.devices()[0]
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "packages": {"jax_ddpm": version, **{name: importlib.metadata.version(name) for name in PACKAGES}},
        "python": platform.python_version(),
        "devices": {"platform": device.platform, "kind": device.device_kind, "count": jax.device_count()},
        "processes": jax.process_count(),
        "os": platform.platform(),
        "machine": platform.machine(),
        "cores": os.cpu_count(),
    }
