"""--mode evaluate: what a trained run makes of images that it has not seen, and how good the images are that it draws."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jax.sharding import Mesh
from ml_collections import ConfigDict

from jax_ddpm.commands.sample import draw, how_drawn
from jax_ddpm.config import default_config, kept_at, read_config
from jax_ddpm.data.sources.source import Source
from jax_ddpm.errors import InvalidInput
from jax_ddpm.feature_reports import prepare
from jax_ddpm.features import as_source
from jax_ddpm.figures import WEIGHTS
from jax_ddpm.files import place, write_json
from jax_ddpm.held_out import NOTE_SEEN, held_out, hold, seen_in_training
from jax_ddpm.metrics import FEATURE_METRICS, METRICS, chosen_metrics
from jax_ddpm.opened_images import images_at, open_images
from jax_ddpm.reports import REPORTS
from jax_ddpm.sample_reports import SAMPLE_REPORTS
from jax_ddpm.trained import fill_in_classes, kind_of_weights, open_run
from jax_ddpm.training.sharding import make_mesh

STAND_ALONE = ("fid", "is", "kid", "precision_recall")  # of --samples, where no metrics are named
COMPARED = ("reference", "reference_images", "classifier", "inception_sha256")  # of a figure of samples: with what, by what
UNKNOWN = ("weights", "sampler", "evaluations", "seed")  # of samples that come without a word of how they were drawn


def main(config: ConfigDict, workdir: Path) -> None:
    """Works out `eval.metrics`, prints them and writes them, with all that they depend on, into an evaluation.json.

    Raises:
      InvalidInput: the run cannot be opened, there are no such images, or they are not of the classes that it knows.
    """
    mesh = make_mesh()
    if config.eval.samples:
        evaluate_file(config, workdir, mesh)
        return
    fill_in_classes(config, workdir)
    names = chosen_metrics(config)
    if of_images := [name for name in names if name in METRICS]:
        evaluate_held_out(config, workdir, mesh, of_images)
    if of_samples := [name for name in names if name not in METRICS]:
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
    weights = kind_of_weights(workdir)
    print(f"evaluating step {step} of {workdir}, weights {WEIGHTS[weights]}, on {held.images:,} images ...", flush=True)

    directory = workdir / "evaluation" / _folder_name(config, step)
    circumstances = {
        **{"checkpoint": step, "weights": weights, "data": config.data.name, "split": config.eval.split},
        **{"directory": config.data.directory, "seen_in_training": seen, "class_conditional": config.model.class_conditional},
        **{"seed": config.eval.seed, "batch_size": held.batch_size},
    }
    for name in metrics:
        _note(directory / "evaluation.json", {"metric": name, **REPORTS[name](held, directory), **circumstances})
    print(f"written: {directory}", flush=True)
    return directory


def evaluate_samples(config: ConfigDict, workdir: Path, mesh: Mesh, metrics: Sequence[str]) -> None:
    """Metrics of `sample.count` images, drawn into workdir/samples/ as --mode sample draws them, into workdir/evaluation/."""
    by_features = [name for name in metrics if name in FEATURE_METRICS]
    reports = {name: SAMPLE_REPORTS[name](config, mesh, workdir) for name in metrics if name in SAMPLE_REPORTS}
    # What cannot be judged is told before anything is drawn.
    judge = prepare(config, mesh, by_features, config.sample.count) if by_features else None
    drawn = draw(config, workdir)
    directory = workdir / "evaluation" / f"samples_{len(drawn.images)}_{drawn.grid.parent.name}"
    found = [{"metric": name, **report((drawn.images, drawn.labels), directory)} for name, report in reports.items()]
    found += judge.report(as_source(drawn.images)) if judge else []
    for each in found:
        _note(directory / "evaluation.json", {**each, **how_drawn(config, drawn)})
    print(f"written: {directory}", flush=True)


def evaluate_file(config: ConfigDict, workdir: Path, mesh: Mesh) -> Path:
    """Metrics of the images of `eval.samples`, into a folder beside them, which it returns.

    How they were drawn is told by the samples.json beside them, which `--mode sample` writes; of others it is not known. Of the
    folder that it writes its samples.npz is judged.

    Raises:
      InvalidInput: there is nothing to compare them with, or a metric is of a run's own samples.
    """
    file = images_at(config.eval.samples)
    if not config.eval.reference and kept_at(workdir) is None:
        raise InvalidInput(f"--samples={file}: say what to compare them with, --reference=FILE.npz, a folder or a data set")
    samples = open_images(config.eval.samples, config)
    _fit_to(config, samples)
    usual = default_config().eval.metrics
    config.eval.metrics = STAND_ALONE if config.eval.metrics == usual else config.eval.metrics
    names = chosen_metrics(config)
    if others := [name for name in names if name not in FEATURE_METRICS]:
        raise InvalidInput(f"eval.metrics={others[0]} is of a run: with --samples expected {', '.join(FEATURE_METRICS)}")
    described = file.with_suffix(".json")
    how = json.loads(described.read_text()) if described.is_file() else dict.fromkeys(UNKNOWN, "not known")
    directory = file.parent / f"{file.name}_evaluation"  # its whole name, for a.npz and a folder a may lie side by side
    for found in prepare(config, mesh, names, len(samples)).report(samples):
        _note(directory / "evaluation.json", {**found, **how, "samples": len(samples), "file": str(file)})
    print(f"written: {directory}", flush=True)
    return directory


def _fit_to(config: ConfigDict, samples: Source) -> None:
    """Real images are compared as large as the samples are; by a classifier, all of them as large as it knows them."""
    if config.eval.features == "classifier" and config.eval.classifier:
        config.data.update(read_config(place(config.eval.classifier)).data)
        return
    height, width, channels = samples[0]["image"].shape
    if height != width:
        raise InvalidInput(f"{samples.name} has images of {height}×{width}: expected square ones")
    config.data.update(image_size=height, channels=channels)


def _folder_name(config: ConfigDict, step: int) -> str:
    """Another one for other images or another chain, so that no figure takes the place of another."""
    chosen = config.eval
    parts = [f"step_{step:07d}", re.sub(r"\W+", "-", chosen.split).strip("-"), f"seed_{chosen.seed}"]
    parts += [f"first_{chosen.count}"] if chosen.count else []
    parts += [chosen.respacing.replace(",", "-")] if chosen.respacing else []
    parts += [f"draws_{chosen.draws}"] if chosen.draws else []
    return "_".join(parts + ([] if chosen.clip else ["unclipped"]))


def _comparison(result: dict[str, Any]) -> str:
    """What a figure of samples is by: "against digits, test, 100 images, by CLASSIFIER"."""
    against = [f"against {result['reference']}", f"{result['reference_images']} images"] if "reference" in result else []
    judge = result.get("classifier") or result.get("inception_sha256", "")[:8]
    return ", ".join([*against, f"by {judge}"])


def _note(path: Path, result: dict[str, Any]) -> None:
    """Adds a result to evaluation.json, in place of what was found before of this metric by the same comparison.

    The first has the metric's name. One that compares with other images, or by another network, says so in its key and title.
    """
    found = json.loads(path.read_text()) if path.is_file() else {}
    key = result["metric"]
    if any(found.get(key, result).get(name) != result.get(name) for name in COMPARED):
        said = _comparison(result)
        key, result = f"{key} {said}", result | ({"title": f"{result['title']} {said}"} if "title" in result else {})
    write_json(path, found | {key: result}, allow_nan=False)
