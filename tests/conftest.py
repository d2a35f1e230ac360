"""Every test runs on four virtual CPU devices, so that sharding is real wherever it appears."""

import tempfile
from pathlib import Path

import jax

# What one test compiled, another that compiles the same takes from here; so do the processes that tests start.
COMPILATION_CACHE = Path(tempfile.gettempdir()) / "jax_ddpm_tests"

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 4)
jax.config.update("jax_compilation_cache_dir", str(COMPILATION_CACHE))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
