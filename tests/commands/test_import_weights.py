"""Weights that leave a run for diffusers and come back: the same weights, a workdir that draws and is trained further."""

import json
import shutil
import subprocess
import sys
import types

import chex
import jax
import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load, save_file

from jax_ddpm.commands import evaluate, export_weights, sample, train
from jax_ddpm.config import read_config, write_config
from jax_ddpm.errors import InvalidInput
from jax_ddpm.experiment import init_params
from jax_ddpm.trained import fill_in_classes, open_classifier, open_run
from jax_ddpm.training.sharding import make_mesh
from jax_ddpm.training.weights import FILE_NAME, write_weights
from tests.commands.conftest import ROOT, imported, last_state, make_tiny_classifier_config, make_tiny_config

NAMES = tuple(f"the {number}th" for number in range(10))


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
    assert not [pattern for pattern in patterns if "fp16" in pattern]  # which are only got where there are no others


def test_weights_in_parts_and_in_half_precision_alone_open_too(folder, tmp_path, monkeypatch):
    def kernel(workdir):
        return open_run(read_config(workdir), workdir, make_mesh()).params["conv_in"]["kernel"]

    whole = folder / "unet/diffusion_pytorch_model.safetensors"
    tensors = load(whole.read_bytes())
    imported(folder, tmp_path / "whole")
    shutil.copytree(folder, tmp_path / "parts")
    (tmp_path / "parts/unet" / whole.name).unlink()
    names = sorted(tensors)
    parts = {f"diffusion_pytorch_model-0000{number + 1}-of-00002.safetensors": names[number::2] for number in range(2)}
    for part, held in parts.items():
        save_file({name: tensors[name] for name in held}, tmp_path / "parts/unet" / part)
    index = tmp_path / "parts/unet/diffusion_pytorch_model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {name: part for part, held in parts.items() for name in held}}))
    imported(tmp_path / "parts", tmp_path / "from_parts")
    np.testing.assert_array_equal(kernel(tmp_path / "from_parts"), kernel(tmp_path / "whole"))
    for wrong in ({"weight_map": {"conv_in.weight": "../elsewhere.safetensors"}}, {}):
        index.write_text(json.dumps(wrong))
        with pytest.raises(InvalidInput, match=r"index\.json: expected a weight_map"):
            imported(tmp_path / "parts", tmp_path / "run")
    index.unlink()
    half = {name: tensor.astype(np.float16) for name, tensor in tensors.items()}
    save_file(half, tmp_path / "parts/unet/diffusion_pytorch_model.fp16.safetensors")
    hub = types.SimpleNamespace(
        snapshot_download=lambda name, allow_patterns: asked.append(allow_patterns) or tmp_path / "parts"
    )
    asked = []
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    imported("somebody/half", tmp_path / "from_half")
    np.testing.assert_array_equal(
        kernel(tmp_path / "from_half"), half["conv_in.weight"].astype(np.float32).transpose(2, 3, 1, 0)
    )
    assert ["unet/diffusion_pytorch_model.fp16.safetensors" in patterns for patterns in asked] == [False, True]


def test_noise_that_no_file_says_is_told(folder, tmp_path, capsys):
    imported(folder / "unet", tmp_path / "run", **{"diffusion.steps": 8, "model.label_dropout": 0.1})
    said = capsys.readouterr().out
    assert "there is no scheduler_config.json to say it: diffusion.schedule='linear', diffusion.prediction='eps', diff" in said
    assert "10 classes without names, called by their numbers" in said
    imported(folder, tmp_path / "with", **{"data.class_names": NAMES, "model.label_dropout": 0.1})
    assert "what is not in the weights" not in capsys.readouterr().out


def test_as_a_person_types_it_and_draws_from_it(folder, tmp_path):
    def typed(*flags):
        command = [sys.executable, "run.py", f"--workdir={tmp_path}/run", *flags]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    said = typed("--mode=import_weights", f"--from={folder}", "--config.diffusion.variance=fixed_small", "--config.seed=3")
    assert f"it opens with: python run.py --mode sample --workdir {tmp_path}/run" in said
    config = read_config(tmp_path / "run")
    assert (config.diffusion.variance, config.seed, config.diffusion.steps) == ("fixed_small", 3, 8)
    typed("--mode=sample", "--config.sample.count=2", "--config.sampler.name=ddim", "--config.sampler.steps=2")
    (drawn,) = (tmp_path / "run").glob("samples/*/samples.npz")
    with np.load(drawn) as kept:
        assert kept["arr_0"].shape == (2, 8, 8, 1)


def test_a_folder_of_as_many_classes_is_what_it_is_evaluated_on(folder, tmp_path, capsys):
    for label, name in enumerate(NAMES):
        (tmp_path / "images" / name).mkdir(parents=True)
        Image.fromarray(np.full((8, 8), 20 * label, np.uint8)).save(tmp_path / "images" / name / "0.png")
    given = {"data.name": "folder", "data.directory": str(tmp_path / "images"), "model.label_dropout": 0.1}
    imported(folder, tmp_path / "run", **given)
    config = read_config(tmp_path / "run")
    config.eval.update(metrics=("bits_per_dim",), split="all", batch_size=8)
    evaluate.main(config, tmp_path / "run")
    assert "the 10 classes of this network have no names: taken to be those of folder" in capsys.readouterr().out
    (path,) = (tmp_path / "run/evaluation").glob("*/evaluation.json")
    assert np.isfinite(json.loads(path.read_text())["bits_per_dim"]["mean"])


def of_chance(config, workdir, **data):
    """A workdir of weights alone, as an import leaves them."""
    config.data.update(**data)
    write_weights(workdir / FILE_NAME, jax.jit(lambda key: init_params(config, key))(jax.random.key(0)), step=0)
    write_config(config, workdir)
    return workdir


@pytest.fixture(scope="module")
def without_classes(tmp_path_factory):
    config = make_tiny_config()
    config.model.update(class_conditional=False, label_dropout=0.0)
    return of_chance(config, tmp_path_factory.mktemp("runs") / "without", class_names=())


@pytest.fixture(scope="module")
def guide(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("runs") / "guide"
    return of_chance(make_tiny_classifier_config(), workdir, class_names=tuple("0123456789"), classes_named=False)


def test_a_network_without_classes_takes_those_of_its_guide(without_classes, guide):
    config = read_config(without_classes)
    config.guidance.update(classifier=str(guide), scale=2.0)
    config.sample.update(count=3, batch_size=3)
    drawn = sample.draw(config, without_classes)
    np.testing.assert_array_equal(drawn.labels, [0, 1, 2])
    assert (config.data.class_names, config.data.classes_named) == (tuple("0123456789"), False)
    own = fill_in_classes(config, without_classes)  # and may be opened again
    assert (own.data.class_names, own.data.classes_named) == ((), True)
    assert read_config(without_classes).data.class_names == ()


def test_classes_that_an_import_has_numbered_are_those_of_a_run_that_has_as_many(guide):
    config = make_tiny_config()
    for names in (NAMES, tuple("0123456789")):
        config.data.class_names, config.guidance.classifier = names, str(guide)
        assert open_classifier(config, "guidance.classifier", make_mesh(), same_noise=True).network.num_classes == 10
    config.data.class_names = NAMES[:9]
    with pytest.raises(InvalidInput, match=r"was trained with data\.class_names=\('0', '1'.*expected \('the 0th'"):
        open_classifier(config, "guidance.classifier", make_mesh(), same_noise=True)


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
