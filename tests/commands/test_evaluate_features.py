"""Samples judged by features: of a run, of a file, by the Inception network and by a classifier, and what is written then."""

import dataclasses
import json
import subprocess
import sys

import numpy as np
import pytest

from jax_ddpm import feature_reports, features, opened_images
from jax_ddpm.commands import evaluate, sample
from jax_ddpm.config import default_config, read_config
from jax_ddpm.data.sources.digits import digits
from jax_ddpm.errors import InvalidInput
from jax_ddpm.evaluation.frechet import frechet_distance, moments
from jax_ddpm.evaluation.inception_score import RunningScore
from jax_ddpm.evaluation.manifold import density_coverage, precision_recall
from jax_ddpm.features import as_source, make_extractor, some
from jax_ddpm.interop.published import published
from jax_ddpm.metrics import FEATURE_METRICS, FEATURES
from jax_ddpm.pictures import save_png
from jax_ddpm.training.sharding import make_mesh
from tests.commands.conftest import ROOT
from tests.evaluation.test_inception import narrow_network, state_dict
from tests.interop.written import write_pth


def images(source, count):
    chosen = some(source, count)
    return np.stack([chosen[index]["image"] for index in range(count)])


@pytest.fixture
def samples(tmp_path):
    """An .npz file of 60 digits that are not those of the test set, half of them turned around."""
    drawn = images(digits("train"), 60)
    drawn[::2] = drawn[::2, ::-1, ::-1]
    np.savez(tmp_path / "samples.npz", arr_0=drawn)
    return tmp_path / "samples.npz"


def judged(samples, metrics, **settings):
    """What run.py does with --samples and no --config."""
    config = default_config()
    config.eval.update(samples=str(samples), metrics=metrics, **settings)
    evaluate.main(config, samples.parent / "no run")
    return json.loads((samples.parent / "samples.npz_evaluation/evaluation.json").read_text())


def of_classifier(trained_classifier, data):
    """Pooled features and logits by the classifier itself."""
    config = read_config(trained_classifier)
    config.eval.update(features="classifier", classifier=str(trained_classifier))
    found = [each for each, _ in make_extractor(config, make_mesh()).describe(as_source(data))]
    return [np.concatenate(parts) for parts in zip(*found, strict=True)]


def test_a_file_is_judged_by_a_classifier_and_every_figure_is_what_its_definition_says(
    samples, trained_classifier, tmp_path, capsys
):
    settings = {"features": "classifier", "classifier": str(trained_classifier), "batch_size": 16}
    statistics = tmp_path / "statistics.npz"
    metrics = ("fid", "is", "kid", "precision_recall", "density_coverage")
    shown = {"reference": "digits", "reference_count": 80, "save_reference": str(statistics)}
    found = judged(samples, metrics, **settings, **shown)
    printed = capsys.readouterr().out

    drawn, _, logits = of_classifier(trained_classifier, np.load(samples)["arr_0"])
    real, *_ = of_classifier(trained_classifier, images(digits("train"), 80))
    distance = frechet_distance(moments(drawn), moments(real))
    assert found["classifier_frechet_distance"]["distance"] == pytest.approx(distance, rel=1e-4, abs=1e-6)
    assert found["classifier_frechet_distance"]["standard_error"] > 0
    order = np.random.default_rng(0).permutation(60)
    score = RunningScore(10, 60)
    score.add(logits[order])
    assert found["classifier_score"]["score"] == pytest.approx(score.score().mean, rel=1e-4)
    near = {"rel": 1e-6, "abs": 1e-6}
    assert found["classifier_precision_and_recall"]["precision"] == pytest.approx(precision_recall(drawn, real)[0], **near)
    assert found["classifier_density_and_coverage"]["coverage"] == pytest.approx(density_coverage(drawn, real)[1], **near)
    assert (found["classifier_kernel_distance"]["blocks"], found["classifier_kernel_distance"]["block_size"]) == (10, 6)
    for name, row in found.items():
        assert (row["samples"], row["classifier_images"], row["weights"], row["seed"]) == (60, 297, "not known", "not known")
        assert ("reference_images" not in row) == (name == "classifier_score")
        assert row.get("reference_images", 80) == 80
    accuracy = found["classifier_score"]["classifier_accuracy"]
    assert f"which is right on {accuracy:.1%} of 297 images (digits, test)" in printed
    assert "classifier Fréchet distance: " in printed
    assert "of 60 samples against 80 images of digits, train" in printed

    for name in ("classifier_frechet_distance", "classifier_score"):
        assert found[name]["parts_drawn_by"] == 0

    beside = judged(samples, ("fid",), **settings, reference=str(statistics))
    assert beside["classifier_frechet_distance"] == found["classifier_frechet_distance"]  # which it does not take the place of
    said = f"against {statistics}, 80 images, by {trained_classifier}"
    again = beside[f"classifier_frechet_distance {said}"]
    assert again["title"] == f"classifier Fréchet distance {said}"
    assert judged(samples, ("fid",), **settings, reference=str(statistics)) == beside
    assert again["distance"] == pytest.approx(found["classifier_frechet_distance"]["distance"], rel=1e-6, abs=1e-9)
    assert (again["reference"], again["reference_images"]) == (str(statistics), 80)
    with pytest.raises(InvalidInput, match=r"statistics\.npz holds no images, and kid cannot be had of what it holds"):
        judged(samples, ("kid",), **settings, reference=str(statistics))


