"""A classifier whose answers are known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_ddpm.diffusion.schedules import linear_schedule
from jax_ddpm.evaluation.accuracy import Answers, answers, summarise

STEPS, IMAGES = 100, 400
SCHEDULE = linear_schedule(STEPS)
X0, LABELS = np.zeros((IMAGES, 2, 2, 1), np.float32), np.arange(IMAGES) % 3


def right_below(time):
    """Logits of a classifier that is right where it is told t < time, and else says the next class."""
    return lambda xt, t: jax.nn.one_hot(jnp.where(t < time, LABELS, (LABELS + 1) % 3), 3)


def judged(classifier, steps=STEPS, **options):
    schedule = linear_schedule(steps)
    return jax.jit(lambda key: answers(schedule, classifier, X0, LABELS, key, **options))(jax.random.key(0))


def test_each_image_is_shown_once_in_each_part_of_the_chain_at_every_time_there():
    t, correct = judged(right_below(37))
    assert t.shape == correct.shape == (10, IMAGES)
    for level in range(10):
        # Of 400 draws from ten times each comes up but for (9/10)^400 = 5e-19.
        assert set(np.unique(t[level])) == set(range(10 * level, 10 * level + 10))
    np.testing.assert_array_equal(correct, np.asarray(t) < 37)


def test_a_chain_shorter_than_its_parts_is_seen_whole():
    t, _ = judged(right_below(2), steps=4)
    assert set(np.unique(t)) == {0, 1, 2, 3}
    np.testing.assert_array_equal(np.sort(t, axis=0), t)


def test_what_is_shown_is_noised_to_the_time_that_is_told():
    def by_size(xt, t):
        # x_0 is 0, so x_t has the variance 1 - ᾱ_t; the classifier says class 1 where it is within a factor of 4 of that.
        ratio = (xt**2).mean(axis=(1, 2, 3)) / (1 - jnp.asarray(SCHEDULE.alphas_bar))[t]
        return jax.nn.one_hot(((ratio > 1 / 4) & (ratio < 4)).astype(int), 2)

    x0, labels = np.zeros((IMAGES, 8, 8, 1), np.float32), np.ones(IMAGES, int)
    found = answers(SCHEDULE, by_size, x0, labels, jax.random.key(1))
    assert (
        np.mean(found.correct) == 1
    )  # of 64 squares of normals the mean is off by √(2/64) = .18: ratio 1/4 is four times that


def test_levels_quarters_and_the_mean_are_those_of_the_answers():
    found = judged(right_below(37))
    halves = [Answers(found.t[:, :150], found.correct[:, :150]), Answers(found.t[:, 150:], found.correct[:, 150:])]
    summary = summarise(jax.tree.map(np.asarray, halves), STEPS)
    t, correct = np.asarray(found.t), np.asarray(found.correct)
    assert summary.overall.mean == pytest.approx(correct.mean())
    assert summary.overall.standard_error == pytest.approx(correct.mean(axis=0).std(ddof=1) / np.sqrt(IMAGES))
    assert summary.overall.images == IMAGES
    assert [(each.first, each.last) for each in summary.levels] == [(10 * k, 10 * k + 9) for k in range(10)]
    assert [(each.first, each.last) for each in summary.quarters] == [(0, 24), (25, 49), (50, 74), (75, 99)]
    for part in (*summary.levels, *summary.quarters):
        inside = (t >= part.first) & (t <= part.last)
        share = correct[inside].mean()
        assert part.accuracy == pytest.approx(share)
        assert part.standard_error == pytest.approx(np.sqrt(share * (1 - share) / inside.sum()))
    assert summary.quarters[0].accuracy == 1
    assert 0 < summary.quarters[1].accuracy < 1
    assert str(summary) == f"{correct.mean():.1%} ± {summary.overall.standard_error:.1%} (400 images)"


def test_parts_of_the_chain_that_no_time_falls_in_are_left_out():
    summary = summarise([jax.tree.map(np.asarray, judged(right_below(2), steps=2))], 2)
    assert [(each.first, each.last) for each in summary.levels] == [(0, 0), (1, 1)]
