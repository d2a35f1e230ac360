"""Networks as OpenAI's improved-diffusion and guided-diffusion keep them: U-Nets and classifiers, tensors without settings.

The architecture is read off the tensors. What they do not tell (how large the images are, how many heads attention has and in
what order its weights lie, how the noise grows) is known of the networks that were published, and has to be given of others.
"""

import re
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict

from jax_ddpm.errors import InvalidInput
from jax_ddpm.interop.names import LEAVES, Found, Settings, check_names, has_module, shape_of, to_ours
from jax_ddpm.interop.openai_published import PUBLISHED, Shape
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


def is_openai(tensors: Mapping[str, np.ndarray]) -> bool:
    """Whether these are the tensors of such a network."""
    return any(name.startswith("input_blocks.0.0.") for name in tensors)


def find_openai(tensors: Mapping[str, np.ndarray], given: Mapping[str, Any]) -> Found:
    """The network that a state dict is of.

    Args:
      tensors: by name.
      given: settings that the user has given, dotted; import_weights.qkv among them, one of QKV.
    Returns:
      It; of one that was not published the size of its images, its heads and its noise are open.
    Raises:
      InvalidInput: its structure is that of no such network; a tensor that it takes to tell is named.
    """
    order = given.get("import_weights.qkv", "")
    if order and order not in QKV:
        raise InvalidInput(f"import_weights.qkv={order!r}: expected {' or '.join(QKV)}")
    blocks, levels = _layout(tensors)
    model, shape = _structure(tensors, blocks, levels)
    known = PUBLISHED.get(shape)
    if known and any(given.get(f"diffusion.{name}", known[name]) != known[name] for name in ("schedule", "steps")):
        known = None  # the same tensors, trained on other noise
    settings = _settings(tensors, shape, model, known or {}, given)
    order = settings["import_weights"]["qkv"]

    def params(like: Params, model: Mapping[str, Any]) -> Params:
        name_of = partial(openai_name, blocks=blocks, levels=levels, tensors=tensors)
        check_names({_joined(name_of(name)) for name in flatten_dict(like, sep=".")}, tensors.keys())
        return to_ours(_split(tensors, order, model), like, name_of)

    unknown = () if known else _unknown(shape, settings, given)
    return Found(
        format="OpenAI's classifier" if shape.classifier else "OpenAI's U-Net",
        settings=settings,
        params=params,
        open=unknown,
        assumed=tuple(name for name in _untold(shape, settings) if name not in unknown),
        why="known of the published network that has them" if known else "as OpenAI's programs have it where no flag is given",
    )


