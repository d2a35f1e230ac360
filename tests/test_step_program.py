"""The step that a run compiles: what it does with the state that it is given, and how much of a device's peak it uses."""

import jax
import numpy as np
import pytest

from jax_ddpm import experiment
from jax_ddpm.commands import train
from jax_ddpm.step_program import abstract_state, compile_step, model_flops, new_state, seconds_at_peak
from jax_ddpm.training.chips import CHIPS, Chip
from jax_ddpm.training.logging import read_metrics
from jax_ddpm.training.sharding import make_mesh, to_devices
from tests.commands.conftest import make_tiny_config
from tests.compiling import equations


def products(config):
    """Twice the multiply-adds of all convolutions and products of matrices of the network, for one image."""
    network, inputs = experiment.make_network(config), experiment.example_inputs(config)
    variables = jax.eval_shape(network.init, jax.random.key(0), **inputs)
    found = 0
    for equation in equations(jax.make_jaxpr(network.apply)(variables, **inputs).jaxpr):
        out = equation.outvars[0].aval
        if equation.primitive.name == "conv_general_dilated":
            found += 2 * out.size * int(np.prod(equation.invars[1].aval.shape[:3]))
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            found += 2 * out.size * int(np.prod([equation.invars[0].aval.shape[axis] for axis in contracted]))
    return found


def test_an_image_asks_for_three_times_the_products_of_the_network():
    config = make_tiny_config()
    config.data.class_names = tuple("0123456789")
    # XLA leaves out what a convolution does with padding, a sixth at 8×8; what is done to each element comes to it.
    assert 0.8 < model_flops(config) / (3 * products(config)) < 1.3


def test_a_chip_that_is_not_known_has_no_utilisation():
    assert seconds_at_peak(make_tiny_config(), make_mesh()) is None


def test_utilisation_is_logged_where_the_peak_is_known(monkeypatch, tmp_path, capsys):
    flops_a_second = 1e9
    monkeypatch.setitem(CHIPS, "made up", Chip("cpu", 2 * flops_a_second, flops_a_second, 1.0, 1.0, 1.0))
    config = make_tiny_config(steps=2, sample_every=0, sample_count=1)
    train.main(config, tmp_path)
    (row,) = read_metrics(tmp_path)
    expected = row["images_per_second"] * model_flops(config) / (4 * flops_a_second)
    assert row["flop_utilisation"] == pytest.approx(expected, rel=0.01)
    assert f"{row['flop_utilisation']:.1%} of peak FLOP/s" in capsys.readouterr().out
    config.model.dtype = "bfloat16"
    assert seconds_at_peak(config, make_mesh()) == pytest.approx(model_flops(config) / (4 * 2 * flops_a_second))


@pytest.mark.parametrize(("parallel", "fsdp"), [("jit", 1), ("jit", 4), ("pmap", 1)])
def test_the_new_state_takes_the_place_of_the_one_that_the_step_is_given(parallel, fsdp):
    config = make_tiny_config(parallel=parallel)
    config.data.class_names = tuple("0123456789")
    config.mesh.update(fsdp=fsdp, rules=(".*=largest",) if fsdp > 1 else ())
    mesh = make_mesh(fsdp=fsdp)
    like = abstract_state(config, mesh)
    step = compile_step(config, mesh, like)
    state = jax.device_put(new_state(config), jax.tree.map(lambda leaf: leaf.sharding, like))
    batch = to_devices(next(experiment.make_batches(config, experiment.make_source(config))), mesh)
    following, _ = step(state, batch)
    assert {leaf.is_deleted() for leaf in jax.tree.leaves(state)} == {True}
    assert int(following.step) == 1
