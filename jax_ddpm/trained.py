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
from jax_ddpm.training.weights import FILE_NAME as WEIGHTS_FILE
from jax_ddpm.training.weights import Weights, read_weights


def open_run(config: ConfigDict, workdir: Path, mesh: Mesh) -> Weights:
    """The averaged parameters of the newest checkpoint, and its step; nothing in `workdir` is touched.

    Where there are no checkpoints, those of the weights file that `--mode export_weights` writes.

    Args:
      config: the run's, in what training fixed; the names of its classes are filled in.
      mesh: over whose devices the parameters are replicated.
    Raises:
      InvalidInput: there is no run, it has other settings, or no checkpoint yet.
    """
    config.data.class_names = config.data.class_names or read_config(workdir).data.class_names
    check_unchanged(config, workdir)
    check(config)
    like = abstract(jax.eval_shape(partial(init_params, config), jax.random.key(0)), replicated(mesh))
    with Checkpoints(workdir / "checkpoints", read_only=True) as checkpoints:
        if checkpoints.latest_step is None and (workdir / WEIGHTS_FILE).is_file():
            return read_weights(workdir / WEIGHTS_FILE, like)
        return Weights(checkpoints.restore_ema(like), checkpoints.latest_step or 0)
