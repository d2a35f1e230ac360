"""The parts of the networks against the formulas in NumPy float64, which test_unet.py puts together again."""

from functools import partial

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import parameterized

from jax_ddpm.errors import InvalidInput
from jax_ddpm.models.layers import (
    AttentionBlock,
    AttentionPool,
    Downsample,
    GroupNorm,
    ResBlock,
    Upsample,
    attend,
    conv3x3,
    doubled,
    halved,
    init_near_zero,
    init_weight,
    timestep_embedding,
)
from tests.models.numbers import BF16, F32, normals, random_parameters
from tests.references.networks import (
    DOWN,
    UP,
    attention_block,
    attention_pool,
    conv,
    half_size,
    norm,
    res_block,
    sinusoids,
    twice_size,
)

X, EMBEDDING = 0.5 + normals(1, 2, 6, 4, 8), normals(2, 2, 12)

# name, module, its inputs, the reference, the shape of the result:
MODULES = (
    ("norm_of_4_groups", GroupNorm(4, F32), (X,), lambda p, x: norm(p, x, 4), X.shape),
    ("norm_of_1_group", GroupNorm(1, F32), (X,), lambda p, x: norm(p, x, 1), X.shape),
    ("norm_of_every_channel", GroupNorm(8, F32), (X,), lambda p, x: norm(p, x, 8), X.shape),
    ("norm_of_tiny_values", GroupNorm(4, F32), (1e-3 * X,), lambda p, x: norm(p, x, 4), X.shape),
    ("conv", conv3x3(5, F32, "c"), (X,), conv, (2, 6, 4, 5)),
    ("conv_of_stride_2", conv3x3(5, F32, "c", stride=2), (X,), lambda p, x: conv(p, x, 2), (2, 3, 2, 5)),
    ("res_block", ResBlock(8, 2, 0.5, F32), (X, EMBEDDING), lambda p, x, e: res_block(p, x, e, 2), X.shape),
    ("res_block_wider", ResBlock(12, 4, 0.5, F32), (X, EMBEDDING), lambda p, x, e: res_block(p, x, e, 4), (2, 6, 4, 12)),
    (
        "res_block_of_scale_and_shift",
        ResBlock(12, 4, 0.5, F32, scale_shift=True),
        (X, EMBEDDING),
        lambda p, x, e: res_block(p, x, e, 4, scale_shift=True),
        (2, 6, 4, 12),
    ),
    (
        "res_block_halved",
        ResBlock(12, 4, 0.5, F32, resample=halved),
        (X, EMBEDDING),
        lambda p, x, e: res_block(p, x, e, 4, resample=half_size),
        (2, 3, 2, 12),
    ),
    (
        "res_block_doubled",
        ResBlock(8, 4, 0.5, F32, scale_shift=True, resample=doubled),
        (X, EMBEDDING),
        lambda p, x, e: res_block(p, x, e, 4, scale_shift=True, resample=twice_size),
        (2, 12, 8, 8),
    ),
    ("attention", AttentionBlock(1, 2, F32), (X,), lambda p, x: attention_block(p, x, 1, 2), X.shape),
    ("attention_of_4_heads", AttentionBlock(4, 2, F32), (X,), lambda p, x: attention_block(p, x, 4, 2), X.shape),
    ("attention_pool", AttentionPool(1, F32), (X,), lambda p, x: attention_pool(p, x, 1), (2, 8)),
    ("attention_pool_of_4_heads", AttentionPool(4, F32), (X,), lambda p, x: attention_pool(p, x, 4), (2, 8)),
    *(
        (f"down_by_{kind}", Downsample(F32, kind), (X,), expected, (2, 3, 2, 8))
        for kind, expected in DOWN.items()
        if kind != "pool"
    ),
    *((f"up_by_{kind}", Upsample(F32, kind), (X,), expected, (2, 12, 8, 8)) for kind, expected in UP.items()),
    ("norm_of_small_values", GroupNorm(4, F32, 1e-2), (X / 9,), lambda p, x: norm(p, x, 4, 1e-2), X.shape),
)


def norm_of(params, x):
    """The block's own normalisation, of 4 groups."""
    return GroupNorm(4, F32).apply({"params": params}, x)


