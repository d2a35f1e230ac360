"""What the tests compare with: the equations in NumPy float64, each worked out by another route than the package takes.

Times t are integer arrays [B] in 0..T-1, data are [B, ...], and nothing here calls the package.
"""

import dataclasses
import math
from collections.abc import Callable
from functools import cached_property
from itertools import pairwise

import chex
import jax
import jax.numpy as jnp
import numpy as np
from scipy import integrate, stats

PREDICTIONS = ("eps", "x0", "v", "mean", "score")
VARIANCES = ("fixed_small", "fixed_large", "learned", "learned_range")

PIXELS = np.linspace(-1, 1, 256)  # the 256 levels of an 8-bit image
LOG_FLOOR = math.log(1e-12)  # the least log-probability that the decoder gives


def column(values, like):
    """[B] -> [B, 1, ...], to stand beside `like`."""
    return np.reshape(values, np.shape(values) + (1,) * (np.ndim(like) - np.ndim(values)))


def assert_float64_agrees(ours, reference, schedule, arrays, t, atol=1e-10):
    """`ours(schedule, *arrays, t)`, compiled in float64, has the values of `reference(*arrays, t)`.

    Within 1e-10 because the tables hold twelve digits and more, and no difference of theirs loses more than two.
    """
    doubles = [a.astype(np.float64) for a in arrays]
    with jax.enable_x64(True):
        actual = jax.tree.leaves(jax.jit(ours)(schedule, *doubles, t))
    chex.assert_type(actual, jnp.float64)
    for ours_part, reference_part in zip(actual, jax.tree.leaves(reference(*doubles, t)), strict=True):
        np.testing.assert_allclose(ours_part, reference_part, rtol=1e-10, atol=atol)


def equations(jaxpr):
    """Every equation of a jaxpr and of the jaxprs inside it."""
    for equation in jaxpr.eqns:
        yield equation
        for parameter in jax.tree.leaves(tuple(equation.params.values()), is_leaf=lambda p: hasattr(p, "eqns")):
            if hasattr(parameter, "eqns"):
                yield from equations(getattr(parameter, "jaxpr", parameter))


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


def small_network(xp, channels: int, outputs: int | None = None) -> Callable:
    """A fixed network (x [B, ..., channels], t [B]) -> [B, ..., outputs], as many as channels unless said otherwise.

    `xp` is numpy or jax.numpy, the numbers the same.

    The weights are multiples of 1/64, so that float32 holds them exactly.
    """
    width = outputs or channels
    weights, bias, pace = (
        np.round(64 * np.random.default_rng(seed).normal(size=shape)) / 64
        for seed, shape in enumerate([(channels, width), (width,), (width,)])
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

    def flow(self, x, start, end):
        """[B, D] where the probability flow takes x from the level log σ `start` to the level `end`.

        All the covariances of x_t commute, so whitened by them x stands still: C^-½ (x - √ᾱ mean) is the same at both levels.
        """
        spreads, axes = np.linalg.eigh(self.covariance)
        (signal, noise), (signal_there, noise_there) = signal_and_noise(start), signal_and_noise(end)
        stretch = np.sqrt((signal_there**2 * spreads + noise_there**2) / (signal**2 * spreads + noise**2))
        return signal_there * self.mean + (x - signal * self.mean) @ axes * stretch @ axes.T


def x0_said(output, x, level, prediction):
    """The x_0 that a network's output means at a level log σ; all but "mean", which has no meaning between two steps."""
    signal, noise = signal_and_noise(level)
    return {
        "eps": lambda: (x - noise * output) / signal,
        "x0": lambda: output,
        "v": lambda: signal * x - noise * output,
        "score": lambda: (x + noise**2 * output) / signal,
    }[prediction]()


def signal_and_noise(level, xp=np):
    """√ᾱ and √(1-ᾱ) where log √((1-ᾱ)/ᾱ) is `level`; each keeps its digits."""
    return xp.exp(-0.5 * xp.logaddexp(0.0, 2 * level)), xp.exp(-0.5 * xp.logaddexp(0.0, -2 * level))


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


# Samplers as their papers write them. Each yields the state after every evaluation of the network; `levels` are the log σ where
# it stops, the noisiest first, and after them comes clean data. `estimate(x, level)` is the network's x_0, `draw(n)` the noise
# of evaluation n. States are only ever scaled and added, so they may be data [B, ...], or the coefficients of an affine form:
# see `affine_outcome`.


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
