"""Draws the figures of the documentation beside this file: `python -m docs.figures.make`."""

import csv
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, Rectangle
from PIL import Image
from scipy import stats
from sklearn.datasets import load_sample_image

from docs.figures.solvers import convergence, encoding
from jax_ddpm import (
    NoiseSchedule,
    constant_schedule,
    cosine_schedule,
    jsd_schedule,
    linear_schedule,
    ode_log_likelihood,
    q_sample,
    quadratic_schedule,
    sigmoid_schedule,
)

HERE = Path(__file__).resolve().parent
SPREAD = 0.35  # the standard deviation of the Gaussian data
LENGTHS = (10, 20, 50, 100, 200, 500, 1000, 2000, 4000)
BLUE, ORANGE, GREEN, GREY = "#1f5fa8", "#d95f02", "#2a8a57", "#666666"
STYLE = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "legend.frameon": False,
    "figure.constrained_layout.use": True,
    "savefig.dpi": 130,
}


def save(figure: Figure, name: str) -> None:
    """Writes one PNG, the same bytes each time."""
    figure.savefig(HERE / name, facecolor="white", metadata={"Software": None})
    plt.close(figure)


def schedules(steps: int = 1000) -> Figure:
    """ᾱ_t and the log signal-to-noise ratio of the six schedules."""
    makers = (linear_schedule, quadratic_schedule, cosine_schedule, sigmoid_schedule, constant_schedule, jsd_schedule)
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4))
    for index, maker in enumerate(makers):
        schedule = maker(steps, dtype=np.float64)
        log_snr = -2 * np.log(schedule.sqrt_recip_alphas_bar_minus_one)
        look = {"color": f"C{index}", "linestyle": ("-", "--", "-.")[index % 3], "linewidth": 1.8}
        left.plot(np.arange(1, steps + 1), schedule.alphas_bar, **look)
        right.plot(np.arange(1, steps + 1), log_snr, label=maker.__name__.removesuffix("_schedule"), **look)
    left.set(xlabel="t", ylabel=r"$\bar\alpha_t$", title="how much of the image's variance is left")
    right.set(xlabel="t", ylabel="log SNR", title="logarithm of the signal-to-noise ratio")
    right.legend(bbox_to_anchor=(1.02, 1), loc="upper left")
    return figure


def photograph(size: int = 64) -> np.ndarray:
    """[1, size, size, 3] in [-1, 1]: a part of a photograph that comes with scikit-learn."""
    whole = Image.fromarray(load_sample_image("china.jpg"))
    small = whole.crop((150, 20, 534, 404)).resize((size, size), Image.Resampling.LANCZOS)
    return np.asarray(small, np.float32)[None] / 127.5 - 1


def noising(steps: int = 1000) -> Figure:
    """A photograph at several t, under two schedules."""
    times = (1, 100, 250, 500, 750, 1000)
    x0 = jnp.asarray(photograph())
    eps = jax.random.normal(jax.random.key(0), x0.shape, x0.dtype)
    figure, axes = plt.subplots(2, len(times), figsize=(9, 3.3))
    for row, (name, schedule) in enumerate((("linear", linear_schedule(steps)), ("cosine", cosine_schedule(steps)))):
        for axis, t in zip(axes[row], times, strict=True):
            xt = q_sample(schedule, x0, jnp.array([t - 1]), eps)[0]
            axis.imshow(np.clip((np.asarray(xt) + 1) / 2, 0, 1), interpolation="nearest")
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set_visible(False)
            if row == 0:
                axis.set_title(f"t = {t}")
        axes[row][0].set_ylabel(name, fontsize=11)
    return figure


def posterior() -> Figure:
    """The step back given three images, and given none, for a coarse and for a fine chain."""
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.2))
    for axis, steps in zip(axes, (10, 200), strict=True):
        schedule = linear_schedule(steps, dtype=np.float64)
        t = int(np.argmin(np.abs(schedule.alphas_bar - 0.6)))
        _step_back(axis, schedule, t, xt=0.3)
        axis.set(title=f"T = {steps}", xlabel=r"$x_{t-1}$", yticks=[])
    axes[0].set_ylabel("density")
    axes[1].legend(bbox_to_anchor=(1.02, 1), loc="upper left")
    return figure


