"""A run opened to draw from: chains that can be looked at while they run, by programs that are compiled once."""

import itertools
import math
import threading
from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from jax_ddpm.checks import check
from jax_ddpm.data.transforms import to_float, to_uint8
from jax_ddpm.diffusion.sampling import Standing, begun, go_on
from jax_ddpm.editor import make_inpaint
from jax_ddpm.errors import InvalidInput
from jax_ddpm.experiment import chosen_labels, make_sampler, num_classes
from jax_ddpm.figures import WEIGHTS
from jax_ddpm.generation import Arrays, Prepare, batch_key, frame_steps, from_noise, open_guide
from jax_ddpm.serving.asked import NO_CLASS, Asked, checked, first_asked, inpainting, limits_of, settled
from jax_ddpm.trained import Classifier, kind_of_weights, open_run
from jax_ddpm.training.sharding import make_mesh, replicated, share_out, split_batch
from jax_ddpm.training.state import Params

STATES = 21  # of a chain that are looked at, its beginning and its end among them
PROGRAMS = 16  # that are kept; the one that was used longest ago goes first


class Seen(NamedTuple):
    """A chain, looked at on its way.

    Attributes:
      done: evaluations of the network that have been made, of `total`.
      xt: [N, H, W, C] uint8 its state; after the last evaluation the images.
      x0: [N, H, W, C] uint8 what the network took the state before it for; before the first evaluation grey.
    """

    done: int
    total: int
    xt: np.ndarray
    x0: np.ndarray


class Filling(NamedTuple):
    """An image [H, W, C] uint8, and a mask [H, W, 1] uint8 that has 255 where it is to be drawn anew, else 0."""

    image: np.ndarray
    mask: np.ndarray


class Order(NamedTuple):
    """What is to be drawn, as `Painter.order` has looked it through.

    Attributes:
      asked: within the limits of the run.
      config: the settings that it comes to.
      filling: what is filled in; None where images are drawn from noise alone.
    """

    asked: Asked
    config: ConfigDict
    filling: Filling | None


class _Kind(NamedTuple):
    """All that a program depends on."""

    inpaints: bool
    sampler: str
    steps: int
    images: int
    guided: bool
    resamples: int


class _Program(NamedTuple):
    evaluations: int
    begin: Callable[[Params, Params, Arrays, jax.Array], Standing]
    go_on: Callable[[Params, Params, Arrays, jax.Array, Standing, int, int], Standing]


