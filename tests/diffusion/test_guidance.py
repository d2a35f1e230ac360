"""Mixtures of Gaussians have exact denoisers, with and without the class, and exact class posteriors at every noise level."""

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
    classifier_free,
    classifier_gradient,
    classifier_guided,
    ddim,
    dpm_solver_pp,
    euler,
    guided_mean,
    heun,
    linear_schedule,
    respace,
    sample,
    sample_trajectory,
    schedule_from_betas,
    to_x0,
    unipc,
    zero_terminal_snr,
)
from tests.references.chain import PREDICTIONS, Chain, column
from tests.references.denoisers import small_network
from tests.references.known_data import GaussianMixture

KEY = jax.random.key(5)
BETAS = np.linspace(0.002, 0.3, 12)
CHAIN = Chain(BETAS)
SCHEDULE64 = schedule_from_betas(BETAS, np.float64)
SIGNAL, NOISE = np.sqrt(CHAIN.alphas_bar), np.sqrt(CHAIN.noise_variance)
MIXTURE = GaussianMixture(
    np.array([0.5, 0.3, 0.2]),
    np.array([[-0.6, 0.3], [0.5, 0.4], [0.1, -0.7]]),
    np.array([[0.04, 0.1], [0.09, 0.02], [0.05, 0.05]]),
)
DENOISER, CLASSIFIER = MIXTURE.denoiser(CHAIN, "eps"), MIXTURE.classifier(CHAIN)

# Two classes of one covariance, the second of which hardly ever occurs (e⁻¹⁰⁰). So the data are N(FROM, SPREAD), log p(1 | x_t)
# is linear in x_t, and p(x_t) p(1 | x_t)^w is the x_t of N(FROM + w AWAY, SPREAD) for any w.
FROM, AWAY, SPREAD = np.array([-0.2, 0.4]), np.array([0.5, -0.3]), np.array([0.2, 0.5])
RARE = GaussianMixture(np.array([1.0, np.exp(-100)]), np.stack([FROM, FROM + AWAY]), np.stack([SPREAD, SPREAD]))


def steepness(chain, t):
    """[B, 2] ∇ log p(1 | x_t) of RARE: √ᾱ AWAY / (ᾱ SPREAD + 1-ᾱ)."""
    share = chain.alphas_bar[t][..., None]
    return np.sqrt(share) * AWAY / (share * SPREAD + chain.noise_variance[t][..., None])


QUICKLY = {"xla_backend_optimization_level": 0}  # compiling takes longer than running here


def in_float64(function, *arrays):
    with jax.enable_x64(True):
        return jax.tree.map(np.asarray, jax.jit(function, compiler_options=QUICKLY)(*arrays))


def in_float64_for_each(function, *calls):
    """The results of several calls, compiled once."""
    with jax.enable_x64(True):
        compiled = jax.jit(function, compiler_options=QUICKLY)
        return [np.asarray(compiled(*arrays)) for arrays in calls]


def batch(times=12, copies=6, seed=0):
    """[B, 2] states, [B] times, each of them `copies` times, and [B] classes."""
    rng = np.random.default_rng(seed)
    count = times * copies
    return 1.5 * rng.normal(size=(count, 2)), np.repeat(np.arange(times), copies), rng.integers(0, 3, count)


def assert_close(actual, expected):
    """Float64: twelve digits of the tables, of which the differences here lose two."""
    np.testing.assert_allclose(actual, expected, rtol=1e-10, atol=1e-10)


# --- The guided score, against Bayes' rule and closed forms ---


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


# --- The guided mean ---


def affine_step(chain, t):
    """The slope [2] of the mean of p(x_{t-1} | x_t) in x_t with RARE's denoiser."""
    when, share = np.array([t]), chain.alphas_bar[t]
    of_x0, of_xt = (chain.posterior(*map(np.array, pair), when)[0].item() for pair in ([[1.0], [0.0]], [[0.0], [1.0]]))
    return of_xt + of_x0 * np.sqrt(share) * SPREAD / (share * SPREAD + chain.noise_variance[t])


def moves(chain, variance, scale):
    """[T, 2] how far guidance has moved each state from the unguided one under the same noise: d ← slope d + s σ² ∇."""
    moved, states = np.zeros(2), []
    for t in reversed(range(chain.steps)):
        spread = chain.reverse_variance(np.array([t]), np.zeros(1), variance).item()
        moved = affine_step(chain, t) * moved + scale * spread * steepness(chain, t)
        states.append(moved)
    return np.stack(states)


def guided_and_not(sampler, chain, x, scale, at_steps):
    """The states of RARE's chain, guided to the second class by the mean, and at scale 0, under the same noise."""

    def run(x, scale):
        denoiser, classifier = RARE.denoiser(chain, sampler.prediction), RARE.classifier(chain)
        guided = guided_mean(sampler, classifier, np.ones(len(x), np.int32), scale=scale)
        return sample_trajectory(guided, denoiser, x, KEY, at_steps)[1]

    return in_float64_for_each(run, (x, scale), (x, 0.0))


