"""What makes features of images, for samples to be compared with real images by: the Inception network, or a classifier."""

import dataclasses
import math
import sys
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict
from tqdm import tqdm

from jax_ddpm.data.inspection import spread
from jax_ddpm.data.reading import those
from jax_ddpm.data.sources.source import Example, Source
from jax_ddpm.data.transforms import to_uint8
from jax_ddpm.errors import choose
from jax_ddpm.evaluation.bits_per_dim import Estimate, estimate
from jax_ddpm.evaluation.inception import RESIZES, SPATIAL, Features, describe_images, from_torchvision
from jax_ddpm.files import place
from jax_ddpm.held_out import each_once, held_out, seen_in_training
from jax_ddpm.interop.published import published
from jax_ddpm.interop.tensors import by_name, read_tensors
from jax_ddpm.models.classifier import NoisyClassifier
from jax_ddpm.processes import joined, own_share
from jax_ddpm.trained import open_classifier
from jax_ddpm.training.sharding import make_mesh, replicated, share_out, split_batch
from jax_ddpm.training.state import Params

Describe = Callable[[Source], Iterator[tuple[Features, np.ndarray]]]
"""source -> the features of a batch of its images and their labels [B]: of this process's share, each image once.

The shares of all processes follow one another, see `own_share`.
"""


class Extractor(NamedTuple):
    """What makes features.

    Attributes:
      name: what it is and how images are shown to it; features of another name cannot be compared with these.
      describe: makes them, on all devices of this process.
      sizes: how many numbers each of them has.
      titles: what the metrics are called that are of these features, by their names in `eval.metrics`.
      keys: what they are called in files; other ones where images were shown in another way.
      about: what they depend on, for the figures to be kept with.
    """

    name: str
    describe: Describe
    sizes: Features
    titles: dict[str, str]
    keys: dict[str, str]
    about: dict[str, Any]


_MANIFOLDS = {"precision_recall": "precision and recall", "density_coverage": "density and coverage"}
_OF_INCEPTION = {"fid": "FID", "sfid": "sFID", "is": "Inception score", "kid": "KID", **_MANIFOLDS}
_OF_CLASSIFIER = {"fid": "Fréchet distance", "is": "score", "kid": "kernel distance", **_MANIFOLDS}


def make_extractor(config: ConfigDict, mesh: Mesh) -> Extractor:
    """The one that `eval.features` names.

    Raises:
      InvalidInput: its weights are not here, or are others.
    """
    return choose("eval.features", config.eval.features, EXTRACTORS)(config, mesh)


def _make_inception(config: ConfigDict, mesh: Mesh) -> Extractor:
    choose("eval.resize", config.eval.resize, RESIZES)
    path, digest = published(config.eval.inception, config.eval.inception_sha256)
    resize = RESIZES[config.eval.resize]
    variables = from_torchvision(by_name(read_tensors(path), path))
    describe = _over_devices(config, mesh, variables, partial(describe_images, resize=resize))
    about = {"inception_sha256": digest, "resize": config.eval.resize}
    keys = {name: f"{name}_{config.eval.resize}" for name in _OF_INCEPTION}
    pooled, classes = variables["params"]["fc"]["kernel"].shape
    sizes = Features(pooled, SPATIAL, classes)
    return Extractor(f"inception, {config.eval.resize} resize", describe, sizes, _OF_INCEPTION, keys, about)


def _make_classifier(config: ConfigDict, mesh: Mesh) -> Extractor:
    judge = open_judge(config, mesh)
    print(f"features are those of the classifier {config.eval.classifier}, which is right on {judge}")
    sizes = Features(judge.width, 0, len(config.data.class_names))
    titles = {name: f"classifier {title}" for name, title in _OF_CLASSIFIER.items()}
    keys = {name: title.lower().replace(" ", "_").replace("é", "e") for name, title in titles.items()}
    return Extractor(f"classifier {config.eval.classifier}", judge.describe, sizes, titles, keys, judge.about)


EXTRACTORS: dict[str, Callable[[ConfigDict, Mesh], Extractor]] = {"inception": _make_inception, "classifier": _make_classifier}


