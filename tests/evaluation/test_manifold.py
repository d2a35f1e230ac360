"""Precision, recall, density and coverage: scikit-learn's neighbours, the papers' properties, and blocks of any size."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.neighbors import NearestNeighbors

from jax_ddpm.errors import InvalidInput
from jax_ddpm.evaluation import manifold
from jax_ddpm.evaluation.manifold import density_coverage, precision_recall


def expected(samples, real, k, j):
    """All four by scikit-learn's search and whole tables of distances."""
    real_radii = NearestNeighbors(n_neighbors=k + 1).fit(real).kneighbors(real)[0][:, k]
    sample_radii = NearestNeighbors(n_neighbors=k + 1).fit(samples).kneighbors(samples)[0][:, k]
    wide = NearestNeighbors(n_neighbors=j + 1).fit(real).kneighbors(real)[0][:, j]
    apart = np.linalg.norm(samples[:, None] - real, axis=-1)
    return (
        (apart <= real_radii).any(axis=1).mean(),
        (apart <= sample_radii[:, None]).any(axis=0).mean(),
        (apart <= wide).sum() / (j * len(samples)),
        (apart.min(axis=0) <= wide).mean(),
    )


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(7, 40), st.integers(7, 40), st.floats(0, 2))
def test_scikit_learn_finds_the_same_in_blocks_of_any_size(seed, n, m, shift):
    rng = np.random.default_rng(seed)
    samples, real = rng.normal(size=(n, 3)) + shift, rng.normal(size=(m, 3))
    usual = manifold.ROWS, manifold.COLUMNS
    try:
        for manifold.ROWS, manifold.COLUMNS in (usual, (5, 4)):
            found = (*precision_recall(samples, real), *density_coverage(samples, real))
            np.testing.assert_allclose(found, expected(samples, real, 3, 5), rtol=1e-12)
    finally:
        manifold.ROWS, manifold.COLUMNS = usual


def test_of_two_modes_one_left_out_costs_recall_and_coverage_alone():
    rng = np.random.default_rng(0)
    real = rng.normal(size=(400, 2)) + np.repeat([[0, 0], [100, 0]], 200, axis=0)
    samples = rng.normal(size=(300, 2))
    precision, recall = precision_recall(samples, real)
    density, coverage = density_coverage(samples, real)
    assert precision > 0.9
    assert 0.4 < recall <= 0.5
    assert 0.8 < density < 1.2
    assert 0.4 < coverage <= 0.5


def test_a_stray_real_image_spoils_precision_and_not_density():
    """The stray one's ball holds all samples, though they are nowhere near the others (Naeem et al. 2020, figure 3)."""
    rng = np.random.default_rng(0)
    real = np.concatenate([rng.normal(size=(200, 2)), [[60.0, 0]]])
    samples = rng.normal(size=(200, 2)) * 0.1 + [20, 0]
    assert precision_recall(samples, real).precision == 1
    density, coverage = density_coverage(samples, real)
    assert density == pytest.approx(1 / 5)
    assert coverage < 0.02


def test_of_the_same_distribution_coverage_is_what_the_paper_has_worked_out():
    """1 - (M-1)…(M-k)/(M+N-1)…(M+N-k) in the mean (Naeem et al. 2020, lemma 2), and density 1."""
    found = []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        found.append(density_coverage(rng.normal(size=(150, 2)), rng.normal(size=(100, 2))))
    density, coverage = np.mean(found, axis=0)
    below = np.arange(1, 6)
    truth = 1 - np.prod((100 - below) / (250 - below))
    assert coverage == pytest.approx(truth, abs=4 * np.std([each.coverage for each in found]) / np.sqrt(60))
    assert density == pytest.approx(1, abs=4 * np.std([each.density for each in found]) / np.sqrt(60))


def test_too_few_have_no_neighbours():
    with pytest.raises(InvalidInput, match="3 images have no 3 neighbours each: expected 4 or more"):
        precision_recall(np.zeros((9, 2)), np.zeros((3, 2)))
