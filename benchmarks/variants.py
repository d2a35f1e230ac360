"""Skips that are added or concatenated, and three ways of up-sampling: the same budget each, what they come to.

    python run.py --config configs/digits_classifier.py
    python -m benchmarks.variants --config digits --classifier runs/digits_classifier --workdir runs/variants

Each network is trained as the config says, once for each of --seeds, and then asked for:
- bits/dim of all held-out images, a few terms of the bound drawn for each;
- the classifier Fréchet distance of --count samples, drawn by 50 steps of DDIM, to the training images;
- the power that samples have at the finest pitch there is, two pixels, over what training images have: a checkerboard shows
  there, and 1 is no more of it than there should be;
- images that it was trained on in a second: the median, over all its runs.

± is the standard deviation over seeds. What was interrupted goes on where it was. Prints a table in Markdown.
"""

import argparse
import importlib
import json
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import logging
from ml_collections import ConfigDict

from jax_ddpm import experiment
from jax_ddpm.commands import evaluate, train
from jax_ddpm.config import read_config
from jax_ddpm.data.sources.source import Source
from jax_ddpm.runtime import configure
from jax_ddpm.training.logging import read_metrics

SKIPS, UPSAMPLING = ("concatenate", "add"), ("nearest", "bilinear", "transposed")
BOUND, DISTANCE = "bits_per_dim", "classifier_frechet_distance"
STEPS = 50  # of DDIM, by which the samples are drawn
COLUMNS = {"bits_per_dim": 3, "distance": 2, "fine_power": 2, "speed": 0}  # figures, and their decimals


class Figures(NamedTuple):
    """What one run came to."""

    bits_per_dim: float
    distance: float
    fine_power: float
    speed: float


def train_variant(config: ConfigDict, workdir: Path) -> ConfigDict:
    """Trains it, or what is left of it; its settings, with what was found out of the data."""
    config.train.update(sample_every=0)
    train.main(config, workdir)
    return read_config(workdir)


def judge(config: ConfigDict, workdir: Path, classifier: str, count: int, draws: int) -> None:
    """Evaluates a run, into its own folder."""
    config.sampler.update(name="ddim", steps=STEPS)
    config.sample.update(count=count, batch_size=min(count, 500))
    config.eval.update(metrics=("bits_per_dim", "fid"), draws=draws, features="classifier", classifier=classifier)
    evaluate.main(config, workdir)


def found(workdir: Path) -> dict[str, Any]:
    """All that was found of a run, by metric."""
    files = workdir.glob("evaluation/*/evaluation.json")
    return {each["metric"]: each for path in files for each in json.loads(path.read_text()).values()}


def is_judged(workdir: Path) -> bool:
    """Whether both figures are there."""
    return {BOUND, DISTANCE} <= found(workdir).keys()


def fine_power(images: np.ndarray) -> float:
    """The mean power of [N, H, W, C] images at a pitch of two pixels, along rows, along columns, or both."""
    power = np.square(np.abs(np.fft.fft2(images.astype(np.float64), axes=(1, 2)))).mean(axis=(0, 3))
    rows, columns = (size // 2 for size in power.shape)
    return float(power[rows].sum() + power[:, columns].sum() - power[rows, columns])


def all_images(source: Source) -> np.ndarray:
    """[N, H, W, C] uint8."""
    return np.stack([source[index]["image"] for index in range(len(source))])


def figures(workdir: Path, real: np.ndarray) -> Figures:
    """What was found of a run that was judged."""
    (archive,) = workdir.glob("samples/*/samples.npz")
    with np.load(archive) as drawn:
        power = fine_power(drawn["arr_0"]) / fine_power(real)
    speed = float(np.median([row["images_per_second"] for row in read_metrics(workdir)]))
    told = found(workdir)
    return Figures(told[BOUND]["mean"], told[DISTANCE]["distance"], power, speed)


def parameters(config: ConfigDict) -> int:
    """How many the network has."""
    shapes = jax.eval_shape(partial(experiment.init_params, config), jax.random.key(0))
    return sum(leaf.size for leaf in jax.tree.leaves(shapes))


def rows(given: argparse.Namespace) -> Iterator[tuple[str, str, int, Sequence[Figures]]]:
    """Each variant, with its runs: seeds in turn, so that a machine that slows down slows all of them."""
    runs: dict[tuple[str, str], list[Figures]] = {variant: [] for variant in product(SKIPS, UPSAMPLING)}
    sizes: dict[tuple[str, str], int] = {}
    for seed, (skip, upsample) in product(given.seeds, runs):
        workdir = given.workdir / f"{skip}_{upsample}_{seed}"
        config = importlib.import_module(f"configs.{given.config}").get_config()
        config.seed = seed
        config.model.update(skip=skip, upsample=upsample)
        config = train_variant(config, workdir)
        if not is_judged(workdir):
            judge(config, workdir, given.classifier, given.count, given.draws)
        sizes[skip, upsample] = parameters(config)
        runs[skip, upsample].append(figures(workdir, all_images(experiment.make_source(config))))
    for (skip, upsample), came_to in runs.items():
        yield skip, upsample, sizes[skip, upsample], came_to


def spread(values: Sequence[float], digits: int) -> str:
    """The mean, and how much they differ."""
    deviation = f" ± {np.std(values, ddof=1):.{digits}f}" if len(values) > 1 else ""
    return f"{np.mean(values):.{digits}f}{deviation}"


def main() -> None:
    """Trains and judges all of them, and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", default="digits", help="the name of a file of configs/")
    parser.add_argument("--classifier", required=True, help="the workdir of the classifier whose features are compared")
    parser.add_argument("--workdir", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--count", type=int, default=2000, help="samples to judge by")
    parser.add_argument("--draws", type=int, default=100, help="terms of the bound drawn for each held-out image")
    given = parser.parse_args()
    configure(0, "", importlib.import_module(f"configs.{given.config}").get_config().train.batch_size)
    logging.set_verbosity(logging.WARNING)

    table = [
        "| skip | up-sampling | parameters | bits/dim | Fréchet distance | finest power | images/s |",
        "|---|---|" + "---:|" * 5,
    ]
    for skip, upsample, size, came_to in rows(given):
        told = [spread([getattr(each, name) for each in came_to], digits) for name, digits in COLUMNS.items()]
        table.append(f"| {skip} | {upsample} | {size:,} | {' | '.join(told)} |")
    print("\n" + "\n".join(table))


if __name__ == "__main__":
    main()
