"""Interpolation: on the arc between two latents, where complex numbers turn, and on the straight line."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from jax_ddpm import interpolate

ARC = jax.jit(interpolate)
WEIGHTS = np.linspace(0, 1, 5).astype(np.float32)


def latents(seed, shape=(6, 4, 4, 3)):
    return jax.random.normal(jax.random.key(seed), shape)


@given(
    angle=st.floats(-np.pi, np.pi),
    turn=st.floats(-3.0, 3.0).filter(lambda turn: abs(turn) > 0.01),
    weight=st.floats(0, 1),
    size=st.floats(0.1, 10),
)
def test_on_the_arc_latents_of_the_plane_turn_like_complex_numbers(angle, turn, weight, size):
    a, b = (size * np.array([[np.cos(each), np.sin(each)]]) for each in (angle, angle + turn))
    with jax.enable_x64(True):
        between = np.asarray(ARC(a, b, np.array([weight])))
    expected = size * np.exp(1j * (angle + weight * turn))
    # An angle comes from its cosine, which loses half of the 16 digits where the sine is small; here it is .01 or more.
    np.testing.assert_allclose(between[0, 0], [expected.real, expected.imag], rtol=0, atol=1e-9 * size)


@pytest.mark.parametrize("spherical", [True, False])
def test_interpolation_goes_from_the_one_to_the_other(spherical):
    a, b = latents(0), latents(1)
    between = interpolate(a, b, WEIGHTS, spherical=spherical)
    chex.assert_shape(between, (5, *a.shape))
    chex.assert_type(between, jnp.float32)
    np.testing.assert_allclose(between[0], a, rtol=0, atol=1e-6)  # sin θ/sin θ, and sin 0
    np.testing.assert_allclose(between[-1], b, rtol=0, atol=1e-6)
    backwards = interpolate(b, a, WEIGHTS[::-1], spherical=spherical)
    np.testing.assert_allclose(between, backwards, rtol=0, atol=1e-6)


def test_straight_line_is_the_weighted_mean():
    a, b = (np.asarray(latents(seed), np.float64) for seed in (0, 1))
    expected = a + WEIGHTS.reshape(-1, 1, 1, 1, 1) * (b - a)
    np.testing.assert_allclose(interpolate(latents(0), latents(1), WEIGHTS, spherical=False), expected, rtol=0, atol=1e-6)


@given(seed=st.integers(0, 1000), weight=st.floats(0, 1, width=32))
def test_arc_keeps_the_length_of_latents_that_are_equally_long_and_divides_the_angle(seed, weight):
    a, b = (latents(seed + plus, (2, 48)) for plus in (0, 5000))
    a, b = (10 * each / jnp.linalg.norm(each, axis=1, keepdims=True) for each in (a, b))
    between = np.asarray(ARC(a, b, np.array([weight], np.float32)))[0].astype(np.float64)
    # float32: the angle of two draws lies near 90°, so nothing is lost but a few roundings of 2^-24
    np.testing.assert_allclose(np.linalg.norm(between, axis=1), 10, rtol=2e-6)
    whole, part = (np.arccos(np.clip(np.sum(a * each, axis=1) / 100, -1, 1)) for each in (np.asarray(b, np.float64), between))
    assume(weight > 0.05)  # close to a the angle has no digits left
    np.testing.assert_allclose(part, weight * whole, rtol=0, atol=1e-5)


def test_midpoint_of_the_arc_bisects_and_each_example_has_its_own_angle():
    a, b = np.array([[2.0, 0.0], [2.0, 0.0]], np.float32), np.array([[0.0, 2.0], [-1.0, 3**0.5]], np.float32)
    middle = interpolate(a, b, np.array([0.5], np.float32))[0]
    np.testing.assert_allclose(middle, [[2**0.5, 2**0.5], [1.0, 3**0.5]], rtol=0, atol=1e-6)


@pytest.mark.parametrize("factor", [1.0, 2.5, -1.0, -0.5])
def test_latents_along_one_line_are_joined_by_the_line(factor):
    a = latents(0)
    expected = a + WEIGHTS.reshape(-1, 1, 1, 1, 1) * (factor - 1) * a
    np.testing.assert_allclose(interpolate(a, factor * a, WEIGHTS), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("factor", [None, 1.0, -2.0])
def test_gradients_of_the_arc_are_finite_where_there_is_none_too(factor):
    a, b = latents(0), latents(1) if factor is None else factor * latents(0)
    gradient = jax.jit(jax.grad(lambda a, b: jnp.sum(interpolate(a, b, WEIGHTS) ** 2), (0, 1)))
    chex.assert_tree_all_finite(gradient(a, b))


def test_interpolation_maps():
    a, b = latents(0, (3, 2, 8)), latents(1, (3, 2, 8))
    mapped = jax.jit(jax.vmap(interpolate, (0, 0, None)))(a, b, WEIGHTS)
    one_by_one = [ARC(*pair, WEIGHTS) for pair in zip(a, b, strict=True)]
    np.testing.assert_allclose(mapped, one_by_one, rtol=0, atol=1e-6)
