"""The variational bound, term by term."""

import math
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jax_ddpm.diffusion.gaussian import Gaussian, gaussian_kl, q_mean_variance
from jax_ddpm.diffusion.losses import Denoiser, kl_loss, sum_over_example
from jax_ddpm.diffusion.prediction import Clip
from jax_ddpm.diffusion.schedules import NoiseSchedule


class VLB(NamedTuple):
    """The terms of the variational bound on -log p(x_0), in nats an image (Ho et al. 2020, eq. 5).

    Attributes:
      prior: [B] L_T = KL(q(x_T | x_0) ‖ N(0, I)).
      kl: [T, B] L_{t}, one Monte-Carlo draw each; row 0 is zero, for the decoder stands in its place.
      decoder: [B] L_0 = -log p(x_0 | x_1), discretised.
    """

    prior: jax.Array
    kl: jax.Array
    decoder: jax.Array

    @property
    def total(self) -> jax.Array:
        """[B] the bound."""
        return self.prior + self.kl.sum(axis=0) + self.decoder


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
) -> VLB:
    """Every term of the bound, by one `lax.scan` over t with one draw of noise a term.

    Args:
      x0: [B, ...] clean data on the 256 levels of [-1, 1].
      key: a typed key; term t uses `fold_in(key, t)`.
      prediction, variance, clip: as in `p_mean_variance`.
    """

    loss = partial(kl_loss, prediction=prediction, variance=variance, clip=clip)

    def term(_, t):
        eps = jax.random.normal(jax.random.fold_in(key, t), x0.shape, x0.dtype)
        batch_t = jnp.full(x0.shape[:1], t)
        return None, loss(schedule, denoiser, x0, batch_t, eps)

    _, terms = jax.lax.scan(term, None, jnp.arange(schedule.steps))
    return VLB(prior_kl(schedule, x0), terms.at[0].set(0.0), terms[0])


def bits_per_dim(vlb: VLB, shape: Sequence[int]) -> jax.Array:
    """[B] the bound in bits for each of the components of an example of shape `shape`, [H, W, C]."""
    return vlb.total / (math.prod(shape) * math.log(2.0))
