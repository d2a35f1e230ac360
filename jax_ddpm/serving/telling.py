"""How pictures came about: in words, and as the command that makes them again."""

import shlex
from pathlib import Path
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from jax_ddpm.config import changes, read_config
from jax_ddpm.experiment import known_classes
from jax_ddpm.serving.asked import NO_CLASS, Asked

_OF_A_SAMPLE = ("sample.", "sampler.", "guidance.", "runtime.cpu_devices")


class Told(NamedTuple):
    """Of what pictures came: names and values; and the command, "" where no single one makes them again."""

    facts: tuple[tuple[str, str], ...]
    command: str = ""


def told(config: ConfigDict, workdir: Path, weights: str, step: int, evaluations: int, asked: Asked, *, inpaints: bool) -> Told:
    """Of what the pictures came.

    Args:
      config: what `settled` made of what was asked for.
      weights: which they are, such as "averaged".
      step: of the training whose weights drew them.
      evaluations: of the network.
    """
    names = tuple(config.data.class_names)
    label = names[asked.label] if asked.label >= 0 else "none" if asked.label == NO_CLASS else "every class in turn"
    by = f", by the classifier {config.guidance.classifier}" if config.guidance.classifier else ""
    facts = {
        "weights": f"{workdir}, {weights}, step {step:,}",
        "sampler": f"{asked.sampler}, {asked.steps:,} steps, {evaluations:,} evaluations of the network",
        **({"class": label} if known_classes(config) else {}),
        **({"guidance": f"scale {asked.scale:g}{by}"} if by or asked.scale != 1 else {}),
        **({"resamples": f"{asked.resamples}, stretches of {config.edit.jump} steps"} if inpaints else {}),
        "seed": str(asked.seed),
    }
    return Told(tuple(facts.items()), "" if inpaints else command(config, workdir))


def command(config: ConfigDict, workdir: Path) -> str:
    """The command that draws the same images, to be typed where run.py lies; settings that the workdir keeps are left out."""
    different = changes(read_config(workdir), config).items()
    flags = [f"--config.{name}={_typed(new)}" for name, (_, new) in different if name.startswith(_OF_A_SAMPLE)]
    return shlex.join(["python", "run.py", "--mode", "sample", "--workdir", str(workdir), *flags])


def _typed(value: Any) -> str:
    """A setting as a flag takes it: of a tuple what is within its brackets."""
    if not isinstance(value, tuple) or not value:
        return str(value)
    return ",".join(map(repr, value)) + ("," if len(value) == 1 else "")
