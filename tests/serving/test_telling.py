"""What is said of pictures, and the command that makes them again."""

import base64
import io
import shlex
import sys

import numpy as np
import pytest
from absl import flags
from ml_collections import config_flags
from PIL import Image

from jax_ddpm.config import read_config, write_config
from jax_ddpm.serving.asked import IN_TURN, NO_CLASS, Asked, settled
from jax_ddpm.serving.painter import Filling, Order
from jax_ddpm.serving.telling import command, filling_command, told
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
    facts, typed, files = told(Order(ASKED, config, None), workdir, "as the last step left them", 1234, 10)
    assert dict(facts) == {
        "weights": f"{workdir}, as the last step left them, step 1,234",
        "sampler": "ddim, 5 steps, 10 evaluations of the network",
        "class": "1",
        "guidance": "scale 2.5",
        "seed": "7",
    }
    assert (typed, files) == (command(config, workdir), ())


def test_of_what_is_filled_in_there_are_the_command_and_its_files(workdir):
    asked = ASKED._replace(label=NO_CLASS, scale=1.0, resamples=4)
    image, mask = np.arange(192, dtype=np.uint8).reshape(8, 8, 3), np.eye(8, dtype=np.uint8)[..., None] * np.uint8(255)
    order = Order(asked, settled(read_config(workdir), asked), Filling(image, mask))
    facts, typed, files = told(order, workdir, "averaged", 1234, 10)
    assert dict(facts)["class"] == "none"
    assert dict(facts)["resamples"] == "4, stretches of 10 steps"
    words = shlex.split(typed)
    assert words[:10] == [
        *("python", "run.py", "--mode", "edit", "--workdir", str(workdir)),
        *("--task", "inpaint", "--images", "picture.png"),
    ]
    assert words[10:12] == ["--mask", "mask.png"]
    assert {"--config.edit.resamples=4", "--config.edit.seed=7", "--config.sampler.name=ddim"} <= set(words[12:])
    assert not any(word.startswith(("--config.sample.", "--config.edit.task", "--config.edit.labels")) for word in words)
    for (name, source), expected in zip(files, (image, mask[..., 0]), strict=True):
        assert name in words
        with Image.open(io.BytesIO(base64.b64decode(source.removeprefix("data:image/png;base64,")))) as picture:
            np.testing.assert_array_equal(np.asarray(picture), expected)


@pytest.mark.parametrize(("label", "typed"), [(IN_TURN, ["0,"]), (3, ["3,"]), (NO_CLASS, [])])
def test_the_command_tells_the_class_that_the_first_image_has(workdir, label, typed):
    asked = ASKED._replace(label=label)
    order = Order(asked, settled(read_config(workdir), asked), None)
    words = shlex.split(filling_command(order, workdir))
    assert [word.partition("=")[2] for word in words if word.startswith("--config.edit.labels")] == typed
