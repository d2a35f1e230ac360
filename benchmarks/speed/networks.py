"""The networks, as configs and as what diffusers has to be told to make the same ones.

Nothing here starts a device.
"""

from typing import Any

from ml_collections import ConfigDict

from benchmarks.speed.plan import Case
from configs import cifar, digits
from jax_ddpm.interop.diffusers_config import unet_config


def adm64() -> ConfigDict:
    """The network of Dhariwal & Nichol 2021 for images of 64×64 (table 4), without classes and learned variance.

    Noise and training are those of CIFAR-10's, which all that are compared have.
    """
    config = cifar.get_config()
    config.data.image_size = 64
    config.model.update(channels=192, multipliers=(1, 2, 3, 4), blocks=3, attention_resolutions=(32, 16, 8), head_channels=64)
    config.model.update(heads=1, scale_shift=True, block_resampling=True, dropout=0.1)
    return config


CONFIGS = {"digits": digits.get_config, "cifar": cifar.get_config, "adm64": adm64}


def make_config(case: Case) -> ConfigDict:
    """The config of its network with its batch and chain; digits without their classes, of which diffusers' knows nothing."""
    config = CONFIGS[case.net]()
    config.model.update(class_conditional=False, label_dropout=0.0, dtype=case.dtype)
    config.train.batch_size = config.sample.batch_size = case.batch
    if case.net != "digits" and case.kind == "sample":
        config.sampler.update(name="ddim", steps=case.steps, spacing="leading", rederive_eps=False)  # as diffusers does it
    else:
        config.sampler.update(name="ancestral", steps=case.steps)
    return config


def peer_network(config: ConfigDict) -> dict[str, Any]:
    """The settings with which diffusers' UNet2DModel is of the same architecture."""
    channels = config.data.channels
    return unet_config(config.model, config.data.image_size, channels, channels, labels=0)


def peer_settings(config: ConfigDict) -> dict[str, Any]:
    """What a peer is told of the chain and of training."""
    train, diffusion = config.train, config.diffusion
    return {
        "chain": {
            "num_train_timesteps": diffusion.steps,
            "beta_start": diffusion.beta_start,
            "beta_end": diffusion.beta_end,
            "beta_schedule": diffusion.schedule,
        },
        "variance": diffusion.variance,
        "learning_rate": train.learning_rate,
        "betas": [train.adam_b1, train.adam_b2],
        "eps": train.adam_eps,
        "weight_decay": train.weight_decay,
        "clip_norm": train.clip_norm,
        "ema_decay": train.ema_decay,
    }
