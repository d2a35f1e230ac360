"""The page that goes with exported weights: a README.md whose head the Hugging Face hub reads."""

import json
from pathlib import Path
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from jax_ddpm.experiment import image_shape, is_classifier, known_classes
from jax_ddpm.figures import figures, with_error
from jax_ddpm.files import write_whole

FILE_NAME = "README.md"
TAGS = ["ddpm", "diffusion", "jax", "jax_ddpm"]
_FILES = (".bin", ".ckpt", ".pt", ".pth", ".safetensors")


class Use(NamedTuple):
    """How an export is used.

    Attributes:
      library: what opens it, by the hub's name for it.
      language: of the code, such as "python".
      code: a few lines that draw images, or say of what class one is.
    """

    library: str
    language: str
    code: str


def model_card(
    config: ConfigDict,
    name: str,
    step: int,
    parameters: int,
    use: Use,
    evaluation: dict[str, Any],
    *,
    average: bool = True,
) -> str:
    """The text of the page, with what is known and nothing else: the licence of the weights is for their owner to say.

    Of weights that were imported, and not trained here since, it is not known how they were trained.

    Args:
      config: of the run.
      name: a title.
      step: how many steps the weights were trained for.
      parameters: how many numbers they are.
      evaluation: what `--mode evaluate` found, see `found_by_evaluation`.
      average: whether the weights are the averaged ones; else they are those that the last step left.
    """
    parts = [
        _head(config, use, step),
        f"# {name}",
        _what_it_is(config, step, parameters),
        "## Use",
        _code(use),
        _settings(config, step, average),
    ]
    if evaluation:
        parts += ["## Evaluation", _table(evaluation)]
    return "\n\n".join(parts) + "\n"


def write_model_card(folder: Path, text: str) -> Path:
    """Writes the page into the folder of the weights."""
    return write_whole(folder / FILE_NAME, lambda path: path.write_text(text, encoding="utf-8"))


def found_by_evaluation(workdir: Path, step: int) -> dict[str, Any]:
    """By the name of its folder, what each evaluation of the weights of this step has found, as it is in evaluation.json."""
    found = {}
    for path in sorted((workdir / "evaluation").glob("*/evaluation.json")):
        results = json.loads(path.read_text())
        if all(result.get("checkpoint") == step for result in results.values()):
            found[path.parent.name] = results
    return found


def origin(source: str) -> str:
    """What to call the source of imported weights: the hub's name for it; of a path of this machine its last part."""
    path = Path(source).expanduser()
    on_hub = source.count("/") == 1 and not source.startswith((".", "~", "/")) and path.suffix not in _FILES
    return source if on_hub and not path.exists() else path.name


def _only_imported(config: ConfigDict, step: int) -> bool:
    """Whether the weights are as they were imported. A run that begins with such ones has the name of their source too."""
    return bool(config.import_weights["from"]) and step == 0


def _head(config: ConfigDict, use: Use, step: int) -> str:
    """The metadata, as YAML; each value as JSON, which is YAML too."""
    task = "image-classification" if is_classifier(config) else "unconditional-image-generation"
    fields: dict[str, Any] = {
        "library_name": use.library,
        "pipeline_tag": task,
        "tags": TAGS,
    }
    if config.data.name.startswith("hf:") and not _only_imported(config, step):
        fields["datasets"] = [config.data.name.removeprefix("hf:")]
    return "\n".join(["---", *(f"{name}: {json.dumps(value)}" for name, value in fields.items()), "---"])


def _what_it_is(config: ConfigDict, step: int, parameters: int) -> str:
    height, width, channels = image_shape(config)
    images = f"{height}×{width} {'grey' if channels == 1 else 'RGB'} images"
    if is_classifier(config):
        what = f"A classifier of noisy {images}"
    else:
        what = f"A denoising diffusion model (Ho et al. 2020) of {images}"
    classes, names = known_classes(config), [str(each) for each in config.data.class_names]
    known = f" It knows {classes} classes: {', '.join(names[:20])}{', ...' if len(names) > 20 else ''}." if classes else ""
    return f"{what}: {parameters:,} parameters, {_where_from(config, step)}.{known}"


def _where_from(config: ConfigDict, step: int) -> str:
    trained, source = f"trained for {step:,} steps with jax_ddpm", config.import_weights["from"]
    if _only_imported(config, step):
        return f"imported from {origin(source)}"
    return f"{trained}, from weights that were imported from {origin(source)}" if source else trained


def _code(use: Use) -> str:
    return f"```{use.language}\n{use.code.strip()}\n```"


def _settings(config: ConfigDict, step: int, average: bool) -> str:
    """The settings that a reader asks for; config.json has all of them."""
    diffusion, imported = config.diffusion, _only_imported(config, step)
    rows = {"Chain": f"{diffusion.schedule} schedule, T = {diffusion.steps}"}
    if not is_classifier(config):
        rows["Network says"] = f"{diffusion.prediction}; variance {diffusion.variance}"
    if not imported:
        rows |= _training(config, step, average)
    title = "Settings" if imported else "Training"
    return "\n".join([f"## {title}", "", "| | |", "|---|---|", *(f"| {key} | {value} |" for key, value in rows.items())])


def _training(config: ConfigDict, step: int, average: bool) -> dict[str, str]:
    data, diffusion, train = config.data, config.diffusion, config.train
    averaged = average and train.ema_decay
    loss = {"Loss": f"{diffusion.loss}, weighting {diffusion.weighting}, timesteps {diffusion.timesteps}"}
    return {
        "Data": f"{data.name}, {data.split}" + (", mirrored at random" if data.flip else ""),
        **({} if is_classifier(config) else loss),
        "Optimizer": f"Adam, learning rate {train.learning_rate:g}, batch {train.batch_size}, {step:,} steps",
        "Weights": f"their average, decay {train.ema_decay:g}" if averaged else "as they were after the last step",
    }


def _table(evaluation: dict[str, Any]) -> str:
    """A row a figure, with what it depends on."""
    rows = ["| figure | value | of | against | how |", "|---|---|---|---|---|"]
    for folder, results in evaluation.items():
        for figure in (each for name, result in results.items() for each in figures(name, result)):
            against = figure._replace(reference=_public(figure.reference)).against
            rows.append(f"| {figure.title}, {figure.unit} | {with_error(figure)} | {figure.of} | {against} | {folder} |")
    return "\n".join(rows)


def _public(reference: str) -> str:
    """The name of real images: of a path of this machine only the last part."""
    return reference if reference.startswith("hf:") else reference.rpartition("/")[-1]
