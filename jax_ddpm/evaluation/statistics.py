"""Mean and covariance of features that come batch by batch and are not kept."""

import numpy as np

from jax_ddpm.errors import InvalidInput
from jax_ddpm.evaluation.frechet import Moments


class RunningMoments:
    """The moments of all features that were added, in float64; none of the features is kept.

    A batch comes in by its own mean and its own scatter about that, so that nothing large is subtracted from anything large
    (Chan, Golub & LeVeque 1983, eq. 2.1), and parts that were gathered apart can be put together.

    Attributes:
      count: how many there were.
      mean: [D].
      scatter: [D, D] the sum of (x - mean)(x - mean)ᵀ.
    """

    def __init__(self, size: int) -> None:
        """Of vectors of `size` numbers; of none of them yet."""
        self.count, self.mean, self.scatter = 0, np.zeros(size), np.zeros((size, size))

    def add(self, features: np.ndarray) -> None:
        """[B, D] features."""
        features = np.asarray(features, np.float64)
        if not len(features):
            return
        mean = features.mean(axis=0)
        centred = features - mean
        self._join(len(features), mean, centred.T @ centred)

    def merge(self, other: "RunningMoments") -> None:
        """All that was added to another one."""
        self._join(other.count, other.mean, other.scatter)

    def _join(self, count: int, mean: np.ndarray, scatter: np.ndarray) -> None:
        total = self.count + count
        if not count:
            return
        apart = mean - self.mean
        self.scatter += scatter
        self.scatter += np.outer(apart, apart * (self.count * count / total))
        self.mean = self.mean + apart * (count / total)
        self.count = total

    def moments(self) -> Moments:
        """Their mean, and their covariance divided by N - 1.

        Raises:
          InvalidInput: there were fewer than two, or there is one that is not finite.
        """
        if self.count < 2:
            raise InvalidInput(f"{self.count} images have no covariance: expected 2 or more")
        if not np.isfinite(self.scatter).all():
            raise InvalidInput("some features are not finite: the network that makes them, or its weights, cannot be used")
        return Moments(self.mean, self.scatter / (self.count - 1))
