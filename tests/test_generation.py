"""The sampler and the guidance that a config names, against the same put together by hand."""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jax_ddpm import ancestral, ddim, dpm_solver_pp, euler, heun, linear_schedule, sample, unipc
from jax_ddpm.commands import sample as sample_command
from jax_ddpm.config import read_config, to_dict, write_config
from jax_ddpm.data.sources.digits import digits
from jax_ddpm.data.transforms import to_uint8
from jax_ddpm.diffusion.low_resolution import LowResolution
from jax_ddpm.diffusion.prediction import dynamic_threshold, static_clip
from jax_ddpm.diffusion.respacing import noise_levels
from jax_ddpm.errors import InvalidInput
from jax_ddpm.experiment import init_params, make_batches, make_network, make_sampler, make_source
from jax_ddpm.generation import check_steering, folder_name, make_generator, open_guide, steer
from jax_ddpm.objective import make_optimizer
from jax_ddpm.trained import Classifier
from jax_ddpm.training.checkpoints import Checkpoints
from jax_ddpm.training.sharding import make_mesh
from jax_ddpm.training.state import create_state
from tests.commands.conftest import make_tiny_classifier_config, make_tiny_config
from tests.references.chain import column

T = 8
SCHEDULE = linear_schedule(T)
NO_CLASS = 10
LABELS = jnp.array([3, 0, 9, 5, 5, 1, 7, 2])
TIMES = jnp.arange(T)
XT = jax.random.normal(jax.random.key(1), (T, 8, 8, 1))
# Float32, over some hundred sums of products each: gradients differ by less than 1e-5 of their size, what is made of them too.
CLOSE = {"rtol": 1e-4, "atol": 1e-5}


def tiny(make_config=make_tiny_config, **groups):
    config = make_config()
    config.model.update(multipliers=(1,), blocks=1)
    config.data.class_names = digits("train").class_names
    for group, values in groups.items():
        config[group].update(**values)
    return config


def some_params(config):
    """Weights with which every part of the network says something; those that training begins with say next to nothing."""
    random = np.random.default_rng(0)

    def drawn(path, like):
        values = random.normal(size=like.shape) / np.sqrt(max(np.prod(like.shape[:-1]), 1))
        return jnp.asarray(values + (path[-1].key == "scale"), like.dtype)

    return jax.tree_util.tree_map_with_path(drawn, jax.eval_shape(lambda key: init_params(config, key), jax.random.key(0)))


def leave_run(workdir, config):
    """A run with these weights, as training leaves it."""
    write_config(config, workdir)
    state = create_state(some_params(config), make_optimizer(config), jax.random.key(0))
    with Checkpoints(workdir / "checkpoints") as checkpoints:
        checkpoints.save(state, make_batches(config, make_source(config)), to_dict(config))
    return workdir


@pytest.fixture(scope="module")
def unet_run(tmp_path_factory):
    return leave_run(tmp_path_factory.mktemp("unet"), tiny(model={"label_dropout": 0.1}))


@pytest.fixture(scope="module")
def classifier_run(tmp_path_factory):
    return leave_run(tmp_path_factory.mktemp("guide") / "classifier", tiny(make_tiny_classifier_config))


@pytest.fixture(scope="module")
def guide():
    config = tiny(make_tiny_classifier_config)
    return Classifier(config, make_network(config), some_params(config))


@pytest.fixture(scope="module")
def uphill(guide):
    """∇ log p(y | x_t) of each of XT."""
    return slope(guide.network, guide.params)


@pytest.fixture(scope="module")
def outputs():
    """Parameters, and what the network that has them says of LABELS, and of no class."""
    config = tiny(model={"label_dropout": 0.1})
    params = some_params(config)
    return params, told(config, params, LABELS), told(config, params, jnp.full_like(LABELS, NO_CLASS))


