"""--mode evaluate: what a trained run makes of images that it has not seen, and how good the images are that it draws."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jax.sharding import Mesh
from ml_collections import ConfigDict

from jax_ddpm import experiment
from jax_ddpm.commands.sample import draw
from jax_ddpm.config import to_dict
from jax_ddpm.files import write_whole
from jax_ddpm.held_out import NOTE_SEEN, held_out, hold, seen_in_training
from jax_ddpm.reports import REPORTS
from jax_ddpm.sample_reports import SAMPLE_REPORTS
from jax_ddpm.trained import open_run
from jax_ddpm.training.sharding import make_mesh


def main(config: ConfigDict, workdir: Path) -> None:
    """Works out `eval.metrics`, prints them and writes them, with all that they depend on, into an evaluation.json.

    Raises:
      InvalidInput: the run cannot be opened, there are no such images, or they are not of the classes that it knows.
    """
    names = experiment.chosen_metrics(config)
    mesh = make_mesh()
    if of_images := [name for name in names if name in experiment.METRICS]:
        evaluate_held_out(config, workdir, mesh, of_images)
    if of_samples := [name for name in names if name in experiment.SAMPLE_METRICS]:
        evaluate_samples(config, workdir, mesh, of_samples)


def evaluate_held_out(config: ConfigDict, workdir: Path, mesh: Mesh, metrics: Sequence[str]) -> Path:
    """Metrics over the images of `eval.split`, into a folder of workdir/evaluation/, which it returns.

    Where the network is conditional on the class, each image is told its own: what is found is then log p(x_0 | class). So it
    is with the small image, for a network that enlarges.
    """
    params, step = open_run(config, workdir, mesh)
    held = hold(config, mesh, params, held_out(config))
    seen = seen_in_training(config, workdir, held.source)
    if seen:
        print(NOTE_SEEN)
    print(f"evaluating step {step} of {workdir} on {held.images:,} images ...", flush=True)

    directory = workdir / "evaluation" / _folder_name(config, step)
    circumstances = {
        **{"checkpoint": step, "weights": "ema", "data": config.data.name, "split": config.eval.split},
        **{"directory": config.data.directory, "seen_in_training": seen, "class_conditional": config.model.class_conditional},
        **{"seed": config.eval.seed, "batch_size": held.batch_size},
    }
    for name in metrics:
        _note(directory / "evaluation.json", {"metric": name, **REPORTS[name](held, directory), **circumstances})
    print(f"written: {directory}", flush=True)
    return directory


def evaluate_samples(config: ConfigDict, workdir: Path, mesh: Mesh, metrics: Sequence[str]) -> None:
    """Metrics of `sample.count` images, drawn into workdir/samples/ as --mode sample draws them, into workdir/evaluation/."""
    reports = {name: SAMPLE_REPORTS[name](config, mesh, workdir) for name in metrics}  # what cannot be judged is told first
    drawn = draw(config, workdir)
    directory = workdir / "evaluation" / f"samples_{len(drawn.images)}_{drawn.grid.parent.name}"
    circumstances = {
        **{"checkpoint": drawn.step, "weights": "ema", "samples": len(drawn.images), "seed": config.sample.seed},
        **{group: to_dict(config)[group] for group in ("sample", "sampler", "guidance")},
    }
    for name, report in reports.items():
        found = report((drawn.images, drawn.labels), directory)
        _note(directory / "evaluation.json", {"metric": name, **found, **circumstances})
    print(f"written: {directory}", flush=True)


def _folder_name(config: ConfigDict, step: int) -> str:
    """Another one for other images or another chain, so that no figure takes the place of another."""
    chosen = config.eval
    parts = [f"step_{step:07d}", re.sub(r"\W+", "-", chosen.split).strip("-"), f"seed_{chosen.seed}"]
    parts += [f"first_{chosen.count}"] if chosen.count else []
    parts += [chosen.respacing.replace(",", "-")] if chosen.respacing else []
    parts += [f"draws_{chosen.draws}"] if chosen.draws else []
    return "_".join(parts + ([] if chosen.clip else ["unclipped"]))


def _note(path: Path, result: dict[str, Any]) -> None:
    """Adds a result to evaluation.json, in place of what was found of this metric before."""
    found = json.loads(path.read_text()) if path.is_file() else {}
    text = json.dumps(found | {result["metric"]: result}, indent=2, allow_nan=False) + "\n"
    write_whole(path, lambda path: path.write_text(text))
