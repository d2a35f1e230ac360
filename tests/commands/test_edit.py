"""Changing images from a workdir and nothing else."""

import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from jax_ddpm import ddim_decode, ddim_encode, linear_schedule
from jax_ddpm.commands import edit, train
from jax_ddpm.config import read_config, to_dict, write_config
from jax_ddpm.data.sources.digits import digits
from jax_ddpm.data.transforms import to_uint8
from jax_ddpm.diffusion.low_resolution import low_resolution
from jax_ddpm.editor import TASKS, USES, _told, both_ways, check_used, deterministic, make_editor
from jax_ddpm.errors import InvalidInput
from jax_ddpm.experiment import make_batches, make_denoiser, make_network, make_source
from jax_ddpm.step_program import abstract_state
from jax_ddpm.trained import open_run
from jax_ddpm.training.checkpoints import Checkpoints
from jax_ddpm.training.sharding import make_mesh
from tests.commands.conftest import make_tiny_config
from tests.commands.test_command_line import run as run_py

COUNT = 3  # fewer than devices
# Of a chain of 8 steps; in inpainting four more times three stretches of two, in sdedit an eighth of it.
EVALUATIONS = {"inpaint": 8 + 4 * 3 * 2, "interpolate": 16, "encode": 16, "translate": 16, "sdedit": 1}
COLUMNS = {"inpaint": 2 + 5, "interpolate": 5, "encode": 5, "translate": 2 + 2, "sdedit": 1 + 2}
RESULTS = {"interpolate": (2, 5), "translate": (3, 2)}
SETTINGS = {"inpaint": {"jump": 2}, "translate": {"targets": (4, 7)}, "sdedit": {"strength": 0.125}}
LABELS = {"interpolate": (4,), "encode": (4,)}  # so that the network is told the same in both


def do(workdir, task, **settings):
    config = read_config(workdir)
    config.edit.update(task=task, count=COUNT, frames=5, labels=LABELS.get(task, ()))
    config.edit.update({**SETTINGS.get(task, {}), **settings})
    return edit.edit(config, workdir)


@pytest.fixture(scope="module")
def edited(trained):
    """What each task makes of the first held-out digits."""
    return {task: do(trained, task) for task in EVALUATIONS}


@pytest.fixture(scope="module")
def untrained(tmp_path_factory):
    """The workdir of a run that enlarges and knows "no class", with random weights in its last layer too."""
    workdir, config = tmp_path_factory.mktemp("untrained"), make_tiny_config()
    config.data.class_names = digits("train").class_names
    config.model.update(low_res_size=4, low_res_noise=0.5, label_dropout=0.1)
    write_config(config, workdir)
    with Checkpoints(workdir / "checkpoints") as checkpoints:
        data = make_batches(config, make_source(config))
        mesh = make_mesh()
        state = train._first_or_restored_state(config, mesh, abstract_state(config, mesh), checkpoints, data)
        checkpoints.save(state.replace(ema_params=stirred(state.ema_params)), data, to_dict(config))
    return workdir


def stirred(params, scale=0.1):
    """The parameters with a last layer that says something: at the start it is as good as 0."""
    kernel = params["conv_out"]["kernel"]
    return {**params, "conv_out": {**params["conv_out"], "kernel": scale * jax.random.normal(jax.random.key(0), kernel.shape)}}


@pytest.mark.parametrize("task", EVALUATIONS)
def test_results_what_was_given_and_the_settings_are_written(edited, trained, task):
    results, given, picture = edited[task]
    directory = picture.parent
    assert directory.parent == trained / "edits"
    assert directory.name.startswith(f"{task}_step_0000006_")
    assert (results.shape, results.dtype) == ((*RESULTS.get(task, (COUNT,)), 8, 8, 1), np.uint8)
    archive = np.load(directory / "samples.npz")
    np.testing.assert_array_equal(archive["arr_0"], results)
    np.testing.assert_array_equal(archive["image"], [digits("test")[number]["image"] for number in range(len(results))])
    labels = [digits("test")[number]["label"] for number in range(len(results))]
    np.testing.assert_array_equal(archive["label"], np.resize(LABELS[task], len(results)) if task in LABELS else labels)
    assert ("latent" in archive) == (task in ("encode", "interpolate", "translate"))
    for number in np.ndindex(results.shape[:-3]):
        with Image.open(directory / ("_".join(f"{each:05d}" for each in number) + ".png")) as image:
            np.testing.assert_array_equal(np.asarray(image), results[number][..., 0])
    noted = json.loads((directory / "edit.json").read_text())
    assert noted["evaluations"] == EVALUATIONS[task]
    assert (noted["checkpoint"], noted["edit"]["task"], noted["data"]) == (6, task, {"name": "digits", "split": "test"})
    assert given.keys() >= {"image", "label"}


