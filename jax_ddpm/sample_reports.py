"""What each metric has to say of samples: printed, drawn, and as figures to be kept."""

import math
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from jax_ddpm import experiment
from jax_ddpm.data.pipeline import one_pass
from jax_ddpm.data.sources.source import Source
from jax_ddpm.data.transforms import to_float, to_uint8
from jax_ddpm.evaluation.bits_per_dim import estimate
from jax_ddpm.evaluation.nearest import nearest
from jax_ddpm.held_out import held_out
from jax_ddpm.pictures import grid, save_png
from jax_ddpm.trained import open_classifier
from jax_ddpm.training.sharding import split_batch

Samples = tuple[np.ndarray, np.ndarray]
"""Images [N, H, W, C] uint8 and labels [N]: of samples, those asked for."""


def _report_agreement(config: ConfigDict, mesh: Mesh, samples: Samples, directory: Path) -> dict[str, Any]:
    """How often the classifier of `eval.classifier` takes samples for the class asked for, and how often it is right itself."""
    classes, source, (images, labels) = _judge(config, mesh), held_out(config), samples
    own = estimate(np.concatenate([classes(real) == known for real, known in _batches(config, source)]))
    correct = classes(images) == labels
    found = estimate(correct)
    names = enumerate(config.data.class_names)
    by_class = {name: float(correct[labels == label].mean()) for label, name in names if label in labels}
    print(
        f"agreement: {found.mean:.1%} ± {found.standard_error:.1%} of {found.images:,} samples are of the class asked for\n"
        f"  by a classifier that is right on {own.mean:.1%} of {own.images:,} images ({source.name}, {config.eval.split})"
    )
    print("\n".join(f"  {name:>16}{share:>8.1%}" for name, share in by_class.items()))
    judge = {"classifier": config.eval.classifier, "classifier_accuracy": own.mean, "classifier_images": own.images}
    return {"agreement": found.mean, "standard_error": found.standard_error, "by_class": by_class, **judge}


def _judge(config: ConfigDict, mesh: Mesh) -> Callable[[np.ndarray], np.ndarray]:
    """images [N, H, W, C] uint8 -> [N] the classes that the classifier finds likeliest, told that they have no noise."""
    classifier = open_classifier(config, "eval.classifier", mesh, same_noise=False)
    size = math.ceil(config.eval.batch_size / mesh.size) * mesh.size

    @partial(jax.jit, in_shardings=split_batch(mesh), out_shardings=split_batch(mesh))
    def likeliest(images: jax.Array) -> jax.Array:
        logits = classifier.network.apply({"params": classifier.params}, images, jnp.zeros(size))
        return cast(jax.Array, logits).argmax(axis=-1)

    def classes(images: np.ndarray) -> np.ndarray:
        filled = np.resize(to_float(images), (math.ceil(len(images) / size), size, *images.shape[1:]))
        return np.concatenate([np.asarray(likeliest(batch)) for batch in filled])[: len(images)]

    return classes


def _batches(config: ConfigDict, source: Source) -> Iterator[Samples]:
    """All images of a source, as the network takes them but for being uint8."""
    data = config.data
    asked = {"image_size": data.image_size, "channels": data.channels, "on_damaged": data.on_damaged}
    for batch, count in one_pass(source, batch_size=min(1024, len(source)), **asked):
        yield to_uint8(batch["image"][:count]), batch["label"][:count]


def _report_nearest(config: ConfigDict, mesh: Mesh, samples: Samples, directory: Path) -> dict[str, Any]:
    """How near samples come to images that were trained on; nearest.png has the nearest beside each.

    How near is near is told by as many images that were held out.
    """
    training, images = experiment.make_source(config), samples[0]
    unseen = np.concatenate([part for part, _ in _batches(config, held_out(config))])[: len(images)]
    found = nearest(np.concatenate([images, unseen]), (part for part, _ in _batches(config, training)))
    distances, usual = np.split(found.distances[:, 0], [len(images)])
    memorised = int(found.memorised[: len(images)].sum())
    nearer = int((distances < np.quantile(usual, 0.05)).sum())
    print(
        f"memorised: {memorised} of {len(images):,} samples are less than a third as far from their nearest training image, of "
        f"{len(training):,}, as from the next\n  distance from the nearest, median: {np.median(distances):.1f} grey levels; of "
        f"{len(usual):,} held-out images {np.median(usual):.1f}; nearer than 95 % of these: {nearer} samples"
    )
    pairs = np.stack([images, found.images[: len(images), 0]], axis=1).reshape(-1, *images.shape[1:])
    columns = 2 * math.ceil(math.sqrt(len(images) / 2))
    picture = save_png(directory / "nearest.png", grid(pairs, columns), image_size=images.shape[1])
    print(f"  each sample, and to its right its nearest training image: {picture}")
    return {
        **{"memorised": memorised, "nearer_than_95_percent_of_held_out": nearer, "training_images": len(training)},
        **{"median_distance": float(np.median(distances)), "held_out_median_distance": float(np.median(usual))},
        "distances": found.distances[: len(images)].round(2).tolist(),
    }


SAMPLE_REPORTS: dict[str, Callable[[ConfigDict, Mesh, Samples, Path], dict[str, Any]]] = {
    "agreement": _report_agreement,
    "nearest": _report_nearest,
}
