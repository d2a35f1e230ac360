"""Weights that leave a run for diffusers and come back: the same weights, a workdir that draws and is trained further."""

import json
import sys
import types

import chex
import numpy as np
import pytest
from safetensors.numpy import load

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


def test_the_lines_that_open_it_are_of_its_kind(trained, folder):
    """That they run is shown where diffusers is, in parity/."""
    config, use = read_config(trained), export_weights.FORMATS["diffusers"].use
    code = use(config, folder.name)
    assert code in (folder / "README.md").read_text()
    assert "labels = torch.arange(10)  # one for each image, of 0..9\nx = torch.randn(len(labels), 1, 8, 8)\n" in code
    assert "scheduler.set_timesteps(8)" in code
    config.data.class_names = tuple(map(str, range(1000)))
    assert "torch.arange(16)  # one for each image, of 0..999\n" in use(config, "there")
    config.model.class_conditional, config.guidance.classifier = False, "a guide, whose classes are not the network's"
    for steps, said in ((8, "num_inference_steps=8"), (1000, ""), (4000, "num_inference_steps=4000")):
        config.diffusion.steps = steps
        assert use(config, "it's there").endswith(f"""DDPMPipeline.from_pretrained("it's there")({said}).images""")


def test_as_float16_each_number_is_the_nearest_and_comes_back(trained, folder, tmp_path):
    halved = exported(trained, tmp_path / "half", dtype="float16")
    whole, half = ((each / "unet/diffusion_pytorch_model.safetensors").read_bytes() for each in (folder, halved))
    whole, half = load(whole), load(half)
    assert {tensor.dtype for tensor in half.values()} == {np.dtype(np.float16)}
    for name, tensor in whole.items():
        np.testing.assert_array_equal(half[name], tensor.astype(np.float16))
    imported(halved, tmp_path / "back")
    kernel = open_run(read_config(tmp_path / "back"), tmp_path / "back", make_mesh()).params["conv_in"]["kernel"]
    np.testing.assert_array_equal(kernel, half["conv_in.weight"].astype(np.float32).transpose(2, 3, 1, 0))


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
    kept = tmp_path / "only/checkpoints/3/config/metadata"  # a folder with checkpoints alone is a run too
    kept.parent.mkdir(parents=True)
    kept.write_text("{}")
    with pytest.raises(InvalidInput, match="holds a run: name another folder"):
        imported(folder, tmp_path / "only")
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
