"""--mode evaluate: how likely a trained run finds images that it has not seen; how often a classifier is right of them."""

import csv
import json
import math
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict
from tqdm import tqdm

from jax_ddpm import experiment
from jax_ddpm.config import read_config
from jax_ddpm.data.pipeline import how_many, one_pass
from jax_ddpm.data.sources.load import load_source
from jax_ddpm.data.sources.source import Source
from jax_ddpm.errors import InvalidInput
from jax_ddpm.evaluation import accuracy
from jax_ddpm.evaluation.accuracy import AccuracySummary, Level
from jax_ddpm.evaluation.bits_per_dim import BoundSummary, Estimate, estimate, summarise
from jax_ddpm.files import write_whole
from jax_ddpm.models.unet import UNet
from jax_ddpm.pictures import curve
from jax_ddpm.trained import open_run
from jax_ddpm.training.sharding import make_mesh, replicated, split_batch
from jax_ddpm.training.state import Params

TABLE_ROWS = 10
NOTE_SEEN = "note: the run was trained on these images, or some of them; name others by --config.eval.split or data.directory"


class Held(NamedTuple):
    """What is evaluated: a network, and the first so many images of a source, in batches."""

    config: ConfigDict
    mesh: Mesh
    params: Params
    source: Source
    images: int
    batch_size: int


def main(config: ConfigDict, workdir: Path) -> None:
    """Works out `eval.metrics` over the images of `eval.split`, prints them and writes them into workdir/evaluation/.

    Where the network is conditional on the class, each image is told its own: what is found is then log p(x_0 | class). So it
    is with the small image, for a network that enlarges.

    Raises:
      InvalidInput: the run cannot be opened, there are no such images, or they are not of the classes that it knows.
    """
    mesh = make_mesh()
    params, step = open_run(config, workdir, mesh)
    held = hold(config, mesh, params, held_out(config))
    seen = seen_in_training(config, workdir)
    if seen:
        print(NOTE_SEEN)
    print(f"evaluating step {step} of {workdir} on {held.images:,} images ...", flush=True)

    directory = workdir / "evaluation" / _folder_name(config, step)
    circumstances = {
        **{"checkpoint": step, "weights": "ema", "data": config.data.name, "split": config.eval.split},
        **{"directory": config.data.directory, "seen_in_training": seen, "class_conditional": config.model.class_conditional},
        **{"seed": config.eval.seed, "batch_size": held.batch_size},
    }
    for name in experiment.chosen_metrics(config):
        _note(directory / "evaluation.json", {"metric": name, **REPORTS[name](held, directory), **circumstances})
    print(f"written: {directory}", flush=True)


def held_out(config: ConfigDict) -> Source:
    """The images of `eval.split`.

    Raises:
      InvalidInput: there are none, or they are not of the classes that the network knows.
    """
    source = load_source(config.data.name, config.eval.split, config.data.directory)
    _check_labels(config, source)
    return source


def hold(config: ConfigDict, mesh: Mesh, params: Params, source: Source) -> Held:
    """What is evaluated: as many of the images as `eval.count` says, in batches that divide over the devices."""
    count = how_many(source, config.eval.count)
    batch_size = math.ceil(min(config.eval.batch_size, count) / mesh.size) * mesh.size
    return Held(config, mesh, params, source, count, batch_size)


def _folder_name(config: ConfigDict, step: int) -> str:
    """Another one for other images or another chain, so that no figure takes the place of another."""
    chosen = config.eval
    parts = [f"step_{step:07d}", re.sub(r"\W+", "-", chosen.split).strip("-"), f"seed_{chosen.seed}"]
    parts += [f"first_{chosen.count}"] if chosen.count else []
    parts += [chosen.respacing.replace(",", "-")] if chosen.respacing else []
    parts += [f"draws_{chosen.draws}"] if chosen.draws else []
    return "_".join(parts + ([] if chosen.clip else ["unclipped"]))


