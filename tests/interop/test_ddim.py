"""Networks of the public code of DDIM: what their tensors do not tell is that of its configs."""

import numpy as np
import pytest

from jax_ddpm.errors import InvalidInput
from jax_ddpm.interop.ddim import find_ddim


def tensors_of(multipliers, attention, channels=128):
    """What the settings are read from."""
    shapes = {"temb.dense.0.weight": (4 * channels, channels), "conv_in.weight": (channels, 3, 3, 3)}
    shapes |= {f"down.{attention}.attn.0.q.weight": (channels, channels, 1, 1)}
    for level, multiplier in enumerate(multipliers):
        for block in range(2):
            shapes[f"down.{level}.block.{block}.conv1.weight"] = (multiplier * channels, channels, 3, 3)
    return {name: np.broadcast_to(np.float32(0), shape) for name, shape in shapes.items()}


@pytest.mark.parametrize(
    ("multipliers", "attention", "size", "dropout", "variance"),
    [
        ((1, 2, 2, 2), 1, 32, 0.1, "fixed_large"),  # cifar10.yml
        ((1, 2, 2, 2, 4), 2, 64, 0.1, "fixed_large"),  # celeba.yml
        ((1, 1, 2, 2, 4, 4), 4, 256, 0.0, "fixed_small"),  # bedroom.yml, church.yml, and CelebA-HQ of pesser's
    ],
)
def test_the_published_ones_are_as_their_configs_say(multipliers, attention, size, dropout, variance):
    found = find_ddim(tensors_of(multipliers, attention), {})
    assert (found.settings["model"]["multipliers"], found.settings["model"]["blocks"]) == (multipliers, 2)
    assert (found.settings["data"]["image_size"], found.settings["model"]["attention_resolutions"]) == (size, (16,))
    assert (found.settings["model"]["dropout"], found.settings["diffusion"]["variance"]) == (dropout, variance)
    assert (found.settings["diffusion"]["schedule"], found.settings["diffusion"]["steps"]) == ("linear", 1000)
    assert {"data.image_size", "model.dropout", "diffusion.variance", "diffusion.schedule"} <= set(found.assumed)
    assert found.why == "known of the published network that has them"


def test_another_one_is_told_from_them_and_a_width_that_does_not_fit_is_named():
    assert find_ddim(tensors_of((1, 2), 1), {}).why == "as the published networks have it"
    with pytest.raises(InvalidInput, match=r"down\.1\.block\.0\.conv1\.weight has 192 rows: expected a multiple of .* 128"):
        find_ddim(tensors_of((1, 1), 1) | {"down.1.block.0.conv1.weight": np.zeros((192, 1, 1, 1))}, {})
    with pytest.raises(InvalidInput, match=r"no tensor of down\.0"):
        find_ddim({"temb.dense.0.weight": np.zeros((2, 2))}, {})
