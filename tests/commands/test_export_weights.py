"""Weights that leave their run: what they draw, what is evaluated and trained from them."""

import json
import re
import shlex
import shutil

import chex
import numpy as np
import pytest

from jax_ddpm.artifact import DESCRIPTION, PROGRAM
from jax_ddpm.commands import evaluate, export_weights, sample, train
from jax_ddpm.config import default_config, read_config
from jax_ddpm.errors import InvalidInput
from jax_ddpm.trained import kind_of_weights, open_run
from jax_ddpm.training.sharding import make_mesh
from tests.commands.conftest import last_state, make_tiny_config


def export(trained, out, **settings):
    config = read_config(trained)
    config.export_weights.update(out=str(out), **settings)
    export_weights.main(config, trained)
    return out


@pytest.fixture(scope="module")
def exported(trained, tmp_path_factory):
    return export(trained, tmp_path_factory.mktemp("zoo") / "tiny")


def test_folder_holds_settings_weights_and_a_page(exported):
    assert sorted(path.name for path in exported.iterdir()) == ["README.md", "config.json", "weights.safetensors"]
    assert f"python run.py --mode sample --workdir {exported.name}\n" in (exported / "README.md").read_text()


def test_the_page_has_what_was_found_of_the_weights(trained, tmp_path):
    found = {"metric": "bits_per_dim", "mean": 2.5, "images": 4, "data": "digits", "split": "test"}
    for step in (6, 4):
        path = trained / f"evaluation/made_up_{step}/evaluation.json"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps({"bits_per_dim": found | {"checkpoint": step}}))
    page = (export(trained, tmp_path) / "README.md").read_text()
    shutil.rmtree(trained / "evaluation")
    assert "| Variational bound, bits/dim | 2.5 | 4 images of digits, test |  | made_up_6 |" in page
    assert "made_up_4" not in page


def test_the_whole_sampler_is_a_program(trained, tmp_path, capsys):
    config = read_config(trained)
    config.export_weights.update(out=str(tmp_path), to="stablehlo", average=False, dtype="float16")
    config.sampler.update(name="ddim", steps=2)
    export_weights.main(config, trained)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["README.md", PROGRAM, DESCRIPTION]
    code = re.search("they open with:\\n(.*)", capsys.readouterr().out, re.DOTALL)[1]
    made = {}
    exec(code, made)
    assert (made["images"].shape, made["images"].dtype) == ((16, 8, 8, 1), np.uint8)
    run = export(trained, tmp_path / "run", average=False, dtype="float16")
    config.sample.update(count=16, batch_size=16, seed=0, labels=(0,))
    # Another program, with float32 rounded elsewhere: one grey level where the value lies between two.
    np.testing.assert_allclose(made["images"].astype(int), sample.draw(config, run).images.astype(int), atol=1)
    assert re.search(r"constant dense.*xf16>", made["sampler"].mlir_module()), "kept in half the room"
    assert json.loads((tmp_path / DESCRIPTION).read_text())["weights"] == "last"
    assert "| Weights | as they were after the last step |" in (tmp_path / "README.md").read_text()


def test_folders_of_the_machine_stay_out_of_the_settings():
    config = default_config()
    of_here = {str: "/a/place", tuple: ("/a/place",), int: 12345}  # int: a port
    for group, name in export_weights.PLACES:
        config[group][name] = of_here[type(config[group][name])]
    named = {f"{group}.{name}" for group, name in export_weights.PLACES}
    assert {f"eval.{name}" for name in ("samples", "reference", "inception", "save_reference", "classifier")} < named
    assert {
        "compare.workdirs",
        "compare.out",
        "serve.port",
        "import_weights.from",
        "import_weights.given",
        "data.directory",
    } < named
    published = export_weights.without_places(config).to_json()
    assert not re.search("/a/place|12345", published)
    assert config.data.directory == "/a/place"


@pytest.mark.parametrize(("source", "kept"), [("google/ddpm", "google/ddpm"), ("/a/place/model.pt", "model.pt"), ("", "")])
def test_where_weights_were_imported_from_keeps_its_name(source, kept):
    config = default_config()
    config.import_weights["from"] = source
    assert export_weights.without_places(config).import_weights["from"] == kept


def test_a_classifier_opens_with_a_command_that_works(trained_classifier, tmp_path, capsys):
    out = export(trained_classifier, tmp_path / "out")
    words = shlex.split(capsys.readouterr().out.splitlines()[-1])
    assert words == shlex.split(f"python run.py --mode evaluate --config.eval.metrics=accuracy --workdir {out}")
    assert "--mode evaluate --config.eval.metrics=accuracy --workdir out\n" in (out / "README.md").read_text()
    config = read_config(out)
    config.eval.update(metrics=("accuracy",), count=4)
    evaluate.main(config, out)


