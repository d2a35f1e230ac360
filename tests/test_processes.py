"""What processes put together, where the other one is a stand-in; two real ones are in tests/commands/test_processes.py."""

import jax
import numpy as np
import pytest
from jax.experimental import multihost_utils

from jax_ddpm import processes


@pytest.fixture
def beside(monkeypatch):
    """Two processes, of which the other one has the same as this one, and what JAX was given to send."""
    sent = []

    def gather(own):
        sent.append(own)
        return np.stack([own, own])

    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(multihost_utils, "process_allgather", gather)
    return sent


@pytest.mark.parametrize("pieces", [2**26, 64])
def test_what_is_put_together_keeps_every_bit(beside, monkeypatch, pieces):
    monkeypatch.setattr(processes, "BYTES_AT_ONCE", pieces)
    values = np.random.default_rng(0).normal(size=(7, 5))
    np.testing.assert_array_equal(processes.of_each(values), np.stack([values, values]))
    np.testing.assert_array_equal(processes.summed(values), 2 * values)
    np.testing.assert_array_equal(processes.joined(values), np.concatenate([values, values]))
    assert {each.dtype for each in beside} == {np.dtype(np.uint8)}  # float64 would become float32
    assert all(2 * each.nbytes <= pieces for each in beside)


@pytest.mark.parametrize("own", [np.float64(1 / 3), np.array([True, False]), np.zeros((0, 4), np.float32), np.int64(2**40)])
def test_of_any_shape_and_type(beside, own):
    found = processes.of_each(np.asarray(own))
    assert (found.shape, found.dtype) == ((2, *np.shape(own)), own.dtype)
    assert (found == own).all()
    assert processes.summed(np.asarray(own)).shape == np.shape(own)


def test_one_process_has_all_of_it():
    values = np.random.default_rng(0).normal(size=(7, 5))
    np.testing.assert_array_equal(processes.of_each(values), values[None])
    np.testing.assert_array_equal(processes.summed(values), values)
    np.testing.assert_array_equal(processes.joined(values), values)
    assert processes.own_share(7) == range(7)


def test_shares_are_of_all_and_follow_one_another(beside, monkeypatch):
    shares = []
    for number in range(2):
        monkeypatch.setattr(jax, "process_index", lambda number=number: number)
        shares.append(processes.own_share(7))
    assert shares == [range(3), range(3, 7)]
