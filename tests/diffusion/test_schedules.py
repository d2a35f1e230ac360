import itertools
import math
from decimal import Decimal, localcontext

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import parameterized
from hypothesis import example, given
from hypothesis import strategies as st

import jax_ddpm
from jax_ddpm import InvalidInput, linear_schedule, respace, schedule_from_betas
from jax_ddpm.diffusion.schedules import MARGINALS, NoiseSchedule, at, at_level, at_times

NAMES = ("linear", "quadratic", "sigmoid", "constant", "jsd", "cosine")
RANGED = ("linear", "quadratic", "sigmoid")
FIELDS = tuple(NoiseSchedule.__dataclass_fields__)


def make(name: str, *args, **kwargs) -> NoiseSchedule:
    return getattr(jax_ddpm, f"{name}_schedule")(*args, **kwargs)


def reference_betas(name: str, steps: int) -> list[float]:
    """The definitions, one Python float at a time, at most .999."""
    low, high, places = 1e-4 * 1000 / steps, 2e-2 * 1000 / steps, [i / (steps - 1) for i in range(steps)]
    angles = [(i / steps + 0.008) / 1.008 * math.pi / 2 for i in range(steps + 1)]
    return [
        min(beta, 0.999)
        for beta in {
            "linear": [low + (high - low) * u for u in places],
            "quadratic": [(math.sqrt(low) + (math.sqrt(high) - math.sqrt(low)) * u) ** 2 for u in places],
            "sigmoid": [low + (high - low) / (1 + math.exp(6 - 12 * u)) for u in places],
            "constant": [high for _ in places],
            "jsd": [1 / (steps - i) for i in range(steps)],
            # 1 - cos²b/cos²a = sin(b-a) sin(b+a) / cos²a, which loses no digits where a and b are close
            "cosine": [math.sin(b - a) * math.sin(b + a) / math.cos(a) ** 2 for a, b in itertools.pairwise(angles)],
        }[name]
    ]


def exact_tables(betas) -> dict[str, list[float]]:
    """Every table from the betas with 40 decimal digits; the posterior from the precisions that Bayes' rule adds up."""
    tables = {name: [] for name in FIELDS}
    with localcontext() as context:
        context.prec = 40
        bar = Decimal(1)
        for beta in (Decimal(float(b)) for b in betas):
            previous, alpha = bar, 1 - beta
            bar = bar * alpha
            noise, noise_before = 1 - bar, 1 - previous
            precision = alpha / beta + 1 / noise_before if noise_before else None  # None: x_0 itself is known exactly
            variance = 1 / precision if precision else Decimal(0)
            row = {
                "timesteps": Decimal(len(tables["betas"])),
                "betas": beta,
                "alphas": alpha,
                "alphas_bar": bar,
                "sqrt_alphas_bar": bar.sqrt(),
                "sqrt_one_minus_alphas_bar": noise.sqrt(),
                "log_one_minus_alphas_bar": noise.ln(),
                "sqrt_recip_alphas_bar": 1 / bar.sqrt(),
                "sqrt_recip_alphas_bar_minus_one": (1 / bar - 1).sqrt(),
                "posterior_mean_x0": variance * previous.sqrt() / noise_before if precision else Decimal(1),
                "posterior_mean_xt": variance * alpha.sqrt() / beta,
                "posterior_variance": variance,
                "posterior_log_variance": variance.ln() if precision else None,
                "upper_log_variance": beta.ln() if precision else None,
            }
            for name, value in row.items():
                tables[name].append(value)
        for part in ("mean_x0", "mean_xt"):
            tables[f"predicted_{part}"] = tables[f"posterior_{part}"]
        for name in ("posterior_log_variance", "upper_log_variance"):
            tables[name][0] = tables["posterior_log_variance"][1]  # log 0 is replaced by the value of t = 1
        return {name: [float(value) for value in values] for name, values in tables.items()}


