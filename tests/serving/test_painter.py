"""Chains that are looked at while they run come to what --mode sample and --mode edit make."""

import base64
import json
import logging
import shlex
from pathlib import Path

import jax
import numpy as np
import pytest

from jax_ddpm.commands import edit, sample
from jax_ddpm.config import read_config
from jax_ddpm.errors import InvalidInput
from jax_ddpm.pictures import save_png
from jax_ddpm.serving.asked import NO_CLASS, Asked, settled
from jax_ddpm.serving.painter import STATES, Filling, Painter
from jax_ddpm.serving.telling import command, told
from tests.commands.test_command_line import run
from tests.test_generation import leave_run, tiny

GUIDED = Asked("ddim", 5, 3, seed=7, label=-1, scale=2.0)


@pytest.fixture(scope="module")
def painter(conditional):
    return Painter(read_config(conditional), conditional)


def painted(painter, asked, filling=None):
    return list(painter.paint(painter.order(asked, filling)))


def test_it_draws_what_the_command_that_it_names_draws(painter, conditional, monkeypatch):
    painter.config.runtime.cpu_devices = 4  # as here
    *_, end = painted(painter, GUIDED)
    typed = command(settled(painter.config, GUIDED), conditional)
    monkeypatch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")  # as here
    status, out, error = run(*shlex.split(typed)[2:])
    assert status == 0, error
    folder = conditional / "samples/step_0000000_ddim_steps_5_scale_2.0_seed_7"
    assert str(folder) in out
    np.testing.assert_array_equal(end.xt, np.load(folder / "samples.npz")["arr_0"])
    assert json.loads((folder / "samples.json").read_text())["checkpoint"] == painter.step
    assert end.xt.std() > 20


@pytest.mark.parametrize(
    ("fixture", "guide", "asked"),
    [
        ("conditional", None, Asked("dpm_solver_pp", 6, 5, seed=1, label=3)),
        ("conditional", None, Asked("euler", 3, 1, seed=2, scale=0.5)),
        ("conditional", "classifier", Asked("heun", 3, 4, seed=3, label=9, scale=1.0)),
        ("unconditional", None, Asked("ancestral", 8, 2, seed=2**31 - 1)),
        ("unconditional", "classifier", Asked("ancestral", 8, 3, seed=4, scale=3.0)),
    ],
)
def test_it_draws_what_mode_sample_draws(fixture, guide, asked, request):
    workdir = request.getfixturevalue(fixture)
    config = read_config(workdir)
    config.guidance.classifier = str(request.getfixturevalue(guide)) if guide else ""
    seen = painted(Painter(config, workdir), asked)
    expected = sample.draw(settled(config, asked), workdir).images
    np.testing.assert_array_equal(seen[-1].xt, expected)
    assert [each.done for each in seen] == list(range(seen[-1].total + 1))  # of so few every one is shown
    assert all(each.xt.shape == each.x0.shape == (asked.images, 8, 8, 1) for each in seen)
    assert np.any(seen[0].xt != seen[-1].xt)
    assert not np.any(seen[0].x0 != 128)  # nothing has been estimated yet


def test_of_a_longer_chain_some_states_are_shown(conditional):
    config = read_config(conditional)
    config.edit.jump = 2
    filling = Filling(np.full((8, 8, 1), 30, np.uint8), np.eye(8, dtype=np.uint8)[..., None] * 255)
    seen = painted(Painter(config, conditional), Asked("ddim", 8, 1, 0, 3, resamples=20), filling)
    assert seen[-1].total == 8 + 3 * 19 * 2  # from three places it goes back by two steps, nineteen times each
    assert len(seen) == STATES


def test_it_fills_in_what_mode_edit_fills_in(painter, conditional, tmp_path):
    random = np.random.default_rng(0)
    filling = Filling(
        random.integers(0, 256, (8, 8, 1), np.uint8),
        np.where(np.arange(8) > 4, 255, np.zeros((8, 8)))[..., None].astype(np.uint8),
    )
    asked = Asked("ddim", 6, 1, seed=5, label=2, scale=2.0, resamples=2)
    *_, end = painted(painter, asked, filling)
    config = settled(read_config(conditional), asked)
    config.edit.images = str(save_png(tmp_path / "image.png", filling.image))
    config.edit.mask = str(save_png(tmp_path / "mask.png", filling.mask))
    np.testing.assert_array_equal(end.xt, edit.edit(config, conditional).results)
    kept = filling.mask == 0
    np.testing.assert_array_equal(end.xt[0][kept], filling.image[kept])
    assert np.abs(end.xt[0][~kept].astype(float) - filling.image[~kept]).mean() > 10


