"""Sets of TensorFlow Datasets, prepared by builders of these tests, without TensorFlow."""

import io

import numpy as np
import pytest

from tests.data.sources.made import CLOTHES, DEEP, DOWNSAMPLED, IMAGES, MIXED, NAMES, SIZES, noise, png, prepare


def prepare_as_in_catalogue(directory, name):
    """A set of three examples with the features that the catalogue's own builder says it has.

    Column n of example r is made of the seed 100 n + r: noise of it, or a label or a number that it gives.
    """
    import tensorflow_datasets as tfds

    builder = tfds.builder(name, data_dir=directory)
    features = dict(builder.info.features.items())
    values = {
        tfds.features.Image: lambda feature, seed: png(noise(*(side or 8 for side in feature.shape), seed=seed).squeeze()),
        tfds.features.ClassLabel: lambda feature, seed: seed % feature.num_classes,
        tfds.features.Tensor: lambda feature, seed: np.float32(seed),
    }
    rows = [
        {each: values[type(feature)](feature, 100 * number + row) for number, (each, feature) in enumerate(features.items())}
        for row in range(3)
    ]
    config = builder.builder_config.name if builder.builder_config else None
    prepare(directory, builder.name, features, {"train": rows}, str(builder.version), config)


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
    prepare(directory, "sixteen_bits", {"image": sixteen}, {"train": [{"image": png(DEEP)}]})
    declared = {"mixed": (32, 32, 3), "mixed_grey": (32, 32, 1), "sizes_open": (None, None, 3), "all_open": (None, None, 0)}
    for name, shape in declared.items():
        pictures = [{"image": png(each)} for each in MIXED]
        prepare(directory, name, {"image": tfds.features.Image(shape=shape)}, {"train": pictures})
    alone = {"picture": image, "kind": tfds.features.ClassLabel(names=["cat", "owl"]), "size": np.int64}
    pictures = [{"picture": png(IMAGES["test"][i]), "kind": i % 2, "size": 7} for i in range(3)]
    prepare(directory, "alone", alone, {"train": pictures})
    for name in ("div2k/bicubic_x2", "dsprites", "smallnorb"):
        prepare_as_in_catalogue(directory, name)
    prepare(directory, "words", {"text": text, "length": text}, {"train": [{"text": "a", "length": "1"}]})
    return directory
