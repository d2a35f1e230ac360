"""Networks as OpenAI's improved-diffusion and guided-diffusion keep them: U-Nets and classifiers, tensors without settings.

The architecture is read off the tensors. What they do not tell (how large the images are, how many heads attention has and in
what order its weights lie, how the noise grows) is known of the networks that were published, and has to be given of others.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np

from jax_ddpm.errors import InvalidInput
from jax_ddpm.interop.names import LEAVES, Found, Settings, to_ours
from jax_ddpm.training.state import Params

QKV = ("by_head", "whole")
"""How the rows of qkv lie: q, k and v of one head after another, or all of q, all of k, all of v (use_new_attention_order)."""

_IN_RESNET = {"norm1": "in_layers.0", "conv1": "in_layers.2", "embedding": "emb_layers.1", "norm2": "out_layers.0"} | {
    "conv2": "out_layers.3",
    "skip": "skip_connection",
}
_FIXED = {
    **{"conv_in": "input_blocks.0.0", "time_0": "time_embed.0", "time_1": "time_embed.2", "label": "label_emb"},
    **{"mid_0_resnet": "middle_block.0", "mid_attention": "middle_block.1", "mid_1_resnet": "middle_block.2"},
    **{"norm_out": "out.0", "conv_out": "out.2", "pool": "out.2", "logits": "out.2.c_proj"},
}
_LINEAR, _COSINE = {"schedule": "linear", "steps": 1000}, {"schedule": "cosine", "steps": 1000}
_LONG = {"schedule": "cosine", "steps": 4000}
# What the tensors of the published networks do not tell, by what they do: (channels, multipliers, whether the image changes its
# size within blocks, levels with attention, whether it enlarges). LSUN's of guided-diffusion are the same tensors as ImageNet's
# without classes, and of these it is that there is no dropout.
_PUBLISHED: dict[tuple[Any, ...], dict[str, Any]] = {
    (128, (1, 2, 2, 2), False, 2, False): {"size": 32, "heads": 4, "dropout": 0.3, "time_scale": 0.25, "diffusion": _LONG},
    (128, (1, 2, 3, 4), False, 2, False): {"size": 64, "heads": 4, "time_scale": 0.25, "diffusion": _LONG},
    (192, (1, 2, 3, 4), False, 2, False): {"size": 64, "heads": 4, "diffusion": _LONG},
    (128, (1, 1, 2, 2, 4, 4), False, 1, False): {"size": 256, "heads": 1, "diffusion": _LINEAR},
    (192, (1, 1, 2, 2, 4, 4), False, 2, True): {"size": 256, "heads": 4, "diffusion": _LINEAR | {"steps": 4000}},
    (192, (1, 2, 3, 4), True, 3, False): {"size": 64, "dropout": 0.1, "qkv": "whole", "diffusion": _COSINE},
    (256, (1, 1, 2, 3, 4), True, 3, False): {"size": 128, "heads": 4, "diffusion": _LINEAR},
    (256, (1, 1, 2, 2, 4, 4), True, 3, False): {"size": 256, "diffusion": _LINEAR},
    (128, (1, 2, 2, 4, 4, 8, 8), True, 3, False): {"size": 512, "diffusion": _LINEAR},
    (192, (1, 1, 2, 2, 4, 4), True, 3, True): {"size": 256, "heads": 4, "diffusion": _LINEAR},
    (192, (1, 1, 2, 2, 4, 4), True, 2, True): {"size": 512, "diffusion": _LINEAR},
}
_CLASSIFIERS = {(1, 2, 3, 4): _COSINE}  # the others are of the linear schedule


def is_openai(tensors: Mapping[str, np.ndarray]) -> bool:
    """Whether these are the tensors of such a network."""
    return "input_blocks.0.0.weight" in tensors


def find_openai(tensors: Mapping[str, np.ndarray], given: Mapping[str, Any]) -> Found:
    """The network that a state dict is of.

    Args:
      tensors: by name.
      given: settings that the user has given, dotted; import_weights.qkv among them, one of QKV.
    Raises:
      InvalidInput: its structure is that of no such network.
    """
    blocks, levels = _layout(tensors)
    model = _structure(tensors, blocks, levels)
    classifier, within = model["network"] == "noisy_classifier", model["block_resampling"]
    in_channels = tensors["input_blocks.0.0.weight"].shape[1]
    enlarges = in_channels in (2, 6)
    attention = [level for level in range(levels) if f"input_blocks.{level * (blocks + 1) + 1}.1.qkv.weight" in tensors]
    key = (model["channels"], model["multipliers"], within, len(attention), enlarges)
    known = _known_classifier(tensors, levels, model) if classifier else dict(_PUBLISHED.get(key, {}))
    size = given.get("data.image_size", known.get("size", 0))
    heads = {name: given[f"model.{name}"] for name in ("heads", "head_channels") if given.get(f"model.{name}")}
    if known and not heads:
        heads = {"heads": known["heads"]} if "heads" in known else {"head_channels": 64}
    model |= {"attention_resolutions": tuple(size // 2**level for level in attention), "heads": 1, "head_channels": 0} | heads
    model |= {"dropout": known.get("dropout", 0.0), "time_scale": known.get("time_scale", 1.0)}
    channels = in_channels // 2 if enlarges else in_channels
    if enlarges:
        model |= {"low_res_size": size // 4, "low_res_time": False}
    settings: Settings = {"model": model, "data": {"image_size": size, "channels": channels}}
    settings["data"]["class_names"] = tuple(map(str, range(_labels(tensors))))
    settings["diffusion"] = dict(known.get("diffusion", {})) | ({} if classifier else _variance(tensors, channels))
    settings |= {"eval": {"metrics": ("accuracy",)}} if classifier else {}
    unknown = {"data.image_size": not size, "model.heads or model.head_channels": not heads}
    order = given.get("import_weights.qkv") or known.get("qkv", "by_head")
    if order not in QKV:
        raise InvalidInput(f"import_weights.qkv={order!r}: expected {' or '.join(QKV)}")

    def params(like: Params, model: Mapping[str, Any]) -> Params:
        return to_ours(_split(tensors, order, model), like, partial(openai_name, blocks=blocks, levels=levels, tensors=tensors))

    name = "OpenAI's classifier" if classifier else "OpenAI's U-Net"
    return Found(name, settings, params, tuple(each for each, is_so in unknown.items() if is_so))


def _layout(tensors: Mapping[str, np.ndarray]) -> tuple[int, int]:
    """Blocks a level, and levels: what fits the blocks on the way down, where a last one of each level halves the image."""
    total = 1 + max(int(name.split(".")[1]) for name in tensors if name.startswith("input_blocks."))
    fitting = [blocks for blocks in range(1, total) if total % (blocks + 1) == 0 and _fits(tensors, total, blocks)]
    if len(fitting) != 1:
        found = f"{len(fitting)} fit" if fitting else "none fits"
        raise InvalidInput(f"{total} input_blocks: expected levels of as many blocks each and a layer between them; {found}")
    return fitting[0], total // (fitting[0] + 1)


def _fits(tensors: Mapping[str, np.ndarray], total: int, blocks: int) -> bool:
    def has(number: int, part: str) -> bool:
        return f"input_blocks.{number}.{part}.weight" in tensors

    for number in range(1, total):
        between = number % (blocks + 1) == 0
        if has(number, "0.op") and not between:
            return False
        if between and (has(number, "1.qkv") or has(number, "0.skip_connection")):
            return False
        if not between and has(number, "1.qkv") != has(number - (number - 1) % (blocks + 1), "1.qkv"):
            return False
        if not between and number % (blocks + 1) != 1 and has(number, "0.skip_connection"):
            return False
    if "output_blocks.0.0.in_layers.0.weight" not in tensors:  # a classifier: the blocks between have no sign of their own
        runs = {number for number in range(1, total) if has(number, "1.qkv") != has(number - 1, "1.qkv")}
        return all((number % (blocks + 1)) in (0, 1) for number in runs)
    doubles = [number for number in range(total) if _upsample(tensors, number)]
    return doubles == list(range(blocks, total - 1, blocks + 1))


def _upsample(tensors: Mapping[str, np.ndarray], number: int) -> str:
    """The name of what doubles the image at the end of a block on the way up, "" where nothing does."""
    names = [f"output_blocks.{number}.{place}" for place in (1, 2)]
    return next((name for name in names if {f"{name}.conv.weight", f"{name}.in_layers.0.weight"} & tensors.keys()), "")


def _structure(tensors: Mapping[str, np.ndarray], blocks: int, levels: int) -> dict[str, Any]:
    """The settings of the network that its tensors tell."""
    channels = tensors["input_blocks.0.0.weight"].shape[0]
    firsts = [f"input_blocks.{level * (blocks + 1) + 1}.0" for level in range(levels)]
    widths = [tensors[f"{first}.out_layers.3.weight"].shape[0] for first in firsts]
    if any(width % channels for width in widths):
        raise InvalidInput(f"blocks of {widths} channels: expected multiples of those of input_blocks.0, {channels}")
    told, time = tensors[f"{firsts[0]}.emb_layers.1.weight"].shape[0], tensors["time_embed.0.weight"].shape[1]
    return {
        "network": "noisy_classifier" if "out.2.c_proj.weight" in tensors else "unet",
        "channels": channels,
        "multipliers": tuple(width // channels for width in widths),
        "blocks": blocks,
        "groups": 32,
        "scale_shift": told == 2 * widths[0],
        "block_resampling": levels > 1 and f"input_blocks.{blocks + 1}.0.op.weight" not in tensors,
        "downsample": "conv_centred" if f"input_blocks.{blocks + 1}.0.op.weight" in tensors else "conv",
        "norm_eps": 1e-5,
        "time_cosine_first": True,
        "time_frequency_shift": 0,
        "time_channels": 0 if time == channels else time,
        "class_conditional": "label_emb.weight" in tensors,
    }


def _known_classifier(tensors: Mapping[str, np.ndarray], levels: int, model: Mapping[str, Any]) -> dict[str, Any]:
    """A classifier has a vector for each position: that says how large its images are; their heads have 64 channels."""
    side = round((tensors["out.2.positional_embedding"].shape[1] - 1) ** 0.5)
    return {"size": side * 2 ** (levels - 1), "diffusion": _CLASSIFIERS.get(model["multipliers"], _LINEAR)}


def _labels(tensors: Mapping[str, np.ndarray]) -> int:
    rows = tensors.get("label_emb.weight", tensors.get("out.2.c_proj.weight"))
    return 0 if rows is None else len(rows)


def _variance(tensors: Mapping[str, np.ndarray], channels: int) -> dict[str, str]:
    learned = len(tensors["out.2.weight"]) == 2 * channels
    return {"variance": "learned_range", "loss": "hybrid"} if learned else {"variance": "fixed_large"}


def openai_name(name: str, blocks: int, levels: int, tensors: Mapping[str, np.ndarray]) -> str:
    """What OpenAI's code calls our tensor: down_0_1_resnet.conv1.kernel is input_blocks.2.0.in_layers.2.weight.

    Args:
      name: its path in our tree, joined by dots.
      blocks, levels: blocks a level on the way down, and how many levels there are.
      tensors: theirs; which place in its block an upsampling has depends on whether attention comes before it.
    """
    module, *inside, leaf = name.split(".")
    start = _FIXED.get(module) or _place(module, blocks, levels, tensors)
    if module == "pool":
        return f"{start}.positional_embedding" if leaf == "position" else f"{start}.{inside[0]}.{LEAVES[leaf]}"
    parts = [_inside(module, part, start, tensors) for part in inside]
    return ".".join([start, *parts, LEAVES[leaf]]).replace("..", ".")


def _place(module: str, blocks: int, levels: int, tensors: Mapping[str, np.ndarray]) -> str:
    way, level, *rest = module.split("_")
    if way == "down":
        number = int(level) * (blocks + 1) + 1 + (blocks if rest == ["downsample"] else int(rest[0]))
        return f"input_blocks.{number}.{int(rest[-1] == 'attention')}"
    number = (levels - 1 - int(level)) * (blocks + 1) + (blocks if rest == ["upsample"] else int(rest[0]))
    if rest == ["upsample"]:
        return _upsample(tensors, number) or f"output_blocks.{number}.2"
    return f"output_blocks.{number}.{int(rest[-1] == 'attention')}"


def _inside(module: str, part: str, start: str, tensors: Mapping[str, np.ndarray]) -> str:
    if module.endswith("attention"):
        return {"out": "proj_out"}.get(part, part)
    if part == "conv" and f"{start}.op.weight" in tensors:
        return "op"
    return _IN_RESNET.get(part, part)


def _split(tensors: Mapping[str, np.ndarray], order: str, model: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The tensors with q, k and v each on its own."""
    found = {}
    for name, tensor in tensors.items():
        start, _, leaf = name.rpartition(".")
        module, _, kind = start.rpartition(".")
        if kind not in ("qkv", "qkv_proj"):
            found[name] = tensor
            continue
        width = len(tensor) // 3
        heads = width // model["head_channels"] if model["head_channels"] else model["heads"]
        split = tensor.reshape(heads, 3, -1, *tensor.shape[1:]) if order == "by_head" and kind == "qkv" else None
        rows = tensor.reshape(3, 1, width, *tensor.shape[1:]) if split is None else split.swapaxes(0, 1)
        for part, each in zip(("query", "key", "value"), rows, strict=True):
            found[f"{module}.{part}.{leaf}"] = each.reshape(width, *tensor.shape[1:])
    return found
