"""The U-Net with random weights of diffusers' UNet2DModel: the same output, and what does not fit is named."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from diffusers import UNet2DModel

from jax_ddpm.errors import InvalidInput
from jax_ddpm.interop.diffusers import from_diffusers
from jax_ddpm.models.unet import UNet

# Levels with attention, channels, blocks a level; what the blocks of diffusers are called follows.
LAYOUTS = {
    "as in configs/fashion_mnist.py": ((False, False, True), (32, 64, 64), 1),
    "as google/ddpm-cifar10-32, narrower": ((False, True, False, False), (16, 32, 32, 32), 2),
}


def theirs(attention, widths, blocks) -> UNet2DModel:
    torch.manual_seed(0)
    model = UNet2DModel(
        sample_size=16,
        in_channels=3,
        out_channels=3,
        block_out_channels=widths,
        layers_per_block=blocks,
        down_block_types=tuple("AttnDownBlock2D" if each else "DownBlock2D" for each in attention),
        up_block_types=tuple("AttnUpBlock2D" if each else "UpBlock2D" for each in reversed(attention)),
        norm_num_groups=8,
        norm_eps=1e-6,
        attention_head_dim=None,
        downsample_padding=0,
        freq_shift=1,
        flip_sin_to_cos=False,
    )
    for name, parameter in model.named_parameters():  # at first all 1 and all 0, which hides mistakes
        if parameter.ndim == 1:
            parameter.data = torch.randn_like(parameter) * 0.3 + ("norm" in name and name.endswith("weight"))
    return model.eval()


def ours(attention, widths, blocks) -> UNet:
    return UNet(
        out_channels=3,
        channels=widths[0],
        multipliers=tuple(width // widths[0] for width in widths),
        blocks=blocks,
        attention_resolutions=tuple(16 // 2**level for level, has in enumerate(attention) if has),
        dropout=0.0,
        groups=8,
    )


def shapes(network: UNet):
    return jax.eval_shape(network.init, jax.random.key(0), jnp.zeros((1, 16, 16, 3)), jnp.zeros(1))["params"]


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_the_same_weights_give_the_same_output(layout):
    model, network = theirs(*layout), ours(*layout)
    params = from_diffusers({name: tensor.numpy() for name, tensor in model.state_dict().items()}, shapes(network))
    x = np.random.default_rng(0).normal(size=(2, 16, 16, 3)).astype(np.float32)
    t = np.array([3, 999])
    with torch.no_grad():
        expected = model(torch.from_numpy(x.transpose(0, 3, 1, 2)), torch.from_numpy(t)).sample.numpy().transpose(0, 2, 3, 1)
    found = network.apply({"params": params}, x, t.astype(np.float32))
    # Some thirty layers of float32, each summing a few hundred products in another order.
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())


def test_what_does_not_fit_is_named():
    layout = LAYOUTS["as in configs/fashion_mnist.py"]
    tensors = {name: tensor.numpy() for name, tensor in theirs(*layout).state_dict().items()}
    like = shapes(ours(*layout))
    without = {name: tensor for name, tensor in tensors.items() if name != "conv_in.weight"}
    with pytest.raises(InvalidInput, match=r"missing conv_in\.weight; left over more\.bias"):
        from_diffusers(without | {"more.bias": np.zeros(3)}, like)
    with pytest.raises(InvalidInput, match=r"conv_in\.bias has shape \(7,\): .* expected \(32,\)"):
        from_diffusers(tensors | {"conv_in.bias": np.zeros(7)}, like)
