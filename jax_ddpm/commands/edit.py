"""--mode edit: change images by a trained run."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from jax_ddpm.config import to_dict
from jax_ddpm.data.transforms import to_uint8
from jax_ddpm.edit_inputs import Given, as_arrays, read_given
from jax_ddpm.editor import TASKS, Task, check_used, make_editor
from jax_ddpm.errors import InvalidInput, choose
from jax_ddpm.files import remove, write_json, write_npz
from jax_ddpm.generation import folder_name, open_guide
from jax_ddpm.pictures import save_png, table
from jax_ddpm.trained import open_run
from jax_ddpm.training.sharding import make_mesh

GREY = 128  # what is shown where something is to be drawn


class Edited(NamedTuple):
    """What was made: uint8 images [N, H, W, C] or [N, results, H, W, C], of what, and where the picture of it is."""

    results: np.ndarray
    given: Given
    picture: Path


def main(config: ConfigDict, workdir: Path) -> None:
    """Does `edit.task` to images and says where the picture of it is."""
    print(f"picture: {edit(config, workdir).picture}", flush=True)


def edit(config: ConfigDict, workdir: Path) -> Edited:
    """Does `edit.task` to images with the averaged parameters of the newest checkpoint, and writes what becomes of them.

    Into workdir/edits/TASK_step_…_seed_…/: picture.png, which shows what was given, states on the way and the results; of
    translations also steps.png, with the states on the way to the first class wanted; each result as a PNG of its true size;
    samples.npz with the results as arr_0, what was given (image and mask as uint8, label) and the noise that stands for the
    images, latent; edit.json with the settings.

    Raises:
      InvalidInput: no such task, images, labels or settings with which the network cannot do it, or settings that it does
        nothing with.
    """
    asked = config.edit.task
    make_task = choose("--task", asked, TASKS)
    check_used(config)
    mesh = make_mesh()
    params, step = open_run(config, workdir, mesh)
    if (asked == "enlarge") != (config.model.low_res_size > 0):
        raise InvalidInput("enlarge is for networks trained with model.low_res_size, and they for nothing else")
    given = read_given(config)
    guide = open_guide(config, mesh)
    task = make_task(config, guide)
    count = len(given["image"]) * task.results
    print(f"{asked}: {count} images, each by {task.evaluations} evaluations of the network, ", end="")
    print(f"from step {step} of {workdir} ...", flush=True)
    made = make_editor(config, task, guide, mesh)(params, as_arrays(given), config.edit.seed)

    results = to_uint8(made["result"])
    directory = workdir / "edits" / f"{asked}_{folder_name(config, step, config.edit.seed, 'edit')}"
    _write(directory, results, given, made)
    picture = save_png(directory / "picture.png", PICTURES[asked](config, task, given, made))
    if asked == "translate":
        print(f"steps: {save_png(directory / 'steps.png', _show_way(config, task, given, made))}")
    _note(directory / "edit.json", config, task, {"checkpoint": step, **_error(asked, results, given)})
    return Edited(results, given, picture)


def _write(directory: Path, results: np.ndarray, given: Given, made: Given) -> None:
    """Each result as a PNG, and all with what was given as an .npz, in place of what was there."""
    remove(directory)
    for number in np.ndindex(results.shape[:-3]):
        save_png(directory / ("_".join(f"{each:05d}" for each in number) + ".png"), results[number])
    arrays: Any = {"arr_0": results, **given, **{name: made[name] for name in ("latent",) if name in made}}
    write_npz(directory / "samples.npz", **arrays)


def _error(task: str, results: np.ndarray, given: Given) -> dict[str, float]:
    """How far what was encoded and decoded is from what it was."""
    if task != "encode":
        return {}
    rmse = float(np.sqrt(np.mean((results.astype(float) - given["image"]) ** 2)))
    print(f"encoded and decoded again: RMSE {rmse:.2f} of 0..255")
    return {"rmse": rmse}


def _note(path: Path, config: ConfigDict, task: Task, found: dict[str, Any]) -> None:
    """edit.json: how the results came about."""
    settings = {name: to_dict(config)[name] for name in ("edit", "sampler", "guidance")}
    data = {"name": config.data.name, "split": config.eval.split} if not config.edit.images else {}
    write_json(path, {**found, "evaluations": task.evaluations, **settings, "data": data})


def _show_states(config: ConfigDict, task: Task, given: Given, made: Given) -> np.ndarray:
    """What was given, then the states of the chain, a row an image."""
    columns, titles = list(to_uint8(made["states"]).swapaxes(0, 1)), list(task.titles)
    if "mask" in given:
        columns.insert(0, np.where(given["mask"], np.uint8(GREY), given["image"]))
        titles.insert(0, "kept")
    if "small" in given:
        scale = config.data.image_size // config.model.low_res_size
        if config.edit.low_res_noise:
            columns.insert(0, to_uint8(made["told"]))
            titles.insert(0, "noised")
        columns.insert(0, given["small"].repeat(scale, axis=1).repeat(scale, axis=2))
        titles.insert(0, "small")
    if titles[0] != "input":
        columns.insert(0, given["image"])
        titles.insert(0, "input")
    return table(np.stack(columns, axis=1), titles, _class_names(config, given["label"]))


def _show_targets(config: ConfigDict, task: Task, given: Given, made: Given) -> np.ndarray:
    """Each image, its noise, and what it becomes, a column a class."""
    before = np.stack([given["image"], to_uint8(made["latent"])], axis=1)
    titles = ["input", "noise", *(f"as {name}" for name in _class_names(config, given["targets"][0]))]
    return table(np.concatenate([before, to_uint8(made["result"])], axis=1), titles, _class_names(config, given["label"]))


def _show_way(config: ConfigDict, task: Task, given: Given, made: Given) -> np.ndarray:
    """The states of the chain from each image up to its noise and down to the first class wanted, a row an image."""
    own, wanted = (_class_names(config, labels) for labels in (given["label"], given["targets"][:, 0]))
    names = [f"{before} as {after}".strip() for before, after in zip(own, wanted, strict=True)]
    return table(to_uint8(made["states"]), task.titles, names)


def _show_pairs(config: ConfigDict, task: Task, given: Given, made: Given) -> np.ndarray:
    """From image to image: the noise on the way, what it is of, and for comparison the way through the pixels."""
    weights = np.linspace(0, 1, config.edit.frames)
    first, second = (given[name].astype(float)[:, None] for name in ("image", "image_2"))
    share = weights.reshape(1, -1, 1, 1, 1)
    faded = np.rint((1 - share) * first + share * second).astype(np.uint8)
    rows = np.stack([to_uint8(made["latent"]), to_uint8(made["result"]), faded], axis=1)
    titles = ["first", *(f"{weight:.2g}" for weight in weights[1:-1]), "second"]
    return table(rows.reshape(-1, *rows.shape[2:]), titles, ["noise", "result", "pixels"] * len(rows))


PICTURES: dict[str, Callable[[ConfigDict, Task, Given, Given], np.ndarray]] = {
    "inpaint": _show_states,
    "interpolate": _show_pairs,
    "encode": _show_states,
    "translate": _show_targets,
    "sdedit": _show_states,
    "enlarge": _show_states,
}


def _class_names(config: ConfigDict, labels: np.ndarray) -> list[str]:
    """The name of each label; "" where there is none."""
    names = tuple(config.data.class_names)
    return [names[label] if label < len(names) else "" for label in labels]