# The settings of each sampler, none of them as usual.
SETTINGS = {
    "ancestral": {"steps": 4, "spacing": "trailing", "clip": "none"},
    "ddim": {"steps": 5, "spacing": "quad", "eta": 0.5, "rederive_eps": False},
    "euler": {"steps": 6, "spacing": "trailing", "churn": 2.0, "churn_range": (0.5, 20.0), "churn_noise": 1.1},
    "heun": {"steps": 6, "spacing": "log_snr", "churn": 2.0, "churn_range": (0.5, 20.0), "churn_noise": 1.1},
    "dpm_solver_pp": {"steps": 6, "spacing": "karras", "order": 3, "stochastic": True},
    "unipc": {"steps": 6, "spacing": "trailing", "order": 3},
}
SAMPLERS = {"ancestral": ancestral, "ddim": ddim, "euler": euler, "heun": heun, "dpm_solver_pp": dpm_solver_pp, "unipc": unipc}
TABLE = ("rows", "reached", "of_x", "of_x0", "of_clipped", "deviations", "noisy")


def same(one, other):
    return (
        (one.prediction, one.learned, one.clip) == (other.prediction, other.learned, other.clip)
        and np.array_equal(one.schedule.timesteps, other.schedule.timesteps)
        and np.array_equal(one.schedule.alphas_bar, other.schedule.alphas_bar)
        and all(np.array_equal(getattr(one, name), getattr(other, name)) for name in TABLE)
    )


@pytest.mark.parametrize("name", SETTINGS)
def test_a_sampler_has_the_table_of_the_direct_call(name):
    asked = dict(SETTINGS[name])
    found = make_sampler(tiny(sampler={"name": name, **asked}))
    asked["clip"] = None if asked.get("clip") == "none" else static_clip
    variance = {"variance": "fixed_large"} if name == "ancestral" else {}
    assert same(found, SAMPLERS[name](SCHEDULE, **asked, **variance))
    assert same(make_sampler(tiny(sampler={"name": name})), SAMPLERS[name](SCHEDULE))


@pytest.mark.parametrize(("name", "setting"), [(name, setting) for name, each in SETTINGS.items() for setting in each])
def test_no_setting_is_passed_over(name, setting):
    every = SETTINGS[name]
    without = {each: value for each, value in every.items() if each != setting}
    assert not same(make_sampler(tiny(sampler={"name": name, **every})), make_sampler(tiny(sampler={"name": name, **without})))


def test_what_the_network_says_and_its_clipping_reach_the_sampler():
    config = tiny(
        diffusion={"prediction": "v", "variance": "learned_range"}, sampler={"clip": "dynamic", "dynamic_quantile": 0.7}
    )
    sampler = make_sampler(config)
    assert same(
        dataclasses.replace(sampler, clip=None), ancestral(SCHEDULE, prediction="v", variance="learned_range", clip=None)
    )
    x0 = 2 * XT
    np.testing.assert_array_equal(sampler.clip(x0), dynamic_threshold(0.7)(x0))
    assert not np.array_equal(sampler.clip(x0), dynamic_threshold(0.9)(x0))


def told(config, params, labels, **small):
    """What the network says of XT at all times, given these labels."""
    return make_network(config).apply({"params": params}, XT, TIMES, labels, **small)


@pytest.mark.parametrize("interval", [(0.0, 1.0), (0.25, 0.75)])
@pytest.mark.parametrize("scale", [0.0, 1.0, 3.0])
def test_without_a_classifier_the_network_is_extrapolated_from_no_class(scale, interval, outputs):
    config = tiny(model={"label_dropout": 0.1}, guidance={"scale": scale, "interval": interval})
    sampler, (params, conditional, without) = make_sampler(config), outputs
    assert np.abs(conditional - without).mean() > 0.05, "else it would not matter which is which"
    first, last = (share * (T - 1) for share in interval)
    acting = np.where((first <= TIMES) & (last >= TIMES), scale, 1.0)
    assert set(acting) == {scale} or acting.tolist().count(1.0) in (4, 8), "1.75 to 5.25: at the times 2 to 5"
    steered, denoiser = steer(config, sampler, params, LABELS, None)
    assert steered is sampler
    expected = without + column(acting, XT) * (conditional - without)
    np.testing.assert_allclose(denoiser(XT, TIMES), expected, **CLOSE)


