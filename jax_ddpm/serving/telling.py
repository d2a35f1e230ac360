"""How pictures came about: in words, and as the command that makes them again."""

import shlex
from pathlib import Path
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from jax_ddpm.config import changes, read_config
from jax_ddpm.experiment import known_classes
from jax_ddpm.reporting.embedded import data_uri
from jax_ddpm.serving.asked import IN_TURN, NO_CLASS
from jax_ddpm.serving.painter import Order

PICTURE, MASK = "picture.png", "mask.png"  # by which names the command that fills in finds what it is given
_SETTINGS = {  # which of them a mode draws by
    "sample": ("sample.", "sampler.", "guidance.", "runtime.cpu_devices"),
    "edit": ("edit.", "sampler.", "guidance.", "runtime.cpu_devices"),
}
_OF_FLAGS = ("edit.task", "edit.images", "edit.mask")  # that have names of their own


class Told(NamedTuple):
    """Of what pictures came.

    Attributes:
      facts: names and values.
      command: that makes the pictures again; with files, the first of them.
      files: those that it needs, as data: URIs by their names.
    """

    facts: tuple[tuple[str, str], ...]
    command: str
    files: tuple[tuple[str, str], ...] = ()


def told(order: Order, workdir: Path, weights: str, step: int, evaluations: int) -> Told:
    """Of what the pictures came.

    Args:
      weights: which they are, such as "averaged".
      step: of the training whose weights drew them.
      evaluations: of the network.
    """
    asked, config, filling = order
    names = tuple(config.data.class_names)
    label = names[asked.label] if asked.label >= 0 else "none" if asked.label == NO_CLASS else "every class in turn"
    by = f", by the classifier {config.guidance.classifier}" if config.guidance.classifier else ""
    facts = {
        "weights": f"{workdir}, {weights}, step {step:,}",
        "sampler": f"{asked.sampler}, {asked.steps:,} steps, {evaluations:,} evaluations of the network",
        **({"class": label} if known_classes(config) else {}),
        **({"guidance": f"scale {asked.scale:g}{by}"} if by or asked.scale != 1 else {}),
        **({"resamples": f"{asked.resamples}, stretches of {config.edit.jump} steps"} if filling else {}),
        "seed": str(asked.seed),
    }
    said = tuple(facts.items())
    if filling is None:
        return Told(said, command(config, workdir))
    files = tuple((name, data_uri([pixels])) for name, pixels in zip((PICTURE, MASK), filling, strict=True))
    return Told(said, filling_command(order, workdir), files)


def command(config: ConfigDict, workdir: Path) -> str:
    """The command that draws the same images, to be typed where run.py lies; settings that the workdir keeps are left out."""
    return _command(config, workdir, "sample")


def filling_command(order: Order, workdir: Path) -> str:
    """The command that fills in the first of the same images, to be typed where run.py, PICTURE and MASK lie."""
    config = order.config.copy_and_resolve_references()
    if order.asked.label == IN_TURN and known_classes(config):
        config.edit.labels = (0,)  # as the first has it; of itself a picture has none
    return _command(config, workdir, "edit", "--task", config.edit.task, "--images", PICTURE, "--mask", MASK)


def _command(config: ConfigDict, workdir: Path, mode: str, *words: str) -> str:
    different = changes(read_config(workdir), config).items()
    given = {name: new for name, (_, new) in different if name.startswith(_SETTINGS[mode]) and name not in _OF_FLAGS}
    flags = [f"--config.{name}={_typed(new)}" for name, new in given.items()]
    return shlex.join(["python", "run.py", "--mode", mode, "--workdir", str(workdir), *words, *flags])


def _typed(value: Any) -> str:
    """A setting as a flag takes it: of a tuple what is within its brackets."""
    if not isinstance(value, tuple) or not value:
        return str(value)
    return ",".join(map(repr, value)) + ("," if len(value) == 1 else "")
