"""Products with weights and all their derivatives against those that JAX has of its own, in float64."""

import re
from functools import partial

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jax_ddpm.models.layers import ResBlock
from jax_ddpm.models.products import (
    FOURS,
    NARROW,
    PAIRS,
    WIDE,
    as_usual,
    convolve3x3,
    flat_product,
    matmul,
    shifted_products,
)
from jax_ddpm.models.products import winograd as winograd_or_nan
from jax_ddpm.training.sharding import make_mesh, replicated, split_batch
from tests.models.numbers import F32, SIDE


def winograd(x, kernel, points=PAIRS):
    return winograd_or_nan(x, kernel, True, points)


def by_fours(x, kernel):
    return winograd(x, kernel, FOURS)


def usual_convolution(x, kernel):
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


def usual_product(x, matrix):
    return jnp.einsum("...i,io->...o", x, matrix)


CONVOLUTIONS = (usual_convolution, convolve3x3, shifted_products)
OF_EVEN_SIZE = (*CONVOLUTIONS, winograd)
OF_FOURS = (*OF_EVEN_SIZE, by_fours)
PRODUCTS = (usual_product, matmul, flat_product)
SHAPES = [  # functions; shapes of x, weights, output
    (OF_EVEN_SIZE, (2, 6, 4, NARROW), (3, 3, NARROW, 5), (2, 6, 4, 5)),
    (OF_EVEN_SIZE, (1, 2, 2, 1), (3, 3, 1, 1), (1, 2, 2, 1)),
    (OF_EVEN_SIZE, (2, 8, 6, 2 * WIDE), (3, 3, 2 * WIDE, 3), (2, 8, 6, 3)),
    (OF_FOURS, (2, 8, 12, 2 * WIDE), (3, 3, 2 * WIDE, 3), (2, 8, 12, 3)),
    (OF_FOURS, (1, 4, 4, 1), (3, 3, 1, 2), (1, 4, 4, 2)),
    (CONVOLUTIONS, (1, 3, 3, NARROW + 3), (3, 3, NARROW + 3, 1), (1, 3, 3, 1)),
    (CONVOLUTIONS, (3, 1, 5, NARROW), (3, 3, NARROW, 2), (3, 1, 5, 2)),
    (CONVOLUTIONS, (2, 4, 1, NARROW), (3, 3, NARROW, 2), (2, 4, 1, 2)),
    (CONVOLUTIONS, (2, 1, 1, NARROW), (3, 3, NARROW, 3), (2, 1, 1, 3)),
    (CONVOLUTIONS, (2, 5, 4, 3), (3, 3, 3, 7), (2, 5, 4, 7)),
    (PRODUCTS, (2, 3, 4, 5), (5, 6), (2, 3, 4, 6)),
    (PRODUCTS, (3, 5), (5, 1), (3, 1)),
    (PRODUCTS, (5,), (5, 2), (2,)),
]
CLOSE = {"rtol": 0, "atol": 1e-11}  # sums of up to 1,200 numbers near 1 in float64
GRADIENT_ON_CPU = re.compile(r"stablehlo.convolution.* dim_numbers = \[f, b\]x\[i, o\]->\[b, f\]")  # xᵀ g, of `flat_product`


def drawn(*shapes):
    rng = np.random.default_rng(0)
    return [rng.normal(size=shape) for shape in shapes]


def derivatives(product, x, weights, back):
    """The output; the gradients by x and weights; the change of the output along x, weights, and both."""

    def along(dx, dweights):
        return jax.jvp(product, (x, weights), (dx, dweights))[1]

    out, pull = jax.vjp(product, x, weights)
    return out, *pull(back), along(x, jnp.zeros_like(weights)), along(jnp.zeros_like(x), weights), along(x, weights)


@pytest.mark.parametrize(("functions", "x", "weights", "out"), SHAPES)
def test_they_and_their_derivatives_are_the_usual_ones(functions, x, weights, out):
    with jax.enable_x64(True):
        arrays = drawn(x, weights, out)
        usual, *others = (jax.jit(partial(derivatives, function))(*arrays) for function in functions)
        for found in others:
            for one, expected in zip(found, usual, strict=True):
                np.testing.assert_allclose(one, expected, **CLOSE)


