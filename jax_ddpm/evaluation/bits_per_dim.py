"""The likelihood of a data set, from that of its images."""

from collections.abc import Iterable
from typing import NamedTuple

import jax
import numpy as np

from jax_ddpm.diffusion.likelihood import VLB, RateDistortion, bits_per_dim, rate_distortion
from jax_ddpm.diffusion.losses import nats_to_bits_per_dim
from jax_ddpm.errors import InvalidInput


class Estimate(NamedTuple):
    """The mean over a data set, as far as its images tell it.

    Attributes:
      mean: over the images.
      standard_error: of that mean, their standard deviation over √N; what the draws of noise add is in it.
      images: N.
    """

    mean: float
    standard_error: float
    images: int

    def __str__(self) -> str:
        """Mean, standard error and number of images."""
        return f"{self.mean:.4f} ± {self.standard_error:.4f} bits/dim ({self.images:,} images)"


def estimate(values: np.ndarray) -> Estimate:
    """[N] values, one an image. The error of a single one is not known, and so infinite.

    Raises:
      InvalidInput: a value that is not finite.
    """
    if not np.isfinite(values).all():
        wrong = int(np.flatnonzero(~np.isfinite(values))[0])
        raise InvalidInput(
            f"image {wrong} of {len(values)} has {values[wrong]} bits/dim: the network's output is not finite there"
        )
    error = values.std(ddof=1) / np.sqrt(len(values)) if len(values) > 1 else np.inf
    return Estimate(float(values.mean(dtype=np.float64)), float(error), len(values))


class BoundSummary(NamedTuple):
    """The variational bound of a data set.

    Attributes:
      bits_per_dim: the bound.
      prior, rate, distortion: its parts, in bits for each component: L_T; L_1 + … + L_T; L_0.
      terms: [T] L_t in bits for each component; L_0 at t = 0.
      curve: what each step has cost and brought.
    """

    bits_per_dim: Estimate
    prior: float
    rate: float
    distortion: float
    terms: np.ndarray
    curve: RateDistortion


def summarise(bounds: Iterable[VLB], components: int) -> BoundSummary:
    """The terms of batches of images, taken together, one batch in memory at a time.

    Args:
      bounds: of every image once.
      components: D, the number of values of an image.
    """
    bits, total = [], None
    for bound in bounds:
        bits.append(np.asarray(bits_per_dim(bound, (components,)), np.float64))
        sums = jax.tree.map(lambda x: np.asarray(x, np.float64).sum(axis=-1, keepdims=True), bound)
        total = sums if total is None else jax.tree.map(np.add, total, sums)
    values = np.concatenate(bits)
    mean = jax.tree.map(lambda x: x / len(values), total)
    prior, kl, decoder = (nats_to_bits_per_dim(part[..., 0], components) for part in (mean.prior, mean.kl, mean.decoder))
    return BoundSummary(
        bits_per_dim=estimate(values),
        prior=float(prior),
        rate=float(prior + kl.sum()),
        distortion=float(decoder),
        terms=np.append(decoder, kl[1:]),
        curve=jax.tree.map(np.asarray, rate_distortion(mean, (components,))),
    )
