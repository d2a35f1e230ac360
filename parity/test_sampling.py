"""`ancestral`, `ddim` and `ddim_inverse` beside their DDPM, DDIM and inverse DDIM schedulers."""

import pytest
from diffusers import DDIMInverseScheduler, DDIMScheduler, DDPMScheduler

from jax_ddpm import ancestral, ddim, ddim_inverse, dynamic_threshold, static_clip
from parity.sides import SCHEDULES, Theirs, assert_same_states

BOTH = pytest.mark.parametrize("schedule", SCHEDULES)


@BOTH
@pytest.mark.parametrize(
    ("spacing", "prediction", "variance", "clipped"),
    [
        ("leading", "eps", "fixed_small", False),
        ("leading", "v", "fixed_large", True),
        ("trailing", "eps", "fixed_large", True),
        ("trailing", "v", "learned_range", False),
        ("linspace", "eps", "learned_range", True),
        ("linspace", "x0", "fixed_small", True),
        ("linspace", "v", "fixed_large", False),
    ],
)
def test_ddpm(schedule, spacing, prediction, variance, clipped):
    # Where the last of their times is not 0, they add noise to the last state too if the variance is large. Ours adds none,
    # and so theirs is given noise that is 0 there.
    config = {"timestep_spacing": spacing, "variance_type": variance, "clip_sample": clipped}
    clip = static_clip if clipped else None
    ours = ancestral(SCHEDULES[schedule], steps=50, spacing=spacing, prediction=prediction, variance=variance, clip=clip)
    theirs = Theirs(DDPMScheduler, 50, schedule, prediction, config)
    outputs = 4 if variance == "learned_range" else 2
    # 1 - ᾱ_0 is 4e-5 in the cosine schedule, and float32 knows it to 1e-3 of that.
    assert_same_states(ours, theirs, outputs=outputs, installed=2e-5 if schedule == "cosine" else 1e-5)


@BOTH
def test_ddpm_over_the_whole_chain(schedule):
    theirs = Theirs(DDPMScheduler, 1000, schedule, config={"variance_type": "fixed_large"})
    # They find β_t as 1 - ᾱ_t/ᾱ_{t-1}: 1e-4 from two numbers near 1, which float32 knows to 6e-8.
    assert_same_states(ancestral(SCHEDULES[schedule]), theirs, installed=2e-4)


@BOTH
def test_ddpm_with_a_dynamic_threshold(schedule):
    # Their largest threshold is 1 unless another is named.
    config = {"thresholding": True, "dynamic_thresholding_ratio": 0.9, "sample_max_value": 1e6, "variance_type": "fixed_large"}
    ours = ancestral(SCHEDULES[schedule], steps=50, spacing="leading", clip=dynamic_threshold(0.9))
    assert_same_states(ours, Theirs(DDPMScheduler, 50, schedule, config=config))


@BOTH
@pytest.mark.parametrize("rederive_eps", [False, True])
@pytest.mark.parametrize(
    ("spacing", "prediction", "eta"),
    [("leading", "eps", 0.0), ("leading", "x0", 0.5), ("leading", "v", 1.0), ("trailing", "eps", 0.5), ("trailing", "v", 0.0)],
)
def test_ddim(schedule, spacing, prediction, eta, rederive_eps):
    ours = ddim(
        SCHEDULES[schedule],
        steps=25,
        spacing=spacing,
        eta=eta,
        rederive_eps=rederive_eps,
        prediction=prediction,
        clip=static_clip,
    )
    theirs = Theirs(DDIMScheduler, 25, schedule, prediction, {"timestep_spacing": spacing})
    assert_same_states(ours, theirs, eta=eta, use_clipped_model_output=rederive_eps)


@BOTH
@pytest.mark.parametrize("prediction", ["eps", "x0", "v"])
def test_ddim_without_a_clip(schedule, prediction):
    ours = ddim(SCHEDULES[schedule], steps=25, prediction=prediction, clip=None)
    assert_same_states(ours, Theirs(DDIMScheduler, 25, schedule, prediction, {"clip_sample": False}))


@BOTH
@pytest.mark.parametrize(("prediction", "eta", "rederive_eps"), [("eps", 0.5, True), ("x0", 1.0, False), ("v", 0.0, False)])
def test_ddim_with_a_dynamic_threshold(schedule, prediction, eta, rederive_eps):
    config = {"thresholding": True, "dynamic_thresholding_ratio": 0.9, "sample_max_value": 1e6}
    clip = dynamic_threshold(0.9)
    ours = ddim(SCHEDULES[schedule], steps=25, eta=eta, rederive_eps=rederive_eps, prediction=prediction, clip=clip)
    theirs = Theirs(DDIMScheduler, 25, schedule, prediction, config)
    assert_same_states(ours, theirs, eta=eta, use_clipped_model_output=rederive_eps)


@pytest.mark.parametrize(("schedule", "eta", "installed"), [("linear", 0.0, 1e-5), ("cosine", 1.0, 2e-4)])
def test_ddim_by_linspace(schedule, eta, installed):
    # From each of their times they step T // N down, which with linspace is where the next one lies only if all T are visited.
    # Ours always steps to the next one.
    ours = ddim(SCHEDULES[schedule], steps=1000, spacing="linspace", eta=eta)
    theirs = Theirs(DDIMScheduler, 1000, schedule, config={"timestep_spacing": "linspace"})
    assert_same_states(ours, theirs, eta=eta, use_clipped_model_output=True, installed=installed)


@BOTH
@pytest.mark.parametrize("spacing", ["leading", "trailing"])
def test_inverse_ddim(schedule, spacing):
    # They read v or x_0 at the level where the step starts, ours at the one that the network is told. ε is the same.
    ours = ddim_inverse(SCHEDULES[schedule], steps=25, spacing=spacing)
    assert_same_states(
        ours, Theirs(DDIMInverseScheduler, 25, schedule, config={"timestep_spacing": spacing, "clip_sample": False})
    )
