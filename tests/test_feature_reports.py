"""Figures of many images by features that are known to the last bit: what memory they take, and what two passes find."""

import tracemalloc

import jax.numpy as jnp
import numpy as np
import pytest

from jax_ddpm import features
from jax_ddpm.config import default_config
from jax_ddpm.data.sources.source import Source
from jax_ddpm.evaluation.frechet import Moments, frechet_distance, moments
from jax_ddpm.evaluation.inception import Features
from jax_ddpm.evaluation.reference import Reference
from jax_ddpm.feature_reports import FeatureJudge
from jax_ddpm.features import Extractor
from jax_ddpm.training.sharding import make_mesh

IMAGES, SIDE, WIDTH = 50_000, 4, 64
PROJECTION = np.random.default_rng(0).integers(-2, 3, (SIDE * SIDE * 3, WIDTH)).astype(np.float32)
"""Of whole numbers, so that features of bytes are whole, and in float32 exact."""


def image(index):
    return np.random.default_rng(index).integers(0, 256, (SIDE, SIDE, 3), np.uint8)


def project(projection, images):
    pooled = images.reshape(len(images), -1).astype(jnp.float32) @ projection
    return Features(pooled, pooled[:, :0], pooled[:, :0])


def test_fifty_thousand_images_take_the_memory_of_a_few_and_give_what_two_passes_give():
    config = default_config()
    config.data.update(image_size=SIDE, channels=3)
    config.eval.batch_size = 500
    describe = features._over_devices(config, make_mesh(), PROJECTION, project)
    extractor = Extractor("by hand", describe, Features(WIDTH, 0, 0), {"fid": "FID"}, {"fid": "fid"}, {})
    exact = Reference("a Gaussian", None, "by hand", Moments(np.zeros(WIDTH), 1e4 * np.eye(WIDTH)))
    drawn = Source("made", IMAGES, lambda index: {"image": image(index), "label": 0}, shape=(SIDE, SIDE, 3))
    tracemalloc.start()
    try:
        (found,) = FeatureJudge(extractor, exact, ["fid"], 0).report(drawn)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    pixels = np.stack([image(index) for index in range(IMAGES)]).reshape(IMAGES, -1).astype(np.float64)
    by_two_passes = frechet_distance(exact.pooled, moments(pixels @ PROJECTION))
    assert found["distance"] == pytest.approx(by_two_passes, rel=1e-9)
    assert found["reference_taken_as_exact"]
    # In float32 the features are 12.8 MB and in float64 twice that. Of each image its number is kept, 0.4 MB of all.
    assert peak < 5_000_000
