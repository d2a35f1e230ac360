"""What each metric has to say of a trained run: printed, drawn, and as figures to be kept."""

import csv
import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from jax_ddpm import experiment
from jax_ddpm.evaluation import accuracy
from jax_ddpm.evaluation.accuracy import AccuracySummary, Level
from jax_ddpm.evaluation.bits_per_dim import BoundSummary, Estimate, estimate, summarise
from jax_ddpm.files import write_whole
from jax_ddpm.held_out import Held, over_data, which_images
from jax_ddpm.pictures import curve

TABLE_ROWS = 10


def _report_bound(held: Held, directory: Path) -> dict[str, Any]:
    """The variational bound: mean, parts, each term, and the table of rate and distortion."""
    summary = summarise(over_data(held, "bits_per_dim"), math.prod(experiment.image_shape(held.config)))
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
    found = estimate(np.concatenate(list(over_data(held, "ode_bits_per_dim"))))
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
    return accuracy.summarise(over_data(held, "accuracy"), held.config.diffusion.steps)


def accuracy_table(levels: Iterable[Level]) -> list[str]:
    """A line for each part of the chain, the least noisy first."""
    rows = [f"  {f'{each.first}–{each.last}':>13}{each.accuracy:>12.1%}{each.standard_error:>18.1%}" for each in levels]
    return [f"  {'t':>13}{'accuracy':>12}{'standard error':>18}", *rows]


def show_accuracy(path: Path, found: AccuracySummary, images: str) -> Path:
    """A picture of accuracy against t, on images that are called so."""
    middles = [(each.first + each.last) / 2 for each in found.levels]
    return curve(path, middles, [each.accuracy for each in found.levels], xlabel="t", ylabel=f"accuracy on images of {images}")


def _as_json(found: Estimate) -> dict[str, Any]:
    """JSON has no infinity: the error that one image leaves unknown is null."""
    return {**found._asdict(), "standard_error": found.standard_error if found.images > 1 else None}


def _write_terms(directory: Path, times: np.ndarray, summary: BoundSummary) -> None:
    """vlb_terms.csv, a line a step, and the pictures of it."""
    rate, rmse = map(np.asarray, summary.curve)

    def save(path: Path) -> None:
        with path.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["t", "bits_per_dim", "rate", "rmse"])
            writer.writerows(zip(times.tolist(), summary.terms.tolist(), rate.tolist(), rmse.tolist(), strict=True))

    write_whole(directory / "vlb_terms.csv", save)
    labels = {"xlabel": "t, counted from 1 (there the decoder)", "ylabel": "term of the bound, bits/dim"}
    curve(directory / "vlb_terms.png", times + 1, summary.terms, xscale="log", yscale="log", **labels)
    curve(directory / "rate_distortion.png", rate, rmse, xlabel="rate, bits/dim", ylabel="distortion, RMSE of 0..255")


def _rate_distortion_table(summary: BoundSummary) -> list[str]:
    """Every tenth of the chain, as in Ho et al. 2020, table 4: reverse steps taken, bits spent, distance from the image."""
    steps = len(summary.terms)
    chosen = sorted({steps * row // TABLE_ROWS for row in range(TABLE_ROWS)})
    rows = [f"  {steps - t:>13}{summary.curve.rate[t]:>18.5f}{summary.curve.rmse[t]:>28.3f}" for t in chosen]
    return [f"  {'reverse steps':>13}{'rate (bits/dim)':>18}{'distortion (RMSE, 0..255)':>28}", *rows]


REPORTS: dict[str, Callable[[Held, Path], dict[str, Any]]] = {
    "bits_per_dim": _report_bound,
    "ode_bits_per_dim": _report_flow,
    "accuracy": _report_accuracy,
}
