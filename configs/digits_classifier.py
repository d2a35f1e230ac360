"""A classifier of noisy digits, to guide configs/digits.py by its gradient.

    python run.py --config configs/digits_classifier.py

Nothing to download. Hardware: any; on two CPU cores about two minutes. Result: of 297 digits held out it is right on 94.6 %
in the first quarter of the chain, 51.3, 15.0 and 9.5 % in the others, where there is little but noise.
"""

from ml_collections import ConfigDict

from jax_ddpm.config import default_config


def get_config() -> ConfigDict:
    """1,500 grey images of 8×8 and a small network that knows their classes, whatever the noise on them."""
    config = default_config()
    config.data.update(name="digits", image_size=8, channels=1, flip=False)
    config.model.update(
        network="noisy_classifier",
        channels=32,
        multipliers=(1, 2),
        blocks=1,
        attention_resolutions=(4,),
        groups=8,
        dropout=0.1,
        scale_shift=True,
        block_resampling=True,
    )
    config.train.update(
        steps=1000,
        batch_size=128,
        learning_rate=1e-3,
        warmup_steps=100,
        weight_decay=0.05,
        decay="linear",
        ema_decay=0.0,
        log_every=50,
        checkpoint_every=500,
        keep_every=0,
        sample_every=0,
    )
    config.eval.metrics = ("accuracy",)
    return config
