"""Where arrays lie, by rule and by size."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.sharding import PartitionSpec

from jax_ddpm.errors import InvalidInput
from jax_ddpm.training.sharding import (
    abstract,
    gathered,
    make_mesh,
    own_rows,
    replicated,
    share_out,
    split_batch,
    split_state,
    to_devices,
)

LIKE = {
    "params": {
        "conv": {"kernel": jax.ShapeDtypeStruct((3, 3, 64, 32), jnp.float32), "bias": jax.ShapeDtypeStruct((32,), jnp.float32)},
        "odd": {"kernel": jax.ShapeDtypeStruct((3, 3, 33, 11), jnp.float32)},
    },
    "step": jax.ShapeDtypeStruct((), jnp.int32),
}


def specs(rules=(), fsdp=2):
    return jax.tree.map(lambda sharding: sharding.spec, split_state(LIKE, make_mesh(fsdp=fsdp), rules))


@pytest.mark.parametrize(("data", "fsdp", "shape"), [(0, 1, (4, 1)), (0, 2, (2, 2)), (4, 1, (4, 1)), (1, 4, (1, 4))])
def test_the_mesh_takes_all_devices(data, fsdp, shape):
    assert tuple(make_mesh(data, fsdp).shape.values()) == shape


@pytest.mark.parametrize(("data", "fsdp"), [(3, 1), (4, 2), (0, 3), (2, 1), (0, 0), (-1, 1), (0, 8)])
def test_a_mesh_of_other_than_all_devices_is_refused(data, fsdp):
    with pytest.raises(InvalidInput, match=rf"mesh.data={data} × mesh.fsdp={fsdp}, and there are 4 devices. .* 4×1, 2×2, 1×4"):
        make_mesh(data, fsdp)


def test_large_arrays_are_split_along_their_largest_axis():
    split = specs()
    assert split["params"]["conv"]["kernel"] == PartitionSpec(None, None, "fsdp")
    assert split["params"]["conv"]["bias"] == PartitionSpec(), "small"
    assert split["params"]["odd"]["kernel"] == PartitionSpec(), "no axis divides"
    assert split["step"] == PartitionSpec()


def test_without_fsdp_all_is_whole():
    assert set(jax.tree.leaves(specs(("kernel=2", ".*=largest"), fsdp=1))) == {PartitionSpec()}


def test_the_first_rule_whose_pattern_is_found_counts():
    split = specs(("conv/kernel=3", "conv/.*=largest", "kernel=0"), fsdp=1)
    assert split["params"]["odd"]["kernel"] == PartitionSpec()
    split = specs(("conv/kernel=3", "conv/.*=largest", "kernel=whole"))
    assert split["params"]["conv"]["kernel"] == PartitionSpec(None, None, None, "fsdp")
    assert split["params"]["conv"]["bias"] == PartitionSpec("fsdp")
    assert split["params"]["odd"]["kernel"] == PartitionSpec()


@pytest.mark.parametrize("rule", ["kernel", "=whole", "kernel=all", "(=whole", "kernel=-1", ""])
def test_a_rule_that_is_none(rule):
    with pytest.raises(InvalidInput, match=r"mesh.rules: .* is no rule. Expected PATTERN=HOW"):
        specs((rule,))


def test_a_rule_that_fits_nothing():
    with pytest.raises(
        InvalidInput, match=r"mesh.rules: 'label=whole' fits nothing in the state, where there is params/conv/bias, "
    ):
        specs(("kernel=whole", "label=whole"))


def test_an_axis_that_cannot_be_split():
    with pytest.raises(
        InvalidInput, match=r"axis 0 of params/conv/kernel \[3, 3, 64, 32\] .* mesh.fsdp=2. Expected 2, 3, whole"
    ):
        specs(("conv/kernel=0",))


@given(
    shape=st.lists(st.integers(1, 64), max_size=4), fsdp=st.sampled_from([1, 2, 4]), rules=st.sampled_from([(), ("x=largest",)])
)
def test_every_array_lies_evenly_on_the_devices(shape, fsdp, rules):
    (sharding,) = split_state({"x": jax.ShapeDtypeStruct(tuple(shape), jnp.float32)}, make_mesh(fsdp=fsdp), rules).values()
    part = sharding.shard_shape(tuple(shape))
    split_into = np.prod(shape) // np.prod(part)
    may_be_split = any(size % fsdp == 0 for size in shape) and (rules or np.prod(shape) >= 1024)
    assert split_into == (fsdp if may_be_split else 1)


def test_a_split_state_takes_its_part_of_each_device_and_is_whole_again():
    mesh = make_mesh(fsdp=4)
    array = jnp.arange(4096.0).reshape(64, 64)
    split = jax.device_put({"x": array}, split_state({"x": array}, mesh))
    assert {shard.data.shape for shard in split["x"].addressable_shards} == {(64, 16)}
    whole = gathered(split, mesh)["x"]
    assert {shard.data.shape for shard in whole.addressable_shards} == {(64, 64)}
    np.testing.assert_array_equal(whole, array)


def test_a_batch_is_split_over_both_axes():
    batch = to_devices({"image": np.arange(8.0)}, make_mesh(2, 2))
    assert [shard.data.tolist() for shard in batch["image"].addressable_shards] == [[0, 1], [2, 3], [4, 5], [6, 7]]


@pytest.mark.parametrize("layout", [(4, 1), (2, 2), (1, 4)])
def test_one_process_has_every_row(layout):
    assert own_rows(8, make_mesh(*layout)).tolist() == list(range(8))


def test_what_every_process_has_is_shared_out():
    batch = share_out({"image": np.arange(16.0).reshape(8, 2)}, make_mesh(2, 2))
    assert {shard.data.shape for shard in batch["image"].addressable_shards} == {(2, 2)}
    np.testing.assert_array_equal(batch["image"], np.arange(16.0).reshape(8, 2))


def test_abstract_takes_one_sharding_for_all_or_a_tree():
    mesh = make_mesh()
    one = abstract(LIKE, replicated(mesh))
    assert {leaf.sharding for leaf in jax.tree.leaves(one)} == {replicated(mesh)}
    each = abstract({"a": jnp.ones(4), "b": jnp.ones(3)}, {"a": split_batch(mesh), "b": replicated(mesh)})
    assert each["a"].sharding == split_batch(mesh)
    assert (each["a"].shape, each["b"].shape) == ((4,), (3,))
