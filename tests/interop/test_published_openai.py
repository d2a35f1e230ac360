"""The networks that OpenAI published, at their full size: what is known of each from its tensors alone is what its flags say.

Names and shapes are those that their own code gives for the flags of their READMEs, see golden/make.py; no memory is taken.
"""

import json
from functools import partial

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from jax_ddpm.checks import check
from jax_ddpm.commands.import_weights import settings_of
from jax_ddpm.config import default_config
from jax_ddpm.experiment import init_params
from jax_ddpm.interop.openai import find_openai
from tests.interop.golden.make import HERE
from tests.interop.golden.published import PUBLISHED, parsed

# What their programs take where a flag is not given.
USUAL = {
    **{"learn_sigma": "False", "class_cond": "False", "diffusion_steps": "1000", "rescale_timesteps": "False"},
    **{"use_scale_shift_norm": "True", "resblock_updown": "False", "use_new_attention_order": "False", "dropout": "0"},
    **{"attention_resolutions": "16,8", "num_heads": "4", "num_head_channels": "0", "num_res_blocks": "2"},
}
USUAL_OF = {
    "improved-diffusion": USUAL | {"rescale_timesteps": "True"},
    "guided-diffusion": USUAL,
}
ENLARGING = {"large_size": "256", "small_size": "64"}
CLASSIFIER = {
    **{"num_channels": "128", "num_res_blocks": "2", "num_head_channels": "64", "attention_resolutions": "32,16,8"},
    **{"resblock_updown": "True", "class_cond": "True"},
}
MULTIPLIERS = {32: (1, 2, 2, 2), 64: (1, 2, 3, 4), 128: (1, 1, 2, 3, 4), 256: (1, 1, 2, 2, 4, 4), 512: (0.5, 1, 1, 2, 2, 4, 4)}
# Nothing tells LSUN's bedroom from ImageNet without classes, which has no dropout; it matters to training further alone.
UNTOLD = {"lsun_bedroom": {"dropout": 0.0}}


def flags_of(name):
    family, maker, flags = PUBLISHED[name]
    also = {"sr_create_model_and_diffusion": ENLARGING, "create_classifier_and_diffusion": CLASSIFIER}.get(maker, {})
    said = parsed(flags)
    if "classifier_depth" in said:
        said["num_res_blocks"] = said.pop("classifier_depth")
    return USUAL_OF[family] | also | said


def expected(name):
    """Settings by the flags."""
    flags, classifier = flags_of(name), name.endswith("classifier")
    size, steps = int(flags.get("large_size", flags.get("image_size", 0))), int(flags["diffusion_steps"])
    head_channels = int(flags["num_head_channels"])
    model = {
        "network": "noisy_classifier" if classifier else "unet",
        "blocks": int(flags["num_res_blocks"]),
        "heads": 1 if head_channels else int(flags["num_heads"]),
        "head_channels": head_channels,
        "attention_resolutions": tuple(map(int, flags["attention_resolutions"].split(","))),
        "scale_shift": flags["use_scale_shift_norm"] == "True",
        "block_resampling": flags["resblock_updown"] == "True",
        "downsample": "conv" if flags["resblock_updown"] == "True" else "conv_centred",
        "dropout": float(flags["dropout"]),
        "time_scale": 1000 / steps if flags["rescale_timesteps"] == "True" else 1.0,
        "class_conditional": flags["class_cond"] == "True" and not classifier,
        "norm_eps": 1e-5,
        "groups": 32,
    }
    if "small_size" in flags:
        model |= {"low_res_size": int(flags["small_size"]), "low_res_time": False}
    diffusion = {"schedule": flags["noise_schedule"], "steps": steps}
    if flags["learn_sigma"] == "True":
        diffusion |= {"prediction": "eps", "variance": "learned_range", "loss": "hybrid"}
    classes = tuple(map(str, range(1000))) if flags["class_cond"] == "True" else ()
    data = {"image_size": size, "channels": 3, "class_names": classes}
    return {"model": model | UNTOLD.get(name, {}), "data": data, "diffusion": diffusion}


def tensors_of(name):
    """Without memory: zeros, but each row of what makes q, k and v has its number."""
    with np.load(HERE / f"{PUBLISHED[name].family}.npz") as kept:
        shapes = json.loads(str(kept[name]))
    numbers = {key: np.arange(shape[0]) if "qkv" in key else np.zeros(1) for key, shape in shapes.items()}
    return {
        key: np.broadcast_to(numbers[key].astype(np.float32).reshape(-1, *[1] * (len(shape) - 1)), shape)
        for key, shape in shapes.items()
    }


@pytest.mark.parametrize("name", PUBLISHED)
def test_nothing_is_open_and_all_is_as_the_flags_say(name):
    found, said = find_openai(tensors_of(name), {}), expected(name)
    model, (channels, size) = found.settings["model"], (int(flags_of(name)["num_channels"]), said["data"]["image_size"])
    assert (found.open, found.why) == ((), "known of the published network that has them")
    assert found.settings["data"] == said["data"]
    assert found.settings["diffusion"] == said["diffusion"]
    assert {key: model[key] for key in said["model"]} == said["model"]
    multipliers = MULTIPLIERS[256 if "low_res_size" in model else size]
    assert [model["channels"] * each for each in model["multipliers"]] == [channels * each for each in multipliers]
    assert (model["time_channels"] or model["channels"]) == channels


# Those whose structure, heads or order of q, k and v no other of these has; all 17 take a minute.
@pytest.mark.parametrize(
    "name",
    [
        *("cifar10_uncond_50M_500K", "upsample_cond_500K", "lsun_uncond_100M_1200K_bs128"),
        *("64x64_diffusion", "128_512_upsampler", "512x512_classifier"),
    ],
)
def test_every_tensor_has_its_place_and_q_k_and_v_are_told_apart(name):
    found, flags = find_openai(tensors_of(name), {}), flags_of(name)
    settings = settings_of(default_config(), found.settings, {})
    check(settings)
    like = jax.eval_shape(partial(init_params, settings), jax.random.key(0))
    params = flatten_dict(found.params(like, settings.model), sep=".")
    queries = [key.removesuffix(".query.kernel") for key in params if key.endswith(".query.kernel")]
    levels = len(flags["attention_resolutions"].split(","))
    assert len(queries) == levels * int(flags["num_res_blocks"]) + 1 + (
        1 if name.endswith("classifier") else levels * (int(flags["num_res_blocks"]) + 1)
    )
    for place in queries:
        width = params[f"{place}.query.kernel"].shape[0]
        heads = width // int(flags["num_head_channels"]) if int(flags["num_head_channels"]) else int(flags["num_heads"])
        rows = np.arange(3 * width)
        if flags["use_new_attention_order"] == "True" or place == "pool":
            parts = rows.reshape(3, width)
        else:
            parts = rows.reshape(heads, 3, -1).swapaxes(0, 1).reshape(3, width)
        for part, numbers in zip(("query", "key", "value"), parts, strict=True):
            np.testing.assert_array_equal(params[f"{place}.{part}.kernel"][0], numbers)
            np.testing.assert_array_equal(params[f"{place}.{part}.bias"], numbers)