def test_a_network_that_enlarges_opens_with_the_task_of_that_name(tmp_path, capsys):
    config = make_tiny_config(steps=1, sample_every=0)
    config.model.low_res_size = 4
    train.main(config, tmp_path / "run")
    out = export(tmp_path / "run", tmp_path / "out")
    assert f"python run.py --mode edit --task enlarge --workdir {out}\n" in capsys.readouterr().out
    assert "--mode edit --task enlarge --workdir out\n" in (out / "README.md").read_text()


def test_average_of_the_newest_checkpoint_is_what_opens(trained, exported):
    config = read_config(exported)
    params, step = open_run(config, exported, make_mesh())
    expected, expected_step = open_run(config, trained, make_mesh())
    assert step == expected_step == 6
    chex.assert_trees_all_equal(params, expected)
    chex.assert_trees_all_equal(params, last_state(trained)[0].ema_params)


def test_the_same_images_are_drawn_from_the_folder_as_from_the_run(trained, exported):
    images = [sample.draw(read_config(workdir), workdir).images for workdir in (trained, exported)]
    np.testing.assert_array_equal(*images)


def test_the_folder_is_evaluated_like_a_run(exported):
    config = read_config(exported)
    config.eval.update(count=4, draws=3)
    evaluate.main(config, exported)
    found = json.loads((exported / "evaluation/step_0000006_test_seed_0_first_4_draws_3/evaluation.json").read_text())
    assert found["bits_per_dim"]["draws"] == 3
    assert found["bits_per_dim"]["seen_in_training"] is False


@pytest.mark.parametrize(("average", "kind"), [(True, "ema"), (False, "last")])
def test_figures_of_weights_alone_say_whether_they_are_the_average(trained, tmp_path, average, kind):
    config = read_config(trained)
    config.export_weights.update(out=str(tmp_path), average=average)
    export_weights.main(config, trained)
    assert (kind_of_weights(tmp_path), kind_of_weights(trained)) == (kind, "ema")
    samples = sample.draw(read_config(tmp_path), tmp_path)
    assert json.loads((samples.grid.parent / "samples.json").read_text())["weights"] == kind


def start_from(exported, workdir, **settings):
    config = read_config(exported)
    config.train.update(start=str(exported), **settings)
    train.main(config, workdir)
    return config


def test_training_starts_from_the_weights_and_goes_on_from_its_own_checkpoints(exported, tmp_path, capsys):
    weights = open_run(read_config(exported), exported, make_mesh()).params
    start_from(exported, tmp_path / "run", steps=1, learning_rate=1e-30)  # too little to move a float32
    assert f"starting from the weights of step 6 of {exported}" in capsys.readouterr().out
    chex.assert_trees_all_equal(last_state(tmp_path / "run")[0].params, weights)
    config = start_from(exported, tmp_path / "run", steps=2)
    assert "going on from the checkpoint of step 1" in capsys.readouterr().out
    assert open_run(config, tmp_path / "run", make_mesh()).step == 2
    again = export(tmp_path / "run", tmp_path / "again")
    assert read_config(again).train.start == ""


def test_weights_alone_are_not_trained_in_their_own_folder(exported):
    before = sorted(exported.iterdir())
    with pytest.raises(InvalidInput, match=r"holds weights and no run.*--config\.train\.start=.*tiny"):
        train.main(read_config(exported), exported)
    assert sorted(exported.iterdir()) == before


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model.channels": 16}, r"is of another network"),
        ({"diffusion.prediction": "v", "diffusion.loss": "v"}, r"was trained with diffusion\.prediction='eps', not 'v'"),
        ({"train.start": "nowhere"}, r"no run at .*nowhere"),
    ],
)
def test_weights_of_another_network_or_meaning_are_no_start(exported, tmp_path, settings, message):
    config = read_config(exported)
    config.train.start = str(exported)
    config.update_from_flattened_dict(settings)
    with pytest.raises(InvalidInput, match=message):
        train.main(config, tmp_path / "run")


def test_what_cannot_be_exported_is_told(trained, tmp_path):
    with pytest.raises(InvalidInput, match=r"no folder named.*--out FOLDER"):
        export(trained, "")
    with pytest.raises(InvalidInput, match=r"holds a run"):
        export(trained, trained)
    with pytest.raises(InvalidInput, match=r"unknown export_weights\.dtype 'bfloat'.*bfloat16"):
        export(trained, tmp_path, dtype="bfloat")
