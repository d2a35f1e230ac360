"""The files that PyTorch's weights come in: safetensors, and those of torch.save."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from jax_ddpm.errors import InvalidInput
from jax_ddpm.interop.torch_file import read_torch_file


def read_tensors(path: Path) -> Any:
    """What a file holds: tensors as NumPy arrays by name, or in the containers that it has.

    Raises:
      InvalidInput: there is no such file, or it is none of these formats, or holds something else than tensors.
    """
    if not path.is_file():
        raise InvalidInput(f"no file of weights at {path}")
    if path.suffix != ".safetensors":
        return read_torch_file(path)
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise InvalidInput(f"{path} cannot be read as weights: {error}") from error


def by_name(content: Any, path: Path) -> dict[str, np.ndarray]:
    """What `read_tensors` has read, where it is tensors by name.

    Raises:
      InvalidInput: it is something else.
    """
    if not isinstance(content, Mapping) or not all(isinstance(each, np.ndarray) for each in content.values()):
        raise InvalidInput(f"{path} holds something else than tensors by name")
    return dict(content)
