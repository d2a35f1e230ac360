"""What is made of the metrics of many steps."""

import numpy as np
import pytest

from jax_ddpm.training.logging import Progress
from jax_ddpm.training.readings import STEPS_IN_FLIGHT, NotFinite, Readings, means_of
from jax_ddpm.training.step import SKIPPED, Tally

TAKEN = {"loss": np.float32(2), "grad_norm": np.float32(1), SKIPPED: False}
LEFT_OUT = {"loss": np.float32("nan"), "grad_norm": np.float32("inf"), SKIPPED: True}


@pytest.fixture
def readings():
    with Progress(0, 20, 1) as progress:
        yield Readings(progress, max_skipped=3)


def test_scalars_are_averaged_over_steps_and_tallies_over_examples():
    window = [{"loss": np.float32(1), "right": Tally(3, 4), "rare": Tally(0, 0)}]
    window += [{"loss": np.float32(2), "right": Tally(0, 1), "rare": Tally(2, 5)}]
    assert means_of(window) == pytest.approx({"loss": 1.5, "right": 3 / 5, "rare": 2 / 5})


def test_a_mean_of_no_step_has_no_metric():
    assert means_of([]) == {}


def test_a_mean_of_no_example_is_left_out():
    assert means_of([{"loss": np.float32(1), "right": Tally(0, 0)}]) == {"loss": 1.0}


def test_a_line_has_the_mean_of_what_was_taken_and_the_number_of_what_was_skipped(readings):
    for step, metrics in enumerate([TAKEN, LEFT_OUT, LEFT_OUT, TAKEN | {"loss": np.float32(4)}], 1):
        readings.add(step, metrics.copy())
    assert readings.sum_up() == {"loss": 3.0, "grad_norm": 1.0, "skipped": 2}
    assert readings.sum_up() == {}, "each step is in one line"


def test_the_last_steps_are_not_waited_for(readings, capsys):
    readings.add(1, LEFT_OUT.copy())
    for step in range(STEPS_IN_FLIGHT - 1):
        readings.add(2 + step, TAKEN.copy())
    assert readings.skipped_in_a_row == 0
    assert not capsys.readouterr().out
    readings.add(9, TAKEN.copy())
    assert "step 1 is skipped: the loss is nan, the norm of its gradient inf\n" in capsys.readouterr().out
    assert readings.skipped_in_a_row == 1


def test_too_many_skipped_in_a_row_are_the_end(readings):
    for step, metrics in enumerate([LEFT_OUT, LEFT_OUT, TAKEN, LEFT_OUT, LEFT_OUT, LEFT_OUT], 1):
        readings.add(step, metrics.copy())
    with pytest.raises(NotFinite, match=r"step 6 is skipped: the loss is nan, .* 3 times in a row .* train.learning_rate"):
        readings.read()
