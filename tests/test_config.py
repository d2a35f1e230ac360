"""Settings are kept and read again as they were, and a wrong one is told."""

import json
import math
from functools import partial

import jax
import numpy as np
import pytest

from configs import (
    cifar,
    cifar_improved,
    digits,
    digits_classifier,
    digits_super_resolution,
    fashion_mnist,
    fashion_mnist_classifier,
    fashion_mnist_conditional,
    fashion_mnist_super_resolution,
    folder,
    imagenet64_classifier,
    imagenet64_improved,
)
from jax_ddpm import experiment, linear_schedule, objective
from jax_ddpm.checks import check, check_optimizer
from jax_ddpm.config import changes, default_config, get_config, merge, read_config, to_dict, write_config
from jax_ddpm.errors import InvalidInput

MODULES = [cifar, cifar_improved, digits, fashion_mnist, fashion_mnist_conditional, folder, imagenet64_improved]


@pytest.mark.parametrize("module", MODULES)
def test_a_config_read_again_is_the_config_written(module, tmp_path):
    config = module.get_config()
    write_config(config, tmp_path)
    assert changes(config, read_config(tmp_path)) == {}
    assert get_config(str(tmp_path)).to_dict() == config.to_dict()
    assert isinstance(read_config(tmp_path).model.multipliers, tuple)


@pytest.mark.parametrize("module", MODULES)
def test_every_config_opens_with_its_command(module):
    assert f"python run.py --config configs/{module.__name__.split('.')[-1]}.py" in module.__doc__


def test_cifar_has_the_settings_of_the_paper():
    config = cifar.get_config()
    assert (config.train.batch_size, config.train.steps, config.train.learning_rate) == (128, 800_000, 2e-4)
    assert (config.train.ema_decay, config.train.warmup_steps, config.train.clip_norm) == (0.9999, 5000, 1.0)
    assert (config.diffusion.schedule, config.diffusion.steps) == ("linear", 1000)
    assert (config.diffusion.beta_start, config.diffusion.beta_end) == (1e-4, 0.02)
    assert (config.diffusion.variance, config.diffusion.loss) == ("fixed_large", "eps")
    assert (config.model.dropout, config.data.flip) == (0.1, True)


@pytest.mark.parametrize(
    ("module", "size", "multipliers", "dropout", "steps"),
    [
        (cifar_improved, 32, (1, 2, 2, 2), 0.3, 500_000),
        (imagenet64_improved, 64, (1, 2, 3, 4), 0.0, 1_500_000),
    ],
)
def test_improved_configs_have_the_published_settings(module, size, multipliers, dropout, steps):
    config = module.get_config()
    assert (config.data.image_size, config.data.flip) == (size, False)
    assert (config.model.multipliers, config.model.blocks, config.model.channels) == (multipliers, 3, 128)
    assert (config.model.attention_resolutions, config.model.heads, config.model.scale_shift) == ((16, 8), 4, True)
    assert (config.model.dropout, config.model.class_conditional) == (dropout, False)
    assert (config.diffusion.schedule, config.diffusion.steps, config.diffusion.prediction) == ("cosine", 4000, "eps")
    assert (config.diffusion.variance, config.diffusion.loss) == ("learned_range", "hybrid")
    assert config.diffusion.timesteps == "uniform"
    assert (config.train.batch_size, config.train.steps, config.train.learning_rate) == (128, steps, 1e-4)
    assert (config.train.ema_decay, config.train.warmup_steps, config.train.clip_norm) == (0.9999, 0, 0.0)
    assert (config.train.adam_b1, config.train.adam_b2, config.train.adam_eps) == (0.9, 0.999, 1e-8)


@pytest.mark.parametrize(
    ("module", "count"),
    [(cifar, 35_746_307), (cifar_improved, 52_546_438), (imagenet64_improved, 121_063_942)],
)
def test_networks_of_papers_are_as_large_as_published(module, count):
    config = module.get_config()
    check(config)
    params = jax.eval_shape(partial(experiment.init_params, config), jax.random.key(0))
    assert sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params)) == count


