"""What the network cannot take, and what it says then."""

from functools import partial

import flax.errors
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_ddpm.errors import InvalidInput
from tests.models.unets import AUGMENTED, ENLARGING, PLAIN, inputs, shapes, small_image


def test_training_without_a_key_for_dropout_is_refused():
    net = PLAIN.clone(dropout=0.3)
    with pytest.raises(flax.errors.InvalidRngError, match="dropout"):
        jax.eval_shape(partial(net.apply, train=True), {"params": shapes(net, *inputs(net))}, *inputs(net))


@pytest.mark.parametrize(
    ("settings", "shape", "labels", "message"),
    [
        ({}, (2, 6, 8, 3), None, r"shape \(2, 6, 8, 3\).* multiples of 4, for 3 multipliers halve the image 2 times"),
        ({}, (2, 8, 6, 3), None, r"shape \(2, 8, 6, 3\).* multiples of 4"),
        ({}, (8, 8, 3), None, r"shape \(8, 8, 3\): expected \[B, H, W, C\]"),
        ({}, (2, 8, 8, 3), [0, 1], "labels given: a network with num_classes=0 takes no labels"),
        ({"num_classes": 5}, (2, 8, 8, 3), None, r"no labels given: a network with num_classes=5 takes labels in 0\.\.4"),
        ({"num_classes": 5, "null_label": True}, (2, 8, 8, 3), None, r"no labels given: .* takes labels in 0\.\.5"),
        ({"null_label": True}, (2, 8, 8, 3), None, "null_label=True with num_classes=0: expected classes"),
        ({"head_channels": 5}, (2, 8, 8, 3), None, "8 channels do not split into groups=4 and heads of head_channels=5"),
        ({"groups": 3}, (2, 8, 8, 3), None, r"8 channels do not split into groups=3 and heads=1.* \(8\)"),
        ({"heads": 3}, (2, 8, 8, 3), None, "8 channels do not split into groups=4 and heads=3"),
        ({"channels": 12, "groups": 8, "multipliers": (2,)}, (2, 8, 8, 3), None, "12 channels do not split into groups=8"),
        ({"attention_resolutions": (4, 3)}, (2, 8, 8, 3), None, r"\(4, 3\): the heights here are \[8, 4, 2\]"),
        ({"channels": 5, "groups": 5}, (2, 8, 8, 3), None, "channels=5: expected an even number"),
        ({"skip": "sum"}, (2, 8, 8, 3), None, "unknown skip 'sum': expected one of concatenate, add"),
        ({"time_frequency_shift": 4}, (2, 8, 8, 3), None, "time_frequency_shift=4: expected from 0 to less than the 4 freq"),
        ({"time_channels": 7}, (2, 8, 8, 3), None, "time_channels=7: expected an even number"),
        ({"heads": 16, "multipliers": (2,)}, (2, 8, 8, 3), None, "8 channels do not split into groups=4 and heads=16"),
    ],
)
def test_what_the_network_cannot_take_is_refused(settings, shape, labels, message):
    with pytest.raises(InvalidInput, match=message):
        shapes(PLAIN.clone(**settings), jnp.zeros(shape), jnp.zeros(2, int), None if labels is None else jnp.array(labels))


@pytest.mark.parametrize(
    ("net", "given", "message"),
    [
        (
            PLAIN,
            ("low_res", "low_res_t"),
            "low_res given: a network with low_resolution=False takes neither low_res nor low_res_t",
        ),
        (PLAIN, ("low_res_t",), "low_res_t given: a network with low_resolution=False takes neither"),
        (ENLARGING, (), "no low_res given: a network with low_resolution=True takes low_res and low_res_t"),
        (ENLARGING, ("low_res",), "no low_res_t given: a network with low_resolution=True takes low_res and low_res_t"),
    ],
)
def test_a_small_image_where_there_should_be_none_and_none_where_there_should_be_one_are_refused(net, given, message):
    small = {name: value for name, value in small_image(ENLARGING).items() if name in given}
    with pytest.raises(InvalidInput, match=message):
        jax.eval_shape(net.init, jax.random.key(0), *inputs(net), **small)


@pytest.mark.parametrize(
    ("net", "shape", "message"),
    [
        (PLAIN, (3, 3), r"augmentation given, of shape \(3, 3\): a network with augmentation=0 takes none"),
        (AUGMENTED, (3, 9), r"of shape \(3, 9\): a network with augmentation=3 takes 3 numbers for each of 3 images"),
        (AUGMENTED, (3,), r"of shape \(3,\): a network with augmentation=3 takes 3 numbers for each of 3 images"),
    ],
)
def test_an_augmentation_that_the_network_is_not_told_is_refused(net, shape, message):
    with pytest.raises(InvalidInput, match=message):
        jax.eval_shape(net.init, jax.random.key(0), *inputs(net), augmentation=np.zeros(shape))


def test_a_small_image_that_is_still_small_is_refused():
    small = small_image(ENLARGING) | {"low_res": np.zeros((3, 4, 2, 1))}
    with pytest.raises(
        InvalidInput, match=r"low_res has shape \(3, 4, 2, 1\): expected it brought to the size of x, \(3, 8, 4, 3\)"
    ):
        jax.eval_shape(ENLARGING.init, jax.random.key(0), *inputs(ENLARGING), **small)
