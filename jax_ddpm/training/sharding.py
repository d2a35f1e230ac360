"""How arrays lie on the devices: the batch split along one axis, everything else whole on each."""

from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jax_ddpm.errors import InvalidInput

DATA_AXIS = "data"


def make_mesh() -> Mesh:
    """All devices, of all processes, in one axis."""
    return jax.make_mesh((jax.device_count(),), (DATA_AXIS,), axis_types=(AxisType.Auto,))


def replicated(mesh: Mesh) -> NamedSharding:
    """The whole array on every device."""
    return NamedSharding(mesh, PartitionSpec())


def split_batch(mesh: Mesh) -> NamedSharding:
    """The first axis shared out over the devices."""
    return NamedSharding(mesh, PartitionSpec(DATA_AXIS))


def check_batch(batch_size: int, accumulate: int, devices: int) -> None:
    """Raises InvalidInput where a batch does not divide over the devices and the parts it is worked off in."""
    if batch_size < 1 or accumulate < 1 or batch_size % (devices * accumulate):
        multiple = devices * max(accumulate, 1)
        nearest = max(round(batch_size / multiple), 1) * multiple
        raise InvalidInput(
            f"train.batch_size={batch_size} does not divide over {devices} devices × train.accumulate={accumulate}: "
            f"expected a multiple of {multiple}, such as {nearest}"
        )


def to_devices(batch: Any, mesh: Mesh) -> Any:
    """This process's share of a batch (a tree of NumPy arrays), as part of arrays over all devices."""
    sharding = split_batch(mesh)
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, np.asarray(x)), batch)
