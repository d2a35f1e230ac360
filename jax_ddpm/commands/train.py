"""--mode train: train a network, from the start or from where a run stopped."""

import signal
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import BinaryIO, cast

import grain
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from jax_ddpm import __version__, experiment
from jax_ddpm.checks import check, check_optimizer
from jax_ddpm.commands.edit import PICTURES
from jax_ddpm.config import check_unchanged, to_dict, write_config
from jax_ddpm.data.sources.image_files import read_image
from jax_ddpm.data.sources.source import DamagedImage, Source
from jax_ddpm.edit_inputs import as_arrays, read_given
from jax_ddpm.editor import make_editor, make_enlarge
from jax_ddpm.errors import InvalidInput
from jax_ddpm.files import is_first_process
from jax_ddpm.generation import frame_steps, grid_columns, make_generator, open_guide
from jax_ddpm.held_out import NOTE_SEEN, held_out, hold, seen_in_training, which_images
from jax_ddpm.pictures import filmstrip, grid, loss_curve, save_png
from jax_ddpm.reports import accuracy_table, judge_classifier, show_accuracy
from jax_ddpm.runtime import cache_directory
from jax_ddpm.step_program import abstract_state, first_state, kept_step, seconds_at_peak
from jax_ddpm.trained import open_start
from jax_ddpm.training.checkpoints import Checkpoints
from jax_ddpm.training.environment import note_start
from jax_ddpm.training.layouts import check_pmap
from jax_ddpm.training.logging import MetricsWriter, Progress, read_metrics
from jax_ddpm.training.loop import Periodic, StopRequest, run, stop_on_signals
from jax_ddpm.training.profiling import traced
from jax_ddpm.training.readings import NotFinite
from jax_ddpm.training.sharding import check_batch, gathered, make_mesh
from jax_ddpm.training.state import TrainState
from jax_ddpm.training.step import TrainStep
from jax_ddpm.training.weights import FILE_NAME as WEIGHTS_FILE

DrawSamples = Callable[[TrainState], Path]
ShowResults = Callable[[TrainState], None]
FILMSTRIP_ROWS = 10


def main(config: ConfigDict, workdir: Path) -> None:
    """Trains until `train.steps`, going on from the newest checkpoint of `workdir` where there is one.

    Raises:
      InvalidInput: the settings cannot be used, or `workdir` holds weights alone.
      DamagedImage: one of the images, where the config lets that stop the run; what was trained is saved.
    """
    source = experiment.make_source(config)
    mesh = make_mesh(config.mesh.data, config.mesh.fsdp)
    like, draw_samples, show_results = prepare(config, workdir, source, mesh)
    print(f"{len(source):,} images ({source.name}), {mesh.size} {jax.default_backend()} device(s); the run is in {workdir}")

    keep = {"keep_last": config.train.keep_last, "keep_every": config.train.keep_every}
    data = experiment.make_batches(config, source, mesh)
    with (
        stop_on_signals() as stop,
        closing(data),
        Checkpoints(workdir / "checkpoints", **keep) as checkpoints,
        checkpoints.last_told(),
    ):
        state = _first_or_restored_state(config, mesh, like, checkpoints, data)
        write_config(config, workdir)
        begin = checkpoints.latest_step or 0  # the state is not asked: a first one may still be drawn while the step is loaded
        note_start(workdir, begin, __version__)
        if begin < config.train.steps:
            compiled = _compiled_step(config, mesh, like)
            with traced(compiled, workdir / "profile", start=config.profile.start, steps=config.profile.steps) as step:
                state = _train(config, mesh, workdir, state, step, data, checkpoints, draw_samples, stop)
            checkpoints.save(state, data, to_dict(config))
    if stop.damage:
        raise DamagedImage(
            f"{stop.damage}\nThe run is saved at step {int(state.step)}. To go on from there without such images: "
            f"python run.py --workdir {workdir} --config.data.on_damaged=skip"
        ) from stop.damage
    if stop.signal_number:
        _say_how_to_go_on(config, workdir, state, stop)
        sys.exit(128 + stop.signal_number)
    show_results(state)
    _show_loss(workdir)