def _step_back(axis: Axes, schedule: NoiseSchedule, t: int, xt: float) -> None:
    known = np.sqrt(schedule.posterior_variance[t])
    of_x0, of_xt = schedule.posterior_mean_x0[t], schedule.posterior_mean_xt[t]
    share = schedule.alphas_bar[t]
    expected = np.sqrt(share) * SPREAD**2 * xt / (share * SPREAD**2 + 1 - share)
    unknown = np.sqrt(known**2 + of_x0**2 * left_to_know(schedule)[t])
    centre = of_x0 * expected + of_xt * xt
    x = np.linspace(centre - 4 * unknown, centre + 4 * unknown, 400)
    for x0, colour in ((-SPREAD, BLUE), (0.0, GREEN), (SPREAD, ORANGE)):
        label = rf"$q(x_{{t-1}} \mid x_t, x_0 = {x0:g})$"
        axis.plot(x, stats.norm.pdf(x, of_x0 * x0 + of_xt * xt, known), color=colour, label=label)
    density = stats.norm.pdf(x, centre, unknown)
    axis.fill_between(x, density, color=GREY, alpha=0.2)
    axis.plot(x, density, color=GREY, linewidth=2, label=r"$p(x_{t-1} \mid x_t)$")
    axis.axvline(xt, color="black", linestyle=":", label=r"$x_t$")
    axis.set_ylim(bottom=0)


def left_to_know(schedule: NoiseSchedule) -> np.ndarray:
    """[T] the variance of x_0 when x_t is known, for data N(0, SPREAD²)."""
    share = schedule.alphas_bar
    return SPREAD**2 * (1 - share) / (share * SPREAD**2 + 1 - share)


def step_variance(schedule: NoiseSchedule, kind: str) -> np.ndarray:
    """[T] a choice of σ_t²; at t = 0 those of β̃ and β are both β_1."""
    true = schedule.posterior_variance + schedule.posterior_mean_x0**2 * left_to_know(schedule)
    small = np.append(schedule.betas[0], schedule.posterior_variance[1:])
    return {"small": small, "large": np.asarray(schedule.betas), "true": true}[kind]


def bound_terms(schedule: NoiseSchedule, kind: str) -> tuple[float, np.ndarray]:
    """The prior term, and [T] the others (the first is the Gaussian decoder), with the exact denoiser: expectations in nats."""
    variance, share = step_variance(schedule, kind), schedule.alphas_bar[-1]
    error = schedule.posterior_mean_x0**2 * left_to_know(schedule)  # E(μ̃ - μ_θ)²; at t = 0 the mean is the predicted x_0
    ratio = schedule.posterior_variance[1:] / variance[1:]
    kl = 0.5 * (ratio - 1 - np.log(ratio) + error[1:] / variance[1:])
    decoder = 0.5 * (np.log(2 * np.pi * variance[0]) + error[0] / variance[0])
    return 0.5 * (share * SPREAD**2 - share - np.log1p(-share)), np.append(decoder, kl)


def exact_nll() -> float:
    """E[-log p(x_0)] in nats: the entropy of the data."""
    return 0.5 * np.log(2 * np.pi * np.e * SPREAD**2)


def gaps(kind: str) -> list[float]:
    """The bound less the exact value, for each length."""
    found = []
    for steps in LENGTHS:
        prior, terms = bound_terms(linear_schedule(steps, dtype=np.float64), kind)
        found.append(prior + terms.sum() - exact_nll())
    return found


