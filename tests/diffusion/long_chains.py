"""Chains of a thousand steps, and a mixture of Gaussians for the samplers to draw."""

import numpy as np

from jax_ddpm import cosine_schedule, linear_schedule
from tests.references.chain import Chain
from tests.references.known_data import GaussianMixture

LINEAR, COSINE = linear_schedule(1000, dtype=np.float64), cosine_schedule(1000, dtype=np.float64)
CHAINS = {"linear": Chain(LINEAR.betas), "cosine": Chain(COSINE.betas)}
SCHEDULES = {"linear": LINEAR, "cosine": COSINE}
LINEAR32 = linear_schedule(1000)
MIXTURE = GaussianMixture(
    np.array([0.5, 0.3, 0.2]),
    np.array([[-0.6, 0.2], [0.5, 0.4], [0.1, -0.7]]),
    np.array([[0.05, 0.03], [0.02, 0.04], [0.03, 0.03]]),
)
