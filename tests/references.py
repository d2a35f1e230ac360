"""What the tests compare with: the equations in NumPy float64, each worked out by another route than the package takes.

Times t are integer arrays [B] in 0..T-1, data are [B, ...], and nothing here calls the package.
"""

import dataclasses
import math
from collections.abc import Callable
from functools import cached_property

import jax.numpy as jnp
import numpy as np
from scipy import stats

PIXELS = np.linspace(-1, 1, 256)  # the 256 levels of an 8-bit image
LOG_FLOOR = math.log(1e-12)  # the least log-probability that the decoder gives


def column(values, like):
    """[B] -> [B, 1, ...], to stand beside `like`."""
    return np.reshape(values, np.shape(values) + (1,) * (np.ndim(like) - np.ndim(values)))


def normal_kl(mean_p, variance_p, mean_q, variance_q):
    """KL(N(mean_p, variance_p) ‖ N(mean_q, variance_q)) as the textbooks print it."""
    return np.log(variance_q / variance_p) / 2 + (variance_p + (mean_p - mean_q) ** 2) / (2 * variance_q) - 0.5


def bin_log_probability(x0, mean, deviation):
    """log of the mass of N(mean, deviation²) within 1/255 of x0, the end bins being open, not below log 1e-12."""
    x0, mean, deviation = np.broadcast_arrays(*(np.asarray(a, np.float64) for a in (x0, mean, deviation)))
    below = np.where(x0 > 0.999, np.inf, (x0 + 1 / 255 - mean) / deviation)
    above = np.where(x0 < -0.999, -np.inf, (x0 - 1 / 255 - mean) / deviation)
    by_cdf = stats.norm.cdf(below) - stats.norm.cdf(above)
    by_tail = stats.norm.sf(above) - stats.norm.sf(below)
    mass = np.where(above > 0, by_tail, by_cdf)  # the side on which the difference keeps its digits
    return np.log(np.maximum(mass, 1e-12))


@dataclasses.dataclass(frozen=True)
class Chain:
    """A forward process and its reversal, from its betas alone."""

    betas: np.ndarray

    @property
    def steps(self) -> int:
        return len(self.betas)

    @cached_property
    def alphas_bar(self):
        return np.exp(np.cumsum(np.log1p(-self.betas)))

    @cached_property
    def noise_variance(self):
        """[T] 1 - ᾱ_t, with its digits kept where ᾱ_t is near one."""
        return -np.expm1(np.cumsum(np.log1p(-self.betas)))

    def signal_to_noise(self, t):
        return self.alphas_bar[t] / self.noise_variance[t]

    def noised(self, x0, t, eps):
        return column(np.sqrt(self.alphas_bar[t]), x0) * x0 + column(np.sqrt(self.noise_variance[t]), x0) * eps

    def posterior(self, x0, xt, t):
        """Mean and variance of x_{t-1} given x_t and x_0, as a Kalman filter finds them.

        Before x_t is seen, x_{t-1} is N(√ᾱ_{t-1} x_0, 1-ᾱ_{t-1}); x_t measures √α_t x_{t-1} with noise β_t.
        """
        before = np.where(t > 0, self.noise_variance[t - 1], 0.0)
        expected = column(np.where(t > 0, np.sqrt(self.alphas_bar[t - 1]), 1.0), x0) * x0
        root_alpha = np.sqrt(1 - self.betas[t])
        gain = before * root_alpha / (root_alpha**2 * before + self.betas[t])
        mean = expected + column(gain, x0) * (xt - column(root_alpha, x0) * expected)
        return mean, column((1 - gain * root_alpha) * before, x0)

    def reverse_variance(self, t, like, variance):
        """σ_t² of Ho et al. 2020, section 3.2; at t = 0 both choices are the posterior variance of t = 1."""
        posterior = self.posterior(np.zeros(np.shape(t)), np.zeros(np.shape(t)), np.maximum(t, 1))[1]
        return column({"fixed_small": posterior, "fixed_large": np.where(t > 0, self.betas[t], posterior)}[variance], like)

    def predicted_x0(self, output, xt, t, prediction):
        if prediction == "x0":
            return output
        return (xt - column(np.sqrt(self.noise_variance[t]), xt) * output) / column(np.sqrt(self.alphas_bar[t]), xt)

    def predicted_eps(self, output, xt, t, prediction):
        if prediction == "eps":
            return output
        return (xt - column(np.sqrt(self.alphas_bar[t]), xt) * output) / column(np.sqrt(self.noise_variance[t]), xt)

    def reverse(self, output, xt, t, *, prediction, variance, clip=None):
        """Mean and variance of p(x_{t-1} | x_t), and the x_0 they follow from."""
        x0 = self.predicted_x0(output, xt, t, prediction)
        x0 = x0 if clip is None else clip(x0)
        return self.posterior(x0, xt, t)[0], self.reverse_variance(t, xt, variance), x0

    def bound_term(self, denoiser, x0, t, eps, *, prediction, variance):
        """[B] L_t in nats; at t = 0 the decoder."""
        xt = self.noised(x0, t, eps)
        mean, spread, _ = self.reverse(denoiser(xt, t), xt, t, prediction=prediction, variance=variance)
        posterior_mean, posterior_variance = self.posterior(x0, xt, t)
        positive = np.where(posterior_variance > 0, posterior_variance, 1.0)  # t = 0 has the decoder instead
        kl = normal_kl(posterior_mean, positive, mean, spread)
        decoder = -bin_log_probability(x0, mean, np.sqrt(spread))
        return np.where(column(t == 0, x0), decoder, kl).reshape(len(x0), -1).sum(axis=1)


