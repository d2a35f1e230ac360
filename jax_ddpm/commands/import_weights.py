"""--mode import_weights: a network of another system as a workdir, with its settings, that opens like a run."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from jax_ddpm.checks import check
from jax_ddpm.config import default_config, kept_at, merge, write_config
from jax_ddpm.errors import InvalidInput
from jax_ddpm.experiment import init_params
from jax_ddpm.interop.find import find_network
from jax_ddpm.interop.names import Found, Settings
from jax_ddpm.trained import mode_of_use
from jax_ddpm.training.weights import FILE_NAME, write_weights


def main(config: ConfigDict, workdir: Path) -> None:
    """Writes weights and settings into `workdir`.

    What the source says goes before what a config file says, and what is given as a flag, `import_weights.given`, before both.

    Raises:
      InvalidInput: nothing to read is named, it is nothing that is known here, or the workdir holds something already.
    """
    source = config.import_weights["from"]
    if not source:
        raise InvalidInput("nothing named to import: say where the weights are, --from FOLDER, FILE or USER/NAME of the hub")
    if kept_at(workdir) is not None:
        raise InvalidInput(f"{workdir} holds a run: name another folder by --workdir")
    given = {name: _setting(config, name) for name in config.import_weights.given}
    found = find_network(source, given)
    unknown = [name for name in found.open if name not in given]
    if unknown:
        flags = " ".join(f"--config.{name.partition(' ')[0]}=" for name in unknown)
        raise InvalidInput(f"{source} is {found.format}, and does not say {', '.join(unknown)}: expected also {flags}")
    settings = settings_of(config, found.settings, given)
    check(settings)
    like = jax.eval_shape(partial(init_params, settings), jax.random.key(0))
    params = found.params(like, settings.model)
    path = write_weights(workdir / FILE_NAME, params, step=0)
    write_config(settings, workdir)
    _tell(found, settings, given)
    print(f"{found.format}, {sum(leaf.size for leaf in jax.tree.leaves(params)):,} parameters: {path}")
    print(f"it opens with: python run.py {mode_of_use(settings)} --workdir {workdir}")


def settings_of(config: ConfigDict, found: Settings, given: Mapping[str, Any]) -> ConfigDict:
    """The settings of the workdir: `config`, its network that which was found, and what was given."""
    settings = config.copy_and_resolve_references()
    settings.model, settings.import_weights = default_config().model, default_config().import_weights
    settings.import_weights["from"] = config.import_weights["from"]
    merge(settings, found)
    for name, value in given.items():
        group, _, key = name.rpartition(".")
        (settings[group] if group else settings)[key] = value
    if settings.model.label_dropout and "data.class_names" not in given:  # one of the labels it knows is "no class", the last
        settings.data.class_names = settings.data.class_names[:-1]
    settings.data.classes_named = "data.class_names" in given or not settings.data.class_names
    return settings


def _tell(found: Found, settings: ConfigDict, given: Mapping[str, Any]) -> None:
    """Prints what is in the workdir's settings though neither the source nor a flag says it."""
    assumed = [f"{name}={_setting(settings, name)!r}" for name in found.assumed if name not in given]
    if assumed:
        print(f"what is not in the weights, {found.why}: {', '.join(assumed)}")
        print("if any of it was otherwise, import again and say so, --config.NAME=VALUE")
    if not settings.data.classes_named:
        print(f"{len(settings.data.class_names)} classes without names, called by their numbers")


def _setting(config: ConfigDict, name: str) -> Any:
    group, _, key = name.rpartition(".")
    return (config[group] if group else config)[key]
