"""The score moved by a classifier, against Bayes' rule and closed forms."""

import jax.numpy as jnp
import numpy as np
import pytest

from jax_ddpm import (
    InvalidInput,
    classifier_free,
    classifier_gradient,
    classifier_guided,
    ddim,
    linear_schedule,
    sample,
    sample_trajectory,
    zero_terminal_snr,
)
from tests.compiling import in_float64
from tests.diffusion.guided import (
    AWAY,
    CHAIN,
    CLASSIFIER,
    DENOISER,
    FROM,
    KEY,
    MIXTURE,
    NOISE,
    RARE,
    SCHEDULE64,
    SIGNAL,
    SPREAD,
    assert_close,
    batch,
    steepness,
)
from tests.references.chain import PREDICTIONS, Chain, column
from tests.references.known_data import GaussianMixture


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_unconditional_denoiser_guided_by_exact_posteriors_is_the_conditional_one(prediction):
    x, t, labels = batch()

    def both(x, t):
        guided = classifier_guided(MIXTURE.denoiser(CHAIN, prediction), CLASSIFIER, labels, SCHEDULE64, prediction=prediction)
        return guided(x, t), MIXTURE.denoiser(CHAIN, prediction, labels)(x, t)

    assert_close(*in_float64(both, x, t))
    if prediction != "mean":  # between two steps there is none
        assert_close(*in_float64(both, x, np.random.default_rng(1).uniform(0, 11, len(x))))


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_at_scale_w_the_mean_of_the_data_moves_w_times_as_far(prediction):
    """By a classifier and without: the output is the best one for N(FROM + w AWAY, SPREAD), w of each example its own."""
    x, t, _ = batch()
    ones, nobody, scales = np.ones(len(x), np.int32), 2, np.random.default_rng(3).choice([-1.0, 0.0, 0.5, 3.0], len(x))

    def guided(x, t):
        denoiser, labelled = RARE.denoiser(CHAIN, prediction), RARE.labelled_denoiser(CHAIN, prediction)
        options = {"scale": scales, "prediction": prediction}
        by_classifier = classifier_guided(denoiser, RARE.classifier(CHAIN), ones, SCHEDULE64, **options)
        free = classifier_free(labelled, jnp.asarray(ones), null_label=nobody, scale=scales)
        return by_classifier(x, t), free(x, t)

    mean, share = FROM + scales[:, None] * AWAY, CHAIN.alphas_bar[t][:, None]
    gain = np.sqrt(share) * SPREAD / (share * SPREAD + CHAIN.noise_variance[t][:, None])
    expected = CHAIN.output(mean + gain * (x - np.sqrt(share) * mean), x, t, prediction)
    for output in in_float64(guided, x, t):
        assert_close(output, expected)


def logistic_gradient(x, t, mean, variance):
    """∇ log p(+ | x_t) and ∇ log p(- | x_t) of classes N(±mean, variance), as often one as the other."""
    slope = SIGNAL[t] * 2 * mean / (CHAIN.alphas_bar[t] * variance + CHAIN.noise_variance[t])
    odds = np.exp(slope * x)
    return slope / (1 + odds), -slope * odds / (1 + odds)


def test_one_step_of_ddim_moves_eps_by_the_gradient():
    """ε - √(1-ᾱ) s ∇ log p(y | x_t), y and s of each example its own."""
    rng = np.random.default_rng(2)
    x, signs, scales = rng.normal(size=(8, 1)), np.tile([1, -1], 4), np.array([0, 0, 1, 1, 2.5, 2.5, -1, -1])
    pair = GaussianMixture(np.array([0.5, 0.5]), np.array([[0.7], [-0.7]]), np.full((2, 1), 0.3))
    sampler = ddim(SCHEDULE64, spacing=[3, 7], clip=None)

    def stepped(x):
        guided = classifier_guided(
            pair.denoiser(CHAIN, "eps"), pair.classifier(CHAIN), jnp.asarray((signs < 0).astype(int)), SCHEDULE64, scale=scales
        )
        return sample_trajectory(sampler, guided, x, KEY, [1])[1][0]

    upwards, downwards = logistic_gradient(x, 7, 0.7, 0.3)
    level = np.full(8, CHAIN.levels[7])
    eps = (x - SIGNAL[7] * pair.expected_x0(x, level)) / NOISE[7]
    eps -= NOISE[7] * scales[:, None] * np.where(signs[:, None] > 0, upwards, downwards)
    assert_close(in_float64(stepped, x), SIGNAL[3] * (x - NOISE[7] * eps) / SIGNAL[7] + NOISE[3] * eps)


