"""How the cost of sampling depends on the number of steps T: compile time, memory, run time.

    python -m benchmarks.sampling_cost

Measured on the digits network with 16 images; medians of several compilations and runs, T in turn within each round, so that
a machine that slows down slows all of them.
"""

import statistics
import time
from collections.abc import Callable
from functools import partial

import jax
import numpy as np

from configs import digits
from jax_ddpm import experiment
from jax_ddpm.diffusion.sampling import sample
from jax_ddpm.training.state import Params

STEPS = (10, 100, 1000)
ROUNDS = 5
BATCH = 16


def make_draw(steps: int) -> Callable[[Params, jax.Array], jax.Array]:
    """A function that draws a batch by a chain of `steps` steps."""
    config = digits.get_config()
    config.diffusion.steps = steps
    config.model.class_conditional = False
    network, sampler = experiment.make_network(config), experiment.make_sampler(config)

    def draw(params: Params, key: jax.Array) -> jax.Array:
        x_T = jax.random.normal(key, (BATCH, *experiment.image_shape(config)))
        return sample(sampler, experiment.make_denoiser(network, params, None), x_T, key)

    return draw


def main() -> None:
    """Prints a table, a row a number of steps."""
    jax.config.update("jax_enable_compilation_cache", False)
    config = digits.get_config()
    config.model.class_conditional = False
    params = jax.jit(partial(experiment.init_params, config))(jax.random.key(0))
    compile_times: dict[int, list[float]] = {steps: [] for steps in STEPS}
    run_times: dict[int, list[float]] = {steps: [] for steps in STEPS}
    memory: dict[int, int] = {}
    for _ in range(ROUNDS):
        for steps in STEPS:
            jax.clear_caches()
            begin = time.perf_counter()
            compiled = jax.jit(make_draw(steps)).lower(params, jax.random.key(0)).compile()
            compile_times[steps].append(time.perf_counter() - begin)
            analysis = compiled.memory_analysis()
            assert analysis is not None, "this backend does not say how much memory a program takes"
            memory[steps] = analysis.temp_size_in_bytes
            begin = time.perf_counter()
            images = np.asarray(compiled(params, jax.random.key(1)))
            run_times[steps].append(time.perf_counter() - begin)
            assert np.isfinite(images).all()

    print("| T | trace and compile, s | temporary memory, bytes | run, s | run / T, ms |")
    print("|---|---|---|---|---|")
    for steps in STEPS:
        run = statistics.median(run_times[steps])
        compile_time = statistics.median(compile_times[steps])
        print(f"| {steps} | {compile_time:.2f} | {memory[steps]:,} | {run:.2f} | {run / steps * 1e3:.2f} |")


if __name__ == "__main__":
    main()
