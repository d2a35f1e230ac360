"""The Fréchet distance against closed forms, SciPy's matrix root, and its own definition as an optimal transport cost."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from scipy.linalg import sqrtm

from jax_ddpm.evaluation.frechet import Moments, frechet_distance, moments


def random_moments(seed, size=5, rank=None):
    rng = np.random.default_rng(seed)
    factor = rng.normal(size=(size, rank or size))
    return Moments(rng.normal(size=size), factor @ factor.T)


def test_moments_are_numpys():
    features = np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32)
    found = moments(features)
    np.testing.assert_allclose(found.mean, features.astype(np.float64).mean(0), rtol=1e-12)
    np.testing.assert_allclose(found.covariance, np.cov(features.T.astype(np.float64)), rtol=1e-12)
    assert moments(features[:, :1]).covariance.shape == (1, 1)


def test_one_dimension_is_the_distance_of_means_and_of_deviations():
    a, b = Moments(np.array([1.0]), np.array([[4.0]])), Moments(np.array([-2.0]), np.array([[0.25]]))
    np.testing.assert_allclose(frechet_distance(a, b), 3.0**2 + (2 - 0.5) ** 2, rtol=1e-14)


@given(st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1))
def test_as_scipys_matrix_root_has_it(first, second):
    a, b = random_moments(first), random_moments(second)
    root = sqrtm(a.covariance @ b.covariance).real
    expected = np.sum((a.mean - b.mean) ** 2) + np.trace(a.covariance + b.covariance - 2 * root)
    # 1e-6: the root of a nearly singular product has half the digits of a double.
    np.testing.assert_allclose(frechet_distance(a, b), expected, rtol=1e-6, atol=1e-6)


@given(st.integers(0, 2**32 - 1), st.integers(1, 5))
def test_a_distance(seed, rank):
    """Zero from itself, of any rank; the same either way; 1e-6 since roots of round-off stand where a rank is missing."""
    a, b = random_moments(seed, rank=rank), random_moments(seed + 1)
    assert abs(frechet_distance(a, a)) < 1e-6
    np.testing.assert_allclose(frechet_distance(a, b), frechet_distance(b, a), rtol=1e-6)
    assert frechet_distance(a, b) > 0


def test_the_optimal_map_costs_as_much():
    """E|x - T(x)|² of the linear map between two Gaussians: x drawn from a, T its symmetric map to b."""
    a, b = random_moments(3), random_moments(4)
    root = sqrtm(a.covariance).real
    back = np.linalg.inv(root)
    transport = back @ sqrtm(root @ b.covariance @ root).real @ back
    np.testing.assert_allclose(transport @ a.covariance @ transport, b.covariance, atol=1e-9)
    moved = np.eye(5) - transport
    cost = np.trace(moved @ a.covariance @ moved.T) + np.sum((a.mean - b.mean) ** 2)
    np.testing.assert_allclose(frechet_distance(a, b), cost, rtol=1e-9)


@given(st.integers(0, 2**32 - 1), st.integers(1, 5))
def test_equal_covariances_leave_the_distance_of_the_means(seed, rank):
    covariance = random_moments(seed, rank=rank).covariance
    first, second = np.random.default_rng(seed).normal(size=(2, 5))
    found = frechet_distance(Moments(first, covariance), Moments(second, covariance))
    np.testing.assert_allclose(found, np.sum((first - second) ** 2), rtol=1e-6, atol=1e-6)


@given(st.integers(0, 2**32 - 1), st.integers(2, 30))
def test_fewer_samples_than_features_give_a_finite_distance(seed, count):
    """Theirs has rank count - 1; that of commuting covariances is known: √ of each eigenvalue apart, squared."""
    rng = np.random.default_rng(seed)
    found = moments(rng.normal(size=(count, 40)))
    values, vectors = np.linalg.eigh(found.covariance)
    other = Moments(found.mean + 1, (vectors * 9) @ vectors.T)
    expected = 40 + np.sum((np.sqrt(np.maximum(values, 0)) - 3) ** 2)
    distance = frechet_distance(found, other)
    assert isinstance(distance, float)
    # 1e-4: the roots of what round-off leaves of the eigenvalues that are 0.
    np.testing.assert_allclose(distance, expected, rtol=1e-4)
    np.testing.assert_allclose(frechet_distance(other, found), distance, rtol=1e-4)
