"""What the tests of the sources put into files."""

import gzip
import io
import struct
from pathlib import Path

import numpy as np
from PIL import Image


def everything(source):
    examples = [source[index] for index in range(len(source))]
    return [example["image"] for example in examples], [example["label"] for example in examples]


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


CLOTHES = {
    "train": (noise(12, 28, 28), np.arange(12, dtype=np.uint8) % 10),
    "t10k": (noise(5, 28, 28), np.arange(5, 10, dtype=np.uint8)),
}


def idx(values: np.ndarray) -> bytes:
    return struct.pack(f">HBB{values.ndim}I", 0, 8, values.ndim, *values.shape) + values.tobytes()


def clothes(folder: Path, suffix: str = "") -> Path:
    """Writes the four files."""
    for begin, (images, labels) in CLOTHES.items():
        for name, values in ((f"{begin}-images-idx3-ubyte", images), (f"{begin}-labels-idx1-ubyte", labels)):
            (folder / f"{name}{suffix}").write_bytes(gzip.compress(idx(values)) if suffix else idx(values))
    return folder


def write(path, image: np.ndarray, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image).save(path, **options)


# Sets of TensorFlow Datasets.

NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
SIZES = {"train": 20, "test": 6}
IMAGES = {split: noise(size, 32, 32, 3, seed=size) for split, size in SIZES.items()}
DOWNSAMPLED = noise(3, 64, 64, 3)
DEEP = np.array([[0, 255], [256, 65535]], np.uint16)
MIXED = (noise(32, 32, 3), noise(32, 32), noise(32, 32, 4))  # colour, grey, and colour with transparency


def png(image: np.ndarray) -> io.BytesIO:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return io.BytesIO(file.getvalue())


def prepare(directory, data_set: str, features, examples, version: str = "3.0.2", config: str | None = None, licence: str = ""):
    """Writes a data set as `tfds build DATA_SET --file_format=array_record` does; `examples` is {split: list of examples}."""
    import tensorflow_datasets as tfds

    class Made(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        name = data_set
        VERSION = tfds.core.Version(version)
        BUILDER_CONFIGS = [tfds.core.BuilderConfig(name=config)] if config else []

        def _info(self):
            return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features), license=licence)

        def _split_generators(self, dl_manager):
            return {split: self._generate_examples(split) for split in examples}

        def _generate_examples(self, split):
            yield from enumerate(examples[split])

    Made(data_dir=directory, file_format="array_record").download_and_prepare()
