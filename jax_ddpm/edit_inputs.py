"""What --mode edit is given: images, their classes, a mask."""

from collections.abc import Callable
from itertools import islice
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from jax_ddpm.data.reading import readable
from jax_ddpm.data.sources.folder import image_folder
from jax_ddpm.data.sources.image_files import read_image
from jax_ddpm.data.sources.source import Source
from jax_ddpm.data.transforms import fit, to_float
from jax_ddpm.diffusion.low_resolution import shrunk
from jax_ddpm.editor import targets
from jax_ddpm.errors import InvalidInput, choose
from jax_ddpm.experiment import known_classes, make_source, num_classes, same_classes

Given = dict[str, np.ndarray]
"""By name, each [N, ...]: `image` [N, H, W, C] uint8, `label` [N], and what else a task takes."""


def read_given(config: ConfigDict) -> Given:
    """The images of the user, or held-out ones of the run's own data, and what else `edit.task` is given with them.

    Raises:
      InvalidInput: what was named cannot be read, or the network cannot take it; labels that are out of range, or missing.
    """
    source = _source(config)
    examples = list(islice(readable(source, config.data.on_damaged), config.edit.count))
    images = np.stack([_fitted(config, example["image"]) for example in examples])
    given = {"image": images, "label": _labels(config, source, np.array([example["label"] for example in examples]))}
    return MORE[config.edit.task](config, given)


def _fitted(config: ConfigDict, image: np.ndarray) -> np.ndarray:
    """[H, W, C] of the size that the network draws. A small image to be enlarged is so in squares, which can be undone."""
    size, channels = config.data.image_size, config.data.channels
    if config.edit.task != "enlarge" or min(image.shape[:2]) >= size:
        return fit(image, size, channels)
    small = config.model.low_res_size
    return fit(image, small, channels).repeat(size // small, axis=0).repeat(size // small, axis=1)


def _source(config: ConfigDict) -> Source:
    """The user's images, or held-out ones of the run's own data."""
    if not config.edit.images:
        return make_source(config, split=config.eval.split)
    path = Path(config.edit.images).expanduser()
    if path.is_dir():
        return image_folder(str(path))
    if not path.is_file():
        raise InvalidInput(f"no image or folder of images at {path.absolute()}: --images must name one")
    image = read_image(path)
    return Source(str(path), 1, lambda _: {"image": image, "label": 0})


def _labels(config: ConfigDict, source: Source, own: np.ndarray) -> np.ndarray:
    """[N] what the network, or the classifier that guides it, is told of the images.

    That is `edit.labels`, or what the source says: its classes count where all have names that the network knows. Without
    either it is "no class", one more than the last label, where the network knows that.
    """
    guided = config.guidance.classifier and config.edit.task not in UNGUIDED
    known, names = (known_classes if guided else num_classes)(config), tuple(config.data.class_names)
    asked = _in_range("labels", tuple(config.edit.labels), known)
    if asked:
        return np.resize(np.asarray(asked, np.int32), len(own))
    if known and source.class_names and not config.data.classes_named and same_classes(config.data, source.class_names):
        return own.astype(np.int32)
    if known and source.class_names and set(source.class_names) <= set(names):
        return np.array([names.index(source.class_names[label]) for label in own], np.int32)
    if known and (guided or not config.model.label_dropout):
        raise InvalidInput(
            f"the network is told of what class an image is, and {source.name} does not say: expected edit.labels, such as "
            f"--config.edit.labels=(0,), with labels in 0..{known - 1}, or images in folders named as the classes"
        )
    return np.full(len(own), len(names), np.int32)


def _in_range(name: str, labels: tuple[int, ...], known: int) -> tuple[int, ...]:
    if labels and not known:
        raise InvalidInput(f"edit.{name}={labels}: neither the network nor a classifier that guides it knows classes")
    if any(label >= known for label in labels):
        raise InvalidInput(f"edit.{name}={labels}: expected labels in 0..{known - 1}")
    return labels


def _with_mask(config: ConfigDict, given: Given) -> Given:
    """And `mask` [N, H, W, 1], 255 where the image is to be drawn anew, else 0."""
    size = config.data.image_size
    mask = np.zeros((size, size, 1), np.uint8)
    if config.edit.mask:
        # Fitted as the images are: resized, then cropped at the centre.
        mask[fit(read_image(Path(config.edit.mask).expanduser()), size, 1) > 127] = 255
    else:
        mask[choose("edit.region", config.edit.region, _regions(size))] = 255
    if mask.all() or not mask.any():
        what = "white: nothing of the image is kept" if mask.all() else "black: nothing is drawn"
        raise InvalidInput(f"the mask {config.edit.mask} is all {what}. Expected white where the image is to be drawn anew")
    return {**given, "mask": np.broadcast_to(mask, (len(given["image"]), *mask.shape))}


def _regions(size: int) -> dict[str, tuple[slice, slice]]:
    """The halves of an image, and its middle, as rows and columns."""
    all_of_it, first, second, middle = slice(None), slice(size // 2), slice(size // 2, None), slice(size // 4, size - size // 4)
    return {
        **{"left": (all_of_it, first), "right": (all_of_it, second)},
        **{"top": (first, all_of_it), "bottom": (second, all_of_it)},
        "centre": (middle, middle),
    }


def _with_targets(config: ConfigDict, given: Given) -> Given:
    """And `targets` [N, results], the classes wanted of each."""
    wanted, known = targets(config), known_classes(config)
    if not known:
        raise InvalidInput("translate goes to other classes, and neither the network nor a classifier that guides it knows any")
    _in_range("targets", wanted, known)
    return {**given, "targets": np.tile(np.asarray(wanted, np.int32), (len(given["image"]), 1))}


def _with_small(config: ConfigDict, given: Given) -> Given:
    """And `small` [N, h, w, C] uint8, what is to be enlarged: each image made small as in training."""
    return {**given, "small": np.rint(shrunk(given["image"], config.model.low_res_size)).astype(np.uint8)}


def _in_pairs(config: ConfigDict, given: Given) -> Given:
    """Each with the next one, and `labels` [N-1, frames] of what lies between.

    Two classes have "no class" between them, where the network knows that; else each half of the way has the class of its end.
    """
    if len(given["image"]) < 2:
        raise InvalidInput("interpolate goes from image to image: expected two or more, in a folder, and edit.count=2 or more")
    pairs = {name: values[:-1] for name, values in given.items()} | {f"{name}_2": v[1:] for name, v in given.items()}
    first, second = pairs["label"], pairs["label_2"]
    if config.model.label_dropout and not config.guidance.classifier:
        first = second = np.where(first == second, first, len(config.data.class_names)).astype(np.int32)
    in_first_half = np.linspace(0, 1, config.edit.frames) < 0.5
    labels = np.where(in_first_half, first[:, None], second[:, None])
    return {**pairs, "label": first, "label_2": second, "labels": labels}


MORE: dict[str, Callable[[ConfigDict, Given], Given]] = {
    "inpaint": _with_mask,
    "interpolate": _in_pairs,
    "encode": lambda config, given: given,
    "translate": _with_targets,
    "sdedit": lambda config, given: given,
    "enlarge": _with_small,
}
UNGUIDED = ("encode", "translate")  # where the images' own classes guide nothing


def as_arrays(given: Given) -> Given:
    """As the task takes it: images in [-1, 1], the mask 1 where the image is known."""
    floats: Given = {name: to_float(given[name]) for name in ("image", "image_2", "small") if name in given}
    known = {"mask": np.float32(1) - given["mask"] / np.float32(255)} if "mask" in given else {}
    return {**given, **floats, **known}
