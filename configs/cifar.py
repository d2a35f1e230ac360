"""CIFAR-10 as in Ho et al. 2020: FID 3.17, IS 9.46, NLL ≤ 3.75 bits/dim in the paper.

    python run.py --config configs/cifar.py

Hardware: the paper took 10.6 hours on a TPU v3-8 (21 steps/s at batch 128). The data must be prepared once; the command says
how where it is not. These are the paper's settings, all of them (appendix B); the average alone is warmed up here, which at
800,000 steps makes no difference.
"""

from ml_collections import ConfigDict

from jax_ddpm.config import default_config


def get_config() -> ConfigDict:
    """The network of 35,746,307 parameters."""
    config = default_config()
    config.data.update(name="cifar10", image_size=32, channels=3, flip=True)
    config.diffusion.update(
        schedule="linear", steps=1000, beta_start=1e-4, beta_end=0.02, prediction="eps", loss="eps", variance="fixed_large"
    )
    config.model.update(
        channels=128, multipliers=(1, 2, 2, 2), blocks=2, attention_resolutions=(16,), heads=1, groups=32, dropout=0.1
    )
    config.train.update(
        steps=800_000,
        batch_size=128,
        learning_rate=2e-4,
        warmup_steps=5000,
        clip_norm=1.0,
        adam_b1=0.9,
        adam_b2=0.999,
        adam_eps=1e-8,
        ema_decay=0.9999,
    )
    return config
