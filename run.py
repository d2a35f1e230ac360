"""The command line: `python run.py --config configs/digits.py`."""

import gc
import importlib
from pathlib import Path

from absl import app, flags, logging
from ml_collections import config_flags

from jax_ddpm.command_line import explain, keep_own_flags, parse
from jax_ddpm.commands import MODES, OWN_FLAGS
from jax_ddpm.errors import choose
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


def main(_: list[str]) -> None:
    """Runs one command."""
    choose("mode", MODE.value, MODES)
    config = CONFIG.value
    keep_own_flags(config, MODE.value)
    workdir = place(WORKDIR.value or f"runs/{Path(config_flags.get_config_filename(flags.FLAGS['config'])).stem}")
    together = {"timeout": config.runtime.heartbeat, "stop_together": MODE.value == "train"}
    processes = join(COORDINATOR.value, PROCESSES.value, PROCESS_ID.value, **together)
    devices = devices_of_cpu(config, MODE.value, processes)
    configure(devices, config.runtime.compilation_cache, config.train.batch_size, cpu_alone=MODE.value == "plan")
    command = importlib.import_module(f"jax_ddpm.commands.{MODE.value}")
    gc.freeze()  # what was imported stays: to look through it again and again is a tenth of the time to the first step
    with only_first_process_prints():
        command.main(config, workdir)


if __name__ == "__main__":
    logging.set_verbosity(logging.ERROR)
    with ended_at_once(explain):
        app.run(main, flags_parser=parse)
