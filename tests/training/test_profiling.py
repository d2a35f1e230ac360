"""Traces of the steps that were asked for, also where the run ends before they are over."""

import gzip
import json

import jax
import jax.numpy as jnp
import pytest

from jax_ddpm.training.profiling import traced


def steps_traced(directory):
    """The numbers of the steps in the trace's events."""
    (path,) = directory.rglob("*.trace.json.gz")
    events = json.loads(gzip.decompress(path.read_bytes()))["traceEvents"]
    return sorted({int(event["args"]["step_num"]) for event in events if "step_num" in event.get("args", {})})


@pytest.mark.parametrize(("calls", "expected"), [(6, [2, 3, 4]), (3, [2, 3])], ids=["whole", "cut short"])
def test_a_trace_has_the_steps_asked_for(calls, expected, tmp_path, capsys):
    compiled = jax.jit(lambda state, batch: (state + batch, {"loss": state}))
    with traced(compiled, tmp_path, start=2, steps=3) as step:
        state = jnp.zeros(4)
        for _ in range(calls):
            state, _ = step(state, jnp.ones(4))
    assert state.tolist() == [calls] * 4
    assert steps_traced(tmp_path) == expected
    assert f"trace: {tmp_path}" in capsys.readouterr().out


def test_none_asked_for_leaves_nothing(tmp_path):
    with traced(lambda state, batch: (state, {}), tmp_path / "profile", start=1, steps=0) as step:
        step(0, 0)
    assert not (tmp_path / "profile").exists()


def test_a_trace_that_the_run_ended_before_is_told(tmp_path, capsys):
    with traced(lambda state, batch: (state, {}), tmp_path / "profile", start=3, steps=2) as step:
        step(0, 0)
    assert "no trace: profile.start=3, and 1 steps were taken" in capsys.readouterr().out
