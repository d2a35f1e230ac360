"""Asking a run to stop, and what it says of several steps at once."""

import os
import signal
import subprocess
import sys

import jax

from jax_ddpm.training.loop import stop_on_signals
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
