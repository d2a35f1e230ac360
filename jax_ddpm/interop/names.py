"""Tensors of other systems under our names and in our order of axes, and ours in theirs."""

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from jax_ddpm.errors import InvalidInput
from jax_ddpm.training.state import Params

LEAVES = {"kernel": "weight", "scale": "weight", "embedding": "weight", "bias": "bias"}
"""What PyTorch calls the tensors of a layer."""

Settings = dict[str, dict[str, Any]]
"""Settings of a run by group and name, as config.json has them."""


class Found(NamedTuple):
    """A network of another system.

    Attributes:
      format: of what kind it is, for the user.
      settings: those of a run that follow from it; what it does not say is left out.
      params: (like, model) -> its parameters under our names, NumPy arrays; `like` has the shapes wanted, `model` the settings
        of the network.
      open: settings that nothing in it says, and that have to be given: dotted names.
      assumed: settings that nothing in it says either, but that are taken to be as `why` has it; the user is told of each.
    """

    format: str
    settings: Settings
    params: Callable[[Params, Mapping[str, Any]], Params]
    open: tuple[str, ...] = ()
    assumed: tuple[str, ...] = ()
    why: str = ""


def has_module(tensors: Mapping[str, np.ndarray], module: str) -> bool:
    """Whether a layer is there: a tensor of it, so that another one that is missing is told as missing."""
    return any(f"{module}.{leaf}" in tensors for leaf in ("weight", "bias"))


def shape_of(tensors: Mapping[str, np.ndarray], name: str, axes: int) -> tuple[int, ...]:
    """The shape of a tensor that tells something of the network.

    Raises:
      InvalidInput: it is missing, or has not so many axes; the message names it.
    """
    if name not in tensors:
        check_names([name], ())
    shape = tensors[name].shape
    if len(shape) != axes or 0 in shape:
        raise InvalidInput(f"{name} has shape {shape}: expected {axes} axes, none of them empty")
    return shape


def check_names(wanted: Collection[str], found: Collection[str]) -> None:
    """Raises InvalidInput where a tensor is missing or left over; the message names it."""
    missing, left_over = set(wanted) - set(found), set(found) - set(wanted)
    if missing or left_over:
        raise InvalidInput(
            f"these are not the tensors of this network: missing {_listed(missing)}; left over {_listed(left_over)}"
        )


def to_ours(tensors: Mapping[str, np.ndarray], like: Params, name_of: Callable[[str], str]) -> Params:
    """Our parameters from tensors of PyTorch.

    Args:
      tensors: by name; convolutions are [out, in, height, width], dense layers [out, in] or convolutions over one pixel.
      like: the shapes wanted.
      name_of: what a tensor of ours is called there; ours is its path in the tree, joined by dots.
    Returns:
      A tree of NumPy arrays.
    Raises:
      InvalidInput: a tensor is missing, left over or of another shape; the message names it.
    """
    wanted = flatten_dict(like, sep=".")
    theirs = {name: name_of(name) for name in wanted}
    check_names(theirs.values(), tensors.keys())
    turned = {name: _turned(name, theirs[name], tensors[theirs[name]], wanted[name]) for name in wanted}
    return unflatten_dict(turned, sep=".")


def to_theirs(params: Params, name_of: Callable[[str], str]) -> dict[str, np.ndarray]:
    """Tensors of PyTorch from our parameters: the other way round; what is a dense layer here is one there."""
    flat = flatten_dict(params, sep=".")
    return {name_of(name): _turned_back(name, np.asarray(value)) for name, value in flat.items()}


def _listed(names: Iterable[str]) -> str:
    first, more = sorted(names)[:8], len(sorted(names)) - 8
    return (", ".join(first) or "none") + (f" and {more} more" if more > 0 else "")


def _turned(ours: str, name: str, tensor: np.ndarray, wanted: jax.ShapeDtypeStruct) -> np.ndarray:
    """[out, in, height, width] -> [height, width, in, out]; [out, in], [out, in, 1] or [out, in, 1, 1] -> [in, out]."""
    turned = tensor
    if tensor.ndim > len(wanted.shape) == 2 and set(tensor.shape[2:]) == {1}:
        turned = tensor.reshape(tensor.shape[:2])
    if not ours.endswith(".embedding"):  # a row a label, here and there
        turned = turned.transpose(2, 3, 1, 0) if turned.ndim == 4 else turned.T
    if turned.shape != wanted.shape:
        raise InvalidInput(f"{name} has shape {tensor.shape}: turned to our order {turned.shape}, expected {wanted.shape}")
    return turned


def _turned_back(ours: str, value: np.ndarray) -> np.ndarray:
    if ours.endswith(".embedding"):
        return value
    if value.ndim == 2 and ours.endswith("_resnet.skip.kernel"):
        return value.T[:, :, None, None]
    return value.transpose(3, 2, 0, 1) if value.ndim == 4 else value.T
