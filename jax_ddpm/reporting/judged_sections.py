"""What a page says of a trained network: how likely it finds images, what it draws by which sampler, and how good that is."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jax_ddpm.experiment import is_classifier
from jax_ddpm.figures import WEIGHTS, Figure, with_error
from jax_ddpm.reporting.curves import Axis, Bar, Series, error_bars, lines, number
from jax_ddpm.reporting.embedded import embed, is_too_large, left_out, read_picture
from jax_ddpm.reporting.parts import Chart, Hint, Image, Section, Table
from jax_ddpm.reporting.telling import Finding, called, command, draws_nothing, findings, sampler_of
from jax_ddpm.reporting.trained_sections import POINTS, ROWS, of_them
from jax_ddpm.reporting.workdirs import Evaluation, Run, Samples, Term, judged, spread_out

BOUNDS = 5  # drawn on the same axes, the newest
EVALUATE = ("--mode", "evaluate")


def terms(run: Run) -> Section:
    """The terms of the bound against t, and what each step brings."""
    name, title = "bits-per-dim", "Bits per dimension by timestep"
    if is_classifier(run.config):
        return Section(name, title, text=["This run is of a classifier, which says nothing of how likely images are."])
    found = [each for each in run.evaluations if each.terms][-BOUNDS:]
    if not found:
        return Section(name, title, hints=[Hint("The bound has not been worked out.", command(run, *EVALUATE))])
    charts = terms_charts({each.name: each.terms for each in found})
    return Section(name, title, charts=charts)


def terms_charts(found: Mapping[str, Sequence[Term]]) -> list[Chart]:
    """The terms of several bounds on the same axes, and the curves of rate and distortion."""
    kept = {name: spread_out(rows, POINTS) for name, rows in found.items()}
    by_time = [Series(name, [row.t + 1 for row in rows], [row.bits_per_dim for row in rows]) for name, rows in kept.items()]
    by_rate = [Series(name, [row.rate for row in rows], [row.rmse for row in rows]) for name, rows in kept.items()]
    time, bits = Axis("t, counted from 1 (there the decoder)", log=True), Axis("bits/dim", log=True)
    rate, rmse = Axis("rate, bits/dim", from_zero=True), Axis("distortion, RMSE of 0..255", from_zero=True)
    titles = "Terms of the variational bound", "Rate and distortion"
    return [
        Chart(
            lines("chart-terms", titles[0], by_time, time, bits),
            f"{titles[0]}: they sum up to it, so that a chain of fewer steps has larger ones",
            _terms_table(found),
        ),
        Chart(
            lines("chart-rate", titles[1], by_rate, rate, rmse),
            f"{titles[1]}: how far the estimate of the image is off, when so many bits of it have come",
            _terms_table(found, "Rate and distortion by timestep"),
        ),
    ]


def _terms_table(found: Mapping[str, Sequence[Term]], caption: str = "Terms by timestep") -> Table:
    rows = [
        (name, *(number(value) for value in (row.t + 1, row.bits_per_dim, row.rate, row.rmse)))
        for name, all_rows in found.items()
        for row in spread_out(all_rows, ROWS)
    ]
    more = of_them(max(found.values(), key=len))
    return Table(f"{caption}{more}", ("of", "t", "bits/dim", "rate, bits/dim", "RMSE"), rows, folded=True)


def samplers(run: Run) -> Section:
    """Samples by several samplers, side by side, the longest chain first, each with what was found of them."""
    name, title = "samplers", "Samplers compared"
    if why := draws_nothing(run):
        return Section(name, title, text=[why])
    example = command(run, "--mode", "sample", "--config.sampler.name=ddim", "--config.sampler.steps=50")
    hints = []
    if not run.samples:
        hints.append(Hint("No samples have been drawn.", example))
    elif len(run.samples) == 1:
        hints.append(Hint("One sampler so far. Another, to compare with:", example))
    if any(not each.how for each in run.samples):
        hints.append(Hint("Where it says “not recorded”, an earlier version drew; drawn again it is told.", example))
    run = run._replace(samples=tuple(sorted(run.samples, key=lambda each: -each.how.get("evaluations", 0))))
    hints += left_out([each.grid for each in run.samples])
    images = [_grid(run, each) for each in run.samples if not is_too_large(each.grid)]
    tables = [_samplers_table(run)] if run.samples else []
    return Section(name, title, images=images, tables=tables, hints=hints)


def _grid(run: Run, samples: Samples) -> Image:
    how, size = samples.how, run.config.data.image_size
    drawn = f"{number(how['samples'])} samples by {sampler_of(samples)}" if how else f"Samples in {samples.name}"
    cost = f", {number(how['evaluations'])} evaluations each, seed {how['sample']['seed']}" if how else ", not recorded how"
    return embed(read_picture(samples.grid), f"{drawn}{cost}", image_size=size, caption=f"{drawn}{cost}")


def _samplers_table(run: Run) -> Table:
    by_samples = {each.name: {row.figure.key: row.figure for row in _findings_of(run, each)} for each in run.samples}
    judged_by = {key: figure for found in by_samples.values() for key, figure in found.items()}
    metrics = sorted(judged_by)
    rows = []
    for each in run.samples:
        how, found = each.how, by_samples[each.name]
        numbers = (how["checkpoint"], how["evaluations"], how["samples"], how["sample"]["seed"]) if how else ()
        said = [*map(number, numbers), WEIGHTS.get(how.get("weights", ""), "")] if how else ["not recorded"] * 5
        rows.append((sampler_of(each), *said, *(with_error(found[m]) if m in found else "not judged" for m in metrics)))
    titles = [f"{judged_by[metric].title} ({judged_by[metric].unit})" for metric in metrics]
    return Table(
        "How they were drawn, and what was found of them",
        ("sampler", "step", "evaluations", "samples", "seed", "weights", *titles),
        rows,
    )


def _findings_of(run: Run, samples: Samples) -> list[Finding]:
    return findings([Evaluation(samples.name, judged(run, samples), (), None)])


def nearest(run: Run) -> Section:
    """Samples beside their nearest training images."""
    name, title = "nearest", "Nearest neighbours"
    if why := draws_nothing(run):
        return Section(name, title, text=[why])
    there = [(each.name, each.metrics, each.nearest) for each in run.evaluations if each.nearest]
    if not there:
        missing = "Samples have not been compared with the training images."
        return Section(name, title, hints=[Hint(missing, command(run, *EVALUATE, "--config.eval.metrics=nearest"))])
    images = [_pairs(run, *each) for each in there if not is_too_large(each[2])]
    text = ["Each sample, and to its right the training image nearest to it."]
    hints = left_out([each[2] for each in there])
    return Section(name, title, text=text, images=images, hints=hints)


def _pairs(run: Run, name: str, metrics: dict[str, dict[str, Any]], path: Path) -> Image:
    figures, said = metrics.get("nearest", {}), []
    if figures:
        said = [f"{figures['memorised']} of {figures['samples']} memorised"]
        said.append(f"median distance {figures['median_distance']:.1f} grey levels")
    if "held_out_median_distance" in figures:
        said.append(f"that of held-out images {figures['held_out_median_distance']:.1f}")
    if "held_out_memorised" in figures:
        said.append(
            f"of {figures['held_out_images']} held-out images {figures['held_out_memorised']} would be called memorised"
        )
    if "shown" in figures:
        said.append(f"shown are {len(figures['shown'])}, memorised ones first, then the nearest")
    name = called(name, figures)
    told = f"{name}: {', '.join(said)}" if said else name
    alt, size = f"Pairs of a sample and its nearest training image, {told}", run.config.data.image_size
    return embed(read_picture(path), alt, image_size=size, caption=told)


def evaluation(run: Run) -> Section:
    """Every figure that was found, with its error."""
    rows = findings(run.evaluations)
    hints = [] if rows else [Hint("Nothing has been evaluated.", command(run, *EVALUATE))]
    charts = evaluation_charts([(row, row.of) for row in rows])
    return Section("evaluation", "Evaluation", charts=charts, hints=hints)


def evaluation_charts(named: Iterable[tuple[Finding, str]]) -> list[Chart]:
    """Figures and what each is called: a chart a metric."""
    by_metric: dict[str, list[tuple[Finding, str]]] = {}
    for row, name in named:
        by_metric.setdefault(row.figure.key, []).append((row, name))
    return [_evaluation_chart(f"chart-found-{place}", rows) for place, rows in enumerate(by_metric.values())]


def _evaluation_chart(place: str, named: Sequence[tuple[Finding, str]]) -> Chart:
    """The figures of one metric, each with a bar of one standard error to either side."""
    shown = [(row.figure, name) for row, name in named]
    (known, _), errors = shown[0], [figure.error for figure, _ in shown]
    told = "bars reach one standard error to either side" if any(error is not None for error in errors) else "no error is known"
    compared = any(figure.against for figure, _ in shown)
    head = ("of", f"{known.unit} ± standard error", "images", "step", "weights", *(["against"] if compared else []))
    rows = [(name, *_cells(figure), *([figure.against] if compared else [])) for figure, name in shown]
    bars = [Bar(name, figure.value, figure.error) for figure, name in shown]
    svg = error_bars(place, known.title, bars, known.unit)
    return Chart(svg, f"{known.title}; {told}", Table(known.title, head, rows, folded=True))


def _cells(figure: Figure) -> tuple[str, str, str, str]:
    """The value, how many images it is of, the step of the weights and which they are, each where it is known."""
    images, step = ("" if value is None else number(value) for value in (figure.images, figure.checkpoint))
    return with_error(figure), images, step, figure.weights
