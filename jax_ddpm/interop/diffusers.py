"""U-Nets as diffusers lays them out (UNet2DModel): its names for our tensors, both ways."""

import re
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np

from jax_ddpm.interop.diffusers_config import unet_settings
from jax_ddpm.interop.names import LEAVES, Found, to_ours, to_theirs
from jax_ddpm.training.state import Params

_MODULES = {"time_0": "time_embedding.linear_1", "time_1": "time_embedding.linear_2", "norm_out": "conv_norm_out"} | {
    "label": "class_embedding"
}
_MIDDLE = {"0_resnet": "resnets.0", "1_resnet": "resnets.1", "attention": "attentions.0"}
_IN_RESNET = {"embedding": "time_emb_proj", "skip": "conv_shortcut"}
_IN_ATTENTION = {"norm": "group_norm", "query": "to_q", "key": "to_k", "value": "to_v", "out": "to_out.0"}
_OLD_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


def find_diffusers(network: Mapping[str, Any], tensors: Mapping[str, np.ndarray], given: Mapping[str, Any]) -> Found:
    """The U-Net that a config.json and a state dict of diffusers make.

    Args:
      network: what config.json says.
      tensors: by name; attention by its new or its old names.
      given: settings that the user has given, dotted; data.image_size is needed where sample_size is not there.
    Raises:
      InvalidInput: it has a part that this U-Net does not; the message names the key, its value and what there is.
    """
    tensors = {_new_name(name): tensor for name, tensor in tensors.items()}
    settings = unet_settings(network, given.get("data.image_size"))
    return Found("diffusers' U-Net", settings, lambda like, _: from_diffusers(tensors, like))


def from_diffusers(tensors: Mapping[str, np.ndarray], like: Params) -> Params:
    """Our parameters from a state dict of diffusers' UNet2DModel; arguments and errors as in `to_ours`."""
    return to_ours(tensors, like, partial(diffusers_name, levels=_levels(like)))


def to_diffusers(params: Params) -> dict[str, np.ndarray]:
    """The state dict from our parameters."""
    return to_theirs(params, partial(diffusers_name, levels=_levels(params)))


def _levels(params: Params) -> int:
    return 1 + max(int(found[1]) for name in params if (found := re.match(r"up_(\d+)_", name)))


def diffusers_name(name: str, levels: int) -> str:
    """What diffusers calls our tensor: down_0_1_resnet.conv1.kernel is down_blocks.0.resnets.1.conv1.weight.

    Args:
      name: its path in our tree, joined by dots.
      levels: how many resolutions the network has; diffusers counts them from the coarsest on the way up.
    """
    module, *inside, leaf = name.split(".")
    return ".".join([_module_name(module, levels), *(_inside_name(module, each) for each in inside), LEAVES[leaf]])


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


def _new_name(name: str) -> str:
    return re.sub(r"(?<=\.)(query|key|value|proj_attn)(?=\.(?:weight|bias)$)", lambda old: _OLD_ATTENTION[old[1]], name)
