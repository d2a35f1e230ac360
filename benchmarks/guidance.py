"""What guidance does to digits: how many are recognised as the class asked for, and how much they still differ.

    python -m benchmarks.guidance --unconditional runs/digits_unconditional --classifier runs/digits_classifier \
        --conditional runs/digits

For each way to guide and each scale, 300 images, every class in turn, from the same x_T:
- recognised: the share that a support vector classifier, trained on real digits and otherwise unconcerned, takes for the class;
- diversity: the standard deviation within a class, root mean square over pixels, in 0..255.

Writes docs/figures/guidance.csv and guidance.png.
"""

import argparse
import csv
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from absl import logging
from jax.sharding import Mesh

from jax_ddpm import experiment
from jax_ddpm.config import read_config
from jax_ddpm.data.sources.digits import digits
from jax_ddpm.data.sources.source import Source
from jax_ddpm.evaluation.recognition import recognition
from jax_ddpm.generation import make_generator
from jax_ddpm.runtime import configure
from jax_ddpm.trained import open_run
from jax_ddpm.training.sharding import make_mesh

FIGURES = Path(__file__).parents[1] / "docs" / "figures"
SCALES = (0.0, 0.5, 1.0, 2.0, 4.0, 8.0)
COUNT = 300
BATCH = 300
ANCESTRAL, DDIM = {"name": "ancestral", "steps": 50}, {"name": "ddim", "steps": 25}
WAYS = {
    "classifier, mean (ancestral, 50 steps)": ("unconditional", ANCESTRAL),
    "classifier, score (DDIM, 25 steps)": ("unconditional", DDIM),
    "classifier-free (DDIM, 25 steps)": ("conditional", DDIM),
}


def draw(workdir: Path, classifier: str, sampler: dict[str, Any], scale: float, mesh: Mesh) -> tuple[np.ndarray, np.ndarray]:
    """[N, H, W, C] uint8 images and the labels asked for, [N]."""
    config = read_config(workdir)
    config.sampler.update(**sampler)
    config.guidance.update(scale=scale, classifier=classifier)
    config.sample.batch_size = BATCH
    params, _ = open_run(config, workdir, mesh)
    labels = experiment.chosen_labels(config, COUNT)
    return np.concatenate([images for images, _ in make_generator(config, mesh)(params, labels, 0)]), labels


def diversity(images: np.ndarray, labels: np.ndarray) -> float:
    """The standard deviation within a class, root mean square over pixels and classes."""
    return float(np.sqrt(np.mean([images[labels == label].var(axis=0) for label in np.unique(labels)])))


def stacked(source: Source) -> tuple[np.ndarray, np.ndarray]:
    """All images and labels of a source."""
    examples = [source[index] for index in range(len(source))]
    return np.stack([each["image"] for each in examples]), np.array([each["label"] for each in examples])


def plot(table: list[list[Any]], real: float) -> None:
    """Recognised and diversity against scale."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    for way, colour in zip(WAYS, ("#1f5fa8", "#d95f02", "#2a8a57"), strict=True):
        scale, recognised, spread = np.array([row[1:] for row in table if row[0] == way], float).T
        left.plot(scale, recognised, marker="o", markersize=4, color=colour, label=way)
        right.plot(scale, spread, marker="o", markersize=4, color=colour)
    right.axhline(real, color="#666666", linestyle=":", label="real digits")
    left.set(xlabel="guidance scale", ylabel="recognised as the class asked for", ylim=(0, 1.02))
    right.set(xlabel="guidance scale", ylabel="standard deviation within a class, 0..255", ylim=(0, None))
    for axes in (left, right):
        axes.set_xscale("symlog", base=2, linthresh=0.5)
        axes.set_xlim(-0.05, 9)
        axes.set_xticks(SCALES, [f"{scale:g}" for scale in SCALES])
        axes.grid(alpha=0.25)
        axes.legend(frameon=False, fontsize=8)
    figure.savefig(FIGURES / "guidance.png", dpi=130, facecolor="white", metadata={"Software": None})


def main() -> None:
    """Prints the table, and writes it and its curves."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    for name, default in (
        ("unconditional", "digits_unconditional"),
        ("classifier", "digits_classifier"),
        ("conditional", "digits"),
    ):
        parser.add_argument(f"--{name}", default=f"runs/{default}")
    given = parser.parse_args()
    logging.set_verbosity(logging.ERROR)
    configure(0, "", BATCH)
    mesh = make_mesh()
    real = diversity(*stacked(digits("train")))
    print(f"real digits: standard deviation within a class {real:.1f}\n")
    print("| guidance | scale | recognised | diversity |\n|---|---|---|---|", flush=True)
    table = []
    for way, (network, sampler) in WAYS.items():
        classifier = given.classifier if network == "unconditional" else ""
        for scale in SCALES:
            images, labels = draw(Path(getattr(given, network)), classifier, sampler, scale, mesh)
            judged = recognition(images, labels, digits("train"), digits("test"))
            table.append([way, scale, f"{judged.samples:.3f}", f"{diversity(images, labels):.1f}"])
            print("| " + " | ".join(map(str, table[-1])) + " |", flush=True)
    with (FIGURES / "guidance.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["guidance", "scale", "recognised", "diversity"], *table])
    plot(table, real)


if __name__ == "__main__":
    main()
