"""What holds for every sampler, whatever its equations: its table, its spacings, its one loop, and what it refuses."""

import functools

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
    ddim,
    dpm_solver_pp,
    euler,
    heun,
    sample,
    sample_trajectory,
    schedule_from_betas,
    unipc,
    zero_terminal_snr,
)
from tests.compiling import equations
from tests.diffusion.long_chains import CHAINS, LINEAR, LINEAR32, MIXTURE, SCHEDULES
from tests.references.chain import Chain, signal_and_noise
from tests.references.denoisers import small_network

KEY = jax.random.key(11)
SHORT64 = schedule_from_betas(np.linspace(0.002, 0.3, 12), np.float64)
EVERY = {
    "ancestral": (ancestral, {"variance": "fixed_small"}),
    "ddim": (ddim, {}),
    "ddim, eta 1": (ddim, {"eta": 1.0}),
    "ddim, eps kept": (ddim, {"rederive_eps": False}),
    "euler": (euler, {}),
    "euler, churn": (euler, {"churn": 2.0}),
    "heun": (heun, {}),
    "heun, churn": (heun, {"churn": 2.0}),
    **{f"dpm_solver_pp, order {order}": (dpm_solver_pp, {"order": order}) for order in (1, 2, 3)},
    **{f"dpm_solver_pp, order {order}, noise": (dpm_solver_pp, {"order": order, "stochastic": True}) for order in (1, 2, 3)},
    **{f"unipc, order {order}": (unipc, {"order": order}) for order in (1, 2, 3)},
}
NOISY = {"ancestral", "ddim, eta 1", "euler, churn", "heun, churn"} | {f"dpm_solver_pp, order {n}, noise" for n in (1, 2, 3)}


def made(name, schedule=LINEAR32, steps=6, **options):
    make, own = EVERY[name]
    return make(schedule, steps=steps, **own, **options)


@pytest.mark.parametrize("name", EVERY)
def test_number_of_evaluations_is_that_of_the_steps_and_heuns_twice_less_one(name):
    for steps in (1, 2, 6, 50):
        sampler = made(name, steps=steps)
        told = sampler.timesteps
        assert sampler.evaluations == len(told) == len(sampler.of_x) == (2 * steps - 1 if "heun" in name else steps)
        assert told.min() >= 0
        assert told.max() <= 999
    assert made(name, SHORT64, None).evaluations == (23 if "heun" in name else 12)


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("schedule", SCHEDULES)
@given(data=st.data())
def test_every_line_of_a_table_keeps_the_share_of_the_signal_and_of_the_noise(name, schedule, data):
    """If the network knows x_0, so that x = √ᾱ x_0 + √(1-ᾱ) ε, the next state is that too at the level which it reaches.

    Whatever the order is, then: of_x √ᾱ + Σ of_x0 = √ᾱ', and of_x² (1-ᾱ) + deviation² = 1-ᾱ'.
    """
    times = sorted(data.draw(st.sets(st.integers(0, 999), min_size=1, max_size=12)))
    stops = np.array(times) * data.draw(st.sampled_from([1, 0.999]))  # whole, or real
    sampler = made(name, SCHEDULES[schedule], None, spacing=stops, prediction="v")
    signal, noise = (np.asarray(getattr(sampler.schedule, each)) for each in ("sqrt_alphas_bar", "sqrt_one_minus_alphas_bar"))
    signal, noise, deviation = signal[sampler.rows], noise[sampler.rows], sampler.deviations * sampler.noisy
    # float64, and in UniPC's system of equations a condition of 10^4 where one step is a hundred times the other
    np.testing.assert_allclose(sampler.of_x * signal + sampler.of_x0.sum(axis=1), np.sqrt(sampler.reached), rtol=0, atol=1e-9)
    np.testing.assert_allclose((sampler.of_x * noise) ** 2 + deviation**2, 1 - sampler.reached, rtol=0, atol=1e-9)
    assert sampler.reached[-1] == 1
    np.testing.assert_allclose(sampler.of_x[-1], 0, rtol=0, atol=1e-12)  # the last step is x̂_0 itself
    np.testing.assert_allclose(sampler.of_x0[-1], np.eye(1, sampler.of_x0.shape[1])[0], rtol=0, atol=1e-12)
    assert deviation[-1] == 0
    if "churn" not in name:  # which may find no higher level
        assert deviation.any() == (name in NOISY and len(times) > 1)


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("shape", [(3, 2), (2, 4, 4, 3)])
def test_output_with_a_learned_variance_fits_every_sampler_and_data_of_any_shape(name, shape):
    network = small_network(jnp, shape[-1], 2 * shape[-1])
    drawn = jax.eval_shape(lambda x: sample(made(name), network, x, KEY), jnp.zeros(shape))
    assert (drawn.shape, drawn.dtype) == (shape, jnp.float32)