def ode_gap(steps: int = 1000) -> float:
    """How far the ODE likelihood is from the exact one, in the mean over data at the first noise level."""
    schedule = linear_schedule(steps)
    levels = jnp.log(jnp.asarray(schedule.sqrt_recip_alphas_bar_minus_one))

    def denoiser(xt: jax.Array, t: jax.Array) -> jax.Array:
        share = jax.nn.sigmoid(-2 * jnp.interp(t, jnp.arange(steps, dtype=levels.dtype), levels))[:, None]
        return jnp.sqrt(1 - share) * xt / (share * SPREAD**2 + 1 - share)

    width = float(np.sqrt(schedule.alphas_bar[0] * SPREAD**2 + 1 - schedule.alphas_bar[0]))
    x = width * jax.random.normal(jax.random.key(0), (256, 1))
    flow = jax.jit(lambda x: ode_log_likelihood(schedule, denoiser, x, jax.random.key(1), exact_trace=True))(x)
    return float(np.mean(np.abs(np.asarray(flow.log_density) - stats.norm.logpdf(np.asarray(x)[:, 0], 0, width))))


CHOICES = (
    ("small", {"color": BLUE, "label": r"$\sigma_t^2 = \tilde\beta_t$"}),
    ("large", {"color": ORANGE, "linewidth": 3.0, "label": r"$\sigma_t^2 = \beta_t$"}),
    ("true", {"color": "black", "linestyle": ":", "label": r"$\sigma_t^2$ the true variance"}),
)