def test_statistics_of_the_norm_are_float64_where_it_computes_in_that():
    with jax.enable_x64(True):
        x = np.asarray(100 + X, np.float64)  # a mean of a hundred spreads: float32 would leave 3 digits
        for given in (x, x.astype(np.float32)):
            module = GroupNorm(4, np.float64)
            params = jax.tree.map(lambda leaf: leaf.astype(np.float64), module.init(jax.random.key(0), given)["params"])
            found, expected = module.apply({"params": params}, given), norm(params, given.astype(np.float64), 4)
            np.testing.assert_allclose(found, expected, rtol=0, atol=1e-9)


def mode(module: nn.Module) -> dict[str, bool]:
    return {"train": False} if isinstance(module, ResBlock) else {}


def parameters_of(module: nn.Module, *inputs):
    return random_parameters(jax.eval_shape(partial(module.init, **mode(module)), jax.random.key(0), *inputs)["params"])


class EveryModule(chex.TestCase):
    @chex.variants(with_jit=True, without_jit=True, with_pmap=True)
    @parameterized.named_parameters(*MODULES)
    def test_float32_agrees_with_the_float64_reference(self, module, inputs, reference, shape):
        params = parameters_of(module, *inputs)
        apply = self.variant(lambda p, *inputs: module.apply({"params": p}, *inputs, **mode(module)))
        actual = apply(params, *inputs)
        expected = reference(*jax.tree.map(lambda a: np.asarray(a, np.float64), (params, *inputs)))
        chex.assert_type(actual, F32)
        chex.assert_shape([actual, expected], shape)
        # Values below 8 and a dozen sums of at most 108 terms, each 2^-24 of its size off; measured: 2e-6.
        np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-5)


class TimestepEmbedding(chex.TestCase):
    @chex.all_variants
    @parameterized.parameters(4, 16, 128)
    def test_agrees_with_the_reference(self, features):
        t = np.array([0, 1, 2, 37, 500, 999])
        actual = self.variant(lambda t: timestep_embedding(t, features))(t)
        chex.assert_type(actual, F32)
        # The rate is off by 2^-24 of itself some times over, the angle is up to 999 times that.
        np.testing.assert_allclose(actual, sinusoids(t, features), rtol=0, atol=5e-4)
        np.testing.assert_allclose(actual[:3], sinusoids(t[:3], features), rtol=0, atol=2e-6)


def test_timestep_embedding_is_sines_then_cosines_from_rate_one_to_a_ten_thousandth():
    quarter = np.pi / 2
    np.testing.assert_allclose(timestep_embedding(jnp.array([quarter]), 4)[0], [1, quarter / 1e4, 0, 1], atol=1e-6)
    np.testing.assert_array_equal(timestep_embedding(jnp.array([0]), 6)[0], [0, 0, 0, 1, 1, 1])


def test_timestep_embedding_of_fractional_and_of_bfloat16_times_is_float32():
    chex.assert_type(timestep_embedding(jnp.array([3], BF16), 8), F32)
    np.testing.assert_allclose(timestep_embedding(jnp.array([2.5]), 8), sinusoids([2.5], 8), atol=1e-6)


@pytest.mark.parametrize(("first", "waves"), [(False, (np.sin, np.cos)), (True, (np.cos, np.sin))], ids=["sines", "cosines"])
@pytest.mark.parametrize("shift", [0, 1])
def test_timestep_embedding_begins_with_either_wave_and_ends_at_either_rate(first, waves, shift):
    t = np.array([0, 1, 2.5], np.float32)
    found = timestep_embedding(t, 16, cosine_first=first, frequency_shift=shift)
    np.testing.assert_allclose(found, sinusoids(t, 16, waves, shift), rtol=0, atol=2e-6)


def test_pooling_has_no_parameters():
    image = np.arange(16, dtype=np.float32).reshape(1, 4, 4, 1)
    out, params = Downsample(F32, "pool").init_with_output(jax.random.key(0), image)
    assert not params
    np.testing.assert_array_equal(out[0, ..., 0], [[2.5, 4.5], [10.5, 12.5]])


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (Downsample(F32, "max"), "unknown downsample 'max'.*pool"),
        (Upsample(F32, "linear"), "unknown upsample 'linear'.*bilinear"),
    ],
)
def test_an_unknown_way_down_or_up_is_refused(layer, message):
    with pytest.raises(InvalidInput, match=message):
        layer.init(jax.random.key(0), X)


def test_attention_of_float64_is_float64():
    with jax.enable_x64(True):
        query, key, value = (np.random.default_rng(seed).normal(size=(1, 5, 2, 3)) for seed in range(3))
        weights = np.exp(np.einsum("bqhd,bkhd->bhqk", query, key) / np.sqrt(3))
        expected = np.einsum("bhqk,bkhd->bqhd", weights / weights.sum(-1, keepdims=True), value)
        np.testing.assert_allclose(attend(*map(jnp.asarray, (query, key, value))), expected, rtol=0, atol=1e-14)


