"""The page beside exported weights: its head is YAML that the hub reads, and its figures are those that were found."""

import json

import pytest
import yaml

from configs import digits, digits_classifier
from jax_ddpm.model_card import Use, found_by_evaluation, model_card, origin, write_model_card

USE = Use("jax_ddpm", "bash", "python run.py --mode sample --workdir .\n")
CLASSES = tuple(str(number) for number in range(10))


def card(config=None, evaluation=None, step=800, **options):
    config = config or digits.get_config()
    config.data.class_names = CLASSES
    text = model_card(config, "Digits", step, 702_625, USE, evaluation or {}, **options)
    _, head, body = text.split("---\n", 2)
    return yaml.safe_load(head), body


def test_its_head_is_what_the_hub_reads():
    head, _ = card()
    assert head["library_name"] == "jax_ddpm"
    assert head["pipeline_tag"] == "unconditional-image-generation"
    assert "diffusion" in head["tags"]
    assert not {"license", "datasets"} & head.keys(), "what is not known is not said"


def test_a_set_of_the_hub_is_linked():
    config = digits.get_config()
    config.data.name = "hf:ylecun/mnist"
    assert card(config)[0]["datasets"] == ["ylecun/mnist"]


def test_it_says_what_the_network_is_how_it_was_trained_and_how_it_is_used():
    _, body = card()
    for said in ("702,625 parameters", "800 steps", "8×8 grey", "10 classes: 0, 1, 2", "T = 1000", f"```bash\n{USE.code}```"):
        assert said in body
    assert "## Evaluation" not in body


def test_a_classifier_is_called_one():
    head, body = card(digits_classifier.get_config())
    assert head["pipeline_tag"] == "image-classification"
    assert "A classifier of noisy" in body
    assert "Network says" not in body


BOUND = {"mean": 2.5678, "standard_error": 0.0612, "images": 128, "data": "digits", "split": "test", "checkpoint": 800}
AGREEMENT = {"agreement": 0.99, "standard_error": 0.01, "samples": 64, "seed": 3, "checkpoint": 800, "by_class": {}}


def test_figures_come_with_their_error_and_what_they_are_of():
    _, body = card(evaluation={"all": {"bits_per_dim": BOUND}, "ddim": {"agreement": AGREEMENT}})
    assert "| Variational bound, bits/dim | 2.568 ± 0.061 | 128 images of digits, test |  | all |" in body
    assert "| Samples of the class asked for, share of samples | 0.990 ± 0.010 | 64 samples, seed 3 |  | ddim |" in body


def test_figures_of_features_come_with_their_reference_and_no_path_of_this_machine():
    drawn = {"samples": 64, "seed": 3, "checkpoint": 800, "resize": "pytorch"}
    fid = {"title": "FID", "distance": 12.5, "standard_error": 0.5, "reference": "/home/me/real.npz, train", **drawn}
    both = {"title": "precision and recall", "precision": 0.75, "recall": 0.5, "reference": "hf:a/b, train", **drawn}
    found = {"fid_pytorch": fid | {"reference_images": 5000}, "precision_recall_pytorch": both | {"reference_images": 100}}
    _, body = card(evaluation={"x": found})
    assert (
        "| FID (pytorch resize), Fréchet distance | 12.50 ± 0.50 | 64 samples, seed 3 | 5,000 of real.npz, train | x |" in body
    )
    assert "| Precision (pytorch resize), share of samples | 0.75 | 64 samples, seed 3 | 100 of hf:a/b, train | x |" in body
    assert "| Recall (pytorch resize), share of real images | 0.5 | 64 samples, seed 3 | 100 of hf:a/b, train | x |" in body
    assert "/home" not in body


@pytest.mark.parametrize(
    ("source", "called"),
    [
        ("google/ddpm-cifar10-32", "google/ddpm-cifar10-32"),
        ("/home/me/theirs/model.pt", "model.pt"),
        ("theirs/model.pt", "model.pt"),
        ("~/ddpm", "ddpm"),
    ],
)
def test_of_imported_weights_it_says_where_they_are_from_and_not_how_they_were_trained(source, called):
    config = digits.get_config()
    config.data.name = "hf:ylecun/mnist"
    config.import_weights["from"] = source
    head, body = card(config, step=0)
    assert origin(source) == called
    assert f"702,625 parameters, imported from {called}." in body
    assert "datasets" not in head
    for said in ("trained", "Training", "| Data |", "| Loss |", "| Optimizer |", "| Weights |", "/home"):
        assert said not in body
    assert "| Chain | linear schedule, T = 1000 |" in body


def test_a_folder_that_is_here_is_not_taken_for_one_of_the_hub(tmp_path, monkeypatch):
    (tmp_path / "theirs/ddpm").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert origin("theirs/ddpm") == "ddpm"


def test_weights_that_were_trained_further_say_what_they_began_with():
    config = digits.get_config()
    config.import_weights["from"] = "google/ddpm"
    body = card(config)[1]
    assert "trained for 800 steps with jax_ddpm, from weights that were imported from google/ddpm." in body
    assert "| Optimizer |" in body


@pytest.mark.parametrize(("average", "said"), [(True, "their average, decay 0."), (False, "as they were after the last step")])
def test_which_weights_they_are_is_said(average, said):
    assert f"| Weights | {said}" in card(average=average)[1]


@pytest.mark.parametrize(("step", "expected"), [(800, {"now": {"bits_per_dim": BOUND}}), (900, {})])
def test_only_evaluations_of_these_weights_count(tmp_path, step, expected):
    for name, result in {"now": BOUND, "before": BOUND | {"checkpoint": 400}}.items():
        (tmp_path / "evaluation" / name).mkdir(parents=True)
        (tmp_path / "evaluation" / name / "evaluation.json").write_text(json.dumps({"bits_per_dim": result}))
    assert found_by_evaluation(tmp_path, step) == expected


def test_it_is_written_beside_the_weights(tmp_path):
    assert write_model_card(tmp_path, "né\n").read_text(encoding="utf-8") == "né\n"
    assert [path.name for path in tmp_path.iterdir()] == ["README.md"]
