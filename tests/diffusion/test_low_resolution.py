"""The small image: averaged, noised where it is small, brought to the size of the large one."""

import chex
import jax
import numpy as np
import pytest

from jax_ddpm.diffusion.low_resolution import enlarged, low_resolution, shrunk
from jax_ddpm.diffusion.schedules import linear_schedule
from jax_ddpm.errors import InvalidInput

SCHEDULE = linear_schedule(50)


def normals(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def test_each_small_pixel_is_the_mean_of_its_square():
    x = normals(0, 2, 6, 6, 3)
    expected = [
        [[[x[b, 3 * i : 3 * i + 3, 3 * j : 3 * j + 3, c].mean() for c in range(3)] for j in (0, 1)] for i in (0, 1)]
        for b in (0, 1)
    ]
    np.testing.assert_allclose(shrunk(x, 2), expected, rtol=0, atol=1e-6)  # means of nine float32 values below 4


@pytest.mark.parametrize("factor", [2, 3, 4])
def test_enlarging_is_linear_between_the_middles_of_pixels_and_keeps_edges_and_constants(factor):
    row = np.array([0.0, 1.0, -2.0, 4.0], np.float32)
    x = np.tile(row[None, None, :, None], (1, 4, 1, 1))
    places = (np.arange(4 * factor) + 0.5) / factor - 0.5  # of the large pixels, counted in small ones
    expected = np.interp(places, np.arange(4), row)  # np.interp holds the ends
    np.testing.assert_allclose(enlarged(x, 4 * factor)[0, 1, :, 0], expected, rtol=0, atol=1e-6)
    np.testing.assert_allclose(enlarged(np.swapaxes(x, 1, 2), 4 * factor)[0, :, 1, 0], expected, rtol=0, atol=1e-6)
    np.testing.assert_allclose(enlarged(np.full((1, 4, 4, 1), 0.3, np.float32), 4 * factor), 0.3, rtol=1e-6)


class Conditions(chex.TestCase):
    @chex.variants(with_jit=True, without_jit=True)
    def test_noise_comes_to_the_small_image_after_so_many_steps_of_the_forward_process(self):
        small, eps, steps = normals(1, 4, 4, 4, 1), normals(2, 4, 4, 4, 1), np.array([0, 1, 20, 50])
        found = self.variant(lambda *arrays: low_resolution(SCHEDULE, arrays[0], 8, *arrays[1:]))(small, steps, eps)
        alphas_bar = np.cumprod(1 - np.linspace(1e-4 * 20, 0.02 * 20, 50))
        kept = np.array([1.0, *alphas_bar[[0, 19, 49]]])[:, None, None, None]
        noised = np.sqrt(kept) * small + np.sqrt(1 - kept) * eps
        # Float32 tables of √ᾱ and √(1-ᾱ), and sums of a few values below 4.
        np.testing.assert_allclose(found.image, enlarged(noised.astype(np.float32), 8), rtol=0, atol=2e-6)
        np.testing.assert_array_equal(found.t, steps)

    @chex.variants(with_jit=True, without_jit=True)
    def test_without_noise_it_is_the_small_image_enlarged_and_says_so(self):
        small = normals(1, 3, 4, 4, 1)
        found = self.variant(lambda small: low_resolution(SCHEDULE, small, 8))(small)
        np.testing.assert_array_equal(found.image, jax.jit(lambda x: enlarged(x, 8))(small))
        np.testing.assert_array_equal(found.t, [0, 0, 0])


@pytest.mark.parametrize(("given", "message"), [("steps", "steps without eps"), ("eps", "eps without steps")])
def test_noise_without_its_level_or_the_reverse_is_refused(given, message):
    arrays = {"steps": np.array([3]), "eps": normals(1, 1, 4, 4, 1)}
    with pytest.raises(InvalidInput, match=message):
        low_resolution(SCHEDULE, normals(0, 1, 4, 4, 1), 8, **{given: arrays[given]})
