"""Emoji at 32×32, in colour, by category: a small set, and so one that has to be looked at for copies.

    make data
    python run.py --config configs/emoji.py

The data: Google's 1,911 emoji without skin tones (Apache-2.0), 1,720 of them to train on. What they take is an idea of the
whole image, so the network is narrow where it is large and wide where it is small, and it predicts v, whose loss asks for all
noise levels alike; noise and its loss, with a network of (1, 2, 2), gave coloured patches after 2,500 steps. Hardware: any; on
two CPU cores some 78 minutes, at 69 images a second. Result (docs/zoo.md): hearts, smileys, people and flags that one knows as
such, 3.57 ± .06 bits/dim on the 191 held-out emoji. `zoo/emoji` has its weights.
"""

from ml_collections import ConfigDict

from jax_ddpm.config import default_config


def get_config() -> ConfigDict:
    """A network of 3.8 million parameters, most of them at 8×8 and 4×4, conditional on the category."""
    config = default_config()
    config.data.update(name="emoji", image_size=32, channels=3, flip=False)
    config.diffusion.update(schedule="cosine", prediction="v", loss="v", variance="fixed_small")
    config.model.update(
        channels=24,
        multipliers=(1, 2, 4, 6),
        blocks=1,
        attention_resolutions=(8,),
        groups=8,
        dropout=0.0,
        class_conditional=True,
        label_dropout=0.1,
    )
    config.train.update(
        steps=5000,
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
