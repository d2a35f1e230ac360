"""The networks that a config names, and how they are called."""

import jax
import numpy as np
import pytest

from configs import digits, digits_classifier, digits_super_resolution
from jax_ddpm import experiment
from jax_ddpm.config import default_config
from jax_ddpm.data.augment import Augmentation
from jax_ddpm.data.sources.columns import Columns
from jax_ddpm.diffusion.low_resolution import LowResolution
from jax_ddpm.edit_inputs import _source
from jax_ddpm.errors import InvalidInput
from jax_ddpm.held_out import held_out
from jax_ddpm.models.classifier import NoisyClassifier
from jax_ddpm.opened_images import open_images


def settings_of(module, **model):
    config = module.get_config()
    config.data.class_names = tuple("0123456789")
    config.model.update(**model)
    return config


def test_a_classifier_knows_the_classes_of_its_data():
    network = experiment.make_network(settings_of(digits_classifier))
    assert isinstance(network, NoisyClassifier)
    assert (network.num_classes, network.channels, network.block_resampling) == (10, 32, True)
    with pytest.raises(InvalidInput, match=r"model\.network=noisy_classifier, but data\.class_names is empty"):
        experiment.make_network(digits_classifier.get_config())


@pytest.mark.parametrize(("dropout", "rows"), [(0.0, 10), (0.1, 11)])
def test_a_network_whose_labels_are_dropped_knows_one_label_more(dropout, rows):
    config = settings_of(digits, label_dropout=dropout)
    shapes = jax.eval_shape(lambda key: experiment.init_params(config, key), jax.random.key(0))
    assert shapes["label"]["embedding"].shape == (rows, 128)


def test_settings_reach_the_source_whichever_split_or_set_is_asked_for(monkeypatch):
    monkeypatch.setattr(experiment, "load_source", lambda *given: given)
    config, columns = default_config(), Columns("image2", "label_category")
    config.data.update(name="smallnorb", directory="place", image_column="image2", label_column="label_category")
    assert experiment.make_source(config) == ("smallnorb", "train", "place", columns)
    assert experiment.make_source(config, split="") == ("smallnorb", "", "place", columns)
    assert open_images("dsprites", config) == ("dsprites", "train", "place", columns)
    config.eval.split = "test"
    assert _source(config) == ("smallnorb", "test", "place", columns)
    config.model.class_conditional = False
    assert held_out(config) == ("smallnorb", "test", "place", columns)


def test_settings_reach_the_network():
    config = settings_of(digits, head_channels=16, block_resampling=True, low_res_size=4)
    network = experiment.make_network(config)
    assert (network.head_channels, network.block_resampling, network.low_resolution) == (16, True, True)
    inputs = experiment.example_inputs(config)
    assert {name: each.shape for name, each in inputs.items()} == {
        **{"x": (1, 8, 8, 1), "t": (1,), "labels": (1,)},
        **{"low_res": (1, 8, 8, 1), "low_res_t": (1,)},
    }


def test_settings_that_other_families_of_networks_have_reach_the_network():
    told = {"downsample": "pool", "upsample": "transposed", "skip": "add", "middle_attention": False, "norm_eps": 1e-5}
    told |= {
        "time_cosine_first": True,
        "time_frequency_shift": 0,
        "time_channels": 64,
        "time_scale": 0.25,
        "low_res_time": False,
    }
    network = experiment.make_network(settings_of(digits, **told))
    assert {name: getattr(network, name) for name in told} == told


def test_a_network_is_told_of_non_leaking_augmentation_alone():
    config = settings_of(digits)
    config.data.update(flip=True, crop=0.9, rotate=3.0)
    assert experiment.make_network(config).augmentation == 0
    assert experiment.make_augmentation(config) == Augmentation(True, 0.9, 3.0, 0.0)
    config.data.augment = 0.12
    assert experiment.make_network(config).augmentation == 9
    assert experiment.make_augmentation(config).non_leaking == 0.12


class Told:
    """A "network" that gives back what it is told of the augmentation."""

    def apply(self, variables, xt, t, labels, *, train, rngs, augmentation):
        return xt + augmentation.sum(axis=1, keepdims=True)


def test_the_denoiser_is_told_how_each_image_was_augmented():
    denoiser = experiment.make_denoiser(Told(), {}, None, augmentation=np.arange(6.0).reshape(3, 2))
    np.testing.assert_array_equal(denoiser(np.zeros((3, 1)), np.zeros(3)), [[1], [5], [9]])


class Adding:
    """A "network" that adds up what it is told."""

    def apply(self, variables, xt, t, labels, *, train, rngs, low_res, low_res_t):
        return xt + low_res + (100 * low_res_t + 1000 * labels + variables["params"])[:, None]


def test_small_images_go_round_again_where_the_batch_is_there_twice():
    xt, small = np.arange(3.0)[:, None], LowResolution(np.array([[10.0], [20.0], [30.0]]), np.array([1, 2, 3]))
    denoiser = experiment.make_denoiser(Adding(), 0.5, np.array([1, 2, 3, 0, 0, 0]), low_resolution=small)
    found = denoiser(np.concatenate([xt, xt]), np.zeros(6))[:, 0]
    np.testing.assert_allclose(found, [1110.5, 2221.5, 3332.5, 110.5, 221.5, 332.5], rtol=1e-6)


def test_a_network_that_enlarges_is_evaluated_on_the_image_made_small():
    config = settings_of(digits_super_resolution)
    x0 = np.full((2, 8, 8, 1), 0.25, np.float32)
    small = experiment.small_images(config, x0)
    np.testing.assert_allclose(small.image, x0, rtol=1e-6)
    np.testing.assert_array_equal(small.t, [0, 0])
    assert experiment.small_images(settings_of(digits), x0) is None


def test_a_classifier_draws_nothing():
    config = settings_of(digits_classifier)
    for draw in (
        lambda: experiment.make_sampler(config),
        lambda: experiment.make_denoiser(experiment.make_network(config), {}, None),
    ):
        with pytest.raises(InvalidInput, match=r"which draws no images\. Expected one of model\.network=unet"):
            draw()
