"""--mode export_weights: the weights of a run, with its settings, in a folder of their own."""

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict
from safetensors.numpy import save

from jax_ddpm.artifact import PROGRAM, export_sampler, write_artifact
from jax_ddpm.config import default_config, write_config
from jax_ddpm.errors import InvalidInput, choose
from jax_ddpm.experiment import image_shape, make_network, make_schedule, num_classes
from jax_ddpm.files import place, write_json, write_whole
from jax_ddpm.generation import open_guide
from jax_ddpm.interop.diffusers import to_diffusers
from jax_ddpm.interop.diffusers_config import scheduler_config, unet_config
from jax_ddpm.interop.find import CONFIG, SCHEDULER, WEIGHTS
from jax_ddpm.model_card import Use, found_by_evaluation, model_card, origin, write_model_card
from jax_ddpm.models.unet import UNet
from jax_ddpm.trained import mode_of_use, open_run
from jax_ddpm.training.sharding import make_mesh
from jax_ddpm.training.weights import DTYPES, FILE_NAME, Weights, rounded, write_weights

PLACES = (
    ("data", "directory"),
    ("train", "start"),
    ("guidance", "classifier"),
    ("edit", "images"),
    ("edit", "mask"),
    ("eval", "classifier"),
    ("eval", "inception"),
    ("eval", "samples"),
    ("eval", "reference"),
    ("eval", "save_reference"),
    ("serve", "host"),
    ("serve", "port"),
    ("export_weights", "out"),
    ("import_weights", "from"),
    ("import_weights", "given"),
    ("compare", "workdirs"),
    ("compare", "out"),
    ("runtime", "compilation_cache"),
)


MANY = 16  # images that the printed lines draw; or one of each class, where those are fewer


def main(config: ConfigDict, workdir: Path) -> None:
    """Writes `export_weights.out`: weights and settings, all that sampling, editing, evaluating and training further need.

    In the form of diffusers, what its DDPMPipeline opens; as StableHLO, the whole sampler as a program for JAX alone. With each
    goes a page that says what it is.

    Raises:
      InvalidInput: no folder to write is named, or one that holds a run; or diffusers has no such network.
    """
    out = place(config.export_weights.out)
    choose("export_weights.dtype", stored := config.export_weights.dtype, DTYPES)
    form = choose("export_weights.to", config.export_weights.to, FORMATS)
    if not config.export_weights.out:
        raise InvalidInput("no folder named: say where the weights are to go, --out FOLDER")
    if (out / "checkpoints").exists():
        raise InvalidInput(f"{out} holds a run, whose checkpoints come before a file of weights: name another folder by --out")
    weights = open_run(config, workdir, make_mesh(), average=config.export_weights.average)
    path, size = form.write(config, weights, out), sum(leaf.size for leaf in jax.tree.leaves(weights.params))
    average = config.export_weights.average
    found = found_by_evaluation(workdir, weights.step) if average else {}
    use = Use(form.library, form.language, form.use(config, out.name))
    card = write_model_card(out, model_card(config, out.name, weights.step, size, use, found, average=average))
    print(f"{size:,} parameters of step {weights.step} as {stored}, {len(path.read_bytes()) / 1e6:.2f} MB: {path}")
    print(f"what they are: {card}")
    print(f"they open with:\n{form.use(config, str(out))}")


def _as_run(config: ConfigDict, weights: Weights, out: Path) -> Path:
    write_config(without_places(config), out)
    return write_weights(out / FILE_NAME, *weights, dtype=DTYPES[config.export_weights.dtype])


