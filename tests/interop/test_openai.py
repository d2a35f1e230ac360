"""Networks by OpenAI's programs that were not published: what their tensors do not tell is asked for, or told."""

import json

import numpy as np
import pytest

from jax_ddpm.errors import InvalidInput
from jax_ddpm.interop.openai import find_openai
from tests.interop.golden.make import HERE

ASKED = ("data.image_size", "model.heads or model.head_channels", "diffusion.schedule", "diffusion.steps")
GIVEN = {"data.image_size": 64, "model.heads": 4, "diffusion.schedule": "linear", "diffusion.steps": 1000}


def shapes_of(blocks=2, out=3, attention=(2, 3), labels=0, channels=128, multipliers=(1, 2, 3, 4)):
    """Names and shapes of a U-Net of improved-diffusion, or of guided-diffusion without resblock_updown, by its flags."""
    shapes, last = {}, len(multipliers) - 1

    def layer(name, *shape):
        shapes.update({f"{name}.weight": shape, f"{name}.bias": shape[:1]})

    def resnet(place, width, wanted):
        layer(f"{place}.in_layers.0", width)
        layer(f"{place}.in_layers.2", wanted, width, 3, 3)
        layer(f"{place}.emb_layers.1", 2 * wanted, 4 * channels)
        layer(f"{place}.out_layers.0", wanted)
        layer(f"{place}.out_layers.3", wanted, wanted, 3, 3)
        if width != wanted:
            layer(f"{place}.skip_connection", wanted, width, 1, 1)

    def attend(place, width):
        layer(f"{place}.norm", width)
        layer(f"{place}.qkv", 3 * width, width, 1)
        layer(f"{place}.proj_out", width, width, 1)

    layer("time_embed.0", 4 * channels, channels)
    layer("time_embed.2", 4 * channels, 4 * channels)
    layer("input_blocks.0.0", channels, 3, 3, 3)
    width, kept, number = channels, [channels], 0
    for level, multiplier in enumerate(multipliers):
        for _ in range(blocks):
            number += 1
            resnet(f"input_blocks.{number}.0", width, width := multiplier * channels)
            if level in attention:
                attend(f"input_blocks.{number}.1", width)
            kept.append(width)
        if level < last:
            number += 1
            layer(f"input_blocks.{number}.0.op", width, width, 3, 3)
            kept.append(width)
    resnet("middle_block.0", width, width)
    attend("middle_block.1", width)
    resnet("middle_block.2", width, width)
    number = 0
    for level in range(last, -1, -1):
        for block in range(blocks + 1):
            resnet(f"output_blocks.{number}.0", width + kept.pop(), width := multipliers[level] * channels)
            if level in attention:
                attend(f"output_blocks.{number}.1", width)
            if level and block == blocks:
                layer(f"output_blocks.{number}.{2 if level in attention else 1}.conv", width, width, 3, 3)
            number += 1
    layer("out.0", width)
    layer("out.2", out, width, 3, 3)
    return shapes | ({"label_emb.weight": (labels, 4 * channels)} if labels else {})


def tensors_of(**flags):
    return {name: np.broadcast_to(np.float32(0), shape) for name, shape in shapes_of(**flags).items()}


def test_the_shapes_are_those_that_their_own_code_makes():
    with np.load(HERE / "improved-diffusion.npz") as kept:
        theirs = json.loads(str(kept["imagenet64_uncond_100M_1500K"]))
    assert shapes_of(blocks=3, out=6) == {name: tuple(shape) for name, shape in theirs.items()}
    assert find_openai(tensors_of(blocks=3, out=6), {}).open == ()  # it was published


@pytest.mark.parametrize(
    "flags",
    [
        {"blocks": 3, "out": 3},  # improved-diffusion's README: --num_res_blocks 3 --noise_schedule linear, no learn_sigma
        {"blocks": 2, "out": 3},  # where no flag is given, of improved-diffusion
        {"blocks": 2, "out": 6},  # of guided-diffusion, with learn_sigma, as all that it published have
        {"blocks": 3, "out": 6, "labels": 10},
        {"blocks": 3, "out": 6, "attention": (1, 2)},
        {"blocks": 3, "out": 6, "attention": (2, 3), "channels": 64},
    ],
)
def test_one_that_only_resembles_a_published_network_is_not_taken_for_it(flags):
    found = find_openai(tensors_of(**flags), {})
    assert found.open == ASKED
    assert {"schedule", "steps"}.isdisjoint(found.settings["diffusion"])
    assert (found.settings["model"]["time_scale"], found.settings["model"]["dropout"]) == (1.0, 0.0)
    assert len(found.settings["data"]["class_names"]) == flags.get("labels", 0)


def test_what_is_left_to_assume_is_named():
    found = find_openai(tensors_of(), GIVEN)
    assert found.open == ()
    assert set(found.assumed) - GIVEN.keys() == {
        *("model.dropout", "model.time_scale", "import_weights.qkv"),
        *("diffusion.prediction", "diffusion.loss", "diffusion.variance"),
    }
    assert found.settings["import_weights"]["qkv"] == "by_head"
    assert find_openai(tensors_of(), {**GIVEN, "diffusion.steps": 4000}).open == ("model.time_scale",)
    assert find_openai(tensors_of(blocks=3, out=6), {"diffusion.schedule": "linear"}).open == (*ASKED[:2], "diffusion.steps")
    published = find_openai(tensors_of(blocks=3, out=6), {"diffusion.schedule": "cosine"})
    assert {"data.image_size", "model.heads", "diffusion.schedule", "model.time_scale"} <= set(published.assumed)
    assert "published" in published.why


@pytest.mark.parametrize("last", [{"out.3.weight": (7, 32, 1, 1)}, {"out.0.weight": (9, 32), "out.2.weight": (7, 9)}])
def test_a_classifier_that_pools_by_something_else_is_refused(last):
    """As classifier_pool=adaptive and spatial end."""
    shapes = {name: shape for name, shape in shapes_of().items() if not name.startswith(("output_blocks.", "out."))} | last
    with pytest.raises(InvalidInput, match=r"ends in out\..*: expected one that pools by attention"):
        find_openai({name: np.broadcast_to(np.float32(0), shape) for name, shape in shapes.items()}, {})
