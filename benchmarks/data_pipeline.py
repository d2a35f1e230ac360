"""How fast images of CIFAR-10's size come out of the pipeline, beside how fast CIFAR-10's network takes them.

    python -m benchmarks.data_pipeline

Made images, the same in each source: an array in memory, a folder of PNG files, array_record as TensorFlow Datasets writes it.
Each pipeline runs for a second, in turn, then the train step of configs/cifar.py for some steps of 32 images, and so on for
some rounds: medians. Where images are kept in memory, all of them are there already. Nothing else runs beside a pipeline; in
training its threads share the processor with the network, unless that is on a GPU.

The first column of figures is images a second, the second how many times as many as the train step takes.
"""

import argparse
import io
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from PIL import Image

from configs import cifar
from jax_ddpm import experiment, objective
from jax_ddpm.data.augment import Augmentation
from jax_ddpm.data.pipeline import batches
from jax_ddpm.data.reading import cached, fitted
from jax_ddpm.data.sources.folder import image_folder
from jax_ddpm.data.sources.source import Source
from jax_ddpm.data.sources.tfds import tensorflow_dataset
from jax_ddpm.runtime import configure
from jax_ddpm.training.sharding import make_mesh, replicated, split_batch, to_devices
from jax_ddpm.training.state import TrainState, create_state

BATCH = 32  # of the train step
PIPELINE_BATCH = 128  # as configs/cifar.py has it
WARM_BATCHES = 16  # before the clock runs: more than are made ahead, so that all that is counted is made while it runs
WARM, STEPS = 1, 2  # train steps before the clock runs, and in each round
AUGMENTATIONS = {
    "none": Augmentation(),
    "flip": Augmentation(flip=True),
    "flip, crop 0.8, rotate 5°": Augmentation(flip=True, crop=0.8, rotate=5.0),
    "non-leaking, 0.12": Augmentation(flip=True, non_leaking=0.12),
}


def made_images(count: int) -> np.ndarray:
    """[N, 32, 32, 3] uint8: noise of all wavelengths, which a PNG file holds in about as many bytes as a photograph."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(40, 216, (count, 8, 8, 3)).repeat(4, axis=1).repeat(4, axis=2)
    return np.clip(coarse + rng.integers(-12, 13, (count, 32, 32, 3)), 0, 255).astype(np.uint8)


def png(image: np.ndarray) -> io.BytesIO:
    """An image as the bytes of a PNG file."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, "png")
    return io.BytesIO(file.getvalue())


def array_source(images: np.ndarray, _: Path) -> Source:
    """The images as they are."""
    return Source("array", len(images), lambda index: {"image": images[index], "label": index % 10})


def folder_source(images: np.ndarray, folder: Path) -> Source:
    """The images as PNG files."""
    for number, image in enumerate(images):
        (folder / f"{number:06d}.png").write_bytes(png(image).getvalue())
    return image_folder(str(folder))


def record_source(images: np.ndarray, folder: Path) -> Source:
    """The images as a data set of TensorFlow Datasets, which keeps them as PNG."""
    import tensorflow_datasets as tfds

    class MadeImages(tfds.core.GeneratorBasedBuilder):
        """A set of made images."""

        VERSION = tfds.core.Version("1.0.0")

        def _info(self) -> Any:
            features = {"image": tfds.features.Image(shape=(32, 32, 3)), "label": tfds.features.ClassLabel(num_classes=10)}
            return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

        def _split_generators(self, _: Any) -> dict[str, Any]:
            return {"train": self._generate_examples()}

        def _generate_examples(self) -> Iterator[tuple[int, dict[str, Any]]]:
            for number, image in enumerate(images):
                yield number, {"image": png(image), "label": number % 10}

    MadeImages(data_dir=folder, file_format="array_record").download_and_prepare()
    return tensorflow_dataset("made_images", "train", str(folder))


SOURCES: dict[str, Callable[[np.ndarray, Path], Source]] = {
    "array": array_source,
    "PNG folder": folder_source,
    "array_record": record_source,
}


Pipeline = Callable[[], Any]
"""Begins anew and gives batches, on the devices."""


