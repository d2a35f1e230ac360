"""scikit-learn's handwritten digits."""

from importlib.metadata import distribution

import numpy as np

from jax_ddpm.data.sources.source import Source
from jax_ddpm.errors import choose


def digits(split: str) -> Source:
    """scikit-learn's 1,797 handwritten digits, grey, 8×8, ten classes.

    Split by a fixed shuffle into "train" (1,500) and "test" (297); "all" is both.
    """
    order = np.random.default_rng(0).permutation(1797)
    splits = {"train": order[:1500], "test": order[1500:], "all": order}
    chosen = choose("split of digits", split, splits)
    table = _table()[chosen]
    images = np.rint(table[:, :64] * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8, 1)
    labels = table[:, 64]
    return Source(
        name="digits",
        size=len(images),
        read=lambda i: {"image": images[i], "label": int(labels[i])},
        class_names=tuple(map(str, range(10))),
        split=split,
        splits={name: len(numbers) for name, numbers in splits.items()},
        shape=(8, 8, 1),
        licence="BSD-3-Clause",
    )


def _table() -> np.ndarray:
    """[1797, 65]: the 64 pixels of each image, 0 to 16, and what it is.

    The file alone: to import scikit-learn takes longer than all else that is done before a small run begins.
    """
    path = distribution("scikit-learn").locate_file("sklearn/datasets/data/digits.csv.gz")
    return np.loadtxt(str(path), delimiter=",", dtype=np.uint8)
