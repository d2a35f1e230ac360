"""Tensors out of the files that `torch.save` writes, without PyTorch, and without running what a file may ask to be run."""

import collections
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from jax_ddpm.errors import InvalidInput

_MAGIC = 0x1950A86A20F9469CFC6C  # the first number in a file of PyTorch before 1.6
_TYPES = {"Float": "<f4", "Double": "<f8", "Half": "<f2", "Long": "<i8", "Int": "<i4", "Byte": "|u1", "Bool": "|b1"}


class _Storage(NamedTuple):
    """A piece of memory that tensors are views of."""

    key: str
    dtype: np.dtype


class _View(NamedTuple):
    """A tensor whose numbers have not been read yet."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class _Unpickler(pickle.Unpickler):
    """Knows tensors and dictionaries, and refuses all else by its name."""

    def persistent_load(self, pid: Any) -> _Storage:
        _, dtype, key, *_ = pid
        return _Storage(str(key), dtype)

    def find_class(self, module: str, name: str) -> Any:
        if module == "torch" and name.removesuffix("Storage") in _TYPES:
            return np.dtype(_TYPES[name.removesuffix("Storage")])
        known = {
            ("collections", "OrderedDict"): collections.OrderedDict,
            ("torch._utils", "_rebuild_tensor_v2"): lambda storage, offset, shape, strides, *_: _View(
                storage, offset, tuple(shape), tuple(strides)
            ),
            ("torch._utils", "_rebuild_parameter"): lambda view, *_: view,
        }
        if (module, name) not in known:
            raise InvalidInput(f"it asks for {module}.{name}: expected nothing but tensors of numbers")
        return known[module, name]


def read_pth(path: Path) -> dict[str, np.ndarray]:
    """The tensors of a state dict by name.

    Args:
      path: a file of any PyTorch, those before 1.6 included, such as pytorch-fid's.
    Raises:
      InvalidInput: it is no such file, it is damaged, or it holds something else.
    """
    try:
        with path.open("rb") as file:
            found, memory = (_read_zip if zipfile.is_zipfile(file) else _read_legacy)(file)
            if not isinstance(found, Mapping) or not all(isinstance(each, _View) for each in found.values()):
                raise InvalidInput("it holds something else than tensors by name")
            return {name: _tensor(view, memory[view.storage.key]) for name, view in found.items()}
    except InvalidInput as error:
        raise InvalidInput(f"{path}: {error}") from error
    except Exception as error:  # what a damaged pickle raises is of any kind
        raise InvalidInput(f"{path} cannot be read as a file of PyTorch: {error or type(error).__name__}") from error


def _read_zip(file: BinaryIO) -> tuple[Any, Mapping[str, bytes]]:
    with zipfile.ZipFile(file) as archive:
        (pickled,) = (name for name in archive.namelist() if name.endswith("/data.pkl"))
        inside = pickled.removesuffix("data.pkl") + "data/"
        memory = {name.removeprefix(inside): archive.read(name) for name in archive.namelist() if name.startswith(inside)}
        with archive.open(pickled) as opened:
            return _Unpickler(opened).load(), memory


def _read_legacy(file: BinaryIO) -> tuple[Any, Mapping[str, bytes]]:
    """A magic number, two things of no use here, the tensors, the names of the memory; then each memory, after its length."""
    file.seek(0)
    magic, _, _ = (_Unpickler(file).load() for _ in range(3))
    if magic != _MAGIC:
        raise InvalidInput("it does not begin as a file of PyTorch does")
    stored: dict[str, _Storage] = {}

    class Noting(_Unpickler):
        def persistent_load(self, pid: Any) -> _Storage:
            storage = super().persistent_load(pid)
            return stored.setdefault(storage.key, storage)

    found, keys, memory = Noting(file).load(), _Unpickler(file).load(), {}
    for key in map(str, keys):
        length = int.from_bytes(file.read(8), "little")
        memory[key] = file.read(length * stored[key].dtype.itemsize)
    return found, memory


def _tensor(view: _View, memory: bytes) -> np.ndarray:
    numbers = np.frombuffer(memory, view.storage.dtype)
    last = view.offset + sum((size - 1) * stride for size, stride in zip(view.shape, view.strides, strict=True))
    if min((view.offset, *view.shape, *view.strides)) < 0 or (0 not in view.shape and last >= len(numbers)):
        raise InvalidInput(f"a tensor of shape {view.shape} reaches beyond the {len(numbers)} numbers that are there")
    strides = tuple(stride * numbers.itemsize for stride in view.strides)
    return np.lib.stride_tricks.as_strided(numbers[view.offset :], view.shape, strides, writeable=False)