@given(st.integers(1, 3), st.integers(1, 6), st.integers(1, 6), st.integers(1, 40), st.integers(1, 4))
def test_moved_products_give_the_kernel_the_usual_gradient_at_any_size(batch, height, width, channels, features):
    with jax.enable_x64(True):
        x, kernel, back = drawn((batch, height, width, channels), (3, 3, channels, features), (batch, height, width, features))
        found, usual = (
            jax.jit(lambda x, kernel, each=each: jax.vjp(partial(each, x), kernel)[1](back)[0])(x, kernel)
            for each in (shifted_products, usual_convolution)
        )
        np.testing.assert_allclose(found, usual, **CLOSE)


@settings(max_examples=10)  # each is a program to compile; the derivatives are JAX's own of what is compared here
@given(st.sampled_from([PAIRS, FOURS]), st.lists(st.integers(1, 4), min_size=5, max_size=5))
def test_a_convolution_that_multiplies_less_is_the_usual_one_at_any_multiple_of_its_size(points, sizes):
    batch, rows, columns, channels, features = sizes
    pixels = len(points) - 1
    with jax.enable_x64(True):
        arrays = drawn((batch, pixels * rows, pixels * columns, channels), (3, 3, channels, features))
        np.testing.assert_allclose(jax.jit(partial(winograd, points=points))(*arrays), usual_convolution(*arrays), **CLOSE)


def test_in_float32_it_is_as_near_to_the_truth_as_the_usual_one():
    """The gradient of the kernel half as near, and what comes of a change of it, which training has not, a fourth."""
    x, kernel, back = drawn((2, 16, 16, 2 * WIDE), (3, 3, 2 * WIDE, WIDE), (2, 16, 16, WIDE))
    with jax.enable_x64(True):
        exact = [np.asarray(each) for each in jax.jit(partial(derivatives, usual_convolution))(x, kernel, back)]
    narrow = [jnp.asarray(array, F32) for array in (x, kernel, back)]
    found, usual = (jax.jit(partial(derivatives, each))(*narrow) for each in (convolve3x3, usual_convolution))
    for one, other, truth, times in zip(found, usual, exact, (1.5, 1, 2, 1.5, 4, 4), strict=True):
        errors = [np.sqrt(np.mean((np.asarray(each, np.float64) - truth) ** 2) / np.mean(truth**2)) for each in (one, other)]
        assert errors[0] < times * min(errors[1], 4e-7), errors  # its sums are over fewer numbers, but of sums


@pytest.mark.parametrize(
    ("own", "usual", "weights"),
    [
        (convolve3x3, usual_convolution, (3, 3, NARROW, 3)),
        (winograd, usual_convolution, (3, 3, NARROW, 3)),
        (matmul, usual_product, (NARROW, 3)),
    ],
)
def test_second_derivatives_and_those_of_each_example(own, usual, weights):
    x, weights, back = drawn((2, 4, 4, NARROW), weights, (1, 4, 4, 3))

    def penalty(product, x, weights):
        """The square of the gradient by x, which depends on the weights."""
        return jnp.sum(jax.grad(lambda x: jnp.vdot(back, jnp.tanh(product(x[None], weights))))(x) ** 2)

    with jax.enable_x64(True):
        found, expected = (
            jax.vmap(jax.grad(lambda *given, each=each: penalty(each, *given), argnums=(0, 1)), (0, None))(x, weights)
            for each in (own, usual)
        )
        for one, other in zip(found, expected, strict=True):
            assert np.abs(other).max() > 1
            np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("own", "usual", "weights"),
    [
        (convolve3x3, usual_convolution, (3, 3, NARROW, NARROW)),
        (winograd, usual_convolution, (3, 3, NARROW, NARROW)),
        (matmul, usual_product, (NARROW, NARROW)),
    ],
)
def test_the_gradient_is_the_same_where_it_is_computed_again_in_a_loop(own, usual, weights):
    x, weights = drawn((2, 4, 4, NARROW), weights)

    def gradient(product):
        block = jax.checkpoint(lambda x, weights: jnp.tanh(product(x, weights)), policy=jax.checkpoint_policies.checkpoint_dots)

        def loss(weights):
            return jax.lax.scan(lambda x, _: (block(x, weights), None), x, length=3)[0].sum()

        return jax.jit(jax.grad(loss))(weights)

    with jax.enable_x64(True):
        np.testing.assert_allclose(gradient(own), gradient(usual), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize(("functions", "x", "weights", "out"), [SHAPES[0], SHAPES[8]])
def test_gradients_in_bfloat16_are_sums_in_float32(functions, x, weights, out):
    x, weights, back = (jnp.asarray(array, jnp.bfloat16) for array in drawn(x, weights, out))
    found = jax.jit(lambda x: jax.vjp(partial(functions[1], x), weights)[1](back)[0])(x)
    with jax.enable_x64(True):
        wide = (np.asarray(array, np.float64) for array in (x, weights, back))
        expected = (lambda x, weights, back: jax.vjp(partial(functions[0], x), weights)[1](back)[0])(*wide)
    assert found.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(found, np.float64), expected, rtol=2**-8, atol=1e-3)  # rounded once, to 8 bits


