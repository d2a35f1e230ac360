"""The Inception score against its definition, and where it is known."""

import itertools

import numpy as np
import pytest
from scipy.special import softmax
from scipy.stats import entropy

from jax_ddpm.evaluation.inception_score import RunningScore


def score(logits, batch, parts=10):
    running = RunningScore(logits.shape[1], len(logits), parts)
    for first in range(0, len(logits), batch):
        running.add(logits[first : first + batch])
    return running.score()


@pytest.mark.parametrize("batch", [1, 7, 200])
def test_as_the_definition_has_it(batch):
    logits = np.random.default_rng(0).normal(0, 3, (103, 5)).astype(np.float32)
    p = softmax(logits.astype(np.float64), axis=1)
    ends = [part * 103 // 10 for part in range(11)]
    parts = [p[a:b] for a, b in itertools.pairwise(ends)]
    expected = [np.exp(np.mean([entropy(row, part.mean(axis=0)) for row in part])) for part in parts]
    found = score(logits, batch)
    assert found.mean == pytest.approx(np.mean(expected), rel=1e-12)
    assert found.deviation == pytest.approx(np.std(expected), rel=1e-12)
    assert found.parts == 10


def test_sure_of_every_class_in_turn_is_as_many_as_there_are_classes_and_sure_of_one_is_one():
    assert score(np.tile(1e4 * np.eye(4), (50, 1)), 64).mean == pytest.approx(4, rel=1e-12)
    assert score(np.tile([1e4, 0, 0, 0], (50, 1)), 64).mean == pytest.approx(1, rel=1e-12)
    assert score(np.zeros((50, 4)), 64).mean == pytest.approx(1, rel=1e-12)


def test_fewer_samples_than_parts_have_a_part_each():
    found = score(np.eye(3), 2)
    assert (found.mean, found.parts) == (pytest.approx(1), 3)
