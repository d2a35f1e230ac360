"""A run that has been trained, opened to be used."""

from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from jax_ddpm.checks import check
from jax_ddpm.config import changes, check_unchanged, read_config
from jax_ddpm.errors import InvalidInput
from jax_ddpm.experiment import init_params, is_classifier, make_network, make_schedule, same_classes
from jax_ddpm.files import place
from jax_ddpm.models.classifier import NoisyClassifier
from jax_ddpm.step_program import new_state
from jax_ddpm.training.checkpoints import Checkpoints
from jax_ddpm.training.sharding import abstract, replicated
from jax_ddpm.training.state import Params
from jax_ddpm.training.weights import FILE_NAME as WEIGHTS_FILE
from jax_ddpm.training.weights import Weights, read_weights

_IMAGES = ("data.image_size", "data.channels", "data.class_names")
_NOISE = tuple(f"diffusion.{name}" for name in ("schedule", "steps", "beta_start", "beta_end", "zero_terminal_snr"))

_MEANING = (*_NOISE, "diffusion.prediction")


class Classifier(NamedTuple):
    """A trained classifier of noisy images: the settings of its run, the network and its parameters."""

    config: ConfigDict
    network: NoisyClassifier
    params: Params


def open_run(config: ConfigDict, workdir: Path, mesh: Mesh, *, average: bool = True) -> Weights:
    """The averaged parameters of the newest checkpoint, and its step; nothing in `workdir` is touched.

    Where there are no checkpoints, those of the weights file that `--mode export_weights` writes.

    Args:
      config: the run's, in what training fixed; the names of its classes are filled in.
      mesh: over whose devices the parameters are replicated.
      average: False for the parameters as the last step left them, of a run that has checkpoints.
    Raises:
      InvalidInput: there is no run, it has other settings, or no checkpoint yet.
    """
    check_unchanged(fill_in_classes(config, workdir), workdir)
    check(config)
    like = abstract(jax.eval_shape(partial(init_params, config), jax.random.key(0)), replicated(mesh))
    with Checkpoints(workdir / "checkpoints", read_only=True) as checkpoints:
        if average and checkpoints.latest_step is None and (workdir / WEIGHTS_FILE).is_file():
            return read_weights(workdir / WEIGHTS_FILE, like)
        if not average:
            return Weights(*checkpoints.restore_params(abstract(jax.eval_shape(partial(new_state, config)), replicated(mesh))))
        return Weights(*checkpoints.restore_ema(like))


def fill_in_classes(config: ConfigDict, workdir: Path) -> ConfigDict:
    """Gives `config` the classes that can be asked for: those of the run or, where it knows none, those of its guide.

    Returns:
      The settings with the run's own classes, to be compared with those that are kept.
    """
    kept, own = read_config(workdir).data, config.copy_and_resolve_references()
    config.data.class_names = own.data.class_names = config.data.class_names or kept.class_names
    if config.guidance.classifier and not (kept.class_names or config.model.class_conditional or is_classifier(config)):
        guide = read_config(place(config.guidance.classifier)).data
        for data, known in ((own.data, kept), (config.data, guide)):
            data.update(class_names=known.class_names, classes_named=known.classes_named)
    return own


def kind_of_weights(workdir: Path) -> str:
    """Which weights of a run `open_run` opens: "ema", the averaged ones, or "last", as the last step left them.

    These are all there is where nothing was averaged, and in a folder into which `--mode export_weights` wrote them alone.
    """
    settings, alone = read_config(workdir), not (workdir / "checkpoints").is_dir()
    averaged = settings.train.ema_decay > 0 and (settings.export_weights.average or not alone)
    return "ema" if averaged else "last"


def open_start(config: ConfigDict, mesh: Mesh, like: Params) -> Weights:
    """The averaged weights of the run that `train.start` names, for another run of the same network to begin with.

    Args:
      config: of the run that begins; its data, its loss and how it is trained may be others.
      like: the shapes of its parameters.
    Raises:
      InvalidInput: there is no such run, its network is another, or what it says has another meaning.
    """
    start = place(config.train.start)
    settings = read_config(start)
    different = [f"{name}={old!r}, not {new!r}" for name, (old, new) in changes(settings, config).items() if name in _MEANING]
    if different:
        raise InvalidInput(f"train.start={start} was trained with {', '.join(different)}")
    weights = open_run(settings, start, mesh)
    shapes, wanted = (jax.tree.map(lambda leaf: leaf.shape, tree) for tree in (weights.params, like))
    if shapes != wanted:
        raise InvalidInput(f"train.start={start} is of another network: expected the settings of its model and of its classes")
    return weights


def open_classifier(config: ConfigDict, setting: str, mesh: Mesh, *, same_noise: bool) -> Classifier:
    """The classifier whose workdir a setting names.

    Args:
      config: of the run whose images it is to know.
      setting: such as "guidance.classifier".
      same_noise: whether it must have been trained on the same noise.
    Raises:
      InvalidInput: there is no such run, it is none of a classifier, or one of other images, classes or noise.
    """
    group, name = setting.split(".")
    workdir = place(config[group][name])
    settings = read_config(workdir)
    network = make_network(settings)
    if not isinstance(network, NoisyClassifier):
        raise InvalidInput(f"{setting}={workdir}: that run is of a U-Net. Expected one of model.network=noisy_classifier")
    noised_alike = not same_noise or np.array_equal(make_schedule(config).betas, make_schedule(settings).betas)
    numbered = same_classes(config.data, settings.data.class_names, named=settings.data.classes_named)
    for alike in _IMAGES if noised_alike else _IMAGES + _NOISE:  # not every schedule heeds every one of its settings
        group, name = alike.split(".")
        own, theirs = config[group][name], settings[group][name]
        if own != theirs and not (name == "class_names" and numbered):
            raise InvalidInput(f"{setting}={workdir} was trained with {alike}={theirs!r}: expected {own!r}, as here")
    return Classifier(settings, network, open_run(settings, workdir, mesh).params)


def mode_of_use(config: ConfigDict) -> str:
    """The flags of a command that such a network is of use to: not every one draws images from noise alone."""
    if is_classifier(config):
        return "--mode evaluate --config.eval.metrics=accuracy"
    return "--mode edit --task enlarge" if config.model.low_res_size else "--mode sample"
