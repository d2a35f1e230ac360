"""`dpm_solver_pp`, `unipc`, `heun` and `euler` beside their schedulers of these names.

Their whole times are spaced otherwise than ours, which are told these. The last step of the cosine schedule has a σ of 20,000,
from where float32 cannot step without losing three digits: theirs start lower, by leading spacing, or are given more room.
"""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from diffusers import (
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    HeunDiscreteScheduler,
    UniPCMultistepScheduler,
)

from jax_ddpm import Sampler, dpm_solver_pp, dynamic_threshold, euler, heun, static_clip, unipc
from parity.sides import SCHEDULES, Theirs, assert_same_states

GRIDS = pytest.mark.parametrize(
    ("schedule", "spacing", "installed"),
    [("linear", "linspace", 1e-5), ("cosine", "leading", 1e-5), ("cosine", "trailing", 2e-4)],
)
# Between whole times their grid hangs on σ at t = 0, where 1 - ᾱ is 1e-4 in the linear schedule, of which float32 knows 2e-4.
BETWEEN = pytest.mark.parametrize(("schedule", "installed"), [("linear", 5e-5), ("cosine", 2e-4)])
ORDERS = pytest.mark.parametrize("order", [1, 2, 3])
PREDICTIONS = pytest.mark.parametrize("prediction", ["eps", "x0", "v"])
DYNAMIC = {"thresholding": True, "dynamic_thresholding_ratio": 0.9, "sample_max_value": 1e6}
ALGORITHMS = {False: "dpmsolver++", True: "sde-dpmsolver++"}


def with_their_curvature(sampler: Sampler) -> Sampler:
    """A stochastic sampler of third order with the weight that they give the curvature of the parabola through three estimates.

    It is 1 less than the half of the integral over the step, ∫ h e^(-h(1-u)) u² du, that they take without noise
    (`as_published`), and so does not vanish with the step.
    """
    reached = np.append(sampler.start, sampler.reached[:-1])
    levels = np.append(np.log(reached / (1 - reached)) / 2, np.inf)
    of_x0 = sampler.of_x0.copy()
    for step in range(2, sampler.evaluations - 1):
        h = levels[step + 1] - levels[step]
        last, before = (levels[step] - levels[step - 1]) / h, (levels[step - 1] - levels[step - 2]) / h
        differences = np.array([[1, -1, 0], [0, 1, -1]]) / np.array([[last], [before]])
        curvature = (differences[0] - differences[1]) / (last + before)
        terms = np.stack([[1, 0, 0], differences[0] + last * curvature, curvature])  # value, slope and curvature at the start
        signal, h = np.sqrt(sampler.reached[step]), 2 * h
        weights = np.linalg.solve(terms.T, of_x0[step] / signal)
        weights[2] = 0.5 - 1 / h - np.expm1(-h) / h**2 - 1
        of_x0[step] = signal * weights @ terms
    return dataclasses.replace(sampler, of_x0=of_x0)


@GRIDS
@ORDERS
@pytest.mark.parametrize("stochastic", [False, True])
def test_dpm_solver_pp(schedule, spacing, installed, order, stochastic):
    # With fewer than 15 steps they take the last but one with order 2 instead of 3, unless told not to.
    config = {"solver_order": order, "algorithm_type": ALGORITHMS[stochastic], "timestep_spacing": spacing}
    theirs = Theirs(DPMSolverMultistepScheduler, 20, schedule, config=config)
    options = {"order": order, "stochastic": stochastic, "as_published": True, "clip": None}
    ours = dpm_solver_pp(SCHEDULES[schedule], spacing=theirs.times, **options)
    if order == 3 and stochastic:
        ours = with_their_curvature(ours)
    assert_same_states(ours, theirs, installed=installed)


@PREDICTIONS
def test_dpm_solver_pp_in_few_steps_with_a_dynamic_threshold(prediction):
    config = {"solver_order": 3, "lower_order_final": False, **DYNAMIC}
    theirs = Theirs(DPMSolverMultistepScheduler, 8, prediction=prediction, config=config)
    options = {"order": 3, "as_published": True, "prediction": prediction, "clip": dynamic_threshold(0.9)}
    assert_same_states(dpm_solver_pp(SCHEDULES["linear"], spacing=theirs.times, **options), theirs)


