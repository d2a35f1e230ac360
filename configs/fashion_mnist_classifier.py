"""A classifier of noisy Fashion-MNIST, to guide configs/fashion_mnist.py by its gradient.

    python run.py --config configs/fashion_mnist_classifier.py

The data: as in configs/fashion_mnist.py. Hardware: any; on two CPU cores about five minutes. Result: of 2,000 images held out
it is right on 79.6 % in the first quarter of the chain, 69.1, 35.9 and 13.8 % in the others.
"""

from ml_collections import ConfigDict

from jax_ddpm.config import default_config


def get_config() -> ConfigDict:
    """60,000 grey images and a small network that knows their classes, whatever the noise on them."""
    config = default_config()
    config.data.update(name="fashion_mnist", image_size=32, channels=1, flip=False)
    config.model.update(
        network="noisy_classifier",
        channels=32,
        multipliers=(1, 2, 2),
        blocks=1,
        attention_resolutions=(8,),
        groups=8,
        dropout=0.0,
        scale_shift=True,
        block_resampling=True,
    )
    config.train.update(
        steps=700,
        batch_size=64,
        learning_rate=1e-3,
        warmup_steps=100,
        weight_decay=0.05,
        decay="linear",
        ema_decay=0.0,
        log_every=50,
        checkpoint_every=250,
        keep_last=1,
        keep_every=0,
        sample_every=0,
    )
    config.eval.update(metrics=("accuracy",), count=2000)
    return config
