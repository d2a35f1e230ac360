"""What JAX makes of a function: compiled quickly or well, in float64, or the equations that it comes to."""

import contextlib
from collections.abc import Generator, Iterator

import jax
import numpy as np
import pytest


@contextlib.contextmanager
def optimised(whether: bool) -> Iterator[None]:
    """Within it what is compiled is optimised, or is not, and then compiled several times as fast."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", not whether)
    try:
        yield
    finally:
        jax.config.update("jax_disable_most_optimizations", before)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """In a folder whose conftest.py imports this, programs run for less time than it takes to optimise them.

    The others are those of tests that are marked `optimised`.
    """
    with optimised(item.get_closest_marker("optimised") is not None):
        return (yield)


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
