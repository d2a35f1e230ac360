"""Digits drawn from digits of a quarter of the pixels, 4×4 to 8×8: super-resolution as in Ho et al. 2021 (cascaded diffusion).

    python run.py --config configs/digits_super_resolution.py
    python run.py --workdir runs/digits_super_resolution --mode edit --task enlarge

Nothing to download. Hardware: any; on two CPU cores about three minutes. Result: a picture of held-out digits, the small ones
made of them, and what is drawn of these; nearly all are the digit that they were (docs/editing.md shows some).
"""

from ml_collections import ConfigDict

from jax_ddpm.config import default_config


def get_config() -> ConfigDict:
    """The network of configs/digits.py, told the small image in place of the class."""
    config = default_config()
    config.data.update(name="digits", image_size=8, channels=1, flip=False)
    config.model.update(
        channels=32,
        multipliers=(1, 2),
        blocks=1,
        attention_resolutions=(4,),
        groups=8,
        dropout=0.0,
        low_res_size=4,
        low_res_noise=0.1,
    )
    config.train.update(
        steps=800,
        batch_size=128,
        learning_rate=1e-3,
        warmup_steps=100,
        ema_decay=0.995,
        log_every=50,
        checkpoint_every=200,
        keep_every=0,
        sample_every=0,
        sample_count=10,
    )
    return config
