"""Tensors pickled as PyTorch pickles them, without PyTorch."""

import collections
import io
import pickle
import sys
import types
import zipfile
from unittest import mock

import numpy as np


class View:
    """Of a piece of memory: its key, its type, then offset, shape and strides."""

    def __init__(self, key, kind, *where):
        self.key, self.kind, self.where = key, kind, where

    def __reduce__(self):
        storage = Storage(self.key, getattr(sys.modules["torch"], self.kind))
        return sys.modules["torch._utils"]._rebuild_tensor_v2, (storage, *self.where, False, collections.OrderedDict())


class Storage:
    def __init__(self, key, kind):
        self.key, self.kind = key, kind


class Pickler(pickle.Pickler):
    def persistent_id(self, thing):
        return ("storage", thing.kind, thing.key, "cpu", 12) if isinstance(thing, Storage) else None


def pickled(thing):
    """As PyTorch does it, under the names of its classes, which are there for as long as that takes."""
    torch, utils = types.ModuleType("torch"), types.ModuleType("torch._utils")
    for name in ("FloatStorage", "LongStorage", "HalfStorage", "BFloat16Storage"):
        setattr(torch, name, type(name, (), {"__module__": "torch"}))

    def _rebuild_tensor_v2(*_): ...

    _rebuild_tensor_v2.__module__, _rebuild_tensor_v2.__qualname__ = "torch._utils", "_rebuild_tensor_v2"
    utils._rebuild_tensor_v2 = _rebuild_tensor_v2
    with mock.patch.dict(sys.modules, {"torch": torch, "torch._utils": utils}):
        file = io.BytesIO()
        Pickler(file, 2).dump(thing)
    return file.getvalue()


def write_pth(path, tensors):
    """Float tensors by name, in half precision, each with memory of its own."""
    views = {name: View(name, "HalfStorage", 0, array.shape, _strides(array.shape)) for name, array in tensors.items()}
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("weights/data.pkl", pickled(views))
        for name, array in tensors.items():
            archive.writestr(f"weights/data/{name}", np.ascontiguousarray(array, np.float16).tobytes())
    return path


def _strides(shape):
    return tuple(int(np.prod(shape[axis + 1 :])) for axis in range(len(shape)))
