"""Parameters alone, as one safetensors file: small, and opened by any program that knows the format."""

from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.typing import DTypeLike
from safetensors import SafetensorError, safe_open
from safetensors.flax import save

from jax_ddpm.errors import InvalidInput
from jax_ddpm.files import as_local, write_whole
from jax_ddpm.training.state import Params

FILE_NAME = "weights.safetensors"


class Weights(NamedTuple):
    """What a file holds: parameters, as a tree, and how many steps they were trained for."""

    params: Params
    step: int


def write_weights(path: Path, params: Params, step: int, dtype: DTypeLike = jnp.float32) -> Path:
    """Writes each tensor under its path in the tree, its parts joined by dots.

    Args:
      step: how many steps the parameters were trained for.
      dtype: what they are stored in; bfloat16 takes half the room of float32 and keeps 8 bits of each number.
    """
    tensors = {name: jnp.asarray(value, dtype) for name, value in flatten_dict(params, sep=".").items()}
    content = save(tensors, {"step": str(step)})
    return write_whole(path, lambda path: path.write_bytes(content))


def read_weights(path: Path, like: Params) -> Weights:
    """The parameters in a file that `write_weights` made.

    Args:
      like: a tree of the shapes, types and shardings wanted: jax.ShapeDtypeStruct.
    Raises:
      InvalidInput: it is no such file, or holds the tensors of another network; the message names them.
    """
    try:
        with as_local(path) as local, safe_open(local, "flax") as file:
            names = file.keys()
            stored = {name: file.get_tensor(name) for name in names}
            step = int((file.metadata() or {}).get("step", 0))
    except (SafetensorError, OSError, ValueError) as error:
        raise InvalidInput(f"{path} cannot be read as safetensors: {error}") from error
    wanted = flatten_dict(like, sep=".")
    _check_same(path, stored, wanted)
    tensors = {name: jax.device_put(stored[name].astype(each.dtype), each.sharding) for name, each in wanted.items()}
    return Weights(unflatten_dict(tensors, sep="."), step)


def _check_same(path: Path, stored: dict[str, jax.Array], wanted: dict[str, jax.ShapeDtypeStruct]) -> None:
    """Raises InvalidInput where the names or the shapes are not those of the network."""
    wrong = [f"{name} is missing" for name in wanted.keys() - stored.keys()]
    wrong += [f"{name} is left over" for name in stored.keys() - wanted.keys()]
    wrong += [
        f"{name} has shape {stored[name].shape}, expected {wanted[name].shape}"
        for name in stored.keys() & wanted.keys()
        if stored[name].shape != wanted[name].shape
    ]
    if wrong:
        more = f", and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        raise InvalidInput(f"{path} holds the weights of another network: {'; '.join(sorted(wrong)[:5])}{more}")
