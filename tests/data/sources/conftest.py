"""Sets of TensorFlow Datasets, prepared by builders of these tests, without TensorFlow."""

import io

import numpy as np
import pytest

from tests.data.sources.made import CLOTHES, DOWNSAMPLED, IMAGES, NAMES, SIZES, png, prepare


@pytest.fixture(scope="session")
def prepared(tmp_path_factory):
    """A folder where sets lie as the catalogue's builders write them, `cifar10` and others, and some that are in none."""
    import tensorflow_datasets as tfds

    directory = tmp_path_factory.mktemp("tensorflow_datasets")
    image, label, text = tfds.features.Image(shape=(32, 32, 3)), tfds.features.ClassLabel(names=NAMES), tfds.features.Text()
    rows = {
        split: [{"id": f"{split}_{i:05d}", "image": png(IMAGES[split][i]), "label": i % 10} for i in range(size)]
        for split, size in SIZES.items()
    }
    prepare(directory, "cifar10", {"id": text, "image": image, "label": label}, rows)
    clothing = {"image": tfds.features.Image(shape=(28, 28, 1)), "label": tfds.features.ClassLabel(num_classes=10)}
    pictures = [{"image": png(image), "label": label} for image, label in zip(*CLOTHES["train"], strict=True)]
    prepare(directory, "fashion_mnist", clothing, {"train": pictures}, version="3.0.1")
    pictures = [{"image": png(each)} for each in DOWNSAMPLED]
    jpeg = tfds.features.Image(encoding_format="jpeg")  # as the catalogue says; the files are PNGs for all that
    prepare(
        directory, "downsampled_imagenet", {"image": jpeg}, {"validation": pictures}, "2.0.0", "64x64", "CC BY 4.0\nand so on"
    )
    prepare(directory, "unlabelled", {"image": image}, {"train": [{"image": png(each)} for each in IMAGES["test"]]})
    half = io.BytesIO(png(IMAGES["test"][0]).getvalue()[:1500])
    prepare(directory, "damaged", {"image": image}, {"train": [{"image": half}]})
    sixteen = tfds.features.Image(shape=(2, 2, 1), dtype=np.uint16)
    prepare(directory, "sixteen_bits", {"image": sixteen}, {"train": [{"image": png(np.zeros((2, 2), np.uint16))}]})
    prepare(directory, "words", {"text": text, "length": text}, {"train": [{"text": "a", "length": "1"}]})
    return directory
