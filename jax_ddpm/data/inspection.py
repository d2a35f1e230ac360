"""What a source holds, found out by reading it."""

import dataclasses
import time
from collections import Counter
from collections.abc import Iterable

import numpy as np

from jax_ddpm.data.sources.source import DamagedImage, Shape, Source
from jax_ddpm.data.transforms import fit, to_float


@dataclasses.dataclass
class Findings:
    """What was found in the images that were read.

    Attributes:
      shapes: how many images there are of each (H, W, C), as they are stored.
      labels: how many there are of each label.
      damaged: why each image that cannot be read cannot, by its number.
      lowest, highest: of the bytes, as they are stored.
      mean, deviation: [C] by channel, over all pixels as the network gets them: fitted, in [-1, 1].
      kept: by label, images drawn at random from all of that label, fitted; uint8.
      seconds: that reading and fitting took, one image after another.
    """

    shapes: Counter[Shape]
    labels: Counter[int]
    damaged: dict[int, str]
    lowest: int
    highest: int
    mean: np.ndarray
    deviation: np.ndarray
    kept: dict[int, list[np.ndarray]]
    seconds: float

    @property
    def readable(self) -> int:
        """How many images could be read."""
        return self.shapes.total()


def spread(size: int, count: int) -> list[int]:
    """Numbers of `count` images of `size`, in their order; of all where count is 0, or more than there are.

    One out of each of as many stretches, for a folder has class after class, and its first images are all of one. Any one of
    its stretch, drawn with a fixed seed, for in another set the classes come in turn, and every tenth image is of one.
    """
    if not 0 < count < size:
        return list(range(size))
    ends = np.arange(count + 1) * size // count
    return np.random.default_rng(0).integers(ends[:-1], ends[1:]).tolist()


def inspect(source: Source, numbers: Iterable[int], image_size: int, channels: int, keep: int) -> Findings:
    """Reads images, notes what they are like and which cannot be read.

    Args:
      numbers: of the images to be read.
      image_size, channels: what every image is fitted to.
      keep: how many images of each label to keep.
    """
    found = Findings(Counter(), Counter(), {}, 255, 0, np.zeros(channels), np.zeros(channels), {}, 0.0)
    sums, rng = np.zeros((2, channels)), np.random.default_rng(0)
    for number in numbers:
        begin = time.perf_counter()
        try:
            example = source[number]
            fitted = fit(example["image"], image_size, channels)
        except DamagedImage as error:
            found.damaged[number] = str(error)
            continue
        finally:
            found.seconds += time.perf_counter() - begin
        image, label = example["image"], example["label"]
        found.shapes[image.shape] += 1
        found.labels[label] += 1
        found.lowest, found.highest = min(found.lowest, int(image.min())), max(found.highest, int(image.max()))
        values = to_float(fitted).astype(np.float64)
        sums += values.sum(axis=(0, 1)), (values**2).sum(axis=(0, 1))
        _keep(found.kept.setdefault(label, []), fitted, found.labels[label], keep, rng)
    found.mean, squares = sums / max(found.readable * image_size**2, 1)
    found.deviation = np.sqrt(np.maximum(squares - found.mean**2, 0))
    return found


def _keep(kept: list[np.ndarray], image: np.ndarray, seen: int, count: int, rng: np.random.Generator) -> None:
    """Keeps `count` of all images, each with the same probability, in one pass: the n-th with count/n, in another's place.

    Args:
      seen: n, the number of images that came, this one too.
    """
    if len(kept) < count:
        kept.append(image)
    elif (place := int(rng.integers(seen))) < count:
        kept[place] = image
