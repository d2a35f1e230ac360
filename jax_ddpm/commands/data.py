"""--mode data: what the data holds, whether all of it can be read, what the network gets of it, and how fast."""

import math
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict
from tqdm import tqdm

from jax_ddpm import experiment
from jax_ddpm.checks import check_data
from jax_ddpm.commands.train import prepare
from jax_ddpm.data.augment import augment
from jax_ddpm.data.inspection import Findings, inspect, spread
from jax_ddpm.data.reading import Damages, fits, fitted, fitted_side, without_damaged
from jax_ddpm.data.sources.source import DamagedImage, Shape, Source
from jax_ddpm.data.transforms import fit
from jax_ddpm.errors import InvalidInput
from jax_ddpm.pictures import save_png, table
from jax_ddpm.training.sharding import make_mesh

LISTED = 50  # classes that are told one by one, and shown
SHOWN = 12  # images of each class in the contact sheet, and of each image in the picture of augmentations
AUGMENTED = 6  # images in the latter
ROWS = 8  # of the contact sheet where there are no classes
SECONDS = 3.0  # that the batches of training are timed for
PATIENCE = 10.0  # seconds between two lines that tell how far it is, where these are kept in a file


def main(config: ConfigDict, workdir: Path) -> None:
    """Reads up to `data.inspect` images, prints what they are like, and writes pictures of them into workdir/data/.

    Every damaged image among them is named, whatever `data.on_damaged` says.

    Raises:
      InvalidInput: there is no such data, or nothing in it can be read.
    """
    check_data(config)
    source, data = experiment.make_source(config), config.data
    if not len(source):
        raise InvalidInput(f"data set {source.name!r} is empty")
    numbers = spread(len(source), data.inspect)
    wait = 0.1 if sys.stderr.isatty() else PATIENCE
    bar = tqdm(numbers, unit="image", leave=False, delay=wait, mininterval=wait)
    found = inspect(source, bar, data.image_size, data.channels, SHOWN * (1 if source.class_names else ROWS))
    print("\n".join([*describe_source(source, found), *describe_fit(config, found)]))
    if found.damaged:
        print("\n".join(describe_damages(config, found)), flush=True)
    if not found.readable:
        raise InvalidInput(f"none of the {len(numbers):,} images read of {source.name!r} can be read")
    print("timing batches ...", flush=True)
    print("\n".join(describe_speed(config, source, found)), flush=True)
    sheet = save_png(workdir / "data" / "contact_sheet.png", contact_sheet(source, found))
    print(f"contact sheet: {sheet}")
    if experiment.make_augmentation(config):
        picture = save_png(workdir / "data" / "augmented.png", augmented(config, source, numbers, found))
        print(f"the same images as training augments them: {picture}")
    print(describe_readiness(config, workdir, source))


def describe_source(source: Source, found: Findings) -> list[str]:
    """What is stored."""
    split = f", {source.split} of the splits {_describe_splits(source)}" if source.splits else ", which has no splits"
    read, size = found.readable + len(found.damaged), len(source)
    share = "all of them" if read == size else f"drawn from all over the {size:,}; --config.data.inspect=0 reads every one"
    grey = sum(count for shape, count in found.shapes.items() if shape[2] == 1)
    return [
        f"data: {source.name}{split}",
        f"licence: {source.licence}",
        f"images read: {read:,}, {share}",
        *_describe_shapes(found.shapes),
        f"colour: {grey:,} grey, {found.readable - grey:,} in colour",
        *_describe_classes(source, found.labels, "" if read == size else f"; of the {read:,} read:"),
    ]


def _describe_splits(source: Source) -> str:
    """Their names, and how many images each has, where that is known."""
    return ", ".join(name if size is None else f"{name} ({size:,})" for name, size in source.splits.items())


