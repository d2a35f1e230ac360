"""From what is typed after `python run.py` to the settings of a run; run.py says which flags there are."""

import itertools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags

from jax_ddpm import config as settings
from jax_ddpm.commands import GROUPS, OWN_FLAGS
from jax_ddpm.errors import InvalidInput, did_you_mean
from jax_ddpm.files import place


def parse(argv: list[str]) -> list[str]:
    """Reads the flags; without --config the settings are those that the workdir holds, or the first one of --workdirs."""
    argv = [as_text(arg) for arg in argv]
    config, workdir = written(argv, "config"), written(argv, "workdir") or (written(argv, "workdirs") or "").split(",")[0]
    for arg in (arg for arg in argv[1:] if arg.startswith("--config.")):
        check_name(arg.removeprefix("--config.").partition("=")[0])
    if config is not None:
        check_file(config)
    elif workdir and written(argv, "mode") != "import_weights":
        settings.read_config(place(workdir))
        argv = [argv[0], f"--config={settings.__file__}:{workdir}", *argv[1:]]
    elif workdir or written(argv, "samples"):  # of nothing that has been trained here
        argv = [argv[0], f"--config={settings.__file__}", *argv[1:]]
    elif not any(arg.startswith("--help") for arg in argv):
        raise InvalidInput("say what to run: --config configs/digits.py, or --workdir of a run that has begun")
    try:
        program, *words = flags.FLAGS(argv)
    except (AttributeError, KeyError, TypeError) as error:  # what a mistake in a config file raises
        raise InvalidInput(f"in the config file: {explain(str(error.args[0]))}") from error
    if words:
        raise InvalidInput(f"unexpected {' '.join(words)!r}: expected flags alone, such as --mode {words[0]}")
    return [program]


def as_text(arg: str) -> str:
    """The names of metrics in quotes, for one of them, `is`, is a word of the language that the flag library reads them in."""
    flag, _, value = arg.partition("=")
    return (
        f"{flag}={value!r}"
        if flag == "--config.eval.metrics" and value.replace(",", "").replace(" ", "").isidentifier()
        else arg
    )


def written(argv: list[str], flag: str) -> str | None:
    """The value that `--flag=value` or `--flag value` gives, before the flags are read."""
    words = (word for arg in [*argv[1:], ""] for word in arg.split("=", 1))
    return dict(itertools.pairwise(words)).get(f"--{flag}") or None


def check_name(name: str) -> None:
    """Raises InvalidInput where there is no setting of this dotted name, such as "train.batch_size"."""
    group: Any = settings.default_config()
    for depth, key in enumerate(name.split(".")):
        if not isinstance(group, ConfigDict):
            raise InvalidInput(f"unknown setting {name!r}: {'.'.join(name.split('.')[:depth])!r} is a single setting")
        if key not in group:
            raise InvalidInput(f"unknown setting {name!r}: there is no {key!r}.{did_you_mean(key, group.keys())}")
        group = group[key]
    if isinstance(group, ConfigDict):
        raise InvalidInput(f"{name!r} is a group of settings: name one of them, such as {name}.{next(iter(group))}")


def check_file(name: str) -> None:
    """Raises InvalidInput where there is no config file of this name; what follows a colon is the file's argument."""
    path = Path(name.split(":")[0])
    if not path.is_file():
        there = sorted(str(each) for folder in {path.parent, Path("configs")} for each in folder.glob("*.py"))
        raise InvalidInput(f"no config file at {path}: there are {', '.join(there) or 'none'}.{did_you_mean(name, there)}")


def explain(message: str) -> str:
    """What the flag library says of a bad setting, with what was expected and without the list of all other settings."""
    message = re.sub(r" Other fields present: .*\n", " ", message, flags=re.DOTALL)
    found = re.match(r"flag --config\.([\w.]+)=", message)
    if not found:
        return message
    value: Any = settings.default_config()
    for key in found[1].split("."):
        value = value[key]
    return f"{message}; expected {type(value).__name__}, such as {value!r}"


def keep_own_flags(config: ConfigDict, mode: str) -> None:
    """Keeps what the flags of one mode or another say as its settings; in the other modes it is refused."""
    for name, (modes, _) in OWN_FLAGS.items():
        value = flags.FLAGS[name].value
        if value is not None and mode not in modes:
            raise InvalidInput(f"--{name} needs --mode {' or '.join(modes)}")
        if value is not None:
            own = config[GROUPS.get(mode, mode)]
            own[name] = _as(type(own[name]), name, value)
    if mode == "import_weights":
        config.import_weights.given = tuple(sorted(config_flags.get_override_values(flags.FLAGS["config"])))


def _as(kind: type, name: str, value: str) -> Any:
    """What a flag says, as its setting has it."""
    if kind is int and not value.isdecimal():
        raise InvalidInput(f"--{name}={value}: expected a whole number, 0 or more")
    return _READ[kind](value)


_READ: dict[type, Callable[[str], Any]] = {str: str, int: int, tuple: lambda text: tuple(text.split(","))}
