"""What is compiled here runs once: it is compiled as fast as can be."""

import jax
import torch

from parity import torchvision_alone  # noqa: F401  before anything imports torchvision, as diffusers does

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_disable_most_optimizations", True)
torch.set_num_threads(1)
