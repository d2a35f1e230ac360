"""A run is the same run, however its batch and its state lie on the devices."""

import subprocess
import sys

import jax
import numpy as np
import pytest

from jax_ddpm.errors import InvalidInput
from jax_ddpm.training.layouts import check_pmap
from jax_ddpm.training.sharding import make_mesh
from tests.commands.conftest import ROOT
from tests.training.layouts_in_one_process import LAYOUTS, STEPS

BATCH, SMALLEST_ACTIVATION = 8, 8 * 8 * 4


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """By layout and name, what twenty steps come to."""
    path = tmp_path_factory.mktemp("layouts") / "found.npz"
    command = [sys.executable, "-m", "tests.training.layouts_in_one_process", str(path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return np.load(path)


@pytest.mark.parametrize("layout", [name for name in LAYOUTS if name != "1"])
def test_the_same_losses_and_parameters_as_on_one_device(layout, found):
    losses, params = found[f"{layout} losses"], found[f"{layout} params"]
    assert len(losses) == STEPS
    # Sums of float32 in another order: some units in the last place (1.2e-7 of 1) of each step's gradient, over twenty steps.
    np.testing.assert_allclose(losses, found["1 losses"], rtol=2e-6)
    np.testing.assert_allclose(params, found["1 params"], rtol=1e-5, atol=1e-5)
    assert np.abs(params - params[0]).max() > 0.1, "they are numbers of a network"


@pytest.mark.parametrize("layout", ["2", "4", "8"])
def test_with_a_whole_state_the_devices_ask_for_one_sum(layout, found):
    asked = [
        each for each in found[f"{layout} asked"] if max(_sizes(each)) > 2 * BATCH
    ]  # beside the times and losses of the batch
    assert len(asked) == 1
    assert asked[0].startswith("all-reduce ")
    assert sum(_sizes(asked[0])) <= found["1 params"].size / 2 + 1, "the gradient and the loss"


@pytest.mark.parametrize("layout", ["fsdp 8", "2×2", "4×2"])
def test_with_a_split_state_they_ask_for_parameters_and_sums_alone(layout, found):
    asked = list(found[f"{layout} asked"])
    assert sum(each.startswith("all-gather") for each in asked) > 5
    for each in asked:
        assert each.startswith("all-reduce (") or max(_sizes(each)) < BATCH * SMALLEST_ACTIVATION, each


def _sizes(asked):
    """The numbers in each array of a line such as "all-gather f32[3,3,4,8]{3,2,1,0}"."""
    shapes = [each.split("]")[0] for each in asked.split("[")[1:]]
    return [int(np.prod([int(side) for side in shape.split(",") if side])) for shape in shapes]


def test_pmap_keeps_the_state_whole():
    check_pmap(make_mesh())
    with pytest.raises(InvalidInput, match=r"parallel=pmap with mesh.fsdp=2 and 1 process\(es\).*Expected train.parallel=jit"):
        check_pmap(make_mesh(fsdp=2))


def test_nothing_is_asked_on_one_device(found):
    assert not len(found["1 asked"])


def test_the_devices_here_are_virtual():
    assert jax.device_count() == 4
