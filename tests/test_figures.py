"""From evaluation.json to figures: each number that a metric has is one, called by the title that is kept with it."""

from typing import NamedTuple

import numpy as np
import pytest

from jax_ddpm import features, metrics
from jax_ddpm.evaluation.frechet import moments
from jax_ddpm.evaluation.inception import Features
from jax_ddpm.evaluation.reference import Reference
from jax_ddpm.feature_reports import FeatureJudge
from jax_ddpm.features import Extractor, as_source
from jax_ddpm.figures import KINDS, figures, with_error

SIZE, SAMPLES, REAL = 4, 60, 80
DRAWN = {"checkpoint": 300, "weights": "ema", "samples": SAMPLES, "seed": 3}
INCEPTION = {name: f"{name}_tensorflow" for name in features._OF_INCEPTION}
CLASSIFIER = {  # a classifier has no spatial features
    **{"fid": "classifier_frechet_distance", "is": "classifier_score", "kid": "classifier_kernel_distance"},
    **{"precision_recall": "classifier_precision_and_recall", "density_coverage": "classifier_density_and_coverage"},
}
TITLES = {name: f"classifier {title}" for name, title in features._OF_CLASSIFIER.items()}


class Called(NamedTuple):
    """What an extractor calls metrics, for readers and in files, and what it adds to their figures."""

    titles: dict[str, str]
    keys: dict[str, str]
    about: dict[str, str]


OF = {
    "inception": Called(features._OF_INCEPTION, INCEPTION, {"resize": "tensorflow"}),
    "classifier": Called(TITLES, CLASSIFIER, {}),
}
EXPECTED = {  # of each metric: the keys under which its figures are kept, and the unit of each
    "fid": {"distance": "Fréchet distance", "infinity": "Fréchet distance"},
    "sfid": {"distance": "Fréchet distance", "infinity": "Fréchet distance"},
    "is": {"score": "score"},
    "kid": {"mean": "squared MMD"},
    "precision_recall": {"precision": "share of samples", "recall": "share of real images"},
    "density_coverage": {"density": "density", "coverage": "share of real images"},
}


def described(source):
    vectors = np.random.default_rng(len(source)).normal(size=(len(source), SIZE)).astype(np.float32)
    yield Features(vectors, vectors, vectors), np.arange(len(source))


@pytest.fixture(scope="module")
def found():
    """By the extractor and the metric, what is kept of it: its key and the rest, as the judge itself gives it."""
    (real, *_), _ = next(described(range(REAL)))
    known = Reference("digits, train", REAL, "by hand", moments(real), moments(real), real)

    def judge(of):
        extractor = Extractor("by hand", described, Features(SIZE, SIZE, SIZE), *of)
        rows = FeatureJudge(extractor, known, tuple(of.titles), 0).report(as_source(np.zeros((SAMPLES, 8, 8, 1), np.uint8)))
        return {name: row | DRAWN for name, row in zip(of.titles, rows, strict=True)}

    return {name: judge(of) for name, of in OF.items()}


@pytest.mark.parametrize(
    ("extractor", "metric"),
    [(name, metric) for name, of in OF.items() for metric in metrics.FEATURE_METRICS if metric in of.titles],
)
def test_no_figure_of_features_is_left_out(found, extractor, metric):
    kept = found[extractor][metric]
    rows = figures(kept["metric"], kept)
    assert kept["metric"] == OF[extractor].keys[metric]
    assert [(row.value, row.unit) for row in rows] == [(kept[name], unit) for name, unit in EXPECTED[metric].items()]
    assert rows[0].error == kept.get("standard_error")
    assert [row.error for row in rows[1:]] == [kept.get(f"{name}_standard_error") for name in list(EXPECTED[metric])[1:]]
    assert {(row.images, row.of, row.checkpoint) for row in rows} == {(SAMPLES, "60 samples, seed 3", 300)}
    assert {row.against for row in rows} == {"" if metric == "is" else "80 of digits, train"}
    assert len({row.key for row in rows}) == len(rows)


