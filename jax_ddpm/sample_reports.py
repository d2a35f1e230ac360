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
from jax_ddpm.features import as_source, numbered, open_judge, share_of, some
from jax_ddpm.files import write_npz
from jax_ddpm.held_out import NOTE_SEEN, each_once, held_out, seen_in_training
from jax_ddpm.pictures import grid, save_png
from jax_ddpm.processes import joined, own_share

MOST_PAIRS = 64  # in a picture: more cannot be looked at
QUANTILES = (0, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 1)  # of distances, that are kept
NEARER = 0.05  # of the held-out images are nearer to a training image than what counts as near

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

    How near is near is told by as many images that were held out, where there are such. Each process looks for the neighbours
    of its share of either, among all training images.
    """
    training, unseen = experiment.make_source(config), held_out(config)
    seen = seen_in_training(config, workdir, unseen)

    def find(own: np.ndarray) -> Neighbours:
        """Given those of this process, it finds the neighbours of those of all."""
        return Neighbours(*map(joined, nearest(own, _batches(config, numbered(training)), mirrored=config.data.flip)))

    def report(samples: Samples, directory: Path) -> dict[str, Any]:
        images, own = samples[0], own_share(len(samples[0]))
        found = find(images[own.start : own.stop])
        memorised, distances = int(found.memorised.sum()), found.distances[:, 0]
        print(
            f"memorised: {memorised} of {len(images):,} samples are copies, or less than a third as far from their nearest "
            f"training image, of {len(training):,}, as from the next\n"
            f"  distance from the nearest, median: {np.median(distances):.1f} grey levels"
        )
        figures = {"memorised": memorised, "training_images": len(training), "median_distance": float(np.median(distances))}
        figures |= {"mirrored": config.data.flip}
        if seen:
            print(f"  {NOTE_SEEN.removeprefix('note: ')}: nothing to compare with")
        else:
            figures |= _beside_unseen(find(_own_images(config, some(unseen, len(images)))), distances)
        write_npz(directory / "nearest.npz", distances=found.distances, training_numbers=found.numbers)
        return {**figures, "distance_quantiles": _quantiles(distances), "shown": _show_pairs(directory, images, found)}

    return report


def _own_images(config: ConfigDict, source: Source) -> np.ndarray:
    """[N, H, W, C] uint8 the images of this process's share, of which there may be none."""
    share, none = share_of(source), np.zeros((0, *experiment.image_shape(config)), np.uint8)
    return np.concatenate([none, *(images for images, _ in _batches(config, share))]) if len(share) else none


def _quantiles(distances: np.ndarray) -> dict[str, float]:
    """By the share of images that are no farther: how far they are, in grey levels."""
    return {f"{share:g}": float(np.quantile(distances, share)) for share in QUANTILES}


def _beside_unseen(found: Neighbours, distances: np.ndarray) -> dict[str, Any]:
    """How near images come that were not trained on, how many samples are nearer than nearly all of those, and than chance has.

    As many of the held-out images would be called memorised as are copies, or have a twin by chance: so many say nothing.

    Args:
      found: the neighbours of the held-out images.
      distances: [N] of the samples from their nearest.
    """
    usual, memorised = found.distances[:, 0], int(found.memorised.sum())
    nearer, expected = int((distances < np.quantile(usual, NEARER)).sum()), NEARER * len(distances)
    print(
        f"  of {len(usual):,} held-out images {np.median(usual):.1f}, and {memorised} of them would be called memorised\n"
        f"  nearer than 95 % of the held-out images: {nearer} samples, where as many held-out images would have {expected:.1f}"
    )
    return {
        **{"held_out_images": len(usual), "held_out_median_distance": float(np.median(usual)), "held_out_memorised": memorised},
        **{"nearer_than_95_percent_of_held_out": nearer, "nearer_expected_of_held_out": expected},
        "held_out_distance_quantiles": _quantiles(usual),
    }


def _show_pairs(directory: Path, images: np.ndarray, found: Neighbours) -> list[dict[str, Any]]:
    """Draws nearest.png, of the memorised and then of the nearest; gives what is known of each; says how many are left out."""
    shown = np.lexsort((found.distances[:, 0], ~found.memorised))[:MOST_PAIRS]
    pairs = np.stack([images[shown], found.images[shown, 0]], axis=1).reshape(-1, *images.shape[1:])
    columns = 2 * math.ceil(math.sqrt(len(shown) / 2))
    picture = save_png(directory / "nearest.png", grid(pairs, columns), image_size=images.shape[1])
    left_out = len(images) - len(shown)
    print(f"  each sample, and to its right its nearest training image, memorised ones first, then the nearest: {picture}")
    if left_out:
        print(f"  the other {left_out:,} are not in the picture; distances and numbers of all are in nearest.npz")
    return [
        {
            "sample": int(number),
            "memorised": bool(found.memorised[number]),
            "training_numbers": found.numbers[number].tolist(),
            "distances": found.distances[number].round(2).tolist(),
        }
        for number in shown
    ]


SAMPLE_REPORTS: dict[str, Callable[[ConfigDict, Mesh, Path], Report]] = {"agreement": make_agreement, "nearest": make_nearest}
