"""Samples compared with real images by features of both: FID, KID and what is like them."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from jax_ddpm import experiment
from jax_ddpm.data.sources.source import Source
from jax_ddpm.errors import InvalidInput
from jax_ddpm.evaluation.inception import Features
from jax_ddpm.evaluation.inception_score import RunningScore
from jax_ddpm.evaluation.kernel_distance import FEWEST_BLOCKS, kernel_distance
from jax_ddpm.evaluation.manifold import DENSITY_K, PRECISION_K, density_coverage, precision_recall
from jax_ddpm.evaluation.reference import Reference, read_statistics, write_statistics
from jax_ddpm.evaluation.running_distance import RunningDistance
from jax_ddpm.evaluation.statistics import PartedMoments
from jax_ddpm.features import Extractor, make_extractor, numbered, some
from jax_ddpm.files import as_local, place
from jax_ddpm.opened_images import open_images
from jax_ddpm.processes import joined

Found = tuple[str, dict[str, Any]]
"""What is printed, and the figures."""


class Streamed(NamedTuple):
    """A metric that keeps no features: it is given those of one batch after the other, and asked in the end.

    With the features of a batch it is told their places in the random order of all of them; what it found is of all processes.
    """

    add: Callable[[Features, np.ndarray], None]
    found: Callable[[], Found]


def _frechet(metric: str, part: str) -> Callable[[Extractor, Reference, int], Streamed]:
    def start(extractor: Extractor, reference: Reference, samples: int) -> Streamed:
        parts = getattr(reference, f"{part}_parts")
        running = RunningDistance(getattr(reference, part), samples, parts)

        def found() -> Found:
            estimate, size, title = running.estimate(), getattr(extractor.sizes, part), extractor.titles[metric]
            distance = _with_error(estimate.distance, estimate.standard_error)
            limit = _with_error(estimate.infinity, estimate.infinity_standard_error)
            infinity = f", {title}∞ {limit}" if limit else ""
            exact = " (the reference taken as exact)" if estimate.standard_error is not None and parts is None else ""
            few = f" (too large: a covariance of {size} features takes more samples)" if samples <= size else ""
            figures = {
                **{"distance": estimate.distance, "standard_error": estimate.standard_error, "infinity": estimate.infinity},
                **{"standard_error_of_samples": estimate.of_samples, "standard_error_of_reference": estimate.of_reference},
                **{"infinity_standard_error": estimate.infinity_standard_error, "reference_taken_as_exact": parts is None},
            }
            return f"{distance}{infinity}{exact}{few}", figures

        return Streamed(lambda features, places: running.add(getattr(features, part), places), found)

    return start


def _with_error(value: float | None, error: float | None) -> str:
    """The one and the other, as far as they are known."""
    return " ± ".join(f"{each:.3f}" for each in (value, error) if each is not None)


def _score(extractor: Extractor, reference: Reference | None, samples: int) -> Streamed:
    running = RunningScore(extractor.sizes.logits, samples)

    def found() -> Found:
        mean, deviation, parts = running.score()
        return f"{mean:.3f} ± {deviation:.3f} in {parts} parts", {"score": mean, "deviation": deviation, "parts": parts}

    return Streamed(lambda features, places: running.add(features.logits, places), found)


def _kernel(samples: np.ndarray, real: np.ndarray, seed: int) -> Found:
    found = kernel_distance(samples, real, seed)
    return f"{found.mean:.3e} ± {found.standard_error:.1e}", {**found._asdict(), "blocks_drawn_by": seed}


def _precision_recall(samples: np.ndarray, real: np.ndarray, seed: int) -> Found:
    found = precision_recall(samples, real)
    return f"{found.precision:.3f} and {found.recall:.3f}, k = {PRECISION_K}", {**found._asdict(), "k": PRECISION_K}


def _density_coverage(samples: np.ndarray, real: np.ndarray, seed: int) -> Found:
    found = density_coverage(samples, real)
    return f"{found.density:.3f} and {found.coverage:.3f}, k = {DENSITY_K}", {**found._asdict(), "k": DENSITY_K}


STREAMED: dict[str, tuple[str, Callable[..., Streamed]]] = {  # and what each needs to know of the real images
    "fid": ("pooled", _frechet("fid", "pooled")),
    "sfid": ("spatial", _frechet("sfid", "spatial")),
    "is": ("", _score),
}
OF_ALL: dict[str, Callable[[np.ndarray, np.ndarray, int], Found]] = {  # (features of samples, of real images, seed): both kept
    "kid": _kernel,
    "precision_recall": _precision_recall,
    "density_coverage": _density_coverage,
}


FEWEST = {  # samples, and real images, that a metric takes at the least
    "fid": (2, 2),
    "sfid": (2, 2),
    "kid": (2 * FEWEST_BLOCKS, 2 * FEWEST_BLOCKS),
    "precision_recall": (PRECISION_K + 1, PRECISION_K + 1),
    "density_coverage": (1, DENSITY_K + 1),
}


class FeatureJudge(NamedTuple):
    """What samples are to be judged by: it is all there before any are drawn."""

    extractor: Extractor
    reference: Reference | None
    names: Sequence[str]
    seed: int

    def report(self, samples: Source) -> list[dict[str, Any]]:
        """Prints each metric of the samples, and gives its figures with all that they depend on.

        Raises:
          InvalidInput: some of the samples cannot be read, or there are too few.
        """
        extractor, reference, count = self.extractor, self.reference, len(samples)
        running = {name: STREAMED[name][1](extractor, reference, count) for name in self.names if name in STREAMED}
        rest = [name for name in self.names if name in OF_ALL]
        kept = _Kept(extractor.sizes.pooled if rest else 0)
        for features, places in extractor.describe(numbered(samples, _shuffled(count, self.seed))):
            for metric in running.values():
                metric.add(features, places)
            kept.add(features.pooled, places)
        together, places = kept.joined()
        if len(places) < count:
            raise InvalidInput(
                f"{count - len(places)} of the {count} samples cannot be read: take them out, that it be known what is judged"
            )
        streamed = {name: metric.found() for name, metric in running.items()}
        found = {name: (text, {**figures, "parts_drawn_by": self.seed}) for name, (text, figures) in streamed.items()}
        if reference is not None and reference.kept is not None:
            found |= {name: OF_ALL[name](together, reference.kept, self.seed) for name in rest}
        return [self._told(name, count, *found[name]) for name in self.names]

    def _told(self, name: str, samples: int, text: str, figures: dict[str, Any]) -> dict[str, Any]:
        title, needs = self.extractor.titles[name], _needs(name)
        against: dict[str, Any] = {}
        if needs and self.reference is not None:
            number = len(self.reference.kept) if needs == "kept" and self.reference.kept is not None else self.reference.images
            against = {"reference": self.reference.name, "reference_images": number}
        beside = f" against {_number(against['reference_images'])} of {against['reference']}" if against else ""
        print(f"{title}: {text}\n  of {samples:,} samples{beside}, by {self.extractor.name}")
        return {"metric": self.extractor.keys[name], "title": title, **figures, **against, **self.extractor.about}


def _number(images: int | None) -> str:
    return f"{images:,} images" if images else "images, it is not known how many,"


def _needs(name: str) -> str:
    """What of the real images has to be known: "pooled", "spatial" or "kept" features, or nothing."""
    return STREAMED[name][0] if name in STREAMED else "kept"


def prepare(config: ConfigDict, mesh: Mesh, names: Sequence[str], samples: int) -> FeatureJudge:
    """Opens what makes the features, and makes those of the real images, or reads what a file says of them.

    Args:
      samples: how many are to be judged.
    Raises:
      InvalidInput: the one or the other is not to be had, they do not go together, or there are too few samples or images.
    """
    _check_enough(names, 0, samples, "samples")
    extractor, needed = make_extractor(config, mesh), any(map(_needs, names))
    save = config.eval.save_reference
    reference = _reference(config, extractor, names) if needed or save else None
    if save and reference is not None:
        print(f"statistics of {reference.name}: {write_statistics(place(save), reference)}", flush=True)
    return FeatureJudge(extractor, reference, names, config.eval.seed)


def _check_enough(names: Sequence[str], side: int, images: int, what: str) -> None:
    for name in names:
        fewest = FEWEST.get(name, (1, 1))[side]
        if images < fewest:
            raise InvalidInput(f"eval.metrics={name} of {images} {what}: expected {fewest} or more")


def _reference(config: ConfigDict, extractor: Extractor, names: Sequence[str]) -> Reference:
    needed = {_needs(name) for name in names} - {""}
    path = place(config.eval.reference)
    known = _statistics(path) if config.eval.reference else None
    if known is None:
        real = _real(config)
        _check_enough([name for name in names if _needs(name)], 1, len(real), f"images of {real.name}")
        return _gathered(config, extractor, needed, real)
    if known.features and known.features != extractor.name:
        raise InvalidInput(f"{path} is of features by {known.features}: they cannot be compared with those by {extractor.name}")
    if not known.features:
        print(f"note: {path} does not say what made its features; taken for {extractor.name}")
    for part in ("pooled", "spatial"):
        moments, size = getattr(known, part), getattr(extractor.sizes, part)
        if moments is not None and len(moments.mean) != size:
            raise InvalidInput(f"{path} is of {len(moments.mean)} features: {extractor.name} has {size}")
    lacking = {part for part in needed if getattr(known, part) is None}
    if not lacking:
        return known
    if not _holds_images(path):
        asked = [name for name in names if _needs(name) in lacking]
        raise InvalidInput(
            f"{path} holds no images, and {', '.join(asked)} cannot be had of what it holds. Expected an .npz file of images, "
            "a folder of them or the name of a data set"
        )
    gathered = _gathered(config, extractor, lacking, _real(config))
    own: dict[str, Any] = {part: getattr(known, part) for part in ("pooled", "spatial") if getattr(known, part) is not None}
    own |= {f"{part}_parts": None for part in own}  # taken as exact
    return gathered._replace(**own, name=known.name, images=known.images)


def _statistics(path: Path) -> Reference | None:
    """Those that a file holds, wherever it lies; None where there is no such file, or it holds none."""
    if not path.is_file():
        return None
    with as_local(path) as file:
        known = read_statistics(file)
    return known and known._replace(name=str(path))


def _holds_images(path: Path) -> bool:
    with as_local(path) as local, np.load(local) as file:
        return "arr_0" in file


def _gathered(config: ConfigDict, extractor: Extractor, needed: set[str], source: Source) -> Reference:
    """The moments of the features of all images; the features are kept where a metric needs them."""
    print(f"looking at {len(source):,} images of {source.name} ...", flush=True)
    parts = {part: PartedMoments(getattr(extractor.sizes, part), len(source)) for part in ("pooled", "spatial")}
    kept, order = _Kept(extractor.sizes.pooled if "kept" in needed else 0), _shuffled(len(source), config.eval.seed)
    asked = {"pooled", *(needed if not config.eval.save_reference else parts)}
    wanted = [part for part in parts if part in asked and getattr(extractor.sizes, part)]
    for features, places in extractor.describe(numbered(source, order)):
        for part in wanted:
            parts[part].add(getattr(features, part), places)
        kept.add(features.pooled, order[places])
    of_all, numbers = kept.joined()
    whole = {part: parts[part].over_processes() for part in wanted}
    known: dict[str, Any] = {part: each.together().moments() for part, each in whole.items()}
    known |= {f"{part}_parts": each for part, each in whole.items()}
    return Reference(
        name=f"{source.name}, {source.split}" if source.split else source.name,
        images=len(numbers),
        features=extractor.name,
        **known,
        kept=of_all if "kept" in needed else None,
    )


class _Kept:
    """Features of images that have numbers, of this process's share; joined they are of all, in the order of their numbers."""

    def __init__(self, size: int) -> None:
        """The first so many numbers of each vector; with 0 of them it is known alone which images there were."""
        self._size = size
        self._features, self._numbers = [np.zeros((0, size), np.float32)], [np.zeros(0, np.int64)]

    def add(self, features: np.ndarray, numbers: np.ndarray) -> None:
        """[B, D] features and [B] the numbers of their images."""
        self._features.append(features[:, : self._size])
        self._numbers.append(numbers.astype(np.int64))

    def joined(self) -> tuple[np.ndarray, np.ndarray]:
        """[N, D] and [N], of all processes."""
        features, numbers = joined(np.concatenate(self._features)), joined(np.concatenate(self._numbers))
        order = np.argsort(numbers)
        return features[order], numbers[order]


def _real(config: ConfigDict) -> Source:
    """The images that `eval.reference` names, as many as `eval.reference_count` says; else those that were trained on."""
    source = open_images(config.eval.reference, config) if config.eval.reference else experiment.make_source(config)
    return some(source, config.eval.reference_count) if config.eval.reference_count else source


def _shuffled(images: int, seed: int) -> np.ndarray:
    """[N] their numbers in an order that has nothing to do with classes, so that each part of the images is like the whole."""
    return np.random.default_rng(seed).permutation(images)
