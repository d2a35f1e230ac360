"""Which times a text stands for, and where a sampler stops."""

from fractions import Fraction

import chex
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jax_ddpm import (
    InvalidInput,
    cosine_schedule,
    linear_schedule,
    respace,
    sampler_times,
    spaced_timesteps,
    zero_terminal_snr,
)
from tests.references.chain import Chain


@pytest.mark.parametrize(
    ("total", "spacing", "expected"),
    [
        (10, "uniform1", [9]),
        (10, "uniform2", [0, 9]),
        (10, "uniform3", [0, 4, 9]),  # 4.5 to the even neighbour
        (10, "uniform4", [0, 3, 6, 9]),
        (10, "uniform6", [0, 2, 4, 5, 7, 9]),
        (10, "uniform10", [*range(10)]),
        (1, "uniform1", [0]),
        (10, "quad1", [9]),
        (10, "quad2", [0, 9]),
        (10, "quad4", [0, 1, 4, 9]),
        (10, "quad5", [0, 1, 2, 5, 9]),  # 0, .56, 2.25, 5.06, 9
        (10, "quad7", [0, 1, 2, 3, 4, 6, 9]),  # 0, .25, 1, 2.25, 4, 6.25, 9: the second zero is moved on, and what it meets
        (10, "quad10", [*range(10)]),
        (101, "quad11", [k * k for k in range(11)]),
        (1, "ddim1", [0]),
        (10, "ddim2", [0, 5]),
        (10, "ddim3", [0, 4, 8]),
        (10, "ddim4", [0, 3, 6, 9]),
        (10, "ddim5", [0, 2, 4, 6, 8]),
        (10, "ddim10", [*range(10)]),
        (1000, "ddim50", [*range(0, 1000, 20)]),
        (1000, "ddim4", [0, 250, 500, 750]),
        (10, "linspace3", [0, 4, 9]),
        (10, "linspace1", [9]),
        (10, "leading1", [0]),
        (10, "leading3", [0, 3, 6]),
        (10, "leading4", [0, 2, 4, 6]),
        (10, "leading6", [*range(6)]),
        (1000, "leading50", [*range(0, 1000, 20)]),
        (10, "trailing1", [9]),
        (10, "trailing2", [4, 9]),
        (10, "trailing3", [2, 6, 9]),  # 9, 5.67, 2.33
        (10, "trailing10", [*range(10)]),
        (1000, "trailing50", [*range(19, 1000, 20)]),
        (10, "4", [0, 3, 6, 9]),
        (10, "2,3", [0, 4, 5, 7, 9]),
        (11, "1,2,2", [3, 4, 7, 8, 10]),  # sections of four, four and three
        (11, "4,4,3", [*range(11)]),
        (12, "1,1,1", [3, 7, 11]),
    ],
)
def test_text_stands_for_these_times(total, spacing, expected):
    times = spaced_timesteps(total, spacing)
    assert times.tolist() == expected
    assert np.issubdtype(times.dtype, np.integer)
    schedule = linear_schedule(total)
    chex.assert_trees_all_equal(respace(schedule, spacing), respace(schedule, expected))


@pytest.mark.parametrize(("total", "counts"), [(300, (10, 15, 20)), (1000, (10, 10, 10, 10, 10)), (7, (2, 3)), (4000, (100,))])
def test_sections_follow_their_definition(total, counts):
    """Nichol & Dhariwal's public code, with exact fractions."""
    expected, start = [], 0
    for number, count in enumerate(counts):
        size = total // len(counts) + (number < total % len(counts))
        stride = Fraction(size - 1, count - 1)
        expected += [start + round(stride * i) for i in range(count)]
        start += size
    assert spaced_timesteps(total, ",".join(map(str, counts))).tolist() == expected


@given(total=st.integers(1, 300), data=st.data())
def test_uniform_and_quad_reach_from_the_first_step_to_the_last_whatever_their_number(total, data):
    count = data.draw(st.integers(1, total))
    for name in ("uniform", "quad"):
        times = spaced_timesteps(total, f"{name}{count}")
        assert len(times) == count
        assert np.all(np.diff(times) > 0)
        assert times[-1] == total - 1
        assert times[0] == (0 if count > 1 else total - 1)


def test_uniform_is_even_and_quad_denser_where_there_is_less_noise():
    assert set(np.diff(spaced_timesteps(1000, "uniform100")).tolist()) == {10, 11}
    strides = np.diff(spaced_timesteps(1000, "quad50"))
    assert strides[0] == 1
    assert np.all(np.diff(strides) >= -1)  # rising, but for the rounding
    assert strides[-1] > 35


