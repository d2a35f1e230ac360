"""How often a classifier of noisy images is right, by how much noise there is."""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jax_ddpm.diffusion.gaussian import q_sample
from jax_ddpm.diffusion.schedules import NoiseSchedule
from jax_ddpm.evaluation.bits_per_dim import Estimate, estimate

LEVELS, QUARTERS = 10, 4  # parts of the chain


class Answers(NamedTuple):
    """What a classifier said of images, each noised anew at every one of K levels.

    Attributes:
      t: [K, B] the times that they were noised to.
      correct: [K, B] whether the likeliest class was the right one.
    """

    t: Any
    correct: Any


def answers(
    schedule: NoiseSchedule,
    classifier: Callable[[jax.Array, jax.Array], Any],
    x0: jax.Array,
    labels: jax.Array,
    key: jax.Array,
    levels: int = LEVELS,
) -> Answers:
    """Each image noised to a time drawn from each `levels`-th part of the chain, and what the classifier says of it.

    Args:
      classifier: (x_t, t) -> logits [B, classes].
      x0: [B, ...] clean images.
      labels: [B] their classes.
    """

    def at_level(level: jax.Array) -> Answers:
        t_key, eps_key = jax.random.split(jax.random.fold_in(key, level))
        share = (level + jax.random.uniform(t_key, labels.shape)) / levels
        t = jnp.minimum((share * schedule.steps).astype(jnp.int32), schedule.steps - 1)
        xt = q_sample(schedule, x0, t, jax.random.normal(eps_key, x0.shape))
        logits = classifier(xt, jnp.asarray(schedule.timesteps)[t])
        return Answers(t, logits.argmax(axis=-1) == labels)

    return jax.lax.map(at_level, jnp.arange(levels))


class Level(NamedTuple):
    """A part of the chain.

    Attributes:
      first, last: the times in it.
      accuracy: the share of answers there that were right.
      standard_error: of that share.
    """

    first: int
    last: int
    accuracy: float
    standard_error: float


class AccuracySummary(NamedTuple):
    """How often a classifier was right of the images of a data set.

    Attributes:
      overall: over all images and all noise; its error is by how the images differ.
      levels, quarters: by tenths and by quarters of the chain, from the least noisy on; where no time was drawn there is none.
    """

    overall: Estimate
    levels: tuple[Level, ...]
    quarters: tuple[Level, ...]

    def __str__(self) -> str:
        """The overall share, its standard error and the number of images."""
        mean, error, images = self.overall
        return f"{mean:.1%} ± {error:.1%} ({images:,} images)"


def summarise(found: Iterable[Answers], steps: int) -> AccuracySummary:
    """The answers on batches of images, taken together.

    Args:
      found: of every image once.
      steps: T.
    """
    t, correct = (np.concatenate(parts, axis=1) for parts in zip(*found, strict=True))
    return AccuracySummary(
        overall=estimate(correct.mean(axis=0)),
        levels=_by_parts(t, correct, steps, LEVELS),
        quarters=_by_parts(t, correct, steps, QUARTERS),
    )


def _by_parts(t: np.ndarray, correct: np.ndarray, steps: int, parts: int) -> tuple[Level, ...]:
    """The accuracy in each part of the chain; the standard error is that of a share of independent answers."""
    rows, part = [], t * parts // steps
    for number in range(parts):
        chosen = correct[part == number]
        if chosen.size:
            share = float(chosen.mean())
            first, last = -(-number * steps // parts), -(-(number + 1) * steps // parts) - 1
            rows.append(Level(first, last, share, float(np.sqrt(share * (1 - share) / chosen.size))))
    return tuple(rows)
