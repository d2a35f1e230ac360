"""Networks go from diffusers to us and back: the same output, the same image, bit for bit the same tensors.

Each is a UNet2DModel of random weights, saved by diffusers and imported by the command; what it exports again is opened
by diffusers' DDPMPipeline.
"""

import contextlib
from collections.abc import Iterator
from functools import partial
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DDPMPipeline, DDPMScheduler, UNet2DModel
from diffusers.models import embeddings
from diffusers.schedulers import scheduling_ddim

from jax_ddpm import experiment
from jax_ddpm.commands import export_weights, train
from jax_ddpm.config import read_config
from jax_ddpm.diffusion.sampling import sample, sample_trajectory
from jax_ddpm.diffusion.schedules import linear_schedule
from jax_ddpm.errors import InvalidInput
from jax_ddpm.trained import open_run
from jax_ddpm.training.logging import read_metrics
from jax_ddpm.training.sharding import make_mesh
from parity.sides import _Float64
from tests.commands.conftest import imported

DDPM = {"norm_eps": 1e-6, "attention_head_dim": None, "downsample_padding": 0, "freq_shift": 1, "flip_sin_to_cos": False}


def blocks(attention, within=False):
    down, up = ("ResnetDownsampleBlock2D", "ResnetUpsampleBlock2D") if within else ("DownBlock2D", "UpBlock2D")
    return {
        "down_block_types": tuple("AttnDownBlock2D" if each else down for each in attention),
        "up_block_types": tuple("AttnUpBlock2D" if each else up for each in reversed(attention)),
        **({"downsample_type": "resnet", "upsample_type": "resnet"} if within else {}),
    }


DEEPEST = "CelebA-HQ, LSUN church, bedroom and cat, 256 pixels"
# Narrower and smaller, but so large that attention has several positions also in the middle.
PUBLIC = {
    "CIFAR-10": DDPM | {"block_out_channels": (16, 32, 32, 32)} | blocks((0, 1, 0, 0)),
    DEEPEST: DDPM | {"block_out_channels": (8, 8, 16, 16, 32, 32), "sample_size": 64} | blocks((0, 0, 0, 0, 1, 0)),
}
# Those of the public checkpoints, then what else UNet2DModel can be told.
LAYOUTS = PUBLIC | {
    "as configs/fashion_mnist.py": DDPM | {"block_out_channels": (16, 32, 32), "layers_per_block": 1} | blocks((0, 0, 1)),
    "the constructor's": {"block_out_channels": (16, 32, 48, 64), "layers_per_block": 1},
    "scale and shift, within blocks": {
        **{"block_out_channels": (16, 32), "layers_per_block": 3, "resnet_time_scale_shift": "scale_shift", "out_channels": 6},
        **{"attn_norm_num_groups": 8, "attention_head_dim": 4, "num_class_embeds": 5, **blocks((0, 1), within=True)},
    },
    "grey, no attention": {"block_out_channels": (16, 32), "in_channels": 1, "out_channels": 1, "add_attention": False}
    | blocks((0, 0)),
}
EACH = pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)


def theirs(layout) -> UNet2DModel:
    torch.manual_seed(0)
    model = UNet2DModel(**{"sample_size": 16, "norm_num_groups": 8, **layout})
    for name, parameter in model.named_parameters():  # at first all 1 and all 0, which hides mistakes
        if parameter.ndim == 1:
            parameter.data = torch.randn_like(parameter) * 0.3 + ("norm" in name and name.endswith("weight"))
    return model.eval()


def ours(workdir, dtype="float32", average=True):
    """The network, which computes in this type, and the parameters that open."""
    config = read_config(workdir)
    params = open_run(config, workdir, make_mesh(), average=average).params
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), params)
    return experiment.make_network(config).clone(dtype=jnp.dtype(dtype)), params


@contextlib.contextmanager
def theirs_in_float64() -> Iterator[None]:
    """Within it what theirs makes float32 whatever the network is, the sines of the time and the noise, is float64."""
    float64 = _Float64(torch)
    with mock.patch.object(embeddings, "torch", float64), mock.patch.object(scheduling_ddim, "torch", float64):
        yield


def inputs(model):
    x = np.random.default_rng(0).normal(size=(2, model.config.in_channels, *[model.config.sample_size] * 2))
    labels = {} if model.class_embedding is None else {"class_labels": torch.tensor([4, 0])}
    return torch.from_numpy(x), torch.tensor([3, 999]), labels


def channels_last(x: torch.Tensor) -> np.ndarray:
    return x.numpy().transpose(0, 2, 3, 1)


