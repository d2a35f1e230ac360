"""--mode evaluate: how likely a trained run finds images that it has not seen."""

import csv
import json
import math
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict
from tqdm import tqdm

from jax_ddpm import experiment
from jax_ddpm.config import read_config
from jax_ddpm.data.pipeline import one_pass
from jax_ddpm.data.sources import Source, load_source
from jax_ddpm.diffusion.prediction import Denoiser
from jax_ddpm.errors import InvalidInput, choose
from jax_ddpm.evaluation.bits_per_dim import BoundSummary, estimate, summarise
from jax_ddpm.pictures import curve
from jax_ddpm.trained import open_run
from jax_ddpm.training.sharding import make_mesh, replicated, split_batch
from jax_ddpm.training.state import Params

PerBatch = Callable[[Denoiser, jax.Array, jax.Array], Any]
"""(denoiser, x0 [B, ...], key) -> a tree of arrays whose last axis is B."""
TABLE_ROWS = 10


def main(config: ConfigDict, workdir: Path) -> None:
    """Works out `eval.metrics` over the images of `eval.split`, prints them and writes them to workdir/evaluation/step_…/.

    Where the network is conditional on the class, each image is told its own: what is found is then log p(x_0 | class).
    """
    names = ",".join(config.eval.metrics).split(",")  # a flag gives several names as one text
    metrics = {name: choose("eval.metrics", name, METRICS) for name in names}
    mesh = make_mesh()
    params, step = open_run(config, workdir, mesh)
    source = load_source(config.data.name, config.eval.split, config.data.directory)
    _check_labels(config, source)
    _say_if_seen(config, workdir)
    directory = workdir / "evaluation" / f"step_{step:07d}"
    print(f"evaluating step {step} of {workdir} on {config.eval.count or len(source):,} images ...", flush=True)
    for name, metric in metrics.items():
        result = metric(config, mesh, params, source, directory)
        _note(directory / "evaluation.json", {"metric": name, **result, **_circumstances(config, step)})
    print(f"written: {directory}", flush=True)


def _circumstances(config: ConfigDict, step: int) -> dict[str, Any]:
    """What a figure has to be read with."""
    names = ("split", "batch_size", "seed")
    return {"checkpoint": step, "weights": "ema", "data": config.data.name, **{name: config.eval[name] for name in names}}


def _check_labels(config: ConfigDict, source: Source) -> None:
    if config.model.class_conditional and source.class_names != tuple(config.data.class_names):
        raise InvalidInput(
            f"the classes of {source.name} are {', '.join(source.class_names) or 'not named'}: this network was trained on "
            f"{', '.join(config.data.class_names)}"
        )


def _say_if_seen(config: ConfigDict, workdir: Path) -> None:
    trained = read_config(workdir).data
    same_place = config.data.name != "folder" or config.data.directory == trained.directory
    if same_place and (config.data.name == "folder" or config.eval.split == trained.split):
        print("note: these are the images that the run was trained on; name others by --config.eval.split or data.directory")


def _evaluate_bound(config: ConfigDict, mesh: Mesh, params: Params, source: Source, directory: Path) -> dict[str, Any]:
    """The variational bound: mean, parts, each term, and the table of rate and distortion."""
    bounds = _over_data(config, mesh, params, source, experiment.make_bound(config))
    summary = summarise(bounds, math.prod(experiment.image_shape(config)))
    times = experiment.make_short_schedule(config, config.eval.respacing).timesteps
    _write_terms(directory, np.asarray(times), summary)
    print(f"variational bound: {summary.bits_per_dim}")
    print(f"  rate {summary.rate:.4f} (of it the prior {summary.prior:.2e}) + distortion {summary.distortion:.4f}")
    print("\n".join(_rate_distortion_table(summary)))
    return {
        **summary.bits_per_dim._asdict(),
        **{part: getattr(summary, part) for part in ("prior", "rate", "distortion")},
        "steps": len(times),
        "respacing": config.eval.respacing,
        "clip": config.eval.clip,
    }


