"""The command line: `python run.py --config configs/digits.py`."""

import importlib
import itertools
from pathlib import Path

from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags

from jax_ddpm import config as settings
from jax_ddpm.commands import GROUPS, MODES, OWN_FLAGS
from jax_ddpm.errors import InvalidInput, choose
from jax_ddpm.files import place
from jax_ddpm.runtime import configure, devices_of_cpu, ended_at_once, join, only_first_process_prints

CONFIG = config_flags.DEFINE_config_file(
    "config",
    help_string="Settings of the run: configs/digits.py. Any of them is overridden by --config.GROUP.NAME=VALUE. "
    "Left out: those that --workdir holds.",
)
WORKDIR = flags.DEFINE_string("workdir", None, "Where the run is kept. Left out: runs/NAME, with the config's name.")
MODE = flags.DEFINE_string("mode", "train", "; ".join(f"{name}: {text}" for name, text in MODES.items()))
COORDINATOR = flags.DEFINE_string("coordinator", None, "HOST:PORT of the first of several processes. Left out: found by JAX.")
PROCESSES = flags.DEFINE_integer("processes", None, "How many processes run this command together.")
PROCESS_ID = flags.DEFINE_integer("process_id", None, "Which of them this one is, from 0 on.")
for name, (modes, text) in OWN_FLAGS.items():
    flags.DEFINE_string(name, None, f"For --mode {' and '.join(modes)}: {text}")


def parse(argv: list[str]) -> list[str]:
    """Reads the flags; without --config the settings are those that the workdir holds, or the first one of --workdirs."""
    argv = [as_text(arg) for arg in argv]
    config, workdir = written(argv, "config"), written(argv, "workdir") or (written(argv, "workdirs") or "").split(",")[0]
    for arg in (arg for arg in argv[1:] if arg.startswith("--config.")):
        settings.check_name(arg.removeprefix("--config.").partition("=")[0])
    if config is not None:
        settings.check_file(config)
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
        raise InvalidInput(f"in the config file: {settings.explain(str(error.args[0]))}") from error
    if words:
        raise InvalidInput(f"unexpected {' '.join(words)!r}: expected flags alone, such as --mode {words[0]}")
    return [program]


def as_text(arg: str) -> str:
    """The names of metrics in quotes, for one of them, `is`, is a word of the language that the flag library reads them in."""
    flag, _, value = arg.partition("=")
    return f"{flag}={value!r}" if flag == "--config.eval.metrics" and value.replace(",", "").isidentifier() else arg


def written(argv: list[str], flag: str) -> str | None:
    """The value that `--flag=value` or `--flag value` gives, before the flags are read."""
    words = (word for arg in [*argv[1:], ""] for word in arg.split("=", 1))
    return dict(itertools.pairwise(words)).get(f"--{flag}") or None


def keep_own_flags(config: ConfigDict) -> None:
    """Keeps what the flags of one mode or another say as its settings; in the other modes it is refused."""
    for name, (modes, _) in OWN_FLAGS.items():
        value = flags.FLAGS[name].value
        if value is not None and MODE.value not in modes:
            raise InvalidInput(f"--{name} needs --mode {' or '.join(modes)}")
        if value is not None:
            own = config[GROUPS.get(MODE.value, MODE.value)]
            own[name] = tuple(value.split(",")) if isinstance(own[name], tuple) else value


def main(_: list[str]) -> None:
    """Runs one command."""
    choose("mode", MODE.value, MODES)
    config = CONFIG.value
    keep_own_flags(config)
    config.import_weights.given = tuple(sorted(config_flags.get_override_values(flags.FLAGS["config"])))
    workdir = place(WORKDIR.value or f"runs/{Path(config_flags.get_config_filename(flags.FLAGS['config'])).stem}")
    together = {"timeout": config.runtime.heartbeat, "stop_together": MODE.value == "train"}
    processes = join(COORDINATOR.value, PROCESSES.value, PROCESS_ID.value, **together)
    devices = devices_of_cpu(config, MODE.value, processes)
    configure(devices, config.runtime.compilation_cache, config.train.batch_size, cpu_alone=MODE.value == "plan")
    with only_first_process_prints():
        importlib.import_module(f"jax_ddpm.commands.{MODE.value}").main(config, workdir)


if __name__ == "__main__":
    logging.set_verbosity(logging.ERROR)
    with ended_at_once():
        app.run(main, flags_parser=parse)
