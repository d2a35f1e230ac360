"""Files as `torch.save` writes them, put together here byte by byte; `make parity` reads those that PyTorch itself writes."""

import collections
import io
import pickle
import zipfile

import numpy as np
import pytest

from jax_ddpm.errors import InvalidInput
from jax_ddpm.interop.pth import read_pth
from tests.interop.written import View, pickled

MEMORY = {"0": np.arange(12, dtype=np.float32), "1": np.array([7], np.int64)}
ROWS = ("0", "FloatStorage", 2, (2, 3), (4, 1))  # storage, its type, offset, shape, strides
COUNT = ("1", "LongStorage", 0, (), ())


def legacy(pickled_dict):
    head = [pickle.dumps(each, 2) for each in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})]
    tail = [len(each).to_bytes(8, "little") + each.tobytes() for each in MEMORY.values()]
    return b"".join([*head, pickled_dict, pickle.dumps(list(MEMORY), 2), *tail])


def zipped(pickled_dict):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("weights/data.pkl", pickled_dict)
        for key, memory in MEMORY.items():
            archive.writestr(f"weights/data/{key}", memory.tobytes())
    return file.getvalue()


FORMS = pytest.mark.parametrize("form", [legacy, zipped])


@FORMS
def test_tensors_are_views_of_their_memory(form, tmp_path):
    tensors = collections.OrderedDict(rows=View(*ROWS), count=View(*COUNT))
    (tmp_path / "weights.pth").write_bytes(form(pickled(tensors)))
    found = read_pth(tmp_path / "weights.pth")
    assert list(found) == ["rows", "count"]
    np.testing.assert_array_equal(found["rows"], [[2, 3, 4], [6, 7, 8]])
    assert (found["rows"].dtype, found["count"].dtype, int(found["count"])) == (np.float32, np.int64, 7)


class Harm:
    def __reduce__(self):
        return print, ("this was run",)


@FORMS
def test_nothing_that_a_file_asks_for_is_run(form, tmp_path, capsys):
    (tmp_path / "weights.pth").write_bytes(form(pickled({"rows": Harm()})))
    with pytest.raises(InvalidInput, match=r"it asks for __builtin__\.print: expected nothing but tensors of numbers"):
        read_pth(tmp_path / "weights.pth")
    assert capsys.readouterr().out == ""


@FORMS
@pytest.mark.parametrize("where", [(2, (2, 3), (8, 1)), (-1, (2, 3), (4, 1)), (2, (2, 3), (-4, 1)), (12, (), ())])
def test_a_tensor_does_not_reach_beyond_its_memory(form, where, tmp_path):
    (tmp_path / "weights.pth").write_bytes(form(pickled({"rows": View("0", "FloatStorage", *where), "count": View(*COUNT)})))
    with pytest.raises(InvalidInput, match="reaches beyond the 12 numbers that are there"):
        read_pth(tmp_path / "weights.pth")


@FORMS
def test_what_is_cut_short_or_holds_something_else_is_told(form, tmp_path):
    whole = form(pickled({"rows": View(*ROWS), "count": View(*COUNT)}))
    (tmp_path / "cut.pth").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InvalidInput, match=r"cut\.pth"):
        read_pth(tmp_path / "cut.pth")
    (tmp_path / "other.pth").write_bytes(form(pickled({"rows": View(*ROWS), "count": View(*COUNT), "epoch": 3})))
    with pytest.raises(InvalidInput, match="something else than tensors by name"):
        read_pth(tmp_path / "other.pth")


def test_what_is_no_such_file_is_told(tmp_path):
    (tmp_path / "text.pth").write_text("<html>not found</html>")
    with pytest.raises(InvalidInput, match=r"text\.pth cannot be read as a file of PyTorch"):
        read_pth(tmp_path / "text.pth")
