"""The trained networks that come with the project: each opens by its folder's name, and draws."""

import shutil
from pathlib import Path

import jax
import numpy as np
import pytest

from jax_ddpm import experiment
from jax_ddpm.commands import sample
from jax_ddpm.config import changes, read_config
from jax_ddpm.trained import open_classifier, open_run
from jax_ddpm.training.sharding import make_mesh
from jax_ddpm.training.weights import FILE_NAME

ZOO = Path(__file__).parents[1] / "zoo"
NAMES = sorted(path.parent.name for path in ZOO.glob("*/config.json"))
DRAWING = [name for name in NAMES if not experiment.is_classifier(read_config(ZOO / name))]


def test_there_are_networks():
    assert set(NAMES) >= {"emoji", "fashion_mnist", "fashion_mnist_conditional", "fashion_mnist_judge"}


@pytest.mark.parametrize("name", NAMES)
def test_the_weights_are_small_finite_and_those_of_the_config(name):
    config = read_config(ZOO / name)
    params, step = open_run(config, ZOO / name, make_mesh())
    assert (ZOO / name / FILE_NAME).stat().st_size <= 8_000_000
    assert step == config.train.steps
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(params))


@pytest.mark.parametrize("name", NAMES)
def test_the_config_is_that_of_the_file_it_was_trained_with(name):
    module = __import__(f"configs.{name}", fromlist=["get_config"])
    found = changes(module.get_config(), read_config(ZOO / name))
    assert found.keys() <= {"data.class_names", "export_weights.dtype"}  # found out by training, chosen for the zoo


def copied(name, to):
    """The settings of a copy: what is found is written beside the weights."""
    for file in ("config.json", FILE_NAME):
        shutil.copy(ZOO / name / file, to)
    return read_config(to)


@pytest.mark.parametrize("name", DRAWING)
def test_images_are_drawn_from_it(name, tmp_path):
    config = copied(name, tmp_path)
    config.sample.update(count=2, batch_size=2)
    config.sampler.update(name="ddim", steps=8)
    drawn = sample.draw(config, tmp_path)
    assert drawn.images.shape == (2, *experiment.image_shape(config))
    images = drawn.images.astype(float)
    assert np.abs(np.diff(images, axis=1)).mean() < 40  # of white noise it would be some 85 grey levels
    assert images.std(axis=(1, 2)).max() > 40  # there is something in them


def test_the_judge_takes_clothes_for_what_was_asked_for(tmp_path):
    config = copied("fashion_mnist_conditional", tmp_path)
    config.sample.update(count=20, batch_size=20)
    config.sampler.update(name="ddim", steps=10)
    config.guidance.scale = 2.0
    config.eval.classifier = str(ZOO / "fashion_mnist_judge")
    drawn = sample.draw(config, tmp_path)
    judge = open_classifier(config, "eval.classifier", make_mesh(), same_noise=False)
    logits = jax.jit(judge.network.apply)(
        {"params": judge.params}, drawn.images / np.float32(127.5) - 1, np.zeros(20, np.float32)
    )
    assert np.mean(logits.argmax(axis=-1) == drawn.labels) > 0.8
