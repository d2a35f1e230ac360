"""What a sampler costs beside the network: a chain's time over that of as many evaluations of the network, one by one.

    python -m benchmarks.sampler_overhead

The evaluations are calls of the compiled network, as many as the sampler makes, each waited for; a chain is one call. They
are measured in turn, and each chain's time is divided by the mean of the evaluations before and after it, so that a
machine that slows down slows both. What a call costs that computes nothing is measured too: a chain is spared it. Medians of
the rounds. CIFAR's network takes a tenth of the steps.
"""

import statistics
import time
from collections.abc import Callable
from functools import partial
from types import ModuleType

import jax
import jax.numpy as jnp
import numpy as np

from configs import cifar, digits
from jax_ddpm import ancestral, ddim, experiment, linear_schedule, sample, unipc
from jax_ddpm.diffusion.prediction import Denoiser
from jax_ddpm.training.state import Params

ROUNDS = 3
NETWORKS: dict[str, tuple[ModuleType, int, int]] = {"digits": (digits, 16, 1000), "CIFAR-10": (cifar, 1, 100)}  # images, steps
SCHEDULE = linear_schedule(1000)
SAMPLERS = {
    "ancestral": partial(ancestral, SCHEDULE),
    "DDIM": partial(ddim, SCHEDULE),
    "UniPC-3": partial(unipc, SCHEDULE, order=3),
}


def seconds(work: Callable[[], jax.Array]) -> float:
    """How long it takes."""
    begin = time.perf_counter()
    assert np.isfinite(np.asarray(work())).all()
    return time.perf_counter() - begin


def measure(module: ModuleType, images: int, steps: int) -> dict[str, list[float]]:
    """The ratios found in each round, by sampler, and the milliseconds of an evaluation and of a call of nothing."""
    config = module.get_config()
    config.model.class_conditional = False
    network = experiment.make_network(config)
    params = jax.jit(partial(experiment.init_params, config))(jax.random.key(0))
    x, key = jax.random.normal(jax.random.key(1), (images, *experiment.image_shape(config))), jax.random.key(2)
    times = [jnp.full(images, t) for t in np.linspace(999, 0, steps).astype(int)]

    def denoiser(params: Params) -> Denoiser:
        return experiment.make_denoiser(network, params, None)

    evaluate = jax.jit(lambda params, x, t: denoiser(params)(x, t)).lower(params, x, times[0]).compile()
    chains = {
        name: jax.jit(lambda params, x, make=make: sample(make(steps=steps), denoiser(params), x, key))
        .lower(params, x)
        .compile()
        for name, make in SAMPLERS.items()
    }

    def one_by_one() -> jax.Array:
        for t in times[:-1]:
            evaluate(params, x, t).block_until_ready()
        return evaluate(params, x, times[-1])

    found: dict[str, list[float]] = {name: [] for name in ("evaluation, ms", "call, ms", *chains)}
    seconds(one_by_one)  # warms up
    idle = jax.jit(lambda params, x, t: x + t[0]).lower(params, x, times[0]).compile()

    def calls_alone() -> jax.Array:
        for t in times[:-1]:
            idle(params, x, t).block_until_ready()
        return idle(params, x, times[-1])

    seconds(calls_alone)
    before = seconds(one_by_one)
    for _ in range(ROUNDS):
        for name, chain in chains.items():
            taken, after = seconds(partial(chain, params, x)), seconds(one_by_one)
            found[name].append(2 * taken / (before + after))
            found["evaluation, ms"].append(after / steps * 1e3)
            found["call, ms"].append(seconds(calls_alone) / steps * 1e3)
            before = after
    return found


def main() -> None:
    """Prints a table, a row a network."""
    print(f"| network | images | steps | evaluation, ms | of which the call, ms | {' | '.join(SAMPLERS)} |")
    print("|---" * (5 + len(SAMPLERS)) + "|")
    for name, (module, images, steps) in NETWORKS.items():
        found = {column: statistics.median(values) for column, values in measure(module, images, steps).items()}
        ratios = " | ".join(f"{found[sampler]:.3f}" for sampler in SAMPLERS)
        print(
            f"| {name} | {images} | {steps} | {found['evaluation, ms']:.2f} | {found['call, ms']:.2f} | {ratios} |", flush=True
        )


if __name__ == "__main__":
    main()
