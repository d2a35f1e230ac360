"""A run that has been trained, opened to be used."""

from functools import partial
from pathlib import Path

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from jax_ddpm.checks import check
from jax_ddpm.config import check_unchanged, read_config
from jax_ddpm.experiment import init_params
from jax_ddpm.training.checkpoints import Checkpoints, abstract
from jax_ddpm.training.sharding import replicated
from jax_ddpm.training.state import Params


def open_run(config: ConfigDict, workdir: Path, mesh: Mesh) -> tuple[Params, int]:
    """The averaged parameters of the newest checkpoint, and its step; nothing in `workdir` is touched.

    Args:
      config: the run's, in what training fixed; the names of its classes are filled in.
      mesh: over whose devices the parameters are replicated.
    Raises:
      InvalidInput: there is no run, it has other settings, or no checkpoint yet.
    """
    config.data.class_names = config.data.class_names or read_config(workdir).data.class_names
    check_unchanged(config, workdir)
    check(config)
    with Checkpoints(workdir / "checkpoints", read_only=True) as checkpoints:
        shapes = jax.eval_shape(partial(init_params, config), jax.random.key(0))
        return checkpoints.restore_ema(abstract(shapes, replicated(mesh))), checkpoints.latest_step or 0
