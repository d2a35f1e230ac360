"""The train step on several devices: by jit, where XLA splits it, or by pmap, where each device runs it on its part."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh, NamedSharding

from jax_ddpm.errors import InvalidInput
from jax_ddpm.training.sharding import DATA_AXIS, FSDP_AXIS, replicated


def _same(tree: Any) -> Any:
    return tree


class Layout(NamedTuple):
    """What a step does itself where batch and parameters lie on several devices; nothing, unless it is told to.

    Attributes:
      params: the parameters, as they are about to be used: whole.
      batch: a device's part of the batch, or of what was found of it -> all of it.
      part: all of a batch -> the device's part.
      mean: a mean over a device's part -> over the batch.
      key: -> another on each device.
    """

    params: Callable[[Any], Any] = _same
    batch: Callable[[Any], Any] = _same
    part: Callable[[Any], Any] = _same
    mean: Callable[[Any], Any] = _same
    key: Callable[[jax.Array], jax.Array] = _same


WHOLE_BATCH = Layout()
"""The step sees all of the batch, wherever it lies."""
MakeStep = Callable[[Layout], Callable[..., Any]]
"""-> (state, batch) -> (state, metrics)."""


def by_jit(make_step: MakeStep, mesh: Mesh, state: Any, batch: Any) -> Callable[..., Any]:
    """The step compiled for a mesh; the state that it is given is used up.

    Where the state is split, the parameters are gathered as they are used, the gradient is summed, and each device updates its
    part of the state.

    Args:
      state, batch: trees of jax.ShapeDtypeStruct with shardings.
    """
    whole = replicated(mesh)
    in_shardings = jax.tree.map(lambda like: like.sharding, (state, batch))
    split = mesh.shape[FSDP_AXIS] > 1
    layout = Layout(params=_gathered_for_use(in_shardings[0].params, whole)) if split else WHOLE_BATCH
    step = jax.jit(make_step(layout), in_shardings=in_shardings, out_shardings=(in_shardings[0], whole), donate_argnums=0)
    return step.lower(state, batch).compile()


def _gathered_for_use(split: Any, whole: NamedSharding) -> Callable[[Any], Any]:
    """Parameters as they lie -> whole; their gradient, summed over the devices, as they lie."""

    @jax.custom_vjp
    def gather(params: Any) -> Any:
        return jax.lax.with_sharding_constraint(params, whole)

    def backward(_: None, grads: Any) -> tuple[Any]:
        return (jax.lax.with_sharding_constraint(grads, split),)

    gather.defvjp(lambda params: (gather(params), None), backward)
    return gather


def by_pmap(make_step: MakeStep, mesh: Mesh, state: Any, batch: Any) -> Callable[..., Any]:
    """The same, of one process, with the state whole on each device; see `by_jit`.

    Each device draws for the whole batch, so that the parts add up to what `by_jit` computes. Dropout alone is of each part.
    """
    axis, devices = DATA_AXIS, mesh.size

    def part(tree: Any) -> Any:
        number = jax.lax.axis_index(axis)
        return jax.tree.map(lambda x: x.reshape(devices, -1, *x.shape[1:])[number], tree)

    layout = Layout(
        batch=partial(jax.lax.all_gather, axis_name=axis, tiled=True),
        part=part,
        mean=partial(jax.lax.pmean, axis_name=axis),
        key=lambda key: jax.random.fold_in(key, jax.lax.axis_index(axis)),
    )
    axes: dict[str, Any] = {"in_axes": (None, 0), "out_axes": (None, None)}
    step = jax.pmap(make_step(layout), axis, **axes, devices=list(mesh.devices.flat), donate_argnums=0)

    def parts(batch: Any) -> Any:
        return jax.tree.map(lambda x: x.reshape(devices, -1, *x.shape[1:]), batch)

    compiled = step.lower(state, jax.eval_shape(parts, batch)).compile()
    return lambda state, batch: compiled(state, parts(batch))


def check_pmap(mesh: Mesh) -> None:
    """Raises InvalidInput where the step cannot run by pmap."""
    fsdp, processes = mesh.shape[FSDP_AXIS], jax.process_count()
    if fsdp > 1 or processes > 1:
        raise InvalidInput(
            f"train.parallel=pmap with mesh.fsdp={fsdp} and {processes} process(es): it keeps the state whole, in one process. "
            "Expected train.parallel=jit"
        )


PARALLEL: dict[str, Callable[[MakeStep, Mesh, Any, Any], Callable[..., Any]]] = {"jit": by_jit, "pmap": by_pmap}