def test_a_run_is_judged_by_what_it_draws_and_every_figure_says_how_that_was_drawn(trained, trained_classifier):
    config = read_config(trained)
    settings = {"features": "classifier", "classifier": str(trained_classifier), "reference_count": 50}
    config.eval.update(metrics=("fid", "agreement"), **settings)
    config.sample.update(count=20, batch_size=20, seed=3)
    evaluate.main(config, trained)
    path = trained / "evaluation/samples_20_step_0000006_seed_3/evaluation.json"
    found = json.loads(path.read_text())
    assert found.keys() == {"agreement", "classifier_frechet_distance"}
    for row in found.values():
        circumstances = [row[name] for name in ("samples", "weights", "checkpoint", "seed", "evaluations", "classifier_images")]
        assert circumstances == [20, "ema", 6, 3, 8, 297]
        assert row["sampler"]["name"] == "ancestral"
    assert found["classifier_frechet_distance"]["reference"] == "digits, train"

    drawn = trained / "samples/step_0000006_seed_3/samples.npz"
    config = default_config()
    config.eval.update(samples=str(drawn), reference="digits", metrics=("fid",), **settings)
    evaluate.main(config, trained / "no run")  # which finds the samples.json that lies beside them
    alone = json.loads((drawn.parent / "samples.npz_evaluation/evaluation.json").read_text())["classifier_frechet_distance"]
    assert {name: alone[name] for name in found["classifier_frechet_distance"]} == found["classifier_frechet_distance"]
    assert alone["file"] == str(drawn)


def random_weights(path):
    """Of the network as it is now, such that no layer dies out, as a file of PyTorch."""
    weights = state_dict()
    for name, tensor in weights.items():
        scale = np.sqrt(2 / np.prod(tensor.shape[1:])) if name.endswith(("conv.weight", "fc.weight")) else 0.1
        weights[name] = tensor * scale + name.endswith(("running_var", "bn.weight"))
    return write_pth(path, weights)


@pytest.mark.optimised  # convolutions of 299×299
def test_a_file_is_judged_by_the_inception_network(samples, tmp_path):
    """With a sixteenth of its channels; `make parity` compares the features of the whole one."""
    np.savez(samples, arr_0=np.load(samples)["arr_0"][:24])
    metrics = ("fid", "is", "kid", "precision_recall")
    with narrow_network(16):
        path = random_weights(tmp_path / "weights.pth")
        settings = {"inception": str(path), "inception_sha256": "", "batch_size": 24, "resize": "pytorch"}
        found = judged(samples, metrics, **settings, reference="digits", reference_count=24)
        same = judged(samples, ("precision_recall",), **settings, reference=str(samples))
    assert found.keys() == {f"{name}_pytorch" for name in metrics}
    for row in found.values():
        assert (row["samples"], row["resize"], row["inception_sha256"]) == (24, "pytorch", published(str(path), "")[1])
        assert row.get("reference_images", 24) == 24
    assert found["fid_pytorch"]["distance"] > 0
    assert found["fid_pytorch"]["standard_error"] > 0
    assert found["is_pytorch"]["score"] >= 1
    of_itself = same[f"precision_recall_pytorch against {samples}, 24 images, by {published(str(path), '')[1][:8]}"]
    assert (of_itself["precision"], of_itself["recall"]) == (1, 1)


