"""Weights that leave their run: what they draw, what is evaluated and trained from them."""

import json
import shutil

import chex
import numpy as np
import pytest

from jax_ddpm.commands import evaluate, export_weights, sample, train
from jax_ddpm.config import read_config
from jax_ddpm.errors import InvalidInput
from jax_ddpm.trained import open_run
from jax_ddpm.training.sharding import make_mesh
from tests.commands.conftest import last_state


def export(trained, out, **settings):
    config = read_config(trained)
    config.export_weights.update(out=str(out), **settings)
    export_weights.main(config, trained)
    return out


@pytest.fixture(scope="module")
def exported(trained, tmp_path_factory):
    return export(trained, tmp_path_factory.mktemp("zoo") / "tiny")


def test_folder_holds_settings_and_weights_and_no_word_of_where_it_was_written(exported):
    assert sorted(path.name for path in exported.iterdir()) == ["config.json", "weights.safetensors"]
    assert str(exported) not in (exported / "config.json").read_text()


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


def test_training_starts_from_the_weights_and_goes_on_from_its_own_checkpoints(exported, tmp_path, capsys):
    workdir = shutil.copytree(exported, tmp_path / "run")
    weights = open_run(read_config(workdir), workdir, make_mesh()).params
    config = read_config(workdir)
    config.train.update(steps=1, learning_rate=1e-30)  # too little to move a float32
    train.main(config, workdir)
    assert "weights.safetensors, of step 6 of another run" in capsys.readouterr().out
    chex.assert_trees_all_equal(last_state(workdir)[0].params, weights)
    config.train.update(steps=2, learning_rate=1e-3)
    train.main(config, workdir)
    assert "going on from the checkpoint of step 1" in capsys.readouterr().out
    assert open_run(config, workdir, make_mesh()).step == 2


def test_weights_of_other_settings_are_not_trained_further(exported, tmp_path):
    workdir = shutil.copytree(exported, tmp_path / "run")
    config = read_config(workdir)
    config.model.channels = 16
    with pytest.raises(InvalidInput, match=r"model\.channels: the run has 8, now given 16"):
        train.main(config, workdir)


def test_what_cannot_be_exported_is_told(trained, tmp_path):
    with pytest.raises(InvalidInput, match=r"no folder named.*--out FOLDER"):
        export(trained, "")
    with pytest.raises(InvalidInput, match=r"holds a run"):
        export(trained, trained)
    with pytest.raises(InvalidInput, match=r"unknown export_weights\.dtype 'bfloat'.*bfloat16"):
        export(trained, tmp_path, dtype="bfloat")
