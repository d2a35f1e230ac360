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


@given(st.floats(width=32, allow_nan=False, min_value=2.0**-100, max_value=2.0**100))
def test_bfloat16_is_as_near_as_eight_bits_are(tmp_path_factory, value):
    params = {"w": jnp.full((3,), value, jnp.float32)}
    path = write_weights(tmp_path_factory.mktemp("weights") / "weights.safetensors", params, 0, jnp.bfloat16)
    found = read_weights(path, like(params)).params["w"]
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, params["w"], rtol=2.0**-8)


def test_bfloat16_takes_half_the_room(tmp_path):
    params = {"w": jnp.ones((1000, 100))}
    sizes = [write_weights(tmp_path / "w", params, 0, dtype).stat().st_size for dtype in (jnp.float32, jnp.bfloat16)]
    assert sizes[0] - sizes[1] == 200_000


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
