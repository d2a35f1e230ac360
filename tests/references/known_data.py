"""Data of which the best denoiser, the likelihood, the flow and what sampling ends in are known exactly."""

import dataclasses

import jax.numpy as jnp
import numpy as np
from scipy import integrate, stats

from tests.references.chain import Chain, signal_and_noise


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

    def denoiser(self, chain: Chain, prediction):
        """The JAX function (x_t [B, D], t [B]) -> the mean, given x_t, of what `prediction` names."""
        from_xt, from_x0 = chain.line(np.arange(chain.steps), prediction)
        gains = self.gains(chain.alphas_bar)
        slopes = from_xt[:, None, None] * np.eye(len(self.mean)) + from_x0[:, None, None] * gains
        levels = from_x0[:, None] * (self.mean - np.sqrt(chain.alphas_bar)[:, None] * (gains @ self.mean))

        def expected(xt, t):
            return jnp.asarray(levels, xt.dtype)[t] + jnp.einsum("bij,bj->bi", jnp.asarray(slopes, xt.dtype)[t], xt)

        return expected

    def log_density(self, x, share=1.0):
        """[B] log q(x_t = x) where ᾱ_t is `share`."""
        covariance = share * self.covariance + (1 - share) * np.eye(len(self.mean))
        return stats.multivariate_normal.logpdf(x, np.sqrt(share) * self.mean, covariance)

    def ancestral_step(self, chain: Chain, t, variance="fixed_large"):
        """[D, D], [D] and a number: x_{t-1} = A x_t + b + σ z by the best denoiser."""
        when, gain = np.array([t]), self.gains(chain.alphas_bar[t : t + 1])[0]
        of_x0, of_xt = (chain.posterior(*map(np.array, pair), when)[0].item() for pair in ([[1.0], [0.0]], [[0.0], [1.0]]))
        offset = of_x0 * (self.mean - np.sqrt(chain.alphas_bar[t]) * gain @ self.mean)
        added = chain.reverse_variance(when, np.zeros(1), variance).item() if t > 0 else 0.0
        return of_x0 * gain + of_xt * np.eye(len(self.mean)), offset, np.sqrt(added)

    def ancestral_outcome(self, chain: Chain, variance):
        """Mean and covariance of what ancestral sampling with the best denoiser ends in.

        Every step is affine in x_t with added noise, so the chain is Gaussian throughout.
        """
        mean, covariance = np.zeros(len(self.mean)), np.eye(len(self.mean))
        for t in reversed(range(chain.steps)):
            slopes, offset, deviation = self.ancestral_step(chain, t, variance)
            mean = slopes @ mean + offset
            covariance = slopes @ covariance @ slopes.T + deviation**2 * np.eye(len(self.mean))
        return mean, covariance

    def flow(self, x, start, end):
        """[B, D] where the probability flow takes x from the level log σ `start` to the level `end`.

        All the covariances of x_t commute, so whitened by them x stands still: C^-½ (x - √ᾱ mean) is the same at both levels.
        """
        spreads, axes = np.linalg.eigh(self.covariance)
        (signal, noise), (signal_there, noise_there) = signal_and_noise(start), signal_and_noise(end)
        stretch = np.sqrt((signal_there**2 * spreads + noise_there**2) / (signal**2 * spreads + noise**2))
        return signal_there * self.mean + (x - signal * self.mean) @ axes * stretch @ axes.T