def test_stride_2_looks_below_and_to_the_right_alone():
    image = np.zeros((1, 4, 4, 1), np.float32)
    image[0, 0, 0], image[0, 3, 3] = 1, 100
    weights = np.arange(9, dtype=np.float32).reshape(3, 3, 1, 1)
    out = conv3x3(1, F32, "c", stride=2).apply({"params": {"kernel": weights, "bias": np.zeros(1)}}, image)
    np.testing.assert_array_equal(out[0, :, :, 0], [[0, 0], [0, 400]])  # the corner meets the first weight, not the middle one


def test_upsample_repeats_each_pixel():
    params = {"conv": {"kernel": np.zeros((3, 3, 1, 1)), "bias": np.zeros(1)}}
    params["conv"]["kernel"][1, 1] = 1
    image = np.arange(6, dtype=np.float32).reshape(1, 2, 3, 1)
    np.testing.assert_array_equal(
        Upsample(F32).apply({"params": params}, image)[0, ..., 0], np.kron(image[0, ..., 0], np.ones((2, 2)))
    )


def test_an_image_is_halved_by_averaging_and_doubled_by_repeating():
    image = np.arange(16, dtype=np.float32).reshape(1, 4, 4, 1)
    np.testing.assert_array_equal(halved(image)[0, ..., 0], [[2.5, 4.5], [10.5, 12.5]])
    np.testing.assert_array_equal(doubled(image)[0, ..., 0], np.kron(image[0, ..., 0], np.ones((2, 2))))


def test_pooling_begins_with_positions_of_variance_one_over_the_channels():
    position = AttentionPool(1, F32).init(jax.random.key(0), normals(0, 1, 32, 32, 64))["params"]["position"]
    assert position.shape == (32 * 32 + 1, 64)
    # Of n = 65,600 normal draws the deviation is off by 1/√(2n) of itself, 5 of those being .014.
    assert np.std(position) == pytest.approx(1 / 8, rel=0.014)


@pytest.mark.parametrize(("initializer", "scale"), [(init_weight, 1.0), (init_near_zero, 1e-10)], ids=["weight", "near zero"])
@pytest.mark.parametrize("shape", [(200, 300), (3, 3, 40, 80)], ids=["dense", "convolution"])
def test_initial_weights_are_uniform_of_the_stated_variance(initializer, scale, shape):
    values = np.asarray(initializer(jax.random.key(0), shape, F32), np.float64)
    fan_average = np.prod(shape[:-2]) * (shape[-2] + shape[-1]) / 2
    limit = np.sqrt(3 * scale / fan_average)
    assert 0.999 * limit < np.abs(values).max() <= 1.000001 * limit
    # Over n > 25,000 draws the variance of a uniform is off by .9/√n, 5 of those being .03, its mean by limit/√(3n).
    assert values.var() == pytest.approx(scale / fan_average, rel=0.03)
    assert abs(values.mean()) < 0.02 * limit


@pytest.mark.parametrize(
    ("block", "inputs"),
    [
        (ResBlock(8, 4, 0.1, F32), (X, EMBEDDING)),
        (ResBlock(8, 4, 0.1, F32, scale_shift=True), (X, EMBEDDING)),
        (AttentionBlock(2, 4, F32), (X,)),
    ],
    ids=["res block", "scale and shift", "attention"],
)
def test_a_block_starts_as_its_skip(block, inputs):
    out, _ = jax.jit(partial(block.init_with_output, **mode(block)))(jax.random.key(0), *inputs)
    # 72 products of values near 1 with weights below 2e-6.
    np.testing.assert_allclose(out, X, rtol=0, atol=3e-5)
    assert not np.array_equal(out, X)


