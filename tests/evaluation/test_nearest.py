"""The nearest training images, against scikit-learn's search and against copies that were put there."""

import numpy as np
import pytest
from sklearn.neighbors import NearestNeighbors

from jax_ddpm.evaluation import nearest as evaluation


def nearest(samples, batches, **options):
    """Where the images of the batches are numbered from 0 on."""
    ends = np.cumsum([len(batch) for batch in batches])
    numbered = [(batch, np.arange(end - len(batch), end)) for batch, end in zip(batches, ends, strict=True)]
    return evaluation.nearest(samples, numbered, **options)


def noise(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 4, 5, 3), np.uint8)


@pytest.mark.parametrize("batches", [(50,), (1, 49), (2, 3, 45), tuple([10] * 5)])
def test_scikit_learn_finds_the_same(batches):
    samples, training = noise(9, seed=0), noise(50, seed=1)
    found = nearest(samples, np.split(training, np.cumsum(batches)[:-1]))
    search = NearestNeighbors(n_neighbors=2).fit(training.reshape(50, -1).astype(float))
    distances, indices = search.kneighbors(samples.reshape(9, -1).astype(float))
    np.testing.assert_array_equal(found.images, training[indices])
    np.testing.assert_array_equal(found.numbers, indices)
    np.testing.assert_allclose(found.distances, distances / np.sqrt(60), rtol=1e-12)


def test_a_copy_is_memorised_and_what_lies_between_two_is_not():
    training = noise(20, seed=1)
    between = ((training[3].astype(int) + training[4]) // 2).astype(np.uint8)
    faint = np.clip(training[5].astype(int) + 2, 0, 255).astype(np.uint8)
    found = nearest(np.stack([training[7], between, faint]), [training])
    assert found.memorised.tolist() == [True, False, True]
    assert found.distances[0, 0] == 0
    np.testing.assert_array_equal(found.images[[0, 2], 0], training[[7, 5]])


def test_a_third_is_where_memorised_begins():
    training = np.zeros((2, 1, 1, 1), np.uint8)
    training[1] = 100
    samples = np.array([24, 25, 26], np.uint8).reshape(3, 1, 1, 1)  # 25 is a third as far from 0 as from 100
    assert nearest(samples, [training]).memorised.tolist() == [True, False, False]


def test_a_copy_of_one_of_twins_is_memorised_too():
    training = np.concatenate([noise(3, seed=1), noise(3, seed=1)])
    found = nearest(training[:1], [training])
    assert found.memorised[0]
    np.testing.assert_array_equal(found.distances[0], 0)


def test_a_mirrored_copy_is_found_where_training_mirrors():
    training = noise(6, seed=1)
    copy = training[2:3, :, ::-1]
    assert not nearest(copy, [training]).memorised[0]
    found = nearest(copy, [training], mirrored=True)
    assert found.memorised[0]
    assert found.distances[0, 1] > 10  # the image itself is not its own second nearest
    np.testing.assert_array_equal(found.images[0, 0], copy[0])
    assert found.numbers[0, 0] == 2
