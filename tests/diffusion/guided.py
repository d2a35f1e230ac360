"""Mixtures of Gaussians whose guidance is known: exact denoisers, with and without the class, and exact class posteriors."""

import jax
import jax.numpy as jnp
import numpy as np

from jax_ddpm import classifier_free, classifier_guided, guided_mean, sample_trajectory, schedule_from_betas
from tests.compiling import in_float64_for_each
from tests.references.chain import Chain
from tests.references.known_data import GaussianMixture

KEY = jax.random.key(5)
BETAS = np.linspace(0.002, 0.3, 12)
CHAIN = Chain(BETAS)
SCHEDULE64 = schedule_from_betas(BETAS, np.float64)
SIGNAL, NOISE = np.sqrt(CHAIN.alphas_bar), np.sqrt(CHAIN.noise_variance)
MIXTURE = GaussianMixture(
    np.array([0.5, 0.3, 0.2]),
    np.array([[-0.6, 0.3], [0.5, 0.4], [0.1, -0.7]]),
    np.array([[0.04, 0.1], [0.09, 0.02], [0.05, 0.05]]),
)
DENOISER, CLASSIFIER = MIXTURE.denoiser(CHAIN, "eps"), MIXTURE.classifier(CHAIN)

# Two classes of one covariance, the second of which hardly ever occurs (e⁻¹⁰⁰). So the data are N(FROM, SPREAD), log p(1 | x_t)
# is linear in x_t, and p(x_t) p(1 | x_t)^w is the x_t of N(FROM + w AWAY, SPREAD) for any w.
FROM, AWAY, SPREAD = np.array([-0.2, 0.4]), np.array([0.5, -0.3]), np.array([0.2, 0.5])
RARE = GaussianMixture(np.array([1.0, np.exp(-100)]), np.stack([FROM, FROM + AWAY]), np.stack([SPREAD, SPREAD]))


def steepness(chain, t):
    """[B, 2] ∇ log p(1 | x_t) of RARE: √ᾱ AWAY / (ᾱ SPREAD + 1-ᾱ)."""
    share = chain.alphas_bar[t][..., None]
    return np.sqrt(share) * AWAY / (share * SPREAD + chain.noise_variance[t][..., None])


def batch(times=12, copies=6, seed=0):
    """[B, 2] states, [B] times, each of them `copies` times, and [B] classes."""
    rng = np.random.default_rng(seed)
    count = times * copies
    return 1.5 * rng.normal(size=(count, 2)), np.repeat(np.arange(times), copies), rng.integers(0, 3, count)


def assert_close(actual, expected):
    """Float64: twelve digits of the tables, of which the differences here lose two."""
    np.testing.assert_allclose(actual, expected, rtol=1e-10, atol=1e-10)


def free(prediction="eps", **options):
    options = {"null_label": 3, "scale": 1.0} | options
    return lambda labels: classifier_free(MIXTURE.labelled_denoiser(CHAIN, prediction), jnp.asarray(labels), **options)


FORMS = {
    "classifier": lambda labels, **options: classifier_guided(DENOISER, CLASSIFIER, labels, SCHEDULE64, **options),
    "free": lambda labels, **options: free(**options)(labels),
}


def guided_and_not(sampler, chain, x, scale, at_steps):
    """The states of RARE's chain, guided to the second class by the mean, and at scale 0, under the same noise."""

    def run(x, scale):
        denoiser, classifier = RARE.denoiser(chain, sampler.prediction), RARE.classifier(chain)
        guided = guided_mean(sampler, classifier, np.ones(len(x), np.int32), scale=scale)
        return sample_trajectory(guided, denoiser, x, KEY, at_steps)[1]

    return in_float64_for_each(run, (x, scale), (x, 0.0))