@pytest.mark.parametrize(
    ("name", "shape"),
    [("ancestral", (3, 2)), ("unipc, order 3", (2, 4, 4, 3)), ("heun, churn", (3, 2))],
)
def test_samplers_are_compiled_mapped_and_differentiated(name, shape):
    sampler, wide = made(name, prediction="v"), small_network(jnp, shape[-1], 2 * shape[-1])
    x = np.random.default_rng(0).normal(size=shape).astype(np.float32)

    def draw(x, key):
        end = sample(sampler, wide, x, key)
        return end.sum(), end

    starts, keys = jnp.stack([x, x, -x]), jnp.stack([KEY, jax.random.key(1), KEY])
    slopes, mapped = jax.jit(jax.vmap(jax.grad(draw, has_aux=True)))(starts, keys)
    chex.assert_shape([slopes, mapped], (3, *shape))
    chex.assert_tree_all_finite((slopes, mapped))
    assert np.abs(slopes).max(axis=tuple(range(1, 1 + len(shape)))).min() > 1e-4
    # Alone, and with a network that says no variance, which is passed over.
    alone = sample(sampler, lambda xt, t: wide(xt, t)[..., : shape[-1]], x, KEY)
    np.testing.assert_allclose(mapped[0], alone, rtol=0, atol=1e-5)  # two compilations of six float32 steps
    assert (np.abs(mapped[0] - mapped[1]).max() > 1e-3) == (name in NOISY)
    assert np.abs(mapped[0] - mapped[2]).max() > 1e-3


@pytest.mark.parametrize("name", EVERY)
def test_every_sampler_is_one_scan_that_never_leaves_the_device(name):
    def primitives(steps, **options):
        sampler = made(name, steps=steps, **options)
        jaxpr = jax.make_jaxpr(lambda x, key: sample(sampler, lambda xt, t: 0.1 * xt, x, key))(jnp.ones((2, 3)), KEY)
        return [equation.primitive.name for equation in equations(jaxpr.jaxpr)]

    found = primitives(100)
    assert [each for each in found if each in ("scan", "while")] == ["scan"]
    assert not [each for each in found if "callback" in each or "infeed" in each or "outfeed" in each]
    assert ("random_bits" in found) == (name in NOISY)
    assert found == primitives(10)
    assert primitives(1, clip=None).count("scan") == 1


# Spacings, ends and errors


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize(
    ("spacing", "first", "last"),
    [
        ("linspace", 999, 0),
        ("leading", 950, 0),
        ("trailing", 999, 49),
        ("quad", 999, 0),
        ("karras", 999, 0),
        ("log_snr", 999, 0),
        ("10,10", 999, 0),
        ((5.5, 300.0, 900.25), 900.25, 5.5),
    ],
)
def test_every_sampler_takes_every_spacing_from_its_noisiest_time_down(name, spacing, first, last):
    steps = 20 if isinstance(spacing, str) else None
    sampler = made(name, LINEAR, steps, spacing=spacing)
    told = sampler.timesteps
    if "churn" in name:  # which starts each step a little higher, if that is known
        assert first <= told[0] <= min(first * 1.1, 999)
    else:
        assert told[0] == first
        assert np.all(np.diff(told) <= 0)
    assert told[-1] == pytest.approx(last, abs=15 if "churn" in name else 0)
    if "churn" not in name:
        level = CHAINS["linear"].levels_at(np.array([float(first)]), np)
        assert sampler.start == pytest.approx(float(signal_and_noise(level[0])[0] ** 2), rel=1e-10)
    assert np.all(np.diff(sampler.reached) >= (-1 if "churn" in name else 0))