@pytest.mark.parametrize(
    ("extractor", "metric", "titles"),
    [
        ("inception", "fid", ["FID (tensorflow resize)", "FID∞ (tensorflow resize)"]),
        ("inception", "precision_recall", ["Precision (tensorflow resize)", "Recall (tensorflow resize)"]),
        ("classifier", "fid", ["Classifier Fréchet distance", "Classifier Fréchet distance∞"]),
        ("classifier", "density_coverage", ["Classifier density", "Classifier coverage"]),
    ],
)
def test_they_are_called_by_the_title_that_is_kept(found, extractor, metric, titles):
    kept = found[extractor][metric]
    assert [row.title for row in figures(kept["metric"], kept)] == titles


def test_the_deviation_of_a_score_is_not_taken_for_the_error_of_its_mean(found):
    kept = found["inception"]["is"]
    (score,) = figures("is_tensorflow", kept)
    assert score.error is None
    assert with_error(score) == f"{kept['score']:.6g} (deviation {kept['deviation']:.3g} over {kept['parts']} parts)"


def test_every_other_metric_has_its_figures():
    assert KINDS.keys() == {*metrics.METRICS, *metrics.SAMPLE_METRICS}
    nearest = {"memorised": 1, "median_distance": 24.5, "distance_quantiles": {"0.5": 24.5}, **DRAWN}
    assert [(row.value, row.unit) for row in figures("nearest", nearest)] == [(24.5, "grey levels"), (1, "samples")]
    bound = {"mean": 3.25, "standard_error": 0.125, "images": 64, "data": "digits", "split": "test"}
    (row,) = figures("bits_per_dim", bound)
    assert (row.title, row.of, row.against, with_error(row)) == (
        "Variational bound",
        "64 images of digits, test",
        "",
        "3.25 ± 0.12",
    )


def test_a_second_figure_of_a_metric_says_what_it_is_by_or_against():
    kept = {"metric": "agreement", "agreement": 0.75, "standard_error": 0.125, "classifier": "runs/a", **DRAWN}
    (first,), (second,) = figures("agreement", kept), figures("agreement by runs/b", kept | {"classifier": "runs/b"})
    assert (first.value, first.unit, first.error) == (0.75, "share of samples", 0.125)
    assert (second.value, second.unit, second.error) == (0.75, "share of samples", 0.125)
    assert [row.title for row in (first, second)] == [f"Samples of the class asked for by runs/{name}" for name in "ab"]
    assert [row.key for row in (first, second)] == [f"agreement by runs/{name}" for name in "ab"]

    said = "against digits, test, 80 images, by runs/a"
    kept = {"metric": "classifier_frechet_distance", "title": f"classifier Fréchet distance {said}", "classifier": "runs/a"}
    rows = figures(f"classifier_frechet_distance {said}", kept | {"distance": 2.0, "infinity": 1.5, **DRAWN})
    assert [row.title for row in rows] == [f"Classifier Fréchet distance{infinite} {said}" for infinite in ("", "∞")]


def test_a_reference_that_is_taken_as_exact_is_told_with_the_error():
    kept = {"distance": 2.0, "standard_error": 0.25, "infinity": 1.5, "reference_taken_as_exact": True}
    distance, infinity = figures("fid_pytorch", kept)
    assert (with_error(distance), with_error(infinity)) == ("2.00 ± 0.25 (the reference taken as exact)", "1.5")
    _, infinity = figures("fid_pytorch", kept | {"infinity_standard_error": 0.5})
    assert with_error(infinity) == "1.50 ± 0.50 (the reference taken as exact)"


def test_a_limit_has_an_error_of_its_own(found):
    distance, infinity = figures("fid_pytorch", found["inception"]["fid"])
    assert distance.error == found["inception"]["fid"]["standard_error"]
    assert infinity.error == found["inception"]["fid"]["infinity_standard_error"] != distance.error
    assert "±" in with_error(infinity)


def test_a_metric_that_is_not_known_has_its_mean_and_one_without_numbers_none():
    (row,) = figures("of_tomorrow", {"mean": 1.5, "standard_error": None})
    assert (row.title, row.unit, row.value, row.of, row.images) == ("of tomorrow", "of tomorrow", 1.5, "", None)
    assert figures("of_tomorrow", {"curve": [1.0]}) == []


def test_a_reference_of_unknown_size_is_named_alone():
    (row,) = figures("fid_pytorch", {"distance": 2.0, "reference": "statistics.npz", "reference_images": None})
    assert row.against == "statistics.npz"
