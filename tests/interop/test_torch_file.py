"""Files as `torch.save` writes them, put together here byte by byte; `make parity` reads those that PyTorch itself writes."""

import collections
import io
import pickle
import zipfile

import jax.numpy as jnp
import numpy as np
import pytest

from jax_ddpm.errors import InvalidInput
from jax_ddpm.interop.torch_file import read_torch_file
from tests.interop.written import View, pickled

MEMORY = {"0": np.arange(12, dtype=np.float32), "1": np.array([7], np.int64), "2": np.arange(4).astype(jnp.bfloat16)}
ROWS = ("0", "FloatStorage", 2, (2, 3), (4, 1))  # storage, its type, offset, shape, strides
COUNT, HALF = ("1", "LongStorage", 0, (), ()), ("2", "BFloat16Storage", 0, (4,), (1,))
ALL = {"rows": View(*ROWS), "count": View(*COUNT), "half": View(*HALF)}


def legacy(pickled_dict, order=b"little"):
    head = [pickle.dumps(each, 2) for each in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})]
    tail = [len(each).to_bytes(8, "little") + each.tobytes() for each in MEMORY.values()]
    return b"".join([*head, pickled_dict, pickle.dumps(list(MEMORY), 2), *tail])


def zipped(pickled_dict, order=b"little"):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("weights/data.pkl", pickled_dict)
        archive.writestr("weights/byteorder", order)
        for key, memory in MEMORY.items():
            archive.writestr(f"weights/data/{key}", memory.tobytes())
    return file.getvalue()


FORMS = pytest.mark.parametrize("form", [legacy, zipped])


def read(tmp_path, content):
    (tmp_path / "weights.pth").write_bytes(content)
    return read_torch_file(tmp_path / "weights.pth")


@FORMS
def test_tensors_are_views_of_their_memory(form, tmp_path):
    turned = View("0", "FloatStorage", 1, (2, 3), (1, 4))
    found = read(tmp_path, form(pickled(collections.OrderedDict(**ALL, turned=turned))))
    assert list(found) == ["rows", "count", "half", "turned"]
    np.testing.assert_array_equal(found["rows"], [[2, 3, 4], [6, 7, 8]])
    np.testing.assert_array_equal(found["turned"], [[1, 5, 9], [2, 6, 10]])
    np.testing.assert_array_equal(found["half"].astype(float), range(4))
    assert (found["rows"].dtype, found["count"].dtype, int(found["count"])) == (np.float32, np.int64, 7)


@FORMS
def test_containers_numbers_and_texts_stay(form, tmp_path):
    found = read(tmp_path, form(pickled([ALL, {"step": 3, "name": "a"}, (View(*COUNT), None)])))
    assert found[1] == {"step": 3, "name": "a"}
    assert (found[0]["count"], found[2][0], found[2][1]) == (7, 7, None)


class Harm:
    def __reduce__(self):
        return print, ("this was run",)


@FORMS
def test_nothing_that_a_file_asks_for_is_run(form, tmp_path, capsys):
    with pytest.raises(InvalidInput, match=r"it asks for __builtin__\.print: expected nothing but tensors of numbers"):
        read(tmp_path, form(pickled({"rows": Harm()})))
    assert capsys.readouterr().out == ""


WRONG = [(2, (2, 3), (8, 1)), (-1, (2, 3), (4, 1)), (2, (2, 3), (-4, 1)), (12, (), ()), (0, (10**6,), (0,))]


@FORMS
@pytest.mark.parametrize("where", WRONG)
def test_a_tensor_does_not_reach_beyond_its_memory(form, where, tmp_path):
    with pytest.raises(InvalidInput, match="reaches beyond the 12 numbers that are there"):
        read(tmp_path, form(pickled(ALL | {"rows": View("0", "FloatStorage", *where)})))


@FORMS
def test_what_is_cut_short_is_told(form, tmp_path):
    whole = form(pickled(ALL))
    with pytest.raises(InvalidInput, match=r"weights\.pth"):
        read(tmp_path, whole[: len(whole) // 2])


def test_what_is_no_such_file_is_told(tmp_path):
    with pytest.raises(InvalidInput, match=r"weights\.pth cannot be read as a file of PyTorch"):
        read(tmp_path, b"<html>not found</html>")
    with pytest.raises(InvalidInput, match="another byte order"):
        read(tmp_path, zipped(pickled(ALL), order=b"big"))
    file = io.BytesIO()
    zipfile.ZipFile(file, "w").close()
    with pytest.raises(InvalidInput, match=r"without the data\.pkl"):
        read(tmp_path, file.getvalue())