def make_pipeline(source: Source, augmentation: Augmentation, workers: int, mesh: Mesh) -> Pipeline:
    """The stream of batches that training would take, of images of CIFAR-10's size."""
    return partial(
        batches,
        source,
        batch_size=PIPELINE_BATCH,
        image_size=32,
        channels=3,
        seed=0,
        augmentation=augmentation,
        workers=workers,
        place=partial(to_devices, mesh=mesh),
        prefetch=2,
    )


def kept(source: Source, augmentation: Augmentation) -> Source:
    """The source with all of its images in memory already."""
    most = augmentation.stored_size(32)
    kept = cached(fitted(source, most, 3, least=32), 1024, (most, most, 3))
    for index in range(len(kept)):
        kept.read(index)
    return kept


def make_pipelines(images: np.ndarray, folder: Path, workers: int, mesh: Mesh) -> dict[tuple[str, str, str], Pipeline]:
    """(source, kept in memory or not, augmentation) -> its pipeline; what is kept in memory is there already."""
    found: dict[tuple[str, str, str], Pipeline] = {}
    for name, make in SOURCES.items():
        (folder / name).mkdir()
        source = make(images, folder / name)
        for title, augmentation in AUGMENTATIONS.items():
            if augmentation.crop == 1 and not augmentation.non_leaking:
                found[name, "no", title] = make_pipeline(source, augmentation, workers, mesh)
            found[name, "yes", title] = make_pipeline(kept(source, augmentation), augmentation, workers, mesh)
    return found


def pipeline_rate(pipeline: Pipeline, seconds: float) -> float:
    """Images a second once it runs, of as many batches as come in so many seconds or just beyond them."""
    stream, count = pipeline(), 0
    for _ in range(WARM_BATCHES):
        next(stream)
    begin = time.perf_counter()
    while (taken := time.perf_counter() - begin) < seconds:
        jax.block_until_ready(next(stream))
        count += PIPELINE_BATCH
    stream.close()
    return count / taken


def make_train(mesh: Mesh) -> Callable[[int], float]:
    """A function that takes so many train steps of configs/cifar.py and gives images a second."""
    config = cifar.get_config()
    config.train.batch_size = BATCH
    whole, split = replicated(mesh), split_batch(mesh)

    def new_state() -> TrainState:
        init_key, key = jax.random.split(jax.random.key(0))
        params = experiment.init_params(config, init_key)
        return create_state(params, objective.make_optimizer(config), key, objective.make_timesteps(config).init())

    step = jax.jit(objective.make_step(config), in_shardings=(whole, split), out_shardings=(whole, whole), donate_argnums=0)
    state = jax.jit(new_state, out_shardings=whole)()
    images = np.random.default_rng(0).uniform(-1, 1, (BATCH, 32, 32, 3)).astype(np.float32)
    batch = to_devices({"image": images, "label": np.zeros(BATCH, np.int32)}, mesh)

    def train(steps: int) -> float:
        nonlocal state
        begin = time.perf_counter()
        for _ in range(steps):
            state, _ = step(state, batch)
        jax.block_until_ready(state)
        return steps * BATCH / (time.perf_counter() - begin)

    return train


def main() -> None:
    """Prints a table, a row a pipeline."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0, help="that each pipeline is run for in each round")
    parser.add_argument("--workers", type=int, default=2)
    given = parser.parse_args()
    configure(0, "", BATCH)
    mesh = make_mesh()
    train = make_train(mesh)
    with tempfile.TemporaryDirectory() as folder:
        pipelines = make_pipelines(made_images(given.images), Path(folder), given.workers, mesh)
        train(WARM)
        rates: dict[Any, list[float]] = {"train step": [], **{name: [] for name in pipelines}}
        for _ in range(given.rounds):
            for name, pipeline in pipelines.items():
                rates[name].append(pipeline_rate(pipeline, given.seconds))
            rates["train step"].append(train(STEPS))
    medians = {name: statistics.median(values) for name, values in rates.items()}
    consumed = medians.pop("train step")
    devices = f"{mesh.size} {jax.default_backend()} device(s)"
    print(f"the train step of configs/cifar.py, {BATCH} images, on {devices}: {consumed:.1f} images/s\n")
    print("| source | kept in memory | augmentation | images/s | times the train step |\n|---|---|---|---|---|")
    for (source, cache, title), rate in medians.items():
        print(f"| {source} | {cache} | {title} | {rate:,.0f} | {rate / consumed:,.0f} |")


if __name__ == "__main__":
    main()
