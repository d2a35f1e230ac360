import numpy as np
import pytest

from jax_ddpm import VLB
from jax_ddpm.evaluation.bits_per_dim import estimate, summarise


def make_bound(seed: int, images: int, steps: int = 4) -> VLB:
    rng = np.random.default_rng(seed)
    kl = rng.uniform(1, 9, (steps, images)).astype(np.float32)
    kl[0] = 0
    prior, decoder = rng.uniform(0, 1, (2, images)).astype(np.float32)
    return VLB(prior, kl, decoder, rng.uniform(0, 1, (steps, images)).astype(np.float32))


def test_batches_of_any_size_are_taken_together():
    parts = [make_bound(0, 5), make_bound(1, 2), make_bound(2, 1)]
    whole = VLB(*(np.concatenate(each, axis=-1).astype(np.float64) for each in zip(*parts, strict=True)))
    summary = summarise(parts, components=6)
    per_image = (whole.prior + whole.kl.sum(axis=0) + whole.decoder) / 6 / np.log(2)
    # float32 sums of six terms
    assert summary.bits_per_dim.mean == pytest.approx(per_image.mean(), rel=1e-6)
    assert summary.bits_per_dim.standard_error == pytest.approx(per_image.std(ddof=1) / np.sqrt(8), rel=1e-5)
    assert summary.bits_per_dim.images == 8
    assert summary.prior == pytest.approx(whole.prior.mean() / 6 / np.log(2), rel=1e-6)
    assert summary.distortion == pytest.approx(whole.decoder.mean() / 6 / np.log(2), rel=1e-6)
    assert summary.rate + summary.distortion == pytest.approx(per_image.mean(), rel=1e-6)
    kl = whole.kl.mean(axis=1) / 6 / np.log(2)
    np.testing.assert_allclose(summary.terms[1:], kl[1:], rtol=1e-6)
    np.testing.assert_allclose(summary.curve.rate, [summary.prior + kl[t + 1 :].sum() for t in range(4)], rtol=1e-6)
    np.testing.assert_allclose(summary.curve.rmse, np.sqrt(whole.x0_mse.mean(axis=1)) * 127.5, rtol=1e-6)


def test_the_error_of_a_mean_falls_with_the_root_of_the_number_of_images():
    values = np.array([3.0, 5.0])
    assert estimate(values) == (4.0, pytest.approx(1.0), 2)
    assert estimate(np.tile(values, 50)).standard_error == pytest.approx(1 / np.sqrt(99))


def test_one_image_tells_nothing_of_the_error():
    assert estimate(np.array([3.0])) == (3.0, np.inf, 1)


def test_an_estimate_reads_well():
    assert str(estimate(np.array([3.0, 5.0]))) == "4.0000 ± 1.0000 bits/dim (2 images)"
