"""What is drawn for a batch, a classifier's loss and how its answers are counted, the optimizer by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from configs import cifar, digits, digits_super_resolution
from jax_ddpm import experiment, linear_schedule, objective, respace
from jax_ddpm.diffusion.low_resolution import enlarged, shrunk
from jax_ddpm.errors import InvalidInput
from jax_ddpm.step_program import new_state
from tests.commands.conftest import make_tiny_config

MANY = 4000


def prepared(config, **model):
    config.data.class_names = tuple("0123456789")
    config.model.update(**model)
    rng = np.random.default_rng(0)
    batch = {"image": rng.normal(size=(MANY, 8, 8, 1)).astype(np.float32), "label": np.arange(MANY) % 10}
    return batch, jax.jit(objective.make_prepare(config))(jax.random.key(0), batch, ())


def test_a_share_of_the_labels_becomes_no_class_and_nothing_else_is_drawn_otherwise():
    batch, kept = prepared(digits.get_config(), label_dropout=0.0)
    np.testing.assert_array_equal(kept.batch["label"], batch["label"])
    _, dropped = prepared(digits.get_config(), label_dropout=0.25)
    gone = dropped.batch["label"] != batch["label"]
    assert set(np.asarray(dropped.batch["label"])[gone]) == {10}
    assert np.mean(gone) == pytest.approx(0.25, abs=5 * np.sqrt(0.25 * 0.75 / MANY))
    assert np.corrcoef(gone, dropped.t)[0, 1] == pytest.approx(0, abs=5 / np.sqrt(MANY))
    for name in ("t", "eps", "image"):
        np.testing.assert_array_equal(dropped.batch[name], kept.batch[name])


def test_a_network_that_is_told_no_class_has_none_dropped():
    config = digits.get_config()
    batch, drawn = prepared(config, class_conditional=False, label_dropout=0.25)
    np.testing.assert_array_equal(drawn.batch["label"], batch["label"])
    assert not experiment.make_network(config).null_label


def test_the_small_image_is_noised_by_a_number_of_steps_drawn_evenly_up_to_the_share_of_the_chain():
    config = digits_super_resolution.get_config()
    config.diffusion.steps = 40
    batch, drawn = prepared(config, low_res_noise=0.1)
    image, steps = (np.asarray(part) for part in drawn.batch["low_resolution"])
    # Each of 5 numbers of steps comes up in a fifth of the draws, which is off by √(.16/4000) = .0063.
    np.testing.assert_allclose(np.bincount(steps) / MANY, np.full(5, 0.2), atol=5 * 0.0063)
    as_it_is = enlarged(shrunk(batch["image"], 4), 8)
    np.testing.assert_allclose(image[steps == 0], as_it_is[steps == 0], rtol=0, atol=1e-6)
    alphas_bar = np.cumprod(1 - np.linspace(1e-4 * 25, 0.02 * 25, 40))
    for step in range(1, 5):
        # A corner of the large image is the corner of the small one, so that its noise is what was added to a single pixel.
        chosen, kept = steps == step, alphas_bar[step - 1]
        noise = (image[chosen, 0, 0, 0] - np.sqrt(kept) * as_it_is[chosen, 0, 0, 0]) / np.sqrt(1 - kept)
        assert noise.mean() == pytest.approx(0, abs=5 / np.sqrt(chosen.sum()))
        assert noise.var() == pytest.approx(1, abs=5 * np.sqrt(2 / chosen.sum()))
    together = np.corrcoef(image[:, 0, 0, 0] - as_it_is[:, 0, 0, 0], drawn.batch["eps"][:, 0, 0, 0])[0, 1]
    assert together == pytest.approx(0, abs=5 / np.sqrt(MANY)), "not the noise of the large image"


class Repeating:
    """A "network" that says what it is told of the augmentation first."""

    num_classes = 0

    def apply(self, variables, xt, t, labels, *, train, rngs, augmentation):
        return augmentation[:, :1, None, None] * jnp.ones_like(xt)


def test_the_network_is_told_of_the_augmentation_that_is_in_the_batch():
    schedule, told = linear_schedule(100), np.array([[0.0, 5.0], [2.0, 0.0]])
    batch = {"image": np.zeros((2, 4, 4, 1)), "eps": np.ones((2, 4, 4, 1)), "t": np.array([0, 50]), "augmentation": told}
    loss_fn = objective._denoising_loss(Repeating(), schedule, objective.make_loss(digits.get_config()))
    # The noise is 1 and the network says 0 and 2.
    found = loss_fn({}, {**batch, "label": np.zeros(2, int)}, jax.random.key(0)).values
    np.testing.assert_allclose(found, [1, 1], rtol=1e-6)
    shifted = {**batch, "augmentation": told + 1, "label": np.zeros(2, int)}
    np.testing.assert_allclose(loss_fn({}, shifted, jax.random.key(0)).values, [0, 4], atol=1e-6)


class Linear:
    """A "classifier" whose logits are a matrix times the image and the time; it notes what it was told."""

    def apply(self, variables, xt, t, *, train, rngs):
        assert train
        assert set(rngs) == {"dropout"}
        return xt.reshape(len(xt), -1) @ variables["params"] + 0.01 * t[:, None] * jnp.arange(3)


def test_a_classifier_s_loss_is_the_cross_entropy_on_noised_images_told_the_time_of_the_whole_chain():
    schedule, rng = respace(linear_schedule(100), "uniform20"), np.random.default_rng(0)
    weights = rng.normal(size=(4, 3))
    batch = {"image": rng.normal(size=(6, 2, 2, 1)), "eps": rng.normal(size=(6, 2, 2, 1))}
    batch |= {"t": np.array([0, 3, 9, 12, 19, 7]), "label": np.array([0, 1, 2, 2, 1, 0])}
    found = objective.classification_loss(Linear(), schedule)(weights, batch, jax.random.key(0))

    kept = np.cumprod(1 - np.linspace(1e-3, 0.2, 100))[np.asarray(schedule.timesteps)[batch["t"]]][:, None]
    flat = {name: batch[name].reshape(6, 4) for name in ("image", "eps")}
    logits = (np.sqrt(kept) * flat["image"] + np.sqrt(1 - kept) * flat["eps"]) @ weights
    logits = logits + 0.01 * np.asarray(schedule.timesteps)[batch["t"]][:, None] * np.arange(3)
    of_label = np.exp(logits[np.arange(6), batch["label"]]) / np.exp(logits).sum(axis=1)
    np.testing.assert_allclose(found.values, -np.log(of_label), rtol=1e-5, atol=1e-6)  # float32 sums of values below 10
    np.testing.assert_array_equal(found.further["correct"], logits.argmax(axis=1) == batch["label"])


def test_answers_are_counted_by_quarters_of_the_chain():
    t, correct = jnp.array([0, 2, 3, 4, 5, 9, 9, 1]), jnp.array([True, False, True, True, False, False, True, True])
    counted = objective.accuracy_by_quarter(10)(t, {"correct": correct})
    found = {name: (int(tally.total), int(tally.examples)) for name, tally in counted.items()}
    # Quarters of ten steps: 0–2, 3–4, 5–7, 8–9.
    expected = {"accuracy_q1": (2, 3), "accuracy_q2": (2, 2), "accuracy_q3": (0, 1), "accuracy_q4": (1, 2)}
    assert found == {"accuracy": (5, 8), **expected}


def optimizer_of(**train):
    config = cifar.get_config()
    config.train.update(**{"learning_rate": 0.1, "warmup_steps": 0, "adam_eps": 1e-8, "steps": 6, **train})
    return objective.make_optimizer(config)


def five_updates(optimizer, gradients, start):
    params, state = jnp.asarray(start), optimizer.init(jnp.asarray(start))
    for gradient in gradients:
        updates, state = optimizer.update(jnp.asarray(gradient), state, params)
        params = optax.apply_updates(params, updates)
    return np.asarray(params)


GRADIENTS = np.random.default_rng(1).normal(size=(5, 4)).astype(np.float32)
START = np.array([1.0, -2.0, 0.5, 3.0], np.float32)


def five_updates_by_hand(*, warmup=0, decay="constant", weight_decay=0.0, kept_as=np.float64):
    """In float64, but that the first moment is kept from step to step as another type."""
    params, first, second = START.astype(np.float64), np.zeros(4), np.zeros(4)
    for n, gradient in enumerate(GRADIENTS.astype(np.float64)):
        first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2
        direction = first / (1 - 0.9 ** (n + 1)) / (np.sqrt(second / (1 - 0.999 ** (n + 1))) + 1e-8)
        rate = 0.1 * (min(n / warmup, 1) if warmup else 1) * (1 - n / 6 if decay == "linear" else 1)
        params = params - rate * (direction + weight_decay * params)
        first = first.astype(kept_as).astype(np.float64)
    return params


# Adam divides by √v, from 1 - .999ⁿ: the float32 of that is off by 2^-24/.001 = 6e-5 of itself, half of it in the root.
ROUNDED_OFF = 5e-5


@pytest.mark.parametrize("warmup", [0, 2])
@pytest.mark.parametrize(("decay", "weight_decay"), [("constant", 0.0), ("constant", 0.3), ("linear", 0.3)])
def test_the_optimizer_is_adam_with_decoupled_weight_decay_by_hand(warmup, decay, weight_decay):
    expected = five_updates_by_hand(warmup=warmup, decay=decay, weight_decay=weight_decay)
    found = five_updates(optimizer_of(warmup_steps=warmup, decay=decay, weight_decay=weight_decay), GRADIENTS, START)
    np.testing.assert_allclose(found, expected, rtol=0, atol=ROUNDED_OFF)


def test_with_the_first_moment_in_bfloat16_it_is_adam_by_hand_that_rounds_it_after_each_step():
    found = five_updates(optimizer_of(adam_mu_dtype="bfloat16"), GRADIENTS, START)
    np.testing.assert_allclose(found, five_updates_by_hand(kept_as=jnp.bfloat16), rtol=0, atol=ROUNDED_OFF)
    assert np.abs(found - five_updates_by_hand()).max() > 3 * ROUNDED_OFF, "which is something else"


def moments_after(gradients, start):
    """Adam's state with its first moment in bfloat16 after all of these gradients, and its first moment after each."""
    optimizer = optimizer_of(adam_mu_dtype="bfloat16")

    def update(state, gradient):
        _, state = optimizer.update(gradient, state, start)
        return state, state[1][0].mu

    state, firsts = jax.jit(lambda: jax.lax.scan(update, optimizer.init(start), jnp.asarray(gradients)))()
    return state[1][0], firsts


