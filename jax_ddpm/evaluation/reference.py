"""What is known of the images that samples are compared with, in the files of pytorch-fid and guided-diffusion."""

import zipfile
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jax_ddpm.errors import InvalidInput
from jax_ddpm.evaluation.frechet import Moments
from jax_ddpm.evaluation.statistics import PartedMoments
from jax_ddpm.files import write_npz

_NAMES = {"pooled": ("mu", "sigma"), "spatial": ("mu_s", "sigma_s")}  # the second two are guided-diffusion's alone


class Reference(NamedTuple):
    """Images, by their features.

    Attributes:
      name: what they are called.
      images: how many; None where a file does not say.
      features: what made the features; "" where a file does not say.
      pooled, spatial: their moments, where they are known.
      kept: [N, D] float32, the pooled features themselves, where they are known.
      pooled_parts, spatial_parts: the moments of ten parts of them, where the features were made here: by these the error is
        known. None where moments come from a file, and so are taken as exact.
    """

    name: str
    images: int | None
    features: str
    pooled: Moments | None = None
    spatial: Moments | None = None
    kept: np.ndarray | None = None
    pooled_parts: PartedMoments | None = None
    spatial_parts: PartedMoments | None = None


def write_statistics(path: Path, reference: Reference) -> Path:
    """The moments into an .npz file: mu and sigma, and mu_s and sigma_s of the spatial ones where there are such.

    Beside them images and features, which other programs do not heed.
    """
    parts = {part: getattr(reference, part) for part in _NAMES if getattr(reference, part) is not None}
    arrays = {name: array for part, both in parts.items() for name, array in zip(_NAMES[part], both, strict=True)}
    about = {"images": np.array(reference.images or 0), "features": np.array(reference.features)}
    return write_npz(path, **arrays, **about)


def read_statistics(path: Path) -> Reference | None:
    """The moments that an .npz file holds; None where it is another file, or holds none.

    Raises:
      InvalidInput: a mean and a covariance that do not go together, or that are not finite.
    """
    if not zipfile.is_zipfile(path):
        return None
    with np.load(path) as file:
        if "mu" not in file:
            return None
        pooled, spatial = (_moments(path, file, names) if names[0] in file else None for names in _NAMES.values())
        images = int(file["images"]) if "images" in file else 0
        return Reference(str(path), images or None, str(file["features"]) if "features" in file else "", pooled, spatial)


def _moments(path: Path, file: np.lib.npyio.NpzFile, names: tuple[str, str]) -> Moments:
    missing = [name for name in names if name not in file]
    if missing:
        raise InvalidInput(f"{path} holds {names[0]} and no {missing[0]}: expected both")
    mean, covariance = (np.asarray(file[name], np.float64) for name in names)
    if covariance.shape != 2 * mean.shape or mean.ndim != 1:
        raise InvalidInput(f"{path} holds {names[0]} {mean.shape} and {names[1]} {covariance.shape}: expected [D] and [D, D]")
    if not (np.isfinite(mean).all() and np.isfinite(covariance).all()):
        raise InvalidInput(f"{path}: {names[0]} or {names[1]} is not finite")
    return Moments(mean, covariance)
