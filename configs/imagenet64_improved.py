"""ImageNet at 64×64 as in Nichol & Dhariwal 2021 (IDDPM), cosine schedule, learned variance, hybrid loss: FID 19.2 there.

    python run.py --config configs/imagenet64_improved.py

Hardware: several GPUs or a TPU; where a batch does not fit the memory, add --config.train.accumulate=8. The settings are those
of the public code but for the details that configs/cifar_improved.py names. Nothing has been trained with this file yet.

The data is `downsampled_imagenet/64x64` of TensorFlow Datasets: 64×64 RGB without labels, splits train and validation. Its
download (http://image-net.org/small/, 12.6 GB) is reported gone since 2023 (tensorflow/datasets#4662). For those who have
train_64x64.tar and valid_64x64.tar there are two ways: unpack them, and read them as they are with
--config.data.name=folder --config.data.directory=PATH/train_64x64; or prepare them as the command says, with
download_and_prepare(download_config=tfds.download.DownloadConfig(manual_dir="PATH")).

A chain of 250 of the 4,000 steps: --config.sampler.steps=250
The paper's best likelihood (3.53 bits/dim): --config.diffusion.loss=rescaled_kl --config.diffusion.timesteps=second_moment
"""

from ml_collections import ConfigDict

from jax_ddpm.config import default_config


def get_config() -> ConfigDict:
    """The network of 121,063,942 parameters."""
    config = default_config()
    config.data.update(name="downsampled_imagenet/64x64", image_size=64, channels=3, flip=False)
    config.eval.split = "validation"
    config.diffusion.update(
        schedule="cosine", steps=4000, prediction="eps", variance="learned_range", loss="hybrid", timesteps="uniform"
    )
    config.model.update(
        channels=128, multipliers=(1, 2, 3, 4), blocks=3, attention_resolutions=(16, 8), heads=4, scale_shift=True, dropout=0.0
    )
    config.train.update(
        steps=1_500_000,
        batch_size=128,
        learning_rate=1e-4,
        warmup_steps=0,
        clip_norm=0.0,
        adam_b1=0.9,
        adam_b2=0.999,
        adam_eps=1e-8,
        ema_decay=0.9999,
    )
    return config