def test_the_imagenet_classifier_is_that_of_the_paper():
    config = imagenet64_classifier.get_config()
    config.data.class_names = tuple(map(str, range(1000)))
    check(config)
    params = jax.eval_shape(partial(experiment.init_params, config), jax.random.key(0))
    assert sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params)) == 65_438_568
    train = config.train
    assert (train.batch_size, train.steps, train.learning_rate, train.weight_decay) == (1024, 300_000, 6e-4, 0.2)
    assert (train.decay, train.warmup_steps, train.clip_norm, train.ema_decay) == ("linear", 0, 0.0, 0.0)
    assert (config.diffusion.schedule, config.diffusion.steps, config.diffusion.timesteps) == ("cosine", 1000, "uniform")


@pytest.mark.parametrize(("of_classifier", "of_unet"), [(digits_classifier, digits), (fashion_mnist_classifier, fashion_mnist)])
def test_a_classifier_fits_the_network_that_it_guides(of_classifier, of_unet):
    classifier, unet = of_classifier.get_config(), of_unet.get_config()
    assert classifier.train.ema_decay == 0
    assert classifier.data.to_dict() == unet.data.to_dict()
    of_the_loss = {"diffusion.loss", "diffusion.variance"}
    assert {name for name in changes(classifier, unet) if name.startswith("diffusion.")} <= of_the_loss


def test_the_conditional_network_is_the_plain_one_told_the_class():
    different = changes(fashion_mnist.get_config(), fashion_mnist_conditional.get_config())
    assert different.keys() == {"model.class_conditional", "model.label_dropout", "train.sample_count"}


@pytest.mark.parametrize(
    ("larger", "plain", "side"), [(digits_super_resolution, digits, 4), (fashion_mnist_super_resolution, fashion_mnist, 8)]
)
def test_super_resolution_is_the_plain_network_told_a_small_image(larger, plain, side):
    different = changes(plain.get_config(), larger.get_config())
    check(larger.get_config())
    assert different["model.low_res_size"] == (0, side)
    ours = {"low_res_size", "low_res_noise", "class_conditional", "label_dropout"}
    assert {name for name in different if not name.startswith(("train.sample", "sample."))} <= {
        f"model.{name}" for name in ours
    }


@pytest.mark.parametrize("module", [digits, digits_classifier, digits_super_resolution])
def test_digits_are_never_mirrored(module):
    assert module.get_config().data.flip is False


@pytest.mark.parametrize(
    ("module", "values", "message"),
    [
        (digits, {"model.network": "nett"}, "unknown model.network 'nett': expected one of unet, noisy_classifier"),
        (digits, {"model.label_dropout": 1.0}, r"model\.label_dropout=1\.0: expected at least 0 and less than 1"),
        (digits, {"model.low_res_noise": -0.1}, r"model\.low_res_noise=-0\.1: expected at least 0"),
        (digits, {"model.low_res_size": 3}, r"model\.low_res_size=3 with data\.image_size=8: expected one of 1, 2, 4, "),
        (digits, {"model.low_res_size": 8}, r"model\.low_res_size=8 with data\.image_size=8: expected one of 1, 2, 4, "),
        (digits, {"model.head_channels": -1}, r"model\.head_channels=-1: expected 0 or more"),
        (digits, {"train.weight_decay": -0.1}, r"train\.weight_decay=-0\.1: expected 0 or more"),
        (digits, {"train.decay": "cosine"}, "unknown train.decay 'cosine': expected one of constant, linear"),
        (digits, {"data.crop": 0.09}, r"data\.crop=0\.09: expected a share of the side, from 0\.1 to 1"),
        (digits, {"data.crop": 1.1}, r"data\.crop=1\.1: expected a share of the side, from 0\.1 to 1"),
        (digits, {"data.rotate": -1.0}, r"data\.rotate=-1\.0: expected 0 or more"),
        (digits, {"data.rotate": 181.0}, r"data\.rotate=181\.0: expected degrees, from 0 to 180"),
        (digits, {"data.augment": 1.5}, r"data\.augment=1\.5: expected a probability, at most 1"),
        (digits, {"data.cache_mib": -1}, r"data\.cache_mib=-1: expected 0 or more"),
        (digits, {"data.prefetch": -1}, r"data\.prefetch=-1: expected 0 or more"),
        (digits, {"data.on_damaged": "go on"}, r"unknown data\.on_damaged 'go on': expected one of stop, skip"),
        (digits_classifier, {"data.augment": 0.1}, r"data\.augment=0\.1: a classifier is not told"),
        (
            digits,
            {"model.block_resampling": True, "model.upsample": "bilinear"},
            r"model\.upsample=bilinear with .*no such layer",
        ),
        (digits, {"model.norm_eps": 0.0}, r"model\.norm_eps=0\.0: expected more than 0"),
        (digits, {"model.skip": "beside"}, r"unknown skip 'beside': expected one of concatenate, add"),
        (digits_classifier, {"model.low_res_size": 4}, r"model\.low_res_size=4: a classifier enlarges nothing"),
        (digits_classifier, {"eval.metrics": ("bits_per_dim",)}, "a classifier says nothing of how likely images are"),
    ],
)
def test_settings_of_networks_and_training_that_cannot_be_used_are_told(module, values, message):
    config = module.get_config()
    config.data.class_names = tuple("0123456789")
    check(config)
    config.update_from_flattened_dict(values)
    with pytest.raises(InvalidInput, match=message):
        check(config)