class Painter:
    """A run, and the programs that have been compiled for it.

    Attributes:
      config, workdir: the settings that it was opened with, and where it is.
      step: of the training whose weights it draws with.
      weights: which these are, in words.
      limits: what can be asked for.
    """

    def __init__(self, config: ConfigDict, workdir: Path) -> None:
        """Opens the run.

        Raises:
          InvalidInput: there is none, or it draws nothing from noise alone: a classifier, a network that enlarges; or
            the settings are none that the page takes.
        """
        self._mesh = make_mesh()
        self._params, self.step = open_run(config, workdir, self._mesh)
        self.weights = WEIGHTS[kind_of_weights(workdir)]
        self._guide = open_guide(config, self._mesh)
        from_noise(config, self._guide)
        self.config, self.workdir, self.limits = config, workdir, limits_of(config)
        checked(self.limits, first_asked(config))  # what the page begins with is what it would take
        self._program = lru_cache(PROGRAMS)(self._compiled)
        self._working, self._closed = threading.Lock(), False

    def order(self, asked: Asked, filling: Filling | None = None) -> Order:
        """What is asked for, in the settings that it comes to.

        Raises:
          InvalidInput: something is out of its range, or not to be asked of this run.
        """
        asked = checked(self.limits, asked)
        asked = inpainting(self.limits, asked) if filling else asked
        if asked.label == NO_CLASS and (filling is None or asked.scale != 1):
            raise InvalidInput("no class: it is for inpainting without guidance. Expected a class, or every class in turn")
        return Order(asked, settled(self.config, asked), filling)

    def paint(self, order: Order) -> Iterator[Seen]:
        """Draws what is ordered, and shows STATES states of the chain, the last of which are the images.

        They are those that `--mode sample` draws with the same settings; with `filling`, what `--mode edit --task inpaint`
        makes of that image.

        After `close` there is nothing more.

        Raises:
          InvalidInput: the settings do not go together.
        """
        chain = self._chain(order)
        while True:
            with self._working:
                seen = None if self._closed else next(chain, None)
            if seen is None:
                return
            yield seen

    def close(self, patience: float) -> bool:
        """Begins no more parts of chains; whether the one that was at work came to its end within so many seconds."""
        self._closed = True
        return self._working.acquire(timeout=patience)

    def _chain(self, order: Order) -> Iterator[Seen]:
        """What `paint` shows."""
        asked, _, filling = order
        guided = self._guide is not None or asked.scale != 1
        resamples = asked.resamples if filling else 1
        program = self._program(_Kind(filling is not None, asked.sampler, asked.steps, asked.images, guided, resamples))
        given = share_out(_filled_up(_given(order, guided), self._mesh), self._mesh)
        key = batch_key(asked.seed, 0)
        arguments = (self._params, self._guide and self._guide.params, given, key)
        standing = program.begin(*arguments)
        ends = frame_steps(program.evaluations, STATES)
        yield _seen(0, program.evaluations, asked.images, standing)
        for first, stop in itertools.pairwise(ends):
            standing = program.go_on(*arguments, standing, first, stop)
            yield _seen(stop, program.evaluations, asked.images, standing)

    def _compiled(self, kind: _Kind) -> _Program:
        """The programs of this kind; JAX compiles each when it is first called. Labels, seed and scale are their arguments."""
        scale = 2.0 if kind.guided and self._guide is None else 1.0  # whichever it is: it only says that there is one
        asked = Asked(kind.sampler, kind.steps, kind.images, seed=0, scale=scale, resamples=kind.resamples)
        config = settled(self.config, asked)
        check(config)
        prepare, evaluations = (_inpainting if kind.inpaints else _drawing)(config, self._guide, self._mesh)

        def begin(params: Params, guide_params: Params, given: Arrays, key: jax.Array) -> Standing:
            chain = prepare(params, guide_params, given, key)
            return begun(chain.sampler, chain.x)

        def part(
            params: Params, guide_params: Params, given: Arrays, key: jax.Array, standing: Standing, first: int, stop: int
        ) -> Standing:
            chain = prepare(params, guide_params, given, key)
            return go_on(chain.sampler, chain.denoiser, standing, chain.key, first, stop)

        batch, whole = split_batch(self._mesh), replicated(self._mesh)
        alike = (whole, whole, batch, whole)
        return _Program(
            evaluations,
            jax.jit(begin, in_shardings=alike, out_shardings=batch),
            jax.jit(part, in_shardings=(*alike, batch, whole, whole), out_shardings=batch),
        )


def _drawing(config: ConfigDict, guide: Classifier | None, mesh: Mesh) -> tuple[Prepare, int]:
    place = partial(jax.lax.with_sharding_constraint, shardings=split_batch(mesh))
    return from_noise(config, guide, place), make_sampler(config).evaluations


def _inpainting(config: ConfigDict, guide: Classifier | None, mesh: Mesh) -> tuple[Prepare, int]:
    task = make_inpaint(config, guide)
    assert task.prepare is not None  # it is a single chain
    return task.prepare, task.evaluations


def _given(order: Order, guided: bool) -> dict[str, np.ndarray]:
    """By name, each [count, ...]: what the chains are given."""
    asked, config, filling = order
    count = asked.images
    none = np.full(count, num_classes(config), np.int32)  # what stands for no class
    given = {"label": none if asked.label == NO_CLASS else chosen_labels(config, count)}
    if guided:
        given["scale"] = np.full(count, asked.scale, np.float32)
    if filling is not None:
        known = np.float32(1) - filling.mask / np.float32(255)
        given |= {name: np.stack([each] * count) for name, each in (("image", to_float(filling.image)), ("mask", known))}
    return given


def _filled_up(given: dict[str, np.ndarray], mesh: Mesh) -> dict[str, np.ndarray]:
    """As many of each as divide over the devices, the first ones again after the last."""
    count = len(given["label"])
    rows = np.arange(math.ceil(count / mesh.size) * mesh.size) % count
    return {name: values[rows] for name, values in given.items()}


def _seen(done: int, total: int, count: int, standing: Standing) -> Seen:
    x, x0 = jax.device_get((standing.x, standing.estimates[0]))
    return Seen(done, total, to_uint8(x)[:count], to_uint8(x0)[:count])
