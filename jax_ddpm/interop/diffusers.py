"""Weights of the U-Net as diffusers lays them out (UNet2DModel), under our names and in our order of axes."""

import re
from collections.abc import Mapping

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from jax_ddpm.errors import InvalidInput
from jax_ddpm.training.state import Params

_MODULES = {"time_0": "time_embedding.linear_1", "time_1": "time_embedding.linear_2", "norm_out": "conv_norm_out"}
_MIDDLE = {"0_resnet": "resnets.0", "1_resnet": "resnets.1", "attention": "attentions.0"}
_IN_RESNET = {"embedding": "time_emb_proj", "skip": "conv_shortcut"}
_IN_ATTENTION = {"norm": "group_norm", "query": "to_q", "key": "to_k", "value": "to_v", "out": "to_out.0"}
_LEAVES = {"kernel": "weight", "scale": "weight", "bias": "bias"}


def from_diffusers(tensors: Mapping[str, np.ndarray], like: Params) -> Params:
    """Our parameters from a state dict of diffusers' UNet2DModel.

    Args:
      tensors: by name; convolutions are [out, in, height, width], dense layers [out, in].
      like: the shapes wanted, those of a U-Net of the same architecture.
    Returns:
      A tree of NumPy arrays.
    Raises:
      InvalidInput: a tensor is missing, left over or of another shape; the message names it.
    """
    wanted = flatten_dict(like, sep=".")
    levels = 1 + max(int(found[1]) for name in wanted if (found := re.match(r"up_(\d+)_", name)))
    theirs = {name: diffusers_name(name, levels) for name in wanted}
    missing, left_over = set(theirs.values()) - tensors.keys(), tensors.keys() - set(theirs.values())
    if missing or left_over:
        raise InvalidInput(
            f"these are not the tensors of this network: missing {', '.join(sorted(missing)) or 'none'}; "
            f"left over {', '.join(sorted(left_over)) or 'none'}"
        )
    return unflatten_dict({name: _turned(theirs[name], tensors[theirs[name]], wanted[name]) for name in wanted}, sep=".")


def diffusers_name(name: str, levels: int) -> str:
    """What diffusers calls our tensor: down_0_1_resnet.conv1.kernel is down_blocks.0.resnets.1.conv1.weight.

    Args:
      name: its path in our tree, joined by dots.
      levels: how many resolutions the network has; diffusers counts them from the coarsest on the way up.
    """
    module, *inside, leaf = name.split(".")
    return ".".join([_module_name(module, levels), *(_inside_name(module, each) for each in inside), _LEAVES[leaf]])


def _module_name(module: str, levels: int) -> str:
    way, _, place = module.partition("_")
    if way == "mid":
        return f"mid_block.{_MIDDLE[place]}"
    if way not in ("down", "up"):
        return _MODULES.get(module, module)
    level, _, part = place.partition("_")
    block = f"{way}_blocks.{int(level) if way == 'down' else levels - 1 - int(level)}"
    if part in ("downsample", "upsample"):
        return f"{block}.{part}rs.0"
    number, kind = part.split("_")
    return f"{block}.{kind}s.{number}"


def _inside_name(module: str, part: str) -> str:
    return (_IN_ATTENTION if module.endswith("attention") else _IN_RESNET).get(part, part)


def _turned(name: str, tensor: np.ndarray, wanted: jax.ShapeDtypeStruct) -> np.ndarray:
    """[out, in, height, width] -> [height, width, in, out], [out, in] or [out, in, 1, 1] -> [in, out]."""
    turned = tensor.transpose(2, 3, 1, 0) if tensor.ndim == 4 else tensor.T
    if turned.ndim == 4 and len(wanted.shape) == 2 and turned.shape[:2] == (1, 1):
        turned = turned[0, 0]
    if turned.shape != wanted.shape:
        raise InvalidInput(f"{name} has shape {tensor.shape}: turned to our order {turned.shape}, expected {wanted.shape}")
    return turned