@pytest.mark.parametrize("steps", [30, 1000])
@pytest.mark.parametrize("name", NAMES)
def test_betas_follow_their_definition(name, steps):
    # float64: ᾱ_t/ᾱ_{t-1} of the cosine is near one, so that 1 - ratio keeps 16 - 5 digits.
    np.testing.assert_allclose(make(name, steps, dtype=np.float64).betas, reference_betas(name, steps), rtol=1e-10)


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("name", ["linear", "cosine"])
def test_every_table_follows_from_the_betas(name, field):
    double, single = make(name, 1000, dtype=np.float64), make(name, 1000)
    exact = exact_tables(double.betas)[field]
    # A thousand logarithms are added up, each sum, of up to 20, rounded to 2^-53 of itself: 1e-12 if all err alike.
    np.testing.assert_allclose(getattr(double, field), exact, rtol=1e-12, atol=1e-12 if "log" in field else 0)
    # Rounded once to float32: half a unit in the last place, 2^-24 = 5.96e-8 of the value.
    np.testing.assert_allclose(getattr(single, field), exact, rtol=6e-8)


def test_linear_1000_has_the_known_constants():
    schedule = linear_schedule(1000)
    np.testing.assert_allclose(schedule.alphas_bar[0], 0.9999, rtol=1e-6)
    # Printed to six and to five digits: the values agree to half a unit of the last digit printed,
    assert schedule.alphas_bar[499] == pytest.approx(0.0785872, abs=5e-8)
    assert schedule.alphas_bar[999] == pytest.approx(4.0358e-5, abs=5e-10)
    assert math.exp(schedule.posterior_log_variance[0]) == pytest.approx(5.4532e-5, abs=5e-10)
    # and with the product of exact rationals to float32 round-off, well under 1e-6 of the value.
    with localcontext() as context:
        context.prec = 40
        alphas = [1 - (Decimal("1e-4") + Decimal("0.0199") * i / 999) for i in range(1000)]
        first, second = 1 - alphas[0], 1 - alphas[1]
        for t in (0, 499, 999):
            assert schedule.alphas_bar[t] == pytest.approx(float(math.prod(alphas[: t + 1])), rel=1e-7)
        posterior = second * first / (1 - alphas[0] * alphas[1])
        assert schedule.posterior_log_variance[0] == pytest.approx(float(posterior.ln()), rel=1e-7)


def test_cosine_1000_has_the_known_constants():
    schedule = make("cosine", 1000)
    # Printed to six, seven and five digits: half a unit of the last one.
    assert schedule.betas[0] == pytest.approx(4.12842e-5, abs=5e-11)
    assert schedule.alphas_bar[499] == pytest.approx(0.4938436, abs=5e-8)
    assert schedule.alphas_bar[999] == pytest.approx(2.4288e-9, abs=5e-14)
    # The product of the ratios telescopes up to the step that is clipped.
    signal = [
        math.cos((i / 1000 + 0.008) / 1.008 * math.pi / 2) ** 2 / math.cos(0.008 / 1.008 * math.pi / 2) ** 2
        for i in range(1000)
    ]
    assert schedule.alphas_bar[499] == pytest.approx(signal[500], rel=1e-6)
    assert schedule.alphas_bar[999] == pytest.approx(signal[999] * 0.001, rel=1e-6)
    assert schedule.betas[0] == pytest.approx(reference_betas("cosine", 1000)[0], rel=1e-6)
    assert np.flatnonzero(schedule.betas == np.float32(0.999)).tolist() == [999]
    assert schedule.betas[998] < 0.999


@pytest.mark.parametrize("steps", [1, 2, 10, 1000])
@pytest.mark.parametrize("name", NAMES)
def test_tables_are_computed_in_float64_and_stored_in_float32(name, steps):
    single, double = make(name, steps), make(name, steps, dtype=np.float64)
    for schedule, dtype in ((single, np.float32), (double, np.float64)):
        chex.assert_type([getattr(schedule, field) for field in FIELDS if field != "timesteps"], dtype)
        chex.assert_type(schedule.timesteps, np.int32)
        chex.assert_shape(jax.tree.leaves(schedule), (steps,))
        np.testing.assert_array_equal(schedule.timesteps, range(steps))
    chex.assert_trees_all_equal(single, jax.tree.map(lambda table, as_stored: table.astype(as_stored.dtype), double, single))