@pytest.mark.parametrize(("platform", "own_way"), [("cpu", True), ("tpu", False), ("cuda", False)])
@pytest.mark.parametrize(("product", "weights", "count"), [(convolve3x3, (3, 3, NARROW, 4), 3), (matmul, (NARROW, 4), 1)])
def test_a_cpu_alone_has_a_way_of_its_own(product, weights, count, platform, own_way):
    x, weights = (jax.ShapeDtypeStruct(shape, F32) for shape in ((2, 8, 8, NARROW), weights))

    def found():
        gradient = jax.jit(jax.grad(lambda weights, x: product(x, weights).sum()))
        text = gradient.trace(weights, x).lower(lowering_platforms=(platform,)).as_text()
        return len(GRADIENT_ON_CPU.findall(text))

    assert found() == (count if own_way else 0)
    with as_usual():
        assert found() == 0
    assert found() == (count if own_way else 0)


def test_what_is_moved_is_laid_down_once():
    x, kernel = drawn((2, 8, 8, NARROW), (3, 3, NARROW, 4))
    assert jax.jit(shifted_products).lower(x, kernel).as_text().count("optimization_barrier") == 1


def convolutions_and_products(platform, shape, channels, dtype):
    """In the program of a convolution with its gradients; those of the kernel's gradient on a CPU apart."""
    x, kernel = jax.ShapeDtypeStruct(shape, dtype), jax.ShapeDtypeStruct((3, 3, *channels), dtype)
    gradients = jax.jit(jax.value_and_grad(lambda x, kernel: jnp.square(convolve3x3(x, kernel)).sum(), argnums=(0, 1)))
    text = gradients.trace(x, kernel).lower(lowering_platforms=(platform,)).as_text()
    flat = len(GRADIENT_ON_CPU.findall(text))
    return text.count("stablehlo.convolution(") - flat, text.count("stablehlo.dot_general"), flat


@pytest.mark.parametrize("channels", [(WIDE, WIDE), (2 * WIDE, WIDE)])
def test_a_cpu_multiplies_less_for_large_images_of_many_channels(channels):
    with jax.enable_x64(True):
        shape = (2, SIDE, SIDE, channels[0])
        assert convolutions_and_products("cpu", shape, channels, F32) == (0, 3 * 2, 0)  # each with one for the kernel's 4×4
        for platform in ("tpu", "cuda"):
            assert convolutions_and_products(platform, shape, channels, F32) == (3, 0, 0)
        for dtype in (jnp.float64, jnp.bfloat16):
            assert convolutions_and_products("cpu", shape, channels, dtype) == (2, 0, 3)


@pytest.mark.parametrize(
    ("height", "width", "channels"),
    [
        (SIDE, SIDE - 2, (WIDE, WIDE)),
        (SIDE, SIDE + 1, (WIDE, WIDE)),
        (SIDE + 1, SIDE, (WIDE, WIDE)),
        (SIDE, SIDE, (WIDE - 1, WIDE)),
        (SIDE, SIDE, (WIDE, WIDE - 1)),
    ],
)
def test_it_does_not_where_that_is_not_quicker_or_not_possible(height, width, channels):
    assert convolutions_and_products("cpu", (2, height, width, channels[0]), channels, F32) == (2, 0, 3)


def test_what_waits_for_the_backward_pass_is_what_was_given():
    x, kernel = (jnp.asarray(array, F32) for array in drawn((2, SIDE, SIDE, WIDE), (3, 3, WIDE, WIDE)))
    waiting = jax.eval_shape(lambda *given: jax.vjp(convolve3x3, *given)[1], x, kernel)
    assert sum(leaf.size for leaf in jax.tree.leaves(waiting)) < x.size + kernel.size + 500  # some constants


