"""Weights that leave a run for diffusers and come back: the same weights, a workdir that draws and is trained further."""

import json
import sys
import types

import chex
import pytest

from jax_ddpm.commands import export_weights, sample, train
from jax_ddpm.config import read_config
from jax_ddpm.errors import InvalidInput
from jax_ddpm.trained import open_run
from jax_ddpm.training.sharding import make_mesh
from tests.commands.conftest import imported, last_state


def exported(trained, out, **settings):
    config = read_config(trained)
    config.export_weights.update(out=str(out), to="diffusers", **settings)
    export_weights.main(config, trained)
    return out


@pytest.fixture(scope="module")
def folder(trained, tmp_path_factory):
    return exported(trained, tmp_path_factory.mktemp("diffusers") / "tiny")


@pytest.fixture(scope="module")
def back(folder, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("runs") / "back"
    imported(folder, workdir, **{"model.label_dropout": 0.1})
    return workdir


def test_the_folder_is_laid_out_as_a_pipeline_is(folder):
    files = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    assert files == [
        *("README.md", "model_index.json", "scheduler/scheduler_config.json", "unet/config.json"),
        "unet/diffusion_pytorch_model.safetensors",
    ]
    assert json.loads((folder / "model_index.json").read_text())["_class_name"] == "DDPMPipeline"


def test_what_comes_back_is_what_left(trained, back):
    before, after = read_config(trained), read_config(back)
    params = open_run(after, back, make_mesh()).params
    chex.assert_trees_all_equal(params, open_run(before, trained, make_mesh()).params)
    for name in ("channels", "multipliers", "blocks", "attention_resolutions", "groups", "class_conditional"):
        assert after.model[name] == before.model[name]
    for name in ("schedule", "steps", "prediction", "variance"):
        assert after.diffusion[name] == before.diffusion[name]
    assert (after.data.image_size, after.data.channels) == (8, 1)
    assert after.data.class_names == before.data.class_names


def test_the_raw_weights_are_those_of_the_last_step(trained, tmp_path):
    imported(exported(trained, tmp_path / "raw", average=False), tmp_path / "run")
    params = open_run(read_config(tmp_path / "run"), tmp_path / "run", make_mesh()).params
    state = last_state(trained)[0]
    chex.assert_trees_all_equal(params, state.params)
    with pytest.raises(AssertionError):
        chex.assert_trees_all_equal(params, state.ema_params)


def test_it_draws_and_training_begins_with_it(back, tmp_path):
    config = read_config(back)
    config.sample.update(count=3, batch_size=3)
    assert sample.draw(config, back).images.shape == (3, 8, 8, 1)
    config.data.update(name="digits", flip=False)
    config.train.update(start=str(back), steps=1, batch_size=8, sample_every=0, sample_count=3, warmup_steps=0)
    train.main(config, tmp_path / "further")
    assert int(last_state(tmp_path / "further")[0].step) == 1


def test_flags_go_before_what_the_source_says(folder, tmp_path):
    config = imported(folder, tmp_path / "run", **{"diffusion.variance": "fixed_small", "data.name": "folder"})
    assert (config.diffusion.variance, config.data.name, config.diffusion.steps) == ("fixed_small", "folder", 8)


def test_a_name_on_the_hub_is_asked_of_its_library(folder, tmp_path, monkeypatch):
    asked = []

    def snapshot_download(name, allow_patterns):
        asked.append((name, allow_patterns))
        return str(folder)

    monkeypatch.setitem(sys.modules, "huggingface_hub", types.SimpleNamespace(snapshot_download=snapshot_download))
    imported("somebody/tiny", tmp_path / "run")
    ((name, patterns),) = asked
    assert name == "somebody/tiny"
    assert {"unet/config.json", "scheduler_config.json", "diffusion_pytorch_model.bin"} <= set(patterns)


def test_what_cannot_be_imported_is_told(folder, back, tmp_path, monkeypatch):
    with pytest.raises(InvalidInput, match=r"nothing named to import.*--from"):
        imported("", tmp_path / "run")
    with pytest.raises(InvalidInput, match="holds a run: name another folder"):
        imported(folder, back)
    with pytest.raises(InvalidInput, match=r"is no folder of diffusers: expected a config\.json"):
        imported(tmp_path, tmp_path / "run")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(InvalidInput, match=r"no file or folder somebody/tiny.*pip install huggingface_hub"):
        imported("somebody/tiny", tmp_path / "run")
    (tmp_path / "config.json").write_text((folder / "unet/config.json").read_text())
    with pytest.raises(InvalidInput, match=r"has no weights: expected diffusion_pytorch_model\.safetensors or"):
        imported(tmp_path, tmp_path / "run")


def test_of_weights_alone_there_are_none_but_the_average(back, tmp_path):
    with pytest.raises(InvalidInput, match="no checkpoint"):
        exported(back, tmp_path, average=False)


def test_a_classifier_does_not_go_to_diffusers(trained_classifier, tmp_path):
    with pytest.raises(InvalidInput, match="diffusers has U-Nets alone"):
        exported(trained_classifier, tmp_path / "out")
    assert not list(tmp_path.iterdir())