@pytest.mark.parametrize("beta", [1e-3, 1e-8, 1e-16, 1e-20, 1e-30])
def test_betas_as_small_as_they_come_keep_their_digits(beta):
    betas = [beta, 2 * beta, 5 * beta]
    with localcontext() as context:
        context.prec = 80
        alphas = [1 - Decimal(b) for b in betas]
        noise = [float(1 - math.prod(alphas[: t + 1])) for t in range(3)]
    for dtype, digits in ((np.float32, 1.2e-7), (np.float64, 1e-15)):  # two units of the last place
        schedule = schedule_from_betas(betas, dtype)
        chex.assert_tree_all_finite(schedule)
        np.testing.assert_allclose(schedule.sqrt_one_minus_alphas_bar, np.sqrt(noise), rtol=digits)
        np.testing.assert_allclose(schedule.log_one_minus_alphas_bar, np.log(noise), rtol=digits)
        np.testing.assert_allclose(schedule.sqrt_recip_alphas_bar_minus_one**2, noise / (1 - np.array(noise)), rtol=4 * digits)
        posterior = [0, 2 * beta * noise[0] / noise[1], 5 * beta * noise[1] / noise[2]]
        np.testing.assert_allclose(schedule.posterior_variance, posterior, rtol=digits)
        np.testing.assert_allclose(
            np.exp(schedule.posterior_log_variance[1:].astype(np.float64)), posterior[1:], rtol=60 * digits
        )
        np.testing.assert_allclose(
            schedule.posterior_mean_x0, betas / np.array(noise) * np.sqrt(1 - np.append(0, noise[:-1])), rtol=digits
        )


def test_last_beta_may_be_one_and_then_nothing_of_x0_is_left():
    schedule = schedule_from_betas([0.1, 0.5, 1.0], np.float64)
    assert schedule.alphas_bar[-1] == schedule.alphas[-1] == schedule.sqrt_alphas_bar[-1] == 0
    assert schedule.sqrt_one_minus_alphas_bar[-1] == 1
    assert schedule.log_one_minus_alphas_bar[-1] == 0
    # x_T says nothing of x_{T-1}: the posterior of the last step is the prior, N(√ᾱ_{T-1} x_0, 1-ᾱ_{T-1}).
    assert schedule.posterior_mean_xt[-1] == 0
    np.testing.assert_allclose(schedule.posterior_mean_x0[-1], schedule.sqrt_alphas_bar[-2], rtol=1e-15)
    np.testing.assert_allclose(schedule.posterior_variance[-1], 1 - schedule.alphas_bar[-2], rtol=1e-15)


@pytest.mark.parametrize("name", NAMES)
@given(steps=st.integers(1, 5000))
@example(steps=1)
@example(steps=20)
@example(steps=5000)
def test_every_number_of_steps_gives_a_valid_schedule(name, steps):
    single, double = make(name, steps), make(name, steps, dtype=np.float64)
    assert single.steps == steps
    assert np.all((single.betas > 0) & (single.betas < 1))
    assert np.all(np.diff(double.alphas_bar, prepend=1.0) < 0)
    assert np.all(double.alphas_bar > 0)
    chex.assert_tree_all_finite((single, double))


@given(steps=st.integers(200, 5000))
def test_linear_schedule_ends_with_the_same_signal_for_any_number_of_steps(steps):
    # log ᾱ_T = -Σβ - Σβ²/2 - …: the first sum is 10.05 whatever T is, and from 200 steps on the rest is below 80/T.
    log_signal = np.log(linear_schedule(steps, dtype=np.float64).alphas_bar[-1])
    assert -10.05 - 80 / steps < log_signal < -10.05


def test_chain_of_one_step_takes_beta_for_the_variance_that_it_lacks():
    schedule = schedule_from_betas([0.25], np.float64)
    assert schedule.posterior_variance[0] == 0
    assert schedule.posterior_log_variance[0] == schedule.upper_log_variance[0] == math.log(0.25)


def test_betas_outside_the_open_unit_interval_are_refused():
    for bad in ([0.0, 0.5], [1.0, 0.5], [0.5, 1.0, 1.0], [-0.1], [0.5, 1.5], [0.5, math.nan], [0.5, math.inf]):
        with pytest.raises(InvalidInput, match=r"betas lie in \[.*, .*\]: each must lie between 0 and 1, both excluded"):
            schedule_from_betas(bad)
    with pytest.raises(InvalidInput, match=r"betas lie in \[-0\.1, 1\.5\]"):
        schedule_from_betas([-0.1, 0.5, 1.5])


