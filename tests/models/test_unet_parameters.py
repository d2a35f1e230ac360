"""How large the networks of the papers are, and what each setting adds to the parameters and nothing else."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_ddpm.models.unet import UNet
from tests.models.numbers import F32
from tests.models.unets import ADM, AUGMENTED, PLAIN, inputs, shapes

IMPROVED = {"blocks": 3, "attention_resolutions": (16, 8), "heads": 4, "out_channels": 6, "scale_shift": True}


@pytest.mark.parametrize(
    ("settings", "size", "count"),
    [
        ({}, 32, 35_746_307),
        ({"multipliers": (1, 1, 2, 2, 4, 4)}, 256, 113_673_219),
        (IMPROVED, 32, 52_546_438),
        (IMPROVED | {"multipliers": (1, 2, 3, 4)}, 64, 121_063_942),
        (ADM | {"channels": 192, "multipliers": (1, 2, 3, 4), "blocks": 3, "num_classes": 1000}, 64, 295_904_454),
        (ADM | {"channels": 256, "multipliers": (1, 1, 2, 3, 4), "num_classes": 1000}, 128, 421_529_606),
        (ADM | {"channels": 256, "multipliers": (1, 1, 2, 2, 4, 4), "num_classes": 1000}, 256, 553_838_086),
        (ADM | {"channels": 256, "multipliers": (1, 1, 2, 2, 4, 4)}, 256, 552_814_086),
    ],
    ids=[
        *("CIFAR-10", "256 pixels", "improved CIFAR-10", "improved ImageNet 64"),
        *("ADM 64", "ADM 128", "ADM 256", "ADM 256 without classes"),
    ],
)
def test_parameter_count_is_that_of_the_paper(settings, size, count):
    labels = [jnp.zeros(1, int)] if "num_classes" in settings else []
    params = shapes(UNet(**settings), jnp.zeros((1, size, size, 3)), jnp.zeros(1, int), *labels)
    assert sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params)) == count


def test_labels_add_an_embedding_of_four_times_the_channels_and_nothing_else():
    plain = shapes(PLAIN, *inputs(PLAIN))
    labelled = shapes(PLAIN.clone(num_classes=5), *inputs(PLAIN), np.zeros(3, int))
    assert labelled.pop("label")["embedding"].shape == (5, 4 * PLAIN.channels)
    assert labelled == plain


def test_no_class_is_one_row_more_in_the_embedding_and_nothing_else():
    labelled = shapes(PLAIN.clone(num_classes=4), *inputs(PLAIN), np.zeros(3, int))
    guided = shapes(PLAIN.clone(num_classes=4, null_label=True), *inputs(PLAIN), np.zeros(3, int))
    assert guided.pop("label")["embedding"].shape == (5, 4 * PLAIN.channels)
    assert labelled.pop("label")["embedding"].shape == (4, 4 * PLAIN.channels)
    assert guided == labelled


def test_a_small_image_widens_the_first_convolution_and_brings_an_embedding_of_its_noise():
    plain, enlarging = shapes(PLAIN, *inputs(PLAIN)), shapes(PLAIN.clone(low_resolution=True), *inputs(PLAIN))
    for layer in ("0", "1"):
        assert enlarging.pop(f"low_res_time_{layer}") == enlarging[f"time_{layer}"]
    assert enlarging.pop("conv_in")["kernel"].shape == (3, 3, 3 + 1, 8)
    assert plain.pop("conv_in")["kernel"].shape == (3, 3, 3, 8)
    assert enlarging == plain


def test_skips_that_are_added_bring_a_projection_where_the_channels_differ_and_narrow_what_follows():
    added, beside = (shapes(PLAIN.clone(skip=skip), *inputs(PLAIN)) for skip in ("add", "concatenate"))
    assert {name for name in added if name.endswith("_skip")} == {"up_1_1_skip", "up_0_0_skip"}
    assert added["up_1_1_skip"]["kernel"].shape == (8, 16)  # what level 0 left, where level 1 has twice the channels
    assert added["up_0_1_resnet"]["conv1"]["kernel"].shape == (3, 3, 8, 8)
    assert beside["up_0_1_resnet"]["conv1"]["kernel"].shape == (3, 3, 16, 8)


def test_no_attention_in_the_middle_takes_its_parameters_away_and_nothing_else():
    plain, without = shapes(PLAIN, *inputs(PLAIN)), shapes(PLAIN.clone(middle_attention=False), *inputs(PLAIN))
    assert {name: plain[name] for name in without} == without
    assert plain.keys() - without.keys() == {"mid_attention"}


def test_an_augmentation_brings_a_matrix_and_nothing_else():
    plain = shapes(AUGMENTED.clone(augmentation=0), *inputs(AUGMENTED))
    augmented = shapes(AUGMENTED, *inputs(AUGMENTED))
    assert augmented.pop("augmentation_embedding") == {"kernel": jax.ShapeDtypeStruct((3, 4 * 8), F32)}
    assert augmented == plain


def test_resampling_in_blocks_takes_the_place_of_the_convolutions_that_resample():
    plain, within = shapes(PLAIN, *inputs(PLAIN)), shapes(PLAIN.clone(block_resampling=True), *inputs(PLAIN))
    assert set(plain) == set(within)
    different = {name for name in plain if plain[name] != within[name]}
    assert different == {"down_0_downsample", "down_1_downsample", "up_1_upsample", "up_2_upsample"}
    assert within["up_2_upsample"] == within["mid_1_resnet"]


def test_scale_and_shift_double_the_projections_of_the_embedding_and_nothing_else():
    plain, scaled = shapes(PLAIN, *inputs(PLAIN)), shapes(PLAIN.clone(scale_shift=True), *inputs(PLAIN))
    doubled = 0

    def expect(path, leaf):
        nonlocal doubled
        if path[-2].key != "embedding":
            return leaf
        doubled += 1
        return jax.ShapeDtypeStruct((*leaf.shape[:-1], 2 * leaf.shape[-1]), leaf.dtype)

    assert scaled == jax.tree_util.tree_map_with_path(expect, plain)
    assert doubled == 2 * sum(name.endswith("_resnet") for name in plain)  # a kernel and a bias each


@pytest.mark.parametrize(
    ("resolutions", "blocks_with_attention"),
    [
        ((16,), {"mid", "down_1_0", "up_1_0", "up_1_1"}),
        ((32, 8), {"mid", "down_0_0", "up_0_0", "up_0_1"} | {"down_2_0", "up_2_0", "up_2_1"}),
    ],
)
def test_attention_follows_every_block_at_the_heights_asked_for(resolutions, blocks_with_attention):
    net = PLAIN.clone(multipliers=(1, 1, 1), attention_resolutions=resolutions)
    params = shapes(net, jnp.zeros((1, 32, 16, 3)), jnp.zeros(1, int))
    assert {name.removesuffix("_attention") for name in params if name.endswith("_attention")} == blocks_with_attention
