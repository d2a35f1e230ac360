"""The sampler as a program of its own: it runs where there is nothing but JAX, and draws what --mode sample draws."""

import json
import subprocess
import sys

import jax
import numpy as np
import pytest
from jax import export

from jax_ddpm.artifact import DESCRIPTION, PLATFORMS, PROGRAM, VERSION, export_sampler, write_artifact
from jax_ddpm.commands import sample, train
from jax_ddpm.config import read_config
from jax_ddpm.errors import InvalidInput
from jax_ddpm.generation import open_guide
from jax_ddpm.trained import open_run
from jax_ddpm.training.sharding import make_mesh
from tests.commands.conftest import make_tiny_classifier_config, make_tiny_config

ALONE = """
import sys
for name in ("jax_ddpm", "flax", "optax", "orbax", "ml_collections"):
    sys.modules[name] = None  # to import it is an error
import jax, numpy as np
from jax import export
folder, result = sys.argv[1:]
sampler = export.deserialize(open(f"{folder}/sampler.jax_export", "rb").read())
draw = lambda batch, *labels: sampler.call(np.uint32(3), np.uint32(batch), np.array(labels, np.int32))
np.savez(result, first=draw(0, 0, 1, 2, 3), second=draw(1, 4, 5, 6))
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("trained") / "run"
    train.main(make_tiny_config(steps=2, sample_every=0, sample_count=4), workdir)
    return workdir


def written(workdir, folder, **groups):
    config, mesh = read_config(workdir), make_mesh()
    for group, settings in groups.items():
        config[group].update(settings)
    params, step = open_run(config, workdir, mesh)
    return config, write_artifact(folder, export_sampler(config, params, step, open_guide(config, mesh)))


def run_alone(program, tmp_path):
    command = [sys.executable, "-I", "-c", ALONE, str(program.parent), str(tmp_path / "result.npz")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return np.load(tmp_path / "result.npz")


SETTINGS = {
    "ancestral": {},
    "ddim, guided without a classifier": {"sampler": {"name": "ddim", "steps": 4}, "guidance": {"scale": 2.0}},
    "mean moved by a classifier": {"guidance": {"scale": 20.0, "classifier": "CLASSIFIER"}},
    "score moved by a classifier": {
        "sampler": {"name": "ddim", "steps": 4},
        "guidance": {"scale": 9.0, "classifier": "CLASSIFIER"},
    },
}


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("classifier") / "run"
    train.main(make_tiny_classifier_config(steps=2), workdir)
    return workdir


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_jax_alone_draws_what_the_run_draws(trained, classifier, tmp_path, settings):
    guidance = settings.get("guidance", {})
    if "classifier" in guidance:
        settings = settings | {"guidance": guidance | {"classifier": str(classifier)}}
    config, program = written(trained, tmp_path / "artifact", **settings)
    config.sample.update(count=4, batch_size=4, seed=3)
    drawn = sample.draw(config, trained)
    assert str(classifier) not in (program.parent / DESCRIPTION).read_text(), "a place of this machine"
    found = run_alone(program, tmp_path)
    first, second = found["first"], found["second"]
    assert (first.dtype, first.shape, second.shape) == (np.uint8, (4, 8, 8, 1), (3, 8, 8, 1))
    # Other programs, with float32 rounded elsewhere: one grey level where the value lies between two.
    np.testing.assert_allclose(first.astype(int), drawn.images.astype(int), atol=1)
    assert first.std() > 20
    assert np.abs(first[:3].astype(int) - second).mean() > 5, "another batch is other noise"


def test_what_goes_in_and_comes_out_is_described(trained, tmp_path):
    _, program = written(trained, tmp_path, sampler={"name": "ddim", "steps": 4})
    assert program == tmp_path / PROGRAM
    found = json.loads((tmp_path / DESCRIPTION).read_text())
    assert found["version"] == VERSION
    assert found["arguments"]["labels"] == "[B] int32, one of 0..9 for each image"
    assert found["result"] == {"images": ["B", 8, 8, 1], "dtype": "uint8", "values": "0..255"}
    assert (found["sampler"]["name"], found["sampler"]["evaluations"]) == ("ddim", 4)
    assert (found["trained_steps"], found["weights"]) == (2, "ema")
    assert found["platforms"] == list(PLATFORMS)
    exported = export.deserialize(bytearray(program.read_bytes()))
    assert str(exported.in_avals[2].shape) == "(B,)"
    assert found["made_with"] == {"jax": jax.__version__, "calling_convention": exported.calling_convention_version}


def test_a_network_that_enlarges_has_no_sampler(trained):
    config = read_config(trained)
    config.model.low_res_size = 4
    with pytest.raises(InvalidInput, match="enlarges small images"):
        export_sampler(config, None, 0)
