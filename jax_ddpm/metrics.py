"""What a run can be judged by: from the names in `eval.metrics` to functions, and whether they can be asked of it."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
from ml_collections import ConfigDict

from jax_ddpm.config import INCEPTION_URL
from jax_ddpm.diffusion.likelihood import VLB, stretches, vlb_terms
from jax_ddpm.diffusion.ode import check_flow, ode_bits_per_dim
from jax_ddpm.diffusion.prediction import Denoiser, static_clip
from jax_ddpm.errors import InvalidInput, choose
from jax_ddpm.evaluation.accuracy import Answers, answers
from jax_ddpm.experiment import is_classifier, known_classes, make_schedule, make_short_schedule
from jax_ddpm.models.classifier import NoisyClassifier
from jax_ddpm.training.state import Params


def make_bound(config: ConfigDict) -> Callable[[Denoiser, jax.Array, jax.Array], VLB]:
    """(denoiser, x0 [B, ...], key) -> the terms of the variational bound."""
    schedule, diffusion = make_short_schedule(config, config.eval.respacing), config.diffusion
    options = {
        "prediction": diffusion.prediction,
        "variance": diffusion.variance,
        "clip": static_clip if config.eval.clip else None,
        "draws": config.eval.draws,
    }
    stretches(schedule.steps, config.eval.draws or schedule.steps)  # too many are told before anything is begun
    return lambda denoiser, x0, key: vlb_terms(schedule, denoiser, x0, key, **options)


def make_flow_bits(config: ConfigDict) -> Callable[[Denoiser, jax.Array, jax.Array], jax.Array]:
    """(denoiser, x0 [B, ...], key) -> [B] bits per dimension by the probability flow, over the whole schedule."""
    schedule, tolerance = make_schedule(config), config.eval.ode_tolerance
    check_flow(schedule, config.diffusion.prediction)
    options = {"prediction": config.diffusion.prediction, "rtol": tolerance, "atol": tolerance}
    return lambda denoiser, x0, key: ode_bits_per_dim(schedule, denoiser, x0, key, **options)


def make_accuracy(config: ConfigDict) -> Callable[[NoisyClassifier, Params, jax.Array, jax.Array, jax.Array], Answers]:
    """(network, params, x0 [B, ...], labels [B], key) -> whether the classifier is right, at ten levels of noise."""
    schedule = make_schedule(config)

    def judge(network: NoisyClassifier, params: Params, x0: jax.Array, labels: jax.Array, key: jax.Array) -> Answers:
        return answers(schedule, partial(network.apply, {"params": params}), x0, labels, key)

    return judge


METRICS: dict[str, Callable[[ConfigDict], Callable[..., Any]]] = {
    "bits_per_dim": make_bound,
    "ode_bits_per_dim": make_flow_bits,
    "accuracy": make_accuracy,
}
SAMPLE_METRICS = ("agreement", "nearest")  # of images drawn as --mode sample draws them
FEATURE_METRICS = (
    "fid",
    "sfid",
    "is",
    "kid",
    "precision_recall",
    "density_coverage",
)  # of such ones, by eval.features


def chosen_metrics(config: ConfigDict) -> tuple[str, ...]:
    """The names in `eval.metrics`, of METRICS, SAMPLE_METRICS or FEATURE_METRICS; a flag has commas between them.

    Raises:
      InvalidInput: there is no such metric, or not of such a network.
    """
    names = tuple(name.strip() for name in ",".join(config.eval.metrics).split(","))
    for name in names:
        choose("eval.metrics", name, METRICS | dict.fromkeys((*SAMPLE_METRICS, *FEATURE_METRICS)))
        if is_classifier(config) and name != "accuracy":
            raise InvalidInput(f"eval.metrics={name}: a classifier says nothing of how likely images are. Expected accuracy")
        if name == "accuracy" and not is_classifier(config):
            raise InvalidInput(
                f"eval.metrics=accuracy is of a classifier, and model.network={config.model.network}. Expected one of "
                f"{', '.join(each for each in (*METRICS, *SAMPLE_METRICS, *FEATURE_METRICS) if each != 'accuracy')}"
            )
        if name == "agreement" and not (config.eval.classifier and known_classes(config)):
            raise InvalidInput(
                "eval.metrics=agreement is how often a classifier takes samples for the class asked for. Expected a run that "
                "can be asked for classes, and --config.eval.classifier, the workdir of one that knows them"
            )
        if name in FEATURE_METRICS:
            choose("eval.features", config.eval.features, FEATURES)(config, name)
        if name == "agreement" and config.eval.classifier == config.guidance.classifier:
            raise InvalidInput(
                f"eval.classifier={config.eval.classifier} is the classifier that guides, and would agree with itself: "
                "expected another"
            )
    return names


def _check_inception(config: ConfigDict, name: str) -> None:
    if not config.eval.inception:
        raise InvalidInput(
            f"eval.metrics={name} is of the features of the Inception network, whose weights are not named. Expected "
            f"--config.eval.inception={INCEPTION_URL} or the path of that file; or, of images that it knows nothing of, "
            "--config.eval.features=classifier and --config.eval.classifier, the workdir of a classifier"
        )


def _check_classifier(config: ConfigDict, name: str) -> None:
    if not config.eval.classifier:
        raise InvalidInput(
            f"eval.features=classifier, and {name}: expected --config.eval.classifier, the workdir of a classifier"
        )
    if name == "sfid":
        raise InvalidInput("eval.metrics=sfid is of a layer of the Inception network: expected eval.features=inception")


FEATURES: dict[str, Callable[[ConfigDict, str], None]] = {"inception": _check_inception, "classifier": _check_classifier}
"""Raise InvalidInput where nothing is named that makes the features, or it does not make those that the metric is of."""