def test_a_first_moment_in_bfloat16_is_the_mean_of_the_gradients_and_not_less():
    gradients = 1 + np.random.default_rng(2).normal(size=(600, 128)).astype(np.float32)
    _, firsts = moments_after(gradients, jnp.zeros(128))
    assert firsts.dtype == jnp.bfloat16
    expected, sums = np.zeros(128), []
    for gradient in gradients.astype(np.float64):
        expected = 0.9 * expected + 0.1 * gradient
        sums.append(expected)
    # What is rounded off, 2^-9 of each, goes up and down, and is hardly correlated. .9 in bfloat16 would take 1.5 % off.
    assert np.mean(np.asarray(firsts, np.float64)[100:]) == pytest.approx(np.mean(sums[100:]), rel=1e-3)


def test_the_second_moment_stays_float32_for_in_bfloat16_it_would_never_fall():
    gradients = np.concatenate([np.ones((1, 4)), np.zeros((1000, 4))]).astype(np.float32)
    state, _ = moments_after(gradients, jnp.zeros(4))
    assert state.nu.dtype == jnp.float32
    np.testing.assert_allclose(state.nu, 0.001 * 0.999**1000, rtol=1e-4)  # a thousand products, each off by 6e-8
    kept = jnp.bfloat16(0.001)
    assert jnp.bfloat16(0.999 * float(kept)) == kept, "a change of less than 2^-9 is lost"