class Judge(NamedTuple):
    """A classifier of clean images.

    Attributes:
      describe: the pooled vectors before its last layer, and its logits.
      width: of the pooled vectors.
      accuracy: the share of held-out images that it is right on.
      images: what those are called.
      seen: whether it was trained on them, or some.
    """

    describe: Describe
    width: int
    accuracy: Estimate
    images: str
    about: dict[str, Any]
    seen: bool

    def __str__(self) -> str:
        """How good it is."""
        which = f"{self.accuracy.mean:.1%} of {self.accuracy.images:,} images ({self.images})"
        return which + (", some or all of which it was trained on" if self.seen else "")


def open_judge(config: ConfigDict, mesh: Mesh) -> Judge:
    """The classifier of `eval.classifier`, told that images have no noise, and how often it is right on `eval.split`.

    Raises:
      InvalidInput: there is no such classifier, or it is of other images.
    """
    classifier, source = open_classifier(config, "eval.classifier", mesh, same_noise=False), held_out(config)
    describe = _over_devices(config, mesh, classifier.params, partial(_by_classifier, classifier.network))
    right = [found.logits.argmax(axis=-1) == labels for found, labels in describe(source)]
    accuracy = estimate(joined(np.concatenate([np.zeros(0, bool), *right])))
    seen = seen_in_training(config, place(config.eval.classifier), source)
    about = {
        **{"classifier": config.eval.classifier, "classifier_accuracy": accuracy.mean},
        **{"classifier_images": accuracy.images, "classifier_trained_on_these": seen},
    }
    width = classifier.network.channels * classifier.network.multipliers[-1]
    return Judge(describe, width, accuracy, f"{source.name}, {config.eval.split}", about, seen)


def _by_classifier(network: NoisyClassifier, params: Params, images: jax.Array) -> Features:
    """The pooled vectors, of which the logits are a projection."""
    x = images.astype(jnp.float32) / 127.5 - 1
    pooled = network.apply({"params": params}, x, jnp.zeros(len(x)), features=True)
    assert isinstance(pooled, jax.Array)
    last = params["logits"]
    return Features(pooled, pooled[:, :0], pooled @ last["kernel"] + last["bias"])


def _over_devices(
    config: ConfigDict, mesh: Mesh, weights: Params, features: Callable[[Params, jax.Array], Features]
) -> Describe:
    """Each process works off its own share, each batch of it split over its own devices: none waits for another.

    A device is given as many images at a time as it would be if there were one process.
    """
    own = make_mesh(devices=mesh.local_devices)
    size = math.ceil(config.eval.batch_size / mesh.size) * own.size
    whole = replicated(own)
    run = jax.jit(features, in_shardings=(whole, split_batch(own)), out_shardings=whole)
    placed = jax.tree.map(lambda x: jax.device_put(np.asarray(x), whole), weights)

    def describe(source: Source) -> Iterator[tuple[Features, np.ndarray]]:
        share = share_of(source)
        if not len(share):
            return
        with tqdm(total=len(share), unit="image", disable=not sys.stderr.isatty()) as bar:
            for batch, count in each_once(config, share, size):
                found = jax.device_get(run(placed, share_out(to_uint8(batch["image"]), own)))
                yield Features(*(each[:count] for each in found)), batch["label"][:count]
                bar.update(count)

    return describe


def some(source: Source, count: int) -> Source:
    """As many of the images, spread over all; see `spread`."""
    return those(source, spread(len(source), count))


def share_of(source: Source) -> Source:
    """The images that this process is to work off; those of all processes follow one another, see `own_share`."""
    return those(source, own_share(len(source)))


def numbered(source: Source, order: np.ndarray | None = None) -> Source:
    """The images, labelled with their places, so that what is made of them can be told apart whatever is left out.

    Args:
      order: [N] the numbers of the images in another order than their own.
    """

    def read(place: int) -> Example:
        return {"image": source.read(place if order is None else int(order[place]))["image"], "label": place}

    return dataclasses.replace(source, read=read)


def as_source(images: np.ndarray) -> Source:
    """Images [N, H, W, C] uint8."""
    return Source("samples", len(images), lambda index: {"image": images[index], "label": 0}, shape=images.shape[1:])
