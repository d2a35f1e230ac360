"""What a page says of training: how far it is, its loss and speed, the samples drawn on the way, and the chain."""

from collections.abc import Sequence

import numpy as np
from ml_collections import ConfigDict

from jax_ddpm.experiment import is_classifier, make_sampler
from jax_ddpm.figures import with_error
from jax_ddpm.generation import frame_steps
from jax_ddpm.reporting.curves import Axis, Series, lines, number
from jax_ddpm.reporting.embedded import animate, embed, is_too_large, left_out, read_picture, scale_of, states_of
from jax_ddpm.reporting.parts import Chart, Image, Section, Slider, Table
from jax_ddpm.reporting.telling import by_training, draws_nothing, findings
from jax_ddpm.reporting.workdirs import Run, spread_out

ROWS = 100  # of a table of numbers, at the most
PICTURES = 40  # along a slider, at the most
POINTS = 2000  # of a line


def summary(run: Run) -> Section:
    """The gist of all sections, a line each."""
    steps, last = number(run.config.train.steps), run.metrics[-1] if run.metrics else {}
    speeds = [row["images_per_second"] for row in run.metrics if "images_per_second" in row]
    facts = {"Trained": f"{number(last['step'])} of {steps} steps" if last else f"not yet, of {steps} steps"}
    facts |= _described(run.config)
    facts |= {"Last loss": number(last["loss"])} if "loss" in last else {}
    facts |= {"Speed": f"{np.median(speeds):,.0f} images/s, the median of what was logged"} if speeds else {}
    facts |= _found(run)
    facts |= {"Begun": run.starts[0]["started"]} if run.starts and run.starts[0]["step"] == 0 else {}
    hints = [] if run.metrics else [by_training(run, "Nothing has been trained yet.")]
    return Section("summary", "Summary", tables=[Table("The run", ("what", "value"), list(facts.items()))], hints=hints)


def _found(run: Run) -> dict[str, str]:
    """The figures of each metric, and what each is of."""
    facts: dict[str, list[str]] = {}
    for row in findings(run.evaluations):
        figure = row.figure
        against = f", against {figure.against}" if figure.against else ""
        facts.setdefault(figure.title, []).append(f"{with_error(figure)} {figure.unit} ({row.of}{against})")
    return {title: "; ".join(told) for title, told in facts.items()}


def _described(config: ConfigDict) -> dict[str, str]:
    """What is trained, on what."""
    data, model, diffusion = config.data, config.model, config.diffusion
    classes = f", {len(data.class_names)} classes" if data.class_names else ""
    widths = " ".join(str(model.channels * each) for each in model.multipliers)
    return {
        "Data": f"{data.name}, {data.split}; {data.image_size}×{data.image_size}×{data.channels}{classes}",
        "Network": f"{model.network}, channels {widths}, {model.dtype}; {number(config.train.batch_size)} images a step",
        "Diffusion": f"{diffusion.schedule} schedule of {number(diffusion.steps)} steps; predicts {diffusion.prediction}, "
        f"loss {diffusion.loss}, variance {diffusion.variance}",
    }


def loss(run: Run) -> Section:
    """The loss against the step; of a classifier its accuracy too."""
    charts = [
        chart(run, "loss", "Loss by step", Axis("step", log=True), Axis("loss", log=True)),
        chart(run, "accuracy", "Accuracy on training batches by step", Axis("step"), Axis("accuracy", from_zero=True)),
        chart(run, "grad_norm", "Norm of the gradient by step", Axis("step", log=True), Axis("norm of the gradient", log=True)),
    ]
    made = [each for each in charts if each]
    hints = [] if made else [by_training(run, "No loss has been logged yet.")]
    return Section("loss", "Loss", charts=made, hints=hints)


def speed(run: Run) -> Section:
    """Images a second against the step."""
    made = chart(run, "images_per_second", "Images per second by step", Axis("step"), Axis("images/s", from_zero=True))
    hints = [] if made else [by_training(run, "No speed has been logged yet.")]
    return Section("speed", "Images per second", charts=[made] if made else [], hints=hints)