def _evaluate_flow(config: ConfigDict, mesh: Mesh, params: Params, source: Source, directory: Path) -> dict[str, Any]:
    """The likelihood of the probability flow."""
    bits = np.concatenate(list(_over_data(config, mesh, params, source, experiment.make_flow_bits(config))))
    found = estimate(bits)
    print(f"probability flow: {found}")
    return {**found._asdict(), "tolerance": config.eval.ode_tolerance, "dequantisation": "uniform"}


METRICS = {"bits_per_dim": _evaluate_bound, "ode_bits_per_dim": _evaluate_flow}


def _over_data(config: ConfigDict, mesh: Mesh, params: Params, source: Source, per_batch: PerBatch) -> Iterator[Any]:
    """What `per_batch` says of each batch, on the host, without what fills up the last one."""
    network, split, whole = experiment.make_network(config), split_batch(mesh), replicated(mesh)

    @partial(jax.jit, in_shardings=(whole, split, split, whole))
    def evaluate(params: Params, images: jax.Array, labels: jax.Array, key: jax.Array) -> Any:
        denoiser = experiment.make_denoiser(network, params, labels if network.num_classes else None)
        return per_batch(denoiser, images, key)

    size = math.ceil(config.eval.batch_size / mesh.size) * mesh.size
    shape = {"image_size": config.data.image_size, "channels": config.data.channels}
    total = config.eval.count or len(source)
    key = jax.random.key(config.eval.seed)
    with tqdm(total=total, unit="image", disable=not sys.stderr.isatty()) as bar:
        for number, (batch, count) in enumerate(one_pass(source, batch_size=size, count=total, **shape)):
            found = evaluate(params, batch["image"], batch["label"], jax.random.fold_in(key, number))
            yield jax.tree.map(lambda x: x[..., :count], jax.device_get(found))  # noqa: B023
            bar.update(count)


def _write_terms(directory: Path, times: np.ndarray, summary: BoundSummary) -> None:
    """vlb_terms.csv, a line a step, and the pictures of it."""
    directory.mkdir(parents=True, exist_ok=True)
    rate, rmse = map(np.asarray, summary.curve)
    with (directory / "vlb_terms.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["t", "bits_per_dim", "rate", "rmse"])
        writer.writerows(zip(times.tolist(), summary.terms.tolist(), rate.tolist(), rmse.tolist(), strict=True))
    labels = {"xlabel": "t (0: the decoder)", "ylabel": "L_t, bits/dim"}
    curve(directory / "vlb_terms.png", times + 1, summary.terms, xscale="log", yscale="log", **labels)
    curve(directory / "rate_distortion.png", rate, rmse, xlabel="rate, bits/dim", ylabel="distortion, RMSE of 0..255")


def _rate_distortion_table(summary: BoundSummary) -> list[str]:
    """Every tenth of the chain, in the form of Ho et al. 2020, table 4."""
    steps = len(summary.terms)
    chosen = sorted({round(step) for step in np.linspace(0, steps - 1, min(TABLE_ROWS, steps))})
    rows = [f"  {steps - t:>12}{summary.curve.rate[t]:>18.5f}{summary.curve.rmse[t]:>28.3f}" for t in chosen]
    return [f"  {'reverse step':>12}{'rate (bits/dim)':>18}{'distortion (RMSE, 0..255)':>28}", *rows]


def _note(path: Path, result: dict[str, Any]) -> None:
    """Adds a result to evaluation.json, in place of what was found of this metric before."""
    found = json.loads(path.read_text()) if path.is_file() else {}
    path.parent.mkdir(parents=True, exist_ok=True)
    partial_file = path.with_name(f"{path.name}.partial")
    partial_file.write_text(json.dumps(found | {result["metric"]: result}, indent=2) + "\n")
    partial_file.replace(path)