def prepare(
    config: ConfigDict, workdir: Path, source: Source, mesh: Mesh
) -> tuple[TrainState, DrawSamples | None, ShowResults]:
    """What a run needs beside the network and its data, made before anything is begun or written.

    Notes the classes of the data in the config.

    Returns:
      The shapes of the state, what draws samples on the way, if anything does, and what shows in the end what the run has
      come to.
    Raises:
      InvalidInput: a run with these settings would not begin, or not go on where there is one in `workdir`; or weights alone
        are there.
    """
    if (workdir / WEIGHTS_FILE).is_file() and not (workdir / "checkpoints").is_dir():
        raise InvalidInput(
            f"{workdir} holds weights and no run, and is left as it is. To train further from them, into another folder: "
            f"--config FILE --workdir ANOTHER --config.train.start={workdir}"
        )
    config.data.update(class_names=source.class_names, classes_named=True)
    check(config)
    check_optimizer(config.train)
    check_batch(config.train.batch_size, config.train.accumulate, mesh.size)
    if config.train.parallel == "pmap":
        check_pmap(mesh)
    like = abstract_state(config, mesh)
    if (workdir / "checkpoints").is_dir():
        with Checkpoints(workdir / "checkpoints", read_only=True) as checkpoints:
            has_begun = checkpoints.latest_step is not None
        if has_begun:
            check_unchanged(config, workdir)
    return like, *_make_results(config, mesh, workdir)


def _first_or_restored_state(
    config: ConfigDict, mesh: Mesh, like: TrainState, checkpoints: Checkpoints, data: grain.DatasetIterator
) -> TrainState:
    if checkpoints.latest_step is not None:
        state = checkpoints.restore(like, data)
        print(f"going on from the checkpoint of step {int(state.step)}")
        return state
    print("compiling the initialisation ...", flush=True)
    state = first_state(config, mesh, like)
    if not config.train.start:
        return state
    weights = open_start(config, mesh, like.params)
    print(f"starting from the weights of step {weights.step} of {config.train.start}")
    params = jax.device_put(weights.params, jax.tree.map(lambda leaf: leaf.sharding, like.params))
    return state.replace(params=params, ema_params=jax.tree.map(jnp.copy, params))


def _train(
    config: ConfigDict,
    mesh: Mesh,
    workdir: Path,
    state: TrainState,
    step: TrainStep,
    data: grain.DatasetIterator,
    checkpoints: Checkpoints,
    draw_samples: DrawSamples | None,
    stop: StopRequest,
) -> TrainState:
    """Trains from `state` on, logging, saving and drawing, where there is something to draw, as the config says."""
    train = config.train
    with (
        MetricsWriter(workdir, int(state.step)) as writer,
        Progress(int(state.step), train.steps, train.batch_size, seconds_at_peak(config, mesh)) as progress,
    ):

        def save(state: TrainState) -> None:
            writer.flush()  # first, for a run goes on from what a checkpoint has, and keeps the lines up to there
            checkpoints.save(state, data, to_dict(config))

        def show_samples(state: TrainState) -> None:
            if draw_samples is not None and state.step < train.steps:  # the last ones are drawn when training is over
                save(state)  # first, for drawing may take long
                path = draw_samples(state)
                progress.say(f"samples: {path}")
                if is_first_process():
                    with path.open("rb") as file:
                        writer.write_image(int(state.step), "samples", read_image(cast(BinaryIO, file), str(path)))

        try:
            return run(
                state,
                step,
                data,
                until=train.steps,
                log_every=train.log_every,
                writer=writer,
                progress=progress,
                periodic=[
                    Periodic(train.checkpoint_every, save),
                    Periodic(train.sample_every, show_samples),
                ],
                stop=stop,
                max_skipped=train.max_skipped,
            )
        except NotFinite as error:
            raise NotFinite(f"{error}\n{checkpoints.wait()}") from error


def _compiled_step(config: ConfigDict, mesh: Mesh, like: TrainState) -> TrainStep:
    """The train step for this mesh, compiled ahead, so that a person is told what the wait is for."""
    print(
        f"compiling the train step (kept in {cache_directory(config.runtime.compilation_cache)} for the next time) ...",
        flush=True,
    )
    begin = time.perf_counter()
    compiled = kept_step(config, mesh, like)
    print(f"compiled in {time.perf_counter() - begin:.1f} s", flush=True)
    return compiled


