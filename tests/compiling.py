"""What JAX makes of a function: compiled quickly or well, in float64, or the equations that it comes to."""

import contextlib
from collections.abc import Iterator

import jax
import numpy as np


@contextlib.contextmanager
def optimised(whether: bool) -> Iterator[None]:
    """Within it what is compiled is optimised, or is not, and then compiled several times as fast."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", not whether)
    try:
        yield
    finally:
        jax.config.update("jax_disable_most_optimizations", before)


def in_float64(function, *arrays):
    [found] = in_float64_for_each(function, arrays)
    return found


def in_float64_for_each(function, *calls):
    """The results of several calls, compiled once."""
    with jax.enable_x64(True):
        compiled = jax.jit(function)
        return [jax.tree.map(np.asarray, compiled(*arrays)) for arrays in calls]


def equations(jaxpr):
    """Every equation of a jaxpr and of the jaxprs inside it."""
    for equation in jaxpr.eqns:
        yield equation
        for parameter in jax.tree.leaves(tuple(equation.params.values()), is_leaf=lambda p: hasattr(p, "eqns")):
            if hasattr(parameter, "eqns"):
                yield from equations(getattr(parameter, "jaxpr", parameter))
