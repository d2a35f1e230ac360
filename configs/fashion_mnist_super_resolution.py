"""Fashion-MNIST drawn from pictures of 8×8 pixels: super-resolution as in Ho et al. 2021 (cascaded diffusion).

    python run.py --config configs/fashion_mnist_super_resolution.py
    python run.py --workdir runs/fashion_mnist_super_resolution --mode edit --task enlarge

The data and the hardware: as in configs/fashion_mnist.py. Nothing has been trained with this file yet.
"""

from ml_collections import ConfigDict

from jax_ddpm.config import default_config


def get_config() -> ConfigDict:
    """The network of configs/fashion_mnist.py, told an image of 8×8 that it is to enlarge to 32×32."""
    config = default_config()
    config.data.update(name="fashion_mnist", image_size=32, channels=1, flip=False)
    config.diffusion.update(loss="hybrid", variance="learned_range")
    config.model.update(
        channels=32,
        multipliers=(1, 2, 2),
        blocks=1,
        attention_resolutions=(8,),
        groups=8,
        dropout=0.0,
        low_res_size=8,
        low_res_noise=0.1,
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
        sample_count=10,
    )
    return config
