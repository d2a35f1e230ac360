"""Diffusion models as pure JAX functions, and a Flax U-Net to train with them. Nothing is computed here."""

from jax_ddpm.diffusion.gaussian import (
    Gaussian,
    discretized_log_likelihood,
    gaussian_kl,
    q_mean_variance,
    q_posterior,
    q_sample,
)
from jax_ddpm.diffusion.likelihood import VLB, bits_per_dim, prior_kl, vlb_terms
from jax_ddpm.diffusion.losses import Denoiser, eps_loss, kl_loss, x0_loss
from jax_ddpm.diffusion.prediction import eps_from_x0, from_x0, p_mean_variance, static_clip, to_x0, x0_from_eps
from jax_ddpm.diffusion.sampling import Sampler, ancestral, sample, sample_trajectory
from jax_ddpm.diffusion.schedules import (
    NoiseSchedule,
    constant_schedule,
    cosine_schedule,
    jsd_schedule,
    linear_schedule,
    quadratic_schedule,
    schedule_from_betas,
    sigmoid_schedule,
)
from jax_ddpm.errors import InvalidInput
from jax_ddpm.models.unet import UNet

__version__ = "0.1.0"

__all__ = [
    "VLB",
    "Denoiser",
    "Gaussian",
    "InvalidInput",
    "NoiseSchedule",
    "Sampler",
    "UNet",
    "ancestral",
    "bits_per_dim",
    "constant_schedule",
    "cosine_schedule",
    "discretized_log_likelihood",
    "eps_from_x0",
    "eps_loss",
    "from_x0",
    "gaussian_kl",
    "jsd_schedule",
    "kl_loss",
    "linear_schedule",
    "p_mean_variance",
    "prior_kl",
    "q_mean_variance",
    "q_posterior",
    "q_sample",
    "quadratic_schedule",
    "sample",
    "sample_trajectory",
    "schedule_from_betas",
    "sigmoid_schedule",
    "static_clip",
    "to_x0",
    "vlb_terms",
    "x0_from_eps",
    "x0_loss",
]
