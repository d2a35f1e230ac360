"""What is said of pictures, and the command that makes them again."""

import shlex
import sys

import pytest
from absl import flags
from ml_collections import config_flags

from jax_ddpm.config import read_config, write_config
from jax_ddpm.serving.asked import NO_CLASS, Asked, settled
from jax_ddpm.serving.telling import command, told
from tests.test_generation import tiny

ASKED = Asked("ddim", 5, 3, 7, 1, 2.5)


@pytest.fixture
def workdir(tmp_path):
    """With a space and a quote in its name, as a person may have it."""
    write_config(tiny(model={"label_dropout": 0.1}), tmp_path / "it's a run")
    return tmp_path / "it's a run"


def read_back(typed, workdir, monkeypatch):
    """The settings that the flags of a command come to."""
    program, script, *words = shlex.split(typed)
    assert (program, script, words[:4]) == ("python", "run.py", ["--mode", "sample", "--workdir", str(workdir)])
    values = flags.FlagValues()
    monkeypatch.setattr(sys, "argv", [script, *words[4:]])  # where the flag library looks which settings there are flags of
    config = read_config(workdir)
    config_flags.DEFINE_config_dict("config", config, flag_values=values)
    values([script, *words[4:]])
    return config


@pytest.mark.parametrize(
    ("asked", "groups"),
    [
        (ASKED, {}),
        (ASKED._replace(label=-1, scale=1.0, images=9), {}),
        (ASKED, {"sampler": {"name": "ddim", "eta": 0.5, "clip": "none"}, "runtime": {"cpu_devices": 3}}),
        (ASKED._replace(sampler="heun"), {"sampler": {"name": "heun", "churn": 2.0, "churn_range": (0.5, 20.0)}}),
        (ASKED, {"guidance": {"interval": (0.0, 0.5), "classifier": "runs/another $HOME's"}, "sample": {"labels": (3, 8)}}),
    ],
)
def test_the_command_comes_to_the_same_settings(workdir, asked, groups, monkeypatch):
    config = read_config(workdir)
    for group, values in groups.items():
        config[group].update(**values)
    wanted = settled(config, asked)
    found = read_back(command(wanted, workdir), workdir, monkeypatch)
    for group in ("sample", "sampler", "guidance", "runtime"):
        assert found[group] == wanted[group]


def test_it_is_said_of_what_the_pictures_came(workdir):
    config = settled(read_config(workdir), ASKED)
    facts, typed = told(config, workdir, "as the last step left them", 1234, 10, ASKED, inpaints=False)
    assert dict(facts) == {
        "weights": f"{workdir}, as the last step left them, step 1,234",
        "sampler": "ddim, 5 steps, 10 evaluations of the network",
        "class": "1",
        "guidance": "scale 2.5",
        "seed": "7",
    }
    assert typed == command(config, workdir)
    facts, typed = told(
        config, workdir, "averaged", 1234, 10, ASKED._replace(label=NO_CLASS, scale=1.0, resamples=4), inpaints=True
    )
    assert dict(facts)["class"] == "none"
    assert dict(facts)["resamples"] == "4, stretches of 10 steps"
    assert typed == ""
