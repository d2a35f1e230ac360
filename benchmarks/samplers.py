"""Samplers compared on one trained network: evaluations, time, and how near what they draw is to real images.

    python -m benchmarks.samplers --workdir runs/digits --classifier runs/digits_classifier --count 1000 --name digits

For each sampler, `count` images from the same x_T:
- Fréchet: the distance of their features to those of the training images, the features being what the classifier pools, told
  t = 0. Only figures of as many images can be compared. What as many training images have, drawn with replacement, is printed
  first: near that nothing is told apart.
- RMS: how far, in 0..255, the deterministic ones are from the end of the same flow followed in 200 steps of DPM-Solver++(3M).
- ms an image: medians of some rounds, in each of which every sampler draws one batch in turn.

Writes docs/figures/samplers_NAME.csv, and samplers_NAME.png, a row a sampler.
"""

import argparse
import csv
import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, cast

import jax
import numpy as np
from absl import logging
from jax.sharding import Mesh
from ml_collections import ConfigDict

from jax_ddpm import experiment
from jax_ddpm.config import read_config
from jax_ddpm.data.pipeline import one_pass
from jax_ddpm.data.transforms import to_float, to_uint8
from jax_ddpm.evaluation.frechet import Moments, frechet_distance, moments
from jax_ddpm.generation import make_generator, open_guide
from jax_ddpm.pictures import save_png
from jax_ddpm.pictures import table as titled
from jax_ddpm.runtime import configure
from jax_ddpm.trained import Classifier, open_run
from jax_ddpm.training.sharding import make_mesh

FIGURES = Path(__file__).parents[1] / "docs" / "figures"
BATCH = 200
SHOWN = 10
FLOOR_DRAWS = 10


class Row(NamedTuple):
    """A sampler, as a line of the table has it, and its settings."""

    label: str
    settings: dict[str, Any]
    deterministic: bool = True


REFERENCE = Row("DPM-Solver++(3M)", {"name": "dpm_solver_pp", "order": 3, "steps": 200})


def few_rows() -> Iterator[Row]:
    """Some of the samplers, for a network that takes long."""
    for steps in (100, 20):
        yield Row("ancestral", {"name": "ancestral", "steps": steps}, deterministic=False)
    for steps in (50, 20, 10):
        yield Row("DDIM, eta 0", {"name": "ddim", "steps": steps})
    yield Row("Heun", {"name": "heun", "steps": 10})
    for order, steps in ((2, 20), (2, 10), (3, 10)):
        yield Row(f"DPM-Solver++({order}M)", {"name": "dpm_solver_pp", "order": order, "steps": steps})
    yield Row(
        "SDE-DPM-Solver++(2M)", {"name": "dpm_solver_pp", "order": 2, "stochastic": True, "steps": 20}, deterministic=False
    )
    yield Row("UniPC-3", {"name": "unipc", "order": 3, "steps": 10})


def all_rows() -> Iterator[Row]:
    """The samplers compared."""
    for steps in (1000, 100, 50, 20):
        yield Row("ancestral", {"name": "ancestral", "steps": steps}, deterministic=False)
    for steps in (100, 50, 20, 10):
        yield Row("DDIM, eta 0", {"name": "ddim", "steps": steps})
    yield Row("DDIM, eta 1", {"name": "ddim", "steps": 50, "eta": 1.0}, deterministic=False)
    for steps in (50, 20):
        yield Row("Euler", {"name": "euler", "steps": steps})
    for steps in (25, 10, 5):
        yield Row("Heun", {"name": "heun", "steps": steps})
    yield Row("Heun, churn 10", {"name": "heun", "steps": 25, "churn": 10.0}, deterministic=False)
    for order, steps in ((2, 20), (2, 10), (3, 20), (3, 10)):
        yield Row(f"DPM-Solver++({order}M)", {"name": "dpm_solver_pp", "order": order, "steps": steps})
    for steps in (50, 20):
        settings = {"name": "dpm_solver_pp", "order": 2, "stochastic": True, "steps": steps}
        yield Row("SDE-DPM-Solver++(2M)", settings, deterministic=False)
    for order, steps in ((2, 20), (2, 10), (3, 10), (3, 6)):
        yield Row(f"UniPC-{order}", {"name": "unipc", "order": order, "steps": steps})


class Prepared(NamedTuple):
    """A sampler that draws: how many images it is asked for -> [N, H, W, C] uint8; and its evaluations."""

    draw: Callable[[int], np.ndarray]
    evaluations: int


