"""Asking a run to stop, and what it says of several steps at once."""

import os
import signal
import subprocess
import sys

import jax
import numpy as np
import pytest

from jax_ddpm.training.loop import NotFinite, Skipped, means_of, stop_on_signals
from jax_ddpm.training.step import Tally
from tests.commands.conftest import ROOT

TWO_SIGNALS = """
import os, signal, sys
from jax_ddpm.training.loop import stop_on_signals
with stop_on_signals() as stop:
    os.kill(os.getpid(), signal.SIGTERM)
    print("noted", stop.signal_number, flush=True)
    os.kill(os.getpid(), signal.SIGTERM)
    print("still here", flush=True)
"""


def test_a_signal_is_noted_and_the_handlers_come_back(capsys):
    before = signal.getsignal(signal.SIGTERM)
    with stop_on_signals() as stop:
        assert stop.signal_number == 0
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.signal_number == signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) is before
    assert "SIGTERM: stopping after this step, then saving" in capsys.readouterr().out


def test_a_second_signal_kills():
    done = subprocess.run([sys.executable, "-c", TWO_SIGNALS], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == -signal.SIGTERM
    assert f"noted {int(signal.SIGTERM)}" in done.stdout
    assert "still here" not in done.stdout


def test_one_of_several_processes_passes_ctrl_c_on_as_what_all_are_told_of(monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    told = []
    before = signal.signal(signal.SIGTERM, lambda number, _: told.append(number))
    try:
        with stop_on_signals() as stop:
            os.kill(os.getpid(), signal.SIGINT)
            assert told == [signal.SIGTERM]
            assert stop.signal_number == 0, "until all have agreed on a step"
    finally:
        signal.signal(signal.SIGTERM, before)


def test_scalars_are_averaged_over_steps_and_tallies_over_examples():
    window = [{"loss": np.float32(1), "right": Tally(3, 4), "rare": Tally(0, 0)}]
    window += [{"loss": np.float32(2), "right": Tally(0, 1), "rare": Tally(2, 5)}]
    assert means_of(window) == pytest.approx({"loss": 1.5, "right": 3 / 5, "rare": 2 / 5})


def test_skipped_steps_are_counted_since_the_last_line_and_in_a_row():
    skipped, metrics = Skipped(3), {"loss": np.float32("nan"), "grad_norm": np.float32("inf")}
    assert skipped.since_last_time() == {}
    assert skipped.note(5, metrics) == "step 5 is skipped: the loss is nan, the norm of its gradient inf"
    skipped.note(6, metrics)
    assert skipped.since_last_time() == {"skipped": 2}
    assert skipped.since_last_time() == {}
    skipped.in_a_row = 0  # one that was taken
    skipped.note(8, metrics)
    skipped.note(9, metrics)
    with pytest.raises(NotFinite, match=r"step 10 is skipped: the loss is nan, .* 3 times in a row .* train.learning_rate"):
        skipped.note(10, metrics)


def test_a_mean_of_no_step_has_no_metric():
    assert means_of([]) == {}


def test_a_mean_of_no_example_is_left_out():
    assert means_of([{"loss": np.float32(1), "right": Tally(0, 0)}]) == {"loss": 1.0}
