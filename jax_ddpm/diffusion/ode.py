"""The exact likelihood of the deterministic chain: the probability flow, followed by an adaptive solver."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jax_ddpm.diffusion.gaussian import PIXEL_STEP
from jax_ddpm.diffusion.losses import nats_to_bits_per_dim, sum_over_example
from jax_ddpm.diffusion.prediction import Denoiser, split_output, to_x0
from jax_ddpm.diffusion.schedules import NoiseSchedule, at_level, ends_in_noise
from jax_ddpm.errors import InvalidInput

MAX_SOLVER_STEPS = 10_000


class OdeLikelihood(NamedTuple):
    """What the probability flow says of data.

    Attributes:
      log_density: [B] log p(x), in nats.
      x_T: [B, ...] where the flow ends: the latent that x is the image of.
      evaluations: how often the network was called, the trace aside.
    """

    log_density: jax.Array
    x_T: jax.Array
    evaluations: jax.Array


def ode_log_likelihood(
    schedule: NoiseSchedule,
    denoiser: Denoiser,
    x: jax.Array,
    key: jax.Array,
    *,
    prediction: str = "eps",
    exact_trace: bool = False,
    rtol: float = 1e-5,
    atol: float = 1e-5,
) -> OdeLikelihood:
    """The log-density of x at the noise level of t = 0, under the flow that ends in N(0, I) at that of t = T-1.

    dx/dℓ = √ᾱ (√ᾱ x - x_θ(x, t)) with ℓ = log √((1-ᾱ)/ᾱ)        (Song et al. 2021, score-based modelling, eq. 13, in ℓ)
    log p(x) = log N(x_T; 0, I) + ∫ ∇·(dx/dℓ) dℓ        (ibid. eq. 39)
    ∇·f is estimated by zᵀ(∂f/∂x)z, z = ±1 at random        (ibid. eq. 40: Skilling–Hutchinson)

    The solver is Tsitouras 5(4) with one step for the whole batch, so that what it finds of an example depends on the others
    within its tolerance. Between the levels of the tables t is interpolated in ℓ, and the denoiser is told that real number.

    Args:
      denoiser: (x_t, t [B] real) -> output.
      x: [B, ...] data at the level of t = 0, so √ᾱ_0 x_0 and noise of variance 1-ᾱ_0.
      key: a typed key, of the probe z; the same z along the whole flow.
      prediction: what the output is, "eps", "x0", "v" or "score".
      exact_trace: take the divergence exactly, by one derivative for each component; for small examples.
      rtol, atol: the solver's relative and absolute error a step.
    Raises:
      InvalidInput: a prediction that has no meaning between two steps, or a schedule that ends where ℓ is infinite.
    """
    import diffrax

    check_flow(schedule, prediction)
    levels = jnp.log(jnp.asarray(schedule.sqrt_recip_alphas_bar_minus_one, x.dtype))
    probe = jax.random.rademacher(key, x.shape, x.dtype)

    def velocity(level: jax.Array, x: jax.Array) -> jax.Array:
        t = jnp.interp(level, levels, jnp.asarray(schedule.timesteps, x.dtype))
        output, _ = split_output(denoiser(x, jnp.full(x.shape[:1], t)), x)
        here = at_level(schedule, level[None])
        signal = here.sqrt_alphas_bar[0]
        return signal * (signal * x - to_x0(here, output, x, jnp.zeros(x.shape[:1], jnp.int32), prediction))

    def field(level: Any, state: Any, _: Any) -> Any:
        value, divergence = _with_divergence(lambda x: velocity(level, x), state[0], None if exact_trace else probe)
        return value, divergence

    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(field),
        diffrax.Tsit5(),
        t0=levels[0],
        t1=levels[-1],
        dt0=(levels[-1] - levels[0]) / 100,
        y0=(x, jnp.zeros(x.shape[0], x.dtype)),
        stepsize_controller=diffrax.PIDController(rtol=rtol, atol=atol),
        max_steps=MAX_SOLVER_STEPS,
    )
    x_T, change = (part[-1] for part in solution.ys)
    log_prior = sum_over_example(-0.5 * (x_T**2 + math.log(2 * math.pi)))
    return OdeLikelihood(log_prior + change, x_T, 6 * solution.stats["num_steps"] + 1)


def check_flow(schedule: NoiseSchedule, prediction: str) -> None:
    """Raises InvalidInput where the flow has no beginning, or the prediction no meaning between two steps."""
    if prediction == "mean":
        raise InvalidInput("prediction 'mean' is of a step, not of a level of noise: expected eps, x0, v or score for the ODE")
    if ends_in_noise(schedule):
        raise InvalidInput("the flow cannot start where ᾱ_T = 0: expected a schedule without zero terminal SNR")


def _with_divergence(function: Any, x: jax.Array, probe: jax.Array | None) -> tuple[jax.Array, jax.Array]:
    """f(x) [B, ...] and its divergence [B], estimated by a probe or, without one, exact."""
    value, directional = jax.linearize(function, x)
    if probe is not None:
        return value, sum_over_example(probe * directional(probe))
    size = x[0].size
    units = jnp.eye(size, dtype=x.dtype).reshape(size, 1, *x.shape[1:])
    diagonal = jax.lax.map(lambda unit: sum_over_example(unit * directional(jnp.broadcast_to(unit, x.shape))), units)
    return value, diagonal.sum(axis=0)


def ode_bits_per_dim(
    schedule: NoiseSchedule,
    denoiser: Denoiser,
    x0: jax.Array,
    key: jax.Array,
    *,
    prediction: str = "eps",
    exact_trace: bool = False,
    rtol: float = 1e-5,
    atol: float = 1e-5,
) -> jax.Array:
    """[B] bits for each component of 8-bit data by the probability flow, one draw of uniform dequantisation.

    -log p(x_0 + u)/(D log 2) - log2(2/255), u uniform in ±1/255        (Theis et al. 2016, section 3.1)

    p is the density of x_1/√ᾱ_1, x_1 being what the flow makes of noise. In expectation over u this is no less than the
    -log2 of the probability that p gives to the bin.

    Args:
      x0: [B, ...] clean data on the 256 levels of [-1, 1].
      key, denoiser, prediction, exact_trace, rtol, atol: as in `ode_log_likelihood`.
    Raises:
      InvalidInput: as `ode_log_likelihood` does.
    """
    noise_key, probe_key = jax.random.split(key)
    shifted = x0 + jax.random.uniform(noise_key, x0.shape, x0.dtype, -PIXEL_STEP / 2, PIXEL_STEP / 2)
    scale = jnp.asarray(schedule.sqrt_alphas_bar)[0]
    flow = ode_log_likelihood(
        schedule, denoiser, scale * shifted, probe_key, prediction=prediction, exact_trace=exact_trace, rtol=rtol, atol=atol
    )
    components = x0[0].size
    log_density = flow.log_density + components * jnp.log(scale)
    return nats_to_bits_per_dim(-log_density, components) - math.log2(PIXEL_STEP)
