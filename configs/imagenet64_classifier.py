"""The classifier of noisy ImageNet images at 64×64 with which Dhariwal & Nichol 2021 (ADM) guide their model of that size.

    python run.py --config configs/imagenet64_classifier.py

Hardware: several GPUs or a TPU; where a batch does not fit the memory, add --config.train.accumulate=8. The data is
`imagenet_resized/64x64` of TensorFlow Datasets, 64×64 RGB with the 1,000 classes, splits train and validation. Nothing has been
trained with this file yet.

The network, its 65,438,568 parameters, the noise and the optimizer are those of the paper (tables 11 and 12). What differs from
the public code: images are not cropped at random (there to between .8 and 1 of their side), a batch is mirrored as everywhere
here, group normalisation has ε = 1e-6 (there 1e-5), sines come before cosines in the embedding of t, and weights start as those
of the U-Net here do.
"""

from ml_collections import ConfigDict

from jax_ddpm.config import default_config


def get_config() -> ConfigDict:
    """The way down of ADM's network with 128 channels and four blocks a resolution."""
    config = default_config()
    config.data.update(name="imagenet_resized/64x64", image_size=64, channels=3, flip=True)
    config.diffusion.update(schedule="cosine", steps=1000, timesteps="uniform")
    config.model.update(
        network="noisy_classifier",
        channels=128,
        multipliers=(1, 2, 3, 4),
        blocks=4,
        attention_resolutions=(32, 16, 8),
        head_channels=64,
        dropout=0.0,
        scale_shift=True,
        block_resampling=True,
    )
    config.train.update(
        steps=300_000,
        batch_size=1024,
        learning_rate=6e-4,
        warmup_steps=0,
        clip_norm=0.0,
        weight_decay=0.2,
        decay="linear",
        ema_decay=0.0,
        sample_every=0,
    )
    config.eval.update(metrics=("accuracy",), split="validation")
    return config
