"""Fashion-MNIST, padded to 32×32: a network for the likelihood of real images, small enough for a laptop.

    python run.py --config configs/fashion_mnist.py

The data: Debian's package dataset-fashion-mnist, or its four IDX files in --config.data.directory, or TensorFlow Datasets.
Hardware: any; on two CPU cores about a quarter of an hour. With L_simple, as here, or with the hybrid loss,

    python run.py --config configs/fashion_mnist.py --workdir runs/fashion_hybrid \
        --config.diffusion.loss=hybrid --config.diffusion.variance=learned_range

Result (docs/likelihood.md): 3.15 bits/dim with L_simple, 2.84 with the hybrid loss, on 128 images that were held out.
"""

from ml_collections import ConfigDict

from jax_ddpm.config import default_config


def get_config() -> ConfigDict:
    """60,000 grey images and a network of 1.1 million parameters, not conditional on the class."""
    config = default_config()
    config.data.update(name="fashion_mnist", image_size=32, channels=1, flip=False)
    config.model.update(channels=32, multipliers=(1, 2, 2), blocks=1, attention_resolutions=(8,), groups=8, dropout=0.0)
    config.train.update(
        steps=1000,
        batch_size=64,
        learning_rate=1e-3,
        warmup_steps=100,
        ema_decay=0.995,
        log_every=50,
        checkpoint_every=250,
        keep_every=0,
        sample_every=0,
        sample_count=16,
    )
    return config
