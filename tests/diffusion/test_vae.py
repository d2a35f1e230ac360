"""The chain of one step is a variational autoencoder: the two bounds agree, the VAE's computed in NumPy and SciPy alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special, stats

from jax_ddpm import bits_per_dim, p_mean_variance, schedule_from_betas, vlb_terms

BETAS = [0.05, 0.4, 0.9]
KEY = jax.random.key(3)
LEVELS = np.linspace(-1, 1, 256)
HIDDEN, OUT = (np.random.default_rng(2).normal(size=shape).astype(np.float32) / 4 for shape in [(2, 8), (8, 4)])


def images(count: int) -> np.ndarray:
    """[count, 2] in float64, of numbers that float32 holds; a black and a white value among them."""
    drawn = np.random.default_rng(1).choice(LEVELS, (count, 2))
    drawn[0] = -1, 1
    return drawn.astype(np.float32).astype(np.float64)


class Autoencoder:
    """A VAE with encoder N(√(1-β) x, β I), prior N(0, I), and a decoder that is a Gaussian's mass in bins of width 2/255."""

    def __init__(self, beta: float):
        self.beta = beta

    def encode(self, x):
        return np.sqrt(1 - self.beta) * x, self.beta

    def decode(self, z):
        out = np.tanh(z @ HIDDEN.astype(np.float64)) @ OUT.astype(np.float64)
        return out[..., :2], out[..., 2:] - 1

    def kl(self, x):
        mean, variance = self.encode(x)
        return 0.5 * np.sum(variance + mean**2 - 1 - np.log(variance), axis=-1)

    def reconstruction(self, x, z):
        mean, log_variance = self.decode(z)
        model = stats.norm(mean, np.exp(0.5 * log_variance))
        below = np.where(x > 0.999, 1.0, model.cdf(x + 1 / 255))
        return -np.log(below - np.where(x < -0.999, 0.0, model.cdf(x - 1 / 255))).sum(axis=-1)

    def bound(self, x, noise):
        """The negative ELBO with the given noise of the encoder."""
        mean, variance = self.encode(x)
        return self.kl(x) + self.reconstruction(x, mean + np.sqrt(variance) * noise)

    def expected_bound(self, x):
        """[count] the negative ELBO, by Gauss–Hermite quadrature over both values of the latent."""
        nodes, weights = special.roots_hermitenorm(60)
        plane = np.stack(np.meshgrid(nodes, nodes), axis=-1).reshape(-1, 1, 2)
        mass = np.outer(weights, weights).reshape(-1, 1) / weights.sum() ** 2
        return (mass * self.bound(x, plane)).sum(axis=0)


def network(xt, t):
    out = jnp.tanh(xt @ HIDDEN) @ OUT
    return jnp.concatenate([out[..., :2], out[..., 2:] - 1], axis=-1)


def chain_bound(beta, x, key):
    return vlb_terms(
        schedule_from_betas([beta]), network, jnp.asarray(x, jnp.float32), key, prediction="x0", variance="learned"
    )


@pytest.mark.parametrize("beta", BETAS)
def test_with_the_same_noise_the_bounds_are_the_same(beta):
    x = images(200)
    vlb = chain_bound(beta, x, KEY)
    noise = np.asarray(jax.random.normal(jax.random.fold_in(KEY, 0), x.shape), np.float64)
    # float32 carries the mean and the deviation to about 1e-7; the tails of the bins and the sum magnify that to 3e-6 as seen.
    np.testing.assert_allclose(vlb.prior, Autoencoder(beta).kl(x), rtol=1e-5)
    np.testing.assert_allclose(vlb.total, Autoencoder(beta).bound(x, noise), rtol=2e-5)
    assert not vlb.kl.any()


@pytest.mark.parametrize("beta", BETAS)
def test_the_mean_over_draws_is_the_expected_elbo(beta):
    x, count = images(4), 20_000
    totals = np.asarray(chain_bound(beta, np.repeat(x, count, axis=0), KEY).total, np.float64).reshape(4, count)
    expected = Autoencoder(beta).expected_bound(x)
    standard_error = totals.std(axis=1) / np.sqrt(count)
    assert np.all(np.abs(totals.mean(axis=1) - expected) < 5 * standard_error)  # five: one failure in a million
    assert np.all(standard_error < 0.02 * expected)  # so that the line above says something


def test_the_output_of_a_network_that_predicts_x0_is_the_decoders_mean():
    chain, x = schedule_from_betas([0.4]), jnp.asarray(images(6), jnp.float32)
    out = network(x, None)
    p, _ = p_mean_variance(chain, out, x, jnp.zeros(6, jnp.int32), prediction="x0", variance="learned", clip=None)
    np.testing.assert_array_equal(p.mean, out[:, :2])
    np.testing.assert_array_equal(p.log_variance, out[:, 2:])


@pytest.mark.parametrize("variance", ["fixed_small", "fixed_large"])
def test_a_decoder_of_fixed_variance_has_that_of_the_encoder(variance):
    chain, x = schedule_from_betas([0.4]), jnp.zeros((1, 2))
    p, _ = p_mean_variance(chain, x, x, jnp.zeros(1, jnp.int32), prediction="x0", variance=variance, clip=None)
    np.testing.assert_allclose(np.exp(p.log_variance), 0.4, rtol=1e-6)


def test_it_bounds_the_exact_likelihood():
    vae, x = Autoencoder(0.4), images(4)
    grid = np.linspace(-7, 7, 701)
    plane = np.stack(np.meshgrid(grid, grid), axis=-1).reshape(-1, 1, 2)
    prior = stats.norm.pdf(plane).prod(axis=-1) * (grid[1] - grid[0]) ** 2
    exact = -np.log((prior * np.exp(-vae.reconstruction(x, plane))).sum(axis=0))
    assert np.all(vae.expected_bound(x) > exact)


def test_bits_per_dimension_are_the_elbo_in_bits_for_each_value():
    x = images(4)
    vlb = chain_bound(0.4, x, KEY)
    noise = np.asarray(jax.random.normal(jax.random.fold_in(KEY, 0), x.shape), np.float64)
    np.testing.assert_allclose(bits_per_dim(vlb, (2,)), Autoencoder(0.4).bound(x, noise) / (2 * np.log(2)), rtol=2e-5)
