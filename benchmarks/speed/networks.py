"""The two networks, as configs and as what diffusers has to be told to make the same ones.

Nothing here starts a device.
"""

from typing import Any

from ml_collections import ConfigDict

from benchmarks.speed.plan import Case
from configs import cifar, digits

CONFIGS = {"digits": digits.get_config, "cifar": cifar.get_config}


def make_config(case: Case) -> ConfigDict:
    """The config of its network with its batch and chain; digits without their classes, of which diffusers' knows nothing."""
    config = CONFIGS[case.net]()
    config.model.update(class_conditional=False, label_dropout=0.0)
    config.train.batch_size = config.sample.batch_size = case.batch
    if case.net == "cifar" and case.kind == "sample":
        config.sampler.update(name="ddim", steps=case.steps, spacing="leading", rederive_eps=False)  # as diffusers does it
    else:
        config.sampler.update(name="ancestral", steps=case.steps)
    return config


def peer_network(config: ConfigDict) -> dict[str, Any]:
    """The arguments with which diffusers' UNet2DModel is of the same architecture."""
    model, levels = config.model, len(config.model.multipliers)
    heights = [config.data.image_size // 2**level for level in range(levels)]
    attention = [height in model.attention_resolutions for height in heights]
    return {
        "sample_size": config.data.image_size,
        "in_channels": config.data.channels,
        "out_channels": config.data.channels,
        "block_out_channels": [model.channels * each for each in model.multipliers],
        "layers_per_block": model.blocks,
        "down_block_types": ["AttnDownBlock2D" if each else "DownBlock2D" for each in attention],
        "up_block_types": ["AttnUpBlock2D" if each else "UpBlock2D" for each in reversed(attention)],
        "norm_num_groups": model.groups,
        "norm_eps": 1e-6,
        "attention_head_dim": None,
        "downsample_padding": 0,
        "freq_shift": 1,
        "flip_sin_to_cos": False,
        "dropout": model.dropout,
    }


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