@dataclasses.dataclass(frozen=True)
class GaussianMixture:
    """Data Σ_k weights_k N(means_k, diag variances_k), k being the class; all that follows from it is known exactly.

    Levels are log σ with σ = √((1-ᾱ)/ᾱ), numbers or [B], real. `xp` is numpy, or jax.numpy for functions to be traced.

    Attributes:
      weights: [K], of sum 1.
      means, variances: [K, D].
    """

    weights: np.ndarray
    means: np.ndarray
    variances: np.ndarray

    @property
    def classes(self) -> int:
        return len(self.weights)

    @property
    def mean(self):
        return self.weights @ self.means

    @property
    def covariance(self):
        away = self.means - self.mean
        return np.diag(self.weights @ self.variances) + (self.weights[:, None] * away).T @ away

    def draw(self, count, seed=0):
        """[count, D] data, and [count] the class of each."""
        rng = np.random.default_rng(seed)
        labels = rng.choice(self.classes, count, p=self.weights)
        return self.means[labels] + np.sqrt(self.variances[labels]) * rng.normal(size=(count, self.means.shape[1])), labels

    def draw_noised(self, level, count, seed=0):
        """[count, D] draws of x_t at a level."""
        signal, noise = signal_and_noise(level)
        return signal * self.draw(count, seed)[0] + noise * np.random.default_rng((seed, 1)).normal(
            size=(count, self.means.shape[1])
        )

    def distribution(self, x, direction):
        """[B] the share of the data whose component along `direction` [D] is at most x [B]."""
        direction = np.asarray(direction, np.float64)
        centres, spreads = self.means @ direction, np.sqrt(self.variances @ direction**2)
        return stats.norm.cdf(np.asarray(x)[:, None], centres, spreads) @ self.weights

    def _at(self, level, x, xp):
        """√ᾱ and √(1-ᾱ) [B, 1, 1], and the means and variances [B, K, D] of x_t given the class."""
        levels = xp.broadcast_to(xp.asarray(level, x.dtype), x.shape[:1])
        signal, noise = (each[:, None, None] for each in signal_and_noise(levels, xp))
        means, variances = xp.asarray(self.means, x.dtype), xp.asarray(self.variances, x.dtype)
        return signal, noise, signal * means, signal**2 * variances + noise**2

    def log_joint(self, x, level, xp=np):
        """[B, K] log of weights_k q(x_t = x | k); as logits these are the exact classifier of x_t."""
        _, _, means, variances = self._at(level, x, xp)
        squares = (x[:, None] - means) ** 2 / variances + xp.log(2 * np.pi * variances)
        return xp.log(xp.asarray(self.weights, x.dtype)) - 0.5 * squares.sum(axis=-1)

    def log_density(self, x, level, xp=np):
        """[B] log q(x_t = x)."""
        joint = self.log_joint(x, level, xp)
        top = joint.max(axis=1, keepdims=True)
        return top[:, 0] + xp.log(xp.exp(joint - top).sum(axis=1))

    def posteriors(self, x, level, xp=np):
        """[B, K] p(k | x_t = x)."""
        return xp.exp(self.log_joint(x, level, xp) - self.log_density(x, level, xp)[:, None])

    def expected_x0(self, x, level, labels=None, xp=np):
        """[B, D] E[x_0 | x_t = x], or E[x_0 | x_t = x, k] for the labels k [B]."""
        signal, _, means, variances = self._at(level, x, xp)
        of_class = xp.asarray(self.means, x.dtype) + signal * xp.asarray(self.variances, x.dtype) / variances * (
            x[:, None] - means
        )
        shares = self.posteriors(x, level, xp) if labels is None else xp.asarray(np.eye(self.classes), x.dtype)[labels]
        return (shares[:, :, None] * of_class).sum(axis=1)

    def denoiser(self, chain: Chain, prediction, labels=None):
        """The JAX function (x_t [B, D], t [B] whole or real) -> the mean, given x_t, of what `prediction` names.

        With labels [B], given the class too. "mean" is known at whole t alone.
        """

        def expected(xt, t):
            level = jnp.asarray(chain.levels_at(t), xt.dtype)
            x0 = self.expected_x0(xt, level, labels, jnp)
            if prediction == "mean":
                from_xt, from_x0 = (
                    jnp.asarray(part, xt.dtype)[t][:, None] for part in chain.line(np.arange(chain.steps), "mean")
                )
                return from_xt * xt + from_x0 * x0
            signal, noise = (each[:, None] for each in signal_and_noise(level, jnp))
            return {
                "eps": lambda: (xt - signal * x0) / noise,
                "x0": lambda: x0,
                "v": lambda: (signal * xt - x0) / noise,
                "score": lambda: (signal * x0 - xt) / noise**2,
            }[prediction]()

        return expected

    def labelled_denoiser(self, chain: Chain, prediction):
        """(x_t, t, labels [B]) -> as `denoiser` for these labels; the label K stands for no class at all."""

        def expected(xt, t, labels):
            whole = self.denoiser(chain, prediction)(xt, t)
            of_class = self.denoiser(chain, prediction, jnp.minimum(labels, self.classes - 1))(xt, t)
            return jnp.where((labels < self.classes)[:, None], of_class, whole)

        return expected

    def classifier(self, chain: Chain):
        """The JAX function (x_t [B, D], t [B]) -> logits [B, K], the exact class posteriors of x_t."""
        return lambda xt, t: self.log_joint(xt, jnp.asarray(chain.levels_at(t), xt.dtype), jnp)

    def flow(self, x, start, end):
        """[B, D] where the probability flow takes x from the level `start` to `end`, to a relative 1e-12 a step of the solver.

        dx/dℓ = √ᾱ (√ᾱ x - E[x_0 | x_t = x]) in ℓ = log σ        (Song et al. 2021, score-based modelling, eq. 13, in ℓ)
        """

        def velocity(level, flat):
            at_level, signal = flat.reshape(x.shape), signal_and_noise(level)[0]
            return (signal * (signal * at_level - self.expected_x0(at_level, level))).ravel()

        solution = integrate.solve_ivp(velocity, (start, end), x.ravel(), "DOP853", rtol=1e-12, atol=1e-12)
        return solution.y[:, -1].reshape(x.shape)
