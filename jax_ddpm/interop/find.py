"""What network lies at a place: in a folder of diffusers, or in a file of tensors whose names say whose they are."""

import importlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jax_ddpm.errors import InvalidInput
from jax_ddpm.interop.ddim import find_ddim, is_ddim, states
from jax_ddpm.interop.diffusers import find_diffusers
from jax_ddpm.interop.diffusers_config import scheduler_settings
from jax_ddpm.interop.names import Found
from jax_ddpm.interop.openai import find_openai, is_openai
from jax_ddpm.interop.tensors import by_name, read_tensors

Tensors = Mapping[str, np.ndarray]
FORMATS: dict[str, tuple[Callable[[Tensors], bool], Callable[[Tensors, Mapping[str, Any]], Found]]] = {
    "OpenAI": (is_openai, find_openai),
    "DDIM": (is_ddim, find_ddim),
}
"""Files of tensors, by whose they are: whether these are of that kind, and what network they make."""

WEIGHTS = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin")
VARIANTS = ("diffusion_pytorch_model.fp16.safetensors",)
INDEX, PARTS = "diffusion_pytorch_model.safetensors.index.json", "diffusion_pytorch_model-*.safetensors"
NOISE = tuple(f"diffusion.{name}" for name in ("schedule", "steps", "prediction", "variance"))
CONFIG, SCHEDULER = "config.json", "scheduler_config.json"


def find_network(source: str, given: Mapping[str, Any]) -> Found:
    """The network at a place.

    Args:
      source: a folder that diffusers wrote, a file of tensors, or the name of one on the Hugging Face hub, "USER/NAME".
      given: settings that the user has given, dotted.
    Raises:
      InvalidInput: there is nothing, or nothing that is known.
    """
    path = Path(source).expanduser()
    if not path.exists() and source.count("/") == 1 and not source.startswith((".", "~", "/")):
        path = downloaded(source)
    return _in_folder(path, given) if path.is_dir() else _in_file(path, given)


def downloaded(name: str) -> Path:
    """The folder in which the hub's library keeps what diffusers needs of a repository, downloaded where it is not there yet.

    Raises:
      InvalidInput: the library is not installed, or there is no such repository, or it cannot be had.
    """
    try:
        hub = importlib.import_module("huggingface_hub")
    except ModuleNotFoundError as error:
        raise InvalidInput(
            f"there is no file or folder {name}, and what the Hugging Face hub has of that name is got by its library: "
            f"pip install huggingface_hub ({error})"
        ) from error
    files = [f"{folder}{file}" for folder in ("", "unet/") for file in (CONFIG, INDEX, PARTS, *WEIGHTS)]
    files += [SCHEDULER, f"scheduler/{SCHEDULER}"]
    try:
        folder = Path(hub.snapshot_download(name, allow_patterns=files))
        if any((place / file).is_file() for place in (folder, folder / "unet") for file in (INDEX, *WEIGHTS)):
            return folder
        halves = [f"{place}{file}" for place in ("", "unet/") for file in VARIANTS]
        return Path(hub.snapshot_download(name, allow_patterns=[*files, *halves]))
    except (OSError, ValueError) as error:  # those of the library are of these kinds
        raise InvalidInput(
            f"{name} is neither here nor to be had from the Hugging Face hub: {str(error).splitlines()[0]}"
        ) from error


def _in_folder(folder: Path, given: Mapping[str, Any]) -> Found:
    unet = folder / "unet" if (folder / "unet" / CONFIG).is_file() else folder
    if not (unet / CONFIG).is_file():
        raise InvalidInput(f"{folder} is no folder of diffusers: expected a {CONFIG} in it, or in unet/. Or name a file in it")
    found = find_diffusers(_json(unet / CONFIG), _tensors(unet), given)
    for path in (folder / "scheduler" / SCHEDULER, folder / SCHEDULER):
        if path.is_file():
            noise = scheduler_settings(_json(path))
            learned = found.settings["diffusion"]  # where there are twice the channels, whatever the scheduler's default says
            return found._replace(settings=found.settings | noise | {"diffusion": noise["diffusion"] | learned})
    return found._replace(assumed=NOISE, why=f"there is no {SCHEDULER} to say it")


def _tensors(folder: Path) -> Tensors:
    """What a folder has as one file, in parts, or in half precision alone."""
    for name in (*WEIGHTS, INDEX, *VARIANTS):
        if (folder / name).is_file():
            return _parts(folder / name) if name == INDEX else by_name(read_tensors(folder / name), folder / name)
    raise InvalidInput(f"{folder} has no weights: expected {' or '.join((*WEIGHTS, INDEX, *VARIANTS))}")


def _parts(index: Path) -> Tensors:
    """The tensors of the files beside an index that it names."""
    files = _json(index).get("weight_map")
    if not isinstance(files, dict) or not all(isinstance(name, str) and Path(name).name == name for name in files.values()):
        raise InvalidInput(f"{index}: expected a weight_map, for each tensor the name of a file beside it")
    read = {name: by_name(read_tensors(index.parent / name), index.parent / name) for name in sorted(set(files.values()))}
    return {name: tensor for tensors in read.values() for name, tensor in tensors.items()}


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except ValueError as error:
        raise InvalidInput(f"{path} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise InvalidInput(f"{path}: expected names and values")
    return content


def _in_file(path: Path, given: Mapping[str, Any]) -> Found:
    tensors = by_name(states(read_tensors(path)), path)
    for is_one, find in FORMATS.values():
        if is_one(tensors):
            return find(tensors, given)
    raise InvalidInput(
        f"{path} holds no network that is known here, but {', '.join(sorted(tensors)[:3])}, …: expected a file of "
        f"{' or '.join(FORMATS)}, or the folder of diffusers that it lies in"
    )
