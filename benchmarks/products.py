"""The 3×3 convolution with its gradients, and the normalisation: how a CPU comes by them beside the usual way.

    python -m benchmarks.products

Each on one XLA device a core, all at once, as in training; medians of interleaved repeats. GFLOP/s of all devices together.
The normalisation is followed by SiLU, and differentiated; beside it stands that of Flax.
"""

import statistics
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from benchmarks.speed.plan import measure
from jax_ddpm.models.layers import GroupNorm
from jax_ddpm.models.products import Product, convolve3x3, usual_convolve3x3
from jax_ddpm.runtime import configure
from jax_ddpm.training.sharding import DATA_AXIS, make_mesh

# Images a device, height and width, channels in and out: of the CIFAR-10 network at 8 and 32 images, of that of digits at 128.
CONVOLUTIONS = (
    (4, 32, 128, 128),
    (4, 16, 256, 256),
    (4, 8, 256, 256),
    (4, 4, 256, 256),
    (16, 32, 128, 128),
    (16, 32, 3, 128),
    (64, 8, 32, 32),
    (64, 4, 64, 64),
)
NORMS = ((4, 32, 128, 32), (4, 16, 256, 32), (64, 8, 32, 8))  # images a device, height and width, channels, groups
PRODUCTS = (usual_convolve3x3, convolve3x3)
BUDGET, ROUNDS = 2.0, 5


def medians(works: Mapping[Any, Callable[..., jax.Array]], split: tuple[jax.Array, ...], whole: jax.Array) -> dict[Any, float]:
    """Seconds that each takes, on all devices at once.

    Args:
      works: functions of the arrays in `split`, of which each device has its share, and of `whole`.
    """
    mesh = make_mesh()
    shares = PartitionSpec(DATA_AXIS)

    def compiled(work: Callable[..., jax.Array]) -> Callable[[], object]:
        def alone(*given: jax.Array) -> jax.Array:
            return work(*given)[None]

        specs = (*(shares for _ in split), PartitionSpec())
        program = jax.jit(jax.shard_map(alone, mesh=mesh, in_specs=specs, out_specs=shares, check_vma=False))
        return partial(program.lower(*split, whole).compile(), *split, whole)

    programs = {name: compiled(work) for name, work in works.items()}
    for program in programs.values():
        jax.block_until_ready(program())

    def run(name: Any, calls: int) -> float:
        begin = time.perf_counter()
        for _ in range(calls):
            out = programs[name]()
        jax.block_until_ready(out)
        return (time.perf_counter() - begin) / calls

    return {name: statistics.median(found) for name, found in measure(run, list(works), budget=BUDGET, rounds=ROUNDS).items()}


def forward(product: Product, x: jax.Array, back: jax.Array, kernel: jax.Array) -> jax.Array:
    """The product."""
    return product(x, kernel)


def by_x(product: Product, x: jax.Array, back: jax.Array, kernel: jax.Array) -> jax.Array:
    """Its gradient by x."""
    return jax.vjp(lambda x: product(x, kernel), x)[1](back)[0]


def by_kernel(product: Product, x: jax.Array, back: jax.Array, kernel: jax.Array) -> jax.Array:
    """Its gradient by the kernel."""
    return jax.vjp(partial(product, x), kernel)[1](back)[0]


def convolutions() -> None:
    """Prints a table, a row a shape: usual → ours in GFLOP/s, both counted as the usual way's, and the ratio."""
    print("| images, size, channels | forward | | gradient by x | | by the kernel | |\n|---|---|---|---|---|---|---|")
    for images, size, channels, features in CONVOLUTIONS:
        draw, count = partial(jax.random.normal, jax.random.key(0)), images * jax.device_count()
        x, back = draw((count, size, size, channels)), draw((count, size, size, features))
        works = {(part, product): partial(part, product) for part in (forward, by_x, by_kernel) for product in PRODUCTS}
        taken = medians(works, (x, back), draw((3, 3, channels, features)))
        gflop, row = 2 * count * size**2 * 9 * channels * features / 1e9, f"| {images}, {size}, {channels} to {features} |"
        for part in (forward, by_x, by_kernel):
            usual, ours = (taken[part, product] for product in PRODUCTS)
            row += f" {gflop / usual:.0f} → {gflop / ours:.0f} | {usual / ours:.2f} |"
        print(row, flush=True)


def norms() -> None:
    """Prints a table, a row a shape."""
    print("| images, size, channels, groups | Flax, ms | ours, ms | ratio |\n|---|---|---|---|")
    for images, size, channels, groups in NORMS:
        shape = (images * jax.device_count(), size, size, channels)
        x, back = (jax.random.normal(jax.random.key(seed), shape) for seed in (0, 1))
        modules = {"Flax": nn.GroupNorm(groups, dtype=jnp.float32), "ours": GroupNorm(groups, jnp.float32)}
        params = modules["ours"].init(jax.random.key(2), x)

        def gradient(x: jax.Array, back: jax.Array, _: jax.Array, module: Any, params: Any = params) -> jax.Array:
            return jax.vjp(lambda x: nn.silu(module.apply(params, x)), x)[1](back)[0]

        taken = medians({name: partial(gradient, module=module) for name, module in modules.items()}, (x, back), jnp.zeros(()))
        columns = " | ".join(f"{seconds * 1e3:.2f}" for seconds in taken.values())
        print(f"| {images}, {size}, {channels}, {groups} | {columns} | {taken['Flax'] / taken['ours']:.2f} |", flush=True)


def main() -> None:
    """Prints both tables."""
    configure(0, "", 2**10)
    convolutions()
    print()
    norms()


if __name__ == "__main__":
    main()
