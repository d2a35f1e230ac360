"""A source by its name: the only place that knows them all."""

from collections.abc import Callable

from jax_ddpm.data.sources.arrays import arrays
from jax_ddpm.data.sources.columns import USUAL, Columns
from jax_ddpm.data.sources.digits import digits
from jax_ddpm.data.sources.emoji import emoji
from jax_ddpm.data.sources.fashion_mnist import fashion_mnist
from jax_ddpm.data.sources.folder import image_folder
from jax_ddpm.data.sources.hugging_face import PREFIX, hugging_face
from jax_ddpm.data.sources.source import Source
from jax_ddpm.data.sources.tfds import tensorflow_dataset

SOURCES: dict[str, Callable[[str, str], Source]] = {  # (split, directory) -> source
    "digits": lambda split, directory: digits(split),
    "fashion_mnist": fashion_mnist,
    "emoji": emoji,
    "folder": lambda split, directory: image_folder(directory, split),
    "arrays": arrays,
}


def load_source(name: str, split: str, directory: str = "", columns: Columns = USUAL) -> Source:
    """A source by name.

    Args:
      name: "digits", "fashion_mnist", "emoji", "folder" (or a zip), "arrays" (an .npy or .npz file), "hf:" and the name of a
        set on the Hugging Face hub, or any image set of TensorFlow Datasets: "cifar10", "mnist", …
      split: "train", "test"; for TensorFlow Datasets and the hub whatever their split language says, "train[:90%]". What has no
        splits, as most folders, takes any.
      directory: the folder or the file, for what lies in one; for TensorFlow Datasets and the hub, where sets are kept ("" is
        their own default); for Fashion-MNIST and emoji "" is where `make data` puts them.
      columns: of a set of TensorFlow Datasets or of the hub, those of its images and classes. What has none takes any.
    Raises:
      InvalidInput: there is no such data set, or it is not here; the message says how to get it.
    """
    if name in SOURCES:
        return SOURCES[name](split, directory)
    if name.startswith(PREFIX):
        return hugging_face(name, split, directory, columns)
    return tensorflow_dataset(name, split, directory, columns, besides=(*SOURCES, f"{PREFIX}NAME"))