def _check_labels(config: ConfigDict, source: Source) -> None:
    told = config.model.class_conditional or experiment.is_classifier(config)
    if told and source.class_names != tuple(config.data.class_names):
        raise InvalidInput(
            f"the classes of {source.name} are {', '.join(source.class_names) or 'not named'}: this network was trained on "
            f"{', '.join(config.data.class_names)}"
        )


def seen_in_training(config: ConfigDict, workdir: Path) -> bool:
    """Whether the images are, or may be, among those that the run was trained on."""
    trained = read_config(workdir).data
    if config.data.name == "folder":  # which has no splits
        return Path(config.data.directory).expanduser().resolve() == Path(trained.directory).expanduser().resolve()
    ours, theirs = (set(re.sub(r"\[.*?\]", "", split).split("+")) for split in (config.eval.split, trained.split))
    return not ours.isdisjoint(theirs) or "all" in ours | theirs


def _report_bound(held: Held, directory: Path) -> dict[str, Any]:
    """The variational bound: mean, parts, each term, and the table of rate and distortion."""
    summary = summarise(_over_data(held, "bits_per_dim"), math.prod(experiment.image_shape(held.config)))
    chosen = held.config.eval
    times = np.asarray(experiment.make_short_schedule(held.config, chosen.respacing).timesteps)
    drawn = f", {chosen.draws} of {len(times)} terms drawn for each" if chosen.draws else ""
    print(f"variational bound: {summary.bits_per_dim}{drawn}")
    print(f"  rate {summary.rate:.4f} (of it the prior {summary.prior:.2e}) + distortion {summary.distortion:.4f}")
    print("\n".join(_rate_distortion_table(summary)))
    _write_terms(directory, times, summary)
    parts = {"prior": summary.prior, "rate": summary.rate, "distortion": summary.distortion}
    chain = {"steps": len(times), "respacing": chosen.respacing, "clip": chosen.clip, "draws": chosen.draws or len(times)}
    return {**_as_json(summary.bits_per_dim), **parts, **chain}


def _report_flow(held: Held, directory: Path) -> dict[str, Any]:
    """The likelihood of the probability flow."""
    found = estimate(np.concatenate(list(_over_data(held, "ode_bits_per_dim"))))
    print(f"probability flow: {found}")
    return {**_as_json(found), "tolerance": held.config.eval.ode_tolerance, "dequantisation": "uniform"}


def _report_accuracy(held: Held, directory: Path) -> dict[str, Any]:
    """How often the classifier is right, and at which levels of noise."""
    found = judge_classifier(held)
    print(f"accuracy: {found}")
    print("\n".join(accuracy_table(found.levels)))
    show_accuracy(directory / "accuracy.png", found, which_images(held))
    chance = 1 / len(held.config.data.class_names)
    by_noise = {name: [level._asdict() for level in getattr(found, name)] for name in ("levels", "quarters")}
    return {**_as_json(found.overall), "chance": chance, **by_noise}


def judge_classifier(held: Held) -> AccuracySummary:
    """The answers of a classifier on all the images, taken together."""
    return accuracy.summarise(_over_data(held, "accuracy"), held.config.diffusion.steps)


def accuracy_table(levels: Iterable[Level]) -> list[str]:
    """A line for each part of the chain, the least noisy first."""
    rows = [f"  {f'{each.first}–{each.last}':>13}{each.accuracy:>12.1%}{each.standard_error:>18.1%}" for each in levels]
    return [f"  {'t':>13}{'accuracy':>12}{'standard error':>18}", *rows]


def which_images(held: Held) -> str:
    """What the images are called: their source and, where it has splits, which one they are of."""
    name = held.source.name
    return name if name == "folder" else f"{name}, {held.config.eval.split}"


def show_accuracy(path: Path, found: AccuracySummary, images: str) -> Path:
    """A picture of accuracy against t, on images that are called so."""
    middles = [(each.first + each.last) / 2 for each in found.levels]
    return curve(path, middles, [each.accuracy for each in found.levels], xlabel="t", ylabel=f"accuracy on images of {images}")


