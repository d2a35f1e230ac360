"""What the two files of settings of diffusers say (a UNet2DModel's config.json, scheduler_config.json), both ways."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from jax_ddpm.errors import InvalidInput
from jax_ddpm.interop.names import Settings

UNET = "UNet2DModel"

# What the constructor takes where a file does not say: for everything that is read here.
_DEFAULTS: dict[str, Any] = {
    **{"sample_size": None, "in_channels": 3, "out_channels": 3, "layers_per_block": 2, "dropout": 0.0},
    **{"block_out_channels": (224, 448, 672, 896), "freq_shift": 0, "flip_sin_to_cos": True, "downsample_padding": 1},
    **{"down_block_types": ("DownBlock2D", *["AttnDownBlock2D"] * 3), "up_block_types": (*["AttnUpBlock2D"] * 3, "UpBlock2D")},
    **{"downsample_type": "conv", "upsample_type": "conv", "attention_head_dim": 8, "norm_num_groups": 32, "norm_eps": 1e-5},
    **{"attn_norm_num_groups": None, "resnet_time_scale_shift": "default", "add_attention": True, "num_class_embeds": None},
}
# What there is one way of here alone; the first is the constructor's.
_FIXED: dict[str, tuple[Any, ...]] = {
    "center_input_sample": (False,),
    "time_embedding_type": ("positional",),
    "time_embedding_dim": (None,),
    "mid_block_type": ("UNetMidBlock2D",),
    "mid_block_scale_factor": (1,),
    "act_fn": ("silu", "swish"),
    "class_embed_type": (None,),
    "num_train_timesteps": (None,),
}
# Blocks by their type: whether they have attention, and whether they change the size of the image within a block.
_DOWN: dict[str, tuple[bool, bool | None]] = {
    "DownBlock2D": (False, False),
    "ResnetDownsampleBlock2D": (False, True),
    "AttnDownBlock2D": (True, None),  # downsample_type says
}
_UP: dict[str, tuple[bool, bool | None]] = {
    "UpBlock2D": (False, False),
    "ResnetUpsampleBlock2D": (False, True),
    "AttnUpBlock2D": (True, None),
}
_RESAMPLING = {"conv": False, "resnet": True}
_SCALE_SHIFT = {"default": False, "scale_shift": True}


def unet_settings(network: Mapping[str, Any], image_size: int | None = None) -> Settings:
    """Settings of a run from a UNet2DModel's config.json; of data.image_size where sample_size is not there.

    Raises:
      InvalidInput: it has a part that this U-Net does not; the message names the key, its value and what there is.
    """
    _expect("_class_name", network.get("_class_name", UNET), (UNET,))
    for name, supported in _FIXED.items():
        _expect(name, network.get(name, supported[0]), supported)
    c = _DEFAULTS | {name: network[name] for name in _DEFAULTS if name in network}
    widths, down, up = (tuple(c[name]) for name in ("block_out_channels", "down_block_types", "up_block_types"))
    if not len(widths) == len(down) == len(up):
        raise InvalidInput(f"{len(widths)} block_out_channels, {len(down)} down_block_types and {len(up)} up_block_types")
    uneven = [width for width in widths if width % widths[0]]
    if uneven:
        raise InvalidInput(f"block_out_channels={widths}: expected multiples of the first, {widths[0]}")
    attention, within = _blocks(c, down, up)
    size = image_size or _side(c["sample_size"])
    scale_shift = _option(c, "resnet_time_scale_shift", _SCALE_SHIFT)
    groups = c["norm_num_groups"] if scale_shift or c["attn_norm_num_groups"] is not None else None
    if c["add_attention"]:  # that of the middle is normalised by groups of its own, or with scale and shift by none
        _expect("attn_norm_num_groups", c["attn_norm_num_groups"], (groups,))
    model = {
        "network": "unet",
        "channels": widths[0],
        "multipliers": tuple(width // widths[0] for width in widths),
        "blocks": c["layers_per_block"],
        "attention_resolutions": tuple(size // 2**level for level in attention),
        "heads": 1,
        "head_channels": c["attention_head_dim"] or 0,
        "dropout": float(c["dropout"]),
        "groups": c["norm_num_groups"],
        "scale_shift": scale_shift,
        "block_resampling": within,
        "downsample": "conv" if within else _option(c, "downsample_padding", {0: "conv", 1: "conv_centred"}),
        "middle_attention": bool(c["add_attention"]),
        "norm_eps": float(c["norm_eps"]),
        "time_cosine_first": bool(c["flip_sin_to_cos"]),
        "time_frequency_shift": int(c["freq_shift"]),
        "class_conditional": bool(c["num_class_embeds"]),
    }
    data: dict[str, Any] = {"image_size": size, "channels": c["in_channels"]}
    data["class_names"] = tuple(map(str, range(c["num_class_embeds"] or 0)))
    _expect("out_channels", c["out_channels"], (c["in_channels"], 2 * c["in_channels"]))
    learned = {"variance": "learned_range", "loss": "hybrid"}
    return {"model": model, "data": data, "diffusion": learned if c["out_channels"] != c["in_channels"] else {}}


def _blocks(c: Mapping[str, Any], down: tuple[str, ...], up: tuple[str, ...]) -> tuple[list[int], bool]:
    """The levels that have attention, and whether the image changes its size within blocks."""
    kinds = [[_kind(c, name, way) for name in names] for way, names in (("down", down), ("up", up))]
    if [attention for attention, _ in kinds[0]] != [attention for attention, _ in reversed(kinds[1])]:
        raise InvalidInput(f"down_block_types={down} with up_block_types={up}: expected attention at the same levels of both")
    # The last block of each way changes no size, whatever its type.
    within = {resampling for way in kinds for _, resampling in way[:-1]}
    if len(within) > 1:
        raise InvalidInput(
            f"down_block_types={down} with up_block_types={up}, downsample_type={c['downsample_type']!r} and "
            f"upsample_type={c['upsample_type']!r}: expected the image to change its size by convolutions everywhere, or "
            "within residual blocks everywhere"
        )
    return [level for level, (attention, _) in enumerate(kinds[0]) if attention], within == {True}


def _kind(c: Mapping[str, Any], name: str, way: str) -> tuple[bool, bool]:
    kinds = {"down": _DOWN, "up": _UP}[way]
    _expect(f"{way}_block_types", name, tuple(kinds))
    attention, within = kinds[name]
    return attention, _option(c, f"{way}sample_type", _RESAMPLING) if within is None else within


def _side(sample_size: Any) -> int:
    sides = set(sample_size if isinstance(sample_size, list | tuple) else [sample_size])
    if len(sides) != 1 or not isinstance(side := sides.pop(), int):
        raise InvalidInput(f"sample_size={sample_size}: expected the pixels of a side; say them by --config.data.image_size")
    return side


def _option(c: Mapping[str, Any], name: str, options: Mapping[Any, Any]) -> Any:
    _expect(name, c[name], tuple(options))
    return options[c[name]]


def _expect(name: str, value: Any, supported: tuple[Any, ...]) -> None:
    if value not in supported:
        raise InvalidInput(f"{name}={value!r} is not supported: expected {' or '.join(map(repr, supported))}")


_SCHEDULES = {"linear": "linear", "scaled_linear": "quadratic", "squaredcos_cap_v2": "cosine", "sigmoid": "sigmoid"}
_PREDICTIONS = {"epsilon": "eps", "sample": "x0", "v_prediction": "v"}
_VARIANCES = {
    **{name: name for name in ("fixed_small", "fixed_large", "learned", "learned_range")},
    **{"fixed_small_log": "fixed_small", "fixed_large_log": "fixed_large"},
}
# Those that keep their chain in the same settings, with the same defaults: what is drawn by, a sampler here, is not read.
_SCHEDULERS = (
    *("DDPMScheduler", "DDPMParallelScheduler", "DDIMScheduler", "DDIMParallelScheduler", "DDIMInverseScheduler"),
    *("PNDMScheduler", "DPMSolverMultistepScheduler", "DPMSolverMultistepInverseScheduler", "DPMSolverSinglestepScheduler"),
    *("DEISMultistepScheduler", "UniPCMultistepScheduler", "SASolverScheduler"),
    *("EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler", "LMSDiscreteScheduler"),
)
_SCHEDULER: dict[str, Any] = {
    **{"num_train_timesteps": 1000, "beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear"},
    **{"variance_type": "fixed_small", "prediction_type": "epsilon", "clip_sample": True, "rescale_betas_zero_snr": False},
}
_SCHEDULER_FIXED: dict[str, tuple[Any, ...]] = {
    **{"trained_betas": (None,), "thresholding": (False,), "clip_sample_range": (1,)},
    **{"use_flow_sigmas": (False,), "timestep_type": ("discrete",)},
}


def scheduler_settings(scheduler: Mapping[str, Any]) -> Settings:
    """Settings of a run from a scheduler_config.json, of a DDPMScheduler or another with its settings.

    Raises:
      InvalidInput: a scheduler, schedule, prediction or variance that there is none of here.
    """
    _expect("_class_name", scheduler.get("_class_name", _SCHEDULERS[0]), _SCHEDULERS)
    for name, supported in _SCHEDULER_FIXED.items():
        _expect(name, scheduler.get(name, supported[0]), supported)
    s = _SCHEDULER | {name: scheduler[name] for name in _SCHEDULER if name in scheduler}
    steps, prediction = s["num_train_timesteps"], _option(s, "prediction_type", _PREDICTIONS)
    variance = _option(s, "variance_type", _VARIANCES)
    diffusion = {
        "schedule": _option(s, "beta_schedule", _SCHEDULES),
        "steps": steps,
        "beta_start": s["beta_start"] * steps / 1000,  # ours are those of 1,000 steps
        "beta_end": s["beta_end"] * steps / 1000,
        "zero_terminal_snr": bool(s["rescale_betas_zero_snr"]),
        "prediction": prediction,
        "variance": variance,
        "loss": "hybrid" if variance.startswith("learned") else prediction,
    }
    return {"diffusion": diffusion, "sampler": {"clip": "static" if s["clip_sample"] else "none"}}


def unet_config(model: Mapping[str, Any], image_size: int, channels: int, out_channels: int, labels: int) -> dict[str, Any]:
    """The config.json of a UNet2DModel that is our U-Net.

    Args:
      model: the settings of the network.
      labels: rows of the embedding of the label.
    Raises:
      InvalidInput: diffusers has no such U-Net; the message names the setting.
    """
    plain = {"network": "unet", "skip": "concatenate", "upsample": "nearest", "low_res_size": 0, "time_channels": 0}
    for name, only in (plain | {"time_scale": 1.0}).items():
        if model[name] != only:
            raise InvalidInput(f"model.{name}={model[name]!r} is nothing that diffusers' UNet2DModel has: expected {only!r}")
    _expect("model.downsample", model["downsample"], ("conv", "conv_centred"))
    heights = [image_size // 2**level for level in range(len(model["multipliers"]))]
    attention = [height in model["attention_resolutions"] for height in heights]
    within = model["block_resampling"]
    down, up = (
        [f"Attn{way}Block2D" if each else f"Resnet{way}sampleBlock2D" if within else f"{way}Block2D" for each in attention]
        for way in ("Down", "Up")
    )
    return {
        "_class_name": UNET,
        "sample_size": image_size,
        "in_channels": channels,
        "out_channels": out_channels,
        "block_out_channels": [multiplier * model["channels"] for multiplier in model["multipliers"]],
        "layers_per_block": model["blocks"],
        "down_block_types": down,
        "up_block_types": up[::-1],
        "downsample_type": "resnet" if within else "conv",
        "upsample_type": "resnet" if within else "conv",
        "downsample_padding": {"conv": 0, "conv_centred": 1}[model["downsample"]],
        "dropout": model["dropout"],
        "act_fn": "silu",
        "attention_head_dim": _head_channels(model, attention),
        "norm_num_groups": model["groups"],
        "attn_norm_num_groups": model["groups"] if model["scale_shift"] else None,
        "norm_eps": model["norm_eps"],
        "resnet_time_scale_shift": "scale_shift" if model["scale_shift"] else "default",
        "add_attention": model["middle_attention"],
        "time_embedding_type": "positional",
        "flip_sin_to_cos": model["time_cosine_first"],
        "freq_shift": model["time_frequency_shift"],
        "mid_block_scale_factor": 1,
        "center_input_sample": False,
        "num_class_embeds": labels or None,
    }


def _head_channels(model: Mapping[str, Any], attention: list[bool]) -> int | None:
    """Channels of each head: None where there is one head."""
    if model["head_channels"] or model["heads"] == 1:
        return model["head_channels"] or None
    multipliers = [each for each, has in zip(model["multipliers"], attention, strict=True) if has]
    widths = {each * model["channels"] for each in [*multipliers, *model["multipliers"][-1:] * model["middle_attention"]]}
    if len(widths) != 1:
        raise InvalidInput(
            f"model.heads={model['heads']} at layers of {sorted(widths)} channels: diffusers' UNet2DModel has heads of the "
            "same channels everywhere. Expected model.head_channels, or one head"
        )
    return widths.pop() // model["heads"]


def scheduler_config(diffusion: Mapping[str, Any], betas: np.ndarray, clip: str) -> dict[str, Any]:
    """The scheduler_config.json of a DDPMScheduler that runs our chain.

    Args:
      betas: [T]; written out where diffusers has no name for the schedule.
      clip: what `sampler.clip` says.
    Raises:
      InvalidInput: diffusers has no such prediction.
    """
    predictions = {ours: theirs for theirs, ours in _PREDICTIONS.items()}
    _expect("diffusion.prediction", diffusion["prediction"], tuple(predictions))
    names = {ours: theirs for theirs, ours in _SCHEDULES.items()}
    steps, named = diffusion["steps"], diffusion["schedule"] in names
    return {
        "_class_name": "DDPMScheduler",
        "num_train_timesteps": steps,
        "beta_schedule": names.get(diffusion["schedule"], "linear"),
        "beta_start": diffusion["beta_start"] * 1000 / steps,
        "beta_end": diffusion["beta_end"] * 1000 / steps,
        "trained_betas": None if named else [float(beta) for beta in betas],
        "rescale_betas_zero_snr": named and diffusion["zero_terminal_snr"],
        "prediction_type": predictions[diffusion["prediction"]],
        "variance_type": diffusion["variance"],
        "clip_sample": clip != "none",
        "clip_sample_range": 1.0,
    }
