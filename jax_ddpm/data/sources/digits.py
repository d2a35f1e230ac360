"""scikit-learn's handwritten digits."""

import numpy as np

from jax_ddpm.data.sources.source import Source
from jax_ddpm.errors import choose


def digits(split: str) -> Source:
    """scikit-learn's 1,797 handwritten digits, grey, 8×8, ten classes.

    Split by a fixed shuffle into "train" (1,500) and "test" (297); "all" is both.
    """
    from sklearn.datasets import load_digits

    order = np.random.default_rng(0).permutation(1797)
    splits = {"train": order[:1500], "test": order[1500:], "all": order}
    chosen = choose("split of digits", split, splits)
    bunch = load_digits()
    images = np.rint(bunch.images[chosen] * (255 / 16)).astype(np.uint8)[..., None]
    labels = bunch.target[chosen]
    names = tuple(str(name) for name in bunch.target_names)
    return Source(
        name="digits",
        size=len(images),
        read=lambda i: {"image": images[i], "label": int(labels[i])},
        class_names=names,
        split=split,
        splits={name: len(numbers) for name, numbers in splits.items()},
        shape=(8, 8, 1),
        licence="BSD-3-Clause",
    )
