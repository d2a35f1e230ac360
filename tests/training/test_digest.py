"""A digest knows every change in one place, and is the same on every layout."""

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from jax_ddpm.training.digest import digest
from jax_ddpm.training.sharding import make_mesh, replicated, split_batch, split_state

KINDS = [np.float32, np.int32, np.uint32, np.float16, np.int8, jnp.bfloat16]


@given(data=st.data(), kind=st.sampled_from(KINDS))
def test_every_bit_that_is_flipped_is_known(data, kind):
    shape = data.draw(array_shapes(min_dims=0, max_side=5))
    size = np.dtype(kind).itemsize
    raw = data.draw(arrays(np.uint8, (*shape, size)))
    place, bit = data.draw(st.integers(0, raw.size - 1)), data.draw(st.integers(0, 7))
    changed = raw.copy()
    changed.reshape(-1)[place] ^= 1 << bit
    before, after = (jnp.asarray(each.reshape(-1).view(kind).reshape(shape)) for each in (raw, changed))
    assert digest([before]) != digest([after])


def test_it_is_the_sum_that_it_says():
    bits = np.array([[3, 5], [7, 2**32 - 1]], np.uint32)
    odd = [(place * 2654435761) % 2**32 | 1 for place in range(4)]
    expected = sum(int(number) * factor for number, factor in zip(bits.ravel(), odd, strict=True)) % 2**32
    assert digest({"a": jnp.asarray(bits), "b": jnp.uint32(9)}) == [expected, 9]


def test_values_that_change_places_are_known():
    assert digest([jnp.array([1.0, 2.0])]) != digest([jnp.array([2.0, 1.0])])
    assert digest([jnp.zeros(3), jnp.ones(3)]) != digest([jnp.ones(3), jnp.zeros(3)])


def test_it_is_the_same_on_every_layout():
    tree = {"w": jax.random.normal(jax.random.key(0), (8, 12, 4)), "key": jax.random.key(1)}
    mesh = make_mesh(2, 2)
    whole = jax.device_put(tree, replicated(mesh))
    rows = {**tree, "w": jax.device_put(tree["w"], split_batch(mesh))}
    columns = jax.device_put(tree, split_state(tree, mesh, ("w=1",)))
    assert digest(tree) == digest(whole) == digest(rows) == digest(columns)