@pytest.mark.parametrize("where", [(0, 0, 0, 0), (2, 1, 3, 4)])
def test_what_is_no_number_is_not_hidden(where):
    x, kernel = (jnp.asarray(array, F32) for array in drawn((1, SIDE, SIDE, WIDE), (3, 3, WIDE, WIDE)))
    spoilt = kernel.at[where].set(jnp.nan)
    for found in jax.jit(partial(derivatives, convolve3x3))(x, spoilt, x)[:2]:
        assert jnp.isnan(found).any()
    assert jnp.isnan(jax.jit(convolve3x3)(x.at[0, *where[:2], where[2]].set(jnp.nan), kernel)).any()


def test_a_large_convolution_is_the_usual_one_whatever_is_done_with_it():
    """In float32: by vmap over images and over kernels, and twice differentiated."""
    x, kernel, back = (
        jnp.asarray(array, F32) for array in drawn((2, SIDE, SIDE, WIDE), (3, 3, WIDE, WIDE), (2, SIDE, SIDE, WIDE))
    )

    def all_of(product):
        def penalty(x, kernel):
            return jnp.vdot(jnp.tanh(product(x, kernel) / WIDE), back)

        along = jax.jvp(jax.grad(penalty, argnums=(0, 1)), (x, kernel), (back, kernel))[1]
        return (
            *along,
            jax.vmap(product, (0, None))(x[:, None], kernel),
            jax.vmap(product, (None, 0))(x, jnp.stack([kernel, -kernel])),
        )

    for found, expected in zip(jax.jit(all_of, static_argnums=0)(convolve3x3), all_of(usual_convolution), strict=True):
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 * float(jnp.abs(expected).max()))


def test_sizes_that_are_not_known_and_batches_of_none():
    kernel = jnp.zeros((3, 3, WIDE, WIDE), F32)
    for shape in (f"b, {SIDE}, {SIDE}, {WIDE}", f"1, 2*h, 2*h, {WIDE}"):
        given = jax.ShapeDtypeStruct(jax.export.symbolic_shape(shape), F32)
        exported = jax.export.export(jax.jit(partial(convolve3x3, kernel=kernel)), platforms=("cpu", "tpu"))(given)
        assert exported.out_avals[0].shape == given.shape
    assert convolve3x3(jnp.zeros((0, SIDE, SIDE, WIDE), F32), kernel).shape == (0, SIDE, SIDE, WIDE)


def test_devices_that_share_a_batch_ask_each_other_for_the_kernels_gradient_alone():
    mesh = make_mesh()
    x = jax.ShapeDtypeStruct((2 * mesh.size, SIDE, SIDE, WIDE), F32, sharding=split_batch(mesh))
    kernel = jax.ShapeDtypeStruct((3, 3, WIDE, WIDE), F32, sharding=replicated(mesh))
    gradients = jax.grad(lambda x, kernel: jnp.square(convolve3x3(x, kernel)).sum(), argnums=(0, 1))
    text = jax.jit(gradients, out_shardings=(split_batch(mesh), replicated(mesh))).lower(x, kernel).compile().as_text()
    assert mesh.size > 1
    assert re.findall(r" (all-\w+|collective-\w+|reduce-scatter)\(", text) == ["all-reduce"]  # of the kernel's gradient


def test_a_change_of_x_alone_costs_one_convolution():
    x, kernel = drawn((1, 4, 4, NARROW), (3, 3, NARROW, 4))
    _, along_x = jax.linearize(lambda x: convolve3x3(x, kernel), x)
    assert str(jax.make_jaxpr(along_x)(x)).count("conv_general_dilated[") == 1


@pytest.mark.parametrize(("platform", "own_way"), [("cpu", True), ("tpu", False)])
def test_the_network_is_made_of_them(platform, own_way):
    block, inputs = ResBlock(2 * NARROW, 4, 0.0, F32), [jax.ShapeDtypeStruct(s, F32) for s in ((2, 4, 4, NARROW), (2, 8))]
    params = jax.eval_shape(lambda *given: block.init(jax.random.key(0), *given, False), *inputs)
    gradient = jax.jit(jax.grad(lambda params, *given: block.apply(params, *given, False).sum()))
    text = gradient.trace(params, *inputs).lower(lowering_platforms=(platform,)).as_text()
    products = len(GRADIENT_ON_CPU.findall(text))
    # A barrier in the gradient of each kernel, and one before what jax.checkpoint computes again of each of the four weights.
    assert (text.count("optimization_barrier"), products) == ((2 + 4, 2 * 3 + 2) if own_way else (0, 0)), text