def test_a_later_version_reads_a_config_that_lacks_a_setting(tmp_path):
    values = to_dict(default_config())
    del values["sampler"]["clip"]
    (tmp_path / "config.json").write_text(json.dumps(values))
    assert read_config(tmp_path).sampler.clip == "static"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"train": {"stepz": 1}}, r"unknown setting 'train.stepz'. Did you mean 'steps'\?"),
        ({"train": {"steps": "many"}}, r"setting 'train.steps' is 'many': expected int, such as 800000"),
        ({"train": 3}, r"setting 'train' is 3: expected a group of settings"),
    ],
)
def test_values_that_do_not_fit_are_told(values, message, tmp_path):
    with pytest.raises(InvalidInput, match=message):
        merge(default_config(), values)
    (tmp_path / "config.json").write_text(json.dumps(values))
    with pytest.raises(InvalidInput, match=f"config.json: {message}"):
        read_config(tmp_path)


def test_a_damaged_file_is_named(tmp_path):
    (tmp_path / "config.json").write_text('{"seed": ')
    with pytest.raises(InvalidInput, match=r"config\.json: "):
        read_config(tmp_path)


def test_changes_are_named():
    old, new = default_config(), default_config()
    new.model.channels = 64
    new.train.steps = 5
    assert changes(old, new) == {"model.channels": (128, 64), "train.steps": (800_000, 5)}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"zero_terminal_snr": True, "prediction": "v"}, r"diffusion\.loss=eps is blind where"),
        (
            {"zero_terminal_snr": True, "prediction": "v", "loss": "hybrid", "variance": "learned_range"},
            r"diffusion\.loss=hybrid is blind where",
        ),
        ({"zero_terminal_snr": True, "prediction": "eps", "loss": "v"}, r"prediction 'eps' cannot say x_0 where"),
        ({"weighting": "snr", "loss": "kl"}, r"diffusion\.weighting=snr with diffusion\.loss=kl, which has its weights"),
        ({"variance": "learned_range"}, r"diffusion\.loss=eps does not train it"),
        ({"min_snr_gamma": 0.0}, r"diffusion\.min_snr_gamma=0\.0: expected more than 0"),
        ({"p2_k": 0.0}, r"diffusion\.p2_k=0\.0: expected more than 0"),
        ({"p2_gamma": -1.0}, r"diffusion\.p2_gamma=-1\.0: expected 0 or more"),
        ({"hybrid_weight": -1e-3}, r"diffusion\.hybrid_weight=-0\.001: expected 0 or more"),
    ],
)
def test_settings_that_do_not_go_together_are_told(settings, message):
    config = digits.get_config()
    config.data.class_names = tuple("0123456789")
    config.diffusion.update(**settings)
    with pytest.raises(InvalidInput, match=message):
        check(config)