TERMINAL = zero_terminal_snr(SHORT64)
WITHOUT_SIGNAL = ("ancestral", "ddim", "ddim, eta 1", "euler", "dpm_solver_pp, order 1", "dpm_solver_pp, order 2")
WITHOUT_SIGNAL += ("dpm_solver_pp, order 3", "unipc, order 2", "unipc, order 3")


@pytest.mark.parametrize("name", WITHOUT_SIGNAL)
@pytest.mark.parametrize("prediction", ["v", "x0"])
def test_chain_that_starts_without_any_signal_is_run(name, prediction):
    """The first state says nothing of x_0, so the first estimate is the mean of the data; all lines obey their law."""
    sampler = made(name, TERMINAL, None, spacing="linspace", prediction=prediction)
    denoiser = MIXTURE.denoiser(Chain(TERMINAL.betas), prediction)
    with jax.enable_x64(True):
        _, states = sample_trajectory(sampler, denoiser, jnp.ones((2, 2)), KEY, range(13))
    chex.assert_tree_all_finite(states)
    assert sampler.start == 0
    share = np.sqrt(TERMINAL.alphas_bar[-2])
    np.testing.assert_allclose(sampler.of_x0[0].sum(), share, rtol=0, atol=1e-12)
    if name in ("ddim", "euler"):
        expected = share * MIXTURE.mean + np.sqrt(1 - share**2)
        np.testing.assert_allclose(states[1], [expected, expected], rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", EVERY)
def test_zero_terminal_snr_is_refused_where_it_would_divide_by_zero(name):
    make = functools.partial(made, name, TERMINAL, None, spacing="linspace")
    if name in ("heun", "heun, churn"):
        with pytest.raises(InvalidInput, match=r"divides by √ᾱ_T, which is 0 here: expected another .*, such as ddim"):
            make(prediction="v")
    else:
        chex.assert_tree_all_finite([make(prediction="v").of_x, make(prediction="v").of_x0])
    with pytest.raises(InvalidInput, match="prediction 'eps' cannot say x_0 where ᾱ_T = 0"):
        make()
    for spacing in ("karras", "log_snr"):
        with pytest.raises(InvalidInput, match=f"spacing '{spacing}' where ᾱ_T = 0"):
            made(name, TERMINAL, spacing=spacing, prediction="v")


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (dpm_solver_pp, {"order": 4}, r"order=4: expected 1, 2 or 3"),
        (dpm_solver_pp, {"order": 0}, r"order=0: expected 1, 2 or 3"),
        (unipc, {"order": 4}, r"order=4: expected 1, 2 or 3"),
        (heun, {"churn": -1.0}, r"churn=-1\.0, churn_noise=1\.0: expected 0 or more"),
        (euler, {"churn_noise": -1.0}, r"churn=0\.0, churn_noise=-1\.0: expected 0 or more"),
        (ddim, {"eta": 1.5}, r"eta=1\.5: expected 0 \(deterministic\) to 1"),
        (ddim, {"eta": -0.5}, r"eta=-0\.5: expected 0"),
        (ancestral, {"variance": "fixed-small"}, r"unknown variance 'fixed-small'.*Did you mean 'fixed_small'\?"),
        (ancestral, {"variance": "learned_rnage"}, r"unknown variance 'learned_rnage'.*Did you mean 'learned_range'\?"),
        *(
            (make, {"spacing": "karas", "steps": 5}, r"unknown spacing 'karas'.*Did you mean 'karras'\?")
            for make in (heun, ddim)
        ),
        *((make, {"steps": 0}, r"expected (at least 1|1 to 1000)") for make in (heun, ddim)),
        *((make, {"steps": 1001, "spacing": "leading"}, r"expected 1 to 1000 steps") for make in (euler, unipc)),
        *((make, {"prediction": "noise"}, r"unknown prediction 'noise'") for make in (ddim, unipc)),
        *(
            (make, {"prediction": "mean", "spacing": "karras", "steps": 5}, r"prediction 'mean' is of a step")
            for make in (ddim, heun)
        ),
    ],
)
def test_samplers_that_cannot_be_are_refused(make, options, message):
    with pytest.raises(InvalidInput, match=message):
        make(LINEAR32, **options)