def test_a_network_that_enlarges_is_told_the_small_image_both_times():
    config = tiny(model={"label_dropout": 0.1, "low_res_size": 4}, guidance={"scale": 3.0})
    params = some_params(config)
    small = LowResolution(jax.random.normal(jax.random.key(2), XT.shape), jnp.arange(T) % 3)
    given = {"low_res": small.image, "low_res_t": small.t}
    conditional, without = (told(config, params, labels, **given) for labels in (LABELS, jnp.full_like(LABELS, NO_CLASS)))
    _, denoiser = steer(config, make_sampler(config), params, LABELS, None, small=small)
    np.testing.assert_allclose(denoiser(XT, TIMES), without + 3 * (conditional - without), **CLOSE)


def slope(network, params):
    def log_probability(x):
        logits = network.apply({"params": params}, x, TIMES)
        return (logits[jnp.arange(T), LABELS] - jax.scipy.special.logsumexp(logits, axis=1)).sum()

    return jax.grad(log_probability)(XT)


@pytest.mark.parametrize(
    ("sampler", "form", "moved"),
    [
        ({"name": "ancestral"}, "", "mean"),
        ({"name": "ancestral"}, "score", "score"),
        ({"name": "ddim"}, "", "score"),
        ({"name": "ddim", "eta": 1.0}, "", "score"),
        ({"name": "ddim", "eta": 1.0}, "mean", "mean"),
        ({"name": "heun"}, "", "score"),
        ({"name": "dpm_solver_pp"}, "", "score"),
        ({"name": "dpm_solver_pp", "stochastic": True}, "", "mean"),
        ({"name": "unipc"}, "", "score"),
    ],
)
def test_a_classifier_moves_the_mean_or_the_score(sampler, form, moved, guide, uphill, outputs):
    guidance = {"classifier": "x", "scale": 2.5, "interval": (0.25, 1.0), "form": form}
    config = tiny(model={"label_dropout": 0.1}, sampler=sampler, guidance=guidance)
    table, (params, said, _) = make_sampler(config), outputs
    gradient, noise = np.where(column(TIMES >= 2, XT), 2.5 * uphill, 0.0), column(SCHEDULE.sqrt_one_minus_alphas_bar, XT)
    assert np.abs(gradient[2:]).mean() > 0.01, "else it would not matter"
    steered, denoiser = steer(config, table, params, LABELS, guide)
    if moved == "mean":
        assert same(steered, table)
        np.testing.assert_allclose(steered.gradient(XT, TIMES), gradient, **CLOSE)
        np.testing.assert_allclose(denoiser(XT, TIMES), said, **CLOSE)
    else:
        assert steered is table
        np.testing.assert_allclose(denoiser(XT, TIMES), said - noise * gradient, **CLOSE)


def test_the_guide_s_parameters_may_be_given_apart(guide):
    config = tiny(guidance={"classifier": "x"})
    others = jax.tree.map(lambda each: -each, guide.params)
    steered, _ = steer(config, make_sampler(config), None, LABELS, guide, others)
    np.testing.assert_allclose(steered.gradient(XT, TIMES), slope(guide.network, others), **CLOSE)


def test_a_network_without_classes_is_guided_too(guide, uphill):
    config = tiny(model={"class_conditional": False}, sampler={"name": "ddim"}, guidance={"classifier": "x"})
    params = some_params(config)
    _, denoiser = steer(config, make_sampler(config), params, LABELS, guide)
    noise = column(SCHEDULE.sqrt_one_minus_alphas_bar, XT)
    np.testing.assert_allclose(denoiser(XT, TIMES), told(config, params, None) - noise * uphill, **CLOSE)


