"""The table of chips holds together."""

from types import SimpleNamespace

import jax
import pytest

from jax_ddpm.training.chips import CHIPS, Chip, chip_of, peak


def test_each_kind_of_device_stands_in_it_once():
    assert len({chip.kind for chip in CHIPS.values()}) == len(CHIPS)


@pytest.mark.parametrize("name", CHIPS)
def test_a_line_is_in_the_units_that_it_says(name):
    chip = CHIPS[name]
    assert chip.bfloat16 in (chip.float32, pytest.approx(2 * chip.float32, rel=0.02)), "one pass, or TF32 at half the rate"
    assert 1e10 < chip.link_bandwidth < chip.memory_bandwidth < 1e13
    assert 10e9 < chip.memory < 200e9
    # No chip so far has fewer operations than 100 for a byte of its memory, or more than 700.
    assert 100 < chip.bfloat16 / chip.memory_bandwidth < 700


def test_a_cpu_is_not_in_it(monkeypatch):
    assert chip_of(jax.devices()[0]) is None
    made_up = Chip(jax.devices()[0].device_kind, 2.0, 1.0, 1.0, 1.0, 1.0)
    monkeypatch.setitem(CHIPS, "made up", made_up)
    assert chip_of(jax.devices()[0]) == made_up
    assert chip_of(SimpleNamespace(device_kind="TPU v5p")) == chip_of(SimpleNamespace(device_kind="TPU v5")) == CHIPS["v5p"]
    assert chip_of(SimpleNamespace(device_kind="NVIDIA H100 PCIe")) is None
    assert (peak(made_up, "float32"), peak(made_up, "bfloat16")) == (1.0, 2.0)
