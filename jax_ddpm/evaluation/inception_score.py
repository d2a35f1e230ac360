"""The Inception score of samples, from what a classifier takes them for; it knows nothing of real images."""

from typing import NamedTuple

import numpy as np

from jax_ddpm.evaluation.statistics import part_of
from jax_ddpm.processes import summed


class Score(NamedTuple):
    """exp E KL(p(y|x) ‖ p(y)): the mean over parts of the samples, their standard deviation, and how many parts there are."""

    mean: float
    deviation: float
    parts: int


class RunningScore:
    """The score of samples that come batch by batch (Salimans et al. 2016, section 4), in float64; none of them is kept.

    Only scores of as many samples in as many parts can be compared: a smaller part has a smaller score.
    """

    def __init__(self, classes: int, samples: int, parts: int = 10) -> None:
        """Of `samples` samples to come, in some random order, in so many parts that follow one another."""
        parts = min(parts, samples)
        self._ends = [(part + 1) * samples // parts for part in range(parts)]
        self._sums, self._counts, self._added = np.zeros((parts, classes)), np.zeros(parts), 0
        self._negative_entropies = np.zeros(parts)

    def add(self, logits: np.ndarray, places: np.ndarray | None = None) -> None:
        """[B, classes] logits, and [B] their places in the order, from 0 on; left out: the next ones."""
        logits = np.asarray(logits, np.float64)
        shifted = logits - logits.max(axis=1, keepdims=True)
        log_p = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
        p = np.exp(log_p)
        parts = part_of(self._ends, self._added + np.arange(len(p)) if places is None else places)
        np.add.at(self._sums, parts, p)
        np.add.at(self._counts, parts, 1)
        np.add.at(self._negative_entropies, parts, (p * log_p).sum(axis=1))
        self._added += len(p)

    def score(self) -> Score:
        """Of all that were added in any process; every process has to ask.

        E KL is the mean of Σ p(y|x) log p(y|x), less Σ p(y) log p(y).
        """
        sums, counts, negative_entropies = map(summed, (self._sums, self._counts, self._negative_entropies))
        p = sums / counts[:, None]
        with np.errstate(divide="ignore", invalid="ignore"):
            marginal = np.where(p > 0, p * np.log(p), 0).sum(axis=1)
        scores = np.exp(negative_entropies / counts - marginal)
        return Score(float(scores.mean()), float(scores.std()), len(scores))
