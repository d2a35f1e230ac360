"""The judge of samples is a good one, and can tell a right sample from a wrong one."""

import numpy as np

from jax_ddpm.data.sources.digits import digits
from jax_ddpm.evaluation.recognition import recognition

TRAIN, TEST = digits("train"), digits("test")
IMAGES = np.stack([TEST[index]["image"] for index in range(100)])
LABELS = np.array([TEST[index]["label"] for index in range(100)])


def test_real_digits_are_recognised():
    judged = recognition(IMAGES, LABELS, TRAIN, TEST)
    assert judged.held_out > 0.97
    assert judged.samples > 0.95


def test_digits_of_another_class_are_not():
    assert recognition(IMAGES, (LABELS + 1) % 10, TRAIN, TEST).samples < 0.05


def test_noise_is_recognised_no_more_often_than_by_chance():
    noise = np.random.default_rng(0).integers(0, 256, IMAGES.shape, np.uint8)
    assert recognition(noise, np.arange(100) % 10, TRAIN, TEST).samples < 0.3
