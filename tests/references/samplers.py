"""Samplers as their papers write them.

Each yields the state after every evaluation of the network; `levels` are the log σ where it stops, the noisiest first, and
after them comes clean data. `estimate(x, level)` is the network's x_0, `draw(n)` the noise of evaluation n. States are only
ever scaled and added, so they may be data [B, ...], or the coefficients of an affine form: see `affine_outcome`.
"""

import math
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np

from tests.references.chain import signal_and_noise
from tests.references.known_data import GaussianMixture


def noise_of(key, number, shape, dtype=jnp.float64):
    """The noise that `sample` adds at an evaluation: one half of fold_in(key, number), the other is for what comes after."""
    return jax.random.normal(jax.random.split(jax.random.fold_in(key, number))[0], shape, dtype)


def ddim_states(levels, estimate, x, draw, eta=0.0, eps_of=None):
    """Song et al. 2021, DDIM, eq. 12 and 16. `eps_of(x, level)` is the network's noise where x̂_0 shall not say it."""
    for number, (here, there) in enumerate(pairwise([*levels, -np.inf])):
        (signal, noise), (signal_there, noise_there) = signal_and_noise(here), signal_and_noise(there)
        x0 = estimate(x, here)
        eps = (x - signal * x0) / noise if eps_of is None else eps_of(x, here)
        deviation = eta * noise_there / noise * math.sqrt(1 - (signal / signal_there) ** 2)
        x = signal_there * x0 + math.sqrt(noise_there**2 - deviation**2) * eps + deviation * draw(number)
        yield x


def edm_states(levels, estimate, x, draw, *, correct, churn=0.0, churn_range=(0.0, np.inf), churn_noise=1.0, highest=np.inf):
    """Karras et al. 2022, algorithm 2, in y = x/√ᾱ; without the correction it is Euler's method.

    No σ exceeds e^highest. The noise before a step comes from the last evaluation of the one before; x lies where the first
    step starts, its churn included.
    """
    sigmas = np.exp([*levels, -np.inf])
    inside = (churn_range[0] <= sigmas) & (sigmas <= churn_range[1])
    raised = sigmas * np.where(inside, 1 + min(churn / len(levels), math.sqrt(2) - 1), 1.0)
    raised = np.maximum(sigmas, np.minimum(raised, np.exp(highest)))
    signal_at = 1 / np.sqrt(1 + sigmas**2), 1 / np.sqrt(1 + raised**2)
    y, number = x / signal_at[1][0], 0
    for step, (sigma, stop, following) in enumerate(zip(raised[:-1], sigmas[1:], raised[1:], strict=True)):

        def slope(y, sigma):
            signal = 1 / math.sqrt(1 + sigma**2)
            return (y - estimate(signal * y, math.log(sigma))) / sigma

        first = slope(y, sigma)
        reached = y + (stop - sigma) * first
        if correct and stop > 0:
            yield signal_at[0][step + 1] * reached
            number += 1
            reached = y + (stop - sigma) * (first + slope(reached, stop)) / 2
        y = reached + churn_noise * math.sqrt(following**2 - stop**2) * draw(number)
        number += 1
        yield signal_at[1][step + 1] * y


def exponential_weights(h, nodes, rate=1):
    """Of values at the nodes, counted in λ from the start of a step h: ∫ rate e^(-rate (h-s)) P(s) ds, P the polynomial through
    them. Where P is a line, its value halfway stands for all of it, as in DPM-Solver++ 2M and UniPC with B(h) = e^h - 1.
    """
    if np.isinf(h):
        return np.ones(1)
    at, shares = np.polynomial.legendre.leggauss(30)
    at = h * (1 + at) / 2
    shares = shares * h / 2 * rate * np.exp(-rate * (h - at))
    if len(nodes) == 2:
        at, shares = np.array([h / 2]), np.array([-np.expm1(-rate * h)])
    powers_at, powers_there = (np.vander(np.asarray(when) / h, len(nodes), increasing=True) for when in (at, nodes))
    return np.linalg.solve(powers_there.T, shares @ powers_at)


def dpm_solver_pp_states(levels, estimate, x, draw, order, stochastic=False):
    """Lu et al. 2022, DPM-Solver++, proposition 4.1 (the ODE) and section 5 (the SDE): λ = -log σ, x̂_0 a polynomial in it."""
    known = []  # λ and x̂_0, the newest first
    for number, (here, there) in enumerate(pairwise([*levels, -np.inf])):
        noise, (signal_there, noise_there) = signal_and_noise(here)[1], signal_and_noise(there)
        h = here - there
        known = [(-here, estimate(x, here)), *known][: order if np.isfinite(h) else 1]
        weights = exponential_weights(h, [when + here for when, _ in known], 1 + stochastic)
        kept = noise_there / noise * (np.exp(-h) if stochastic else 1)
        x = kept * x + signal_there * sum(weight * x0 for weight, (_, x0) in zip(weights, known, strict=True))
        x = x + stochastic * noise_there * math.sqrt(-np.expm1(-2 * h)) * draw(number)
        yield x


def unipc_states(levels, estimate, x, draw, order):
    """Zhao et al. 2023, UniPC, algorithms 5 and 6: each state is corrected once x̂_0 is known where it lies."""
    known, before = [], None
    for number, (here, there) in enumerate(pairwise([*levels, -np.inf])):
        x0 = estimate(x, here)
        if before is not None:  # the step that led here, now with what the network says at its end
            start, level, past = before
            x = _unipc_step(start, level, here, [(-here, x0), *past])
        known = [(-here, x0), *known]
        past = known[: min(order, number + 1, len(levels) - number)]
        before = x, here, past
        x = _unipc_step(x, here, there, past)
        yield x


def _unipc_step(x, here, there, known):
    weights = exponential_weights(here - there, [when + here for when, _ in known])
    signal_there, noise_there = signal_and_noise(there)
    following = sum(weight * x0 for weight, (_, x0) in zip(weights, known, strict=True))
    return noise_there / signal_and_noise(here)[1] * x + signal_there * following


def affine_outcome(states, data: GaussianMixture, start, evaluations):
    """Mean and variance [D] of what a sampler ends in when it is started from q(x_T), `start` being its level.

    The data is one Gaussian of independent components, so that every state is affine in x_T and the noises, all of them
    independent: rows 1, x_T standardised, z_0, z_1, …. `states(estimate, x, draw)` is one of the samplers above.
    """
    rows = np.eye(2 + evaluations)[:, :, None]
    mean, variance = data.means[0], data.variances[0]

    def estimate(x, level):
        signal, noise = signal_and_noise(level)
        gain = signal * variance / (signal**2 * variance + noise**2)
        return gain * x + (1 - gain * signal) * mean * rows[0]

    signal, noise = signal_and_noise(start)
    x_T = signal * mean * rows[0] + np.sqrt(signal**2 * variance + noise**2) * rows[1]
    *_, end = states(estimate, x_T, lambda number: rows[2 + number])
    return end[0], (end[1:] ** 2).sum(axis=0)
