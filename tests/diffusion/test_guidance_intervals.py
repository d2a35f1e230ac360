"""In which part of the chain guidance acts, and that each example has its own scale and label."""

import jax.numpy as jnp
import numpy as np
import pytest

from jax_ddpm import ancestral, classifier_gradient, ddim, guided_mean, heun, respace, sample, sample_trajectory
from tests.compiling import in_float64, in_float64_for_each
from tests.diffusion.guided import CHAIN, CLASSIFIER, DENOISER, FORMS, KEY, MIXTURE, SCHEDULE64, assert_close, batch


@pytest.mark.parametrize("form", FORMS)
def test_each_example_has_its_own_scale_and_label_and_no_others(form):
    x, t, labels = batch(12, 1)
    scales = np.linspace(-1, 4, 12)

    def guided(x, t, labels, scales):
        return FORMS[form](labels, scale=scales)(x, t)

    rows = [slice(row, row + 1) for row in range(12)]
    whole, *alone = in_float64_for_each(
        guided, (x, t, labels, scales), *((x[row], t[row], labels[row], scales[row]) for row in rows)
    )
    assert_close(whole, np.concatenate(alone))


@pytest.mark.parametrize("form", FORMS)
def test_outside_the_interval_nothing_is_guided_and_its_ends_are_inside(form):
    x, t, labels = batch()
    outside = in_float64(MIXTURE.denoiser(CHAIN, "eps", None if form == "classifier" else jnp.asarray(labels)), x, t)
    everywhere, within = (
        in_float64(FORMS[form](jnp.asarray(labels), scale=3.0, interval=interval), x, t) for interval in (None, (3, 7))
    )
    inside = (t >= 3) & (t <= 7)
    assert_close(within[inside], everywhere[inside])
    assert_close(within[~inside], outside[~inside])
    for time in range(12):
        assert np.abs(everywhere - outside)[t == time].max() > 0.01


def test_gradient_is_zero_outside_the_interval():
    x, t, labels = batch()
    gradient = in_float64(classifier_gradient(CLASSIFIER, labels, scale=2.0, interval=(4, 11)), x, t)
    assert np.all(gradient[t < 4] == 0)
    assert np.all(np.abs(gradient[t >= 4]).max(axis=1) > 0)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "sampler",
    [
        ddim(SCHEDULE64, steps=5, spacing="linspace", clip=None),
        ddim(respace(SCHEDULE64, range(1, 12, 2)), steps=3, spacing="trailing", clip=None),  # a chain that was short already
        heun(SCHEDULE64, steps=5, clip=None),  # times between the steps
    ],
    ids=["respaced", "twice", "karras"],
)
def test_intervals_are_of_the_times_of_the_whole_chain(sampler, form):
    x, _, labels = batch(1, 6)
    inside = (sampler.timesteps >= 4) & (sampler.timesteps <= 10)
    assert inside.any()
    assert not inside.all()

    def run(x):
        within, everywhere = (FORMS[form](jnp.asarray(labels), scale=3.0, interval=each) for each in ((4, 10), None))
        outside = MIXTURE.denoiser(CHAIN, "eps", None if form == "classifier" else jnp.asarray(labels))

        def by_hand(x, t):
            return jnp.where(((t >= 4) & (t <= 10))[:, None], everywhere(x, t), outside(x, t))

        return tuple(sample(sampler, each, x, KEY) for each in (within, by_hand, everywhere))

    within, by_hand, everywhere = in_float64(run, x)
    assert_close(within, by_hand)
    assert np.abs(within - everywhere).max() > 1e-3


def test_intervals_hold_for_a_guided_mean():
    sampler = ancestral(SCHEDULE64, steps=6, clip=None)
    x, _, labels = batch(1, 6)

    def run(x):
        guided = guided_mean(sampler, CLASSIFIER, labels, scale=3.0, interval=(1, 6))
        return tuple(sample_trajectory(each, DENOISER, x, KEY, range(1, 7))[1] for each in (guided, sampler))

    guided, unguided = in_float64(run, x)
    differs = np.abs(guided - unguided).max(axis=(1, 2)) > 1e-6
    first = np.flatnonzero((sampler.timesteps >= 1) & (sampler.timesteps <= 6))[0]
    assert first > 0
    np.testing.assert_array_equal(differs, np.arange(6) >= first)
