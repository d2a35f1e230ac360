"""The chain as it is trained, and DDIM: down to data, and from data up."""

import numpy as np

from jax_ddpm.diffusion.prediction import LEARNED_VARIANCES, VARIANCES, Clip, fixed_log_variance, static_clip
from jax_ddpm.diffusion.respacing import Spacing, respace, sampler_times
from jax_ddpm.diffusion.sampling import Sampler, from_table
from jax_ddpm.diffusion.schedules import NoiseSchedule
from jax_ddpm.errors import InvalidInput, choose


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
    return from_table(
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
    return from_table(
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
    return from_table(
        short,
        np.arange(short.steps),
        signal[1:] ** 2,
        stretch + of_eps / noise[1:],
        -of_eps * signal[1:] / noise[1:],
        prediction=prediction,
        clip=None,
    )
