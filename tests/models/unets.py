"""Small U-Nets of every kind, and what goes into them."""

from functools import partial

import jax
import numpy as np

from jax_ddpm.models.unet import UNet
from tests.models.numbers import normals, random_parameters

TINY = {"channels": 8, "groups": 4, "attention_resolutions": (4,), "dropout": 0.0}
PLAIN = UNet(**TINY, multipliers=(1, 2, 2), blocks=1)
LABELLED = UNet(**TINY, multipliers=(1, 2), blocks=2, num_classes=5, out_channels=2, heads=2)

SCALED = UNet(**TINY, multipliers=(1, 2), blocks=1, out_channels=6, scale_shift=True)
ENLARGING = UNet(**TINY, multipliers=(1, 2), blocks=1, block_resampling=True, head_channels=4, low_resolution=True)
GUIDED = UNet(**TINY, multipliers=(1, 2), blocks=1, num_classes=4, null_label=True)
OPENAI = UNet(**TINY, multipliers=(1, 2), blocks=1, heads=2, norm_eps=1e-2, downsample="conv_centred", time_channels=12)
OPENAI = OPENAI.clone(time_cosine_first=True, time_frequency_shift=0, time_scale=0.25, num_classes=5, middle_attention=False)
LINKED = UNet(**TINY, multipliers=(1, 2, 2), blocks=1, skip="add", downsample="pool", upsample="transposed")
BILINEAR = UNet(**TINY, multipliers=(1, 2), blocks=1, upsample="bilinear", low_resolution=True, low_res_time=False)
AUGMENTED = UNet(**TINY, multipliers=(1, 2), blocks=1, num_classes=5, augmentation=3)
ADM = {"attention_resolutions": (32, 16, 8), "head_channels": 64, "out_channels": 6, "scale_shift": True} | {
    "block_resampling": True
}


def inputs(net: UNet, batch: int = 3, seed: int = 0):
    """x of 8×4 pixels, t, and the labels where the network takes them, the last of those there are among them."""
    x, t, labels = normals(seed, batch, 8, 4, 3), np.array([0, 7, 999, 500])[:batch], np.array([4, 0, 2, 2])[:batch]
    return (x, t, labels) if net.num_classes else (x, t)


def small_image(net: UNet, batch: int = 3):
    """What it is to enlarge, and how far that is noised, where the network takes it."""
    return {"low_res": normals(9, batch, 8, 4, 1), "low_res_t": np.array([0, 90, 3])[:batch]} if net.low_resolution else {}


def told(net: UNet, batch: int = 3):
    """How the images were augmented, where the network takes it."""
    return {"augmentation": normals(8, batch, 3)} if net.augmentation else {}


def shapes(net: UNet, *arrays):
    return jax.eval_shape(net.init, jax.random.key(0), *arrays, **small_image(net, len(arrays[0])))["params"]


def parameters(net: UNet, seed: int = 0):
    return random_parameters(shapes(net, *inputs(net)), seed)


@partial(jax.jit, static_argnames=("net", "train"))
def run(net, params, *arrays, train=False, key=None, **small):
    return net.apply({"params": params}, *arrays, **small, train=train, rngs={} if key is None else {"dropout": key})
