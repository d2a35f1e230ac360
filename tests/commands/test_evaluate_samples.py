"""What is said of samples: the class that a classifier takes them for, and the training images nearest to them."""

import json

import numpy as np
import pytest
from PIL import Image

from jax_ddpm import features, sample_reports
from jax_ddpm.commands import evaluate
from jax_ddpm.config import read_config
from jax_ddpm.data.sources.digits import digits
from jax_ddpm.errors import InvalidInput
from jax_ddpm.trained import open_classifier
from jax_ddpm.training.sharding import make_mesh


def run(workdir, metrics, **settings):
    config = read_config(workdir)
    config.eval.update(metrics=metrics, **settings)
    evaluate.main(config, workdir)
    directory = workdir / "evaluation/samples_7_step_0000006_seed_0"
    return json.loads((directory / "evaluation.json").read_text()), directory


def test_samples_are_judged_and_compared_and_neither_takes_the_place_of_the_other(trained, trained_classifier, capsys):
    run(trained, ("agreement",), classifier=str(trained_classifier))
    found, directory = run(trained, ("nearest",))
    assert found.keys() == {"agreement", "nearest"}
    for row in found.values():
        assert (row["samples"], row["seed"], row["checkpoint"], row["sampler"]["name"]) == (7, 0, 6, "ancestral")
        assert row["guidance"]["scale"] == 1
    samples = np.load(trained / "samples/step_0000006_seed_0/samples.npz")
    printed = capsys.readouterr().out

    own = open_classifier(with_classifier(trained, trained_classifier), "eval.classifier", make_mesh(), same_noise=False)
    logits = own.network.apply({"params": own.params}, samples["arr_0"] / np.float32(127.5) - 1, np.zeros(7))
    right = np.argmax(logits, axis=1) == samples["arr_1"]
    agreement = found["agreement"]
    assert agreement["agreement"] == pytest.approx(right.mean())
    assert list(agreement["by_class"].values()) == right.astype(float).tolist()  # seven samples, of seven classes
    assert list(agreement["by_class"]) == list("0123456")
    assert agreement["classifier_images"] == 297
    assert f"agreement: {right.mean():.1%}" in printed

    training = np.stack([digits("train")[index]["image"] for index in range(1500)]).astype(float)
    distance = np.sqrt(((training[:, None] - samples["arr_0"]) ** 2).mean(axis=(2, 3, 4)))
    kept = np.load(directory / "nearest.npz")
    np.testing.assert_allclose(kept["distances"], np.sort(distance, axis=0)[:2].T, rtol=1e-12)
    np.testing.assert_array_equal(kept["training_numbers"], np.argsort(distance, axis=0, kind="stable")[:2].T)
    quantiles = found["nearest"]["distance_quantiles"]
    assert quantiles == {name: pytest.approx(np.quantile(distance.min(axis=0), float(name))) for name in quantiles}
    assert {"0", "0.05", "0.5", "1"} < set(quantiles) == set(found["nearest"]["held_out_distance_quantiles"])
    assert found["nearest"]["training_images"] == 1500
    with Image.open(directory / "nearest.png") as picture:
        shown = np.asarray(picture.resize((picture.width // 8, picture.height // 8), Image.Resampling.NEAREST))
    first = distance.min(axis=0).argmin()  # the sample that is nearest to any
    assert len(found["nearest"]["shown"]) == 7
    nearest = found["nearest"]["shown"][0]
    assert (nearest["sample"], nearest["memorised"]) == (first, False)
    assert nearest["training_numbers"] == kept["training_numbers"][first].tolist()
    np.testing.assert_allclose(nearest["distances"], kept["distances"][first], atol=0.005)
    np.testing.assert_array_equal(shown[1:9, 1:9], samples["arr_0"][first, :, :, 0])
    np.testing.assert_array_equal(shown[1:9, 10:18], training[distance[:, first].argmin(), :, :, 0])


def with_classifier(trained, trained_classifier):
    config = read_config(trained)
    config.eval.classifier = str(trained_classifier)
    return config


def test_training_images_in_place_of_samples_are_found_out(trained, tmp_path):
    images = np.stack([digits("train")[index]["image"] for index in range(12)])
    found = sample_reports.make_nearest(read_config(trained), make_mesh(), trained)((images, np.zeros(12)), tmp_path)
    assert (found["memorised"], found["nearer_than_95_percent_of_held_out"], found["median_distance"]) == (12, 12, 0)
    assert 10 < found["held_out_median_distance"] < 100


def test_of_many_samples_the_copies_are_counted_and_shown_first(trained, tmp_path, capsys):
    """Seven training images, one of them twice, among held-out ones that are no copies, and too many for a picture."""
    copied = [1200, 3, 77, 640, 641, 3, 1499]
    fresh = [digits("test")[index]["image"] for index in range(63)]
    images = np.stack([*fresh[:40], *(digits("train")[index]["image"] for index in copied), *fresh[40:]])
    found = sample_reports.make_nearest(read_config(trained), make_mesh(), trained)((images, np.zeros(70)), tmp_path)
    printed = capsys.readouterr().out
    assert (found["memorised"], found["held_out_memorised"], found["held_out_images"]) == (7, 0, 70)
    assert "memorised: 7 of 70 samples are copies" in printed
    assert "and 0 of them would be called memorised" in printed
    assert [each["sample"] for each in found["shown"][:7]] == list(range(40, 47))
    assert [each["training_numbers"][0] for each in found["shown"][:7]] == copied
    assert [each["memorised"] for each in found["shown"]] == 7 * [True] + 57 * [False]
    assert "the other 6 are not in the picture; distances and numbers of all are in nearest.npz" in printed
    assert {name: each.shape for name, each in np.load(tmp_path / "nearest.npz").items()} == {
        "distances": (70, 2),
        "training_numbers": (70, 2),
    }
    assert len(json.dumps(found)) < 10_000  # however many samples there are
    # The 63 others are held-out images themselves: of them about as many are near as chance has.
    assert 7 <= found["nearer_than_95_percent_of_held_out"] <= 7 + 8
    assert found["nearer_expected_of_held_out"] == 3.5
    with Image.open(tmp_path / "nearest.png") as picture:
        assert (picture.width, picture.height) == (8 * (9 * 12 + 1), 8 * (9 * 11 + 1))


def test_each_process_finds_the_neighbours_of_its_share_and_together_they_are_those_of_one(trained, tmp_path, monkeypatch):
    """Of 9, of 12 and of none of the samples; what the others find is that of one process."""
    images, config, found = np.stack([digits("test")[index]["image"] for index in range(5, 26)]), read_config(trained), []
    monkeypatch.setattr(sample_reports, "joined", lambda own: found.append(own) or own)
    report = sample_reports.make_nearest(config, make_mesh(), trained)
    figures, whole, parts = report((images, np.zeros(21)), tmp_path), list(found), []
    assert [len(each) for each in whole] == 6 * [21]  # images, numbers and distances: of samples, and of held-out images
    for share in (range(9), range(9, 21), range(21, 21)):
        others = iter(whole)
        for module in (sample_reports, features):
            monkeypatch.setattr(module, "own_share", lambda total, share=share: share)
        monkeypatch.setattr(sample_reports, "joined", lambda own, others=others: found.append(own) or next(others))
        found.clear()
        assert report((images, np.zeros(21)), tmp_path) == figures
        parts.append(list(found))
    for one, *own in zip(whole, *parts, strict=True):
        assert [len(each) for each in own] == [9, 12, 0]
        np.testing.assert_array_equal(np.concatenate(own), one)


def test_images_trained_on_are_no_measure_of_how_near_is_near(trained, tmp_path, capsys):
    config = read_config(trained)
    config.eval.split = "train"
    found = sample_reports.make_nearest(config, make_mesh(), trained)((np.zeros((2, 8, 8, 1), np.uint8), np.zeros(2)), tmp_path)
    assert "held_out_median_distance" not in found
    assert "the run was trained on these images" in capsys.readouterr().out


def test_what_samples_are_measured_by_is_spread_over_the_images_held_out():
    source = features.some(digits("test"), 30)
    assert len(source) == 30
    whole = digits("test")
    for number in range(30):
        stretch = range(number * 297 // 30, (number + 1) * 297 // 30)
        assert any(np.array_equal(source[number]["image"], whole[place]["image"]) for place in stretch)


def test_a_classifier_is_shown_every_image_once_whatever_the_batch(trained, trained_classifier):
    config = with_classifier(trained, trained_classifier)
    logits = []
    for batch_size in (4, 64):
        config.eval.batch_size = batch_size
        describe = features.open_judge(config, make_mesh()).describe
        logits.append(np.concatenate([found.logits for found, _ in describe(features.some(digits("test"), 11))]))
    assert logits[0].shape == (11, 10)
    np.testing.assert_allclose(*logits, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("metrics", "settings", "message"),
    [
        (("agreement",), {}, r"Expected a run that can be asked for classes, and --config\.eval\.classifier"),
        (("agreement",), {"classifier": "nowhere"}, r"no run at .*nowhere"),
        (("nearest",), {"split": "tset"}, r"unknown split of digits 'tset'"),
        (("neerest",), {}, r"unknown eval\.metrics 'neerest'.*Did you mean 'nearest'\?"),
    ],
)
def test_what_cannot_be_judged_is_told(trained, metrics, settings, message):
    (trained / "samples").rename(trained / "other")
    try:
        with pytest.raises(InvalidInput, match=message):
            run(trained, metrics, **settings)
        assert not (trained / "samples").exists()  # nothing is drawn first
    finally:
        (trained / "other").rename(trained / "samples")


def test_a_classifier_is_no_judge_of_what_it_guides(trained, trained_classifier):
    config = with_classifier(trained, trained_classifier)
    config.guidance.classifier = config.eval.classifier
    config.eval.metrics = ("agreement",)
    with pytest.raises(InvalidInput, match=r"is the classifier that guides, and would agree with itself"):
        evaluate.main(config, trained)


def test_a_network_that_draws_is_no_judge(trained):
    with pytest.raises(InvalidInput, match=r"eval\.classifier=.* that run is of a U-Net"):
        run(trained, ("agreement",), classifier=str(trained))