@pytest.mark.parametrize(("variance", "prediction"), [("fixed_large", "eps"), ("fixed_small", "v"), ("fixed_large", "mean")])
def test_guided_mean_moves_every_state_of_the_ancestral_chain_as_the_recursion_says(variance, prediction):
    """μ + s σ² ∇: the first state by that alone, and what follows by it and by what came before, to the last step."""
    x, scale = batch(1, 10)[0], 2.5
    sampler = ancestral(SCHEDULE64, prediction=prediction, variance=variance, clip=None)
    guided, unguided = guided_and_not(sampler, CHAIN, x, scale, range(1, 13))
    expected = moves(CHAIN, variance, scale)
    assert_close(guided - unguided, np.broadcast_to(expected[:, None], guided.shape))
    assert np.abs(expected[-1] - affine_step(CHAIN, 0) * expected[-2]).max() > 1e-4  # there is a move at the last step too


def test_guided_mean_moves_the_samples_w_times_as_far_the_nearer_the_more_steps():
    counts, scale, errors = (10, 100), 2.5, []
    for steps in counts:
        schedule = linear_schedule(steps, dtype=np.float64)
        chain = Chain(np.asarray(schedule.betas))
        guided, unguided = guided_and_not(ancestral(schedule, clip=None), chain, batch(1, 4)[0], scale, [steps])
        assert_close((guided - unguided)[0], np.broadcast_to(moves(chain, "fixed_large", scale)[-1], (4, 2)))
        errors.append(np.abs((guided - unguided)[0, 0] - scale * AWAY).max())
    slope = np.polyfit(np.log(counts), np.log(errors), 1)[0]
    assert -1.3 < slope < -0.7  # of first order in the step; it was -1.0 to -.9
    assert errors[-1] < 0.05


def test_guided_mean_is_moved_by_the_variance_that_the_network_says():
    x, network = batch(1, 6)[0], small_network(jnp, 2, 4)
    sampler = ancestral(SCHEDULE64, variance="learned", clip=None)

    def stepped(x, scale):
        guided = guided_mean(sampler, RARE.classifier(CHAIN), np.ones(6, int), scale=scale)
        return sample_trajectory(guided, network, x, KEY, [1])[1][0]

    guided, unguided = in_float64_for_each(stepped, (x, 1.5), (x, 0.0))
    log_variance = small_network(np, 2, 4)(x, np.full(6, 11))[:, 2:]
    assert_close(guided - unguided, 1.5 * np.exp(log_variance) * steepness(CHAIN, np.full(6, 11)))


# --- Samples ---

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


# --- Classifier-free ---


def free(prediction="eps", **options):
    options = {"null_label": 3, "scale": 1.0} | options
    return lambda labels: classifier_free(MIXTURE.labelled_denoiser(CHAIN, prediction), jnp.asarray(labels), **options)


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


def test_learned_variance_is_not_moved_by_a_classifier():
    def denoiser(x, t):
        return jnp.concatenate([x, 10 * x], axis=-1)

    x, t, labels = batch(12, 1)
    guided = in_float64(classifier_guided(denoiser, CLASSIFIER, labels, SCHEDULE64), x, t)
    np.testing.assert_array_equal(guided[:, 2:], 10 * x)
    assert np.abs(guided[:, :2] - x).max() > 0.01


# --- Scale and label of each example, intervals, times ---

FORMS = {
    "classifier": lambda labels, **options: classifier_guided(DENOISER, CLASSIFIER, labels, SCHEDULE64, **options),
    "free": lambda labels, **options: free(**({"scale": 1.0} | options))(labels),
}


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


# --- With every sampler ---

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


def test_guided_score_needs_some_signal_at_the_end():
    with pytest.raises(InvalidInput, match="expected a schedule without zero terminal SNR"):
        classifier_guided(DENOISER, CLASSIFIER, np.zeros(6, int), zero_terminal_snr(SCHEDULE64), prediction="v")


def test_guided_mean_and_free_guidance_hold_where_nothing_is_left_at_the_end():
    schedule = zero_terminal_snr(SCHEDULE64)
    x, _, labels = batch(1, 6)
    x = jnp.asarray(x, jnp.float32)
    sampler = guided_mean(ancestral(schedule, prediction="v"), lambda x, t: x @ jnp.ones((2, 3)), labels)
    network = classifier_free(lambda x, t, labels: 0.1 * x * labels[:, None], jnp.asarray(labels), null_label=3, scale=2.0)
    chex.assert_tree_all_finite(sample(sampler, network, x, KEY))


# --- As JAX sees it ---


@pytest.mark.parametrize("form", [*FORMS, "mean"])
def test_guided_chain_is_one_scan_and_maps(form):
    schedule = schedule_from_betas(BETAS)
    x, labels = jax.random.normal(KEY, (3, 4, 2)), jnp.array([[0, 1, 2, 0], [1, 1, 1, 1], [2, 0, 0, 2]])

    def run(x, labels):
        if form == "mean":
            return sample(guided_mean(ancestral(schedule, steps=4), CLASSIFIER, labels), DENOISER, x, KEY)
        return sample(ddim(schedule, steps=4), FORMS[form](labels, scale=2.0), x, KEY)

    compiled = jax.jit(run, compiler_options=QUICKLY)
    one_by_one = [compiled(*pair) for pair in zip(x, labels, strict=True)]
    np.testing.assert_allclose(
        jax.jit(jax.vmap(run), compiler_options=QUICKLY)(x, labels), one_by_one, rtol=0, atol=2e-5
    )  # float32, four steps
    assert str(jax.make_jaxpr(run)(x[0], labels[0])).count("scan[") == 1