def _describe_shapes(shapes: Counter[Shape]) -> list[str]:
    """One for all, or the ends and the middle by area; height first."""
    sizes = sorted(((height, width) for height, width, _ in shapes.elements()), key=lambda size: size[0] * size[1])
    if not sizes:
        return []
    first, median, last = (f"{height}×{width}" for height, width in (sizes[0], sizes[len(sizes) // 2], sizes[-1]))
    if (different := len(set(sizes))) == 1:
        return [f"height × width: {first}, all of them"]
    return [f"height × width: {different:,} different; the smallest {first}, the median {median}, the largest {last}"]


def _describe_classes(source: Source, labels: Counter[int], of: str) -> list[str]:
    """A line a class; `of` says what images are counted, where it is not all of them."""
    names = source.class_names
    if not names:
        return ["classes: none"]
    wide = max(map(len, names[:LISTED])) + 2
    rest = [labels[label] for label in range(LISTED, len(names))]
    more = [f"  and {len(rest):,} more, of {min(rest):,} to {max(rest):,}"] if rest else []
    return [
        f"classes: {len(names):,}{of}",
        *(f"  {name:<{wide}}{labels[n]:>8,}" for n, name in enumerate(names[:LISTED])),
        *more,
    ]


def describe_fit(config: ConfigDict, found: Findings) -> list[str]:
    """What the network gets."""
    size, channels = config.data.image_size, config.data.channels
    if not found.readable:
        return []
    changes = {
        "enlarged": lambda shape: min(shape[:2]) < size,
        "made smaller": lambda shape: min(shape[:2]) > size,
        "cropped to a square": lambda shape: shape[0] != shape[1],
        "made grey": lambda shape: shape[2] > channels,
        "grey in all three channels": lambda shape: shape[2] < channels,
    }
    counts = {change: sum(found.shapes[each] for each in found.shapes if true(each)) for change, true in changes.items()}
    told = [f"{count:,} {change}" for change, count in counts.items() if count]
    return [
        f"values: bytes from {found.lowest} to {found.highest}",
        f"the network gets: {size}×{size}×{channels} in [-1, 1]; {', '.join(told) or 'all as they are'}",
        f"  mean {_per_channel(found.mean)}; standard deviation {_per_channel(found.deviation)}",
    ]


def _per_channel(values: np.ndarray) -> str:
    names = ("",) if len(values) == 1 else ("red ", "green ", "blue ")
    return ", ".join(f"{name}{value:.3f}" for name, value in zip(names, values, strict=True))


def describe_damages(config: ConfigDict, found: Findings) -> list[str]:
    """Every image that cannot be read."""
    training = {
        "stop": "training stops at the first of them; --config.data.on_damaged=skip passes them over",
        "skip": "training takes the next image in the place of each",
    }[config.data.on_damaged]
    return [f"damaged: {len(found.damaged):,}; {training}", *(f"  {why}" for why in found.damaged.values())]


def describe_speed(config: ConfigDict, source: Source, found: Findings) -> list[str]:
    """How fast images are read and fitted, and how fast training would get them."""
    read, batch_size, workers = found.readable / max(found.seconds, 1e-9), config.train.batch_size, config.data.workers
    lines = [f"read and fitted: {read:,.0f} images/s, one after another"]
    kept = is_kept(config, source)
    if config.data.on_damaged == "skip":  # each was told already, or is not among those that are
        source = without_damaged(source, Damages(found.damaged, quiet=True))
    try:
        speed, when = time_batches(config, source, kept)
    except DamagedImage:
        return [*lines, "batches: not timed, for a damaged image stops them"]
    return [
        *lines,
        f"batches: {speed:,.1f} of {batch_size} a second, {speed * batch_size:,.0f} images/s by {workers} workers, {when}",
        f"  images are {_describe_keeping(config, kept)}",
    ]


def is_kept(config: ConfigDict, source: Source) -> bool:
    """Whether training keeps the images in memory."""
    size, channels = config.data.image_size, config.data.channels
    most = experiment.make_augmentation(config).stored_size(size)
    return fits(fitted(source, most, channels, least=size), config.data.cache_mib, (most, most, channels))


def _describe_keeping(config: ConfigDict, kept: bool) -> str:
    if kept:
        return "kept in memory once they are read"
    setting = f"data.cache_mib={config.data.cache_mib:g}"
    return f"read anew each epoch: {f'too many for {setting}' if config.data.cache_mib else f'{setting} keeps none'}"


def time_batches(config: ConfigDict, source: Source, kept: bool) -> tuple[float, str]:
    """Batches a second as training gets them, before they are put on the devices, and which these are.

    Args:
      kept: whether images are kept in memory; if so, and an epoch is not too long, it is what comes after it that is timed.
    """
    epoch = math.ceil(len(source) / config.train.batch_size)
    with closing(experiment.make_batches(config, source)) as stream:
        speed, count = _rate(stream, epoch if kept else math.inf)
        if not kept:
            return speed, "in every epoch"
        if count < epoch:
            return speed, "while they are first read"
        return _rate(stream, math.inf)[0], "once all are in memory"


def _rate(stream: Iterator[Any], most: float) -> tuple[float, int]:
    """Batches a second, and how many there were: at least one, at the most so many, and none that begins after `SECONDS`."""
    begin, count = time.perf_counter(), 0
    while not count or (count < most and time.perf_counter() - begin < SECONDS):
        next(stream)
        count += 1
    return count / (time.perf_counter() - begin), count


def contact_sheet(source: Source, found: Findings) -> np.ndarray:
    """A row a class, of images drawn at random from all that were read; without classes some rows of any."""
    if not source.class_names:
        images = found.kept[0]
        rows = [images[start : start + SHOWN] for start in range(0, len(images), SHOWN)]
        return table(_even(rows), [""] * len(rows[0]))
    labels = sorted(found.kept)[:LISTED]
    rows = [found.kept[label] for label in labels]
    return table(_even(rows), [""] * max(map(len, rows)), [source.class_names[label] for label in labels])


def _even(rows: Sequence[Sequence[np.ndarray]]) -> np.ndarray:
    """Rows of images as one array, the shorter ones filled up with white."""
    across, some = max(map(len, rows)), next(image for row in rows for image in row)
    white = np.full_like(some, 255)
    return np.stack([np.stack([*row, *[white] * (across - len(row))]) for row in rows])


def augmented(config: ConfigDict, source: Source, numbers: Sequence[int], found: Findings) -> np.ndarray:
    """A row an image: as it is, and as it might come in so many epochs."""
    how, size, rng = experiment.make_augmentation(config), config.data.image_size, np.random.default_rng(config.seed)
    readable = [number for number in numbers if number not in found.damaged]

    def row(number: int) -> list[np.ndarray]:
        image = source[number]["image"]
        sides = size, fitted_side(image.shape, how.stored_size(size), size)
        plain, stored = (fit(image, side, config.data.channels) for side in sides)
        return [plain, *(augment(stored, size, how, rng)[0] for _ in range(SHOWN - 1))]

    rows = [row(readable[place]) for place in spread(len(readable), AUGMENTED)]
    return table(_even(rows), ["as it is", *[""] * (SHOWN - 1)])


def describe_readiness(config: ConfigDict, workdir: Path, source: Source) -> str:
    """Whether a run with these settings would begin, or go on."""
    try:
        prepare(config, workdir, source, make_mesh(config.mesh.data, config.mesh.fsdp))
    except InvalidInput as error:
        return f"a run would not begin with these settings: {error}"
    return "a run can begin with these settings"