def _settings(
    tensors: Mapping[str, np.ndarray],
    shape: Shape,
    model: Mapping[str, Any],
    known: Mapping[str, Any],
    given: Mapping[str, Any],
) -> Settings:
    """Those that the tensors tell, and what is known or given; zeros for what is open."""
    size = given.get("data.image_size", known.get("size", 0))
    if shape.classifier:  # it has a vector for each position, and one for their mean
        positions = shape_of(tensors, "out.2.positional_embedding", 2)[1]
        size = round((positions - 1) ** 0.5) * 2 ** (len(shape.multipliers) - 1)
    heads = {name: given[f"model.{name}"] for name in ("heads", "head_channels") if given.get(f"model.{name}")}
    if not heads and (known or shape.classifier):  # 64 channels a head is all that its classifiers can have
        heads = {"heads": known["heads"]} if "heads" in known else {"head_channels": 64}
    untold = {"heads": 1, "head_channels": 0} | heads
    untold |= {name: known.get(name, usual) for name, usual in (("dropout", 0.0), ("time_scale", 1.0))}
    if shape.enlarges:
        untold |= {"low_res_size": size // 4 if known else 0, "low_res_time": False}
    attention = tuple(size // 2**level for level in shape.attention)
    noise = {name: known[name] for name in ("schedule", "steps") if name in known}
    data = {"image_size": size, "channels": shape.colours, "class_names": tuple(map(str, range(shape.labels)))}
    qkv = given.get("import_weights.qkv") or known.get("qkv", "by_head")
    return {
        "model": {**model, **untold, "attention_resolutions": attention},
        "data": data,
        "diffusion": noise if shape.classifier else noise | {"prediction": "eps"} | _variance(shape.learned),
        "import_weights": {"qkv": qkv},
    } | ({"eval": {"metrics": ("accuracy",)}} if shape.classifier else {})


def _variance(learned: bool) -> dict[str, str]:
    return {"variance": "learned_range", "loss": "hybrid"} if learned else {"variance": "fixed_large", "loss": "eps"}


def _untold(shape: Shape, settings: Settings) -> list[str]:
    """What no tensor tells of a network of this shape: dotted names."""
    model = ["dropout", "time_scale", "head_channels" if settings["model"]["head_channels"] else "heads"]
    model += ["low_res_size"] if shape.enlarges else []
    noise = ["schedule", "steps"]
    if not shape.classifier:
        noise += ["prediction", "loss"] if shape.learned else ["prediction", "loss", "variance"]
    size = [] if shape.classifier else ["data.image_size"]
    return [*size, *(f"model.{name}" for name in model), "import_weights.qkv", *(f"diffusion.{name}" for name in noise)]


def _unknown(shape: Shape, settings: Settings, given: Mapping[str, Any]) -> tuple[str, ...]:
    """What has to be given of a network that was not published."""
    heads = any(given.get(f"model.{name}") for name in ("heads", "head_channels"))
    rescaled = not shape.classifier and given.get("diffusion.steps", 1000) != 1000  # of 1,000 it makes no difference
    asked = {
        "data.image_size": not settings["data"]["image_size"],
        "model.heads or model.head_channels": not (heads or shape.classifier),
        "model.low_res_size": shape.enlarges,
        "diffusion.schedule": True,
        "diffusion.steps": True,
        "model.time_scale": rescaled,
    }
    return tuple(name for name, is_open in asked.items() if is_open and name not in given)


def _layout(tensors: Mapping[str, np.ndarray]) -> tuple[int, int]:
    """Blocks a level, and levels: what fits the blocks on the way down, where a last one of each level halves the image."""
    total = 1 + max(int(found[1]) for name in tensors if (found := re.match(r"input_blocks\.(\d+)\.", name)))
    fitting = [blocks for blocks in range(1, total) if total % (blocks + 1) == 0 and _fits(tensors, total, blocks)]
    if len(fitting) != 1:
        which = f"{len(fitting)} fit" if fitting else "none fits"
        raise InvalidInput(f"{total} input_blocks: expected levels of as many blocks each and a layer between them; {which}")
    return fitting[0], total // (fitting[0] + 1)


def _fits(tensors: Mapping[str, np.ndarray], total: int, blocks: int) -> bool:
    def has(number: int, part: str) -> bool:
        return has_module(tensors, f"input_blocks.{number}.{part}")

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
    if _is_classifier(tensors):  # the blocks between have no sign of their own
        runs = {number for number in range(1, total) if has(number, "1.qkv") != has(number - 1, "1.qkv")}
        return all((number % (blocks + 1)) in (0, 1) for number in runs)
    doubles = [number for number in range(total) if _upsample(tensors, number)]
    return doubles == list(range(blocks, total - 1, blocks + 1))


def _is_classifier(tensors: Mapping[str, np.ndarray]) -> bool:
    return not any(name.startswith("output_blocks.") for name in tensors)


def _upsample(tensors: Mapping[str, np.ndarray], number: int) -> str:
    """The name of what doubles the image at the end of a block on the way up, "" where nothing does."""
    names = [f"output_blocks.{number}.{place}" for place in (1, 2)]
    return next((name for name in names if any(has_module(tensors, f"{name}.{part}") for part in ("conv", "in_layers.0"))), "")


def _structure(tensors: Mapping[str, np.ndarray], blocks: int, levels: int) -> tuple[dict[str, Any], Shape]:
    """The settings of the network that its tensors tell, and those by which a published one is known."""
    classifier = _is_classifier(tensors)
    if classifier:
        _check_pool(tensors)
    channels, in_channels = shape_of(tensors, "input_blocks.0.0.weight", 4)[:2]
    enlarges = not classifier and in_channels in (2, 6)
    colours = in_channels // 2 if enlarges else in_channels
    firsts = [f"input_blocks.{level * (blocks + 1) + 1}" for level in range(levels)]
    multipliers = tuple(_multiplier(tensors, f"{first}.0.out_layers.3.weight", channels) for first in firsts)
    told, time = shape_of(tensors, f"{firsts[0]}.0.emb_layers.1.weight", 2)[0], shape_of(tensors, "time_embed.0.weight", 2)[1]
    by_layer = has_module(tensors, f"input_blocks.{blocks + 1}.0.op")
    shape = Shape(
        channels=channels,
        multipliers=multipliers,
        blocks=blocks,
        attention=tuple(level for level, first in enumerate(firsts) if has_module(tensors, f"{first}.1.qkv")),
        labels=_labels(tensors, classifier),
        colours=colours,
        scale_shift=told == 2 * multipliers[0] * channels,
        within=levels > 1 and not by_layer,
        learned=not classifier and shape_of(tensors, "out.2.weight", 4)[0] == 2 * colours,
        enlarges=enlarges,
        classifier=classifier,
        time_channels=0 if time == channels else time,
    )
    return {
        "network": "noisy_classifier" if classifier else "unet",
        **{name: getattr(shape, name) for name in ("channels", "multipliers", "blocks", "scale_shift", "time_channels")},
        "groups": 32,
        "block_resampling": shape.within,
        "downsample": "conv_centred" if by_layer else "conv",
        "norm_eps": 1e-5,
        "time_cosine_first": True,
        "time_frequency_shift": 0,
        "class_conditional": not classifier and shape.labels > 0,
    }, shape


def _labels(tensors: Mapping[str, np.ndarray], classifier: bool) -> int:
    if classifier:
        return shape_of(tensors, "out.2.c_proj.weight", 3)[0]
    return shape_of(tensors, "label_emb.weight", 2)[0] if "label_emb.weight" in tensors else 0


def _multiplier(tensors: Mapping[str, np.ndarray], name: str, channels: int) -> int:
    width = shape_of(tensors, name, 4)[0]
    if width % channels:
        raise InvalidInput(f"{name} has {width} rows: expected a multiple of those of input_blocks.0.0.weight, {channels}")
    return width // channels


def _check_pool(tensors: Mapping[str, np.ndarray]) -> None:
    """Raises InvalidInput where a classifier sums up its image by something else than attention."""
    if not any(has_module(tensors, f"out.2.{part}") for part in ("qkv_proj", "c_proj")):
        last = sorted(name for name in tensors if name.startswith("out."))
        raise InvalidInput(
            f"without output_blocks it is a classifier, and this one ends in {', '.join(last) or 'nothing'}: expected one that "
            "pools by attention (classifier_pool=attention), with out.2.qkv_proj and out.2.c_proj"
        )


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
    if part == "conv" and has_module(tensors, f"{start}.op"):
        return "op"
    return _IN_RESNET.get(part, part)


def _joined(name: str) -> str:
    """The name of the tensor that has q, k and v in one, where one of them is named; else the name itself."""
    return re.sub(r"^(out\.2\.)(query|key|value)\.", r"\1qkv_proj.", re.sub(r"(?<=\.1\.)(query|key|value)\.", "qkv.", name))


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
        if heads < 1 or len(tensor) % (3 * heads):
            raise InvalidInput(f"{name} has shape {tensor.shape}: expected rows for q, k and v of {max(heads, 1)} heads")
        split = tensor.reshape(heads, 3, -1, *tensor.shape[1:]) if order == "by_head" and kind == "qkv" else None
        rows = tensor.reshape(3, 1, width, *tensor.shape[1:]) if split is None else split.swapaxes(0, 1)
        for part, each in zip(("query", "key", "value"), rows, strict=True):
            found[f"{module}.{part}.{leaf}"] = each.reshape(width, *tensor.shape[1:])
    return found
