"""U-Nets as the public code of DDIM keeps them (pesser/ddim and pesser/pytorch_diffusion), which are DDPM's own networks."""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from jax_ddpm.errors import InvalidInput
from jax_ddpm.interop.names import LEAVES, Found, Settings, to_ours

_MODULES = {"time_0": "temb.dense.0", "time_1": "temb.dense.1"} | {
    **{"mid_0_resnet": "mid.block_1", "mid_attention": "mid.attn_1", "mid_1_resnet": "mid.block_2"},
}
_KINDS = {"resnet": "block", "attention": "attn"}
_INSIDE = {"embedding": "temb_proj", "skip": "nin_shortcut", "query": "q", "key": "k", "value": "v", "out": "proj_out"}


def is_ddim(tensors: Mapping[str, np.ndarray]) -> bool:
    """Whether these are the tensors of such a network."""
    return "temb.dense.0.weight" in tensors


def states(content: Any) -> Any:
    """The state dict in what a file holds.

    Its training keeps [network, optimizer, epoch, step, average]: of that the average, or the network where there is none.
    """
    if not isinstance(content, list | tuple) or not content:
        return content
    state = content[4] if len(content) > 4 else content[0]
    return {name.removeprefix("module."): tensor for name, tensor in state.items()}


def find_ddim(tensors: Mapping[str, np.ndarray], given: Mapping[str, Any]) -> Found:
    """The network that a state dict is of.

    Args:
      tensors: by name.
      given: settings that the user has given, dotted; without data.image_size attention is taken to be at 16 pixels, as in
        all that were published.
    Raises:
      InvalidInput: its structure is that of no such network.
    """
    levels = 1 + max(int(found[1]) for name in tensors if (found := re.match(r"down\.(\d+)\.", name)))
    channels, colours = tensors["conv_in.weight"].shape[:2]
    widths = [tensors[f"down.{level}.block.0.conv1.weight"].shape[0] for level in range(levels)]
    if any(width % channels for width in widths):
        raise InvalidInput(f"levels of {widths} channels: expected multiples of those of conv_in, {channels}")
    attention = [level for level in range(levels) if f"down.{level}.attn.0.q.weight" in tensors]
    size = given.get("data.image_size") or (16 * 2 ** attention[0] if len(attention) == 1 else 0)
    model = {
        "network": "unet",
        "channels": channels,
        "multipliers": tuple(width // channels for width in widths),
        "blocks": sum(bool(re.fullmatch(r"down\.0\.block\.\d+\.conv1\.weight", name)) for name in tensors),
        "attention_resolutions": tuple(size // 2**level for level in attention),
        "dropout": 0.1 if len(widths) == 4 else 0.0,  # of CIFAR-10, and of the networks for 256 pixels
        "heads": 1,
    }
    variance = "fixed_large" if len(widths) == 4 else "fixed_small"
    settings: Settings = {
        "model": model,
        "data": {"image_size": size, "channels": colours, "class_names": ()},
        "diffusion": {"schedule": "linear", "steps": 1000, "prediction": "eps", "variance": variance, "loss": "eps"},
    }
    unknown = () if size else ("data.image_size",)
    return Found("DDIM's U-Net", settings, lambda like, _: to_ours(tensors, like, ddim_name), unknown)


def ddim_name(name: str) -> str:
    """What the public code calls our tensor: up_1_2_attention.out.kernel is up.1.attn.2.proj_out.weight."""
    module, *inside, leaf = name.split(".")
    return ".".join([_module_name(module), *(_INSIDE.get(part, part) for part in inside), LEAVES[leaf]])


def _module_name(module: str) -> str:
    way, _, place = module.partition("_")
    if way not in ("down", "up"):
        return _MODULES.get(module, module)
    level, _, part = place.partition("_")
    if part in ("downsample", "upsample"):
        return f"{way}.{level}.{part}"
    number, kind = part.split("_")
    return f"{way}.{level}.{_KINDS[kind]}.{number}"
