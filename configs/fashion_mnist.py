"""Fashion-MNIST, padded to 32×32: real pictures of clothes, from a network that a laptop can train.

    python run.py --config configs/fashion_mnist.py

The data: `make data`, Debian's package dataset-fashion-mnist, its four IDX files in --config.data.directory, or TensorFlow
Datasets. Hardware: any; on two CPU cores about 80 minutes, at 65 images a second. Result (docs/zoo.md): clothes that one can
name, and 2.617 ± .014 bits/dim on all 10,000 test images, some terms of each. `zoo/fashion_mnist` has its weights.
"""

from ml_collections import ConfigDict

from jax_ddpm.config import default_config


def get_config() -> ConfigDict:
    """60,000 grey images and a network of 1.1 million parameters with a learned variance, not conditional on the class."""
    config = default_config()
    config.data.update(name="fashion_mnist", image_size=32, channels=1, flip=False)
    config.diffusion.update(loss="hybrid", variance="learned_range")
    config.model.update(channels=32, multipliers=(1, 2, 2), blocks=1, attention_resolutions=(8,), groups=8, dropout=0.0)
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
        sample_count=64,
    )
    return config