def _as_diffusers(config: ConfigDict, weights: Weights, out: Path) -> Path:
    """A folder as DDPMPipeline.save_pretrained writes it."""
    network = make_network(config)
    if not isinstance(network, UNet) or network.augmentation:
        raise InvalidInput("diffusers has U-Nets alone, and none that is told how images were augmented")
    labels = network.num_classes + network.null_label
    unet = unet_config(config.model, config.data.image_size, config.data.channels, network.out_channels, labels)
    scheduler = scheduler_config(config.diffusion, np.asarray(make_schedule(config).betas), config.sampler.clip)
    tensors = rounded(to_diffusers(weights.params), DTYPES[config.export_weights.dtype])
    content = save({name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}, {"format": "pt"})
    index = {"_class_name": "DDPMPipeline", "scheduler": ["diffusers", "DDPMScheduler"], "unet": ["diffusers", "UNet2DModel"]}
    files = {"model_index.json": index, f"unet/{CONFIG}": unet, f"scheduler/{SCHEDULER}": scheduler}
    for name, values in files.items():
        write_json(out / name, values)
    return write_whole(out / "unet" / WEIGHTS[0], lambda path: path.write_bytes(content))


def _as_program(config: ConfigDict, weights: Weights, out: Path) -> Path:
    """The whole sampler, see `artifact.py`."""
    guide = open_guide(config, make_mesh())
    params = jax.device_get(rounded(weights.params, DTYPES[config.export_weights.dtype]))
    average = config.export_weights.average
    return write_artifact(out, export_sampler(config, params, weights.step, guide, average=average))


def _use_run(config: ConfigDict, folder: str) -> str:
    return f"python run.py {mode_of_use(config)} --workdir {shlex.quote(folder)}"


def _use_diffusers(config: ConfigDict, folder: str) -> str:
    """Their pipeline takes 1,000 steps where nothing is said, and tells the network no labels: with classes it is its loop."""
    classes, (height, width, channels) = num_classes(config), image_shape(config)
    if not classes:
        steps = "" if config.diffusion.steps == 1000 else f"num_inference_steps={config.diffusion.steps}"
        return f"from diffusers import DDPMPipeline\n\nimages = DDPMPipeline.from_pretrained({folder!r})({steps}).images"
    return f"""import torch
from diffusers import DDPMPipeline

pipeline = DDPMPipeline.from_pretrained({folder!r})
labels = torch.arange({min(classes, MANY)})  # one for each image, of 0..{classes - 1}
x = torch.randn(len(labels), {channels}, {height}, {width})
pipeline.scheduler.set_timesteps({config.diffusion.steps})
with torch.no_grad():
    for t in pipeline.scheduler.timesteps:
        x = pipeline.scheduler.step(pipeline.unet(x, t, class_labels=labels).sample, t, x).prev_sample
images = pipeline.numpy_to_pil((x / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).numpy())"""


def _use_program(config: ConfigDict, folder: str) -> str:
    path = f"{folder}/{PROGRAM}"
    return f"""import jax.export, numpy as np

sampler = jax.export.deserialize(open({path!r}, 'rb').read())
images = sampler.call(np.uint32(0), np.uint32(0), np.zeros({MANY}, np.int32))  # seed, batch, labels"""


class Format(NamedTuple):
    """A way to write weights: what writes them, what opens them, and by which lines of which language, told the folder."""

    write: Callable[[ConfigDict, Weights, Path], Path]
    library: str
    language: str
    use: Callable[[ConfigDict, str], str]


FORMATS = {
    "safetensors": Format(_as_run, "jax_ddpm", "bash", _use_run),
    "diffusers": Format(_as_diffusers, "diffusers", "python", _use_diffusers),
    "stablehlo": Format(_as_program, "jax", "python", _use_program),
}


def without_places(config: ConfigDict) -> ConfigDict:
    """The settings with the places of this machine left out; where the weights were imported from keeps its name."""
    settings, usual = config.copy_and_resolve_references(), default_config()
    for group, name in PLACES:
        settings[group][name] = usual[group][name]
    if source := config.import_weights["from"]:  # or the weights would pass for ones that were trained here
        settings.import_weights["from"] = origin(source)
    return settings
