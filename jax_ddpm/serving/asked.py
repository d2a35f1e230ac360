"""What can be asked of the page, within which limits, and the settings that it comes to."""

from typing import Any, NamedTuple

from ml_collections import ConfigDict

from jax_ddpm.config import default_config
from jax_ddpm.errors import InvalidInput, choose
from jax_ddpm.experiment import SAMPLERS, known_classes

IN_TURN, NO_CLASS = -1, -2
"""Labels that are none: every class, one image after another; and no class, which a network with label_dropout knows."""
HIGHEST_SEED = 2**31 - 1
HIGHEST_SCALE = 20.0
MOST_RESAMPLES = 20
FIRST_SAMPLER, FIRST_STEPS = "ddim", 50  # where neither the run nor a flag says another: the whole chain takes a CPU minutes


class Limits(NamedTuple):
    """What a run can be asked for.

    Attributes:
      classes: their names, by label; () where nothing knows any.
      steps: of the chain, the most that a sampler takes.
      images: how many at a time.
      guided: whether there is a scale of guidance to be chosen.
      forgets: whether the network knows "no class".
    """

    classes: tuple[str, ...]
    steps: int
    images: int
    guided: bool
    forgets: bool


class Asked(NamedTuple):
    """What a person asks for: of how many images, by which sampler in how many steps, and so on.

    Attributes:
      label: of all images; or IN_TURN, or NO_CLASS.
      scale: of guidance.
      resamples: of inpainting, how often each stretch of the chain is gone through.
    """

    sampler: str
    steps: int
    images: int
    seed: int
    label: int = IN_TURN
    scale: float = 1.0
    resamples: int = 1


def limits_of(config: ConfigDict) -> Limits:
    """What the run can be asked for, with the classifier that guides it, if `guidance.classifier` names one."""
    forgets = bool(config.model.class_conditional and config.model.label_dropout)
    return Limits(
        classes=tuple(config.data.class_names)[: known_classes(config)],
        steps=config.diffusion.steps,
        images=config.serve.images,
        guided=forgets or bool(config.guidance.classifier),
        forgets=forgets and not config.guidance.classifier,
    )


def first_asked(config: ConfigDict) -> Asked:
    """What the page shows when it is opened: what the settings say."""
    sampler, usual, limits = config.sampler, default_config().sampler, limits_of(config)
    said = sampler.steps or (sampler.name, sampler.spacing) != (usual.name, usual.spacing)
    name, steps = (sampler.name, sampler.steps or limits.steps) if said else (FIRST_SAMPLER, min(FIRST_STEPS, limits.steps))
    images = min(len(limits.classes) or 4, limits.images)
    labels = tuple(config.sample.labels)
    return Asked(
        sampler=name,
        steps=steps,
        images=images,
        seed=config.sample.seed,
        label=labels[0] if len(labels) == 1 else IN_TURN,
        scale=config.guidance.scale if limits.guided else 1.0,
        resamples=config.edit.resamples,
    )


def checked(limits: Limits, asked: Asked) -> Asked:
    """The same with whole numbers where such are expected, however the browser sent them.

    Raises:
      InvalidInput: something is no number, out of its range, or not to be asked of this run.
    """
    choose("sampler", str(asked.sampler), SAMPLERS)
    known = len(limits.classes)
    lowest = NO_CLASS if limits.forgets else IN_TURN
    scale = _number("guidance scale", asked.scale, 0, HIGHEST_SCALE)
    if scale != 1 and not limits.guided:
        raise InvalidInput(f"guidance scale {scale:g}: this network cannot be guided. Expected 1")
    label = _whole("class", asked.label, lowest, known - 1) if known else IN_TURN
    if not known and asked.label != IN_TURN:
        raise InvalidInput(f"class {asked.label!r}: this network knows no classes")
    return Asked(
        sampler=asked.sampler,
        steps=_whole("steps", asked.steps, 1, limits.steps),
        images=_whole("images", asked.images, 1, limits.images),
        seed=_whole("seed", asked.seed, 0, HIGHEST_SEED),
        label=label,
        scale=scale,
        resamples=_whole("resamples", asked.resamples, 1, MOST_RESAMPLES),
    )


def inpainting(limits: Limits, asked: Asked) -> Asked:
    """What is asked for of inpainting: its images are of one picture, and so no class in turn, as `--mode edit` has it."""
    return asked._replace(label=NO_CLASS) if limits.forgets and asked.label == IN_TURN and asked.scale == 1 else asked


def settled(config: ConfigDict, asked: Asked) -> ConfigDict:
    """The settings with which `--mode sample` draws what is asked for, and `--mode edit --task inpaint` fills it in.

    Settings of another sampler than the one asked for, such as sampler.eta, go back to what is usual.

    Args:
      asked: as `checked` returns it.
    """
    config = config.copy_and_resolve_references()
    if asked.sampler != config.sampler.name:
        usual, own = default_config().sampler, SAMPLERS[asked.sampler][1]
        for name in {each for _, names in SAMPLERS.values() for each in names} - set(own):
            config.sampler[name] = usual[name]
    config.sampler.update(name=asked.sampler, steps=asked.steps)
    config.guidance.scale = asked.scale
    labels = (asked.label,) if asked.label >= 0 else ()
    size = max(config.sample.batch_size, asked.images)  # all at a time
    config.sample.update(count=asked.images, seed=asked.seed, labels=labels, batch_size=size)
    config.edit.update(task="inpaint", resamples=asked.resamples, seed=asked.seed, labels=labels)
    return config


def _number(what: str, value: Any, low: float, high: float) -> float:
    if not _within(value, low, high):
        raise InvalidInput(f"{what} {value!r}: expected a number from {low:g} to {high:g}")
    return float(value)


def _whole(what: str, value: Any, low: int, high: int) -> int:
    if not _within(value, low, high) or value != int(value):
        raise InvalidInput(f"{what} {value!r}: expected a whole number from {low} to {high}")
    return int(value)


def _within(value: Any, low: float, high: float) -> bool:
    """Whether it is a number of this range, as neither infinity nor what is none is."""
    return isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high
