"""Images that were held out of training, and what the metrics say of them."""

import math
import re
import sys
from collections.abc import Callable, Collection, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict
from tqdm import tqdm

from jax_ddpm import experiment
from jax_ddpm.config import read_config
from jax_ddpm.data.pipeline import Batch, how_many, one_pass
from jax_ddpm.data.reading import those
from jax_ddpm.data.sources.folder import which_split
from jax_ddpm.data.sources.source import Source
from jax_ddpm.errors import InvalidInput
from jax_ddpm.metrics import METRICS
from jax_ddpm.models.unet import UNet
from jax_ddpm.training.sharding import own_rows, replicated, split_batch, to_devices
from jax_ddpm.training.state import Params

NOTE_SEEN = "note: the run was trained on these images, or some of them; name others by --config.eval.split or data.directory"


class Held(NamedTuple):
    """What is evaluated: a network, and the first so many images of a source, in batches."""

    config: ConfigDict
    mesh: Mesh
    params: Params
    source: Source
    images: int
    batch_size: int


def held_out(config: ConfigDict) -> Source:
    """The images of `eval.split`.

    Raises:
      InvalidInput: there are none, or they are not of the classes that the network knows.
    """
    source = experiment.make_source(config, split=config.eval.split)
    _check_labels(config, source)
    return source


def hold(config: ConfigDict, mesh: Mesh, params: Params, source: Source) -> Held:
    """What is evaluated: as many of the images as `eval.count` says, in batches that divide over the devices."""
    count = how_many(source, config.eval.count)
    batch_size = math.ceil(min(config.eval.batch_size, count) / mesh.size) * mesh.size
    return Held(config, mesh, params, source, count, batch_size)


def _check_labels(config: ConfigDict, source: Source) -> None:
    told = config.model.class_conditional or experiment.is_classifier(config)
    if not told:
        return
    own, named = tuple(config.data.class_names), config.data.classes_named
    if not experiment.same_classes(config.data, source.class_names):
        found = ", ".join(source.class_names) or "not named"
        wanted = ", ".join(own) if named else f"{len(own)} without names"
        found = found if named else f"{len(source.class_names)} ({found})"
        raise InvalidInput(f"the classes of {source.name} are {found}: this network was trained on {wanted}")
    if not named:
        print(f"the {len(own)} classes of this network have no names: taken to be those of {source.name}, in its order")


def seen_in_training(config: ConfigDict, workdir: Path, source: Source) -> bool:
    """Whether the images are, or may be, among those that the run was trained on."""
    trained = read_config(workdir).data
    here, there = (Path(data.directory).expanduser().resolve() for data in (config.data, trained))
    if config.data.name in ("folder", "arrays") and here != there:
        return False
    if not source.splits:
        return True
    ours, theirs = (_parts(split, source.splits) for split in (config.eval.split, trained.split))
    return not ours.isdisjoint(theirs) or "all" in ours | theirs


def _parts(split: str, splits: Collection[str]) -> set[str]:
    """The splits of which one that is asked for has images: "train[:90%]+valid" has some of two."""
    return {which_split(part, splits) for part in re.sub(r"\[.*?\]", "", split).split("+")}


def which_images(held: Held) -> str:
    """What the images are called: their source and, where it has splits, which one they are of."""
    return f"{held.source.name}, {held.config.eval.split}" if held.source.splits else held.source.name


def each_once(config: ConfigDict, source: Source, batch_size: int, count: int = 0) -> Iterator[tuple[Batch, int]]:
    """The images as the network takes them; see `one_pass`."""
    data = config.data
    fitted_to = {"image_size": data.image_size, "channels": data.channels}
    return one_pass(source, batch_size=batch_size, count=count, on_damaged=data.on_damaged, **fitted_to)


def own_batches(held: Held) -> Iterator[tuple[Batch, int]]:
    """The rows of each batch that lie on devices of this process, which reads no others; and how many of the whole batch count.

    Where damaged images are left out each process reads all, for what is left out moves those behind it to other rows.
    """
    rows, starts = own_rows(held.batch_size, held.mesh), range(0, held.images, held.batch_size)
    if held.config.data.on_damaged == "skip":
        for batch, real in each_once(held.config, held.source, held.batch_size, held.images):
            yield {name: values[rows] for name, values in batch.items()}, real
        return
    reals = [min(held.batch_size, held.images - start) for start in starts]
    numbers = [start + int(row) % real for start, real in zip(starts, reals, strict=True) for row in rows]
    own = each_once(held.config, those(held.source, numbers), len(rows))
    yield from ((batch, real) for (batch, _), real in zip(own, reals, strict=True))


def over_data(held: Held, metric: str) -> Iterator[Any]:
    """What the metric says of each batch, on the host, without what fills up the last one."""
    config = held.config
    network, per_batch = experiment.make_network(config), _per_batch(config, metric)
    split, whole = split_batch(held.mesh), replicated(held.mesh)

    @partial(jax.jit, in_shardings=(whole, split, split, whole), out_shardings=whole)
    def evaluate(params: Params, images: jax.Array, labels: jax.Array, key: jax.Array) -> Any:
        return per_batch(network, params, images, labels, key)

    def without_filling(found: Any, real: int) -> Any:
        return jax.tree.map(lambda x: x[..., :real], jax.device_get(found))

    key = jax.random.key(config.eval.seed)
    with tqdm(total=held.images, unit="image", disable=not sys.stderr.isatty()) as bar:
        for number, (batch, real) in enumerate(own_batches(held)):
            images, labels = to_devices((batch["image"], batch["label"]), held.mesh)
            found = evaluate(held.params, images, labels, jax.random.fold_in(key, number))
            yield without_filling(found, real)
            bar.update(real)


def _per_batch(config: ConfigDict, metric: str) -> Callable[..., Any]:
    """(network, params, x0 [B, ...], labels [B], key) -> what the metric says."""
    found: Callable[..., Any] = METRICS[metric](config)
    if experiment.is_classifier(config):
        return found

    def of_denoiser(network: UNet, params: Params, x0: jax.Array, labels: jax.Array, key: jax.Array) -> Any:
        known, small = labels if network.num_classes else None, experiment.small_images(config, x0)
        return found(experiment.make_denoiser(network, params, known, low_resolution=small), x0, key)

    return of_denoiser
