"""Every test runs on four virtual CPU devices, so that sharding is real wherever it appears."""

import jax

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 4)
