"""What each metric has to say of samples: printed, drawn, and as figures to be kept."""

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from jax_ddpm import experiment
from jax_ddpm.data.sources.source import Source
from jax_ddpm.data.transforms import to_uint8
from jax_ddpm.evaluation.bits_per_dim import estimate
from jax_ddpm.evaluation.nearest import Neighbours, nearest
from jax_ddpm.features import as_source, open_judge, some
from jax_ddpm.held_out import NOTE_SEEN, each_once, held_out, seen_in_training
from jax_ddpm.pictures import grid, save_png
from jax_ddpm.processes import joined

Samples = tuple[np.ndarray, np.ndarray]
"""Images [N, H, W, C] uint8 and labels [N]: of samples, those asked for."""
Report = Callable[[Samples, Path], dict[str, Any]]
"""(samples, folder for pictures) -> figures."""


def make_agreement(config: ConfigDict, mesh: Mesh, workdir: Path) -> Report:
    """How often the classifier of `eval.classifier` takes samples for the class asked for, and how often it is right itself."""
    judge = open_judge(config, mesh)

    def report(samples: Samples, directory: Path) -> dict[str, Any]:
        images, labels = samples
        taken_for = [found.logits.argmax(axis=-1) for found, _ in judge.describe(as_source(images))]
        correct = joined(np.concatenate([np.zeros(0, int), *taken_for])) == labels
        found, names = estimate(correct), enumerate(config.data.class_names)
        by_class = {name: float(correct[labels == label].mean()) for label, name in names if label in labels}
        print(
            f"agreement: {found.mean:.1%} ± {found.standard_error:.1%} of {found.images:,} samples are of the class asked for\n"
            f"  by a classifier that is right on {judge}"
        )
        print("\n".join(f"  {name:>16}{share:>8.1%}" for name, share in by_class.items()))
        figures = {"agreement": found.mean, "standard_error": found.standard_error if found.images > 1 else None}
        return {**figures, "by_class": by_class, **judge.about}

    return report


def _batches(config: ConfigDict, source: Source) -> Iterator[Samples]:
    """All images of a source, as the network takes them but for being uint8."""
    for batch, count in each_once(config, source, min(1024, len(source))):
        yield to_uint8(batch["image"][:count]), batch["label"][:count]


def make_nearest(config: ConfigDict, mesh: Mesh, workdir: Path) -> Report:
    """How near samples come to images that were trained on; nearest.png has the nearest beside each.

    How near is near is told by as many images that were held out, where there are such.
    """
    training, unseen = experiment.make_source(config), held_out(config)
    seen = seen_in_training(config, workdir, unseen)

    def find(images: np.ndarray) -> Neighbours:
        return nearest(images, (part for part, _ in _batches(config, training)), mirrored=config.data.flip)

    def report(samples: Samples, directory: Path) -> dict[str, Any]:
        images, found = samples[0], find(samples[0])
        memorised, distances = int(found.memorised.sum()), found.distances[:, 0]
        print(
            f"memorised: {memorised} of {len(images):,} samples are copies, or less than a third as far from their nearest "
            f"training image, of {len(training):,}, as from the next\n"
            f"  distance from the nearest, median: {np.median(distances):.1f} grey levels"
        )
        figures = {"memorised": memorised, "training_images": len(training), "median_distance": float(np.median(distances))}
        if seen:
            print(f"  {NOTE_SEEN.removeprefix('note: ')}: nothing to compare with")
        else:
            figures |= _beside_unseen(
                find, np.concatenate([each for each, _ in _batches(config, some(unseen, len(images)))]), distances
            )
        picture = save_png(directory / "nearest.png", _pairs(images, found), image_size=images.shape[1])
        print(f"  each sample, and to its right its nearest training image: {picture}")
        return {**figures, "distances": found.distances.round(2).tolist()}

    return report


def _beside_unseen(find: Callable[[np.ndarray], Neighbours], unseen: np.ndarray, distances: np.ndarray) -> dict[str, Any]:
    """How near images come that were not trained on, and how many samples are nearer than nearly all of those."""
    usual = find(unseen).distances[:, 0]
    nearer = int((distances < np.quantile(usual, 0.05)).sum())
    print(f"  of {len(usual):,} held-out images {np.median(usual):.1f}; nearer than 95 % of these: {nearer} samples")
    return {"held_out_median_distance": float(np.median(usual)), "nearer_than_95_percent_of_held_out": nearer}


def _pairs(images: np.ndarray, found: Neighbours) -> np.ndarray:
    """A grid of each image and the nearest of the others to its right."""
    pairs = np.stack([images, found.images[:, 0]], axis=1).reshape(-1, *images.shape[1:])
    return grid(pairs, columns=2 * math.ceil(math.sqrt(len(images) / 2)))


SAMPLE_REPORTS: dict[str, Callable[[ConfigDict, Mesh, Path], Report]] = {"agreement": make_agreement, "nearest": make_nearest}