def prepare(config: ConfigDict, row: Row, mesh: Mesh, params: Any) -> Prepared:
    """The sampler with its settings; the first draw compiles it."""
    config = config.copy_and_resolve_references()
    config.sampler.update(**row.settings)
    config.sample.batch_size = BATCH
    generate = make_generator(config, mesh)

    def draw(count: int) -> np.ndarray:
        return np.concatenate([batch for batch, _ in generate(params, experiment.chosen_labels(config, count), 0)])

    return Prepared(draw, experiment.make_sampler(config).evaluations)


def milliseconds(samplers: list[Prepared], images: int, rounds: int) -> list[float]:
    """An image takes so long with each: medians of rounds in which each draws a batch in turn."""
    found: list[list[float]] = [[] for _ in samplers]
    for _ in range(rounds):
        for times, sampler in zip(found, samplers, strict=True):
            begin = time.perf_counter()
            sampler.draw(images)
            times.append((time.perf_counter() - begin) / images * 1e3)
    return [statistics.median(times) for times in found]


def feature_moments(guide: Classifier, images: np.ndarray) -> Moments:
    """The moments of what the classifier pools of [N, H, W, C] uint8 images, told that there is no noise."""

    @jax.jit
    def features(x: jax.Array) -> jax.Array:
        return cast(jax.Array, guide.network.apply({"params": guide.params}, x, np.zeros(len(x), np.int32), features=True))

    return moments(
        np.concatenate([np.asarray(features(to_float(part))) for part in np.array_split(images, max(len(images) // BATCH, 1))])
    )


def real_images(config: ConfigDict) -> np.ndarray:
    """[N, H, W, C] uint8, those that the network was trained on, as it takes them."""
    fitted = {"image_size": config.data.image_size, "channels": config.data.channels}
    batches = one_pass(experiment.make_source(config), batch_size=BATCH, **fitted)
    return np.concatenate([to_uint8(batch["image"][:real]) for batch, real in batches])


def make_judge(config: ConfigDict, mesh: Mesh, classifier: str, count: int) -> Callable[[np.ndarray], str]:
    """The Fréchet distance of images to the training set, as text; says what as many training images have."""
    config = config.copy_and_resolve_references()
    config.guidance.classifier = classifier
    guide = open_guide(config, mesh)
    if guide is None:
        return lambda images: ""
    train = real_images(config)
    distance = partial(frechet_distance, feature_moments(guide, train))
    rng = np.random.default_rng(0)
    floor = [distance(feature_moments(guide, train[rng.integers(len(train), size=count)])) for _ in range(FLOOR_DRAWS)]
    print(f"{count} training images: Fréchet {np.mean(floor):.3f} ± {np.std(floor):.3f}", flush=True)
    return lambda images: f"{distance(feature_moments(guide, images)):.3f}"


def main() -> None:
    """Prints the table and writes it and the picture."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--workdir", default="runs/digits")
    parser.add_argument("--classifier", default="", help="workdir of a noisy classifier; without one no Fréchet distance")
    parser.add_argument("--name", default="digits")
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--few", action="store_true", help="some of the samplers alone")
    parser.add_argument("--rounds", type=int, default=3, help="of the timing")
    given = parser.parse_args()
    logging.set_verbosity(logging.ERROR)
    configure(0, "", BATCH)
    mesh, config = make_mesh(), read_config(Path(given.workdir))
    params, _ = open_run(config, Path(given.workdir), mesh)
    judge = make_judge(config, mesh, given.classifier, given.count)
    reference = prepare(config, REFERENCE, mesh, params).draw(given.count)

    shown, table, samplers = [], [], []
    for row in few_rows() if given.few else all_rows():
        sampler = prepare(config, row, mesh, params)
        images = sampler.draw(given.count)
        rms = f"{np.sqrt(np.mean((images.astype(float) - reference) ** 2)):.2f}" if row.deterministic else ""
        table.append([row.label, sampler.evaluations, judge(images), rms])
        print(*table[-1], sep=" | ", flush=True)
        shown.append(images[:SHOWN])
        samplers.append(sampler)
    times = milliseconds(samplers, min(BATCH, given.count), given.rounds)
    table = [[*line, f"{taken:.1f}"] for line, taken in zip(table, times, strict=True)]
    columns = ["sampler", "evaluations", "frechet", "rms", "ms"]
    print(f"| {' | '.join(columns)} |\n{'|---' * len(columns)}|")
    print("\n".join("| " + " | ".join(map(str, line)) + " |" for line in table), flush=True)
    with (FIGURES / f"samplers_{given.name}.csv").open("w", newline="") as file:
        csv.writer(file).writerows([columns, *table])
    titles = [f"{label}: {evaluations}" for label, evaluations, *_ in table]
    save_png(FIGURES / f"samplers_{given.name}.png", titled(np.stack(shown), [""] * SHOWN, titles))


if __name__ == "__main__":
    main()
