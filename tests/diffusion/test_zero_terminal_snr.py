"""Schedules that leave nothing of x_0 in x_T; `zero_terminal_snr` stands in jax_ddpm/diffusion/schedules.py."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_ddpm import (
    InvalidInput,
    ancestral,
    cosine_schedule,
    kl_loss,
    linear_schedule,
    q_sample,
    respace,
    sample,
    v_loss,
    vlb_terms,
    x0_loss,
    zero_terminal_snr,
)
from jax_ddpm.diffusion.schedules import NoiseSchedule
from tests.references.chain import Chain
from tests.references.denoisers import small_network

SCHEDULE = linear_schedule(1000)
FIELDS = tuple(NoiseSchedule.__dataclass_fields__)
SOME = (0, 3, 4, 250, 600, 999)
SHORT = respace(SCHEDULE, SOME)
NETWORK = small_network(jnp, 3)
KEY = jax.random.key(2)


@pytest.mark.parametrize("make", [linear_schedule, cosine_schedule])
@pytest.mark.parametrize("steps", [2, 10, 1000])
def test_zero_terminal_snr_shifts_and_stretches_the_signal(make, steps):
    schedule = make(steps, dtype=np.float64)
    roots = np.sqrt(Chain(schedule.betas).alphas_bar)
    expected = (roots - roots[-1]) * roots[0] / (roots[0] - roots[-1])  # Lin et al. 2023, algorithm 1
    rescaled = zero_terminal_snr(schedule)
    assert rescaled.alphas_bar[-1] == rescaled.sqrt_alphas_bar[-1] == rescaled.alphas[-1] == 0
    assert rescaled.betas[-1] == rescaled.sqrt_one_minus_alphas_bar[-1] == 1
    assert rescaled.betas[0] == schedule.betas[0]
    np.testing.assert_allclose(rescaled.alphas_bar[0], schedule.alphas_bar[0], rtol=1e-15)
    # 1 - ᾱ'_t/ᾱ'_prev by subtraction: 1e-16 / 4e-5, and a thousand of these added up.
    np.testing.assert_allclose(rescaled.sqrt_alphas_bar, expected, rtol=1e-10)
    assert np.all(np.diff(rescaled.alphas_bar) < 0)
    np.testing.assert_array_equal(rescaled.timesteps, range(steps))
    finite = [name for name in FIELDS if "recip" not in name]
    chex.assert_tree_all_finite([getattr(rescaled, name) for name in finite])
    assert np.isposinf(rescaled.sqrt_recip_alphas_bar[-1])


def test_zero_terminal_snr_comes_before_the_chain_is_shortened():
    with pytest.raises(InvalidInput, match="zero_terminal_snr of a shortened chain: expected the whole one"):
        zero_terminal_snr(SHORT)
    rescaled = zero_terminal_snr(SCHEDULE)
    chex.assert_type([getattr(rescaled, name) for name in FIELDS if name != "timesteps"], np.float32)
    respaced = respace(zero_terminal_snr(SCHEDULE), SOME)
    assert respaced.alphas_bar[-1] == 0
    assert respaced.betas[-1] == 1
    chex.assert_tree_all_finite([respaced.posterior_mean_x0, respaced.posterior_mean_xt, respaced.upper_log_variance])


TERMINAL = zero_terminal_snr(linear_schedule(8))


@pytest.mark.parametrize("prediction", ["v", "x0", "mean"])
def test_losses_bound_and_samples_are_finite_without_any_signal_at_the_end(prediction):
    x0, eps = np.random.default_rng(0).uniform(-1, 1, (2, 4, 4, 3)).astype(np.float32)
    t = jnp.full(4, 7)

    @jax.jit
    def everything(scale):
        def denoiser(xt, t):
            return scale * NETWORK(xt, t)

        def mean_loss(scale):
            return x0_loss(TERMINAL, lambda xt, t: scale * NETWORK(xt, t), x0, t, eps, prediction=prediction).mean()

        return (
            jax.value_and_grad(mean_loss)(scale),
            v_loss(TERMINAL, denoiser, x0, t, eps, prediction=prediction),
            kl_loss(TERMINAL, denoiser, x0, t, eps, prediction=prediction),
            vlb_terms(TERMINAL, denoiser, x0, KEY, prediction=prediction),
            sample(ancestral(TERMINAL, prediction=prediction), denoiser, jnp.asarray(eps), KEY),
        )

    found = everything(1.0)
    chex.assert_tree_all_finite(found)
    np.testing.assert_allclose(found[3].prior, np.zeros(4), rtol=0, atol=1e-5)  # x_T is N(0, I), whatever x_0 is
    assert np.abs(found[4]).max() <= 1


def test_last_state_without_signal_is_the_noise_itself():
    x0, eps = np.random.default_rng(0).normal(size=(2, 3, 4)).astype(np.float32)
    np.testing.assert_array_equal(q_sample(TERMINAL, x0, np.full(3, 7), eps), eps)


@pytest.mark.parametrize("prediction", ["eps", "score"])
def test_predictions_that_cannot_say_what_x0_is_without_signal_are_refused(prediction):
    with pytest.raises(InvalidInput, match=prediction):
        ancestral(TERMINAL, prediction=prediction)
    ancestral(respace(TERMINAL, range(7)), prediction=prediction)  # the step before it has some signal left


def test_one_step_cannot_lose_all_its_signal_and_keep_it():
    with pytest.raises(InvalidInput, match="one step"):
        zero_terminal_snr(linear_schedule(1))
