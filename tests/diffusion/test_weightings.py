import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import parameterized

from jax_ddpm import (
    InvalidInput,
    cosine_schedule,
    eps_loss,
    kl_loss,
    linear_schedule,
    min_snr_weight,
    p2_weight,
    rescaled_kl_loss,
    snr,
    snr_weight,
    truncated_snr_weight,
    v_loss,
    vlb_weight,
    weighted,
    x0_loss,
    zero_terminal_snr,
)
from tests.references.chain import PIXELS, Chain
from tests.references.denoisers import small_network

SCHEDULE, SCHEDULE64 = linear_schedule(1000), linear_schedule(1000, dtype=np.float64)
CHAIN = Chain(SCHEDULE64.betas)
RATIO = CHAIN.signal_to_noise(np.arange(1000))
TIMES = np.array([1, 2, 40, 300, 700, 999])
NETWORK = small_network(jnp, 3)
ERRORS = {"eps": eps_loss, "x0": x0_loss, "v": v_loss}


def vlb_reference(t, variance):
    """(weight of x_0 in the posterior's mean)² / 2σ², the weight from the Kalman filter."""
    weight = CHAIN.posterior(np.ones(len(t)), np.zeros(len(t)), t)[0]
    return weight**2 / (2 * CHAIN.reverse_variance(t, t, variance))


# name, the weighting, what it is in terms of t
WEIGHTINGS = (
    ("snr", snr, lambda t: RATIO[t]),
    ("snr_weight", snr_weight, lambda t: RATIO[t]),
    ("truncated", truncated_snr_weight, lambda t: np.where(RATIO[t] > 1, RATIO[t], 1)),
    ("min_snr", min_snr_weight, lambda t: np.where(RATIO[t] < 5, RATIO[t], 5)),
    ("min_snr_2", functools.partial(min_snr_weight, gamma=2.0), lambda t: np.where(RATIO[t] < 2, RATIO[t], 2)),
    ("p2", p2_weight, lambda t: CHAIN.alphas_bar[t]),  # SNR/(1 + SNR)
    ("p2_k_gamma", functools.partial(p2_weight, k=3.0, gamma=0.5), lambda t: RATIO[t] * (3 + RATIO[t]) ** -0.5),
    ("vlb", vlb_weight, lambda t: vlb_reference(t, "fixed_large")),
    ("vlb_small", functools.partial(vlb_weight, variance="fixed_small"), lambda t: vlb_reference(t, "fixed_small")),
)
EVERY_T = np.arange(1000)


class EveryWeighting(chex.TestCase):
    @chex.all_variants
    @parameterized.named_parameters(*WEIGHTINGS)
    def test_float32_agrees_with_the_closed_form_at_every_t(self, weighting, reference):
        weights = self.variant(weighting)(SCHEDULE, EVERY_T)
        chex.assert_shape(weights, (1000,))
        chex.assert_type(weights, jnp.float32)
        # A log-variance of up to 10 is rounded to 5e-7; a few roundings of 2^-24 beside.
        np.testing.assert_allclose(weights, reference(EVERY_T), rtol=2e-6)


@pytest.mark.parametrize(("weighting", "reference"), [w[1:] for w in WEIGHTINGS], ids=[w[0] for w in WEIGHTINGS])
def test_float64_agrees_with_the_closed_form_at_every_t(weighting, reference):
    with jax.enable_x64(True):
        weights = jax.jit(weighting)(SCHEDULE64, EVERY_T)
    chex.assert_type(weights, jnp.float64)
    np.testing.assert_allclose(weights, reference(EVERY_T), rtol=1e-11)  # the tables hold 12 digits


@pytest.mark.parametrize("make", [linear_schedule, cosine_schedule])
def test_weight_of_the_bound_is_half_the_fall_of_the_signal_to_noise_ratio(make):
    schedule = make(1000, dtype=np.float64)
    ratio = Chain(schedule.betas).signal_to_noise(EVERY_T)
    with jax.enable_x64(True):
        weights = vlb_weight(schedule, jnp.asarray(EVERY_T), "fixed_small")
    # (SNR_{t-1} - SNR_t)/2: the difference of neighbours loses up to four of sixteen digits.
    np.testing.assert_allclose(weights[1:], -np.diff(ratio) / 2, rtol=1e-9)


def inputs(dtype=np.float64):
    rng = np.random.default_rng(0)
    return rng.choice(PIXELS, (6, 4, 3)).astype(dtype), rng.normal(size=(6, 4, 3)).astype(dtype)


def weighted_losses(weighting, prediction="v"):
    """For each kind of error the loss under the weighting, as a function of (schedule, x0, t, eps): [3, B]."""

    def losses(schedule, x0, t, eps):
        return jnp.stack(
            [
                weighted(functools.partial(loss, prediction=prediction), weighting, error)(schedule, NETWORK, x0, t, eps)
                for error, loss in ERRORS.items()
            ]
        )

    return jax.jit(losses)


