"""Files of weights by their kind, and what of them is tensors by name."""

import numpy as np
import pytest
from safetensors.numpy import save_file

from jax_ddpm.errors import InvalidInput
from jax_ddpm.interop.ddim import states
from jax_ddpm.interop.tensors import by_name, read_tensors
from tests.interop.written import write_pth

TENSORS = {"a.weight": np.arange(6, dtype=np.float16).reshape(2, 3), "a.bias": np.ones(2, np.float16)}


@pytest.mark.parametrize("name", ["a.safetensors", "a.pt", "a.bin", "a.ckpt"])
def test_both_kinds_of_file_are_read(name, tmp_path):
    write = save_file if name.endswith("safetensors") else lambda tensors, path: write_pth(path, tensors)
    write(TENSORS, tmp_path / name)
    found = by_name(read_tensors(tmp_path / name), tmp_path / name)
    assert found.keys() == TENSORS.keys()
    for each, tensor in TENSORS.items():
        np.testing.assert_array_equal(found[each], tensor)


def test_other_files_are_told(tmp_path):
    with pytest.raises(InvalidInput, match="no file of weights at"):
        read_tensors(tmp_path / "a.pt")
    (tmp_path / "a.safetensors").write_bytes(b"nothing")
    with pytest.raises(InvalidInput, match="cannot be read as weights"):
        read_tensors(tmp_path / "a.safetensors")


@pytest.mark.parametrize("content", [[np.zeros(1)], {"a": np.zeros(1), "epoch": 3}])
def test_something_else_than_tensors_by_name_is_told(content, tmp_path):
    with pytest.raises(InvalidInput, match="something else than tensors by name"):
        by_name(content, tmp_path)


def test_of_a_checkpoint_of_ddim_the_average_is_taken():
    network, average = {"module.a": np.zeros(1)}, {"a": np.ones(1)}
    assert states([network, {}, 1, 2, average]) == average
    assert states([network, {}, 1, 2]) == {"a": np.zeros(1)}
    assert states(average) is average