REPORTS: dict[str, Callable[[Held, Path], dict[str, Any]]] = {
    "bits_per_dim": _report_bound,
    "ode_bits_per_dim": _report_flow,
    "accuracy": _report_accuracy,
}


def _as_json(found: Estimate) -> dict[str, Any]:
    """JSON has no infinity: the error that one image leaves unknown is null."""
    return {**found._asdict(), "standard_error": found.standard_error if found.images > 1 else None}


def _per_batch(config: ConfigDict, metric: str) -> Callable[..., Any]:
    """(network, params, x0 [B, ...], labels [B], key) -> what the metric says."""
    found: Callable[..., Any] = experiment.METRICS[metric](config)
    if experiment.is_classifier(config):
        return found

    def of_denoiser(network: UNet, params: Params, x0: jax.Array, labels: jax.Array, key: jax.Array) -> Any:
        known, small = labels if network.num_classes else None, experiment.small_images(config, x0)
        return found(experiment.make_denoiser(network, params, known, low_resolution=small), x0, key)

    return of_denoiser


def _over_data(held: Held, metric: str) -> Iterator[Any]:
    """What the metric says of each batch, on the host, without what fills up the last one."""
    config = held.config
    network, per_batch = experiment.make_network(config), _per_batch(config, metric)
    split, whole = split_batch(held.mesh), replicated(held.mesh)

    @partial(jax.jit, in_shardings=(whole, split, split, whole))
    def evaluate(params: Params, images: jax.Array, labels: jax.Array, key: jax.Array) -> Any:
        return per_batch(network, params, images, labels, key)

    def without_filling(found: Any, real: int) -> Any:
        return jax.tree.map(lambda x: x[..., :real], jax.device_get(found))

    key = jax.random.key(config.eval.seed)
    fitted = {"image_size": config.data.image_size, "channels": config.data.channels}
    with tqdm(total=held.images, unit="image", disable=not sys.stderr.isatty()) as bar:
        for number, (batch, real) in enumerate(one_pass(held.source, batch_size=held.batch_size, count=held.images, **fitted)):
            found = evaluate(held.params, batch["image"], batch["label"], jax.random.fold_in(key, number))
            yield without_filling(found, real)
            bar.update(real)


def _write_terms(directory: Path, times: np.ndarray, summary: BoundSummary) -> None:
    """vlb_terms.csv, a line a step, and the pictures of it."""
    directory.mkdir(parents=True, exist_ok=True)
    rate, rmse = map(np.asarray, summary.curve)
    with (directory / "vlb_terms.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["t", "bits_per_dim", "rate", "rmse"])
        writer.writerows(zip(times.tolist(), summary.terms.tolist(), rate.tolist(), rmse.tolist(), strict=True))
    labels = {"xlabel": "t, counted from 1 (there the decoder)", "ylabel": "term of the bound, bits/dim"}
    curve(directory / "vlb_terms.png", times + 1, summary.terms, xscale="log", yscale="log", **labels)
    curve(directory / "rate_distortion.png", rate, rmse, xlabel="rate, bits/dim", ylabel="distortion, RMSE of 0..255")


def _rate_distortion_table(summary: BoundSummary) -> list[str]:
    """Every tenth of the chain, as in Ho et al. 2020, table 4: reverse steps taken, bits spent, distance from the image."""
    steps = len(summary.terms)
    chosen = sorted({steps * row // TABLE_ROWS for row in range(TABLE_ROWS)})
    rows = [f"  {steps - t:>13}{summary.curve.rate[t]:>18.5f}{summary.curve.rmse[t]:>28.3f}" for t in chosen]
    return [f"  {'reverse steps':>13}{'rate (bits/dim)':>18}{'distortion (RMSE, 0..255)':>28}", *rows]


def _note(path: Path, result: dict[str, Any]) -> None:
    """Adds a result to evaluation.json, in place of what was found of this metric before."""
    found = json.loads(path.read_text()) if path.is_file() else {}
    text = json.dumps(found | {result["metric"]: result}, indent=2, allow_nan=False) + "\n"
    write_whole(path, lambda path: path.write_text(text))