def test_adam_s_epsilon_is_not_negative():
    config = cifar.get_config()
    config.train.adam_eps = -1.0
    with pytest.raises(InvalidInput, match=r"train\.adam_eps=-1\.0: expected 0 or more"):
        check(config)


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("learning_rate", np.inf, "float32 has room for"),
        ("weight_decay", np.inf, "float32 has room for"),
        ("adam_eps", 0.0, r"1\.18e-38 or more"),
        ("adam_eps", 1e-40, r"1\.18e-38 or more"),
        ("adam_b1", 1 - 1e-8, r"less, such as 0\.999"),
        ("adam_b2", 1 - 1e-8, r"less, such as 0\.999"),
    ],
)
def test_a_setting_by_which_an_update_would_be_no_number_is_told(name, value, expected):
    config = cifar.get_config()
    check_optimizer(config.train)
    config.train[name] = value
    with pytest.raises(InvalidInput, match=rf"train\.{name}={value}.*expected .*{expected}"):
        check_optimizer(config.train)
    # It is so: a parameter without gradient becomes no number.
    optimizer, params = objective.make_optimizer(config), np.ones(2, np.float32)
    updates, _ = optimizer.update(np.array([1, 0], np.float32), optimizer.init(params), params)
    assert not np.isfinite(updates).all()


@pytest.mark.parametrize("loss", ["v", "x0", "kl", "rescaled_kl"])
def test_zero_terminal_snr_goes_with_v(loss):
    config = digits.get_config()
    config.data.class_names = tuple("0123456789")
    config.diffusion.update(zero_terminal_snr=True, prediction="v", loss=loss)
    check(config)
    config.eval.metrics = ("ode_bits_per_dim",)
    with pytest.raises(InvalidInput, match="the flow cannot start where"):
        check(config)


def test_a_variance_learned_for_single_steps_is_not_used_for_longer_ones():
    config = digits.get_config()
    config.data.class_names = tuple("0123456789")
    config.diffusion.update(variance="learned", loss="rescaled_kl")
    check(config)
    config.sampler.steps = 50
    with pytest.raises(InvalidInput, match=r"sampler\.steps=50: diffusion\.variance=learned.*Expected learned_range"):
        check(config)


def test_fashion_mnist_is_not_shrunk_to_the_size_that_it_was_padded_from():
    config = fashion_mnist.get_config()
    check(config)
    config.data.image_size = 28
    with pytest.raises(InvalidInput, match=r"data\.image_size=28: fashion_mnist comes padded to 32×32"):
        check(config)


def test_constants_of_the_losses_come_from_the_settings():
    schedule, t = linear_schedule(1000), np.array([0, 999])
    x0, eps = np.zeros((2, 4, 4, 1), np.float32), np.ones((2, 4, 4, 1), np.float32)

    def loss(**settings):
        config = digits.get_config()
        config.diffusion.update(**settings)
        channels = 2 if config.diffusion.variance == "learned_range" else 1
        return objective.make_loss(config)(schedule, lambda xt, t: np.zeros((2, 4, 4, channels)), x0, t, eps)

    # The error of ε is 1, so what is left is the weight: min(SNR, γ)/SNR with SNR_1 = 9,999.
    np.testing.assert_allclose(loss(weighting="min_snr", min_snr_gamma=2.0), [2 / 9999, 1], rtol=1e-4)
    np.testing.assert_allclose(loss(weighting="p2", p2_k=3.0, p2_gamma=2.0)[1], 1 / 9, rtol=1e-4)
    hybrid = {"loss": "hybrid", "variance": "learned_range"}
    small, large = loss(**hybrid, hybrid_weight=0.001), loss(**hybrid, hybrid_weight=0.002)
    np.testing.assert_allclose(large - 1, 2 * (small - 1), rtol=1e-4)
