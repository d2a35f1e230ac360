"""The page that goes with exported weights: a README.md whose head the Hugging Face hub reads."""

import json
from pathlib import Path
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from jax_ddpm.experiment import image_shape, is_classifier, known_classes
from jax_ddpm.files import write_whole

FILE_NAME = "README.md"
TAGS = ["ddpm", "diffusion", "jax", "jax_ddpm"]


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


def model_card(config: ConfigDict, name: str, step: int, parameters: int, use: Use, evaluation: dict[str, Any]) -> str:
    """The text of the page, with what is known and nothing else: the licence of the weights is for their owner to say.

    Args:
      config: of the run.
      name: a title.
      step: how many steps the weights were trained for.
      parameters: how many numbers they are.
      evaluation: what `--mode evaluate` found, see `found_by_evaluation`.
    """
    parts = [
        _head(config, use),
        f"# {name}",
        _what_it_is(config, step, parameters),
        "## Use",
        _code(use),
        _training(config, step),
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


def _head(config: ConfigDict, use: Use) -> str:
    """The metadata, as YAML; each value as JSON, which is YAML too."""
    task = "image-classification" if is_classifier(config) else "unconditional-image-generation"
    fields: dict[str, Any] = {
        "library_name": use.library,
        "pipeline_tag": task,
        "tags": ["ddpm", "diffusion", "jax", "jax_ddpm"],
    }
    if config.data.name.startswith("hf:"):
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
    return f"{what}: {parameters:,} parameters, trained for {step:,} steps with jax_ddpm.{known}"


def _code(use: Use) -> str:
    return f"```{use.language}\n{use.code.strip()}\n```"


def _training(config: ConfigDict, step: int) -> str:
    """The settings that a reader asks for; config.json has all of them."""
    data, diffusion, train = config.data, config.diffusion, config.train
    average = f"their average, decay {train.ema_decay:g}" if train.ema_decay else "as they were after the last step"
    rows = {
        "Data": f"{data.name}, {data.split}" + (", mirrored at random" if data.flip else ""),
        "Chain": f"{diffusion.schedule} schedule, T = {diffusion.steps}",
        "Network says": f"{diffusion.prediction}; variance {diffusion.variance}",
        "Loss": f"{diffusion.loss}, weighting {diffusion.weighting}, timesteps {diffusion.timesteps}",
        "Optimizer": f"Adam, learning rate {train.learning_rate:g}, batch {train.batch_size}, {step:,} steps",
        "Weights": average,
    }
    if is_classifier(config):
        rows = {key: value for key, value in rows.items() if key not in ("Network says", "Loss")}
    return "\n".join(["## Training", "", "| | |", "|---|---|", *(f"| {key} | {value} |" for key, value in rows.items())])


def _table(evaluation: dict[str, Any]) -> str:
    """A row a figure, with what it depends on."""
    rows = ["| figure | value | of | how |", "|---|---|---|---|"]
    for folder, results in evaluation.items():
        for name, result in results.items():
            value = result.get("mean", result.get(name, result.get("memorised")))
            if not isinstance(value, int | float):
                continue
            error = result.get("standard_error")
            said = f"{value:.4g}" + (f" ± {error:.2g}" if error is not None else "")
            rows.append(f"| {name} | {said} | {_of(result)} | {folder} |")
    return "\n".join(rows)


def _of(result: dict[str, Any]) -> str:
    if "samples" in result:
        return f"{result['samples']:,} samples, seed {result['seed']}"
    return f"{result.get('images', 0):,} images of {result.get('data', '')}, {result.get('split', '')}"
