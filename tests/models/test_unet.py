"""The whole network: against NumPy float64, its start, its gradients, its rows, dropout and half precision."""

from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests.compiling import equations
from tests.models.numbers import BF16, F32
from tests.models.unets import (
    AUGMENTED,
    BILINEAR,
    ENLARGING,
    GUIDED,
    LABELLED,
    LINKED,
    OPENAI,
    PLAIN,
    SCALED,
    inputs,
    parameters,
    run,
    shapes,
    small_image,
    told,
)
from tests.references.networks import unet


def assert_agrees_with_the_reference(net, apply):
    params, arrays, small = parameters(net), inputs(net), small_image(net) | told(net)
    actual = apply(params, *arrays, **small)
    exact = jax.tree.map(lambda a: np.asarray(a, np.float64), (params, arrays[0]))
    expected = unet(net, *exact, *arrays[1:], **small)
    chex.assert_type(actual, F32)
    chex.assert_shape([actual, expected], (3, 8, 4, net.out_channels))
    # Some 60 float32 sums in a row, each 2^-24 of a value below 8 off: as a walk √60·6e-8·8 = 4e-6; measured: 3e-6.
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1.5e-5)


@pytest.mark.parametrize(
    "net",
    [PLAIN, SCALED, ENLARGING, GUIDED, AUGMENTED, OPENAI, LINKED, BILINEAR],
    ids=[
        *("plain", "scale and shift", "resampled in blocks, enlarging", "no class", "augmented", "as OpenAI's"),
        *("skips added, pooled, transposed", "bilinear, enlarging and not told of noise"),
    ],
)
def test_float32_agrees_with_the_float64_reference(net):
    assert_agrees_with_the_reference(net, partial(run, net))


class WithLabels(chex.TestCase):
    @chex.variants(with_jit=True, without_jit=True, with_pmap=True)
    def test_float32_agrees_with_the_float64_reference(self):
        apply = self.variant(lambda params, *arrays: LABELLED.apply({"params": params}, *arrays))
        assert_agrees_with_the_reference(LABELLED, apply)


def test_initial_parameters_are_as_in_the_public_code_and_the_output_starts_near_zero():
    init = jax.jit(LABELLED.clone(channels=32).init_with_output)
    out, variables = init(jax.random.key(0, impl="rbg"), *inputs(LABELLED))
    # 288 products of values near 1 with weights below 1e-6.
    assert 0 < np.abs(out).max() < 1e-4
    for path, leaf in jax.tree_util.tree_leaves_with_path(variables["params"]):
        name, kind = path[-2].key, path[-1].key
        values = np.asarray(leaf, np.float64)
        if kind == "kernel":
            scale = 1e-10 if name in ("conv2", "conv_out", "out") else 1.0
            limit = np.sqrt(3 * scale / (np.prod(leaf.shape[:-2]) * (leaf.shape[-2] + leaf.shape[-1]) / 2))
            # Of 576 uniform draws or more the widest is this near the limit but for one time in six thousand.
            assert 0.985 * limit < np.abs(values).max() <= 1.000001 * limit, jax.tree_util.keystr(path)
        elif kind == "embedding":
            assert values.std() == pytest.approx(1, abs=5 / np.sqrt(2 * values.size))
        else:
            np.testing.assert_array_equal(values, 1.0 if kind == "scale" else 0.0)


@pytest.mark.parametrize(
    "net",
    [LABELLED, SCALED, ENLARGING, AUGMENTED, LINKED],
    ids=["labelled", "scale and shift", "enlarging", "augmented", "skips added"],
)
def test_gradients_reach_every_parameter(net):
    params, arrays, small = parameters(net), inputs(net), small_image(net) | told(net)
    loss = lambda p: (net.apply({"params": p}, *arrays, **small) ** 2).mean()  # noqa: E731
    gradients = jax.jit(jax.grad(loss))(params)
    chex.assert_tree_all_finite(gradients)
    for path, gradient in jax.tree_util.tree_leaves_with_path(gradients):
        if [part.key for part in path[-2:]] == ["key", "bias"]:
            # It shifts all logits of a query alike, and softmax does not see that: zero but for rounding.
            assert np.abs(gradient).max() < 1e-6
            continue
        halves = net.scale_shift and path[-2].key == "embedding"  # of the scale and of the shift
        for part in np.split(np.asarray(gradient), 1 + halves, axis=-1):
            assert np.abs(part).max() > 1e-5, jax.tree_util.keystr(path)


def test_each_row_of_a_batch_is_on_its_own():
    params, arrays = parameters(LABELLED), inputs(LABELLED)
    together = run(LABELLED, params, *arrays)
    for row in range(3):
        alone = run(LABELLED, params, *(array[row : row + 1] for array in arrays))
        # The same float32 sums, otherwise ordered; the bound of the comparison with float64.
        np.testing.assert_allclose(together[row : row + 1], alone, rtol=0, atol=1.5e-5)


def test_vmap_over_parameters_runs_several_networks_at_once():
    several, arrays = [parameters(PLAIN, seed) for seed in (0, 1)], inputs(PLAIN)
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *several)
    at_once = jax.jit(jax.vmap(lambda p: PLAIN.apply({"params": p}, *arrays)))(stacked)
    for out, params in zip(at_once, several, strict=True):
        np.testing.assert_allclose(out, run(PLAIN, params, *arrays), rtol=0, atol=1.5e-5)


