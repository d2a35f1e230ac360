"""How arrays lie on the devices: the batch split over all of them, the train state whole on each or split over some."""

import re
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jax_ddpm.errors import InvalidInput

DATA_AXIS = "data"
"""Along it the batch is split."""
FSDP_AXIS = "fsdp"
"""Along it the batch is split too, and with it the train state: fully sharded data parallelism (Rajbhandari et al. 2020)."""

WHOLE, LARGEST = "whole", "largest"
_WORTH_SPLITTING = 2**10  # numbers; less than that is sooner kept than asked for


def make_mesh(data: int = 0, fsdp: int = 1, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """All devices, of all processes, as a grid of `data` × `fsdp`.

    Args:
      data: how many along the first axis; 0: as many as there are for `fsdp`.
      devices: other ones than all.
    Raises:
      InvalidInput: there are not so many devices, or more.
    """
    devices = jax.devices() if devices is None else devices
    count = len(devices)
    if fsdp < 1 or data < 0 or count != (data or count // fsdp) * fsdp:
        known = [f"{count // size}×{size}" for size in range(1, count + 1) if count % size == 0]
        raise InvalidInput(
            f"mesh.data={data} × mesh.fsdp={fsdp}, and there are {count} devices. Expected one of {', '.join(known)}; "
            "of a CPU more can be made, by runtime.cpu_devices"
        )
    return jax.make_mesh((count // fsdp, fsdp), (DATA_AXIS, FSDP_AXIS), (AxisType.Auto,) * 2, devices=devices)


def replicated(mesh: Mesh) -> NamedSharding:
    """The whole array on every device."""
    return NamedSharding(mesh, PartitionSpec())


def split_batch(mesh: Mesh) -> NamedSharding:
    """The first axis shared out over all devices."""
    return NamedSharding(mesh, PartitionSpec((DATA_AXIS, FSDP_AXIS)))


def split_state(like: Any, mesh: Mesh, rules: Sequence[str] = ()) -> Any:
    """How each array of a train state lies on the devices: whole, or split along one of its axes over those of FSDP_AXIS.

    Args:
      like: a tree of arrays or jax.ShapeDtypeStruct.
      rules: each "PATTERN=HOW"; the first whose pattern is found in an array's path, such as "params/conv_in/kernel", says how
        it lies: "whole", "largest" (along the largest axis that divides) or the number of an axis. Where none is found, small
        arrays lie whole, all others as by "largest".
    Returns:
      A tree of NamedSharding.
    Raises:
      InvalidInput: a rule that is none or whose pattern is found nowhere, or an axis that is not there or does not divide.
    """
    compiled = [_rule(text) for text in rules]
    names = [_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(like)]
    for text, (pattern, _) in zip(rules, compiled, strict=True):
        if not any(map(pattern.search, names)):
            raise InvalidInput(f"mesh.rules: {text!r} fits nothing in the state, where there is {', '.join(names[:3])}, ...")

    def lay(path: Any, leaf: Any) -> NamedSharding:
        name = _name(path)
        usual = LARGEST if leaf.size >= _WORTH_SPLITTING else WHOLE
        how = next((how for pattern, how in compiled if pattern.search(name)), usual)
        return NamedSharding(mesh, _spec(name, leaf.shape, how, mesh.shape[FSDP_AXIS]))

    return jax.tree_util.tree_map_with_path(lay, like)


def _name(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _rule(text: str) -> tuple[re.Pattern[str], str]:
    pattern, _, how = text.rpartition("=")
    try:
        if pattern and (how in (WHOLE, LARGEST) or how.isdecimal()):
            return re.compile(pattern), how
    except re.error:
        pass
    raise InvalidInput(f"mesh.rules: {text!r} is no rule. Expected PATTERN=HOW, such as 'attention/.*kernel=whole'")


def _spec(name: str, shape: tuple[int, ...], how: str, parts: int) -> PartitionSpec:
    """Split along one axis into `parts`, or not at all."""
    fitting = [axis for axis, size in enumerate(shape) if size % parts == 0]
    if how == WHOLE or parts == 1 or (how == LARGEST and not fitting):
        return PartitionSpec()
    axis = max(fitting, key=lambda axis: (shape[axis], axis)) if how == LARGEST else int(how)
    if axis not in fitting:
        raise InvalidInput(
            f"mesh.rules: axis {axis} of {name} {list(shape)} cannot be split into mesh.fsdp={parts}. "
            f"Expected {', '.join([*map(str, fitting), WHOLE])}"
        )
    return PartitionSpec(*[None] * axis, FSDP_AXIS)


def abstract(tree: Any, shardings: Any) -> Any:
    """The shapes and types of a tree of arrays, to be laid out by one sharding for all or a tree of them."""

    def of(x: Any, sharding: jax.sharding.Sharding) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)

    return jax.tree.map(of, tree, jax.tree.broadcast(shardings, tree))


def gathered(tree: Any, mesh: Mesh) -> Any:
    """The same arrays, whole on every device."""
    return jax.jit(lambda tree: tree, out_shardings=replicated(mesh))(tree)


def check_batch(batch_size: int, accumulate: int, devices: int) -> None:
    """Raises InvalidInput where a batch does not divide over the devices and the parts it is worked off in."""
    if batch_size < 1 or accumulate < 1 or batch_size % (devices * accumulate):
        multiple = devices * max(accumulate, 1)
        nearest = max(round(batch_size / multiple), 1) * multiple
        raise InvalidInput(
            f"train.batch_size={batch_size} does not divide over {devices} devices × train.accumulate={accumulate}: "
            f"expected a multiple of {multiple}, such as {nearest}"
        )


def own_rows(batch_size: int, mesh: Mesh) -> np.ndarray:
    """Which examples of a batch lie on the devices of this process, in ascending order."""
    parts = split_batch(mesh).addressable_devices_indices_map((batch_size,)).values()
    return np.unique(np.concatenate([np.arange(batch_size)[part] for part in parts if part is not None]))


def to_devices(own: Any, mesh: Mesh) -> Any:
    """This process's rows of a batch (a tree of NumPy arrays), as part of arrays over all devices; see `own_rows`."""
    return jax.make_array_from_process_local_data(split_batch(mesh), own)


def share_out(whole: Any, mesh: Mesh) -> Any:
    """A batch (a tree of NumPy arrays) that every process has all of, split over all devices."""
    sharding = split_batch(mesh)
    return jax.tree.map(lambda x: jax.make_array_from_callback(x.shape, sharding, lambda part: x[part]), whole)