@pytest.mark.parametrize("task", EVALUATIONS)
def test_the_picture_shows_what_was_given_on_the_left_and_the_results_on_the_right(edited, task):
    results, given, path = edited[task]
    shown = first_pixels(path, 6 if task == "interpolate" else COUNT, COLUMNS[task])
    last = results if task not in RESULTS else results[:, -1]
    if task == "interpolate":  # rows of noise, of results, of pixels
        latent = np.load(path.with_name("samples.npz"))["latent"]
        np.testing.assert_array_equal(shown[::3], to_uint8(latent)[:, :, 0, :2, 0])
        np.testing.assert_array_equal(shown[1::3], results[:, :, 0, :2, 0])
        np.testing.assert_array_equal(shown[2::3, 0], given["image"][:, 0, :2, 0])
        np.testing.assert_array_equal(shown[2::3, -1], given["image_2"][:, 0, :2, 0])
    else:
        np.testing.assert_array_equal(shown[:, 0], given["image"][:, 0, :2, 0])
        np.testing.assert_array_equal(shown[:, -1], last[:, 0, :2, 0])


def first_pixels(path, rows, columns):
    """[row, column, 2] the first two pixels of each image in a table of images of 8 by 8, shown as 64 by 64."""
    with Image.open(path) as file:
        picture = np.asarray(file)
    left, top = picture.shape[1] - columns * 66 - 2, picture.shape[0] - rows * 66 - 2
    cells = picture[top + 2 + 4 :, left + 2 + 4 :][::66, ::66], picture[top + 2 + 4 :, left + 2 + 12 :][::66, ::66]
    return np.stack([*cells], axis=-1)[:rows, :columns]


def test_translation_shows_the_way_up_to_the_noise_and_down_to_the_first_class_wanted(edited):
    results, given, path = edited["translate"]
    latent = np.load(path.with_name("samples.npz"))["latent"]
    shown = first_pixels(path.with_name("steps.png"), COUNT, 5)  # input, up 4, noise, down 4, result
    expected = given["image"], to_uint8(latent), results[:, 0]
    np.testing.assert_array_equal(shown[:, [0, 2, 4]], np.stack(expected, axis=1)[:, :, 0, :2, 0])
    assert not edited["encode"].picture.with_name("steps.png").exists()


def test_inpainting_keeps_every_known_pixel_and_draws_the_others(edited):
    results, given, _ = edited["inpaint"]
    np.testing.assert_array_equal(results[:, :, :4], given["image"][:, :, :4])
    assert (results[:, :, 4:] != given["image"][:, :, 4:]).mean() > 0.5


def test_the_same_seed_gives_the_same_images_and_another_gives_others_elsewhere(edited, trained):
    first, again, other = edited["inpaint"], do(trained, "inpaint"), do(trained, "inpaint", seed=1)
    np.testing.assert_array_equal(again.results, first.results)
    assert again.picture == first.picture != other.picture
    assert (other.results != first.results).any()


def by_hand(workdir, image, source, target):
    """What DDIM in 8 steps makes of an image, from class to class."""
    config = read_config(workdir)
    params, _ = open_run(config, workdir, make_mesh())
    network, options = make_network(config), {"steps": 8, "prediction": "eps"}
    denoisers = (make_denoiser(network, params, jnp.array([label])) for label in (source, target))
    latent = ddim_encode(linear_schedule(8), next(denoisers), jnp.asarray(image[None] / 127.5 - 1, jnp.float32), **options)
    return np.asarray(ddim_decode(linear_schedule(8), next(denoisers), latent, **options))[0]


def test_each_image_is_translated_from_its_own_class_to_each_of_those_wanted(edited, trained):
    results, given, _ = edited["translate"]
    expected = by_hand(trained, given["image"][1], given["label"][1], 7).clip(-1, 1) * 127.5 + 127.5
    # uint8, so within half of one; and float32 over other shapes may round to the other side.
    np.testing.assert_allclose(results[1, 1], expected, atol=0.51)


