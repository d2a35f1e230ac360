"""Products with weights and all their derivatives against those that JAX has of its own, in float64."""

import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jax_ddpm.models.layers import ResBlock
from jax_ddpm.models.products import NARROW, convolve3x3, flat_product, matmul, shifted_products
from tests.models.numbers import F32


def usual_convolution(x, kernel):
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


def usual_product(x, matrix):
    return jnp.einsum("...i,io->...o", x, matrix)


CONVOLUTIONS = (usual_convolution, convolve3x3, shifted_products)
PRODUCTS = (usual_product, matmul, flat_product)
SHAPES = [  # functions; shapes of x, weights, output
    (CONVOLUTIONS, (2, 6, 4, NARROW), (3, 3, NARROW, 5), (2, 6, 4, 5)),
    (CONVOLUTIONS, (1, 3, 3, NARROW + 3), (3, 3, NARROW + 3, 1), (1, 3, 3, 1)),
    (CONVOLUTIONS, (3, 1, 5, NARROW), (3, 3, NARROW, 2), (3, 1, 5, 2)),
    (CONVOLUTIONS, (2, 4, 1, NARROW), (3, 3, NARROW, 2), (2, 4, 1, 2)),
    (CONVOLUTIONS, (2, 1, 1, NARROW), (3, 3, NARROW, 3), (2, 1, 1, 3)),
    (CONVOLUTIONS, (2, 5, 4, 3), (3, 3, 3, 7), (2, 5, 4, 7)),
    (PRODUCTS, (2, 3, 4, 5), (5, 6), (2, 3, 4, 6)),
    (PRODUCTS, (3, 5), (5, 1), (3, 1)),
    (PRODUCTS, (5,), (5, 2), (2,)),
]
CLOSE = {"rtol": 0, "atol": 1e-11}  # sums of up to 400 numbers near 1 in float64


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


@pytest.mark.parametrize(
    ("own", "usual", "weights"),
    [
        (convolve3x3, usual_convolution, (3, 3, NARROW, 3)),
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


@pytest.mark.parametrize(("functions", "x", "weights", "out"), [SHAPES[0], SHAPES[6]])
def test_gradients_in_bfloat16_are_sums_in_float32(functions, x, weights, out):
    x, weights, back = (jnp.asarray(array, jnp.bfloat16) for array in drawn(x, weights, out))
    found = jax.jit(lambda x: jax.vjp(partial(functions[1], x), weights)[1](back)[0])(x)
    with jax.enable_x64(True):
        wide = (np.asarray(array, np.float64) for array in (x, weights, back))
        expected = (lambda x, weights, back: jax.vjp(partial(functions[0], x), weights)[1](back)[0])(*wide)
    assert found.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(found, np.float64), expected, rtol=2**-8, atol=1e-3)  # rounded once, to 8 bits


@pytest.mark.parametrize(("platform", "own_way"), [("cpu", True), ("tpu", False), ("cuda", False)])
@pytest.mark.parametrize(
    ("product", "weights", "sign"),
    [
        (convolve3x3, (3, 3, NARROW, 4), "optimization_barrier"),
        (matmul, (NARROW, 4), "stablehlo.convolution"),
    ],
)
def test_a_cpu_alone_has_a_way_of_its_own(product, weights, sign, platform, own_way):
    x, weights = (jax.ShapeDtypeStruct(shape, F32) for shape in ((2, 8, 8, NARROW), weights))
    gradient = jax.jit(jax.grad(lambda weights, x: product(x, weights).sum()))
    assert (sign in gradient.trace(weights, x).lower(lowering_platforms=(platform,)).as_text()) == own_way


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
    products = len(re.findall(r"stablehlo.convolution.* dim_numbers = \[f, b\]x\[i, o\]->\[b, f\]", text))
    assert (text.count("optimization_barrier"), products) == ((2, 2 * 3 + 2) if own_way else (0, 0)), text
