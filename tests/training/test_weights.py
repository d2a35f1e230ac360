"""Files of weights: what is written is what is read, by another reader of the format too, and what does not fit is named."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file

from jax_ddpm.errors import InvalidInput
from jax_ddpm.training.sharding import abstract, make_mesh, replicated
from jax_ddpm.training.weights import read_weights, write_weights

PARAMS = {"conv_in": {"kernel": np.random.default_rng(0).normal(size=(3, 3, 1, 8)), "bias": np.arange(8.0)}, "scale": 2.0}
PARAMS = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), PARAMS)


def like(params):
    return abstract(params, replicated(make_mesh()))


def test_float32_comes_back_bit_for_bit_where_it_is_wanted(tmp_path):
    path = write_weights(tmp_path / "zoo/weights.safetensors", PARAMS, 7)
    found = read_weights(path, like(PARAMS))
    assert found.step == 7
    chex.assert_trees_all_equal(found.params, PARAMS)
    assert found.params["conv_in"]["kernel"].sharding.is_equivalent_to(replicated(make_mesh()), 4)
    assert [each.name for each in path.parent.iterdir()] == ["weights.safetensors"]  # nothing half-written is left


def test_another_reader_finds_each_tensor_under_its_path(tmp_path):
    stored = load_file(write_weights(tmp_path / "weights.safetensors", PARAMS, 0))
    assert stored.keys() == {"conv_in.kernel", "conv_in.bias", "scale"}
    np.testing.assert_array_equal(stored["conv_in.kernel"], PARAMS["conv_in"]["kernel"])


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
@given(data=st.data())
def test_half_the_room_is_as_near_as_its_bits_are(tmp_path_factory, dtype, data):
    kept = jnp.finfo(dtype)
    value = data.draw(st.floats(width=32, min_value=float(kept.tiny), max_value=float(kept.max)))
    params = {"w": jnp.full((3,), value, jnp.float32)}
    path = write_weights(tmp_path_factory.mktemp("weights") / "weights.safetensors", params, 0, dtype)
    found = read_weights(path, like(params)).params["w"]
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, params["w"], rtol=2.0 ** -(kept.nmant + 1))


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_the_room_is_half(tmp_path, dtype):
    params = {"w": jnp.ones((1000, 100))}
    sizes = [write_weights(tmp_path / "w", params, 0, each).stat().st_size for each in (jnp.float32, dtype)]
    assert sizes[0] - sizes[1] == 200_000


def test_a_number_too_large_for_its_type_is_refused_by_name(tmp_path):
    params = {"conv_in": {"kernel": jnp.array([1.0, -7e4])}}
    with pytest.raises(
        InvalidInput, match=r"conv_in\.kernel has numbers up to 7e\+04, too large for float16: expected bfloat16"
    ):
        write_weights(tmp_path / "weights.safetensors", params, 0, jnp.float16)
    assert not list(tmp_path.iterdir())
    write_weights(tmp_path / "weights.safetensors", params, 0, jnp.bfloat16)


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({**PARAMS, "more": jnp.zeros(2)}, r"another network: more is missing$"),
        ({"scale": PARAMS["scale"]}, r"conv_in\.bias is left over; conv_in\.kernel is left over$"),
        ({**PARAMS, "scale": jnp.zeros(2)}, r"scale has shape \(\), expected \(2,\)"),
        ({str(number): jnp.zeros(2) for number in range(9)}, r"4 is missing, and 7 more"),
    ],
)
def test_weights_of_another_network_are_refused_by_name(tmp_path, wanted, message):
    path = write_weights(tmp_path / "weights.safetensors", PARAMS, 0)
    with pytest.raises(InvalidInput, match=message):
        read_weights(path, like(wanted))


@pytest.mark.parametrize("content", [b"", b"no tensors at all", None])
def test_file_that_cannot_be_read_is_named(tmp_path, content):
    path = write_weights(tmp_path / "weights.safetensors", PARAMS, 0)
    path.write_bytes(path.read_bytes()[:-10] if content is None else content)
    with pytest.raises(InvalidInput, match=r"weights\.safetensors cannot be read as safetensors"):
        read_weights(path, like(PARAMS))
