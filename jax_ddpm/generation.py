"""Images from parameters: the sampler that a config names, run in batches over all devices."""

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from jax_ddpm.data.transforms import to_uint8
from jax_ddpm.diffusion.sampling import sample_trajectory
from jax_ddpm.experiment import image_shape, make_denoiser, make_network, make_sampler, num_classes
from jax_ddpm.training.sharding import replicated, split_batch
from jax_ddpm.training.state import Params

Generator = Callable[[Params, np.ndarray, int], Iterator[tuple[np.ndarray, np.ndarray]]]
"""(params, labels [N], seed) -> batches of images [B, H, W, C] and of the chain's kept states [K, B, H, W, C], all uint8."""


def make_generator(config: ConfigDict, mesh: Mesh, at_steps: Sequence[int] = ()) -> Generator:
    """A function that draws one image a label, `sample.batch_size` at a time; it compiles once.

    The same seed and batch size give the same images. The labels only count where the network is class-conditional.

    Args:
      at_steps: after how many steps the state of the chain is kept.
    """
    network, sampler = make_network(config), make_sampler(config)
    batch = split_batch(mesh)

    @partial(jax.jit, in_shardings=(replicated(mesh), batch, replicated(mesh)))
    def draw_batch(params: Params, labels: jax.Array, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        start_key, chain_key = jax.random.split(key)
        x_T = jax.random.normal(start_key, (labels.size, *image_shape(config)))
        x_T = jax.lax.with_sharding_constraint(x_T, batch)
        denoiser = make_denoiser(network, params, labels if network.num_classes else None)
        return sample_trajectory(sampler, denoiser, x_T, chain_key, at_steps)

    def generate(params: Params, labels: np.ndarray, seed: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        size = math.ceil(min(config.sample.batch_size, len(labels)) / mesh.size) * mesh.size
        for number, start in enumerate(range(0, len(labels), size)):
            part = labels[start : start + size]
            key = jax.random.fold_in(jax.random.key(seed), number)
            images, states = draw_batch(params, np.resize(part, size), key)  # the last batch is filled up, then cut
            yield to_uint8(jax.device_get(images))[: len(part)], to_uint8(jax.device_get(states))[:, : len(part)]

    return generate


def frame_steps(total: int, frames: int = 11) -> tuple[int, ...]:
    """After how many of `total` steps to look at the chain: evenly spaced, the noise and the image among them."""
    return tuple(sorted({round(step) for step in np.linspace(0, total, frames)}))


def grid_columns(config: ConfigDict, count: int) -> int:
    """Columns of a grid of `count` samples, about as many as rows: a multiple of the classes that are drawn in turn."""
    classes = len(config.sample.labels) or max(num_classes(config), 1)
    return classes * math.ceil(math.sqrt(count) / classes) if classes <= 20 else 0
