"""Whether class-conditional samples are of the class that was asked for, by the judgement of a classifier."""

from typing import NamedTuple

import numpy as np

from jax_ddpm.data.sources.source import Source


class Recognition(NamedTuple):
    """How often a classifier is right.

    Attributes:
      samples: the share of samples that it takes for the class asked for.
      held_out: the share of real images, held out of its training, that it takes for their class.
    """

    samples: float
    held_out: float


def recognition(images: np.ndarray, labels: np.ndarray, train: Source, test: Source) -> Recognition:
    """Trains a support vector classifier on real images and shows it the samples.

    Meant for sets as small as digits: the images are taken as vectors, γ = .001 for pixels in 0..16 as scikit-learn's example
    has it.

    Args:
      images: [N, H, W, C] uint8 samples.
      labels: [N] the classes asked for.
      train, test: real images of the same shape.
    """
    from sklearn.svm import SVC

    real, real_labels = _vectors(train)
    held_out, held_out_labels = _vectors(test)
    classifier = SVC(gamma=0.001).fit(real, real_labels)
    return Recognition(
        samples=float(classifier.score(_flat(images), labels)),
        held_out=float(classifier.score(held_out, held_out_labels)),
    )


def _flat(images: np.ndarray) -> np.ndarray:
    return images.reshape(len(images), -1) * (16 / 255)


def _vectors(source: Source) -> tuple[np.ndarray, np.ndarray]:
    examples = [source[index] for index in range(len(source))]
    return _flat(np.stack([each["image"] for each in examples])), np.array([each["label"] for each in examples])