@pytest.mark.parametrize("scale", [1.0, 2.0])  # without guidance of no class, with it of every class in turn
def test_it_fills_in_what_the_command_that_it_names_fills_in(painter, conditional, tmp_path, monkeypatch, scale):
    """Of several images the first, from the picture and the mask as they are given to be kept."""
    image = np.random.default_rng(1).integers(0, 256, (8, 8, 1), np.uint8)
    painter.config.runtime.cpu_devices = 4  # as here
    order = painter.order(
        Asked("ddim", 6, 3, seed=9, scale=scale), Filling(image, np.diag([255] * 8).astype(np.uint8)[..., None])
    )
    *_, end = painter.paint(order)
    said = told(order, conditional, painter.weights, painter.step, end.total)
    for name, source in said.files:
        (tmp_path / name).write_bytes(base64.b64decode(source.removeprefix("data:image/png;base64,")))
    monkeypatch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")  # as here
    typed = [str(tmp_path / word) if word in dict(said.files) else word for word in shlex.split(said.command)]
    status, out, error = run(*typed[2:])
    assert status == 0, error
    results = np.load(Path(out.split("picture: ")[1].strip()).parent / "samples.npz")["arr_0"]
    np.testing.assert_array_equal(results, end.xt[:1])


def test_another_seed_class_or_scale_compiles_nothing(painter, caplog):
    def compiled(asked):
        caplog.clear()
        with jax.log_compiles(), caplog.at_level(logging.WARNING):
            images = painted(painter, asked)[-1].xt
        names = ("jit(begin)", "jit(part)")
        return images, [name for name in names for each in caplog.messages if f"Compiling {name}" in each]

    asked = Asked("euler", 4, 2, seed=0, label=1, scale=1.5)
    first, programs = compiled(asked)
    assert programs == ["jit(begin)", "jit(part)"]
    for change in ({"seed": 1}, {"label": 2}, {"scale": 4.0}):
        images, programs = compiled(asked._replace(**change))
        assert programs == []
        assert np.any(images != first)
    again, _ = compiled(asked)
    np.testing.assert_array_equal(again, first)
    assert compiled(asked._replace(steps=3))[1] == ["jit(begin)", "jit(part)"]


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (GUIDED._replace(steps=9), "steps 9: expected a whole number from 1 to 8"),
        (GUIDED._replace(images=17), "images 17: expected a whole number from 1 to 16"),
        (GUIDED._replace(label=NO_CLASS, scale=1.0), "no class: it is for inpainting without guidance"),
    ],
)
def test_what_cannot_be_drawn_is_refused(painter, asked, message):
    with pytest.raises(InvalidInput, match=message):
        painted(painter, asked)


def test_a_sampler_that_cannot_go_back_is_refused_by_what_can_be_done(painter):
    filling = Filling(np.zeros((8, 8, 1), np.uint8), np.eye(8, dtype=np.uint8)[..., None])
    with pytest.raises(InvalidInput, match=r"expected ancestral, ddim or euler\. 1 goes with every sampler"):
        painted(painter, Asked("unipc", 6, 1, 0, 3, resamples=2), filling)


def test_no_class_is_filled_in_as_the_network_knows_it(painter):
    filling = Filling(np.zeros((8, 8, 1), np.uint8), np.tile(np.uint8([[[255]], [[0]]]), (4, 8, 1)))
    results = [painted(painter, Asked("ddim", 6, 1, 0, label), filling)[-1].xt for label in (NO_CLASS, 3)]
    assert np.any(results[0] != results[1])


def test_the_class_is_none_where_inpainting_is_asked_for_none_as_mode_edit_has_it(painter, conditional, tmp_path):
    filling = Filling(np.full((8, 8, 1), 90, np.uint8), np.tile(np.uint8([[[255]], [[0]]]), (4, 8, 1)))
    asked = Asked("ddim", 6, 1, seed=5)
    *_, end = painted(painter, asked, filling)
    config = settled(read_config(conditional), asked)
    config.edit.images = str(save_png(tmp_path / "image.png", filling.image))
    config.edit.mask = str(save_png(tmp_path / "mask.png", filling.mask))
    np.testing.assert_array_equal(end.xt, edit.edit(config, conditional).results)


@pytest.mark.parametrize(
    ("group", "name", "value"), [("sample", "seed", 2**31), ("edit", "resamples", 21), ("guidance", "scale", 21.0)]
)
def test_settings_that_the_page_would_not_take_are_refused_when_it_begins(group, name, value, conditional):
    config = read_config(conditional)
    config[group][name] = value
    with pytest.raises(InvalidInput, match=f"{name} {value:g}" if name == "scale" else f"{name} {value}"):
        Painter(config, conditional)


def test_a_run_that_draws_nothing_is_refused(classifier, tmp_path):
    with pytest.raises(InvalidInput, match="this run is of a classifier"):
        Painter(read_config(classifier), classifier)
    enlarging = leave_run(tmp_path, tiny(model={"low_res_size": 4}))
    with pytest.raises(InvalidInput, match="this network enlarges small images"):
        Painter(read_config(enlarging), enlarging)


@pytest.mark.parametrize(("decay", "weights"), [(0.9, "averaged"), (0.0, "as the last step left them")])
def test_it_knows_which_weights_it_draws_with(decay, weights, tmp_path):
    workdir = leave_run(tmp_path, tiny(train={"ema_decay": decay}))
    assert Painter(read_config(workdir), workdir).weights == weights


def test_when_it_is_closed_a_chain_goes_no_further(conditional):
    painter = Painter(read_config(conditional), conditional)
    chain = painter.paint(painter.order(Asked("ddim", 4, 1, 0)))
    assert next(chain).done == 0
    assert painter.close(0)
    assert painter.close(0) is False  # as when a part were still at work
    painter._working.release()
    assert list(chain) == []
