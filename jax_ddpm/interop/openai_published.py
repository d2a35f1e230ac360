"""What is known of the networks that OpenAI published, and that their tensors do not tell: by what the tensors do tell."""

from typing import Any, NamedTuple


class Shape(NamedTuple):
    """What the tensors tell of a network, by which one that was published is known.

    Attributes:
      attention: the levels that have it.
      labels: how many classes it is told, or tells.
      within: whether the image changes its size within blocks.
      learned: whether its output has a variance too.
      time_channels: of the embedding of t, where they are not as many as `channels`.
    """

    channels: int
    multipliers: tuple[int, ...]
    blocks: int
    attention: tuple[int, ...]
    labels: int = 1000
    colours: int = 3
    scale_shift: bool = True
    within: bool = True
    learned: bool = True
    enlarges: bool = False
    classifier: bool = False
    time_channels: int = 0


_LINEAR, _COSINE = {"schedule": "linear", "steps": 1000}, {"schedule": "cosine", "steps": 1000}
_LONG = {"schedule": "cosine", "steps": 4000}
_OLD: dict[str, Any] = {"within": False}
_GUIDE: dict[str, Any] = {"learned": False, "classifier": True}
PUBLISHED: dict[Shape, dict[str, Any]] = {
    Shape(128, (1, 2, 2, 2), 3, (1, 2), 0, **_OLD): {"size": 32, "heads": 4, "dropout": 0.3, "time_scale": 0.25, **_LONG},
    Shape(128, (1, 2, 3, 4), 3, (2, 3), 0, **_OLD): {"size": 64, "heads": 4, "time_scale": 0.25, **_LONG},
    Shape(192, (1, 2, 3, 4), 3, (2, 3), **_OLD): {"size": 64, "heads": 4, **_LONG},
    Shape(128, (1, 1, 2, 2, 4, 4), 2, (4,), 0, scale_shift=False, **_OLD): {"size": 256, "heads": 1, **_LINEAR},
    Shape(192, (1, 1, 2, 2, 4, 4), 2, (4, 5), enlarges=True, **_OLD): {"size": 256, "heads": 4, **_LINEAR, "steps": 4000},
    Shape(192, (1, 2, 3, 4), 3, (1, 2, 3)): {"size": 64, "dropout": 0.1, "qkv": "whole", **_COSINE},
    Shape(256, (1, 1, 2, 3, 4), 2, (2, 3, 4)): {"size": 128, "heads": 4, **_LINEAR},
    Shape(256, (1, 1, 2, 2, 4, 4), 2, (3, 4, 5)): {"size": 256, **_LINEAR},
    Shape(256, (1, 1, 2, 2, 4, 4), 2, (3, 4, 5), 0): {"size": 256, **_LINEAR},
    Shape(128, (1, 2, 2, 4, 4, 8, 8), 2, (4, 5, 6), time_channels=256): {"size": 512, **_LINEAR},
    Shape(192, (1, 1, 2, 2, 4, 4), 2, (3, 4, 5), enlarges=True): {"size": 256, "heads": 4, **_LINEAR},
    Shape(192, (1, 1, 2, 2, 4, 4), 2, (4, 5), enlarges=True): {"size": 512, **_LINEAR},
    Shape(128, (1, 2, 3, 4), 4, (1, 2, 3), **_GUIDE): _COSINE,
    Shape(128, (1, 1, 2, 3, 4), 2, (2, 3, 4), **_GUIDE): _LINEAR,
    Shape(128, (1, 1, 2, 2, 4, 4), 2, (3, 4, 5), **_GUIDE): _LINEAR,
    Shape(64, (1, 2, 2, 4, 4, 8, 8), 2, (4, 5, 6), time_channels=128, **_GUIDE): _LINEAR,
}
"""Those of improved-diffusion, those of guided-diffusion, and its classifiers: pixels a side, heads (left out: of 64 channels
each), dropout, time_scale, the order of q, k and v, and the noise.

LSUN's of guided-diffusion are the same tensors as ImageNet's without classes, and of these it is that there is no dropout.
"""