def test_image_time_and_label_each_matter_to_their_own_row():
    params, arrays = parameters(LABELLED), inputs(LABELLED)
    before = run(LABELLED, params, *arrays)
    others = (-arrays[0], arrays[1] + 1, (arrays[2] + 1) % 5)
    for which, other in enumerate(others):
        changed = [array.copy() for array in arrays]
        changed[which][1] = other[1]
        difference = np.abs(run(LABELLED, params, *changed) - before).max(axis=(1, 2, 3))
        np.testing.assert_array_equal(difference[[0, 2]], 0)
        assert difference[1] > 1e-2


def test_a_small_image_and_its_noise_matter_to_their_own_row():
    params, arrays, small = parameters(ENLARGING), inputs(ENLARGING), small_image(ENLARGING)
    before = run(ENLARGING, params, *arrays, **small)
    for name, other in {"low_res": -small["low_res"], "low_res_t": small["low_res_t"] + 1}.items():
        changed = small[name].copy()
        changed[1] = other[1]
        difference = np.abs(run(ENLARGING, params, *arrays, **{**small, name: changed}) - before).max(axis=(1, 2, 3))
        np.testing.assert_array_equal(difference[[0, 2]], 0)
        assert difference[1] > 1e-2


def test_an_augmentation_matters_to_its_own_row_and_zeros_are_none():
    params, arrays, known = parameters(AUGMENTED), inputs(AUGMENTED), told(AUGMENTED)["augmentation"]
    known[1] = 0
    given, none = run(AUGMENTED, params, *arrays, augmentation=known), run(AUGMENTED, params, *arrays)
    np.testing.assert_array_equal(run(AUGMENTED, params, *arrays, augmentation=0 * known), none)
    difference = np.abs(given - none).max(axis=(1, 2, 3))
    assert difference[1] == 0
    assert min(difference[[0, 2]]) > 1e-2
    without = {name: value for name, value in params.items() if name != "augmentation_embedding"}
    np.testing.assert_array_equal(run(AUGMENTED.clone(augmentation=0), without, *arrays), none)


def test_dropout_comes_in_training_alone_and_follows_its_key():
    net, params, arrays = PLAIN.clone(dropout=0.3), parameters(PLAIN), inputs(PLAIN)
    first, second = jax.random.split(jax.random.key(0))
    trained = run(net, params, *arrays, train=True, key=first)
    assert np.abs(trained - run(net, params, *arrays, train=True, key=second)).max() > 1e-2
    np.testing.assert_array_equal(trained, run(net, params, *arrays, train=True, key=first))
    np.testing.assert_array_equal(run(net, params, *arrays, key=first), run(PLAIN, params, *arrays))


def test_dropout_is_in_every_block():
    params, arrays = parameters(LABELLED), inputs(LABELLED)
    all_dropped = run(LABELLED.clone(dropout=1.0), params, *arrays, train=True)

    def without(path, leaf):
        return 0 * leaf if [part.key for part in path[-2:]] == ["conv2", "kernel"] else leaf

    cut = jax.tree_util.tree_map_with_path(without, params)
    np.testing.assert_allclose(all_dropped, run(LABELLED, cut, *arrays), rtol=0, atol=1.5e-5)


def test_bfloat16_body_stays_near_float32():
    half, params, arrays = LABELLED.clone(dtype=BF16), parameters(LABELLED), inputs(LABELLED)
    chex.assert_trees_all_equal_shapes_and_dtypes(shapes(half, *arrays), params)
    exact, rounded = run(LABELLED, params, *arrays), run(half, params, *arrays)
    chex.assert_type(rounded, F32)
    # Each of some 60 roundings in a row is off by 2^-9 of the value at most, √3 less on average, and they add up like a walk:
    # √60·2^-9/√3 = .009; the weights are rounded too. Were nothing rounded, the two would agree to 1e-5.
    error = np.sqrt(np.mean((rounded - exact) ** 2) / np.mean(exact**2))
    assert 1e-3 < error < 0.03


def test_bfloat16_body_convolves_in_bfloat16_and_sums_in_float32():
    net, arrays = LABELLED.clone(dtype=BF16), inputs(LABELLED)
    found = list(equations(jax.make_jaxpr(net.apply)({"params": shapes(net, *arrays)}, *arrays).jaxpr))

    def dtypes(*primitives):
        return [each.invars[0].aval.dtype for each in found if each.primitive.name in primitives]

    convolutions = dtypes("conv_general_dilated")
    assert len(convolutions) > 20
    assert set(convolutions[:-1]) == {jnp.dtype(BF16)}
    assert convolutions[-1] == F32
    statistics_and_softmax = dtypes("reduce_sum", "reduce_max", "exp", "rsqrt", "div")
    assert len(statistics_and_softmax) > 100
    assert set(statistics_and_softmax) == {jnp.dtype(F32)}


def test_an_nnx_module_made_of_the_network_gives_the_same():
    params, arrays = parameters(PLAIN), inputs(PLAIN)
    module = nnx.eval_shape(lambda: nnx.bridge.ToNNX(PLAIN, rngs=nnx.Rngs(0)).lazy_init(*arrays))
    state = nnx.state(module, nnx.Param)
    chex.assert_trees_all_equal_shapes_and_dtypes(nnx.to_pure_dict(state), params)
    nnx.replace_by_pure_dict(state, params)
    nnx.update(module, state)
    out = jax.jit(lambda *arrays: module(*arrays, rngs=nnx.Rngs(0)))(*arrays)
    np.testing.assert_allclose(out, run(PLAIN, params, *arrays), rtol=0, atol=1.5e-5)
