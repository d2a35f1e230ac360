"""Every sampler, guided: the samples are of their classes, the chain is one scan, and what cannot be guided is refused."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_ddpm import (
    InvalidInput,
    ancestral,
    classifier_free,
    classifier_guided,
    ddim,
    dpm_solver_pp,
    euler,
    guided_mean,
    heun,
    linear_schedule,
    sample,
    schedule_from_betas,
    unipc,
    zero_terminal_snr,
)
from tests.compiling import in_float64_for_each
from tests.diffusion.guided import (
    AWAY,
    BETAS,
    CHAIN,
    CLASSIFIER,
    DENOISER,
    FORMS,
    FROM,
    KEY,
    MIXTURE,
    RARE,
    SCHEDULE64,
    SPREAD,
    assert_close,
    batch,
    guided_and_not,
    steepness,
)
from tests.references.chain import Chain
from tests.references.known_data import GaussianMixture

LONG = linear_schedule(1000)
LONG_CHAIN = Chain(LONG.betas.astype(np.float64))
MANY = 4000
OF_CLASSES = np.tile(np.arange(3), MANY // 3 + 1)[:MANY]


def draw(sampler, denoiser):
    start, key = jax.random.split(KEY)
    run = jax.jit(lambda: sample(sampler, denoiser, jax.random.normal(start, (MANY, 2)), key))
    return np.asarray(run(), np.float64)


def assert_samples_of_each_class(samples):
    """Each class has its mean, its variances, and looks like each of the classes as often as its data do.

    Within five Monte-Carlo errors, and 1.5 % of the deviation or 3 % of the variance, which the steps may err.
    """
    for label in range(3):
        chosen, deviation = samples[label == OF_CLASSES], np.sqrt(MIXTURE.variances[label])
        count = len(chosen)
        assert np.all(np.abs(chosen.mean(axis=0) - MIXTURE.means[label]) < deviation * (5 / np.sqrt(count) + 0.015))
        assert np.all(np.abs(chosen.var(axis=0) / deviation**2 - 1) < 5 * np.sqrt(2 / count) + 0.03)
        data = MIXTURE.means[label] + deviation * np.random.default_rng(label).normal(size=(100_000, 2))
        seen, expected = (MIXTURE.posteriors(x, -10.0) for x in (chosen, data))  # at σ = e⁻¹⁰ the data are clean
        assert np.all(np.abs(seen.mean(axis=0) - expected.mean(axis=0)) < 5 * expected.std(axis=0) / np.sqrt(count) + 0.005)


@pytest.mark.optimised
@pytest.mark.parametrize(
    "sampler",
    [
        ddim(LONG, steps=250, spacing="trailing", clip=None),
        dpm_solver_pp(LONG, steps=40, clip=None),
        heun(LONG, steps=40, clip=None),
    ],
    ids=["ddim", "dpm_solver_pp", "heun"],
)
def test_samples_guided_by_exact_posteriors_are_of_their_classes(sampler):
    guided = classifier_guided(
        MIXTURE.denoiser(LONG_CHAIN, "eps"), MIXTURE.classifier(LONG_CHAIN), jnp.asarray(OF_CLASSES), LONG
    )
    assert_samples_of_each_class(draw(sampler, guided))


@pytest.mark.optimised
@pytest.mark.parametrize(
    "sampler",
    [ancestral(LONG, clip=None), dpm_solver_pp(LONG, steps=400, stochastic=True, clip=None)],
    ids=["ancestral", "stochastic"],
)
def test_samples_of_a_guided_mean_are_of_their_classes(sampler):
    guided = guided_mean(sampler, MIXTURE.classifier(LONG_CHAIN), jnp.asarray(OF_CLASSES))
    assert_samples_of_each_class(draw(guided, MIXTURE.denoiser(LONG_CHAIN, "eps")))


def test_scale_zero_draws_the_classes_as_often_as_they_are():
    classifier, denoiser = MIXTURE.classifier(LONG_CHAIN), MIXTURE.denoiser(LONG_CHAIN, "eps")
    guided = classifier_guided(denoiser, classifier, jnp.asarray(OF_CLASSES), LONG, scale=0.0)
    seen = MIXTURE.posteriors(draw(dpm_solver_pp(LONG, steps=40, clip=None), guided), -10.0)
    # the mean of p(k | x) over the data is p(k); a .5 % is for the forty steps
    assert np.all(np.abs(seen.mean(axis=0) - MIXTURE.weights) < 5 * seen.std(axis=0) / np.sqrt(MANY) + 0.005)


SAMPLERS = {
    "ancestral": ancestral(SCHEDULE64, steps=6),
    "ddim": ddim(SCHEDULE64, steps=6),
    "ddim, eta 1": ddim(SCHEDULE64, steps=6, eta=1.0, rederive_eps=False),
    "euler": euler(SCHEDULE64, steps=6),
    "heun with churn": heun(SCHEDULE64, steps=6, churn=2.0),
    "dpm_solver_pp 3": dpm_solver_pp(SCHEDULE64, steps=6, order=3),
    "dpm_solver_pp, stochastic": dpm_solver_pp(SCHEDULE64, steps=6, stochastic=True),
    "unipc": unipc(SCHEDULE64, steps=6),
}


@pytest.mark.parametrize("name", [name for name in SAMPLERS if name != "ddim, eta 1"])
def test_every_sampler_takes_a_guided_denoiser_for_that_of_the_moved_data(name):
    x, ones, scale = batch(1, 6)[0], np.ones(6, np.int32), 2.0
    moved = GaussianMixture(np.ones(1), (FROM + scale * AWAY)[None], SPREAD[None])
    denoisers = (
        classifier_guided(RARE.denoiser(CHAIN, "eps"), RARE.classifier(CHAIN), ones, SCHEDULE64, scale=scale),
        classifier_free(RARE.labelled_denoiser(CHAIN, "eps"), jnp.asarray(ones), null_label=2, scale=scale),
        moved.denoiser(CHAIN, "eps"),
        RARE.denoiser(CHAIN, "eps"),
    )

    def run(x, choice):  # all in one, to be compiled once
        return sample(SAMPLERS[name], lambda x, t: sum(choice[n] * each(x, t) for n, each in enumerate(denoisers)), x, KEY)

    by_classifier, by_label, expected, unguided = in_float64_for_each(run, *((x, choice) for choice in np.eye(4)))
    np.testing.assert_allclose(by_classifier, expected, rtol=0, atol=1e-9)  # each step may stretch an error of 1e-12
    np.testing.assert_allclose(by_label, expected, rtol=0, atol=1e-9)
    assert np.abs(unguided - expected).max() > 0.1


@pytest.mark.parametrize("name", ["ancestral", "ddim, eta 1", "dpm_solver_pp, stochastic"])
def test_samplers_of_the_reverse_process_take_a_guided_mean(name):
    """It moves the first state by the variance of that step times the gradient."""
    sampler = SAMPLERS[name]
    guided, unguided = guided_and_not(sampler, CHAIN, batch(1, 6)[0], 2.0, [1])
    expected = 2 * sampler.deviations[0] ** 2 * steepness(CHAIN, sampler.timesteps[:1].astype(int))
    assert np.abs(expected).max() > 0.1
    assert_close(guided[0] - unguided[0], np.broadcast_to(expected, (6, 2)))


def test_samplers_with_less_noise_than_the_reverse_process_take_no_guided_mean():
    for name in set(SAMPLERS) - {"ancestral", "ddim, eta 1", "dpm_solver_pp, stochastic"}:
        with pytest.raises(InvalidInput, match=r"guided_mean moves the mean by the variance.*classifier_guided"):
            guided_mean(SAMPLERS[name], CLASSIFIER, np.zeros(6, int))
    with pytest.raises(InvalidInput, match="guided_mean moves the mean"):  # its noise may lift a step above where it began
        guided_mean(euler(SCHEDULE64, steps=12, churn=12.0), CLASSIFIER, np.zeros(6, int))


def test_guided_mean_and_free_guidance_hold_where_nothing_is_left_at_the_end():
    schedule = zero_terminal_snr(SCHEDULE64)
    x, _, labels = batch(1, 6)
    x = jnp.asarray(x, jnp.float32)
    sampler = guided_mean(ancestral(schedule, prediction="v"), lambda x, t: x @ jnp.ones((2, 3)), labels)
    network = classifier_free(lambda x, t, labels: 0.1 * x * labels[:, None], jnp.asarray(labels), null_label=3, scale=2.0)
    chex.assert_tree_all_finite(sample(sampler, network, x, KEY))


@pytest.mark.parametrize("form", [*FORMS, "mean"])
def test_guided_chain_is_one_scan_and_maps(form):
    schedule = schedule_from_betas(BETAS)
    x, labels = jax.random.normal(KEY, (3, 4, 2)), jnp.array([[0, 1, 2, 0], [1, 1, 1, 1], [2, 0, 0, 2]])

    def run(x, labels):
        if form == "mean":
            return sample(guided_mean(ancestral(schedule, steps=4), CLASSIFIER, labels), DENOISER, x, KEY)
        return sample(ddim(schedule, steps=4), FORMS[form](labels, scale=2.0), x, KEY)

    compiled = jax.jit(run)
    one_by_one = [compiled(*pair) for pair in zip(x, labels, strict=True)]
    np.testing.assert_allclose(jax.jit(jax.vmap(run))(x, labels), one_by_one, rtol=0, atol=2e-5)  # float32, four steps
    assert str(jax.make_jaxpr(run)(x[0], labels[0])).count("scan[") == 1
