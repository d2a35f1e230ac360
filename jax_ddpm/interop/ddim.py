"""U-Nets as the public code of DDIM keeps them (pesser/ddim and pesser/pytorch_diffusion), which are DDPM's own networks."""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from jax_ddpm.errors import InvalidInput
from jax_ddpm.interop.names import LEAVES, Found, Settings, has_module, shape_of, to_ours

_MODULES = {"time_0": "temb.dense.0", "time_1": "temb.dense.1"} | {
    **{"mid_0_resnet": "mid.block_1", "mid_attention": "mid.attn_1", "mid_1_resnet": "mid.block_2"},
}
_KINDS = {"resnet": "block", "attention": "attn"}
_INSIDE = {"embedding": "temb_proj", "skip": "nin_shortcut", "query": "q", "key": "k", "value": "v", "out": "proj_out"}
# How the published ones were trained, by channels and multipliers: those for CIFAR-10 and CelebA at 64 pixels, and at 256.
_SMALL, _LARGE = {"dropout": 0.1, "variance": "fixed_large"}, {"dropout": 0.0, "variance": "fixed_small"}
_PUBLISHED = {(128, (1, 2, 2, 2)): _SMALL, (128, (1, 2, 2, 2, 4)): _SMALL, (128, (1, 1, 2, 2, 4, 4)): _LARGE}


def is_ddim(tensors: Mapping[str, np.ndarray]) -> bool:
    """Whether these are the tensors of such a network."""
    return any(name.startswith("temb.dense.") for name in tensors)


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
    Returns:
      It; of what no tensor tells, the noise is DDPM's, dropout and variance those of the published network of this shape.
    Raises:
      InvalidInput: its structure is that of no such network.
    """
    levels, blocks = _count(tensors, r"down\.(\d+)\."), _count(tensors, r"down\.0\.block\.(\d+)\.")
    if not levels:
        raise InvalidInput("there is no tensor of down.0: expected levels on the way down")
    channels, colours = shape_of(tensors, "conv_in.weight", 4)[:2]
    multipliers = tuple(_multiplier(tensors, f"down.{level}.block.0.conv1.weight", channels) for level in range(levels))
    attention = [level for level in range(levels) if has_module(tensors, f"down.{level}.attn.0.q")]
    known = _PUBLISHED.get((channels, multipliers))
    usual = known or _LARGE
    size = given.get("data.image_size") or (16 * 2 ** attention[0] if len(attention) == 1 else 0)
    model = {
        "network": "unet",
        "channels": channels,
        "multipliers": multipliers,
        "blocks": blocks,
        "attention_resolutions": tuple(size // 2**level for level in attention),
        "dropout": usual["dropout"],
        "heads": 1,
    }
    settings: Settings = {
        "model": model,
        "data": {"image_size": size, "channels": colours, "class_names": ()},
        "diffusion": {"schedule": "linear", "steps": 1000, "prediction": "eps", "loss": "eps", "variance": usual["variance"]},
    }
    assumed = ("model.dropout", *(f"diffusion.{name}" for name in settings["diffusion"]))
    unknown = () if size else ("data.image_size",)
    return Found(
        format="DDIM's U-Net",
        settings=settings,
        params=lambda like, _: to_ours(tensors, like, ddim_name),
        open=unknown,
        assumed=assumed if unknown else ("data.image_size", *assumed),
        why="known of the published network that has them" if known else "as the published networks have it",
    )


def _count(tensors: Mapping[str, np.ndarray], pattern: str) -> int:
    """One more than the largest number that stands in a name where the pattern has a group; 0 where it is in none."""
    return max((1 + int(found[1]) for name in tensors if (found := re.match(pattern, name))), default=0)


def _multiplier(tensors: Mapping[str, np.ndarray], name: str, channels: int) -> int:
    width = shape_of(tensors, name, 4)[0]
    if width % channels:
        raise InvalidInput(f"{name} has {width} rows: expected a multiple of those of conv_in.weight, {channels}")
    return width // channels


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
