"""Emoji at 32×32, in colour, by category: a small set, and so one that has to be looked at for copies.

    make data
    python run.py --config configs/emoji.py

The data: Google's 1,911 emoji without skin tones (Apache-2.0), 1,720 of them to train on. What is done to the images at random
the network is told, so that it draws none of it (Karras et al. 2022, appendix F.2). Nothing has been trained with this file.
"""

from ml_collections import ConfigDict

from jax_ddpm.config import default_config


def get_config() -> ConfigDict:
    """A network of 1.1 million parameters with a learned variance, conditional on the category."""
    config = default_config()
    config.data.update(name="emoji", image_size=32, channels=3, flip=False, augment=0.12)
    config.diffusion.update(schedule="cosine", loss="hybrid", variance="learned_range")
    config.model.update(
        channels=32,
        multipliers=(1, 2, 2),
        blocks=1,
        attention_resolutions=(8,),
        groups=8,
        dropout=0.0,
        class_conditional=True,
        label_dropout=0.1,
    )
    config.train.update(
        steps=4000,
        batch_size=64,
        learning_rate=1e-3,
        warmup_steps=200,
        decay="linear",
        ema_decay=0.999,
        log_every=50,
        checkpoint_every=250,
        keep_every=0,
        sample_every=0,
        sample_count=100,
    )
    return config