def outputs(model, workdir, dtype, average=True):
    """Ours and theirs."""
    (network, params), (x, t, labels) = ours(workdir, dtype, average), inputs(model)
    with torch.no_grad():
        expected = channels_last(model.to(getattr(torch, dtype))(x.to(getattr(torch, dtype)), t, **labels).sample)
    told = [each.numpy() for each in labels.values()]
    found = jax.jit(network.apply)({"params": params}, channels_last(x).astype(dtype), t.numpy().astype(dtype), *told)
    return np.asarray(found), expected


@EACH
def test_the_same_output_bit_for_bit_the_same_tensors_and_the_way_back(layout, tmp_path):
    model = theirs(layout)
    model.save_pretrained(tmp_path / "theirs")
    config = imported(tmp_path / "theirs", tmp_path / "run")
    found, expected = outputs(model, tmp_path / "run", "float32")
    assert np.abs(found - expected).max() < 1e-5 * np.abs(expected).max()
    assert np.abs(expected).max() > 0.3

    config.export_weights.update(to="diffusers", out=str(tmp_path / "back"))
    export_weights.main(config, tmp_path / "run")
    back = DDPMPipeline.from_pretrained(str(tmp_path / "back"))
    state, again = model.state_dict(), back.unet.state_dict()
    assert state.keys() == again.keys()
    assert all(torch.equal(state[name], again[name]) for name in state)

    # In float64 the two are the same formula.
    with jax.enable_x64(True), theirs_in_float64():
        found, expected = outputs(model, tmp_path / "run", "float64")
    assert found.dtype == expected.dtype == np.float64
    assert np.abs(found - expected).max() < 1e-10 * np.abs(expected).max()


def next_state(model, scheduler, x: np.ndarray, t, **labels) -> np.ndarray:
    """What a step of theirs makes of a state, both [B, H, W, C]. What a network says of the variance, DDIM does not ask."""
    theirs = torch.from_numpy(x.transpose(0, 3, 1, 2).copy())
    with torch.no_grad():
        return channels_last(scheduler.step(model(theirs, t, **labels).sample[:, : theirs.shape[1]], t, theirs).prev_sample)


def with_noise(model, folder):
    """Saves the network with DDPM's noise; the settings of its import, with DDIM as theirs has it."""
    learned = model.config.out_channels > model.config.in_channels
    variance = "learned_range" if learned else "fixed_large"
    DDPMPipeline(model, DDPMScheduler(clip_sample=True, variance_type=variance)).save_pretrained(folder / "theirs")
    config = imported(folder / "theirs", folder / "run")
    assert config.diffusion.variance == variance
    config.sampler.update(name="ddim", steps=50, spacing="leading", rederive_eps=False)
    return config


def fifty_steps(folder) -> DDIMScheduler:
    scheduler = DDIMScheduler.from_pretrained(str(folder / "theirs"), subfolder="scheduler")
    scheduler.set_timesteps(50)
    return scheduler


def noise(config) -> np.ndarray:
    return np.random.default_rng(1).normal(size=(2, *experiment.image_shape(config)))


@EACH
def test_fifty_steps_of_ddim_from_the_same_noise_draw_the_same_image(layout, tmp_path):
    # With random weights a chain is chaos, and so it is run where roundings are 1e-16: they grow 1e4 times. In the deepest
    # layout they would grow to another image; with a tenth of the last convolution they grow 1e6 times.
    deepest = layout is PUBLIC[DEEPEST]
    model = theirs({**layout, "sample_size": 32} if deepest else layout)
    if deepest:
        model.conv_out.weight.data *= 0.1
    config, (_, _, told) = with_noise(model, tmp_path), inputs(model)
    labels = next((each.numpy() for each in told.values()), None)
    x_T = noise(config)
    with jax.enable_x64(True):
        network, params = ours(tmp_path / "run", "float64")
        schedule = linear_schedule(1000, dtype=np.float64)
        np.testing.assert_allclose(experiment.make_schedule(config).betas, schedule.betas, rtol=1e-6)  # which is float32
        sampler = experiment.make_sampler(config, schedule)

        @jax.jit
        def run(params, x):
            denoiser = experiment.make_denoiser(network, params, labels)
            # The time is told as a real number: the sines of a whole one are float32.
            return sample(sampler, lambda x, t: denoiser(x, t.astype(x.dtype)), x, jax.random.key(0))

        found, other = (np.asarray(run(each, x_T)) for each in (params, jax.tree.map(lambda leaf: 0.99 * leaf, params)))

    with theirs_in_float64():
        x, scheduler = x_T, fifty_steps(tmp_path)
        for t in scheduler.timesteps:
            x = next_state(model.double(), scheduler, x, t, **told)
    assert found.dtype == x.dtype == np.float64
    np.testing.assert_allclose(found, x, rtol=0, atol=1e-6)
    assert np.mean(np.abs(found) < 0.99) > 0.5, "held at -1 and 1, images would be alike whatever the network says"
    assert np.abs(found[0] - found[1]).mean() > 0.1, "the noise counts for nothing"
    assert np.abs(found - other).max() > 0.1, "the network counts for nothing"


