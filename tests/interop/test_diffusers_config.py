"""Settings of diffusers: what has no counterpart here is refused by name; parity/test_unet.py runs those that have one."""

import numpy as np
import pytest

from jax_ddpm.config import default_config
from jax_ddpm.errors import InvalidInput
from jax_ddpm.interop.diffusers_config import scheduler_config, scheduler_settings, unet_config, unet_settings

# As google/ddpm-cifar10-32 has it.
CIFAR = {
    "_class_name": "UNet2DModel",
    "_diffusers_version": "0.0.4",
    "act_fn": "silu",
    "attention_head_dim": None,
    "block_out_channels": [128, 256, 256, 256],
    "center_input_sample": False,
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"],
    "downsample_padding": 0,
    "flip_sin_to_cos": False,
    "freq_shift": 1,
    "in_channels": 3,
    "layers_per_block": 2,
    "mid_block_scale_factor": 1,
    "norm_eps": 1e-06,
    "norm_num_groups": 32,
    "out_channels": 3,
    "sample_size": 32,
    "time_embedding_type": "positional",
    "up_block_types": ["UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"],
}


def test_the_network_of_the_paper_is_the_default_here():
    usual = default_config().model
    model = unet_settings(CIFAR)["model"] | {"dropout": 0.1}  # which the file does not say
    assert {name: usual[name] for name in model} == model


def test_what_is_written_is_read_as_it_was():
    model = default_config().model
    written = unet_config(model, 32, 3, 3, 0)
    assert {name: value for name, value in CIFAR.items() if not name.startswith("_")}.items() <= written.items()
    assert unet_settings(written)["model"] == {name: model[name] for name in unet_settings(written)["model"]}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"_class_name": "UNet2DConditionModel"}, r"_class_name='UNet2DConditionModel' .*expected 'UNet2DModel'"),
        ({"act_fn": "relu"}, r"act_fn='relu' is not supported: expected 'silu' or 'swish'"),
        ({"center_input_sample": True}, r"center_input_sample=True is not supported: expected False"),
        ({"mid_block_scale_factor": 1.41}, r"mid_block_scale_factor=1\.41 .*expected 1"),
        ({"time_embedding_type": "fourier"}, r"time_embedding_type='fourier' .*expected 'positional'"),
        ({"class_embed_type": "timestep"}, r"class_embed_type='timestep' .*expected None"),
        ({"down_block_types": ["SkipDownBlock2D"] * 4}, r"down_block_types='SkipDownBlock2D' .*expected 'DownBlock2D' or"),
        ({"up_block_types": ["UpBlock2D"] * 4}, r"expected attention at the same levels of both"),
        ({"downsample_type": "resnet"}, r"by convolutions everywhere, or within residual blocks everywhere"),
        ({"downsample_padding": 2}, r"downsample_padding=2 .*expected 0 or 1"),
        ({"resnet_time_scale_shift": "scale_shift"}, r"attn_norm_num_groups=None .*expected 32"),
        ({"block_out_channels": [128, 192, 256, 256]}, r"expected multiples of the first, 128"),
        ({"sample_size": None}, r"sample_size=None: .*--config\.data\.image_size"),
        ({"sample_size": [32, 16]}, r"sample_size=\[32, 16\]: expected the pixels of a side"),
        ({"out_channels": 4}, r"out_channels=4 .*expected 3 or 6"),
    ],
)
def test_what_there_is_none_of_is_refused_by_name(change, message):
    with pytest.raises(InvalidInput, match=message):
        unet_settings(CIFAR | change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"_class_name": "CMStochasticIterativeScheduler", "num_train_timesteps": 40},
            r"_class_name='CMSto.*expected 'DDPMSch",
        ),
        ({"_class_name": "EDMEulerScheduler"}, r"_class_name='EDMEulerScheduler' is not supported"),
        ({"_class_name": "DPMSolverMultistepScheduler", "use_flow_sigmas": True}, r"use_flow_sigmas=True .*expected False"),
        ({"_class_name": "EulerDiscreteScheduler", "timestep_type": "continuous"}, r"timestep_type='continuous'"),
        ({"beta_schedule": "laplace"}, r"beta_schedule='laplace' .*expected 'linear' or"),
        ({"trained_betas": [0.1]}, r"trained_betas=\[0\.1\] .*expected None"),
        ({"thresholding": True}, r"thresholding=True .*expected False"),
        ({"prediction_type": "flow"}, r"prediction_type='flow' .*expected 'epsilon' or"),
    ],
)
def test_noise_that_there_is_none_of_is_refused_by_name(change, message):
    with pytest.raises(InvalidInput, match=message):
        scheduler_settings(change)


@pytest.mark.parametrize("name", ["DDPM", "DDIM", "PNDM", "DPMSolverMultistep", "UniPCMultistep", "EulerDiscrete"])
def test_schedulers_of_the_same_chain_say_the_same(name):
    chain = {"beta_schedule": "squaredcos_cap_v2", "num_train_timesteps": 400, "prediction_type": "v_prediction"}
    assert scheduler_settings({"_class_name": f"{name}Scheduler", **chain}) == scheduler_settings(chain)


def test_a_schedule_without_a_name_there_is_written_out():
    diffusion = default_config().diffusion
    diffusion.schedule = "jsd"
    assert scheduler_config(diffusion, np.array([0.1, 0.2]), "static")["trained_betas"] == [0.1, 0.2]
    diffusion.prediction = "mean"
    with pytest.raises(InvalidInput, match=r"diffusion\.prediction='mean'"):
        scheduler_config(diffusion, np.zeros(2), "static")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"skip": "add"}, r"model\.skip='add' is nothing that diffusers"),
        ({"upsample": "bilinear"}, r"model\.upsample='bilinear'"),
        ({"downsample": "pool"}, r"model\.downsample='pool'"),
        ({"low_res_size": 8}, r"model\.low_res_size=8"),
        ({"time_scale": 0.25}, r"model\.time_scale=0\.25"),
        ({"heads": 4, "attention_resolutions": (32,)}, r"model\.heads=4 at layers of \[128, 256\] channels"),
    ],
)
def test_a_network_that_diffusers_does_not_have_is_refused_by_name(change, message):
    model = default_config().model
    model.update(change)
    with pytest.raises(InvalidInput, match=message):
        unet_config(model, 32, 3, 3, 0)
