"""How much of a device's peak a run makes use of."""

import jax
import numpy as np
import pytest

from jax_ddpm import experiment
from jax_ddpm.commands import train
from jax_ddpm.step_program import model_flops, seconds_at_peak
from jax_ddpm.training.chips import CHIPS, Chip
from jax_ddpm.training.logging import read_metrics
from jax_ddpm.training.sharding import make_mesh
from tests.commands.conftest import make_tiny_config


def products(config):
    """Twice the multiply-adds of all convolutions and products of matrices of the network, for one image."""
    network, inputs = experiment.make_network(config), experiment.example_inputs(config)
    variables = jax.eval_shape(network.init, jax.random.key(0), **inputs)
    found = 0
    for equation in jax.make_jaxpr(network.apply)(variables, **inputs).jaxpr.eqns:
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
