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


def test_a_run_is_the_same_however_batch_and_state_lie(tmp_path):
    found = twenty_steps_of_each(tmp_path / "found.npz")
    for layout, (*_, dropout) in LAYOUTS.items():
        same_as_on_one_device(layout, found, "1" if dropout else "nothing dropped")
    assert not np.allclose(found["1 losses"], found["nothing dropped losses"], rtol=1e-4)
    assert not len(found["1 asked"]), "one device asks for nothing"
    for layout in ("2", "4", "8"):
        one_sum_is_asked_for(layout, found)
    for layout in ("fsdp 2", "fsdp 8", "2×2", "4×2"):
        parameters_and_sums_alone_are_asked_for(layout, found)


def twenty_steps_of_each(path):
    """By layout and name, what they come to."""
    command = [sys.executable, "-m", "tests.training.layouts_in_one_process", str(path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return np.load(path)


def same_as_on_one_device(layout, found, one):
    losses, params = found[f"{layout} losses"], found[f"{layout} params"]
    assert len(losses) == STEPS
    # Sums of float32 in another order: some units in the last place (1.2e-7 of 1) of each step's gradient, over twenty steps.
    np.testing.assert_allclose(losses, found[f"{one} losses"], rtol=2e-6, err_msg=layout)
    np.testing.assert_allclose(params, found[f"{one} params"], rtol=1e-5, atol=1e-5, err_msg=layout)
    assert np.abs(params - params[0]).max() > 0.1, "they are numbers of a network"


def one_sum_is_asked_for(layout, found):
    beside_times_and_losses = [each for each in found[f"{layout} asked"] if max(_sizes(each)) > 2 * BATCH]
    assert len(beside_times_and_losses) == 1, layout
    assert beside_times_and_losses[0].startswith("all-reduce ")
    assert sum(_sizes(beside_times_and_losses[0])) <= found["1 params"].size / 2 + 1, "the gradient and the loss"


def parameters_and_sums_alone_are_asked_for(layout, found):
    asked = list(found[f"{layout} asked"])
    assert sum(each.startswith("all-gather") for each in asked) > 5
    # Several sums may be asked for as one, each of its arrays small: then all of them are no more than there is to sum.
    together = [each for each in asked if each.startswith("all-reduce (")]
    _, data, fsdp, *_ = LAYOUTS[layout]
    axes = 1 + (1 / fsdp if data > 1 else 0)  # along the second one a device sums the part of the gradient that it keeps
    assert sum(sum(_sizes(each)) for each in together) <= axes * found["1 params"].size / 2 + 1 + 2 * BATCH, layout
    for each in asked:
        assert max(_sizes(each)) < BATCH * SMALLEST_ACTIVATION, (layout, each)


def _sizes(asked):
    """The numbers in each array of a line such as "all-gather f32[3,3,4,8]{3,2,1,0}"."""
    shapes = [each.split("]")[0] for each in asked.split("[")[1:]]
    return [int(np.prod([int(side) for side in shape.split(",") if side])) for shape in shapes]


def test_pmap_keeps_the_state_whole():
    check_pmap(make_mesh())
    with pytest.raises(InvalidInput, match=r"parallel=pmap with mesh.fsdp=2 and 1 process\(es\).*Expected train.parallel=jit"):
        check_pmap(make_mesh(fsdp=2))


def test_the_devices_here_are_virtual():
    assert jax.device_count() == 4
