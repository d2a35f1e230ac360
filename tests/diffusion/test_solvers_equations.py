"""Every state of every solver against the equations of its paper in NumPy, and solvers that are one under two names."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_ddpm import (
    ancestral,
    ddim,
    dpm_solver_pp,
    euler,
    heun,
    sample_trajectory,
    schedule_from_betas,
    static_clip,
    unipc,
)
from tests.compiling import in_float64
from tests.diffusion.long_chains import SCHEDULES
from tests.references.chain import Chain, x0_said
from tests.references.denoisers import small_network
from tests.references.samplers import ddim_states, dpm_solver_pp_states, edm_states, noise_of, unipc_states

KEY = jax.random.key(11)
BETAS = np.linspace(0.002, 0.3, 12)
SHORT64 = schedule_from_betas(BETAS, np.float64)
SHORT_CHAIN = Chain(BETAS)
NETWORK, NUMPY_NETWORK = small_network(jnp, 3), small_network(np, 3)


SOLVERS = {
    "ddim": (ddim, ddim_states),
    "euler": (euler, functools.partial(edm_states, correct=False)),
    "heun": (heun, functools.partial(edm_states, correct=True)),
    "dpm_solver_pp": (dpm_solver_pp, dpm_solver_pp_states),
    "unipc": (unipc, lambda levels, estimate, x, draw, order: unipc_states(levels, estimate, x, draw, order)),
}
EDM = {"churn": 2.0, "churn_range": (0.1, 1.2), "churn_noise": 1.1}


@pytest.mark.parametrize(
    ("name", "options", "times", "prediction", "clip"),
    [
        ("ddim", {}, [0, 2, 3, 7, 11], "eps", None),
        ("ddim", {"eta": 0.5}, [1, 4, 5, 10], "v", static_clip),
        ("ddim", {"eta": 1.0}, [0.0, 0.3, 4.5, 10.9], "score", None),
        ("euler", {}, [0.0, 1.5, 2.25, 8.0, 11.0], "eps", static_clip),
        ("euler", EDM, [0.0, 1.5, 2.25, 8.0, 11.0], "v", None),
        ("euler", {"churn": 1.5}, [0, 3, 4, 9], "x0", None),
        ("heun", {}, [0.0, 1.5, 2.25, 8.0, 11.0], "v", None),
        ("heun", EDM, [0.0, 1.5, 2.25, 8.0, 11.0], "eps", static_clip),
        ("heun", {"churn": 9.0}, [0, 3, 4, 9, 11], "score", None),
        ("dpm_solver_pp", {"order": 1}, [0, 2, 3, 7, 11], "eps", None),
        ("dpm_solver_pp", {"order": 2}, [0, 2, 3, 7, 11], "v", static_clip),
        ("dpm_solver_pp", {"order": 3}, [0.0, 1.5, 2.25, 5.0, 8.0, 11.0], "eps", None),
        ("dpm_solver_pp", {"order": 1, "stochastic": True}, [0.5, 2.0, 3.0, 7.0], "x0", None),
        ("dpm_solver_pp", {"order": 2, "stochastic": True}, [0, 2, 3, 7, 11], "eps", None),
        ("dpm_solver_pp", {"order": 3, "stochastic": True}, [0.0, 1.5, 2.25, 5.0, 8.0, 11.0], "v", static_clip),
        ("unipc", {"order": 1}, [0, 2, 3, 7, 11], "v", None),
        ("unipc", {"order": 2}, [0, 2, 3, 7, 11], "eps", static_clip),
        ("unipc", {"order": 3}, [0.0, 1.5, 2.25, 5.0, 8.0, 9.5, 11.0], "score", None),
    ],
)
def test_every_state_agrees_with_the_equations_of_the_paper(name, options, times, prediction, clip):
    make, states_reference = SOLVERS[name]
    sampler = make(SHORT64, spacing=np.array(times), prediction=prediction, clip=clip, **options)
    x, total = np.random.default_rng(0).normal(size=(5, 4, 3)), sampler.evaluations
    states = in_float64(lambda x: sample_trajectory(sampler, NETWORK, x, KEY, range(total + 1))[1], x)
    with jax.enable_x64(True):
        noise = [np.asarray(noise_of(KEY, number, x.shape)) for number in range(total)]

    def estimate(x, level):
        t = np.full(len(x), np.interp(level, SHORT_CHAIN.levels, np.arange(12)))
        x0 = x0_said(NUMPY_NETWORK(x, t), x, level, prediction)
        return x0 if clip is None else np.clip(x0, -1, 1)

    levels = SHORT_CHAIN.levels_at(np.array(times)[::-1], np)
    if name in ("euler", "heun"):
        options = options | {"highest": SHORT_CHAIN.levels[-1]}
    expected = list(states_reference(levels, estimate, x, noise.__getitem__, **options))
    assert len(expected) == total
    np.testing.assert_array_equal(states[0], x)
    # Tables and times of 15 digits; the network and 1/√(1-ᾱ_0) = 22 amplify them, and what UniPC solves has a condition of 10².
    np.testing.assert_allclose(states[1:], expected, rtol=0, atol=1e-10)
    assert np.abs(np.diff(states, axis=0)).max(axis=(1, 2, 3)).min() > 0.01


# One sampler under two names


def assert_same_sampler(ours, theirs, digits=1e-12):
    for name in ("rows", "timesteps", "reached", "of_x", "of_x0", "of_clipped", "deviations", "noisy"):
        np.testing.assert_allclose(getattr(ours, name), getattr(theirs, name), rtol=0, atol=digits, err_msg=name)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("spacing", ["linspace", "leading", "trailing", "quad", "karras", "log_snr"])
def test_samplers_that_are_the_same(schedule, spacing):
    at = {"schedule": SCHEDULES[schedule], "steps": 25, "spacing": spacing, "prediction": "v"}
    # Each way to the coefficients loses some digits of 1-ᾱ'/ᾱ, the cosine's 1e-9 more than the linear's 1e-5.
    plain = ddim(**at)
    assert_same_sampler(euler(**at), plain, 1e-10)
    assert_same_sampler(dpm_solver_pp(**at, order=1), plain, 1e-10)
    noisy = ddim(**at, eta=1.0)
    assert_same_sampler(dpm_solver_pp(**at, order=1, stochastic=True), noisy, 1e-10)
    posterior = ancestral(**at, variance="fixed_small")
    last = posterior.deviations * posterior.noisy  # its table has a number for t = 0, where no noise is added
    assert_same_sampler(dataclasses.replace(posterior, deviations=last), noisy, 1e-10)


def test_whole_chain_of_ddim_with_eta_1_draws_what_the_ancestral_one_draws():
    x = np.random.default_rng(0).normal(size=(5, 4, 3))
    pair = ddim(SHORT64, eta=1.0), ancestral(SHORT64, variance="fixed_small")
    ours, theirs = in_float64(lambda x: [sample_trajectory(each, NETWORK, x, KEY, range(13))[1] for each in pair], x)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-12)
    np.testing.assert_array_equal(pair[0].timesteps, range(11, -1, -1))


def test_rederiving_eps_matters_only_where_clipping_does_something():
    x = np.random.default_rng(0).normal(size=(5, 4, 3)).astype(np.float32)

    def states(factor, rederive_eps, clip):
        sampler = ddim(SHORT64, rederive_eps=rederive_eps, prediction="x0", clip=clip)
        return sample_trajectory(sampler, lambda xt, t: factor * jnp.tanh(xt), x, KEY, range(13))[1]

    inside = [states(0.9, rederive_eps, static_clip) for rederive_eps in (True, False)]
    np.testing.assert_array_equal(*inside)
    beyond = [states(2.0, rederive_eps, static_clip) for rederive_eps in (True, False)]
    assert np.abs(beyond[0][1:-1] - beyond[1][1:-1]).max() > 0.1
    np.testing.assert_array_equal(*(states(2.0, rederive_eps, None) for rederive_eps in (True, False)))


def test_eps_that_is_kept_is_what_the_network_said():
    """diffusers' default: the noise in the step is not that which goes with the clipped x_0."""
    x, times = np.random.default_rng(0).normal(size=(5, 4, 3)), np.array([0, 2, 3, 7, 11])
    sampler = ddim(SHORT64, spacing=times, eta=0.3, rederive_eps=False)
    states = in_float64(lambda x: sample_trajectory(sampler, NETWORK, x, KEY, range(6))[1], x)
    with jax.enable_x64(True):
        noise = [np.asarray(noise_of(KEY, number, x.shape)) for number in range(5)]

    def eps(x, level):
        return NUMPY_NETWORK(x, np.full(len(x), np.interp(level, SHORT_CHAIN.levels, np.arange(12))))

    def estimate(x, level):
        return np.clip(x0_said(eps(x, level), x, level, "eps"), -1, 1)

    levels = SHORT_CHAIN.levels[times[::-1]]
    expected = list(ddim_states(levels, estimate, x, noise.__getitem__, eta=0.3, eps_of=eps))
    np.testing.assert_allclose(states[1:], expected, rtol=0, atol=1e-10)
