"""A workdir, read as data: what its files say, and where its pictures are."""

import csv
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from jax_ddpm.config import read_config
from jax_ddpm.errors import InvalidInput
from jax_ddpm.training.environment import FILE_NAME as ENVIRONMENT_FILE
from jax_ddpm.training.logging import read_metrics
from jax_ddpm.training.weights import FILE_NAME as WEIGHTS_FILE


class Drawing(NamedTuple):
    """Samples that training drew on its way, or the chain that they came from: the step, and the picture."""

    step: int
    path: Path


class Samples(NamedTuple):
    """Samples that `--mode sample` drew.

    Attributes:
      name: of their folder.
      grid: the picture of all.
      how: what samples.json says of how they were drawn; nothing, where an earlier version drew them.
    """

    name: str
    grid: Path
    how: dict[str, Any]


class Term(NamedTuple):
    """A line of vlb_terms.csv: t from 0 on, the term and the rate in bits/dim, the RMSE in 0..255."""

    t: float
    bits_per_dim: float
    rate: float
    rmse: float


class Evaluation(NamedTuple):
    """What `--mode evaluate` found.

    Attributes:
      name: of its folder.
      metrics: what evaluation.json holds, by the metric's name.
      terms: of the bound, where it was worked out.
      nearest: the picture of samples and their nearest training images, or None.
    """

    name: str
    metrics: dict[str, dict[str, Any]]
    terms: tuple[Term, ...]
    nearest: Path | None


class Run(NamedTuple):
    """All of it, each kind in the order of its steps.

    Attributes:
      metrics: the lines of metrics.jsonl.
      starts: the entries of environment.json.
      weights_alone: whether it is no run, but what `--mode export_weights` wrote of one.
    """

    workdir: Path
    config: ConfigDict
    metrics: list[dict[str, Any]]
    drawings: tuple[Drawing, ...]
    chains: tuple[Drawing, ...]
    samples: tuple[Samples, ...]
    evaluations: tuple[Evaluation, ...]
    starts: list[dict[str, Any]]
    weights_alone: bool

    @property
    def name(self) -> str:
        """What the run is called on a page."""
        return str(self.workdir)


def read_run(workdir: Path) -> Run:
    """What there is in a workdir; nothing but config.json or checkpoints has to be.

    Raises:
      InvalidInput: there is no run, or one of its files is damaged.
    """
    return Run(
        workdir=workdir,
        config=read_config(workdir),
        metrics=read_metrics(workdir),
        drawings=_drawings(workdir, r"step_(\d+)\.png"),
        chains=_drawings(workdir, r"step_(\d+)_chain\.png"),
        samples=tuple(_samples(path) for path in _folders(workdir / "samples", "grid.png")),
        evaluations=tuple(_evaluation(path) for path in _folders(workdir / "evaluation", "evaluation.json")),
        starts=_read_json(workdir / ENVIRONMENT_FILE, []),
        weights_alone=(workdir / WEIGHTS_FILE).is_file() and not (workdir / "checkpoints").is_dir(),
    )


def _drawings(workdir: Path, pattern: str) -> tuple[Drawing, ...]:
    found = ((re.fullmatch(pattern, path.name), path) for path in _listed(workdir / "samples"))
    return tuple(sorted(Drawing(int(match[1]), path) for match, path in found if match))


def _folders(place: Path, holding: str) -> list[Path]:
    return [path for path in _listed(place) if (path / holding).is_file()]


def _listed(place: Path) -> list[Path]:
    return sorted(place.iterdir()) if place.is_dir() else []


def _samples(path: Path) -> Samples:
    return Samples(path.name, path / "grid.png", _read_json(path / "samples.json", {}))


def _evaluation(path: Path) -> Evaluation:
    picture = path / "nearest.png"
    terms = _read_terms(path / "vlb_terms.csv")
    return Evaluation(path.name, _read_json(path / "evaluation.json", {}), terms, picture if picture.is_file() else None)


def _read_terms(path: Path) -> tuple[Term, ...]:
    if not path.is_file():
        return ()
    try:
        return tuple(
            Term(*(float(row[name]) for name in Term._fields)) for row in csv.DictReader(path.read_text().splitlines())
        )
    except (KeyError, ValueError, TypeError) as error:
        raise InvalidInput(f"{path}: expected a table of {', '.join(Term._fields)}, as --mode evaluate writes it") from error


def _read_json(path: Path, otherwise: Any) -> Any:
    """What the file holds, which is of the same kind as what is taken where there is none."""
    if not path.is_file():
        return otherwise
    try:
        found = json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise InvalidInput(f"{path}: {error}") from error
    if not isinstance(found, type(otherwise)):
        raise InvalidInput(f"{path} holds a {type(found).__name__}: expected a {type(otherwise).__name__}")
    return found


def spread_out(values: Sequence[Any], most: int) -> list[Any]:
    """At the most so many of the values, evenly spaced, the first and the last among them."""
    if len(values) <= most:
        return list(values)
    return [values[round(place * (len(values) - 1) / (most - 1))] for place in range(most)]


def judged(run: Run, samples: Samples) -> dict[str, dict[str, Any]]:
    """What was found of these very samples, by the metric's name: not of others by the same sampler."""
    folder, drawn = f"samples_{samples.how.get('samples')}_{samples.name}", samples.how.get("sample")
    metrics = next((each.metrics for each in run.evaluations if each.name == folder), {})
    return {name: found for name, found in metrics.items() if found.get("sample") == drawn}