@pytest.mark.parametrize("dtype", [np.float16, jnp.bfloat16, np.int32, np.complex64, bool])
def test_tables_of_a_type_with_too_few_digits_are_refused(dtype):
    for build in (
        lambda: schedule_from_betas([0.1], dtype),
        *(lambda name=name: make(name, 10, dtype=dtype) for name in NAMES),
    ):
        with pytest.raises(InvalidInput, match=rf"dtype={np.dtype(dtype)}.*float32 or float64"):
            build()


@pytest.mark.parametrize("dtype", ["float32", np.dtype("float64"), float])
def test_tables_of_a_type_by_any_of_its_names(dtype):
    assert linear_schedule(3, dtype=dtype).betas.dtype == np.dtype(dtype)


@pytest.mark.parametrize(("betas", "shape"), [([], r"\(0,\)"), (0.5, r"\(\)"), ([[0.1, 0.2]], r"\(1, 2\)")])
def test_betas_that_are_no_vector_are_refused(betas, shape):
    with pytest.raises(InvalidInput, match=rf"betas has shape {shape}: expected \[T\] with T ≥ 1"):
        schedule_from_betas(betas)


@pytest.mark.parametrize("steps", [0, -3, 10.5, 10.0, "10", None, math.nan])
@pytest.mark.parametrize("name", NAMES)
def test_chain_without_a_whole_number_of_steps_is_refused(name, steps):
    with pytest.raises(InvalidInput, match=rf"steps={steps}: .*a chain has at least one step"):
        make(name, steps)


@pytest.mark.parametrize("name", NAMES)
def test_number_of_steps_may_be_any_kind_of_whole_number(name):
    chex.assert_trees_all_equal(make(name, np.int64(7)), make(name, 7))


@pytest.mark.parametrize("offset", [-0.008, -1.0, math.nan, math.inf])
def test_offset_of_the_cosine_out_of_range_is_refused(offset):
    with pytest.raises(InvalidInput, match=rf"offset={offset}"):
        make("cosine", 10, offset)


def test_cosine_without_offset_starts_with_less_noise():
    without = make("cosine", 1000, 0.0)
    assert without.betas[0] < 3e-6 < make("cosine", 1000).betas[0]  # 1 - cos²(π/2000) = 2.47e-6
    chex.assert_tree_all_finite(without)


@pytest.mark.parametrize(("start", "end"), [(0.0, 0.02), (-0.1, 0.02), (0.02, 0.01), (0.01, 1.0), (math.nan, 0.02)])
@pytest.mark.parametrize("name", RANGED)
def test_range_of_betas_out_of_order_is_refused(name, start, end):
    message = rf"beta_start={start}, beta_end={end}: expected 0 < beta_start ≤ beta_end < 1"
    with pytest.raises(InvalidInput, match=message):
        make(name, 10, start, end)


@pytest.mark.parametrize("beta", [0.0, 1.0])
def test_constant_beta_outside_the_open_unit_interval_is_refused(beta):
    with pytest.raises(InvalidInput, match="expected 0 < beta_start ≤ beta_end < 1"):
        make("constant", 10, beta)


class SchedulesUnderTransforms(chex.TestCase):
    @chex.variants(with_jit=True, without_jit=True)
    @parameterized.parameters(*NAMES)
    def test_schedule_built_inside_a_transformed_function_is_the_same(self, name):
        built = self.variant(lambda: make(name, 12))()
        chex.assert_trees_all_equal(built, make(name, 12))
        chex.assert_type(jax.tree.leaves(built), [a.dtype for a in jax.tree.leaves(make(name, 12))])

    @chex.all_variants
    def test_schedule_is_an_argument_like_any_array(self):
        schedule = linear_schedule(12)
        doubled = self.variant(lambda s: jax.tree.map(lambda table: 2 * table, s))(schedule)
        assert isinstance(doubled, NoiseSchedule)
        assert doubled.steps == 12
        chex.assert_trees_all_equal(doubled, jax.tree.map(lambda table: 2 * table, schedule))

    @chex.all_variants
    @parameterized.parameters(((3,), (3,)), ((3, 5), (3, 1)), ((3, 4, 4, 2), (3, 1, 1, 1)))
    def test_at_gathers_and_adds_axes(self, shape, expected):
        t = jnp.array([4, 0, 4])
        values = self.variant(at)(jnp.arange(5.0), t, jnp.zeros(shape))
        chex.assert_shape(values, expected)
        chex.assert_type(values, jnp.float32)
        np.testing.assert_array_equal(values.ravel(), [4, 0, 4])


