"""The page beside exported weights: its head is YAML that the hub reads, and its figures are those that were found."""

import json

import pytest
import yaml

from configs import digits, digits_classifier
from jax_ddpm.model_card import Use, found_by_evaluation, model_card, write_model_card

USE = Use("jax_ddpm", "bash", "python run.py --mode sample --workdir .\n")
CLASSES = tuple(str(number) for number in range(10))


def card(config=None, evaluation=None):
    config = config or digits.get_config()
    config.data.class_names = CLASSES
    text = model_card(config, "Digits", 800, 702_625, USE, evaluation or {})
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
    assert "| bits_per_dim | 2.568 ± 0.061 | 128 images of digits, test | all |" in body
    assert "| agreement | 0.99 ± 0.01 | 64 samples, seed 3 | ddim |" in body


@pytest.mark.parametrize(("step", "expected"), [(800, {"now": {"bits_per_dim": BOUND}}), (900, {})])
def test_only_evaluations_of_these_weights_count(tmp_path, step, expected):
    for name, result in {"now": BOUND, "before": BOUND | {"checkpoint": 400}}.items():
        (tmp_path / "evaluation" / name).mkdir(parents=True)
        (tmp_path / "evaluation" / name / "evaluation.json").write_text(json.dumps({"bits_per_dim": result}))
    assert found_by_evaluation(tmp_path, step) == expected


def test_it_is_written_beside_the_weights(tmp_path):
    assert write_model_card(tmp_path, "né\n").read_text(encoding="utf-8") == "né\n"
    assert [path.name for path in tmp_path.iterdir()] == ["README.md"]
