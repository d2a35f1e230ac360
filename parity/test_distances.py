"""FID, KID, the Inception score, precision and recall of the same features: pytorch-fid's and torch-fidelity's figures."""

import warnings

import numpy as np
import pytest
import torch

from pytorch_fid.fid_score import calculate_frechet_distance, compute_statistics_of_path  # isort: skip
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric  # isort: skip
from torch_fidelity.metric_isc import isc_features_to_metric  # isort: skip
from torch_fidelity.metric_kid import kid_features_to_metric  # isort: skip
from torch_fidelity.metric_prc import prc_features_to_metric  # isort: skip

from jax_ddpm.evaluation.frechet import frechet_distance  # isort: skip
from jax_ddpm.evaluation.inception_score import RunningScore  # isort: skip
from jax_ddpm.evaluation.kernel_distance import squared_discrepancy  # isort: skip
from jax_ddpm.evaluation.manifold import precision_recall  # isort: skip
from jax_ddpm.evaluation.reference import Reference, write_statistics  # isort: skip
from jax_ddpm.evaluation.statistics import RunningMoments  # isort: skip


@pytest.fixture(scope="module", params=[600, 40], ids=["more images than features", "fewer"])
def features(request):
    """Of samples and of real images: more than 0, of unlike size and correlated, as those of the Inception network are."""
    rng = np.random.default_rng(0)
    mixing = rng.normal(size=(64, 64)) / 8 * rng.gamma(1.0, size=64)
    return [np.maximum(rng.normal(shift, 1, (request.param, 64)) @ mixing, 0).astype(np.float32) for shift in (0.1, 0)]


def moments(features):
    running = RunningMoments(features.shape[1])
    for batch in np.array_split(features, 7):
        running.add(batch)
    return running.moments()


def test_the_frechet_distance(features):
    """To 1e-5: that of theirs whose covariances have no full rank takes roots of what round-off leaves."""
    ours = [moments(each) for each in features]
    found = frechet_distance(*ours)
    statistics = [fid_features_to_statistics(torch.from_numpy(each)) for each in features]
    fidelity = fid_statistics_to_metric(*statistics, verbose=False)["frechet_inception_distance"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of sqrtm's `disp`, by SciPy
        pytorch = calculate_frechet_distance(*(part for each in ours for part in each))
    np.testing.assert_allclose([pytorch, fidelity], found, rtol=1e-5)


def test_pytorch_fid_reads_the_statistics_that_are_kept(features, tmp_path):
    ours = moments(features[1])
    path = write_statistics(tmp_path / "statistics.npz", Reference("made", len(features[1]), "by hand", ours, ours))
    for theirs, own in zip(compute_statistics_of_path(str(path), None, 50, 64, "cpu"), ours, strict=True):
        np.testing.assert_array_equal(theirs, own)


def test_the_kernel_distance(features):
    samples, real = features
    size = len(samples)  # all of them, so that nothing is left to how subsets are drawn
    theirs = kid_features_to_metric(*map(torch.from_numpy, features), kid_subsets=1, kid_subset_size=size, verbose=False)
    found = squared_discrepancy(samples, real)
    np.testing.assert_allclose(theirs["kernel_inception_distance_mean"], found, rtol=1e-3)


def test_the_inception_score(features):
    logits = features[0] * 5
    theirs = isc_features_to_metric(torch.from_numpy(logits), shuffle=False)
    running = RunningScore(logits.shape[1], len(logits))
    for batch in np.array_split(logits, 7):
        running.add(batch)
    found = running.score()
    np.testing.assert_allclose(
        [found.mean, found.deviation], [theirs["inception_score_mean"], theirs["inception_score_std"]], rtol=1e-6
    )


def test_precision_and_recall(features):
    theirs = prc_features_to_metric(*map(torch.from_numpy, features), prc_neighborhood=3, verbose=False)
    assert precision_recall(*features) == (pytest.approx(theirs["precision"]), pytest.approx(theirs["recall"]))
    assert 0 < theirs["recall"] < 1