def test_schedules_stack_and_map_over_the_stack():
    schedules = [linear_schedule(8), make("cosine", 8)]
    stack = jax.tree.map(lambda *tables: jnp.stack(tables), *schedules)
    picked = jax.vmap(lambda s, t: at(s.alphas_bar, t, t), in_axes=(0, None))(stack, jnp.array([0, 7]))
    np.testing.assert_array_equal(picked, [s.alphas_bar[[0, 7]] for s in schedules])


def marginals_at(level) -> dict[str, np.ndarray]:
    """The marginals from log σ, by e^2ℓ = (1-ᾱ)/ᾱ."""
    odds = np.exp(2 * np.asarray(level, np.float64))
    share = 1 / (1 + odds)
    return {
        "alphas_bar": share,
        "sqrt_alphas_bar": np.sqrt(share),
        "sqrt_one_minus_alphas_bar": np.sqrt(odds * share),
        "log_one_minus_alphas_bar": -np.log1p(1 / odds),
        "sqrt_recip_alphas_bar": np.sqrt(1 + odds),
        "sqrt_recip_alphas_bar_minus_one": np.sqrt(odds),
    }


def test_marginals_at_a_level_follow_from_it():
    level = np.array([-4.5, -1.0, 0.0, 0.3, 5.0])
    with jax.enable_x64(True):
        rows = at_level(linear_schedule(10, dtype=np.float64), jnp.asarray(level))
    for name, expected in marginals_at(level).items():
        np.testing.assert_allclose(getattr(rows, name), expected, rtol=1e-13)  # a few roundings of 2^-53
    assert set(marginals_at(level)) == set(MARGINALS)


def test_whole_times_are_rows_of_every_table_bit_for_bit():
    schedule, times = linear_schedule(20), np.array([19, 0, 7, 7])
    rows = at_times(schedule, jnp.asarray(times))
    for name in FIELDS:
        np.testing.assert_array_equal(getattr(rows, name), getattr(schedule, name)[times])


def test_whole_times_of_a_shortened_chain_are_those_that_the_network_is_told():
    short = respace(linear_schedule(20), [3, 7, 19])
    rows = at_times(short, jnp.array([19, 3]))
    for name in FIELDS:
        np.testing.assert_array_equal(getattr(rows, name), getattr(short, name)[[2, 0]])


def test_real_times_lie_between_in_log_sigma():
    schedule = schedule_from_betas(np.linspace(0.01, 0.2, 20), np.float64)
    levels = np.log(np.asarray(schedule.sqrt_one_minus_alphas_bar) / np.asarray(schedule.sqrt_alphas_bar))
    times = np.array([0.0, 19.0, 6.0, 6.25, 18.9])
    with jax.enable_x64(True):
        rows = jax.jit(at_times)(schedule, times)
        between = respace(schedule, np.sort(times))
    expected = marginals_at(
        [levels[0], levels[19], levels[6], 0.75 * levels[6] + 0.25 * levels[7], 0.1 * levels[18] + 0.9 * levels[19]]
    )
    np.testing.assert_array_equal(rows.timesteps, times)
    for name, values in expected.items():
        np.testing.assert_allclose(getattr(rows, name), values, rtol=1e-11)  # of the tables' twelve digits
        np.testing.assert_allclose(np.sort(getattr(rows, name)), np.sort(getattr(between, name)), rtol=1e-11)


def test_levels_at_times_are_found_without_a_loop():
    """For they are looked up at every step of a guided chain, which is one loop."""
    for times in (jnp.arange(3), jnp.linspace(0.0, 5.0, 3)):
        lookup = str(jax.make_jaxpr(lambda times: at_times(linear_schedule(20), times))(times))
        assert "scan[" not in lookup
        assert "while[" not in lookup