def small_network(xp, channels: int) -> Callable:
    """A fixed network (x [B, ..., channels], t [B]) -> the shape of x; `xp` is numpy or jax.numpy, the numbers the same.

    The weights are multiples of 1/64, so that float32 holds them exactly.
    """
    weights, bias, pace = (
        np.round(64 * np.random.default_rng(seed).normal(size=shape)) / 64
        for seed, shape in enumerate([(channels, channels), (channels,), (channels,)])
    )

    def network(x, t):
        when = xp.asarray(t, x.dtype).reshape(t.shape + (1,) * (x.ndim - 1)) / 64
        return 1.5 * xp.tanh(x @ xp.asarray(weights, x.dtype) + when * xp.asarray(pace, x.dtype) + xp.asarray(bias, x.dtype))

    return network


@dataclasses.dataclass(frozen=True)
class GaussianData:
    """Data N(mean, covariance), of which the best denoiser and everything that follows from it are known exactly."""

    mean: np.ndarray
    covariance: np.ndarray

    def gains(self, alphas_bar):
        """[T, D, D] G_t such that E[x_0 | x_t] = mean + G_t (x_t - √ᾱ_t mean): the regression of x_0 on x_t."""
        share = np.asarray(alphas_bar, np.float64)[:, None, None]
        covariance_of_xt = share * self.covariance + (1 - share) * np.eye(len(self.mean))
        return np.sqrt(share) * self.covariance @ np.linalg.inv(covariance_of_xt)

    def denoiser(self, alphas_bar, prediction):
        """The JAX function (x_t [B, D], t [B]) -> E[x_0 | x_t] for the prediction "x0", E[ε | x_t] for "eps"."""
        alphas_bar = np.asarray(alphas_bar, np.float64)
        identity = np.eye(len(self.mean))
        signal, noise = (np.sqrt(share)[:, None, None] for share in (alphas_bar, 1 - alphas_bar))
        of_x0 = self.gains(alphas_bar)
        slopes = {"x0": of_x0, "eps": (identity - signal * of_x0) / noise}[prediction]  # ε = (x_t - √ᾱ_t x_0)/√(1-ᾱ_t)
        level = {"x0": self.mean, "eps": 0 * self.mean}[prediction]
        centres = signal[:, :, 0] * self.mean

        def expected(xt, t):
            centred = xt - jnp.asarray(centres, xt.dtype)[t]
            return jnp.asarray(level, xt.dtype) + jnp.einsum("bij,bj->bi", jnp.asarray(slopes, xt.dtype)[t], centred)

        return expected

    def ancestral_outcome(self, chain: Chain, variance):
        """Mean and covariance of what ancestral sampling with the best denoiser ends in.

        Every step is affine in x_t with added noise, x_{t-1} = A x_t + b + σ z, so the chain is Gaussian throughout.
        """
        identity = np.eye(len(self.mean))
        mean, covariance = np.zeros(len(self.mean)), identity
        for t, gain in reversed(list(enumerate(self.gains(chain.alphas_bar)))):
            when = np.array([t])
            from_x0, from_xt = (
                chain.posterior(*pair, when)[0].item() for pair in ((np.ones(1), np.zeros(1)), (np.zeros(1), np.ones(1)))
            )
            slope = from_x0 * gain + from_xt * identity
            offset = from_x0 * (self.mean - np.sqrt(chain.alphas_bar[t]) * gain @ self.mean)
            added = chain.reverse_variance(when, np.zeros(1), variance).item() if t > 0 else 0.0
            mean, covariance = slope @ mean + offset, slope @ covariance @ slope.T + added * identity
        return mean, covariance