def test_a_guide_is_opened_with_the_weights_of_its_run(classifier_run, monkeypatch):
    monkeypatch.setenv("HOME", str(classifier_run.parent))
    opened = open_guide(tiny(guidance={"classifier": "~/classifier"}), make_mesh())
    assert opened.network == make_network(read_config(classifier_run))
    jax.tree.map(np.testing.assert_array_equal, opened.params, some_params(read_config(classifier_run)))
    assert open_guide(tiny(), make_mesh()) is None


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ({"diffusion": {"beta_start": 2e-4}}, r"trained with diffusion\.beta_start=0\.0002: expected 0\.0001, as here"),
        ({"diffusion": {"beta_end": 0.01}}, r"trained with diffusion\.beta_end=0\.01: expected 0\.02"),
        ({"diffusion": {"zero_terminal_snr": True}}, r"trained with diffusion\.zero_terminal_snr=True: expected False"),
        ({"diffusion": {"schedule": "cosine"}}, r"trained with diffusion\.schedule='cosine': expected 'linear'"),
        ({"diffusion": {"steps": 4}}, r"trained with diffusion\.steps=4: expected 8"),
        ({"data": {"class_names": ("a", "b")}}, r"trained with data\.class_names=\('a', 'b'\): expected \('0', '1'"),
        ({"data": {"image_size": 16}}, r"trained with data\.image_size=16: expected 8"),
        ({"data": {"channels": 3}}, r"trained with data\.channels=3: expected 1"),
    ],
)
def test_a_guide_of_other_images_classes_or_noise_is_refused(groups, message, tmp_path):
    write_config(tiny(make_tiny_classifier_config, **groups), tmp_path)
    with pytest.raises(InvalidInput, match=message):
        open_guide(tiny(guidance={"classifier": str(tmp_path)}), make_mesh())


def test_settings_that_a_schedule_does_not_heed_may_differ(tmp_path):
    cosine = {"schedule": "cosine", "beta_end": 0.01}
    write_config(tiny(make_tiny_classifier_config, diffusion=cosine), tmp_path)
    with pytest.raises(InvalidInput, match="no checkpoint"):  # it got as far as opening the run
        open_guide(tiny(diffusion={"schedule": "cosine"}, guidance={"classifier": str(tmp_path)}), make_mesh())


def test_only_a_classifier_guides(unet_run, tmp_path):
    with pytest.raises(InvalidInput, match=r"that run is of a U-Net\. Expected one of model\.network=noisy_classifier"):
        open_guide(tiny(guidance={"classifier": str(unet_run)}), make_mesh())
    with pytest.raises(InvalidInput, match="no run at"):
        open_guide(tiny(guidance={"classifier": str(tmp_path)}), make_mesh())


def test_a_form_that_cannot_be_is_told_before_anything_is_drawn(classifier_run, guide):
    config = tiny(sampler={"name": "ddim"}, guidance={"classifier": str(classifier_run), "form": "mean"})
    with pytest.raises(InvalidInput, match=r"guidance\.form=mean: .*expected ancestral, ddim with eta=1"):
        make_generator(config, make_mesh())
    config = tiny(diffusion={"zero_terminal_snr": True, "prediction": "v"}, sampler={"name": "ddim"})
    config.guidance.classifier = "x"
    with pytest.raises(InvalidInput, match=r"guidance\.form=score: .*expected a schedule without zero terminal SNR"):
        check_steering(config, make_sampler(config), guide)
    check_steering(config, make_sampler(config), None)
    config.sampler.name = "ancestral"
    check_steering(config, make_sampler(config), guide)


def drawn_by_hand(config, sampler, denoiser):
    """What `--mode sample` draws of LABELS in a single batch."""
    start_key, chain_key = jax.random.split(jax.random.fold_in(jax.random.key(config.sample.seed), 0))
    x_T = jax.random.normal(start_key, XT.shape)
    quickly = {"xla_backend_optimization_level": 0}  # compiling takes longer than running here
    draw = jax.jit(lambda x_T: sample(sampler, denoiser, x_T, chain_key), compiler_options=quickly)
    return to_uint8(jax.device_get(draw(x_T)))


def assert_same_images(found, expected):
    """Rounding apart: where sums in another order tip a pixel over, it is by one of 255; on the way the chain amplifies them
    little. Noise of another key, or labels of another order, differ by tens."""
    assert expected.astype(float).std() > 20
    assert np.abs(found.astype(int) - expected).max() <= 1


