"""The variational bound, term by term."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jax_ddpm.diffusion.gaussian import Gaussian, gaussian_kl, q_mean_variance, q_sample
from jax_ddpm.diffusion.losses import bound_term, mean_over_example, nats_to_bits_per_dim, sum_over_example
from jax_ddpm.diffusion.prediction import Clip, Denoiser, network_output
from jax_ddpm.diffusion.schedules import NoiseSchedule
from jax_ddpm.errors import InvalidInput

GREY_LEVELS = 255 / 2  # how many 8-bit levels a difference of 1 is, in data that lie in [-1, 1]


class VLB(NamedTuple):
    """The terms of the variational bound on -log p(x_0), in nats an image (Ho et al. 2020, eq. 5).

    Attributes:
      prior: [B] L_T = KL(q(x_T | x_0) ‖ N(0, I)).
      kl: [T, B] L_t, one Monte-Carlo draw each; row 0 is zero, for the decoder stands in its place. Terms not drawn are zero,
        and those that were stand for them too.
      decoder: [B] L_0 = -log p(x_0 | x_1), discretised.
      x0_mse: [T, B] mean square error of the x_0 predicted from x_t; no part of the bound.
    """

    prior: jax.Array
    kl: jax.Array
    decoder: jax.Array
    x0_mse: jax.Array

    @property
    def total(self) -> jax.Array:
        """[B] the bound."""
        return self.prior + self.kl.sum(axis=0) + self.decoder


class RateDistortion(NamedTuple):
    """What is paid for x_t and how far x_0 is then known, for t = 0 … T-1.

    Attributes:
      rate: [T] bits for each component that have been sent when x_t is known.
      rmse: [T] root mean square error of the x_0 predicted from it, in grey levels of 0..255.
    """

    rate: jax.Array
    rmse: jax.Array


def prior_kl(schedule: NoiseSchedule, x0: jax.Array) -> jax.Array:
    """L_T = KL(q(x_T | x_0) ‖ N(0, I)), [B] nats: how much of x_0 is left at the end of the chain."""
    last = jnp.full(x0.shape[:1], schedule.steps - 1)
    standard = Gaussian(jnp.zeros_like(x0), jnp.zeros((1,) * x0.ndim, x0.dtype))
    return sum_over_example(gaussian_kl(q_mean_variance(schedule, x0, last), standard))


def vlb_terms(
    schedule: NoiseSchedule,
    denoiser: Denoiser,
    x0: jax.Array,
    key: jax.Array,
    *,
    prediction: str = "eps",
    variance: str = "fixed_large",
    clip: Clip | None = None,
    draws: int = 0,
) -> VLB:
    """Every term of the bound, by one `lax.scan` over t with one draw of noise a term.

    -log p(x_0) ≤ E[L_T + L_{T-1} + … + L_0]        (Ho et al. 2020, eq. 5)

    With `draws` only so many of them are worked out for each image, one from each stretch of the chain (see `stretches`), drawn
    evenly and counted for all of its stretch. What is expected of each term and of their sum stays the same; the images of a
    batch take the times of a stretch in turn, so that many images see all of them.

    Args:
      x0: [B, ...] clean data on the 256 levels of [-1, 1].
      key: a typed key; draw n uses `fold_in(key, n)`, which is term n where all are worked out.
      prediction, variance, clip: as in `p_mean_variance`.
      draws: terms for each image, 0 … T; 0 is all of them.
    Returns:
      VLB, whose terms are [B] and [T, B] nats.
    Raises:
      InvalidInput: as `p_mean_variance` does, or so many draws cannot be made.
    """
    batch, first, widths = len(x0), *stretches(schedule.steps, draws or schedule.steps)

    def draw(_, row):
        number, low, width = row
        eps_key = jax.random.fold_in(key, number)
        offset = jax.random.randint(jax.random.fold_in(eps_key, 0), (), 0, width)
        t = low + (offset + jnp.arange(batch)) % width
        xt = q_sample(schedule, x0, t, jax.random.normal(eps_key, x0.shape, x0.dtype))
        output = network_output(schedule, denoiser, xt, t)
        nats, predicted_x0 = bound_term(schedule, output, x0, xt, t, prediction=prediction, variance=variance, clip=clip)
        return None, (t, width * nats, width * mean_over_example((x0 - predicted_x0) ** 2))

    _, (t, nats, mse) = jax.lax.scan(draw, None, (jnp.arange(len(first)), first, widths))
    empty = jnp.zeros((schedule.steps, batch), x0.dtype)
    terms, x0_mse = (empty.at[t, jnp.arange(batch)].set(values) for values in (nats, mse))
    return VLB(prior_kl(schedule, x0), terms.at[0].set(0.0), terms[0], x0_mse)


def stretches(steps: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The chain of `steps` times cut into `count` stretches, short where the terms are large: first times and widths, [count].

    The first is t = 0 alone, the decoder. The n-th begins at (n/count)² · steps, or where the one before it has had one time:
    most of the bound is in the terms of small t.

    Raises:
      InvalidInput: more stretches than times, or none.
    """
    if not 0 < count <= steps:
        raise InvalidInput(f"{count} terms of a bound that has {steps} asked for: expected 1 to {steps}, or 0 for all")
    number = np.arange(count + 1)
    edges = np.maximum(np.rint((number / count) ** 2 * steps).astype(int), number)
    edges[1:-1][:1] = 1
    return edges[:-1], np.diff(edges)


def bits_per_dim(vlb: VLB, shape: Sequence[int]) -> jax.Array:
    """[B] the bound in bits for each of the components of an example of shape `shape`, [H, W, C]."""
    return nats_to_bits_per_dim(vlb.total, math.prod(shape))


def rate_distortion(vlb: VLB, shape: Sequence[int]) -> RateDistortion:
    """How the bits of the bound buy x_0, step by step, in the mean over the batch.

    rate_t = L_T + Σ_{s>t} L_s,  distortion_t = √E(x_0 - x_θ(x_t, t))²        (Ho et al. 2020, section 4.3 and table 4)

    Args:
      vlb: of data in [-1, 1].
      shape: of an example, [H, W, C].
    """
    sent_from = jnp.cumsum(vlb.kl.mean(axis=1)[::-1])[::-1]  # with x_{t-1}: its own term and all before it
    sent_after = jnp.append(sent_from[1:], 0.0)
    rate = nats_to_bits_per_dim(vlb.prior.mean() + sent_after, math.prod(shape))
    return RateDistortion(rate, jnp.sqrt(vlb.x0_mse.mean(axis=1)) * GREY_LEVELS)