def chart(run: Run, key: str, title: str, x: Axis, y: Axis) -> Chart | None:
    """What metrics.jsonl has under a key, where it has anything."""
    rows = [row for row in run.metrics if key in row]
    if not rows:
        return None
    kept = spread_out(rows, POINTS)
    svg = lines(f"chart-{key}", title, [Series(key, [row["step"] for row in kept], [row[key] for row in kept])], x, y)
    shown = [(number(row["step"]), number(row[key])) for row in spread_out(rows, ROWS)]
    caption = f"{title}: {len(rows)} lines of metrics.jsonl, each the mean since the line before"
    return Chart(svg, caption, Table(f"{title}{of_them(rows)}", ("step", y.label), shown, folded=True))


def of_them(rows: Sequence[object]) -> str:
    """What a table says where it does not have all."""
    return f", {ROWS} of {len(rows):,} lines" if len(rows) > ROWS else ""


def drawings(run: Run) -> Section:
    """The samples that training drew on its way."""
    name, title = "training-samples", "Samples through training"
    if is_classifier(run.config):
        return Section(name, title, text=[draws_nothing(run)])
    if not run.drawings:
        return Section(name, title, hints=[by_training(run, "None have been drawn yet; training draws them on its way.")])
    chosen = spread_out(run.drawings, PICTURES)
    shown, hints = [each for each in chosen if not is_too_large(each.path)], left_out([each.path for each in chosen])
    if not shown:
        return Section(name, title, hints=hints[-1:])
    size, steps = run.config.data.image_size, run.config.train.steps
    images = [
        embed(read_picture(each.path), f"Samples after {number(each.step)} of {number(steps)} training steps", image_size=size)
        for each in shown
    ]
    caption = f"Samples by the averaged weights, with the same noise each time{of_pictures(len(run.drawings))}"
    values = [f"step {number(each.step)}" for each in shown]
    slider = Slider("training", "Training step", values, images, caption, len(images) - 1)
    return Section(name, title, sliders=[slider], hints=hints)


def of_pictures(count: int) -> str:
    """What a caption says where not all are shown."""
    return f"; {PICTURES} of {count:,} pictures" if count > PICTURES else ""


def chain(run: Run) -> Section:
    """The newest reverse chain, state by state and moving."""
    name, title = "chain", "The reverse chain"
    if why := draws_nothing(run):
        return Section(name, title, text=[why])
    if not run.chains:
        missing = "No chain has been kept yet; training keeps one with each of its grids of samples."
        return Section(name, title, hints=[by_training(run, missing)])
    newest, size = run.chains[-1], run.config.data.image_size
    if is_too_large(newest.path):
        return Section(name, title, hints=left_out([newest.path]))
    states = states_of(read_picture(newest.path), size)
    values = names_of_states(run, len(states))
    chains = f"chains of the weights of step {number(newest.step)}"
    images = [_state(state, f"The state of the {chains}, {value}", size) for state, value in zip(states, values, strict=True)]
    caption = "From pure noise to images, by the run's own sampler"
    slider = Slider("state", "State of the chain", values, images, f"{caption}: one state at a time", len(images) - 1)
    alt = f"{len(states)} states of the {chains}, one after another: noise that turns into images"
    moving = animate("chain-animation", states, alt, image_size=size, caption=f"{caption}: all {len(states)} states in turn")
    return Section(name, title, sliders=[slider], animations=[moving])


def _state(state: np.ndarray, alt: str, image_size: int) -> Image:
    """A state that has each pixel once, drawn as large as the other pictures are."""
    return embed(state, alt, image_size=64)._replace(scale=scale_of(image_size))


def names_of_states(run: Run, count: int) -> list[str]:
    """How far the chain is at each of its states, where that is known."""
    evaluations = make_sampler(run.config).evaluations
    steps = frame_steps(evaluations)
    if len(steps) != count:
        return [f"state {place + 1} of {count}" for place in range(count)]
    return [f"after {number(step)} of {number(evaluations)} evaluations" for step in steps]