def test_whole_chain_of_ddim_at_scale_w_follows_the_affine_recursion():
    x, scale = batch(1, 10)[0], 2.5
    classes = np.ones(10, np.int32)

    def run(x):
        guided = classifier_guided(RARE.denoiser(CHAIN, "eps"), RARE.classifier(CHAIN), classes, SCHEDULE64, scale=scale)
        return sample(ddim(SCHEDULE64, clip=None), guided, x, KEY)

    state = x
    for t in reversed(range(12)):
        of_data = CHAIN.alphas_bar[t] * SPREAD + NOISE[t] ** 2
        eps = NOISE[t] * ((state - SIGNAL[t] * FROM) / of_data - scale * steepness(CHAIN, t))
        signal, noise = (SIGNAL[t - 1], NOISE[t - 1]) if t else (1, 0)
        state = signal * (state - NOISE[t] * eps) / SIGNAL[t] + noise * eps
    assert_close(in_float64(run, x), state)


def test_guided_score_takes_ddim_to_the_moved_data():
    """However large w: the limit of many steps is the map of N(0, I) onto N(FROM + w AWAY, SPREAD)."""
    schedule, scale = linear_schedule(1000, dtype=np.float64), 4.0
    chain, x = Chain(np.asarray(schedule.betas)), np.random.default_rng(0).normal(size=(50, 2))

    def run(x):
        guided = classifier_guided(RARE.denoiser(chain, "eps"), RARE.classifier(chain), np.ones(50, int), schedule, scale=scale)
        return sample(ddim(schedule, steps=200, spacing="trailing", clip=None), guided, x, KEY)

    expected = FROM + scale * AWAY + np.sqrt(SPREAD) * x
    # 200 steps of a method of first order; and √ᾱ_T = .006 of a mean of 2 is left in x_T, which N(0, I) has not.
    np.testing.assert_allclose(in_float64(run, x), expected, rtol=0, atol=0.04)


def test_learned_variance_is_not_moved_by_a_classifier():
    def denoiser(x, t):
        return jnp.concatenate([x, 10 * x], axis=-1)

    x, t, labels = batch(12, 1)
    guided = in_float64(classifier_guided(denoiser, CLASSIFIER, labels, SCHEDULE64), x, t)
    np.testing.assert_array_equal(guided[:, 2:], 10 * x)
    assert np.abs(guided[:, :2] - x).max() > 0.01


def test_gradient_is_that_of_log_p_of_its_own_label():
    """Against the closed form Σ_j p(j | x) (a_y - a_j), a_j being the score of class j."""
    x, t, labels = batch()
    level = CHAIN.levels[t]
    scores = [
        (column(SIGNAL[t], x) * MIXTURE.expected_x0(x, level, np.full(len(x), label)) - x) / column(NOISE[t], x) ** 2
        for label in range(3)
    ]
    whole = np.einsum("bk,kbd->bd", MIXTURE.posteriors(x, level), np.stack(scores))
    expected = np.stack(scores)[labels, np.arange(len(x))] - whole
    assert_close(in_float64(classifier_gradient(CLASSIFIER, labels, scale=2.0), x, t), 2 * expected)


def test_guided_score_needs_some_signal_at_the_end():
    with pytest.raises(InvalidInput, match="expected a schedule without zero terminal SNR"):
        classifier_guided(DENOISER, CLASSIFIER, np.zeros(6, int), zero_terminal_snr(SCHEDULE64), prediction="v")
