"""run.py as a person types it."""

import importlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest

from jax_ddpm.command_line import check_name
from jax_ddpm.commands import MODES
from jax_ddpm.config import default_config
from jax_ddpm.errors import InvalidInput
from tests.commands.conftest import ROOT, tiny_flags
from tests.commands.test_interrupted_runs import finish
from tests.training.test_profiling import steps_traced


def run(*arguments):
    done = subprocess.run([sys.executable, "run.py", *arguments], cwd=ROOT, capture_output=True, text=True)
    return done.returncode, done.stdout, done.stderr


# Imports what training needs, which takes longer than to find a mistake, and runs run.py in a child for each line that it is
# given, a list of arguments. Answers with the child's exit status, output and errors. It touches no device itself.
PARENT = """
import json, os, runpy, sys, tempfile
import jax_ddpm.commands.train
for line in sys.stdin:
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as error:
        child = os.fork()
        if child == 0:
            os.dup2(out.fileno(), 1)
            os.dup2(error.fileno(), 2)
            sys.argv = ["run.py", *json.loads(line)]
            runpy.run_path("run.py", run_name="__main__")
            sys.exit()
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        out.seek(0)
        error.seek(0)
        print(json.dumps([status, out.read(), error.read()]), flush=True)
"""


@pytest.fixture(scope="module")
def typed() -> Iterator[Callable[..., tuple[int, str, str]]]:
    """As `run`, but each in a child of one process."""
    streams = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", PARENT], cwd=ROOT, text=True, **streams) as parent:

        def answered(*arguments: str) -> tuple[int, str, str]:
            print(json.dumps(arguments), file=parent.stdin, flush=True)
            return tuple(json.loads(parent.stdout.readline()))

        yield answered


