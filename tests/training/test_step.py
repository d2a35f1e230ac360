"""The train step against optimisation worked by hand in float64, and its behaviour under jit, pmap and sharding."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jax_ddpm.errors import InvalidInput
from jax_ddpm.training.ema import ema_decay, update_ema
from jax_ddpm.training.sharding import check_batch, make_mesh, replicated, split_batch, to_devices
from jax_ddpm.training.state import create_state
from jax_ddpm.training.step import Losses, Prepared, Tally, make_train_step

BATCH = {"x": np.linspace(-1, 1, 24, dtype=np.float32).reshape(8, 3), "y": np.linspace(0, 2, 8, dtype=np.float32)}
PARAMS = {"w": jnp.array([0.5, -0.2, 0.1]), "b": jnp.float32(0.3)}


TIMES = jnp.arange(8)


def draw_noise(key, batch, history):
    return Prepared({**batch, "noise": jax.random.normal(key, batch["y"].shape)}, TIMES, jnp.ones(8))


def squared_error(params, batch, key):
    del key
    return Losses((batch["x"] @ params["w"] + params["b"] - batch["y"] - 0.1 * batch["noise"]) ** 2, {})


def new_state(optimizer, seed=0):
    # A copy, for a test may donate the state's buffers.
    return create_state(jax.tree.map(jnp.copy, PARAMS), optimizer, jax.random.key(seed))


def make_step(optimizer, **options):
    return make_train_step(draw_noise, squared_error, optimizer, **{"decay": 0.9, **options})


def reference_run(steps, rate, decay):
    """Plain gradient descent on the same noise, in float64, and the average of its parameters."""
    x, y = BATCH["x"].astype(np.float64), BATCH["y"].astype(np.float64)
    w, b = np.array([0.5, -0.2, 0.1]), 0.3
    ema_w, losses, norms = w.copy(), [], []
    for n in range(steps):
        draw_key, _ = jax.random.split(jax.random.fold_in(jax.random.key(0), n))
        noise = np.asarray(jax.random.normal(draw_key, (8,)), np.float64)
        error = x @ w + b - y - 0.1 * noise
        grad_w, grad_b = 2 * x.T @ error / 8, 2 * error.mean()
        losses.append((error**2).mean())
        norms.append(np.sqrt(grad_w @ grad_w + grad_b**2))
        w, b = w - rate * grad_w, b - rate * grad_b
        d = min(decay, (1 + n) / (10 + n))
        ema_w = d * ema_w + (1 - d) * w
    return w, b, ema_w, losses, norms


@pytest.mark.parametrize("accumulate", [1, 2, 4])
def test_five_steps_equal_gradient_descent_by_hand(accumulate):
    optimizer = optax.sgd(0.1)
    step = jax.jit(make_step(optimizer, accumulate=accumulate))
    state, rows = new_state(optimizer), []
    for _ in range(5):
        state, metrics = step(state, BATCH)
        rows.append(jax.device_get(metrics))
    w, b, ema_w, losses, norms = reference_run(5, 0.1, 0.9)
    # Sums of eight float32 products, five times over: a few units in the last place.
    np.testing.assert_allclose(state.params["w"], w, rtol=2e-6)
    np.testing.assert_allclose(state.params["b"], b, rtol=2e-6)
    np.testing.assert_allclose(state.ema_params["w"], ema_w, rtol=2e-6)
    np.testing.assert_allclose([row["loss"] for row in rows], losses, rtol=2e-6)
    np.testing.assert_allclose([row["grad_norm"] for row in rows], norms, rtol=2e-6)
    assert int(state.step) == 5


def test_a_gpu_chooses_and_the_others_have_a_branch():
    """Which waits for the host on a GPU; what comes of it is the same."""
    step, state = jax.jit(make_step(optax.sgd(0.1))), new_state(optax.sgd(0.1))
    lowered = {name: step.trace(state, BATCH).lower(lowering_platforms=(name,)).as_text() for name in ("cpu", "tpu", "cuda")}
    assert {name: "stablehlo.select" in text for name, text in lowered.items()} == {"cpu": False, "tpu": False, "cuda": True}


@pytest.fixture(params=["branch", "choice"])
def way(request, monkeypatch):
    """Of a CPU, and of a GPU."""
    if request.param == "choice":
        monkeypatch.setattr(jax.lax, "platform_dependent", lambda *given, default, **_: default(*given))


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("value", [np.nan, np.inf, 3e38], ids=str)
def test_a_step_whose_loss_or_gradient_is_no_number_is_skipped(value):
    """3e38 is a number, but its square is none."""
    optimizer = optax.adam(0.1)
    step = jax.jit(make_step(optimizer, remember=lambda history, t, losses: losses))
    start, _ = step(new_state(optimizer).replace(timestep_history=jnp.zeros(8)), BATCH)
    state, metrics = step(start, {**BATCH, "y": np.where(np.arange(8) == 5, np.float32(value), BATCH["y"])})
    assert metrics["skipped"]
    assert int(state.step) == 2
    chex.assert_trees_all_equal(*(each.replace(step=0, key=0) for each in (state, start)))
    state, metrics = step(state, BATCH)
    assert not metrics["skipped"]
    assert np.isfinite(state.params["w"]).all()
    assert not np.array_equal(state.params["w"], start.params["w"])


@pytest.mark.parametrize("share", [0.1, 0.9, 1.1])
def test_a_gradient_that_is_too_long_is_shortened_and_told_as_it_was(share):
    w, b, _, _, norms = reference_run(1, 0.1, 0.9)
    optimizer = optax.sgd(0.1)
    state, metrics = jax.jit(make_step(optimizer, clip_norm=share * norms[0]))(new_state(optimizer), BATCH)
    np.testing.assert_allclose(metrics["grad_norm"], norms[0], rtol=2e-6)
    start, kept = np.array([0.5, -0.2, 0.1]), min(share, 1.0)
    np.testing.assert_allclose(state.params["w"], start + kept * (w - start), rtol=2e-6)
    np.testing.assert_allclose(state.params["b"], 0.3 + kept * (b - 0.3), rtol=2e-6)
    if share > 1:
        unclipped, _ = jax.jit(make_step(optimizer))(new_state(optimizer), BATCH)
        chex.assert_trees_all_equal(state.params, unclipped.params)


def test_a_gradient_of_zero_can_be_clipped():
    step = make_train_step(
        draw_noise, lambda params, batch, key: Losses(0 * batch["y"], {}), optax.sgd(0.1), decay=0.9, clip_norm=1.0
    )
    state, metrics = jax.jit(step)(new_state(optax.sgd(0.1)), BATCH)
    assert not metrics["skipped"]
    chex.assert_trees_all_equal(state.params, PARAMS)


def test_a_gradient_without_end_is_skipped_where_the_loss_is_a_number():
    def root(params, batch, key):
        return Losses(jnp.sqrt(jnp.abs(params["b"] - 0.3) + 0 * batch["y"]), {})

    state, metrics = make_train_step(draw_noise, root, optax.sgd(0.1), decay=0.9)(new_state(optax.sgd(0.1)), BATCH)
    assert metrics["loss"] == 0
    assert metrics["skipped"]
    chex.assert_trees_all_equal(state.params, PARAMS)


@pytest.mark.parametrize("accumulate", [1, 2, 4])
def test_weights_count_in_the_gradient_and_the_history_sees_the_losses_without_them_in_the_order_of_the_batch(accumulate):
    weights = np.array([0.5, 2, 1, 0.25, 3, 1, 1, 0.125], np.float32)

    def prepare(key, batch, history):
        drawn = draw_noise(key, batch, history)
        return drawn._replace(t=drawn.t[::-1], weights=jnp.asarray(weights))

    def remember(history, t, losses):
        return {"calls": history["calls"] + 1, "t": t, "losses": losses}

    optimizer = optax.sgd(0.1)
    step = jax.jit(make_train_step(prepare, squared_error, optimizer, decay=0.9, accumulate=accumulate, remember=remember))
    start = new_state(optimizer).replace(timestep_history={"calls": 0, "t": jnp.zeros(8, int), "losses": jnp.zeros(8)})
    state, metrics = step(start, BATCH)
    noise = np.asarray(jax.random.normal(jax.random.split(jax.random.fold_in(jax.random.key(0), 0))[0], (8,)), np.float64)
    x, y = BATCH["x"].astype(np.float64), BATCH["y"].astype(np.float64)
    error = x @ [0.5, -0.2, 0.1] + 0.3 - y - 0.1 * noise
    np.testing.assert_allclose(metrics["loss"], np.mean(weights * error**2), rtol=2e-6)  # as above
    np.testing.assert_allclose(state.params["w"], [0.5, -0.2, 0.1] - 0.1 * 2 * x.T @ (weights * error) / 8, rtol=2e-6)
    np.testing.assert_allclose(state.timestep_history["losses"], error**2, rtol=1e-5)
    np.testing.assert_array_equal(state.timestep_history["t"], np.arange(8)[::-1])
    assert int(state.timestep_history["calls"]) == 1


@pytest.mark.parametrize("accumulate", [1, 2, 4])
def test_what_else_the_loss_finds_is_measured_in_the_order_of_the_batch_and_not_learned_from(accumulate):
    def with_sign(params, batch, key):
        losses = squared_error(params, batch, key)
        return losses._replace(further={"large": losses.values > 1, "y": params["b"] * batch["y"]})

    def measure(t, further):
        early = t < 3
        return {"early": Tally(jnp.sum(further["y"] * early), jnp.sum(early)), "large": Tally(further["large"].sum(), 8)}

    optimizer = optax.sgd(0.1)
    step = jax.jit(make_train_step(draw_noise, with_sign, optimizer, decay=0.9, accumulate=accumulate, measure=measure))
    state, metrics = step(new_state(optimizer), BATCH)
    plain, expected = jax.jit(make_step(optimizer, accumulate=accumulate))(new_state(optimizer), BATCH)
    chex.assert_trees_all_close((state.params, metrics["loss"]), (plain.params, expected["loss"]), rtol=1e-6)
    np.testing.assert_allclose(metrics["early"].total, 0.3 * BATCH["y"][:3].sum(dtype=float), rtol=1e-6)
    assert int(metrics["early"].examples) == 3
    noise = np.asarray(jax.random.normal(jax.random.split(jax.random.fold_in(jax.random.key(0), 0))[0], (8,)), np.float64)
    error = BATCH["x"].astype(np.float64) @ [0.5, -0.2, 0.1] + 0.3 - BATCH["y"] - 0.1 * noise
    assert int(metrics["large"].total) == (error**2 > 1).sum() > 0


def test_an_average_that_keeps_nothing_is_the_parameters():
    optimizer = optax.adam(1e-2)
    step, state = jax.jit(make_step(optimizer, decay=0.0)), new_state(optimizer)
    for _ in range(3):
        state, _ = step(state, BATCH)
        chex.assert_trees_all_equal(state.ema_params, state.params)
    assert np.abs(state.params["w"] - PARAMS["w"]).max() > 1e-3


class TrainStepVariants(chex.TestCase):
    @chex.variants(with_jit=True, without_jit=True)
    def test_shapes_types_and_values_do_not_depend_on_jit(self):
        optimizer = optax.adam(1e-2)
        state, metrics = self.variant(make_step(optimizer))(new_state(optimizer), BATCH)
        chex.assert_trees_all_equal_shapes_and_dtypes(state, new_state(optimizer))
        chex.assert_shape(list(metrics.values()), ())
        chex.assert_tree_all_finite((state.params, metrics))
        expected, _ = make_step(optimizer)(new_state(optimizer), BATCH)
        chex.assert_trees_all_close(state.params, expected.params, rtol=1e-6)


def test_the_step_runs_under_pmap():
    optimizer = optax.sgd(0.1)
    count = jax.device_count()
    states = jax.vmap(lambda seed: new_state(optimizer).replace(key=jax.random.key(seed)))(jnp.arange(count))
    batches = jax.tree.map(lambda x: np.stack([x] * count), BATCH)
    states, metrics = jax.pmap(make_step(optimizer))(states, batches)
    chex.assert_shape(metrics["loss"], (count,))
    assert len({float(loss) for loss in metrics["loss"]}) == count, "each device draws from its own key"
    alone, one = jax.jit(make_step(optimizer))(new_state(optimizer, seed=2), BATCH)
    np.testing.assert_allclose(metrics["loss"][2], one["loss"], rtol=1e-6)
    np.testing.assert_allclose(states.params["w"][2], alone.params["w"], rtol=1e-6)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_sharding_the_batch_changes_nothing_and_compiles_once(accumulate):
    optimizer = optax.adam(1e-2)
    mesh = make_mesh()
    whole, split = replicated(mesh), split_batch(mesh)
    chex.clear_trace_counter()
    counted = chex.assert_max_traces(make_step(optimizer, accumulate=accumulate), n=1)
    sharded = jax.jit(counted, in_shardings=(whole, split), out_shardings=(whole, whole), donate_argnums=0)
    plain = jax.jit(make_step(optimizer, accumulate=accumulate))
    ours, theirs = jax.device_put(new_state(optimizer), whole), new_state(optimizer)
    for _ in range(4):
        ours, metrics = sharded(ours, to_devices(BATCH, mesh))
        theirs, expected = plain(theirs, BATCH)
        np.testing.assert_allclose(metrics["loss"], expected["loss"], rtol=1e-6)
    # Adam divides by √v, which lets the round-off of a small gradient through: hence not tighter.
    chex.assert_trees_all_close(ours.params, theirs.params, rtol=1e-5)
    assert ours.params["w"].sharding.is_equivalent_to(whole, 1)


def test_randomness_depends_on_the_step_and_the_seed_alone():
    optimizer = optax.sgd(0.0)
    step = jax.jit(make_step(optimizer))
    first, a = step(new_state(optimizer), BATCH)
    _, again = step(new_state(optimizer), BATCH)
    _, next_one = step(first, BATCH)
    _, other_seed = step(new_state(optimizer, seed=1), BATCH)
    assert float(a["loss"]) == float(again["loss"])
    assert float(a["loss"]) != float(next_one["loss"])
    assert float(a["loss"]) != float(other_seed["loss"])


def test_parts_of_a_batch_have_their_own_key_for_the_loss():
    def random_loss(params, batch, key):
        return Losses(params["b"] * 0 + jax.random.normal(key, batch["y"].shape), {})

    optimizer = optax.sgd(0.0)
    step = jax.jit(make_train_step(draw_noise, random_loss, optimizer, decay=0.9, accumulate=4))
    _, metrics = step(new_state(optimizer), BATCH)
    keys = [jax.random.fold_in(jax.random.split(jax.random.fold_in(jax.random.key(0), 0))[1], part) for part in range(4)]
    np.testing.assert_allclose(metrics["loss"], np.mean([jax.random.normal(key, (2,)) for key in keys]), rtol=1e-5)


@pytest.mark.parametrize(("step", "expected"), [(0, 0.1), (10, 11 / 20), (89_990, 89_991 / 90_000), (10**6, 0.9999)])
def test_the_average_is_warmed_up(step, expected):
    np.testing.assert_allclose(ema_decay(jnp.int32(step), 0.9999, True), expected, rtol=1e-6)
    np.testing.assert_allclose(ema_decay(jnp.int32(step), 0.9999, False), 0.9999, rtol=1e-7)


def test_the_average_moves_by_one_minus_decay():
    moved = update_ema({"w": jnp.ones(3)}, {"w": jnp.zeros(3)}, jnp.float32(0.75))
    np.testing.assert_allclose(moved["w"], 0.75)


def test_a_state_begins_with_the_average_equal_to_the_parameters_in_buffers_of_its_own():
    state = new_state(optax.adam(1e-3))
    chex.assert_trees_all_equal(state.ema_params, state.params)
    assert state.ema_params["w"].unsafe_buffer_pointer() != state.params["w"].unsafe_buffer_pointer()
    assert state.step.dtype == jnp.int32


@pytest.mark.parametrize(("batch", "accumulate", "nearest"), [(127, 1, "128"), (130, 4, "128"), (1, 1, "4"), (0, 1, "4")])
def test_a_batch_that_does_not_divide_is_told_with_one_that_does(batch, accumulate, nearest):
    with pytest.raises(InvalidInput, match=rf"batch_size={batch} .*such as {nearest}$"):
        check_batch(batch, accumulate, devices=4)


def test_a_batch_that_divides_passes_and_is_laid_out_over_the_devices():
    check_batch(8, 2, devices=4)
    mesh = make_mesh()
    placed = to_devices(BATCH, mesh)
    assert placed["x"].sharding.is_equivalent_to(split_batch(mesh), 2)
    assert {shard.data.shape for shard in placed["x"].addressable_shards} == {(2, 3)}
    np.testing.assert_array_equal(placed["x"], BATCH["x"])
