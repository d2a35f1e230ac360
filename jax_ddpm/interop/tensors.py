"""The files that PyTorch's weights come in: safetensors, and the zip files of torch.save, read without PyTorch.

What torch.save writes is a pickle, which can run any program as it is read. So nothing is made of it here but tensors, numbers,
texts and containers of these; any other thing that it asks for is refused, and no code of it runs.
"""

import collections
import math
import pickle
import zipfile
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from jax_ddpm.errors import InvalidInput

_STORAGES = {
    "DoubleStorage": np.dtype(np.float64),
    "FloatStorage": np.dtype(np.float32),
    "HalfStorage": np.dtype(np.float16),
    "BFloat16Storage": np.dtype(jnp.bfloat16),
    "LongStorage": np.dtype(np.int64),
    "IntStorage": np.dtype(np.int32),
    "ShortStorage": np.dtype(np.int16),
    "CharStorage": np.dtype(np.int8),
    "ByteStorage": np.dtype(np.uint8),
    "BoolStorage": np.dtype(np.bool_),
}


def read_tensors(path: Path) -> Any:
    """What a file holds: tensors as NumPy arrays by name, or in the containers that it has.

    Raises:
      InvalidInput: there is no such file, or it is none of these formats, or holds something else than tensors.
    """
    if not path.is_file():
        raise InvalidInput(f"no file of weights at {path}")
    try:
        return load_file(path) if path.suffix == ".safetensors" else _read_zip(path)
    except (SafetensorError, OSError, EOFError, KeyError, ValueError, TypeError, pickle.UnpicklingError) as error:
        raise InvalidInput(f"{path} cannot be read as weights: {error}") from error


def _read_zip(path: Path) -> Any:
    if not zipfile.is_zipfile(path):
        raise InvalidInput(
            f"{path} is no zip file, as torch.save has written since PyTorch 1.6. Write it anew where PyTorch is installed: "
            "torch.save(torch.load(OLD, map_location='cpu', weights_only=True), NEW)"
        )
    with zipfile.ZipFile(path) as archive:
        pickles = [name for name in archive.namelist() if name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise InvalidInput(f"{path} is a zip file without the data.pkl that torch.save writes")
        folder = pickles[0].removesuffix("data.pkl")
        order = f"{folder}byteorder"
        if order in archive.namelist() and archive.read(order) != b"little":
            raise InvalidInput(f"{path} was written on a machine of another byte order: expected little-endian")
        with archive.open(pickles[0]) as file:
            return _Tensors(file, archive, folder).load()


class _Tensors(pickle.Unpickler):
    """Makes tensors, numbers, texts and containers; refuses all else."""

    def __init__(self, file: Any, archive: zipfile.ZipFile, folder: str) -> None:
        super().__init__(file)
        self._archive, self._folder = archive, folder
        self._read: dict[str, np.ndarray] = {}

    def find_class(self, module: str, name: str) -> Any:
        known = {("collections", "OrderedDict"): collections.OrderedDict, ("torch._utils", "_rebuild_tensor_v2"): _tensor}
        known[("torch._utils", "_rebuild_parameter")] = lambda data, *_: data
        if module == "torch" and name in _STORAGES:
            return _STORAGES[name]
        if (module, name) not in known:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which is no tensor and not run here")
        return known[module, name]

    def persistent_load(self, pid: Any) -> np.ndarray:
        _, dtype, key, _, _ = pid
        if key not in self._read:
            self._read[key] = np.frombuffer(self._archive.read(f"{self._folder}data/{key}"), dtype)
        return self._read[key]


def _tensor(storage: np.ndarray, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any) -> np.ndarray:
    """A view of what is stored, a copy of which is kept; it may not look beyond it."""
    if min((offset, *size, *stride)) < 0 or len(size) != len(stride):
        raise ValueError(f"a tensor of size {size}, stride {stride} and offset {offset}")
    if math.prod(size) == 0:
        return np.zeros(size, storage.dtype)
    last = offset + sum((count - 1) * step for count, step in zip(size, stride, strict=True))
    if last >= storage.size or math.prod(size) > storage.size:
        raise ValueError(f"a tensor of size {size} and stride {stride} looks beyond the {storage.size} numbers stored")
    strides = tuple(step * storage.itemsize for step in stride)
    return np.array(np.lib.stride_tricks.as_strided(storage[offset:], size, strides, writeable=False))
