"""--mode sample: draw images from a trained run."""

import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict
from tqdm import tqdm

from jax_ddpm.config import to_dict
from jax_ddpm.experiment import chosen_labels, make_sampler
from jax_ddpm.figures import WEIGHTS
from jax_ddpm.files import remove, write_json, write_npz
from jax_ddpm.generation import folder_name, grid_columns, make_generator
from jax_ddpm.opened_images import ARCHIVE, HOW_DRAWN
from jax_ddpm.pictures import grid, save_png
from jax_ddpm.trained import kind_of_weights, open_run
from jax_ddpm.training.sharding import make_mesh

MOST_PICTURES = 1024  # a grid of more cannot be looked at, and programs refuse to open one of 50,000; the archive has all


class Drawn(NamedTuple):
    """What was drawn: images [N, H, W, C] uint8, their labels [N], where their grid is, from which weights of which step."""

    images: np.ndarray
    labels: np.ndarray
    grid: Path
    step: int
    weights: str


def main(config: ConfigDict, workdir: Path) -> None:
    """Draws `sample.count` images and says where they are."""
    print(f"samples: {draw(config, workdir).grid}", flush=True)


def draw(config: ConfigDict, workdir: Path) -> Drawn:
    """Draws `sample.count` images from the averaged parameters of the newest checkpoint, and writes them.

    Into workdir/samples/step_…_seed_…/: samples.npz with the images [N, H, W, C] uint8 as arr_0 and the labels [N] as arr_1
    (the names that guided-diffusion's evaluator reads), samples.json, which says how they were drawn, and of the first
    MOST_PICTURES of them grid.png and each as a PNG of its true size.
    """
    mesh = make_mesh()
    params, step = open_run(config, workdir, mesh)
    labels = chosen_labels(config, config.sample.count)
    generate = make_generator(config, mesh)
    evaluations = make_sampler(config).evaluations
    weights = kind_of_weights(workdir)
    how = f"by {config.sampler.name}, {evaluations} evaluations of the network each, seed {config.sample.seed}"
    print(f"drawing {len(labels)} images {how}, from step {step} of {workdir}, weights {WEIGHTS[weights]} ...", flush=True)

    batches = []
    with tqdm(total=len(labels), unit="image", disable=not sys.stderr.isatty()) as bar:
        for batch, _ in generate(params, labels, config.sample.seed):
            batches.append(batch)
            bar.update(len(batch))
    images = np.concatenate(batches)
    directory = workdir / "samples" / folder_name(config, step, config.sample.seed)
    columns = grid_columns(config, min(len(labels), MOST_PICTURES))
    drawn = Drawn(images, labels, write(directory, images, labels, columns), step, weights)
    write_json(directory / HOW_DRAWN, how_drawn(config, drawn))
    return drawn


def how_drawn(config: ConfigDict, drawn: Drawn) -> dict[str, Any]:
    """All that a figure of samples depends on."""
    settings = to_dict(config)
    return {
        **{"checkpoint": drawn.step, "weights": drawn.weights, "samples": len(drawn.images), "seed": config.sample.seed},
        **{"evaluations": make_sampler(config).evaluations},
        **{group: settings[group] for group in ("sample", "sampler", "guidance")},
    }


def write(directory: Path, images: np.ndarray, labels: np.ndarray, columns: int) -> Path:
    """Writes images [N, H, W, C] uint8 as an .npz, in place of what was there, and as a grid, which it returns, and one by one.

    The grid and the single pictures are of the first MOST_PICTURES alone; what they leave out is said.
    """
    remove(directory)
    shown = images[:MOST_PICTURES]
    for number, image in enumerate(shown):
        save_png(directory / f"{number:05d}.png", image)
    write_npz(directory / ARCHIVE, arr_0=images, arr_1=labels)
    if len(shown) < len(images):
        print(f"pictures are of the first {len(shown):,} images; all {len(images):,} are in {directory / ARCHIVE}", flush=True)
    return save_png(directory / "grid.png", grid(shown, columns), image_size=images.shape[1])
