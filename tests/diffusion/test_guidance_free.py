"""Guidance without a classifier: a straight line in its scale, through the conditional and the unconditional model."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jax_ddpm import classifier_free, to_x0
from tests.compiling import in_float64
from tests.diffusion.guided import CHAIN, MIXTURE, SCHEDULE64, assert_close, batch, free
from tests.references.chain import PREDICTIONS

POINTS, TIMES, CLASSES = batch(12, 1)
GUIDED_BY = jax.jit(lambda scale: free(scale=scale)(CLASSES)(jnp.asarray(POINTS), TIMES))


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_scale_one_is_the_conditional_model_bit_for_bit_and_zero_the_unconditional(prediction):
    x, t, labels = batch()

    def outputs(x, t):
        one, none = (free(prediction, scale=scale)(labels)(x, t) for scale in (1.0, 0.0))
        return one, none, MIXTURE.labelled_denoiser(CHAIN, prediction)(x, t, labels), MIXTURE.denoiser(CHAIN, prediction)(x, t)

    one, none, conditional, unconditional = in_float64(outputs, x, t)
    np.testing.assert_array_equal(one, conditional)
    assert_close(none, unconditional)


@given(scale=st.floats(-3, 8), other=st.floats(-3, 8), share=st.floats(0, 1))
def test_guided_output_is_a_straight_line_in_the_scale(scale, other, share):
    between = share * scale + (1 - share) * other
    with jax.enable_x64(True):
        at_scale, at_other, at_between = (np.asarray(GUIDED_BY(each)) for each in (scale, other, between))
    assert_close(at_between, share * at_scale + (1 - share) * at_other)


def test_every_prediction_guides_to_the_same_x0():
    x, t, labels = batch()

    def x0_of(prediction):
        return lambda x, t: to_x0(SCHEDULE64, free(prediction, scale=2.5)(labels)(x, t), x, t, prediction)

    expected, *others = (in_float64(x0_of(prediction), x, t) for prediction in PREDICTIONS)
    for other in others:
        assert_close(other, expected)
    level = CHAIN.levels[t]
    conditional, whole = MIXTURE.expected_x0(x, level, labels), MIXTURE.expected_x0(x, level)
    assert_close(expected, whole + 2.5 * (conditional - whole))


def test_denoiser_is_asked_once_for_both_classes_and_none():
    asked = []

    def denoiser(x, t, labels):
        asked.append((x.shape, t.shape, np.asarray(labels).tolist()))
        return x

    classifier_free(denoiser, jnp.array([4, 2]), null_label=9, scale=3.0)(jnp.zeros((2, 5, 5, 1)), jnp.zeros(2, int))
    assert asked == [((4, 5, 5, 1), (4,), [4, 2, 9, 9])]


def test_learned_variance_is_the_conditional_one():
    def denoiser(x, t, labels):
        said = jnp.tanh(x + t[:, None] / 8) * (1 + labels[:, None])
        return jnp.concatenate([said, 10 * said], axis=-1)

    x, t, labels = batch(12, 1)
    x, labels = jnp.asarray(x, jnp.float32), jnp.asarray(labels)
    output = classifier_free(denoiser, labels, null_label=7, scale=3.0)(x, t)
    conditional, without = denoiser(x, t, labels), denoiser(x, t, jnp.full(12, 7))
    np.testing.assert_array_equal(output[:, 2:], conditional[:, 2:])
    # float32: a few roundings of 2^-24 of numbers below 24
    np.testing.assert_allclose(output[:, :2], 3 * conditional[:, :2] - 2 * without[:, :2], rtol=0, atol=3e-5)
