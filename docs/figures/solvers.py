"""Figures of how fast the samplers come to the exact flow, in float64, for data of which all is known; drawn by `make.py`."""

from collections.abc import Callable
from functools import partial
from typing import Any, cast

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy import integrate

from jax_ddpm import (
    Sampler,
    ddim,
    ddim_decode,
    ddim_encode,
    dpm_solver_pp,
    euler,
    heun,
    linear_schedule,
    sample,
    unipc,
)
from jax_ddpm.diffusion.respacing import noise_levels

SCHEDULE = linear_schedule(1000, dtype=np.float64)
LEVELS = noise_levels(SCHEDULE)
CENTRES = np.array([[-0.6, 0.2], [0.5, 0.4], [0.1, -0.7]])
SHARES = np.array([0.5, 0.3, 0.2])
WIDTH = 0.2
EVALUATIONS = (6, 10, 20, 40, 80, 160, 320)
ENCODING_STEPS = (10, 20, 50, 100, 200, 500, 1000)
SAMPLERS: dict[str, tuple[Callable[..., Sampler], int]] = {  # and the evaluations a step
    "DDIM": (partial(ddim, spacing="log_snr"), 1),
    "Euler": (euler, 1),
    "Heun": (heun, 2),
    "DPM-Solver++(2M)": (partial(dpm_solver_pp, order=2), 1),
    "DPM-Solver++(3M)": (partial(dpm_solver_pp, order=3), 1),
    "3M as published": (partial(dpm_solver_pp, order=3, as_published=True), 1),
    "UniPC-2": (partial(unipc, order=2), 1),
    "UniPC-3": (partial(unipc, order=3), 1),
}
ENCODING_SPACINGS = ("leading", "linspace", "quad", "log_snr")


def expected_x0(x: Any, level: Any, xp: Any = np) -> Any:
    """[B, 2] E[x_0 | x_t = x] at a level log √((1-ᾱ)/ᾱ), for three Gaussians of standard deviation WIDTH."""
    signal, noise = 1 / xp.sqrt(1 + xp.exp(2 * level)), 1 / xp.sqrt(1 + xp.exp(-2 * level))
    variance = signal**2 * WIDTH**2 + noise**2
    away = x[:, None] - signal * CENTRES
    logits = xp.log(xp.asarray(SHARES)) - (away**2).sum(axis=-1) / (2 * variance)
    weights = xp.exp(logits - logits.max(axis=1, keepdims=True))
    weights = weights / weights.sum(axis=1, keepdims=True)
    return (weights[..., None] * (CENTRES + signal * WIDTH**2 / variance * away)).sum(axis=1)


def denoiser(x: jax.Array, t: jax.Array) -> jax.Array:
    """What the best network says of x_0."""
    return cast(jax.Array, expected_x0(x, jnp.interp(t[0], jnp.arange(SCHEDULE.steps), LEVELS), jnp))


def draw_data(count: int) -> np.ndarray:
    """[count, 2] data."""
    rng = np.random.default_rng(0)
    return CENTRES[rng.choice(3, count, p=SHARES)] + WIDTH * rng.normal(size=(count, 2))


def exact_end(x: np.ndarray) -> np.ndarray:
    """Where the flow takes noise x [B, 2] at t = 0, and then, as the last step of every sampler does, the mean of x_0 there."""

    def slope(level: float, x: np.ndarray) -> np.ndarray:
        x = x.reshape(-1, 2)
        signal = 1 / np.sqrt(1 + np.exp(2 * level))
        return (signal**2 * x - signal * expected_x0(x, level)).ravel()  # dx/dℓ of section 14.1, by x_0

    solved = integrate.solve_ivp(slope, LEVELS[[-1, 0]], x.ravel(), method="DOP853", rtol=1e-12, atol=1e-12)
    return expected_x0(solved.y[:, -1].reshape(-1, 2), LEVELS[0])


def _slopes(axis: Axes, at: float, height: float, orders: tuple[int, ...], length: float = 4.0) -> None:
    """Lines of slope -1, -2, ... from one point."""
    for order in orders:
        end = at * length, height * length**-order
        axis.loglog([at, end[0]], [height, end[1]], color="#999999", linewidth=1.0, zorder=0)
        axis.annotate(f"{-order}", end, xytext=(3, -3), textcoords="offset points", fontsize=9)


def convergence() -> Figure:
    """Error against the number of evaluations, for each deterministic sampler."""
    x_T = np.random.default_rng(1).normal(size=(64, 2))
    exact, key = exact_end(x_T), jax.random.key(0)
    figure, axis = plt.subplots(figsize=(6.6, 4.4))
    for index, (name, (make, each)) in enumerate(SAMPLERS.items()):
        counts, errors = [], []
        for evaluations in EVALUATIONS:
            sampler = make(SCHEDULE, steps=-(-evaluations // each), prediction="x0", clip=None)
            with jax.enable_x64(True):
                end = np.asarray(jax.jit(partial(sample, sampler, denoiser))(jnp.asarray(x_T), key))
            counts.append(sampler.evaluations)
            errors.append(np.sqrt(np.mean((end - exact) ** 2)))
        axis.loglog(counts, errors, color=f"C{index}", marker="osD^v.<>"[index], markersize=4, linewidth=1.5, label=name)
    _slopes(axis, 60, 1.5, (1, 2, 3))
    axis.set(xlabel="evaluations of the network", ylabel="RMS distance from where the exact flow leads")
    axis.legend(bbox_to_anchor=(1.02, 1), loc="upper left")
    return figure


def encoding() -> Figure:
    """How far from the data it is when it has been encoded and decoded again."""
    x_0, figure = draw_data(64), plt.figure(figsize=(5.2, 3.6))
    axis = figure.subplots()
    for index, spacing in enumerate(ENCODING_SPACINGS):
        errors = []
        for steps in ENCODING_STEPS:
            options = {"steps": steps, "spacing": spacing, "prediction": "x0"}

            def there_and_back(x: jax.Array, options: Any = options) -> jax.Array:
                return ddim_decode(SCHEDULE, denoiser, ddim_encode(SCHEDULE, denoiser, x, **options), **options)

            with jax.enable_x64(True):
                errors.append(np.sqrt(np.mean((np.asarray(jax.jit(there_and_back)(jnp.asarray(x_0))) - x_0) ** 2)))
        axis.loglog(ENCODING_STEPS, errors, color=f"C{index}", marker="osD^"[index], markersize=4, linewidth=1.5, label=spacing)
    _slopes(axis, 200, 0.15, (1,))
    axis.set(xlabel="steps up, and as many down", ylabel="RMS distance from the data")
    axis.legend(title="spacing")
    return figure
