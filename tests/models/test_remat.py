"""What is computed again in the backward pass changes what is in memory, and nothing else."""

import re

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from jax_ddpm.errors import InvalidInput
from jax_ddpm.models.encoder import REMAT
from jax_ddpm.models.layers import ResBlock
from jax_ddpm.models.products import WIDE
from jax_ddpm.models.unet import UNet
from tests.models.numbers import SIDE

SMALL = {"channels": 8, "multipliers": (1, 2), "blocks": 1, "attention_resolutions": (8,), "groups": 4, "dropout": 0.3}
X = jax.random.normal(jax.random.key(0), (32, 16, 16, 3))
T = jnp.arange(32)


@pytest.fixture(scope="module")
def params():
    zero = UNet(**SMALL).init(jax.random.key(1), X[:1], T[:1])
    keys = iter(jax.random.split(jax.random.key(2), len(jax.tree.leaves(zero))))
    return jax.tree.map(lambda leaf: leaf + 0.1 * jax.random.normal(next(keys), leaf.shape), zero)


def loss(params, remat, images=None):
    """Of the first so many images. With dropout, which is to be drawn alike both times."""
    net, rngs = UNet(**SMALL, remat=remat), {"dropout": jax.random.key(3)}
    return jnp.mean(net.apply(params, X[:images], T[:images], train=True, rngs=rngs) ** 2)


def kept(params, remat):
    """How many numbers wait for the backward pass, of which what `jax.vjp` returns is a tree."""
    waiting = jax.eval_shape(lambda params: jax.vjp(lambda params: loss(params, remat), params)[1], params)
    return sum(leaf.size for leaf in jax.tree.leaves(waiting))


@pytest.mark.parametrize(("remat", "share"), [("blocks", 0.35), ("dots", 0.5)])
def test_the_loss_and_its_gradient_are_the_same_and_less_is_kept(remat, share, params):
    chex.assert_trees_all_equal_shapes(UNet(**SMALL, remat=remat).init(jax.random.key(1), X[:1], T[:1]), params)
    expected, found = (jax.jit(jax.value_and_grad(loss), static_argnums=(1, 2))(params, each, 2) for each in ("none", remat))
    # Float32 sums that XLA fuses in another way.
    chex.assert_trees_all_close(found, expected, rtol=1e-4, atol=1e-5)
    assert kept(params, remat) < share * kept(params, "none"), kept(params, remat) / kept(params, "none")


def test_products_are_kept_by_the_policy_that_keeps_them(params):
    assert kept(params, "dots") > 1.5 * kept(params, "blocks")


@pytest.mark.parametrize("platform", ["cpu", "tpu"])
def test_a_convolution_that_a_cpu_takes_in_a_way_of_its_own_is_kept_and_nothing_else_of_it(platform):
    inputs = jnp.ones((1, SIDE, SIDE, WIDE)), jnp.ones((1, 4))

    def of_block(remat):
        """Products and convolutions in a step of a block, and how many numbers wait for the backward pass."""
        block = nn.remat(ResBlock, static_argnums=(3,), policy=REMAT[remat])(WIDE, 4, 0.0, jnp.float32)
        params = jax.eval_shape(lambda: block.init(jax.random.key(0), *inputs, False))

        def loss(params):
            return jnp.square(block.apply(params, *inputs, False)).sum()

        text = jax.jit(jax.grad(loss)).trace(params).lower(lowering_platforms=(platform,)).as_text()
        waiting = jax.eval_shape(lambda params: jax.vjp(loss, params)[1], params)
        count = len(re.findall(r"stablehlo.(dot_general|convolution)", text))
        return count, sum(leaf.size for leaf in jax.tree.leaves(waiting))

    (none, _), (blocks, least), (dots, waiting) = map(of_block, ("none", "blocks", "dots"))
    image = SIDE**2 * WIDE
    assert blocks > dots
    assert dots == none
    assert 0.9 * image < waiting - least < 1.1 * image  # what the first convolution gives; the second's is not asked for again


def test_another_policy_is_refused(params):
    with pytest.raises(InvalidInput, match=r"unknown remat 'block': expected one of none, blocks, dots. Did you mean 'blocks'"):
        UNet(**SMALL, remat="block").apply(params, X, T)