def test_the_command_samples_as_it_is_told(unet_run):
    config = read_config(unet_run)
    config.sample.update(count=T, batch_size=T, seed=4, labels=tuple(LABELS.tolist()))
    config.sampler.update(name="ddim", steps=4, eta=0.5)
    config.guidance.update(scale=2.0, interval=(0.0, 0.5))
    found = sample_command.draw(config, unet_run)
    assert found.grid.parent == unet_run / "samples/step_0000000_ddim_eta_0.5_steps_4_interval_0.0-0.5_scale_2.0_seed_4"
    np.testing.assert_array_equal(found.labels, LABELS)
    params = some_params(config)

    def denoiser(xt, t):
        network = make_network(config)
        said, without = (
            network.apply({"params": params}, xt, t, labels) for labels in (LABELS, jnp.full_like(LABELS, NO_CLASS))
        )
        return jnp.where(t[0] <= 3.5, 2 * said - without, said)

    assert_same_images(found.images, drawn_by_hand(config, ddim(SCHEDULE, steps=4, eta=0.5), denoiser))


def test_the_command_lets_a_classifier_guide(unet_run, classifier_run):
    config = read_config(unet_run)
    config.sample.update(count=T, batch_size=T, labels=tuple(LABELS.tolist()))
    config.sampler.update(name="heun", steps=3)
    config.guidance.update(scale=2.0, classifier=str(classifier_run))
    found = sample_command.draw(config, unet_run)
    assert found.grid.parent.name == "step_0000000_heun_steps_3_classifier_classifier_scale_2.0_seed_0"
    params, guiding = some_params(config), read_config(classifier_run)
    network, classifier, weights = make_network(config), make_network(guiding), some_params(guiding)

    def denoiser(xt, t):
        def log_probability(x):
            return (jax.nn.log_softmax(classifier.apply({"params": weights}, x, t)) * jax.nn.one_hot(LABELS, 10)).sum()

        level = jnp.interp(t, jnp.arange(T), noise_levels(SCHEDULE))  # log σ, for the times are real numbers
        noise = jnp.sqrt(jax.nn.sigmoid(2 * level))
        return network.apply({"params": params}, xt, t, LABELS) - 2 * column(noise, xt) * jax.grad(log_probability)(xt)

    assert_same_images(found.images, drawn_by_hand(config, heun(SCHEDULE, steps=3), denoiser))


def test_the_usual_folder_is_named_after_step_and_seed():
    assert folder_name(tiny(), 6, 0) == "step_0000006_seed_0"
    assert folder_name(tiny(edit={"task": "encode", "seed": 3}), 6, 3, "edit") == "step_0000006_seed_3"


def test_other_settings_have_other_folders():
    config = tiny(sampler={"name": "ddim", "eta": 0.5}, guidance={"scale": 3.0, "classifier": "runs/some/classifier"})
    assert folder_name(config, 6, 1) == "step_0000006_ddim_eta_0.5_classifier_classifier_scale_3.0_seed_1"
    spaced = tiny(sampler={"spacing": "10,15,20"}, edit={"images": "photos/a cat.png", "frames": 5})
    assert folder_name(spaced, 6, 1) == "step_0000006_spacing_10-15-20_seed_1"
    assert folder_name(spaced, 6, 1, "edit") == "step_0000006_spacing_10-15-20_frames_5_images_a-cat.png_seed_1"


@pytest.mark.parametrize("name", ["run" * 100, "训练好的分类器" * 30])
def test_a_name_that_is_too_long_ends_in_a_hash(name, tmp_path):
    one, other = (folder_name(tiny(guidance={"classifier": f"runs/{name}{end}"}), 6, 1) for end in "ab")
    assert one != other
    for each in (one, other):
        assert len(each.encode()) <= 120
        assert each.startswith(f"step_0000006_classifier_{name[:3]}")
        assert each.endswith("_seed_1")
        (tmp_path / each).mkdir()


@settings(max_examples=40, deadline=None)
@given(st.text(max_size=200), st.text(max_size=200))
def test_every_name_fits(classifier, images):
    found = folder_name(tiny(guidance={"classifier": classifier}, edit={"images": images}), 6, 1, "edit")
    assert len(found.encode()) <= 120
    assert found.startswith("step_0000006_")
    assert found.endswith("_seed_1")
    assert Path(found).name == found
    assert "\0" not in found
