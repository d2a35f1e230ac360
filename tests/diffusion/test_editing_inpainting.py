"""RePaint: the way it goes, what it keeps, and what it draws of Gaussian data, whose conditional distribution is known."""

import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jax_ddpm import (
    InvalidInput,
    ancestral,
    classifier_guided,
    ddim,
    dpm_solver_pp,
    euler,
    guided_mean,
    heun,
    inpaint,
    linear_schedule,
    sample,
    sample_trajectory,
    schedule_from_betas,
    unipc,
)
from tests.agreement import assert_moments
from tests.references.chain import Chain
from tests.references.denoisers import small_network
from tests.references.known_data import GaussianData, GaussianMixture

KEY = jax.random.key(3)
BETAS = np.linspace(0.002, 0.3, 12)
CHAIN = Chain(BETAS)
SCHEDULE = schedule_from_betas(BETAS)
MANY = 20_000


def path(total, jump, resamples):
    """The numbers of steps left to go, one at a time, down and up        (Lugmayr et al. 2022, appendix B)

    Wherever 0, jump, 2 jump … steps are left, but not within the uppermost jump, it goes up again, resamples - 1 times. (There
    it is 1, 1 + jump … steps: it never goes up from the end.)
    """
    left, walked, times_up = total, [total], {}
    while left:
        left -= 1
        walked.append(left)
        if left % jump == 0 and left < total - jump and times_up.get(left, 0) < resamples - 1:
            times_up[left] = times_up.get(left, 0) + 1
            walked.extend(range(left + 1, left + jump + 1))
            left += jump
    return walked


@given(total=st.integers(1, 12), jump=st.integers(1, 13), resamples=st.integers(1, 5))
def test_visits_follow_the_rule_of_repaint(total, jump, resamples):
    plain = ancestral(SCHEDULE, spacing=np.arange(total))
    sampler = inpaint(plain, jnp.zeros((1, 2)), jnp.ones(2), jump=jump, resamples=resamples)
    downs = [left - 1 for left, following in itertools.pairwise(path(total, jump, resamples)) if following < left]
    np.testing.assert_array_equal(sampler.rows, downs)
    stretches = len(range(0, total - jump, jump))
    assert sampler.evaluations == total + (resamples - 1) * jump * stretches


def test_resampling_once_is_going_through_once():
    plain = ddim(SCHEDULE, steps=5)
    sampler = inpaint(plain, jnp.zeros((1, 2)), jnp.zeros(2), jump=2, resamples=1)
    x = jax.random.normal(KEY, (20, 2))
    ends = [sample(each, small_network(jnp, 2), x, KEY) for each in (sampler, plain)]
    np.testing.assert_allclose(*ends, rtol=0, atol=1e-5)  # nothing is known: the same float32 chain


@pytest.mark.parametrize("make", [ancestral, ddim, euler])
def test_what_is_known_lies_at_the_level_from_which_the_next_visit_starts(make):
    """Its mean is √ᾱ x_0 and its variance 1-ᾱ after every visit, before and after jumps, and at the end it is x_0 itself."""
    x0 = np.tile(np.array([0.8, -0.5], np.float32), (MANY, 1))
    sampler = inpaint(make(SCHEDULE, steps=6, spacing="linspace"), x0, jnp.ones(2), jump=2, resamples=3)
    visits = sampler.evaluations
    assert visits == 6 + 2 * 2 * 2
    run = jax.jit(lambda key: sample_trajectory(sampler, lambda x, t: 0 * x, jnp.zeros((MANY, 2)), key, range(1, visits + 1)))
    end, states = run(KEY)
    np.testing.assert_array_equal(end, x0)
    for state, row in zip(states[:-1], sampler.rows[1:], strict=True):
        level = sampler.schedule.alphas_bar[row].astype(np.float64)
        assert_moments(state, np.sqrt(level) * x0[0], (1 - level) * np.eye(2))