def test_interpolation_begins_and_ends_with_what_encoding_alone_makes_of_the_images(edited):
    between, ends = edited["interpolate"].results.astype(int), edited["encode"].results.astype(int)
    # One more or less where float32 rounds to the other side.
    np.testing.assert_allclose(between[:, 0], ends[:-1], atol=1)
    np.testing.assert_allclose(between[:, -1], ends[1:], atol=1)


def test_what_is_encoded_and_decoded_comes_back_the_better_the_more_steps_there_are(trained):
    config, mesh = read_config(trained), make_mesh()
    params = stirred(open_run(config, trained, mesh)[0], scale=0.001)
    config.diffusion.steps = 1000
    images = np.stack([digits("test")[number]["image"] for number in range(4)]) / np.float32(127.5) - np.float32(1)

    def error(steps):
        config.sampler.steps = steps
        made = make_editor(config, TASKS["encode"](config, None), None, mesh)(
            params, {"image": images, "label": np.arange(4)}, 0
        )
        return np.sqrt(np.mean((made["result"] - images) ** 2))

    coarse, fine = error(100), error(500)
    assert coarse > 0.01
    assert fine < coarse / 3  # a fifth, where steps are small


def test_where_little_of_the_chain_is_run_little_is_changed(edited):
    results, given, _ = edited["sdedit"]
    original = given["image"].astype(float)
    changed = np.abs(results - original).mean()
    assert 0 < changed < np.abs(original[1:] - original[:-1]).mean() / 2


def test_enlarging_heeds_the_small_image_under_guidance_too(untrained, tmp_path):
    small = np.random.default_rng(0).integers(0, 256, (2, 4, 4), np.uint8)
    for number, image in enumerate(small):
        Image.fromarray(image).save(tmp_path / f"{number}.png")

    def enlarged(**settings):
        config = read_config(untrained)
        config.edit.update(task="enlarge", images=str(tmp_path), **settings)
        config.guidance.scale = 3.0
        return edit.edit(config, untrained)

    first = enlarged()
    np.testing.assert_array_equal(first.given["small"][..., 0], small)
    np.testing.assert_array_equal(first.given["label"], [10, 10])
    assert first.results.shape == (2, 8, 8, 1)
    assert (enlarged(low_res_noise=0.25).results != first.results).any()
    with pytest.raises(InvalidInput, match=r"edit\.low_res_noise=0\.75: expected at most 0\.5, the model\.low_res_noise"):
        enlarged(low_res_noise=0.75)
    Image.fromarray(255 - small[1]).save(tmp_path / "1.png")
    second = enlarged()
    np.testing.assert_array_equal(first.results[0], second.results[0])
    assert (first.results[1] != second.results[1]).any()


def test_a_noised_small_image_is_told_to_be_so_and_noised_by_so_many_steps(untrained):
    config = read_config(untrained)
    config.edit.low_res_noise = 0.25  # two steps of eight
    small = jnp.full((4, 4, 4, 1), 0.5)
    told = _told(config, small, jax.random.key(0))
    np.testing.assert_array_equal(told.t, [2] * 4)
    eps = jax.random.normal(jax.random.key(0), small.shape)
    expected = low_resolution(linear_schedule(8), small, 8, jnp.full(4, 2), eps).image
    # The same noise in the same way; float32 of a config's schedule and of the function's.
    np.testing.assert_allclose(told.image, expected, rtol=0, atol=1e-6)
    assert np.std(told.image[0]) > 0.05


@pytest.mark.parametrize("steps", [0, 5])
def test_encoding_takes_the_steps_that_a_list_of_them_says(trained, steps):
    config = read_config(trained)
    config.sampler.update(spacing="2,3", steps=steps)
    assert [sampler.evaluations for sampler in both_ways(deterministic(config))] == [5, 5]


@pytest.mark.parametrize(("spacing", "expected"), [("", 100), ("trailing", 100), ("10,15,20", 45)])
def test_without_a_number_of_steps_encoding_takes_a_hundred(trained, spacing, expected):
    config = read_config(trained)
    config.diffusion.steps = 1000
    config.sampler.spacing = spacing
    assert [sampler.evaluations for sampler in both_ways(deterministic(config))] == [expected] * 2