MISTAKES = {
    "--config.train.batchsize=3": "unknown setting 'train.batchsize': there is no 'batchsize'. Did you mean 'batch_size'?",
    "--config.tran.steps=3": "unknown setting 'tran.steps': there is no 'tran'. Did you mean 'train'?",
    "--config.train.steps.x=3": "unknown setting 'train.steps.x': 'train.steps' is a single setting",
    "--config.train=3": "'train' is a group of settings: name one of them, such as train.accumulate",
    "sample": "unexpected 'sample': expected flags alone, such as --mode sample",
    "--config.train.batch_size=ab": "invalid literal for int() with base 10: 'ab'; expected int, such as 128",
    "--config.train.batch_size=2.5": "expected int, such as 128",
    "--config.data.flip=maybe": "expected bool, such as True",
    "--config.model.multipliers=(1,'a')": "model.multipliers=(1, 'a'): expected whole numbers",
    "--config.model.dropout=1": "model.dropout=1.0: expected at least 0 and less than 1",
    "--config.data.image_size=9": "expected a multiple of 2, such as 8",
    "--config.data.channels=2": "unknown data.channels '2': expected one of 1, 3",
    "--config.data.name=diggits": "unknown data set 'diggits'",
    "--config.data.split=tets": "Did you mean 'test'?",
    "--config.diffusion.schedule=linaer": "Did you mean 'linear'?",
    "--config.diffusion.loss=esp": "Did you mean 'eps'?",
    "--config.diffusion.prediction=x": "unknown diffusion.prediction 'x': expected one of eps, x0, v, mean, score",
    "--config.diffusion.loss=hybrid": "the hybrid loss trains the variance, and 'fixed_large' is fixed",
    "--config.diffusion.variance=learned": "diffusion.loss=eps does not train it: expected the loss hybrid, kl",
    "--config.diffusion.weighting=minsnr": "Did you mean 'min_snr'?",
    "--config.diffusion.timesteps=importance": "expected one of uniform, stratified, antithetic, second_moment",
    "--config.diffusion.zero_terminal_snr=True": "prediction 'eps' cannot say x_0 where ᾱ_T = 0: expected v, x0 or mean",
    "--config.sampler.steps=2000": "spacing 'linspace2000': expected 1 to 1000 steps, as many as the chain has",
    "--config.sampler.name=ddmi": "expected one of ancestral, ddim, euler, heun, dpm_solver_pp, unipc. Did you mean 'ddim'?",
    "--config.sampler.spacing=trailling": "Did you mean 'trailing'?",
    "--config.sampler.clip=statik": "expected one of static, dynamic, none. Did you mean 'static'?",
    "--config.guidance.interval=(1.0,0.0)": "guidance.interval=(1.0, 0.0): expected two shares of the chain",
    "--config.guidance.form=man": "Did you mean 'mean'?",
    "--config.guidance.form=mean": "guidance.form=mean says what a classifier moves: expected a guidance.classifier",
    "--config.guidance.interval=(0.5,1.0)": "but nothing guides: expected a guidance.scale, such as 2",
    "--config.sampler.eta=0.5": "sampler.eta=0.5 is not of ancestral: expected it with ddim",
    "--config.sampler.order=3": "sampler.order=3 is not of ancestral: expected it with dpm_solver_pp or unipc",
    "--config.sampler.dynamic_quantile=0.9": "expected it with sampler.clip=dynamic",
    "--config.eval.metrics=fd,is": "unknown eval.metrics 'fd': expected one of bits_per_dim, ode_bits_per_dim",
    "--config.eval.metrics=fid,is": "fid is of the features of the Inception network, whose weights are not named",
    "--config.eval.metrics=fid, is": "fid is of the features of the Inception network, whose weights are not named",
    "--config.eval.ode_tolerance=1": "eval.ode_tolerance=1.0: expected at least 0 and less than 1",
    "--config.eval.batch_size=0": "eval.batch_size=0: expected more than 0",
    "--config.diffusion.variance=fixed": "Did you mean 'fixed_small'?",
    "--config.model.channels=50": "50 channels do not split into groups=8",
    "--config.train.accumulate=3": "batch_size=128 does not divide over",
    "--config.sample.labels=(11,)": "expected labels in 0..9",
    "--mode=trian": "demo, export_weights, describe, plan, data. Did you mean 'train'?",
    "--workdirs=runs/a,runs/b": "--workdirs needs --mode compare",
    "--port=7860": "--port needs --mode serve",
    "--config.serve.images=0": "serve.images=0: expected more than 0",
    "--out=x": "--out needs --mode export_weights or compare",
    "--wrkdir=x": "Unknown command line flag 'wrkdir'. Did you mean: workdir",
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line_that_names_it_and_nothing_is_written(mistake, typed, tmp_path):
    status, _, error = typed("--config=configs/digits.py", f"--workdir={tmp_path}/run", mistake)
    assert status == 1
    assert error.startswith("error: ")
    assert MISTAKES[mistake] in error
    assert "Traceback" not in error
    assert not (tmp_path / "run").exists()


def test_a_batch_that_does_not_divide_over_the_devices_asked_for(typed, tmp_path):
    settings = ("--config.runtime.cpu_devices=2", "--config.train.batch_size=127")
    status, _, error = typed("--config=configs/digits.py", f"--workdir={tmp_path}/run", *settings)
    assert status == 1
    assert "batch_size=127 does not divide over 2 devices" in error
    assert "such as 128" in error


def test_a_config_file_that_is_not_there(typed):
    status, _, error = typed("--config=configs/digts.py")
    assert status == 1
    assert "Did you mean 'configs/digits.py'?" in error


def test_a_mistyped_key_in_a_config_file(typed, tmp_path):
    path = tmp_path / "mine.py"
    path.write_text((ROOT / "configs/digits.py").read_text().replace("steps=", "stepz="))
    status, _, error = typed(f"--config={path}")
    assert status == 1
    assert error.startswith("error: in the config file: ")
    assert 'Did you mean "steps" instead of "stepz"?' in error


def test_neither_config_nor_workdir(typed):
    status, _, error = typed()
    assert status == 1
    assert "say what to run: --config configs/digits.py, or --workdir" in error


def test_a_workdir_without_a_run(typed, tmp_path):
    status, _, error = typed("--mode=sample", f"--workdir={tmp_path}")
    assert status == 1
    assert "expected a config.json there" in error


def test_sampling_needs_nothing_but_the_workdir(trained):
    status, out, error = run("--mode", "sample", "--workdir", str(trained), "--config.sample.count=3", "--config.sample.seed=9")
    assert status == 0, error
    assert f"samples: {trained}/samples/step_0000006_seed_9/grid.png" in out
    assert (trained / "samples/step_0000006_seed_9/00002.png").exists()


def test_nor_anything_in_it_but_the_checkpoints(trained, tmp_path):
    shutil.copytree(trained / "checkpoints", tmp_path / "checkpoints")
    status, _, error = run("--mode", "sample", "--workdir", str(tmp_path), "--config.sample.count=1")
    assert status == 0, error
    assert (tmp_path / "samples/step_0000006_seed_0/00000.png").exists()


def test_a_trace_of_the_steps_asked_for_is_written(tmp_path):
    settings = {"train.steps": 4, "train.sample_every": 0, "profile.start": 2, "profile.steps": 2}
    out = finish(["run.py", "--config=configs/digits.py", f"--workdir={tmp_path}", *tiny_flags(**settings)])
    assert f"trace: {tmp_path}/profile" in out
    assert steps_traced(tmp_path / "profile") == [2, 3]


def test_describe_prints_the_network_and_trains_nothing():
    status, out, error = run("--config", "configs/cifar.py", "--mode", "describe")
    assert status == 0, error
    assert "parameters: 35,746,307" in out


def test_every_setting_has_a_valid_name_and_a_group_has_not():
    for group, settings in default_config().items():
        if group == "seed":
            check_name(group)
            continue
        for name in settings:
            check_name(f"{group}.{name}")
        with pytest.raises(InvalidInput, match=f"'{group}' is a group of settings: name one of them, such as {group}\\."):
            check_name(group)


@pytest.mark.parametrize("mode", MODES)
def test_each_mode_is_a_command(mode):
    assert callable(importlib.import_module(f"jax_ddpm.commands.{mode}").main)


def test_help_names_the_modes():
    _, out, _ = run("--help")
    assert "sample: draw images from a trained run" in " ".join(out.split())
