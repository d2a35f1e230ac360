"""Statistics kept in files: as pytorch-fid and guided-diffusion name them, and what is wrong with those that others wrote."""

import numpy as np
import pytest

from jax_ddpm.errors import InvalidInput
from jax_ddpm.evaluation.frechet import Moments, moments
from jax_ddpm.evaluation.reference import Reference, read_statistics, write_statistics

POOLED, SPATIAL = (moments(np.random.default_rng(seed).normal(size=(9, size))) for seed, size in ((0, 4), (1, 3)))


def same(found, expected):
    return all(np.array_equal(a, b) for a, b in zip(found, expected, strict=True))


def test_what_is_written_is_read_again_and_has_the_names_that_other_programs_read(tmp_path):
    written = Reference("digits", 9, "inception, pytorch resize", POOLED, SPATIAL, np.zeros((9, 4)))
    path = write_statistics(tmp_path / "statistics.npz", written)
    with np.load(path) as file:
        assert same([file[name] for name in ("mu", "sigma", "mu_s", "sigma_s")], [*POOLED, *SPATIAL])
    found = read_statistics(path)
    assert (found.name, found.images, found.features, found.kept) == (str(path), 9, written.features, None)
    assert same(found.pooled, POOLED)
    assert same(found.spatial, SPATIAL)


def test_a_file_of_pytorch_fid_has_two_arrays_and_nothing_else(tmp_path):
    np.savez(tmp_path / "fid.npz", mu=POOLED.mean, sigma=POOLED.covariance)
    found = read_statistics(tmp_path / "fid.npz")
    assert (found.images, found.features, found.spatial) == (None, "", None)
    assert same(found.pooled, POOLED)


def test_images_and_folders_are_no_statistics(tmp_path):
    np.savez(tmp_path / "images.npz", arr_0=np.zeros((2, 4, 4, 3), np.uint8))
    np.save(tmp_path / "images.npy", np.zeros((2, 4, 4, 3), np.uint8))
    assert read_statistics(tmp_path / "images.npz") is None
    assert read_statistics(tmp_path / "images.npy") is None


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"mu": POOLED.mean}, "holds mu and no sigma"),
        ({"mu": POOLED.mean, "sigma": SPATIAL.covariance}, r"mu \(4,\) and sigma \(3, 3\): expected \[D\] and \[D, D\]"),
        ({"mu": POOLED.mean * np.nan, "sigma": POOLED.covariance}, "mu or sigma is not finite"),
    ],
)
def test_what_does_not_go_together_is_told(tmp_path, arrays, message):
    np.savez(tmp_path / "fid.npz", **arrays)
    with pytest.raises(InvalidInput, match=message):
        read_statistics(tmp_path / "fid.npz")


def test_moments_are_kept_in_double_precision(tmp_path):
    np.savez(tmp_path / "fid.npz", mu=POOLED.mean.astype(np.float32), sigma=POOLED.covariance.astype(np.float32))
    assert isinstance(read_statistics(tmp_path / "fid.npz").pooled, Moments)
    assert read_statistics(tmp_path / "fid.npz").pooled.covariance.dtype == np.float64