def test_without_weight_decay_it_is_adam_bit_for_bit():
    np.testing.assert_array_equal(
        five_updates(optimizer_of(), GRADIENTS, START), five_updates(optax.adam(0.1), GRADIENTS, START)
    )


def test_the_learning_rate_ends_at_zero():
    optimizer = optimizer_of(decay="linear")
    sevenfold = np.tile(GRADIENTS[:1], (8, 1))
    np.testing.assert_array_equal(five_updates(optimizer, sevenfold[:6], START), five_updates(optimizer, sevenfold, START))


def test_its_state_has_one_form_so_that_a_run_may_go_on_with_other_settings():
    forms = [
        jax.tree.structure(optimizer_of(**settings).init(START))
        for settings in ({}, {"warmup_steps": 3}, {"weight_decay": 0.1}, {"decay": "linear"})
    ]
    # Checkpoints have this form too that were written when the optimizer clipped.
    clipped = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(optax.constant_schedule(0.1)))
    assert set(forms) == {jax.tree.structure(clipped.init(START))}


@pytest.mark.parametrize("clip_norm", [0.0, 1e-3])
def test_the_moments_are_of_the_clipped_gradient(clip_norm):
    config = make_tiny_config(clip_norm=clip_norm)
    config.data.class_names = tuple("0123456789")
    batch = {"image": np.random.default_rng(0).uniform(-1, 1, (8, 8, 8, 1)).astype(np.float32), "label": np.arange(8)}
    state, metrics = jax.jit(objective.make_step(config))(new_state(config), batch)
    assert metrics["grad_norm"] > 0.01
    kept = clip_norm or float(metrics["grad_norm"])
    # A sum of some thousand squares in float32.
    assert optax.tree.norm(state.opt_state[1][0].mu) == pytest.approx(0.1 * kept, rel=1e-5)


def test_an_unknown_decay_is_told_with_the_known_ones():
    with pytest.raises(InvalidInput, match=r"unknown train.decay 'lineer': expected one of constant, linear"):
        optimizer_of(decay="lineer")