def _make_results(config: ConfigDict, mesh: Mesh, workdir: Path) -> tuple[DrawSamples | None, ShowResults]:
    """See `prepare`."""
    if experiment.is_classifier(config):
        return None, _make_judge(config, mesh, workdir)
    draw_samples = (_make_enlarge if config.model.low_res_size else _make_draw_samples)(config, mesh, workdir)

    def show(state: TrainState) -> None:
        print("drawing samples ...", flush=True)
        samples = draw_samples(state)
        print(f"samples: {samples}", flush=True)
        if chain_path(samples).is_file():
            print(f"the chain from noise to image: {chain_path(samples)}", flush=True)

    return draw_samples, show


def _make_judge(config: ConfigDict, mesh: Mesh, workdir: Path) -> ShowResults:
    """Prints how often a classifier is right of the images of `eval.split`, by quarter of the chain, and draws it by tenth."""
    source = held_out(config)

    def judge(state: TrainState) -> None:
        held = hold(config, mesh, gathered(state.ema_params, mesh), source)
        images = which_images(held)
        print(f"judging images of {images} ...", flush=True)
        if seen_in_training(config, workdir, source):
            print(NOTE_SEEN)
        found = judge_classifier(held)
        picture = show_accuracy(workdir / "accuracy.png", found, images)
        table = "\n".join(accuracy_table(found.quarters))
        print(f"accuracy on images of {images}: {found}\n{table}\naccuracy by noise: {picture}", flush=True)

    return judge


def _make_draw_samples(config: ConfigDict, mesh: Mesh, workdir: Path) -> DrawSamples:
    """A function that writes a grid of samples and a filmstrip of the chain, and says where the grid is."""
    generate = make_generator(config, mesh, frame_steps(experiment.make_sampler(config).evaluations))
    labels = experiment.chosen_labels(config, config.train.sample_count)

    def draw(state: TrainState) -> Path:
        path = workdir / "samples" / f"step_{int(state.step):07d}.png"
        images, states = zip(*generate(gathered(state.ema_params, mesh), labels, config.sample.seed), strict=True)
        chains = np.concatenate(states, axis=1)[:, :FILMSTRIP_ROWS]
        size = config.data.image_size
        save_png(chain_path(path), filmstrip(chains), image_size=size)
        return save_png(path, grid(np.concatenate(images), grid_columns(config, len(labels))), image_size=size)

    return draw


def _make_enlarge(config: ConfigDict, mesh: Mesh, workdir: Path) -> DrawSamples:
    """A function that enlarges small versions of images held out, writes a picture of it, and says where it is."""
    config = config.copy_and_resolve_references()
    config.edit.update(task="enlarge", images="", count=config.train.sample_count)
    given, guide = read_given(config), open_guide(config, mesh)
    task = make_enlarge(config, guide)
    enlarge = make_editor(config, task, guide, mesh)

    def draw(state: TrainState) -> Path:
        made = enlarge(gathered(state.ema_params, mesh), as_arrays(given), config.sample.seed)
        return save_png(workdir / "samples" / f"step_{int(state.step):07d}.png", PICTURES["enlarge"](config, task, given, made))

    return draw


def chain_path(path: Path) -> Path:
    """Where the filmstrip of a grid lies."""
    return path.with_name(f"{path.stem}_chain.png")


def _say_how_to_go_on(config: ConfigDict, workdir: Path, state: TrainState, stop: StopRequest) -> None:
    print(
        f"stopped by {signal.Signals(stop.signal_number).name} at step {int(state.step)} of {config.train.steps}; "
        f"everything is saved.\nTo go on, run the same command again, or: python run.py --workdir {workdir}",
        flush=True,
    )


def _show_loss(workdir: Path) -> None:
    if not is_first_process():
        return  # what is shown may not be written yet
    rows = [row for row in read_metrics(workdir) if "loss" in row]  # which it is not where every step was skipped
    curve = loss_curve(workdir / "loss.png", [row["step"] for row in rows], [row["loss"] for row in rows])
    print(f"loss curve: {curve}", flush=True)