@pytest.mark.parametrize(
    ("timesteps", "message"),
    [
        ("ddim6", "ddim6"),  # a stride of 1 gives ten, of 2 five
        ("ddim7", "ddim7"),
        ("uniform11", "uniform11"),
        ("quad11", "quad11"),
        ("ddim11", "ddim11"),
        ("uniform0", "uniform0"),
        ("ddim0", "ddim0"),
        ("6,2", "6,2"),
        ("2,6", "2,6"),
        ("0,2", "0,2"),
        ("11", "11"),
        ("unifrom5", r"unknown spacing 'unifrom5'.*Did you mean 'uniform"),
        ("dim5", r"unknown spacing 'dim5'.*Did you mean 'ddim"),
        ("every third", "unknown spacing 'every third'"),
        ("", "unknown spacing"),
        ("uniform", "unknown spacing 'uniform'"),
        ("1,,2", "unknown spacing '1,,2'"),
        ("uniform-5", "unknown spacing 'uniform-5'"),
        ([], "at least one"),
        ([3, 2], r"\[3, 2\]: expected increasing numbers in 0\.\.9"),
        ([2, 2], r"\[2, 2\]: expected increasing numbers in 0\.\.9"),
        ([-1, 2], r"\[-1, 2\]: expected increasing numbers in 0\.\.9"),
        ([2, 10], r"\[2, 10\]: expected increasing numbers in 0\.\.9"),
        ([0.5, 0.5], r"\[0\.5, 0\.5\]: expected increasing numbers in 0\.\.9"),
        ([-0.5, 2.0], r"expected increasing numbers in 0\.\.9"),
        ([0.5, 9.5], r"expected increasing numbers in 0\.\.9"),
        ([0.5, float("nan")], r"expected increasing numbers in 0\.\.9"),
        ([True, False], "expected numbers"),
        ([[0, 1]], "expected numbers"),
        (3, "expected numbers"),
    ],
)
def test_times_that_no_chain_of_ten_steps_has_are_refused(timesteps, message):
    with pytest.raises(InvalidInput, match=message):
        respace(linear_schedule(10), timesteps)


def test_more_parts_than_steps_are_refused():
    with pytest.raises(InvalidInput, match="1,1,1"):
        spaced_timesteps(2, "1,1,1")


# Where a sampler stops


@pytest.mark.parametrize(
    ("steps", "spacing", "expected"),
    [
        (4, "linspace", [0, 3, 6, 9]),
        (4, "uniform", [0, 3, 6, 9]),
        (3, "leading", [0, 3, 6]),
        (3, "trailing", [2, 6, 9]),
        (4, "quad", [0, 1, 4, 9]),
        (3, "ddim", [0, 4, 8]),
        *((None, name, [*range(10)]) for name in ("linspace", "leading", "trailing", "quad", "ddim")),
        (None, "2,3", [0, 4, 5, 7, 9]),
        (5, "2,3", [0, 4, 5, 7, 9]),
        (None, [0, 2, 5], [0, 2, 5]),
        (None, (0.5, 2.25), [0.5, 2.25]),
        (1, "karras", [9]),
        (1, "log_snr", [9]),
        (2, "karras", [0, 9]),
        (2, "log_snr", [0, 9]),
    ],
)
def test_sampler_stops_at_these_times(steps, spacing, expected):
    times = sampler_times(linear_schedule(10), steps, spacing)
    assert times.tolist() == expected


@pytest.mark.parametrize(
    "schedule", [linear_schedule(1000, dtype=np.float64), cosine_schedule(300, dtype=np.float64)], ids=["linear", "cosine"]
)
@given(steps=st.integers(2, 400))
def test_karras_and_log_snr_are_even_in_their_measure_of_the_noise(schedule, steps):
    levels = Chain(schedule.betas).levels
    for spacing, measure in (("karras", lambda level: np.exp(level / 7)), ("log_snr", lambda level: level)):
        times = sampler_times(schedule, steps, spacing)
        assert (len(times), times[0], times[-1]) == (steps, 0, schedule.steps - 1)
        strides = np.diff(measure(np.interp(times, np.arange(schedule.steps), levels)))
        # A time of 16 digits up to 999, in a table whose noisiest step is the steepest: 1e-10 of the whole.
        np.testing.assert_allclose(strides, strides.mean(), rtol=0, atol=1e-10 * strides.sum())
    assert len(sampler_times(schedule, None, "karras")) == schedule.steps  # as many as there are steps, though not these


@pytest.mark.parametrize(
    ("steps", "spacing", "message"),
    [
        (5, "karas", r"unknown spacing 'karas': expected one of .*karras, log_snr\. Did you mean 'karras'\?"),
        (5, "log-snr", r"unknown spacing 'log-snr'.*Did you mean 'log_snr'\?"),
        (5, "", r"unknown spacing ''"),
        (0, "karras", r"steps=0: expected at least 1"),
        (-1, "log_snr", r"steps=-1: expected at least 1"),
        (0, "linspace", r"expected 1 to 10 steps"),
        (11, "leading", r"'leading11': expected 1 to 10 steps"),
        (11, "trailing", r"'trailing11': expected 1 to 10 steps"),
        (6, "ddim", r"ddim6.*ddim5 would do"),
        (6, "2,3", r"steps=6, but the spacing has 5 of them: 2,3"),
        (None, "6,6", r"6,6"),
    ],
)
def test_stops_that_a_chain_of_ten_steps_has_not_are_refused(steps, spacing, message):
    with pytest.raises(InvalidInput, match=message):
        sampler_times(linear_schedule(10), steps, spacing)


@pytest.mark.parametrize("spacing", ["karras", "log_snr"])
def test_spacings_of_the_noise_level_need_it_to_be_finite(spacing):
    with pytest.raises(InvalidInput, match=rf"spacing '{spacing}' where ᾱ_T = 0, so σ infinite: expected linspace"):
        sampler_times(zero_terminal_snr(linear_schedule(10)), 5, spacing)