@pytest.mark.parametrize("layout", PUBLIC.values(), ids=PUBLIC)
def test_each_of_fifty_steps_as_it_is_installed_leads_to_the_same_state(layout, tmp_path):
    model = theirs(layout)
    config = with_noise(model, tmp_path)
    network, params = ours(tmp_path / "run")
    sampler, denoiser, key = experiment.make_sampler(config), experiment.make_denoiser(network, params, None), jax.random.key(0)
    x_T = noise(config).astype(np.float32)
    found, states = jax.jit(lambda x: sample_trajectory(sampler, denoiser, x, key, range(51)))(x_T)
    found, states = np.asarray(found), np.asarray(states)
    scheduler = fifty_steps(tmp_path)
    for t, start, reached in zip(scheduler.timesteps, states[:-1], states[1:], strict=True):
        np.testing.assert_allclose(reached, next_state(model, scheduler, start, t), rtol=0, atol=1e-4)
    # In this layout a rounding of float32 grows 300 times, and the whole chain can be compared too.
    if layout is PUBLIC["CIFAR-10"]:
        x = x_T
        for t in scheduler.timesteps:
            x = next_state(model, scheduler, x, t)
        np.testing.assert_allclose(found, x, rtol=0, atol=1e-3)


def test_trained_further_the_loss_falls_and_what_is_exported_opens(tmp_path):
    model = theirs(
        {"block_out_channels": (16, 32), "layers_per_block": 1, "in_channels": 1, "out_channels": 1, "sample_size": 32}
        | blocks((0, 1))
    )
    DDPMPipeline(model, DDPMScheduler()).save_pretrained(tmp_path / "theirs")
    config = imported(tmp_path / "theirs", tmp_path / "run", **{"data.name": "digits", "data.image_size": 32})
    config.train.update(
        start=str(tmp_path / "run"), steps=100, batch_size=16, learning_rate=1e-3, warmup_steps=10, log_every=10
    )
    config.train.update(sample_count=1, ema_decay=0.9, checkpoint_every=100)
    config.sampler.update(name="ddim", steps=2)
    train.main(config, tmp_path / "further")
    losses = [row["loss"] for row in read_metrics(tmp_path / "further")]
    assert np.mean(losses[-3:]) < losses[0] / 2, losses

    # The average, and what the last step left.
    trained, opened = read_config(tmp_path / "further"), []
    for average in (True, False):
        trained.export_weights.update(to="diffusers", out=str(tmp_path / f"back_{average}"), average=average)
        export_weights.main(trained, tmp_path / "further")
        opened.append(DDPMPipeline.from_pretrained(trained.export_weights.out).unet.eval())
        found, expected = outputs(opened[-1], tmp_path / "further", "float32", average)
        assert np.abs(found - expected).max() < 1e-5 * np.abs(expected).max()
    assert not torch.equal(*(each.conv_in.weight for each in opened))


SCHEDULERS = {
    "linear": {},
    "other ends": {"num_train_timesteps": 400, "beta_start": 0.001, "beta_end": 0.03, "variance_type": "fixed_large"},
    "cosine": {"beta_schedule": "squaredcos_cap_v2", "prediction_type": "v_prediction", "clip_sample": False},
    "scaled linear": {"beta_schedule": "scaled_linear", "prediction_type": "sample", "rescale_betas_zero_snr": True},
    "sigmoid": {"beta_schedule": "sigmoid"},
}