def test_scale_comes_before_shift_and_a_scale_of_zero_keeps_the_norm():
    block = ResBlock(8, 4, 0.0, F32, scale_shift=True)
    params = parameters_of(block, X, EMBEDDING)
    params["embedding"]["kernel"] = jnp.zeros((12, 16))  # so that its bias alone is the projection
    params["conv2"]["kernel"] = jnp.zeros((3, 3, 8, 8)).at[1, 1].set(jnp.eye(8))  # so that what goes in comes out, with a bias

    def normalised(scale, shift):
        told = {"embedding": params["embedding"] | {"bias": jnp.repeat(jnp.array([scale, shift]), 8)}}
        return block.apply({"params": params | told}, X, EMBEDDING, False) - X - params["conv2"]["bias"]

    h = conv3x3(8, F32, "c").apply({"params": params["conv1"]}, nn.silu(norm_of(params["norm1"], X)))
    plain = norm_of(params["norm2"], h)
    # Roundings of numbers below 16.
    np.testing.assert_allclose(normalised(0.0, 0.0), nn.silu(plain), rtol=0, atol=1e-5)
    np.testing.assert_allclose(normalised(-1.0, 0.5), jnp.full(X.shape, nn.silu(0.5)), rtol=0, atol=1e-5)
    np.testing.assert_allclose(normalised(1.0, 0.5), nn.silu(2 * plain + 0.5), rtol=0, atol=1e-5)


@pytest.mark.parametrize("scale_shift", [False, True], ids=["shift", "scale and shift"])
def test_dropout_falls_between_silu_and_the_second_convolution(scale_shift):
    block, rate = ResBlock(8, 4, 0.25, F32, scale_shift), 0.25
    x, embedding = normals(3, 4, 16, 16, 8), normals(4, 4, 12)
    params = parameters_of(block, x, embedding)
    params["conv2"]["kernel"] = jnp.zeros((3, 3, 8, 8)).at[1, 1].set(jnp.eye(8))  # so that what goes in comes out, with a bias
    rngs = {"dropout": jax.random.key(0)}

    @partial(jax.jit, static_argnums=0)
    def branch(train):
        return block.apply({"params": params}, x, embedding, train, rngs=rngs) - x - params["conv2"]["bias"]

    kept_all, dropped_some = np.asarray(branch(False)), np.asarray(branch(True))
    dropped = np.abs(dropped_some) < 1e-6  # two roundings of a number below 4; what is kept is larger, silu near 0 aside
    either = np.where(dropped, 0, kept_all / (1 - rate))
    np.testing.assert_allclose(dropped_some, either, rtol=0, atol=3e-6)
    assert dropped.mean() == pytest.approx(rate, abs=5 * np.sqrt(rate * (1 - rate) / dropped.size))


def test_bfloat16_keeps_normalisation_statistics_in_float32():
    # Exact in bfloat16: 16 … 16.875. Their mean square is 270, which in bfloat16 is a multiple of 2; their variance is .08.
    x = (16 + np.random.default_rng(0).integers(0, 8, (2, 4, 4, 8)) / 8).astype(np.float32)
    module = GroupNorm(2, BF16)
    params = parameters_of(module, x)
    out = module.apply({"params": params}, jnp.asarray(x, BF16))
    chex.assert_type(out, BF16)
    # The result is below 4 and rounded to 8 bits, half a step being 2^-8; float32 statistics add 270·2^-23/.08 = 4e-4 of it.
    np.testing.assert_allclose(out.astype(F32), norm(params, x.astype(np.float64), 2), rtol=0, atol=0.01)


def test_bfloat16_keeps_attention_logits_and_softmax_in_float32():
    # Positions that are much alike, and queries 64 times as large: logits near 256, where bfloat16 counts by twos.
    x = jnp.asarray(normals(5, 1, 1, 1, 16) + 0.1 * normals(6, 1, 4, 4, 16), BF16)
    block = AttentionBlock(1, 1, BF16)
    params = jax.tree.map(jnp.zeros_like, parameters_of(block, x))
    params["norm"]["scale"] = jnp.ones(16)
    for name, factor in {"query": 64, "key": 1, "value": 1, "out": 1}.items():
        params[name]["kernel"] = factor * jnp.eye(16)
    added = jax.jit(block.apply)({"params": params}, x).astype(F32) - x.astype(F32)

    h = np.asarray(GroupNorm(1, BF16).apply({"params": params["norm"]}, x), np.float64).reshape(16, 16)
    logits = 64 * h @ h.T / np.sqrt(16)
    assert np.median(logits) > 128

    def attend(logits):
        weights = np.exp(logits - logits.max(axis=1, keepdims=True))
        return weights / weights.sum(axis=1, keepdims=True) @ h

    # Weights, sums and the skip are rounded to 8 bits of numbers below 4.
    np.testing.assert_allclose(added.reshape(16, 16), attend(logits), rtol=0, atol=0.04)
    assert np.abs(attend(np.asarray(jnp.asarray(logits, BF16), np.float64)) - attend(logits)).max() > 0.08  # as it would be