@pytest.mark.parametrize("weighting", [w[1] for w in WEIGHTINGS], ids=[w[0] for w in WEIGHTINGS])
def test_one_weighting_is_one_objective_whatever_the_loss_is_the_error_of(weighting):
    x0, eps = inputs()
    with jax.enable_x64(True):
        found = weighted_losses(weighting)(SCHEDULE64, x0, TIMES, eps)
        x0_error = x0_loss(SCHEDULE64, NETWORK, x0, jnp.asarray(TIMES), eps, prediction="v")
        expected = weighting(SCHEDULE64, jnp.asarray(TIMES)) * x0_error
    chex.assert_shape(found, (3, 6))
    np.testing.assert_allclose(found, np.broadcast_to(expected, (3, 6)), rtol=1e-10)  # the tables hold 12 digits
    single = weighted_losses(weighting)(SCHEDULE, x0.astype(np.float32), TIMES, eps.astype(np.float32))
    chex.assert_type(single, jnp.float32)
    np.testing.assert_allclose(single, np.broadcast_to(expected, (3, 6)), rtol=3e-4)  # as the losses themselves


def test_signal_to_noise_weighting_of_the_error_of_x0_is_l_simple():
    x0, eps = inputs()
    with jax.enable_x64(True):
        t = jnp.asarray(TIMES)
        by_x0 = weighted(functools.partial(x0_loss, prediction="eps"), snr_weight, "x0")(SCHEDULE64, NETWORK, x0, t, eps)
        simple = eps_loss(SCHEDULE64, NETWORK, x0, t, eps)
        unchanged = weighted(eps_loss, snr_weight, "eps")(SCHEDULE64, NETWORK, x0, t, eps)
    np.testing.assert_allclose(by_x0, simple, rtol=1e-10)
    np.testing.assert_allclose(unchanged, simple, rtol=1e-14)


@pytest.mark.parametrize("variance", ["fixed_small", "fixed_large"])
def test_weighting_of_the_bound_turns_l_simple_into_it(variance):
    x0, eps = inputs()
    weighting = functools.partial(vlb_weight, variance=variance)

    @jax.jit
    def both(schedule, x0, t, eps):
        simple = weighted(eps_loss, weighting, "eps")(schedule, NETWORK, x0, t, eps)
        return 12 * simple, kl_loss(schedule, NETWORK, x0, t, eps, variance=variance)

    with jax.enable_x64(True):
        by_simple, kl = map(np.asarray, both(SCHEDULE64, x0, TIMES, eps))
    posterior = CHAIN.reverse_variance(TIMES, TIMES, "fixed_small")
    ratio = posterior / CHAIN.reverse_variance(TIMES, TIMES, variance)
    variance_cost = 12 * (ratio - 1 - np.log(ratio)) / 2  # nothing where the variance is the posterior's
    assert (variance == "fixed_small") == np.all(variance_cost == 0)
    np.testing.assert_allclose(by_simple, kl - variance_cost, rtol=1e-9)


def test_weighted_l_simple_over_uniform_t_is_the_bound():
    steps = 12
    schedule = linear_schedule(steps, beta_end=4e-3, dtype=np.float64)
    x0, eps = np.repeat(inputs()[0][:1], steps - 1, axis=0), np.random.default_rng(1).normal(size=(steps - 1, 4, 3))
    weighting = functools.partial(vlb_weight, variance="fixed_small")
    with jax.enable_x64(True):
        t = jnp.arange(1, steps)
        objective = (steps * 12 * weighted(eps_loss, weighting, "eps")(schedule, NETWORK, x0, t, eps)).mean()
        bound = rescaled_kl_loss(schedule, NETWORK, x0, t, eps, variance="fixed_small").mean()
    np.testing.assert_allclose(objective, bound, rtol=1e-10)


@pytest.mark.parametrize("error", ["x0", "v"])
def test_weighted_losses_are_finite_where_the_last_step_has_no_signal(error):
    schedule, t = zero_terminal_snr(linear_schedule(8)), jnp.array([0, 1, 2, 5, 6, 7])
    x0, eps = inputs(np.float32)
    for _, weighting, _ in WEIGHTINGS:
        loss = functools.partial(ERRORS[error], prediction="v")
        chex.assert_tree_all_finite(weighted(loss, weighting, error)(schedule, NETWORK, x0, t, eps))


@pytest.mark.parametrize(("given_name", "meant"), [("epsilon", "eps"), ("x_0", "x0")])
def test_error_of_an_unknown_kind_is_refused(given_name, meant):
    with pytest.raises(
        InvalidInput, match=rf"unknown error '{given_name}': expected one of eps, x0, v\. Did you mean '{meant}'"
    ):
        weighted(eps_loss, snr_weight, given_name)


def test_weight_of_the_bound_needs_a_fixed_variance():
    with pytest.raises(InvalidInput, match="learned_range"):
        vlb_weight(SCHEDULE, jnp.asarray(TIMES), "learned_range")