@pytest.mark.parametrize(("spacing", "option"), [("karras", "use_karras_sigmas"), ("log_snr", "use_lu_lambdas")])
@pytest.mark.parametrize("stochastic", [False, True])
@BETWEEN
def test_dpm_solver_pp_between_whole_times(schedule, installed, stochastic, spacing, option):
    # They tell the network the nearest whole time.
    config = {option: True, "algorithm_type": ALGORITHMS[stochastic]}
    theirs = Theirs(DPMSolverMultistepScheduler, 20, schedule, "v", config)
    ours = dpm_solver_pp(SCHEDULES[schedule], steps=20, spacing=spacing, stochastic=stochastic, prediction="v", clip=None)
    assert_same_states(ours, theirs, installed=installed, told=jnp.rint)


@GRIDS
@ORDERS
def test_unipc(schedule, spacing, installed, order):
    theirs = Theirs(UniPCMultistepScheduler, 12, schedule, config={"solver_order": order, "timestep_spacing": spacing})
    ours = unipc(SCHEDULES[schedule], spacing=theirs.times, order=order, clip=None)
    assert_same_states(ours, theirs, installed=installed)


@PREDICTIONS
def test_unipc_with_a_dynamic_threshold(prediction):
    theirs = Theirs(UniPCMultistepScheduler, 12, prediction=prediction, config={"solver_order": 3, **DYNAMIC})
    ours = unipc(SCHEDULES["linear"], spacing=theirs.times, order=3, prediction=prediction, clip=dynamic_threshold(0.9))
    assert_same_states(ours, theirs)


@ORDERS
@BETWEEN
def test_unipc_between_whole_times(schedule, installed, order):
    config = {"solver_order": order, "use_karras_sigmas": True}
    theirs = Theirs(UniPCMultistepScheduler, 12, schedule, "v", config)
    ours = unipc(SCHEDULES[schedule], steps=12, order=order, spacing="karras", prediction="v", clip=None)
    assert_same_states(ours, theirs, installed=installed, told=jnp.rint)


@PREDICTIONS
@pytest.mark.parametrize("clipped", [False, True])
@pytest.mark.parametrize(("schedule", "spacing", "installed"), [("linear", "trailing", 1e-5), ("cosine", "leading", 5e-5)])
def test_heun(schedule, spacing, installed, prediction, clipped):
    # The slope at the end of a step divides by its σ, of which float32 knows 3e-4 at t = 0 of the cosine schedule.
    theirs = Theirs(HeunDiscreteScheduler, 25, schedule, prediction, {"timestep_spacing": spacing, "clip_sample": clipped})
    clip = static_clip if clipped else None
    ours = heun(SCHEDULES[schedule], spacing=theirs.times, prediction=prediction, clip=clip)
    assert_same_states(ours, theirs, scaled=True, installed=installed)


@PREDICTIONS
@pytest.mark.parametrize(("schedule", "spacing"), [("linear", "trailing"), ("cosine", "leading")])
def test_euler(schedule, spacing, prediction):
    # Without churn: with it they ask the network before they add the noise, where the paper's algorithm 2 asks it after.
    theirs = Theirs(EulerDiscreteScheduler, 25, schedule, prediction, {"timestep_spacing": spacing})
    ours = euler(SCHEDULES[schedule], spacing=theirs.times, prediction=prediction, clip=None)
    assert_same_states(ours, theirs, scaled=True)


@pytest.mark.parametrize("prediction", ["eps", "v"])
@pytest.mark.parametrize(("make", "kind"), [(heun, HeunDiscreteScheduler), (euler, EulerDiscreteScheduler)])
@BETWEEN
def test_karras(schedule, installed, make, kind, prediction):
    # Both tell the network a real-valued time.
    theirs = Theirs(kind, 20, schedule, prediction, {"use_karras_sigmas": True})
    ours = make(SCHEDULES[schedule], steps=20, prediction=prediction, clip=None)
    assert_same_states(ours, theirs, scaled=True, installed=installed)