USED = {
    "mask": ("/nowhere/at.all", "inpaint"),
    "region": ("left", "inpaint"),
    "resamples": (2, "inpaint"),
    "jump": (3, "inpaint"),
    "spherical": (False, "interpolate"),
    "targets": ((1,), "translate"),
    "strength": (0.3, "sdedit"),
    "low_res_noise": (0.1, "enlarge"),
}


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("name", USED)
def test_a_setting_is_taken_by_its_task_and_refused_by_every_other(name, task):
    config = make_tiny_config()
    value, owner = USED[name]
    config.edit.update(task=task, **{name: value})
    if task == owner:
        check_used(config)
        return
    said = "--mask /nowhere/at.all" if name == "mask" else f"edit.{name}={value}"
    with pytest.raises(InvalidInput, match=re.escape(f"{said} is for --task {owner}: {task} does nothing with it")):
        check_used(config)


def test_every_setting_of_editing_is_of_one_task_or_of_all():
    of_all = {"task", "images", "count", "labels", "frames", "seed"}
    assert {*USED} | of_all == {*make_tiny_config().edit}
    assert {name for names in USES.values() for name in names} == {*USED}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"edit.task": ""}, r"unknown --task '': expected one of inpaint, interpolate, encode, translate, sdedit, enlarge"),
        ({"edit.task": "inpiant"}, r"unknown --task 'inpiant'.*Did you mean 'inpaint'\?"),
        ({"edit.task": "enlarge"}, r"enlarge is for networks trained with model\.low_res_size"),
        ({"edit.task": "sdedit", "edit.strength": 0.0}, r"strength=0\.0: expected more than 0"),
        ({"edit.task": "encode", "sampler.name": "heun"}, r"sampler\.name=heun: what is encoded goes up the chain"),
        ({"edit.task": "translate", "sampler.name": "ddim", "sampler.eta": 0.5}, r"sampler\.eta=0\.5: what is encoded"),
        ({"edit.task": "inpaint", "sampler.name": "unipc"}, r"edit\.resamples=5: .*expected ancestral, ddim or euler\. 1 goes"),
        ({"edit.task": "encode", "edit.count": 0}, r"edit\.count=0: expected more than 0"),
        ({"edit.task": "interpolate", "edit.frames": 1}, r"edit\.frames=1: expected 2 or more, the first and the last"),
        ({"edit.task": "sdedit", "edit.mask": "/nowhere/at.all"}, r"--mask /nowhere/at\.all is for --task inpaint: sdedit"),
        ({"edit.task": "inpaint", "edit.mask": "m.png", "edit.region": "top"}, r"edit\.region=top beside --mask m\.png"),
        ({"edit.task": "encode", "sampler.spacing": "2,3", "sampler.steps": 6}, r"steps=6, but the spacing has 5"),
    ],
)
def test_what_cannot_be_done_is_told(trained, settings, message):
    config = read_config(trained)
    config.update_from_flattened_dict(settings)
    with pytest.raises(InvalidInput, match=message):
        edit.edit(config, trained)


def test_the_users_image_and_mask_from_the_command_line(trained, tmp_path):
    image, mask = np.full((16, 16), 255, np.uint8), np.zeros((16, 16), np.uint8)
    mask[:4] = 255
    for name, content in {"image": image, "mask": mask}.items():
        Image.fromarray(content).save(tmp_path / f"{name}.png")
    files = [f"--images={tmp_path}/image.png", "--mask", f"{tmp_path}/mask.png"]
    settings = ["--config.edit.labels=(3,)", "--config.edit.resamples=1"]
    status, out, error = run_py("--mode", "edit", "--workdir", str(trained), "--task", "inpaint", *files, *settings)
    assert status == 0, error
    picture = out.split("picture: ")[1].strip()
    with Image.open(picture.replace("picture", "00000")) as result:
        assert (np.asarray(result)[2:] == 255).all()
        assert (np.asarray(result)[:2] != 255).any()


def test_a_task_without_the_mode_is_refused(trained):
    status, _, error = run_py("--workdir", str(trained), "--task=inpaint")
    assert status == 1
    assert error.strip() == "error: --task needs --mode edit"
