"""--mode export_weights: the averaged weights of a run, with its settings, in a folder of their own."""

from pathlib import Path

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from jax_ddpm.config import default_config, write_config
from jax_ddpm.errors import InvalidInput, choose
from jax_ddpm.experiment import DTYPES
from jax_ddpm.files import place
from jax_ddpm.trained import open_run
from jax_ddpm.training.sharding import make_mesh
from jax_ddpm.training.weights import FILE_NAME, write_weights

PLACES = (
    ("data", "directory"),
    ("train", "start"),
    ("guidance", "classifier"),
    ("edit", "images"),
    ("edit", "mask"),
    ("eval", "classifier"),
    ("export_weights", "out"),
    ("runtime", "compilation_cache"),
)


def main(config: ConfigDict, workdir: Path) -> None:
    """Writes `export_weights.out`: weights and settings, all that sampling, editing, evaluating and training further need.

    Raises:
      InvalidInput: no folder to write is named, or one that holds a run.
    """
    out = place(config.export_weights.out)
    dtype = choose("export_weights.dtype", config.export_weights.dtype, DTYPES)
    if not config.export_weights.out:
        raise InvalidInput("no folder named: say where the weights are to go, --out FOLDER")
    if (out / "checkpoints").exists():
        raise InvalidInput(f"{out} holds a run, whose checkpoints come before a file of weights: name another folder by --out")
    params, step = open_run(config, workdir, make_mesh())
    write_config(without_places(config), out)
    path = write_weights(out / FILE_NAME, params, step, dtype)
    size = sum(leaf.size for leaf in jax.tree.leaves(params))
    megabytes = size * jnp.dtype(dtype).itemsize / 1e6
    print(f"{size:,} parameters of step {step} as {config.export_weights.dtype}, {megabytes:.2f} MB: {path}")
    print(f"they open with: python run.py --mode sample --workdir {out}")


def without_places(config: ConfigDict) -> ConfigDict:
    """The settings with the folders of this machine left out."""
    settings, usual = config.copy_and_resolve_references(), default_config()
    for group, name in PLACES:
        settings[group][name] = usual[group][name]
    return settings
