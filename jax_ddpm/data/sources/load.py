"""A source by its name: the only place that knows them all."""

from collections.abc import Callable

from jax_ddpm.data.sources.digits import digits
from jax_ddpm.data.sources.fashion_mnist import fashion_mnist
from jax_ddpm.data.sources.folder import image_folder
from jax_ddpm.data.sources.source import Source
from jax_ddpm.data.sources.tfds import tensorflow_dataset

SOURCES: dict[str, Callable[[str, str], Source]] = {  # (split, directory) -> source
    "digits": lambda split, directory: digits(split),
    "fashion_mnist": fashion_mnist,
    "folder": lambda split, directory: image_folder(directory),
}


def load_source(name: str, split: str, directory: str = "") -> Source:
    """A source by name.

    Args:
      name: "digits", "fashion_mnist", "folder", or any image set of TensorFlow Datasets: "cifar10", "mnist", …
      split: "train", "test", and for TensorFlow Datasets whatever its split language says, "train[:90%]".
      directory: for a folder or Fashion-MNIST's files, where they are; for TensorFlow Datasets, where sets are prepared ("" is
        its own default).
    Raises:
      InvalidInput: there is no such data set, or it is not here; the message says how to get it.
    """
    if name in SOURCES:
        return SOURCES[name](split, directory)
    return tensorflow_dataset(name, split, directory)
