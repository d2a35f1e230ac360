"""A folder of images of your own, at 32×32; subfolders, if there are any, are the classes.

    python run.py --mode data --config configs/folder.py --config.data.directory=PATH    (what is in it, and damaged files)
    python run.py --config configs/folder.py --config.data.directory=PATH

PATH is a folder or a zip; docs/data.md says how it may be laid out, and what becomes of images of every kind.
For classes that the network knows of, so that one can ask for them, add --config.model.class_conditional=True. For grey images
--config.data.channels=1; for images that must not be mirrored, such as writing, --config.data.flip=False. For 64×64
--config.data.image_size=64 --config.model.attention_resolutions=16, (attention at a height that the network has).

Hardware: a GPU; on a CPU try --config.model.channels=32 and fewer steps. The network is half as wide as CIFAR-10's and has one
resolution less. How long it takes and how good the samples are depends on your images; nothing is claimed.
"""

from ml_collections import ConfigDict

from jax_ddpm.config import default_config


def get_config() -> ConfigDict:
    """Images of any size, fitted to 32×32, and a network for a single GPU or a patient CPU."""
    config = default_config()
    config.data.update(name="folder", image_size=32, channels=3, flip=True)
    config.model.update(channels=64, multipliers=(1, 2, 2), attention_resolutions=(8,))
    config.train.update(
        steps=50_000,
        batch_size=64,
        warmup_steps=1000,
        ema_decay=0.999,
        checkpoint_every=1000,
        keep_every=10_000,
        sample_every=5000,
    )
    return config