def vlb() -> Figure:
    """The bound by term, and how far it is from the exact likelihood as the chain grows."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6))
    schedule = linear_schedule(1000, dtype=np.float64)
    for kind, look in CHOICES:
        left.loglog(np.arange(2, 1001), bound_terms(schedule, kind)[1][1:], **look)
        if kind != "true":  # there the bound is exact
            right.loglog(LENGTHS, gaps(kind), marker="o", markersize=5, **look)
    right.loglog([1000], [ode_gap()], color=GREY, marker="*", markersize=11, linestyle="none", label="ODE likelihood")
    left.set(xlabel="t", ylabel="nats", title=r"the terms $L_{t-1}$, T = 1000")
    right.set(xlabel="T", ylabel="nats", title="bound less exact likelihood")
    left.legend()
    right.legend()
    return figure


TRAINED = {"digits": "digits", "fashion_mnist": "Fashion-MNIST"}
LOSSES = {
    "simple": {"label": r"$L_{\mathrm{simple}}$, $\sigma_t^2 = \beta_t$", "color": BLUE, "linewidth": 1.6},
    "hybrid": {"label": r"$L_{\mathrm{hybrid}}$, learned $\sigma_t^2$", "color": ORANGE, "linewidth": 1.6},
}


def vlb_trained() -> Figure:
    """The bound of the networks of docs/likelihood.md, summed up from its first term, as --mode evaluate found them."""
    figure, axes = plt.subplots(1, len(TRAINED), figsize=(4.5 * len(TRAINED), 3.6), squeeze=False)
    for axis, (data, title) in zip(axes[0], TRAINED.items(), strict=True):
        for loss, look in LOSSES.items():
            with (HERE / f"vlb_{data}_{loss}.csv").open(newline="") as file:
                rows = [(float(row["t"]), float(row["bits_per_dim"])) for row in csv.DictReader(file)]
            t, bits = np.array(rows).T
            axis.semilogx(t + 1, np.cumsum(bits), **look)
        axis.set(xlabel="t", ylabel="$L_0 + … + L_{t-1}$, bits/dim", ylim=(0, None), title=title)
        axis.legend()
    return figure


def _box(axis: Axes, x: float, y: float, width: float, height: float, colour: str, text: str = "") -> None:
    axis.add_patch(Rectangle((x, y), width, height, facecolor=colour, edgecolor="black", linewidth=0.8))
    axis.text(x + width / 2, y + height / 2, text, ha="center", va="center", fontsize=10)


def _arrow(axis: Axes, start: tuple[float, float], end: tuple[float, float]) -> None:
    axis.add_patch(FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=11, linewidth=1.0, color="black"))


PALE_BLUE, PALE_ORANGE, PALE_GREEN, WHITE = "#cfe0f3", "#fbdcc0", "#cfe8d8", "#ffffff"


def skips() -> Figure:
    """A skip that concatenates beside a skip that adds."""
    figure, axes = plt.subplots(1, 2, figsize=(9, 2.75))
    for axis in axes:
        axis.set(xlim=(0, 10), ylim=(0, 5.1))
        axis.set_aspect("equal")
        axis.axis("off")
        _box(axis, 0.2, 0.6, 1.8, 1.3, PALE_BLUE, "a\nC channels")
        _box(axis, 0.2, 3.1, 1.8, 1.3, PALE_ORANGE, "b\nC channels")
        axis.text(1.1, 0.3, "from below", ha="center", va="top", fontsize=9, color=GREY)
        axis.text(1.1, 4.65, "over the skip", ha="center", va="bottom", fontsize=9, color=GREY)
    _concatenation(axes[0])
    _addition(axes[1])
    return figure


def _concatenation(axis: Axes) -> None:
    axis.set_title("concatenate: 2C channels in, two matrices")
    _arrow(axis, (2.0, 1.25), (3.3, 1.85))
    _arrow(axis, (2.0, 3.75), (3.3, 3.15))
    _box(axis, 3.3, 1.2, 1.4, 1.3, PALE_BLUE, "a")
    _box(axis, 3.3, 2.5, 1.4, 1.3, PALE_ORANGE, "b")
    _arrow(axis, (4.7, 2.5), (5.5, 2.5))
    _box(axis, 5.5, 1.6, 1.7, 0.9, WHITE, r"$W_a$")
    _box(axis, 5.5, 2.5, 1.7, 0.9, WHITE, r"$W_b$")
    _arrow(axis, (7.2, 2.5), (8.0, 2.5))
    _box(axis, 8.0, 1.85, 1.9, 1.3, PALE_GREEN, r"$W_a a + W_b b$")


def _addition(axis: Axes) -> None:
    axis.set_title("add: C channels in, one matrix")
    _arrow(axis, (2.0, 1.25), (3.25, 2.3))
    _arrow(axis, (2.0, 3.75), (3.25, 2.7))
    axis.text(3.5, 2.5, r"$\oplus$", fontsize=20, ha="center", va="center")
    _arrow(axis, (3.8, 2.5), (4.3, 2.5))
    _box(axis, 4.3, 1.85, 1.3, 1.3, PALE_GREEN, "a + b")
    _arrow(axis, (5.6, 2.5), (6.1, 2.5))
    _box(axis, 6.1, 2.05, 1.2, 0.9, WHITE, r"$W$")
    _arrow(axis, (7.3, 2.5), (8.0, 2.5))
    _box(axis, 8.0, 1.85, 1.9, 1.3, PALE_GREEN, r"$W(a + b)$")


def upsampling() -> Figure:
    """How many products add up to each output pixel, by a transposed convolution and by repeating."""
    inputs, kernel = jnp.ones((1, 5, 5, 1)), jnp.ones((3, 3, 1, 1))
    numbers = ("NHWC", "HWIO", "NHWC")
    transposed = jax.lax.conv_transpose(inputs, kernel, (2, 2), "SAME", dimension_numbers=numbers)
    doubled = inputs.repeat(2, axis=1).repeat(2, axis=2)
    repeated = jax.lax.conv_general_dilated(doubled, kernel, (1, 1), "SAME", dimension_numbers=numbers)
    figure, axes = plt.subplots(1, 2, figsize=(7.5, 3.4))
    titles = ("transposed convolution 3×3, stride 2", "each pixel repeated, then a convolution 3×3")
    for axis, counts, title in zip(axes, (transposed, repeated), titles, strict=True):
        inside = np.asarray(counts[0, 1:-1, 1:-1, 0], int)
        axis.imshow(inside / inside.max(), cmap="Blues", vmin=-0.1, vmax=1.6)
        for (row, column), count in np.ndenumerate(inside):
            axis.text(column, row, count, ha="center", va="center", fontsize=9)
        axis.set(xticks=[], yticks=[])
        axis.set_title(title, fontsize=10)
        axis.spines[:].set_visible(False)
        axis.grid(visible=False)
    return figure


FIGURES = (schedules, noising, posterior, vlb, vlb_trained, skips, upsampling, convergence, encoding)


def main() -> None:
    """Draws all of them."""
    with plt.rc_context(STYLE):
        for draw in FIGURES:
            save(draw(), f"{draw.__name__}.png")


if __name__ == "__main__":
    main()
