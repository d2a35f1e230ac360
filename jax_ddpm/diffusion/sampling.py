"""Running the chain: a sampler is a table of coefficients and one small update, and the run is one `lax.scan`.

Every sampler here is linear in the state and in what the network has said of x_0, now and at the evaluations before. So what
tells them apart is numbers: `ancestral` and `ddim` are below, those of higher order in `solvers.py`.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jax_ddpm.diffusion.prediction import (
    LEARNED_VARIANCES,
    VARIANCES,
    Clip,
    Denoiser,
    check_prediction,
    fixed_log_variance,
    network_output,
    predicted_log_variance,
    split_output,
    static_clip,
    to_x0,
)
from jax_ddpm.diffusion.respacing import respace, sampler_times
from jax_ddpm.diffusion.schedules import NoiseSchedule
from jax_ddpm.errors import InvalidInput, choose

Spacing = str | Sequence[float] | np.ndarray
"""Where a sampler stops: see `sampler_times`."""

Gradient = Callable[[jax.Array, jax.Array], jax.Array]
"""(x_t [B, ...], t [B]) -> ∇ log p(y | x_t), [B, ...]."""

After = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]
"""(state [B, ...], which evaluation it was, key) -> the state [B, ...] from which the chain goes on."""


@dataclasses.dataclass(frozen=True, eq=False)
class Sampler:
    """A way to run the chain. Evaluation n of the network takes the state x, which lies at level `rows[n]`, to

    x' = of_x[n]·x + Σ_j of_x0[n, j]·x̂_0^(n-j) + of_clipped[n]·(x̂_0 before - after clipping) + deviations[n]·z

    where x̂_0^(n) is the network's x_0, clipped, and z is fresh noise where `noisy[n]`.

    Attributes:
      schedule: the chain whose rows are the levels of noise at which the network is asked.
      rows: [N] the row of each evaluation, in the order in which they are made.
      reached: [N] ᾱ of the level at which x' lies; 1 is clean.
      of_x: [N] the weight of the state.
      of_x0: [N, K] the weights of the last K estimates of x_0, the newest first; 0 where there is none yet.
      of_clipped: [N] the weight of what clipping took away.
      deviations: [N] the standard deviation of the step.
      noisy: [N] whether that much noise is added.
      prediction: what the network's output is, see `to_x0`.
      clip: what is done to each estimate of x_0.
      learned: "", or the learned variance that takes the place of `deviations`, see `p_mean_variance`.
      gradient: None, or what the mean is moved by, times the variance of the step; see `guided_mean`.
      after: None, or what is done to the state after each update; see `inpaint`.
    """

    schedule: NoiseSchedule
    rows: np.ndarray
    reached: np.ndarray
    of_x: np.ndarray
    of_x0: np.ndarray
    of_clipped: np.ndarray
    deviations: np.ndarray
    noisy: np.ndarray
    prediction: str
    clip: Clip | None
    learned: str = ""
    gradient: Gradient | None = None
    after: After | None = None

    @property
    def evaluations(self) -> int:
        """How often the network is called."""
        return len(self.rows)

    @property
    def timesteps(self) -> np.ndarray:
        """[N] the time that the network is told at each evaluation."""
        return np.asarray(self.schedule.timesteps)[self.rows]

    @property
    def start(self) -> float:
        """ᾱ of the level at which the chain starts."""
        return float(self.schedule.alphas_bar[self.rows[0]])


def make_sampler(
    schedule: NoiseSchedule,
    rows: np.ndarray,
    reached: np.ndarray,
    of_x: np.ndarray,
    of_x0: np.ndarray,
    *,
    prediction: str,
    clip: Clip | None,
    of_clipped: np.ndarray | float = 0.0,
    deviations: np.ndarray | float = 0.0,
    noisy: np.ndarray | None = None,
    learned: str = "",
) -> Sampler:
    """A sampler from its table.

    Args:
      of_x0: [N, K], or [N] where only the newest estimate counts.
      noisy: where left out, wherever the deviation is not 0.
      schedule, rows, reached, of_x, prediction, clip, of_clipped, deviations, learned: as in `Sampler`; a single number stands
        for N of them.
    Raises:
      InvalidInput: the network's prediction says no x_0 there, or a coefficient is not finite.
    """
    check_prediction(schedule, prediction)
    of_clipped, deviations = (np.broadcast_to(np.asarray(each, np.float64), rows.shape) for each in (of_clipped, deviations))
    of_x0 = of_x0.reshape(len(rows), -1)
    if not all(np.isfinite(each).all() for each in (of_x, of_x0, of_clipped, deviations)):
        raise InvalidInput(
            "this sampler divides by √ᾱ_T, which is 0 here: expected another with zero terminal SNR, such as ddim"
        )
    noisy = deviations > 0 if noisy is None else noisy
    return Sampler(schedule, rows, reached, of_x, of_x0, of_clipped, deviations, noisy, prediction, clip, learned)


def visited_levels(schedule: NoiseSchedule) -> tuple[np.ndarray, np.ndarray]:
    """[T+1] √ᾱ and √(1-ᾱ) in float64 from the noisiest level down, and then of no noise at all."""
    tables = (schedule.sqrt_alphas_bar, 1.0), (schedule.sqrt_one_minus_alphas_bar, 0.0)
    signal, noise = (np.append(np.asarray(table, np.float64)[::-1], clean) for table, clean in tables)
    return signal, noise


def ancestral(
    schedule: NoiseSchedule,
    *,
    steps: int | None = None,
    spacing: Spacing = "linspace",
    prediction: str = "eps",
    variance: str = "fixed_large",
    clip: Clip | None = static_clip,
) -> Sampler:
    """Draws x_{t-1} from p(x_{t-1} | x_t) for t = T-1 … 0; no noise is added at t = 0.

    x_{t-1} = μ_θ(x_t, t) + σ_t z        (Ho et al. 2020, algorithm 2)

    Args:
      steps, spacing: of the chain, which is shortened to them; see `sampler_times`.
      prediction, variance, clip: as in `p_mean_variance`. The paper's code clips.
    Raises:
      InvalidInput: an unknown name, or a prediction from which no x_0 follows.
    """
    short = respace(schedule, sampler_times(schedule, steps, spacing))
    rows = np.arange(short.steps)[::-1]
    choose("variance", variance, dict.fromkeys(VARIANCES))
    learned = variance in LEARNED_VARIANCES
    log_variance = short.posterior_log_variance if learned else fixed_log_variance(short, variance)
    return make_sampler(
        short,
        rows,
        visited_levels(short)[0][1:] ** 2,
        np.asarray(short.posterior_mean_xt, np.float64)[rows],
        np.asarray(short.posterior_mean_x0, np.float64)[rows],
        deviations=np.exp(0.5 * np.asarray(log_variance, np.float64))[rows],
        noisy=rows > 0,
        learned=variance if learned else "",
        prediction=prediction,
        clip=clip,
    )


def ddim(
    schedule: NoiseSchedule,
    *,
    steps: int | None = None,
    spacing: Spacing = "leading",
    eta: float = 0.0,
    rederive_eps: bool = True,
    prediction: str = "eps",
    clip: Clip | None = static_clip,
) -> Sampler:
    """Steps along the straight line that the network's x_0 and noise span; with eta = 0 the same x_T gives the same image.

    x_{t'} = √ᾱ_{t'} x̂_0 + √(1-ᾱ_{t'}-σ²) ε̂ + σ z,  σ = η √((1-ᾱ_{t'})/(1-ᾱ_t)) √(1-ᾱ_t/ᾱ_{t'})
    (Song et al. 2021, DDIM, eq. 12 and 16)

    Args:
      steps, spacing: see `sampler_times`.
      eta: from 0, no noise, to 1, as much as the posterior q(x_{t-1} | x_t, x_0) has.
      rederive_eps: whether ε̂ is the noise that goes with x̂_0 after clipping (guided-diffusion does so), or remains what the
        network said (diffusers' default).
      prediction, clip: as in `p_mean_variance`. A variance that the network says too is passed over.
    Raises:
      InvalidInput: an unknown name, eta out of range, or a prediction from which no x_0 follows.
    """
    if not 0 <= eta <= 1:
        raise InvalidInput(f"eta={eta}: expected 0 (deterministic) to 1 (as noisy as the posterior)")
    short = respace(schedule, sampler_times(schedule, steps, spacing))
    signal, noise = visited_levels(short)
    (here, there), (noise_here, noise_there) = (signal[:-1], signal[1:]), (noise[:-1], noise[1:])
    deviations = eta * noise_there / noise_here * np.sqrt(np.maximum(1 - (here / there) ** 2, 0.0))
    of_eps = np.sqrt(np.maximum(noise_there**2 - deviations**2, 0.0))
    return make_sampler(
        short,
        np.arange(short.steps)[::-1],
        there**2,
        of_eps / noise_here,
        there - of_eps * here / noise_here,
        of_clipped=0.0 if rederive_eps else -of_eps * here / noise_here,
        deviations=deviations,
        prediction=prediction,
        clip=clip,
    )


def ddim_inverse(
    schedule: NoiseSchedule, *, steps: int | None = None, spacing: Spacing = "leading", prediction: str = "eps"
) -> Sampler:
    """DDIM backwards: from x_0 up to the noise that `ddim` with eta = 0 and the same times makes x_0 of, nearly.

    x_{t} = √ᾱ_t (x_{t'} - √(1-ᾱ_{t'}) ε̂)/√ᾱ_{t'} + √(1-ᾱ_t) ε̂ with t' the time below t, and ε̂ = ε_θ(x_{t'}, t)
    (Song et al. 2021, DDIM, section 4.3)

    The network is told t, where the step goes, as it was when that step was taken down; what is shown to it is x_{t'}, since
    x_t is not known yet. So the first step starts from clean data, and the error is of the order of a step.

    Args:
      steps, spacing, prediction: as in `ddim`.
    Raises:
      InvalidInput: an unknown name, or a prediction from which no x_0 follows.
    """
    short = respace(schedule, sampler_times(schedule, steps, spacing))
    signal, noise = (level[::-1] for level in visited_levels(short))
    stretch = signal[1:] / signal[:-1]
    of_eps = noise[1:] - stretch * noise[:-1]
    # The output is read at the level of t, which the network is told; of ε̂ alone it makes no difference.
    return make_sampler(
        short,
        np.arange(short.steps),
        signal[1:] ** 2,
        stretch + of_eps / noise[1:],
        -of_eps * signal[1:] / noise[1:],
        prediction=prediction,
        clip=None,
    )


def sample(sampler: Sampler, denoiser: Denoiser, x_T: jax.Array, key: jax.Array) -> jax.Array:
    """Runs the chain and returns its end.

    Args:
      denoiser: (x_t, t) -> output.
      x_T: [B, ...] standard normal noise.
      key: a typed key, `jax.random.key`; evaluation n uses `fold_in(key, n)`.
    Returns:
      [B, ...] samples of x_0. Memory does not depend on the number of steps.
    """
    return sample_trajectory(sampler, denoiser, x_T, key, at_steps=())[0]


def sample_trajectory(
    sampler: Sampler, denoiser: Denoiser, x_T: jax.Array, key: jax.Array, at_steps: Sequence[int]
) -> tuple[jax.Array, jax.Array]:
    """Runs the chain and keeps some of its states.

    Args:
      denoiser, x_T, key: as in `sample`.
      at_steps: K different numbers of evaluations made, each in 0..N: 0 is x_T itself, N the end.
    Returns:
      The samples [B, ...], and the kept states [K, B, ...] in the order of `at_steps`. Only they take memory.
    Raises:
      InvalidInput: a step outside 0..N, or one named twice.
    """
    total = sampler.evaluations
    if len(set(at_steps)) < len(at_steps) or any(step not in range(total + 1) for step in at_steps):
        raise InvalidInput(f"at_steps={tuple(at_steps)}: expected different whole numbers in 0..{total}")
    kept = len(at_steps)
    slots = np.full(total + 1, kept)  # the place of each state in the result; `kept` is past its end: not written
    slots[list(at_steps)] = np.arange(kept)

    def record(states: jax.Array, slot: jax.Array, x: jax.Array) -> jax.Array:
        return states.at[slot].set(x, mode="drop") if kept else states

    def step(carry, row):
        x, estimates, states = carry
        line, slot = row
        x, estimates = _update(sampler, denoiser, x, estimates, line, jax.random.fold_in(key, line["number"]))
        return (x, estimates, record(states, slot, x)), None

    states = record(jnp.zeros((kept, *x_T.shape), x_T.dtype), slots[0], x_T)
    earlier = (jnp.zeros_like(x_T),) * (sampler.of_x0.shape[1] - 1)
    (x, _, states), _ = jax.lax.scan(step, (x_T, earlier, states), (_table(sampler, x_T.dtype), jnp.asarray(slots[1:])))
    return x, states


def _table(sampler: Sampler, dtype: Any) -> dict[str, jax.Array]:
    """What the scan runs over."""
    table = {name: getattr(sampler, name) for name in ("of_x", "of_x0", "of_clipped", "deviations", "noisy")}
    numbers = {"number": jnp.arange(sampler.evaluations), "row": jnp.asarray(sampler.rows)}
    return {name: jnp.asarray(values, dtype) for name, values in table.items()} | numbers


def _update(
    sampler: Sampler,
    denoiser: Denoiser,
    x: jax.Array,
    earlier: tuple[jax.Array, ...],
    line: dict[str, jax.Array],
    key: jax.Array,
) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    """One evaluation: the next state, and the estimates of x_0 that count for the one after. What a column of zeros would
    multiply is left out when the sampler is traced."""
    noise_key, after_key = jax.random.split(key)
    t = jnp.full(x.shape[:1], line["row"])
    output, values = split_output(network_output(sampler.schedule, denoiser, x, t), x)
    said = to_x0(sampler.schedule, output, x, t, sampler.prediction)
    x0 = said if sampler.clip is None else sampler.clip(said)
    estimates = (x0, *earlier)
    moved = line["of_x"] * x + sum(line["of_x0"][j] * estimate for j, estimate in enumerate(estimates))
    if sampler.of_clipped.any():
        moved += line["of_clipped"] * (said - x0)
    if sampler.deviations.any():
        deviation = line["deviations"]
        if sampler.learned:
            deviation = jnp.exp(0.5 * predicted_log_variance(sampler.schedule, values, x, t, sampler.learned))
        if sampler.gradient is not None:
            moved += deviation**2 * sampler.gradient(x, jnp.asarray(sampler.schedule.timesteps)[t])
        moved += line["noisy"] * deviation * jax.random.normal(noise_key, x.shape, x.dtype)
    if sampler.after is not None:
        moved = sampler.after(moved, line["number"], after_key)
    return moved, estimates[:-1]
