"""Parameters alone, as one safetensors file: small, and opened by any program that knows the format."""

from pathlib import Path
from typing import Any, NamedTuple

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
DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16, "float16": jnp.float16}  # what they may be stored in


class Weights(NamedTuple):
    """What a file holds: parameters, as a tree, and how many steps they were trained for."""

    params: Params
    step: int


def write_weights(path: Path, params: Params, step: int, dtype: DTypeLike = jnp.float32) -> Path:
    """Writes each tensor under its path in the tree, its parts joined by dots.

    Args:
      step: how many steps the parameters were trained for.
      dtype: what they are stored in, see `rounded`.
    Raises:
      InvalidInput: a number is too large for `dtype`.
    """
    content = save(rounded(flatten_dict(params, sep="."), dtype), {"step": str(step)})
    return write_whole(path, lambda path: path.write_bytes(content))


def rounded(params: Params, dtype: DTypeLike) -> Params:
    """The parameters in another type. Of each number bfloat16 keeps 8 bits, float16 11 where it is at least 6e-5 in size.

    Raises:
      InvalidInput: a number is too large for `dtype`, which float16 is from 65,520 on; the message names the tensor.
    """

    def stored(path: tuple[Any, ...], value: jax.Array) -> jax.Array:
        cast = jnp.asarray(value, dtype)
        if bool((jnp.isinf(cast) & jnp.isfinite(value)).any()):
            name, largest = jax.tree_util.keystr(path, simple=True, separator="."), float(jnp.abs(value).max())
            raise InvalidInput(
                f"{name} has numbers up to {largest:.3g}, too large for {cast.dtype}: expected bfloat16 or float32"
            )
        return cast

    return jax.tree_util.tree_map_with_path(stored, params)


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