def test_a_process_reads_the_images_of_its_share_alone(trained_classifier, monkeypatch):
    config = read_config(trained_classifier)
    config.eval.update(features="classifier", classifier=str(trained_classifier), batch_size=8)
    describe, source, read = make_extractor(config, make_mesh()).describe, some(digits("test"), 21), []
    watched = dataclasses.replace(source, read=lambda index: read.append(index) or source.read(index))
    (whole, *_), found = of_classifier(trained_classifier, images(digits("test"), 21)), []
    for share in (range(9), range(9, 21), range(0)):
        monkeypatch.setattr(features, "own_share", lambda total, share=share: share)
        found += [np.concatenate([np.zeros((0, 8)), *(each.pooled for each, _ in describe(watched))])]
        assert set(read) == set(share)
        read.clear()
    np.testing.assert_allclose(np.concatenate(found), whole, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"metrics": ("fid",)},
            r"fid is of the features of the Inception network.*Expected --config\.eval\.inception=https://github",
        ),
        ({"metrics": ("fid",), "inception": "nowhere.pth"}, r"no file at nowhere\.pth"),
        ({"metrics": ("fid",), "features": "inceptoin"}, r"unknown eval\.features 'inceptoin'.*Did you mean 'inception'"),
        ({"metrics": ("fid",), "features": "classifier"}, r"expected --config\.eval\.classifier"),
        ({"metrics": ("sfid",), "features": "classifier", "classifier": "x"}, "sfid is of a layer of the Inception network"),
    ],
)
def test_what_makes_no_features_is_told_before_anything_is_drawn(trained, monkeypatch, settings, message):
    monkeypatch.setattr(evaluate, "draw", lambda *_: pytest.fail("something was drawn"))
    config = read_config(trained)
    config.eval.update(**settings)
    with pytest.raises(InvalidInput, match=message):
        evaluate.main(config, trained)


def test_another_file_than_the_published_one_is_told(trained, tmp_path):
    (tmp_path / "weights.pth").write_bytes(b"others")
    config = read_config(trained)
    config.eval.update(metrics=("fid",), inception=str(tmp_path / "weights.pth"))
    with pytest.raises(InvalidInput, match=r"weights\.pth has the SHA-256 \w{64}: expected 6726825d"):
        evaluate.main(config, trained)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"reference": ""}, r"say what to compare them with, --reference=FILE\.npz, a folder or a data set"),
        ({"metrics": ("nearest",)}, r"nearest is of a run: with --samples expected fid"),
        ({"reference": "digts"}, r"digts"),
    ],
)
def test_a_file_that_cannot_be_judged_is_told(samples, trained_classifier, settings, message):
    usual = {"features": "classifier", "classifier": str(trained_classifier), "reference": "digits", "metrics": ("fid",)}
    with pytest.raises(InvalidInput, match=message):
        judged(samples, **(usual | settings))


def test_statistics_of_other_features_are_not_compared(samples, trained_classifier, tmp_path):
    settings = {"features": "classifier", "classifier": str(trained_classifier)}
    np.savez(tmp_path / "a.npz", mu=np.zeros(3), sigma=np.eye(3))
    with pytest.raises(InvalidInput, match=r"a\.npz is of 3 features: classifier .* has 8"):
        judged(samples, ("fid",), **settings, reference=str(tmp_path / "a.npz"))
    np.savez(tmp_path / "b.npz", mu=np.zeros(8), sigma=np.eye(8), features="inception, pytorch resize")
    with pytest.raises(
        InvalidInput,
        match=r"b\.npz is of features by inception, pytorch resize: they cannot be compared with",
    ):
        judged(samples, ("fid",), **settings, reference=str(tmp_path / "b.npz"))


def test_what_makes_features_is_checked_under_the_names_by_which_it_is_made():
    assert features.EXTRACTORS.keys() == FEATURES.keys()


def test_every_metric_of_features_has_what_works_it_out():
    assert {*feature_reports.STREAMED, *feature_reports.OF_ALL} == set(FEATURE_METRICS)


def test_samples_come_in_an_order_that_has_nothing_to_do_with_their_classes():
    images = as_source(np.arange(40, dtype=np.uint8).reshape(40, 1, 1, 1))
    order = feature_reports._shuffled(40, seed=0)
    source = features.numbered(images, order)
    seen = [int(source[index]["image"][0, 0, 0]) for index in range(40)]
    assert seen == order.tolist() != sorted(seen)
    assert sorted(seen) == [source[index]["label"] for index in range(40)] == list(range(40))


