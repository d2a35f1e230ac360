"""Files of torch.save read without PyTorch: written here by a stand-in of it, pickle by pickle."""

import collections
import pickle
import sys
import types
import zipfile

import numpy as np
import pytest

from jax_ddpm.errors import InvalidInput
from jax_ddpm.interop.ddim import states
from jax_ddpm.interop.tensors import read_tensors


class Tensor:
    """One as PyTorch pickles it: a storage, and what of it is shown."""

    def __init__(self, storage, key, offset, size, stride):
        self.storage, self.key, self.shown = storage, key, (offset, size, stride)

    def __reduce__(self):
        return sys.modules["torch._utils"]._rebuild_tensor_v2, (self, *self.shown, False, collections.OrderedDict())


def written(path, content, storages, monkeypatch, order=b"little"):
    """The zip file that torch.save writes; storages are arrays by their key."""
    torch, utils = types.ModuleType("torch"), types.ModuleType("torch._utils")

    def _rebuild_tensor_v2(*_):
        raise AssertionError

    _rebuild_tensor_v2.__module__, _rebuild_tensor_v2.__qualname__ = "torch._utils", "_rebuild_tensor_v2"
    utils._rebuild_tensor_v2 = _rebuild_tensor_v2
    for name in ("FloatStorage", "HalfStorage", "LongStorage"):
        kind = type(name, (), {})
        kind.__module__ = "torch"
        setattr(torch, name, kind)
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "torch", torch)
        patch.setitem(sys.modules, "torch._utils", utils)

        class Pickler(pickle.Pickler):
            inside = False

            def persistent_id(self, thing):
                if isinstance(thing, tuple) and thing and thing[0] == "a storage":
                    return "storage", getattr(torch, thing[1]), thing[2], "cpu", 0
                return None

            def reducer_override(self, thing):
                if isinstance(thing, Tensor):
                    storage = ("a storage", thing.storage, thing.key)
                    return _rebuild_tensor_v2, (storage, *thing.shown, False, collections.OrderedDict())
                return NotImplemented

        with zipfile.ZipFile(path, "w") as archive:
            with archive.open("archive/data.pkl", "w") as file:
                Pickler(file, 2).dump(content)
            archive.writestr("archive/byteorder", order)
            for key, array in storages.items():
                archive.writestr(f"archive/data/{key}", array.tobytes())
    return path


FLOATS = {"0": np.arange(12, dtype=np.float32), "1": np.arange(4, dtype=np.float16)}


def test_tensors_are_what_was_stored(tmp_path, monkeypatch):
    content = collections.OrderedDict(
        whole=Tensor("FloatStorage", "0", 0, (3, 4), (4, 1)),
        turned=Tensor("FloatStorage", "0", 1, (2, 3), (1, 4)),
        half=Tensor("HalfStorage", "1", 0, (4,), (1,)),
        number=Tensor("FloatStorage", "0", 5, (), ()),
        step=7,
    )
    found = read_tensors(written(tmp_path / "a.pt", content, FLOATS, monkeypatch))
    np.testing.assert_array_equal(found["whole"], np.arange(12).reshape(3, 4))
    np.testing.assert_array_equal(found["turned"], [[1, 5, 9], [2, 6, 10]])
    np.testing.assert_array_equal(found["half"], np.arange(4))
    assert found["half"].dtype == np.float16
    assert (found["number"], found["step"]) == (5, 7)


@pytest.mark.parametrize(
    ("offset", "size", "stride"), [(0, (13,), (1,)), (9, (2, 2), (2, 1)), (-1, (2,), (1,)), (0, (10**6,), (0,))]
)
def test_a_tensor_that_looks_beyond_what_is_stored_is_refused(offset, size, stride, tmp_path, monkeypatch):
    path = written(tmp_path / "a.pt", {"x": Tensor("FloatStorage", "0", offset, size, stride)}, FLOATS, monkeypatch)
    with pytest.raises(InvalidInput, match=r"a tensor of size"):
        read_tensors(path)


class Runs:
    def __reduce__(self):
        return print, ("it ran",)


def test_a_pickle_that_would_run_a_program_runs_none(tmp_path, monkeypatch, capsys):
    with pytest.raises(InvalidInput, match=r"it asks for (builtins|__builtin__)\.print, which is no tensor"):
        read_tensors(written(tmp_path / "a.pt", {"x": Runs()}, {}, monkeypatch))
    assert "it ran" not in capsys.readouterr().out


def test_other_files_are_told(tmp_path, monkeypatch):
    with pytest.raises(InvalidInput, match="no file of weights at"):
        read_tensors(tmp_path / "a.pt")
    (tmp_path / "a.pt").write_bytes(pickle.dumps({}))
    with pytest.raises(InvalidInput, match=r"no zip file.*weights_only=True"):
        read_tensors(tmp_path / "a.pt")
    with pytest.raises(InvalidInput, match="another byte order"):
        read_tensors(written(tmp_path / "b.pt", {}, {}, monkeypatch, order=b"big"))
    (tmp_path / "a.safetensors").write_bytes(b"nothing")
    with pytest.raises(InvalidInput, match="cannot be read as weights"):
        read_tensors(tmp_path / "a.safetensors")


def test_of_a_checkpoint_of_ddim_the_average_is_taken():
    network, average = {"module.a": np.zeros(1)}, {"a": np.ones(1)}
    assert states([network, {}, 1, 2, average]) == average
    assert states([network, {}, 1, 2]) == {"a": np.zeros(1)}
    assert states(average) is average
