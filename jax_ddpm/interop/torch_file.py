"""The files that `torch.save` writes, read without PyTorch and without running what a file may ask to be run.

They are pickles, which can run any program as they are read. So nothing is made of one here but tensors, numbers, texts and
containers of these; any other thing that it asks for is refused, and no code of it runs.
"""

import collections
import math
import pickle
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import jax.numpy as jnp
import numpy as np

from jax_ddpm.errors import InvalidInput

_MAGIC = 0x1950A86A20F9469CFC6C  # the first number in a file of PyTorch before 1.6
_TYPES = {
    **{"Double": np.float64, "Float": np.float32, "Half": np.float16, "BFloat16": jnp.bfloat16},
    **{"Long": np.int64, "Int": np.int32, "Short": np.int16, "Char": np.int8, "Byte": np.uint8, "Bool": np.bool_},
}
Memory = Callable[[str], bytes]
"""The bytes of the storage of that name."""


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


def read_torch_file(path: Path) -> Any:
    """What a file holds, its tensors as NumPy arrays.

    Args:
      path: a file of any PyTorch, those before 1.6 included, such as pytorch-fid's.
    Raises:
      InvalidInput: it is no such file, it is damaged, or it asks for something else than tensors.
    """
    try:
        with path.open("rb") as file:
            return (_of_zip if zipfile.is_zipfile(file) else _of_legacy)(file)
    except InvalidInput as error:
        raise InvalidInput(f"{path}: {error}") from error
    except Exception as error:  # what a damaged pickle raises is of any kind
        raise InvalidInput(f"{path} cannot be read as a file of PyTorch: {error or type(error).__name__}") from error


def _of_zip(file: BinaryIO) -> Any:
    with zipfile.ZipFile(file) as archive:
        pickles = [name for name in archive.namelist() if name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise InvalidInput("a zip file without the data.pkl that torch.save writes")
        folder = pickles[0].removesuffix("data.pkl")
        order = f"{folder}byteorder"
        if order in archive.namelist() and archive.read(order) != b"little":
            raise InvalidInput("it was written on a machine of another byte order: expected little-endian")
        with archive.open(pickles[0]) as opened:
            return _filled(_Unpickler(opened).load(), lambda key: archive.read(f"{folder}data/{key}"))


def _of_legacy(file: BinaryIO) -> Any:
    """A magic number, two things of no use here, the tensors, the names of the memory; then each memory, after its length."""
    file.seek(0)
    magic, _, _ = (_Unpickler(file).load() for _ in range(3))
    if magic != _MAGIC:
        raise InvalidInput("it does not begin as a file of PyTorch does")
    reading = _Unpickler(file)
    found, keys, memory = reading.load(), _Unpickler(file).load(), {}
    for key in map(str, keys):
        length = int.from_bytes(file.read(8), "little")
        memory[key] = file.read(length * reading.storages[key].dtype.itemsize)
    return _filled(found, memory.__getitem__)


class _Unpickler(pickle.Unpickler):
    """Knows tensors, numbers, texts and containers, and refuses all else by its name."""

    def __init__(self, file: Any) -> None:
        super().__init__(file)
        self.storages: dict[str, _Storage] = {}

    def persistent_load(self, pid: Any) -> _Storage:
        _, dtype, key, *_ = pid
        return self.storages.setdefault(str(key), _Storage(str(key), dtype))

    def find_class(self, module: str, name: str) -> Any:
        known: dict[tuple[str, str], Any] = {("collections", "OrderedDict"): collections.OrderedDict}
        known |= {("torch._utils", "_rebuild_tensor_v2"): _view, ("torch._utils", "_rebuild_parameter"): lambda view, *_: view}
        known |= {("torch", f"{kind}Storage"): np.dtype(dtype) for kind, dtype in _TYPES.items()}
        if (module, name) not in known:
            raise InvalidInput(f"it asks for {module}.{name}: expected nothing but tensors of numbers")
        return known[module, name]


def _view(storage: _Storage, offset: int, shape: tuple[int, ...], strides: tuple[int, ...], *_: Any) -> _View:
    return _View(storage, offset, tuple(shape), tuple(strides))


def _filled(found: Any, memory: Memory) -> Any:
    """The same with arrays in place of views, a copy of each."""
    read: dict[str, np.ndarray] = {}

    def fill(thing: Any) -> Any:
        if isinstance(thing, _View):
            key, dtype = thing.storage
            if key not in read:
                read[key] = np.frombuffer(memory(key), dtype)
            return _array(thing, read[key])
        if isinstance(thing, Mapping):
            return {name: fill(each) for name, each in thing.items()}
        return type(thing)(map(fill, thing)) if isinstance(thing, list | tuple) else thing

    return fill(found)


def _array(view: _View, numbers: np.ndarray) -> np.ndarray:
    _, offset, shape, strides = view
    last = offset + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
    beyond = 0 not in shape and (last >= numbers.size or math.prod(shape) > numbers.size)
    if min((offset, *shape, *strides)) < 0 or beyond:
        raise InvalidInput(f"a tensor of shape {shape} reaches beyond the {numbers.size} numbers that are there")
    in_bytes = tuple(stride * numbers.itemsize for stride in strides)
    return np.array(np.lib.stride_tricks.as_strided(numbers[offset:], shape, in_bytes, writeable=False))
