"""The whole sampler as one file that JAX alone runs: network, weights, chain and guidance, as StableHLO.

What `jax.export` writes is kept beside a description of it in JSON. Whoever opens it needs neither this package nor Flax:

    sampler = jax.export.deserialize(open("sampler.jax_export", "rb").read())
    images = sampler.call(seed, batch, labels)
"""

from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import export
from ml_collections import ConfigDict

from jax_ddpm.config import to_dict
from jax_ddpm.experiment import image_shape, known_classes, make_sampler
from jax_ddpm.files import write_json, write_whole
from jax_ddpm.generation import batch_key, make_draw
from jax_ddpm.trained import Classifier
from jax_ddpm.training.state import Params

VERSION = 1
"""Of the arguments and of the description; it grows when a program that opens the files would have to change."""
PROGRAM, DESCRIPTION = "sampler.jax_export", "sampler.json"
PLATFORMS = ("cpu", "cuda", "rocm", "tpu")


class Artifact(NamedTuple):
    """The bytes of a program, and what there is to know of it."""

    program: bytes
    description: dict[str, Any]


def export_sampler(
    config: ConfigDict, params: Params, step: int, guide: Classifier | None = None, *, average: bool = True
) -> Artifact:
    """The sampler and the guidance that a config names, for any number of images, on every kind of device.

    The program takes a seed, the number of the batch (both uint32) and labels [B] int32, and gives images [B, H, W, C] uint8:
    those of `--mode sample` with that seed, in batches of that size. Labels count only where the network or the guide knows
    classes.

    Args:
      params: the network's, which become part of the program in the type that they have; it computes with them in float32.
      step: how many steps they were trained for.
      guide: the classifier that guides, if any does; it becomes part of the program too.
      average: whether the parameters are the averaged ones; else they are those that the last step left.
    Raises:
      InvalidInput: settings with which nothing can be drawn.
    """
    draw = make_draw(config, guide)

    def program(seed: jax.Array, batch: jax.Array, labels: jax.Array) -> jax.Array:
        whole = jax.tree.map(lambda leaf: jax.lax.convert_element_type(leaf, jnp.float32), params)
        images, _ = draw(whole, guide and guide.params, labels, batch_key(seed, batch))
        return jnp.rint(jnp.clip(images, -1, 1) * 127.5 + 127.5).astype(jnp.uint8)

    number = jax.ShapeDtypeStruct((), jnp.uint32)
    labels = jax.ShapeDtypeStruct(export.symbolic_shape("B"), jnp.int32)
    exported = export.export(jax.jit(program), platforms=PLATFORMS)(number, number, labels)
    return Artifact(bytes(exported.serialize()), _described(config, step, exported, average))


def _described(config: ConfigDict, step: int, exported: export.Exported, average: bool) -> dict[str, Any]:
    """What the arguments and the result are, and how the program came about."""
    settings, classes = to_dict(config), known_classes(config)
    labels = f"one of 0..{classes - 1} for each image" if classes else "of any value, one for each image: there are no classes"
    return {
        "version": VERSION,
        "program": PROGRAM,
        "arguments": {"seed": "uint32", "batch": "uint32, the number of the batch", "labels": f"[B] int32, {labels}"},
        "result": {"images": ["B", *image_shape(config)], "dtype": "uint8", "values": "0..255"},
        "class_names": settings["data"]["class_names"],
        "sampler": settings["sampler"] | {"evaluations": make_sampler(config).evaluations},
        "guidance": settings["guidance"] | {"classifier": Path(config.guidance.classifier).name},  # no path of this machine
        "trained_steps": step,
        "weights": "ema" if average else "last",
        "made_with": {"jax": jax.__version__, "calling_convention": exported.calling_convention_version},
        "platforms": list(exported.platforms),
    }


def write_artifact(folder: Path, artifact: Artifact) -> Path:
    """Writes program and description into a folder; returns where the program is."""
    write_json(folder / DESCRIPTION, artifact.description)
    return write_whole(folder / PROGRAM, lambda path: path.write_bytes(artifact.program))
