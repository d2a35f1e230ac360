"""scikit-learn's handwritten digits, class by class: the demo.

    python run.py --config configs/digits.py

Nothing to download. Hardware: any; on two CPU cores about three minutes, grids of samples included. Result: a classifier that
is right on 99.7 % of real digits it has not seen takes 99.0 % of 200 samples for the digit asked for (`make demo` measures it).
"""

from ml_collections import ConfigDict

from jax_ddpm.config import default_config


def get_config() -> ConfigDict:
    """1,500 grey images of 8×8 and a small network, conditional on the class."""
    config = default_config()
    config.data.update(name="digits", image_size=8, channels=1, flip=False)
    config.model.update(
        channels=32,
        multipliers=(1, 2),
        blocks=1,
        attention_resolutions=(4,),
        groups=8,
        dropout=0.0,
        class_conditional=True,
        label_dropout=0.1,
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
        sample_every=200,
        sample_count=20,
    )
    config.sample.update(count=200, batch_size=200)
    return config
