"""The classifier of noisy images: against NumPy float64, its size, what it says before the last projection, what it refuses."""

import math
from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_ddpm.errors import InvalidInput
from jax_ddpm.models.classifier import NoisyClassifier
from jax_ddpm.models.unet import UNet
from tests.models.numbers import BF16, F32, normals, random_parameters
from tests.models.unets import ADM
from tests.references.networks import Network, attention_pool, dense, norm, silu

TINY = {"channels": 8, "groups": 4, "attention_resolutions": (4,), "dropout": 0.0, "multipliers": (1, 2), "blocks": 2}
PLAIN = NoisyClassifier(**TINY, num_classes=5, heads=2)
PAPER = NoisyClassifier(**TINY, num_classes=7, scale_shift=True, block_resampling=True, head_channels=4, norm_eps=1e-2)
EACH = pytest.mark.parametrize("net", [PLAIN, PAPER], ids=["plain", "as in the paper"])
X, T = normals(0, 3, 8, 4, 3), np.array([0, 7, 999])


def shapes(net, x=X):
    return jax.eval_shape(net.init, jax.random.key(0), x, T[: len(x)])["params"]


def parameters(net):
    return random_parameters(shapes(net))


@partial(jax.jit, static_argnames=("net", "train", "features"))
def run(net, params, x, t, key=None, **options):
    return net.apply({"params": params}, x, t, rngs={} if key is None else {"dropout": key}, **options)


def reference(net, p, x, t):
    """The pooled vectors and the logits, in NumPy float64."""
    it = Network(net, p)
    it.embedding = it.time(t)
    x = silu(norm(p["norm_out"], it.down(x)[0], net.groups, net.norm_eps))
    pooled = attention_pool(p["pool"], x, x.shape[-1] // net.head_channels if net.head_channels else net.heads)
    return pooled, dense(p["logits"], pooled)


@EACH
def test_float32_agrees_with_the_float64_reference(net):
    params = parameters(net)
    pooled, logits = reference(net, *jax.tree.map(lambda a: np.asarray(a, np.float64), (params, X)), T)
    ours = run(net, params, X, T)
    chex.assert_type(ours, F32)
    assert ours.shape == (3, net.num_classes)
    # Some 40 float32 sums in a row, each 2^-24 of a value below 8 off: as a walk √40·6e-8·8 = 3e-6.
    np.testing.assert_allclose(ours, logits, rtol=0, atol=1.5e-5)
    np.testing.assert_allclose(run(net, params, X, T, features=True), pooled, rtol=0, atol=1.5e-5)


@pytest.mark.parametrize(
    ("size", "multipliers", "blocks", "count"),
    [
        (64, (1, 2, 3, 4), 4, 65_438_568),
        (128, (1, 1, 2, 3, 4), 2, 42_568_040),
        (256, (1, 1, 2, 2, 4, 4), 2, 54_096_360),
    ],
)
def test_parameter_count_is_that_of_the_paper(size, multipliers, blocks, count):
    settings = {name: value for name, value in ADM.items() if name != "out_channels"}
    net = NoisyClassifier(**settings, multipliers=multipliers, blocks=blocks, dropout=0.0)
    leaves = jax.tree.leaves(shapes(net, jnp.zeros((1, size, size, 3))))
    assert sum(math.prod(leaf.shape) for leaf in leaves) == count


@EACH
def test_the_way_down_has_the_names_and_shapes_of_the_unet_s(net):
    alike = {name: getattr(net, name) for name in (*TINY, "scale_shift", "block_resampling", "heads", "head_channels")}
    of_unet = jax.eval_shape(UNet(**alike).init, jax.random.key(0), X, T)["params"]
    ours = shapes(net)
    assert set(ours) - {"pool", "logits", "norm_out"} == {
        name for name in of_unet if not name.startswith(("up_", "conv_out", "norm_out"))
    }
    for name in set(ours) - {"pool", "logits", "norm_out"}:
        assert ours[name] == of_unet[name]


def test_gradients_reach_every_parameter_and_the_image():
    loss = lambda p, x: jax.nn.log_softmax(PAPER.apply({"params": p}, x, T))[:, 0].mean()  # noqa: E731
    of_params, of_image = jax.jit(jax.grad(loss, (0, 1)))(parameters(PAPER), X)
    chex.assert_tree_all_finite(of_params)
    for path, gradient in jax.tree_util.tree_leaves_with_path(of_params):
        if [part.key for part in path[-2:]] == ["key", "bias"]:
            assert np.abs(gradient).max() < 1e-6  # softmax does not see it: zero but for rounding
            continue
        assert np.abs(gradient).max() > 1e-5, jax.tree_util.keystr(path)
    assert (np.abs(of_image).max(axis=(1, 2, 3)) > 1e-4).all(), "it is what guides"


def test_each_row_of_a_batch_is_on_its_own_and_the_time_matters():
    params = parameters(PLAIN)
    together = run(PLAIN, params, X, T)
    for row in range(3):
        # The same float32 sums, otherwise ordered; the bound of the comparison with float64.
        np.testing.assert_allclose(together[row : row + 1], run(PLAIN, params, X[row : row + 1], T[row : row + 1]), atol=1.5e-5)
    assert (np.abs(run(PLAIN, params, X, T + 1) - together).max(axis=1) > 1e-3).all()


def test_dropout_comes_in_training_alone():
    net, params = PLAIN.clone(dropout=0.3), parameters(PLAIN)
    trained = run(net, params, X, T, key=jax.random.key(0), train=True)
    assert np.abs(trained - run(PLAIN, params, X, T)).max() > 1e-2
    np.testing.assert_array_equal(run(net, params, X, T), run(PLAIN, params, X, T))


def test_a_bfloat16_body_has_float32_parameters_and_logits_and_stays_near():
    half, params = PAPER.clone(dtype=BF16), parameters(PAPER)
    chex.assert_trees_all_equal_shapes_and_dtypes(shapes(half), params)
    exact = run(PAPER, params, X, T)
    for features in (False, True):
        chex.assert_type(run(half, params, X, T, features=features), F32)
    error = np.sqrt(np.mean((run(half, params, X, T) - exact) ** 2) / np.mean(exact**2))
    # As for the U-Net: some 40 roundings of 2^-9/√3 in a row make √40·.0011 = .007, and the weights are rounded too.
    assert 1e-3 < error < 0.03


@pytest.mark.parametrize(
    ("settings", "shape", "message"),
    [
        ({}, (2, 7, 8, 3), r"shape \(2, 7, 8, 3\).* multiples of 2"),
        ({"num_classes": 0}, (2, 8, 8, 3), "num_classes=0: expected at least 1"),
        ({"head_channels": 3}, (2, 8, 8, 3), "8 channels do not split into groups=4 and heads of head_channels=3"),
        ({"attention_resolutions": (16,)}, (2, 8, 8, 3), r"\(16,\): the heights here are \[8, 4\]"),
    ],
)
def test_what_it_cannot_take_is_refused(settings, shape, message):
    with pytest.raises(InvalidInput, match=message):
        shapes(PLAIN.clone(**settings), jnp.zeros(shape))