def printed_code(config, workdir, capsys) -> str:
    """The lines with which an export opens, as they are printed."""
    capsys.readouterr()
    export_weights.main(config, workdir)
    return capsys.readouterr().out.partition("they open with:\n")[2]


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("classes", [0, 5])
def test_the_printed_lines_draw_by_the_whole_chain_and_of_each_class(classes, dtype, tmp_path, capsys, monkeypatch):
    model = theirs(
        {"block_out_channels": (8, 16), "layers_per_block": 1, "num_class_embeds": classes or None, **blocks((0, 1))}
    )
    DDPMPipeline(model, DDPMScheduler(num_train_timesteps=7)).save_pretrained(tmp_path / "theirs")
    config = imported(tmp_path / "theirs", tmp_path / "run")
    config.export_weights.update(to="diffusers", out=str(tmp_path / "it's here"), dtype=dtype)
    code = printed_code(config, tmp_path / "run", capsys)
    asked, forward = [], UNet2DModel.forward

    def watched(network, x, t, class_labels=None):
        asked.append((x.shape, int(t), None if class_labels is None else class_labels.tolist()))
        return forward(network, x, t, class_labels)

    monkeypatch.setattr(UNet2DModel, "forward", watched)
    made = {}
    exec(code, made)
    assert asked == [((classes or 1, 3, 16, 16), t, list(range(classes)) if classes else None) for t in reversed(range(7))]
    assert [(image.size, image.mode) for image in made["images"]] == [((16, 16), "RGB")] * (classes or 1)
    assert all(np.std(image) > 10 for image in made["images"])


@pytest.mark.parametrize("scheduler", SCHEDULERS.values(), ids=SCHEDULERS)
def test_the_noise_comes_over_and_goes_back(scheduler, tmp_path):
    model = theirs({"block_out_channels": (8,), "layers_per_block": 1, **blocks((0,))})
    before = DDPMScheduler(**scheduler)
    DDPMPipeline(model, before).save_pretrained(tmp_path / "theirs")
    config = imported(tmp_path / "theirs", tmp_path / "run")
    betas = np.asarray(experiment.make_schedule(config).betas)
    # Theirs are one less a quotient of float32, each of which is off by 2^-24 and more; towards the end ᾱ is 1e-9 or less.
    np.testing.assert_allclose(betas, before.betas, rtol=2e-4, atol=5e-7)
    config.export_weights.update(to="diffusers", out=str(tmp_path / "back"))
    export_weights.main(config, tmp_path / "run")
    after = DDPMPipeline.from_pretrained(str(tmp_path / "back")).scheduler
    np.testing.assert_allclose(after.betas, before.betas, rtol=1e-6, atol=1e-9)
    for name in ("prediction_type", "variance_type", "clip_sample", "rescale_betas_zero_snr", "num_train_timesteps"):
        assert after.config[name] == before.config[name]


def test_a_bin_file_and_the_old_names_of_attention_open_too(tmp_path):
    model = theirs(LAYOUTS["CIFAR-10"])
    model.save_pretrained(tmp_path / "new")
    model.save_pretrained(tmp_path / "old", safe_serialization=False)
    path = tmp_path / "old/diffusion_pytorch_model.bin"
    state, names = torch.load(path), {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    for new, old in names.items():
        state = {name.replace(f".{new}.", f".{old}."): tensor for name, tensor in state.items()}
    assert sum(".proj_attn." in name for name in state) == 2 * 6
    torch.save(state, path)
    params = []
    for kind in ("new", "old"):
        imported(tmp_path / kind, tmp_path / "runs" / kind)
        params.append(ours(tmp_path / "runs" / kind)[1])
    jax.tree.map(np.testing.assert_array_equal, *params)


def test_a_name_on_the_hub_is_found_where_its_library_keeps_it(tmp_path, monkeypatch):
    import huggingface_hub

    revision = "0" * 40
    kept = tmp_path / "cache" / "models--somebody--ddpm"
    (kept / "refs").mkdir(parents=True)
    (kept / "refs/main").write_text(revision)
    theirs(LAYOUTS["CIFAR-10"]).save_pretrained(kept / "snapshots" / revision)
    offline = partial(huggingface_hub.snapshot_download, cache_dir=tmp_path / "cache", local_files_only=True)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    assert imported("somebody/ddpm", tmp_path / "run").model.channels == 16
    with pytest.raises(InvalidInput, match="nobody/ddpm is neither here nor to be had from the Hugging Face hub"):
        imported("nobody/ddpm", tmp_path / "other")


def test_what_does_not_fit_is_named(tmp_path):
    model = theirs(LAYOUTS["CIFAR-10"])
    model.conv_in.bias = None
    model.register_parameter("more", torch.nn.Parameter(torch.zeros(3)))
    model.save_pretrained(tmp_path / "theirs")
    with pytest.raises(InvalidInput, match=r"missing conv_in\.bias; left over more$"):
        imported(tmp_path / "theirs", tmp_path / "run")
    assert not (tmp_path / "run").exists()