CORRELATED = GaussianData(np.array([0.3, -0.2]), np.array([[0.5, 0.45], [0.45, 0.6]]))
KNOWN = 1.2
COARSE = linear_schedule(40)
COARSE_CHAIN = Chain(COARSE.betas.astype(np.float64))
CONDITIONAL = -0.2 + 0.45 / 0.5 * (KNOWN - 0.3), 0.6 - 0.45**2 / 0.5  # its mean and variance, of the second given the first


def drawn_coordinate(jump, resamples):
    """The mean and variance of the coordinate that is drawn, the other being known: visit for visit, in closed form.

    Each step is affine, and the known coordinate is put there afresh, so that what it is has nothing to do with the other.
    """
    share, mean, variance = COARSE_CHAIN.alphas_bar, 0.0, 1.0
    known_mean, known_variance = 0.0, 1.0  # of x_T, which is all noise
    for left, following in itertools.pairwise(path(40, jump, resamples)):
        level = share[following - 1] if following else 1.0
        if following < left:
            slopes, offset, deviation = CORRELATED.ancestral_step(COARSE_CHAIN, left - 1)
            mean = slopes[1, 0] * known_mean + slopes[1, 1] * mean + offset[1]
            variance = slopes[1, 0] ** 2 * known_variance + slopes[1, 1] ** 2 * variance + deviation**2
        else:
            beta = COARSE_CHAIN.betas[left]
            mean, variance = np.sqrt(1 - beta) * mean, (1 - beta) * variance + beta
        known_mean, known_variance = np.sqrt(level) * KNOWN, 1 - level
    return mean, variance


def drawn_by_inpainting(jump, resamples):
    x0 = np.tile(np.array([KNOWN, np.nan], np.float32), (MANY, 1))
    x0[:, 1] = 77  # of what is not known nothing may count
    sampler = inpaint(ancestral(COARSE, clip=None), x0, jnp.array([1.0, 0.0]), jump=jump, resamples=resamples)
    start, key = jax.random.split(KEY)
    denoiser = CORRELATED.denoiser(COARSE_CHAIN, "eps")
    samples = jax.jit(lambda: sample(sampler, denoiser, jax.random.normal(start, (MANY, 2)), key))()
    np.testing.assert_array_equal(samples[:, 0], x0[:, 0])
    return np.asarray(samples[:, 1], np.float64)


@pytest.mark.optimised
@pytest.mark.parametrize(("jump", "resamples"), [(10, 1), (10, 2), (2, 20)])
def test_inpainting_of_gaussian_data_has_the_moments_of_the_affine_chain(jump, resamples):
    drawn = drawn_by_inpainting(jump, resamples)
    mean, variance = drawn_coordinate(jump, resamples)
    assert abs(drawn.mean() - mean) < 5 * np.sqrt(variance / MANY)
    assert abs(drawn.var() / variance - 1) < 5 * np.sqrt(2 / MANY)


def test_resampling_is_what_makes_the_drawn_fit_the_known():
    """RePaint's point: once through, the drawn is off by .8 deviations; the oftener, the nearer to p(drawn | known).

    What is left after a hundred times is for the steps, forty, and for jumps of two.
    """
    moments = np.array([drawn_coordinate(2, resamples) for resamples in (1, 2, 5, 20, 100)])
    away, spread = np.abs(moments[:, 0] - CONDITIONAL[0]) / np.sqrt(CONDITIONAL[1]), moments[:, 1] / CONDITIONAL[1]
    assert np.all(np.diff(away) < 0)
    assert np.all(np.diff(spread) < 0)
    assert away[0] > 0.7
    assert away[-1] < 0.06
    assert spread[0] > 1.5
    assert abs(spread[-1] - 1) < 0.02


@pytest.mark.parametrize(
    "mask",
    [np.array([1.0, 0.0, 0.25]), np.array([True, False, True]), np.array([[[1], [0]], [[0], [1]]])],
    ids=["soft", "bool", "pixels"],
)
def test_known_and_drawn_are_blended_by_the_mask(mask):
    """At the end, with the sample of a mask of zeros as what would be drawn there: one evaluation, and no noise is left."""
    x0, x = np.full((4, 2, 2, 3), 0.5, np.float32), jnp.asarray(np.random.default_rng(1).normal(size=(4, 2, 2, 3)), jnp.float32)
    plain = ddim(SCHEDULE, spacing=[11])
    drawn = np.asarray(sample(plain, small_network(jnp, 3), x, KEY))
    result = sample(inpaint(plain, x0, mask), small_network(jnp, 3), x, KEY)
    np.testing.assert_allclose(result, mask * x0 + (1.0 - mask) * drawn, rtol=0, atol=1e-6)


