"""Several runs side by side: which sections the page has."""

from collections.abc import Sequence
from pathlib import Path

from jax_ddpm.reporting.curves import Axis, Series, lines, number
from jax_ddpm.reporting.embedded import embed, is_too_large, left_out, read_picture
from jax_ddpm.reporting.judged_sections import EVALUATE, evaluation_charts, terms_charts
from jax_ddpm.reporting.parts import Chart, Hint, Image, Section, Table
from jax_ddpm.reporting.telling import by_training, command, findings, flat, sampler_of, written
from jax_ddpm.reporting.trained_sections import POINTS, ROWS, of_them, summary
from jax_ddpm.reporting.workdirs import Run, spread_out


def compare(runs: Sequence[Run]) -> list[Section]:
    """All there is to say of several runs together."""
    made = (summaries, settings, loss, terms, speed, last_samples, evaluations)
    return [make(runs) for make in made]


def summaries(runs: Sequence[Run]) -> Section:
    """A row a fact, a column a run."""
    facts = [{row[0]: row[1] for row in summary(run).tables[0].rows} for run in runs]
    names = list(dict.fromkeys(name for each in facts for name in each))
    rows = [(name, *(each.get(name, "") for each in facts)) for name in names]
    return Section("summary", "Summary", tables=[Table("The runs", ("what", *(run.name for run in runs)), rows)])


def settings(runs: Sequence[Run]) -> Section:
    """The settings in which they differ."""
    values = [{name: written(value) for name, value in flat(run.config).items()} for run in runs]
    rows = [(name, *(each[name] for each in values)) for name in values[0] if len({each[name] for each in values}) > 1]
    if not rows:
        return Section("settings", "Settings that differ", text=["None: all settings are the same."])
    table = Table("Settings that are not the same in all", ("setting", *(run.name for run in runs)), rows)
    return Section("settings", "Settings that differ", tables=[table])


def loss(runs: Sequence[Run]) -> Section:
    """The losses on the same axes."""
    x, y = Axis("step", log=True), Axis("loss", log=True)
    return _curves("loss", "Loss", runs, "loss", x, y)


def speed(runs: Sequence[Run]) -> Section:
    """Images a second on the same axes."""
    x, y = Axis("step"), Axis("images/s", from_zero=True)
    return _curves("speed", "Images per second", runs, "images_per_second", x, y)


def _curves(name: str, title: str, runs: Sequence[Run], key: str, x: Axis, y: Axis) -> Section:
    logged = {run.name: [row for row in run.metrics if key in row] for run in runs}
    hints = [by_training(run, f"{run.name} has logged none.") for run in runs if not logged[run.name]]
    found = {name: rows for name, rows in logged.items() if rows}
    if not found:
        return Section(name, title, hints=hints)
    kept = {name: spread_out(rows, POINTS) for name, rows in found.items()}
    series = [Series(name, [row["step"] for row in rows], [row[key] for row in rows]) for name, rows in kept.items()]
    rows = [(name, number(row["step"]), number(row[key])) for name, every in found.items() for row in spread_out(every, ROWS)]
    heading = f"{title} by step"
    table = Table(f"{heading}{of_them(max(found.values(), key=len))}", ("run", "step", y.label), rows, folded=True)
    return Section(name, title, charts=[Chart(lines(f"chart-{key}", heading, series, x, y), heading, table)], hints=hints)


def terms(runs: Sequence[Run]) -> Section:
    """The bound of each over the longest chain, for a shorter one has larger terms; of several such the newest."""
    every = {run.name: [each for each in run.evaluations if each.terms] for run in runs}
    found = {name: sorted(bounds, key=lambda each: len(each.terms))[-1:] for name, bounds in every.items()}
    hints = [
        Hint(f"The bound of {run.name} has not been worked out.", command(run, *EVALUATE))
        for run in runs
        if not found[run.name]
    ]
    bounds = {f"{name}: {each.name}": each.terms for name, chosen in found.items() for each in chosen}
    return Section("bits-per-dim", "Bits per dimension by timestep", charts=terms_charts(bounds) if bounds else [], hints=hints)


def last_samples(runs: Sequence[Run]) -> Section:
    """The last grid of each, of those that training drew."""
    hints = [by_training(run, f"{run.name} has drawn none.") for run in runs if not (run.drawings or run.samples)]
    last = [(run, *_last(run)) for run in runs if run.drawings or run.samples]
    hints += left_out([path for _, path, _ in last])
    images = [_shown(*each) for each in last if not is_too_large(each[1])]
    return Section("samples", "The last samples", images=images, hints=hints)


def _last(run: Run) -> tuple[Path, str]:
    """The grid that training drew last, or else one that --mode sample drew; and how."""
    if run.drawings:
        return run.drawings[-1].path, f"after {number(run.drawings[-1].step)} training steps"
    return run.samples[-1].grid, f"by {sampler_of(run.samples[-1])}"


def _shown(run: Run, path: Path, how: str) -> Image:
    told = f"Samples of {run.name} {how}"
    return embed(read_picture(path), told, image_size=run.config.data.image_size, caption=told)


def evaluations(runs: Sequence[Run]) -> Section:
    """Every figure of every run, metric by metric."""
    every = [(row, f"{run.name}: {row.of}") for run in runs for row in findings(run.evaluations)]
    hints = [Hint(f"{run.name} has not been evaluated.", command(run, *EVALUATE)) for run in runs if not run.evaluations]
    return Section("evaluation", "Evaluation", charts=evaluation_charts(every), hints=hints)
