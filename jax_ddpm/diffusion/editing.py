"""Editing images with the chain: encoding, interpolation, partial noising, inpainting."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from jax_ddpm.diffusion.gaussian import q_sample
from jax_ddpm.diffusion.prediction import Clip, Denoiser
from jax_ddpm.diffusion.respacing import Spacing, respace
from jax_ddpm.diffusion.samplers import ddim, ddim_inverse
from jax_ddpm.diffusion.sampling import Sampler, sample
from jax_ddpm.diffusion.schedules import NoiseSchedule
from jax_ddpm.errors import InvalidInput

_UNUSED = 0  # the seed of a key from which nothing is drawn


def ddim_encode(
    schedule: NoiseSchedule,
    denoiser: Denoiser,
    x0: jax.Array,
    *,
    steps: int | None = None,
    spacing: Spacing = "leading",
    prediction: str = "eps",
) -> jax.Array:
    """The noise of which `ddim_decode` makes the data again, up to an error that falls as 1/steps.

    (Song et al. 2021, DDIM, section 5.4; the steps are those of `ddim_inverse`)

    Args:
      x0: [B, ...] clean data.
      steps, spacing, prediction: as in `ddim`, and the same as in decoding.
    Returns:
      [B, ...] x_T.
    """
    sampler = ddim_inverse(schedule, steps=steps, spacing=spacing, prediction=prediction)
    return sample(sampler, denoiser, x0, jax.random.key(_UNUSED))


def ddim_decode(
    schedule: NoiseSchedule,
    denoiser: Denoiser,
    x_T: jax.Array,
    *,
    steps: int | None = None,
    spacing: Spacing = "leading",
    prediction: str = "eps",
    clip: Clip | None = None,
) -> jax.Array:
    """[B, ...] the data that noise x_T [B, ...] encodes: `ddim` with eta = 0. Clipping on the way would not be undone."""
    sampler = ddim(schedule, steps=steps, spacing=spacing, prediction=prediction, clip=clip)
    return sample(sampler, denoiser, x_T, jax.random.key(_UNUSED))


def translate(
    schedule: NoiseSchedule,
    source: Denoiser,
    target: Denoiser,
    x0: jax.Array,
    *,
    steps: int | None = None,
    spacing: Spacing = "leading",
    prediction: str = "eps",
    clip: Clip | None = None,
) -> jax.Array:
    """Data as it would be in another class: encoded by the denoiser of its own, decoded by that of the other.

    (Su et al. 2023, dual diffusion implicit bridges, algorithm 1)

    Args:
      source, target: the two denoisers; conditional, guided, or of two networks.
      x0: [B, ...] clean data of the first.
      steps, spacing, prediction, clip: as in `ddim_encode` and `ddim_decode`.
    Returns:
      [B, ...] data of the second.
    """
    encoded = ddim_encode(schedule, source, x0, steps=steps, spacing=spacing, prediction=prediction)
    return ddim_decode(schedule, target, encoded, steps=steps, spacing=spacing, prediction=prediction, clip=clip)


def interpolate(a: jax.Array, b: jax.Array, weights: jax.Array, *, spherical: bool = True) -> jax.Array:
    """Latents between two.

    sin((1-w)θ)/sin θ a + sin(wθ)/sin θ b, θ the angle between them        (Song et al. 2021, DDIM, eq. 67)

    On a straight line, (1-w) a + w b, points between two draws from N(0, I) are shorter than such draws are; on the arc they
    are not. Where the two point the same way, or opposite ways, there is no arc, and the line is taken.

    Args:
      a, b: [B, ...].
      weights: [K] from 0, which is a, to 1, which is b.
    Returns:
      [K, B, ...].
    """
    weights = jnp.asarray(weights, a.dtype).reshape(-1, 1)
    if spherical:
        rows = (each.reshape(each.shape[0], -1) for each in (a, b))
        unit_a, unit_b = (row / jnp.linalg.norm(row, axis=1, keepdims=True) for row in rows)
        cosine = jnp.sum(unit_a * unit_b, axis=1)
        aligned = 1 - jnp.abs(cosine) < 64 * jnp.finfo(a.dtype).eps  # nearer, arccos has no digits and no gradient
        angle = jnp.arccos(jnp.where(aligned, 0.0, cosine))
        of_a, of_b = (jnp.where(aligned, w, jnp.sin(w * angle) / jnp.sin(angle)) for w in (1 - weights, weights))
    else:
        of_a, of_b = 1 - weights, weights
    of_a, of_b = (share.reshape(*share.shape, *(1,) * (a.ndim - 1)) for share in (of_a, of_b))
    return of_a * a + of_b * b


def partial_chain(schedule: NoiseSchedule, strength: float) -> NoiseSchedule:
    """The first round(strength·T) steps of the chain, one at the least.

    Args:
      strength: more than 0, up to 1, the whole chain; t_0 of SDEdit.
    Raises:
      InvalidInput: another strength.
    """
    if not 0 < strength <= 1:
        raise InvalidInput(f"strength={strength}: expected more than 0, which changes nothing, up to 1, which keeps nothing")
    return respace(schedule, np.arange(max(round(strength * schedule.steps), 1)))


def sdedit(sampler: Sampler, denoiser: Denoiser, x0: jax.Array, key: jax.Array) -> jax.Array:
    """Noises data to where the sampler starts, and runs it from there        (Meng et al. 2022, SDEdit, algorithm 1)

    Args:
      sampler: made on a `partial_chain`: the longer, the more is made anew.
      x0: [B, ...] data, such as a sketch of what is wanted.
      key: of the noise and of the chain.
    Returns:
      [B, ...].
    """
    noise_key, chain_key = jax.random.split(key)
    return sample(sampler, denoiser, noised_to_start(sampler, x0, noise_key), chain_key)


def noised_to_start(sampler: Sampler, x0: jax.Array, key: jax.Array) -> jax.Array:
    """[B, ...] a draw from q(x_t | x_0) at the level where the sampler starts."""
    t = jnp.full(x0.shape[:1], sampler.rows[0])
    return q_sample(sampler.schedule, x0, t, jax.random.normal(key, x0.shape, x0.dtype))


def inpaint(sampler: Sampler, x0: jax.Array, mask: jax.Array, *, jump: int = 10, resamples: int = 1) -> Sampler:
    """The sampler that keeps what is known and draws the rest.

    After each update the known part is put there as it is at that level of noise: x ← m q(x_t | x_0) + (1-m) x
    (Lugmayr et al. 2022, RePaint, eq. 8). With more than one resampling the chain goes back up by `jump` steps, noise being
    added as in the forward process, and comes down again, so that the two parts fit each other (ibid. algorithm 1 and
    appendix B).

    Args:
      sampler: any; with resampling one that takes account of its last estimate alone: ancestral, ddim or euler.
      x0: [B, ...] data; only its known part counts.
      mask: broadcasts over x0; 1 where it is known, 0 where it is drawn, between them a blend.
      jump: steps to go back.
      resamples: how often each stretch of the chain is gone through.
    Raises:
      InvalidInput: resampling of a sampler that remembers, or numbers less than 1.
    """
    if jump < 1 or resamples < 1:
        raise InvalidInput(f"jump={jump}, resamples={resamples}: expected 1 or more")
    if resamples > 1 and (sampler.of_x0.shape[1] > 1 or len(set(sampler.rows)) < sampler.evaluations):
        raise InvalidInput("resampling goes back, and this sampler remembers where it was: expected ancestral, ddim or euler")
    visits, jumps = _resampled(sampler.evaluations, jump, resamples)
    reached = sampler.reached[visits]
    # The level from which the chain goes on after each visit: of the one reached, or higher up, of the next visit's start.
    starts = np.asarray(sampler.schedule.alphas_bar, np.float64)[sampler.rows]
    goes_on = np.where(jumps, starts[np.append(visits[1:], 0)], reached)
    signal, noise = (jnp.asarray(np.sqrt(table), x0.dtype) for table in (reached, 1 - reached))
    stretch = np.sqrt(goes_on / reached)
    stretch, added = (jnp.asarray(table, x0.dtype) for table in (stretch, np.sqrt(1 - stretch**2)))

    def after(x: jax.Array, visit: jax.Array, key: jax.Array) -> jax.Array:
        known_key, jump_key = jax.random.split(key)
        known = signal[visit] * x0 + noise[visit] * jax.random.normal(known_key, x.shape, x.dtype)
        x = mask * known + (1 - mask) * x
        return stretch[visit] * x + added[visit] * jax.random.normal(jump_key, x.shape, x.dtype) if jumps.any() else x

    tables = ("rows", "reached", "of_x", "of_x0", "of_clipped", "deviations", "noisy")
    visited = {name: getattr(sampler, name)[visits] for name in tables}
    return dataclasses.replace(sampler, **visited, after=after)


def _resampled(total: int, jump: int, resamples: int) -> tuple[np.ndarray, np.ndarray]:
    """[M] the step made at each visit, and whether the chain then jumps back up.

    Where a multiple of `jump` steps is left to go, and at the end, it goes back `jump` steps, resamples - 1 times. The paper's
    code never goes back from the end, but from one step before: where the chain is short, that step is a long one, and what it
    draws would not be made to fit.
    """
    left = dict.fromkeys(range(0, total - jump, jump), resamples - 1)
    visits, jumps = [], []
    remaining = total
    while remaining:
        visits.append(total - remaining)
        remaining -= 1
        jumps.append(left.get(remaining, 0) > 0)
        if jumps[-1]:
            left[remaining] -= 1
            remaining += jump
    return np.array(visits), np.array(jumps)