def test_samples_that_cannot_be_read_are_not_left_out_in_silence(trained_classifier, tmp_path):
    for number, image in enumerate(images(digits("test"), 6)):
        save_png(tmp_path / f"drawn/{number}.png", image)
    (tmp_path / "drawn/3.png").write_bytes(b"damaged")
    config = read_config(trained_classifier)
    config.data.on_damaged = "skip"
    config.eval.update(features="classifier", classifier=str(trained_classifier))
    judge = feature_reports.prepare(config, make_mesh(), ("is",), 6)
    with pytest.raises(InvalidInput, match="1 of the 6 samples cannot be read"):
        judge.report(opened_images.open_images(str(tmp_path / "drawn"), config))


def test_a_folder_of_samples_is_its_archive_and_not_its_pictures(trained_classifier, tmp_path):
    drawn, folder = images(digits("test"), 40), tmp_path / "step_0000006_seed_0"
    sample.write(folder, drawn, np.zeros(40, int), columns=8)
    (folder / "samples.json").write_text(json.dumps({"checkpoint": 6, "weights": "ema", "seed": 3}))
    config = default_config()
    settings = {"features": "classifier", "classifier": str(trained_classifier)}
    config.eval.update(samples=str(folder), reference="digits", metrics=("is",), **settings)
    written = evaluate.evaluate_file(config, tmp_path / "no run", make_mesh())
    assert written == folder / "samples.npz_evaluation"
    found = json.loads((written / "evaluation.json").read_text())["classifier_score"]
    assert (found["samples"], found["checkpoint"], found["seed"]) == (40, 6, 3)
    source = opened_images.open_images(str(folder), config)
    np.testing.assert_array_equal(np.stack([source[index]["image"] for index in range(len(source))]), drawn)

    (folder / "samples.npz").unlink()
    with pytest.raises(InvalidInput, match=r"written by --mode sample, and has no samples\.npz any more"):
        opened_images.open_images(str(folder), config)


def test_a_file_and_a_folder_that_are_called_alike_are_judged_apart(samples, trained_classifier, tmp_path):
    for number, image in enumerate(images(digits("test"), 6)):
        save_png(tmp_path / f"samples/{number}.png", image)
    config = default_config()
    settings = {"features": "classifier", "classifier": str(trained_classifier), "reference": "digits", "metrics": ("is",)}
    folders = []
    for each in (samples, tmp_path / "samples"):
        config.eval.update(samples=str(each), **settings)
        folders.append(evaluate.evaluate_file(config, tmp_path / "no run", make_mesh()))
    counts = [json.loads((each / "evaluation.json").read_text())["classifier_score"]["samples"] for each in folders]
    assert counts == [60, 6]


@pytest.mark.parametrize(
    ("metric", "count", "shown", "message"),
    [
        ("kid", 19, {}, "eval.metrics=kid of 19 samples: expected 20 or more"),
        ("kid", 20, {"reference_count": 19}, "eval.metrics=kid of 19 images of digits: expected 20 or more"),
        ("precision_recall", 3, {}, "eval.metrics=precision_recall of 3 samples: expected 4 or more"),
    ],
)
def test_too_few_samples_are_told_before_any_are_drawn(trained, trained_classifier, monkeypatch, metric, count, shown, message):
    monkeypatch.setattr(evaluate, "draw", lambda *_: pytest.fail("something was drawn"))
    config = read_config(trained)
    config.eval.update(metrics=(metric,), features="classifier", classifier=str(trained_classifier), **shown)
    config.sample.count = count
    with pytest.raises(InvalidInput, match=message):
        evaluate.main(config, trained)


def test_the_fewest_samples_are_those_that_a_metric_takes():
    """What is told first is what the metric itself would say."""
    for name, work_out in feature_reports.OF_ALL.items():
        samples, real = (np.random.default_rng(0).normal(size=(fewest, 3)) for fewest in feature_reports.FEWEST[name])
        work_out(samples, real, 0)
        with pytest.raises(InvalidInput, match=f"expected {len(real)} or more"):
            work_out(samples, real[1:], 0)
        if len(samples) > 1:
            with pytest.raises(InvalidInput, match=f"expected {len(samples)} or more"):
                work_out(samples[1:], real, 0)


def test_the_command_line_needs_no_run(samples, trained_classifier):
    command = [sys.executable, "run.py", "--mode=evaluate", f"--samples={samples}", "--reference=digits"]
    chosen = ["--config.eval.features=classifier", f"--config.eval.classifier={trained_classifier}"]
    done = subprocess.run(
        [*command, *chosen, "--config.eval.metrics=fid,is,kid"], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert "classifier kernel distance: " in done.stdout
    found = json.loads((samples.parent / "samples.npz_evaluation/evaluation.json").read_text())
    assert found.keys() == {"classifier_frechet_distance", "classifier_score", "classifier_kernel_distance"}
