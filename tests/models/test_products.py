"""Products with weights and all their derivatives against those that JAX has of its own, in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jax_ddpm.models.products import NARROW, convolve3x3, flat_product, multiply, shifted_products
from tests.models.numbers import F32


def usual_convolution(x, kernel):
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


def usual_product(x, matrix):
    return jnp.einsum("...i,io->...o", x, matrix)


CONVOLUTIONS = (usual_convolution, convolve3x3, shifted_products)
PRODUCTS = (usual_product, multiply, flat_product)
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
        usual, *others = (derivatives(function, *arrays) for function in functions)
        for found in others:
            for one, expected in zip(found, usual, strict=True):
                np.testing.assert_allclose(one, expected, **CLOSE)


@given(st.integers(1, 3), st.integers(1, 6), st.integers(1, 6), st.integers(1, 40), st.integers(1, 4))
def test_moved_products_give_the_kernel_the_usual_gradient_at_any_size(batch, height, width, channels, features):
    with jax.enable_x64(True):
        x, kernel, back = drawn((batch, height, width, channels), (3, 3, channels, features), (batch, height, width, features))
        found, usual = (
            jax.vjp(lambda kernel, each=each: each(x, kernel), kernel)[1](back)[0]
            for each in (shifted_products, usual_convolution)
        )
        np.testing.assert_allclose(found, usual, **CLOSE)


@pytest.mark.parametrize(
    ("own", "usual", "weights"),
    [
        (convolve3x3, usual_convolution, (3, 3, NARROW, 3)),
        (multiply, usual_product, (NARROW, 3)),
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


@pytest.mark.parametrize(("platform", "own_way"), [("cpu", True), ("tpu", False), ("cuda", False)])
@pytest.mark.parametrize(
    ("product", "weights", "sign"),
    [
        (convolve3x3, (3, 3, NARROW, 4), "optimization_barrier"),
        (multiply, (NARROW, 4), "stablehlo.convolution"),
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
