"""A forward process and its reversal, from its betas alone."""

import dataclasses
import math
from functools import cached_property

import jax.numpy as jnp
import numpy as np
from scipy import stats

PREDICTIONS = ("eps", "x0", "v", "mean", "score")
VARIANCES = ("fixed_small", "fixed_large", "learned", "learned_range")

PIXELS = np.linspace(-1, 1, 256)  # the 256 levels of an 8-bit image
LOG_FLOOR = math.log(1e-12)  # the least log-probability that the decoder gives


def column(values, like):
    """[B] -> [B, 1, ...], to stand beside `like`."""
    return np.reshape(values, np.shape(values) + (1,) * (np.ndim(like) - np.ndim(values)))


def mean_over_example(values):
    return np.reshape(values, (len(values), -1)).mean(axis=1)


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


def signal_and_noise(level, xp=np):
    """√ᾱ and √(1-ᾱ) where log √((1-ᾱ)/ᾱ) is `level`; each keeps its digits."""
    return xp.exp(-0.5 * xp.logaddexp(0.0, 2 * level)), xp.exp(-0.5 * xp.logaddexp(0.0, -2 * level))


@dataclasses.dataclass(frozen=True)
class Chain:
    """A forward process and its reversal, from its betas alone."""

    betas: np.ndarray

    @property
    def steps(self) -> int:
        return len(self.betas)

    @cached_property
    def log_alphas_bar(self):
        with np.errstate(divide="ignore"):  # log 0 where β = 1
            return np.cumsum(np.log1p(-self.betas))

    @cached_property
    def alphas_bar(self):
        return np.exp(self.log_alphas_bar)

    @cached_property
    def noise_variance(self):
        """[T] 1 - ᾱ_t, with its digits kept where ᾱ_t is near one."""
        return -np.expm1(self.log_alphas_bar)

    @cached_property
    def levels(self):
        """[T] log σ with σ = √((1-ᾱ)/ᾱ), ∞ where β = 1."""
        return (np.log(self.noise_variance) - self.log_alphas_bar) / 2

    def levels_at(self, t, xp=jnp):
        """[B] log σ at the times t, linear in t between two steps where t is real. `xp` is numpy or jax.numpy."""
        t = xp.asarray(t)
        return (
            xp.asarray(self.levels)[t] if t.dtype.kind in "iu" else xp.interp(t, xp.arange(self.steps), xp.asarray(self.levels))
        )

    def respaced(self, timesteps) -> "Chain":
        """The chain over x_0 and the x_t of the given times alone, from ᾱ at these."""
        return Chain(-np.expm1(np.diff(self.log_alphas_bar[list(timesteps)], prepend=0.0)))

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

    def output(self, x0, xt, t, prediction):
        """What a network of the given kind says when it means x_0."""
        signal, noise = (column(np.sqrt(table[t]), xt) for table in (self.alphas_bar, self.noise_variance))
        return {
            "eps": lambda: (xt - signal * x0) / noise,
            "x0": lambda: x0,
            "v": lambda: (signal * xt - x0) / noise,  # √ᾱ ε - σ x_0 at this ε
            "mean": lambda: self.posterior(x0, xt, t)[0],
            "score": lambda: (signal * x0 - xt) / noise**2,  # ∇ log N(x_t; √ᾱ x_0, σ²)
        }[prediction]()

    def line(self, t, prediction):
        """[B] c and d: the output that stands for x_0 is c x_t + d x_0, whatever the kind."""
        zeros, ones = np.zeros(np.shape(t)), np.ones(np.shape(t))
        return self.output(zeros, ones, t, prediction), self.output(ones, zeros, t, prediction)

    def converted(self, output, xt, t, source, target):
        """The output of kind `target` that means what `output` of kind `source` means."""
        if source == target:
            return output
        from_xt, from_x0 = (column(coefficient, xt) for coefficient in self.line(t, source))
        return self.output((output - from_xt * xt) / from_x0, xt, t, target)

    def reverse_variance(self, t, like, variance, values=None):
        """σ_t² of Ho et al. 2020, section 3.2, or of Nichol & Dhariwal 2021, eq. 15, at the network's values.

        The posterior variance at t = 0 is that of t = 1; so is the fixed large one.
        """
        posterior = self.posterior(np.zeros(np.shape(t)), np.zeros(np.shape(t)), np.maximum(t, 1))[1]
        if variance == "learned":
            return np.exp(values)
        if variance == "learned_range":
            share = (values + 1) / 2
            return column(self.betas[t], like) ** share * column(posterior, like) ** (1 - share)
        return column({"fixed_small": posterior, "fixed_large": np.where(t > 0, self.betas[t], posterior)}[variance], like)

    def reverse(self, output, xt, t, *, prediction, variance, clip=None):
        """Mean and variance of p(x_{t-1} | x_t), and the x_0 they follow from."""
        output, values = np.split(output, 2, axis=-1) if variance.startswith("learned") else (output, None)
        x0 = self.converted(output, xt, t, prediction, "x0")
        x0 = x0 if clip is None else clip(x0)
        return self.posterior(x0, xt, t)[0], self.reverse_variance(t, xt, variance, values), x0

    def bound_term(self, denoiser, x0, t, eps, *, prediction, variance):
        """[B] L_t in nats; at t = 0 the decoder."""
        xt = self.noised(x0, t, eps)
        mean, spread, _ = self.reverse(denoiser(xt, t), xt, t, prediction=prediction, variance=variance)
        posterior_mean, posterior_variance = self.posterior(x0, xt, t)
        positive = np.where(posterior_variance > 0, posterior_variance, 1.0)  # t = 0 has the decoder instead
        kl = normal_kl(posterior_mean, positive, mean, spread)
        decoder = -bin_log_probability(x0, mean, np.sqrt(spread))
        return np.where(column(t == 0, x0), decoder, kl).reshape(len(x0), -1).sum(axis=1)


def x0_said(output, x, level, prediction):
    """The x_0 that a network's output means at a level log σ; all but "mean", which has no meaning between two steps."""
    signal, noise = signal_and_noise(level)
    return {
        "eps": lambda: (x - noise * output) / signal,
        "x0": lambda: output,
        "v": lambda: signal * x - noise * output,
        "score": lambda: (x + noise**2 * output) / signal,
    }[prediction]()