MULTISTEP = {
    "heun": heun(SCHEDULE, steps=4),
    "dpm_solver_pp": dpm_solver_pp(SCHEDULE, steps=4),
    "unipc": unipc(SCHEDULE, steps=4),
}


@pytest.mark.parametrize("name", MULTISTEP)
def test_samplers_that_remember_inpaint_but_do_not_go_back(name):
    x0, mask = np.full((5, 3), 0.7, np.float32), np.array([1.0, 0.0, 0.0])
    ends = sample(inpaint(MULTISTEP[name], x0, mask), small_network(jnp, 3), jax.random.normal(KEY, (5, 3)), KEY)
    chex.assert_tree_all_finite(ends)
    np.testing.assert_array_equal(ends[:, 0], x0[:, 0])
    assert np.abs(ends[:, 1:] - 0.7).max() > 0.01
    with pytest.raises(InvalidInput, match=r"resampling goes back.*expected ancestral, ddim or euler"):
        inpaint(MULTISTEP[name], x0, mask, resamples=2)


@pytest.mark.parametrize(("jump", "resamples"), [(0, 1), (10, 0), (-1, 2)])
def test_jumps_and_resamplings_are_one_or_more(jump, resamples):
    with pytest.raises(InvalidInput, match=f"jump={jump}, resamples={resamples}: expected 1 or more"):
        inpaint(ancestral(SCHEDULE), jnp.zeros((1, 2)), jnp.ones(2), jump=jump, resamples=resamples)


def test_inpainting_composes_with_both_kinds_of_guidance():
    """Both move what is drawn, at every visit, and neither what is known."""
    mixture = GaussianMixture(np.array([0.5, 0.5]), np.array([[0.0, -0.6], [0.0, 0.6]]), np.full((2, 2), 0.1))
    denoiser, classifier = mixture.denoiser(CHAIN, "eps"), mixture.classifier(CHAIN)
    x0, mask = np.full((400, 2), 0.3, np.float32), np.array([1.0, 0.0])
    labels, x = jnp.arange(400) % 2, jax.random.normal(KEY, (400, 2))
    stochastic = inpaint(guided_mean(ancestral(SCHEDULE), classifier, labels, scale=2.0), x0, mask, jump=2, resamples=3)
    by_score = classifier_guided(denoiser, classifier, labels, SCHEDULE, scale=2.0)
    straight = inpaint(ddim(SCHEDULE, steps=6), x0, mask, jump=2, resamples=3)
    for sampler, network in ((stochastic, denoiser), (straight, by_score)):
        run = jax.jit(lambda sampler=sampler, network=network: sample(sampler, network, x, KEY))
        ends = np.asarray(run())
        np.testing.assert_array_equal(ends[:, 0], x0[:, 0])
        assert np.mean((ends[:, 1] > 0) == (labels == 1)) > 0.95  # the classes overlap by 3 %, and are pushed apart


def test_inpainting_is_one_scan_and_maps():
    x, x0 = jax.random.normal(KEY, (3, 4, 2)), jnp.linspace(-1, 1, 24).reshape(3, 4, 2)

    def run(x, x0):
        sampler = inpaint(ancestral(SCHEDULE, steps=4), x0, jnp.array([1.0, 0.0]), jump=1, resamples=2)
        return sample(sampler, small_network(jnp, 2), x, KEY)

    compiled = jax.jit(run)
    one_by_one = [compiled(*pair) for pair in zip(x, x0, strict=True)]
    np.testing.assert_allclose(jax.jit(jax.vmap(run))(x, x0), one_by_one, rtol=0, atol=2e-5)  # float32, seven visits
    assert str(jax.make_jaxpr(run)(x[0], x0[0])).count("scan[") == 1
