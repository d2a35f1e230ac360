"""How settings, metrics and commands are put into words, alike on every page."""

import math
import shlex
from collections.abc import Iterable
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from jax_ddpm.config import changes, default_config, to_dict
from jax_ddpm.experiment import is_classifier
from jax_ddpm.reporting.curves import number
from jax_ddpm.reporting.parts import Hint
from jax_ddpm.reporting.workdirs import Evaluation, Run, Samples


class Metric(NamedTuple):
    """What a metric is called, what it is measured in, and under which key its figure is kept."""

    title: str
    unit: str
    key: str


METRICS = {
    "bits_per_dim": Metric("Variational bound", "bits/dim", "mean"),
    "ode_bits_per_dim": Metric("Likelihood by the probability flow", "bits/dim", "mean"),
    "accuracy": Metric("Accuracy of the classifier", "share of images", "mean"),
    "agreement": Metric("Samples of the class asked for", "share of samples", "agreement"),
    "nearest": Metric("Distance from the nearest training image, median", "grey levels", "median_distance"),
}


class Finding(NamedTuple):
    """One figure of one metric, with its standard error where that is known, and what it is of."""

    metric: str
    of: str
    value: float
    error: float | None
    images: int | None
    checkpoint: int | None


def metric_of(name: str) -> Metric:
    """What is known of a metric; one that is not listed is called what it is called, and so is its figure."""
    said = name.replace("_", " ")
    return METRICS.get(name, Metric(said, said, name))


def findings(evaluations: Iterable[Evaluation]) -> list[Finding]:
    """All figures of all evaluations, metric by metric."""
    rows = []
    for each in evaluations:
        for name, found in each.metrics.items():
            value = found.get(metric_of(name).key, found.get("mean"))
            if isinstance(value, int | float):
                images = found.get("images", found.get("samples"))
                rows.append(
                    Finding(name, called(each.name, found), value, found.get("standard_error"), images, found.get("checkpoint"))
                )
    return sorted(rows, key=lambda row: row.metric)


def called(folder: str, found: dict[str, Any]) -> str:
    """What was evaluated: samples by how they were drawn, held-out images by the folder that was named after them."""
    if "sampler" not in found:
        return folder
    return f"{number(found['samples'])} samples by {drawn_by(found)}, step {number(found['checkpoint'])}, seed {found['seed']}"


def with_error(row: Finding) -> str:
    """The figure and its error, as a table has it: both to the second digit of the error."""
    if not row.error:
        return number(row.value)
    decimals = max(1 - math.floor(math.log10(row.error)), 0)
    return f"{row.value:,.{decimals}f} ± {row.error:,.{decimals}f}"


def command(run: Run, *words: str) -> str:
    """What is typed to do more with this run."""
    return shlex.join(["python", "run.py", *words[:2], "--workdir", str(run.workdir), *words[2:]])


def by_training(run: Run, missing: str) -> Hint:
    """What is missing, and that training makes it; not of weights alone, whose run is elsewhere."""
    if run.weights_alone:
        return Hint(f"{missing} This folder holds weights alone: what training wrote stayed with the run.")
    return Hint(missing, command(run))


def draws_nothing(run: Run) -> str:
    """Why a run draws no images from noise alone; "" where it does."""
    if is_classifier(run.config):
        return "This run is of a classifier, which draws no images."
    if run.config.model.low_res_size:
        return "This run enlarges small images, and draws none without them: --mode edit --task enlarge."
    return ""


def flat(config: ConfigDict) -> dict[str, Any]:
    """Every setting by its dotted name."""
    rows: dict[str, Any] = {}
    for group, value in config.items():
        rows |= {f"{group}.{name}": each for name, each in value.items()} if isinstance(value, ConfigDict) else {group: value}
    return rows


def written(value: Any) -> str:
    """A setting's value as it is given on the command line."""
    return '""' if value == "" else str(value)


def changed(config: ConfigDict) -> dict[str, tuple[str, str]]:
    """The settings that are not the defaults: dotted name -> (default, value)."""
    return {name: (written(old), written(new)) for name, (old, new) in changes(default_config(), config).items()}


def sampler_of(samples: Samples) -> str:
    """How samples were drawn, or where they are if that is not known."""
    return drawn_by(samples.how) if samples.how else samples.name


def drawn_by(how: dict[str, Any]) -> str:
    """The sampler and those of its settings that were chosen, and the guidance."""
    usual = to_dict(default_config())
    chosen = [
        f"{group if group == 'guidance' else ''} {name} {written(value)}".strip()
        for group in ("sampler", "guidance")
        for name, value in how[group].items()
        if name != "name" and value != usual[group].get(name)
    ]
    return ", ".join([how["sampler"]["name"], *chosen])
