"""How settings, metrics and commands are put into words, alike on every page."""

import shlex
from collections.abc import Iterable
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from jax_ddpm.config import changes, default_config, to_dict
from jax_ddpm.experiment import is_classifier
from jax_ddpm.figures import Figure, figures
from jax_ddpm.reporting.curves import number
from jax_ddpm.reporting.parts import Hint
from jax_ddpm.reporting.workdirs import Evaluation, Run, Samples


class Finding(NamedTuple):
    """A figure, and what a page calls that which it is of."""

    figure: Figure
    of: str


def findings(evaluations: Iterable[Evaluation]) -> list[Finding]:
    """All figures of all evaluations, metric by metric."""
    rows = [
        Finding(figure, called(each.name, found))
        for each in evaluations
        for name, found in each.metrics.items()
        for figure in figures(name, found)
    ]
    return sorted(rows, key=lambda row: row.figure.key)


def called(folder: str, found: dict[str, Any]) -> str:
    """What was evaluated: samples by how they were drawn, held-out images by the folder that was named after them."""
    if not isinstance(found.get("sampler"), dict):  # of samples that came from elsewhere it is a word
        return folder
    return f"{number(found['samples'])} samples by {drawn_by(found)}, step {number(found['checkpoint'])}, seed {found['seed']}"


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
