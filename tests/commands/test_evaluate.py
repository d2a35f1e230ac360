"""The likelihood of held-out images, from a workdir and nothing else."""

import csv
import dataclasses
import json

import jax
import numpy as np
import pytest
from PIL import Image

from jax_ddpm import experiment, held_out, linear_schedule, metrics, vlb_terms
from jax_ddpm.commands import evaluate
from jax_ddpm.config import read_config, write_config
from jax_ddpm.data.sources.digits import digits
from jax_ddpm.data.sources.source import Source
from jax_ddpm.diffusion.prediction import static_clip
from jax_ddpm.errors import InvalidInput
from jax_ddpm.trained import open_run
from jax_ddpm.training.sharding import make_mesh

COUNT, BATCH = 10, 8  # the last batch is not full


def run(workdir, folder="step_0000006_test_seed_0_first_10", **settings):
    """evaluation.json, and the lines of vlb_terms.csv as numbers."""
    config = read_config(workdir)
    config.eval.update(**{"count": COUNT, "batch_size": BATCH, **settings})
    evaluate.main(config, workdir)
    directory = workdir / "evaluation" / folder
    with (directory / "vlb_terms.csv").open() as file:
        terms = [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]
    return json.loads((directory / "evaluation.json").read_text()), terms


@pytest.fixture(scope="module")
def evaluated(trained):
    return run(trained)


def bounds_by_hand(workdir):
    """The bits per dimension of each image, one batch after the other without devices to share them out to."""
    config = read_config(workdir)
    params, _ = open_run(config, workdir, make_mesh())
    source, bits, priors = digits("test"), [], []
    for number, start in enumerate(range(0, COUNT, BATCH)):
        examples = [source[index] for index in range(start, min(start + BATCH, COUNT))]
        filled = [examples[row % len(examples)] for row in range(BATCH)]
        x0 = np.stack([example["image"] for example in filled]).astype(np.float32) / 127.5 - 1
        labels = np.array([example["label"] for example in filled])
        denoiser = experiment.make_denoiser(experiment.make_network(config), params, labels)
        key = jax.random.fold_in(jax.random.key(0), number)
        bound = jax.jit(lambda x0, key: vlb_terms(linear_schedule(8), denoiser, x0, key, clip=static_clip))(x0, key)  # noqa: B023
        bits += (np.asarray(bound.total, np.float64) / 64 / np.log(2))[: len(examples)].tolist()
        priors += np.asarray(bound.prior, np.float64)[: len(examples)].tolist()
    return np.array(bits), np.mean(priors) / 64 / np.log(2)


def test_the_mean_and_its_standard_error_are_those_of_the_images(trained, evaluated):
    bits, prior = bounds_by_hand(trained)
    found = evaluated[0]["bits_per_dim"]
    assert found["images"] == COUNT
    # float32: sums of 64 components and eight terms, over other shapes of the convolutions.
    assert found["mean"] == pytest.approx(bits.mean(), rel=1e-4)
    assert found["standard_error"] == pytest.approx(bits.std(ddof=1) / np.sqrt(COUNT), rel=1e-3)
    assert found["prior"] == pytest.approx(prior, rel=1e-4)


def test_terms_prior_rate_and_distortion_add_up(evaluated):
    found, terms = evaluated[0]["bits_per_dim"], evaluated[1]
    assert [row["t"] for row in terms] == list(range(8))
    assert sum(row["bits_per_dim"] for row in terms) + found["prior"] == pytest.approx(found["mean"], rel=1e-5)
    assert terms[0]["bits_per_dim"] == pytest.approx(found["distortion"], rel=1e-6)
    assert found["rate"] + found["distortion"] == pytest.approx(found["mean"], rel=1e-6)
    for t, row in enumerate(terms):
        sent = found["prior"] + sum(later["bits_per_dim"] for later in terms[t + 1 :])
        assert row["rate"] == pytest.approx(sent, rel=1e-5)
    assert all(row["rmse"] > 0 for row in terms)


def test_the_figure_says_what_it_was_found_with(evaluated):
    found = evaluated[0]["bits_per_dim"]
    expected = {"checkpoint": 6, "weights": "ema", "data": "digits", "split": "test", "seed": 0, "steps": 8, "clip": True}
    expected |= {"seen_in_training": False, "class_conditional": True, "batch_size": BATCH, "directory": ""}
    assert expected.items() <= found.items()


def test_pictures_of_the_terms_and_of_rate_and_distortion_are_there(trained, evaluated):
    for name in ("vlb_terms.png", "rate_distortion.png"):
        with Image.open(trained / "evaluation/step_0000006_test_seed_0_first_10" / name) as picture:
            assert np.asarray(picture.convert("L")).std() > 5


def test_it_is_printed_with_the_table(trained, capsys):
    found, terms = run(trained, batch_size=16)
    printed = capsys.readouterr().out
    assert "on 10 images" in printed
    mean, error = found["bits_per_dim"]["mean"], found["bits_per_dim"]["standard_error"]
    assert f"variational bound: {mean:.4f} ± {error:.4f} bits/dim (10 images)" in printed
    rows = printed.split("distortion (RMSE, 0..255)\n")[1].splitlines()[:8]
    assert [int(row.split()[0]) for row in rows] == [8, 7, 6, 5, 4, 3, 2, 1]
    assert float(rows[0].split()[1]) == pytest.approx(terms[0]["rate"], abs=1e-5)
    assert "trained on" not in printed


def test_a_shorter_chain_keeps_the_times_of_the_whole_one(trained):
    found, terms = run(trained, "step_0000006_test_seed_0_first_10_uniform3", respacing="uniform3")
    assert [row["t"] for row in terms] == [0, 4, 7]
    assert found["bits_per_dim"]["steps"] == 3
    assert found["bits_per_dim"]["respacing"] == "uniform3"


def test_the_flow_is_noted_beside_the_bound(trained, capsys):
    before, _ = run(trained)
    found, _ = run(trained, metrics=("ode_bits_per_dim",), ode_tolerance=1e-3)
    assert found["bits_per_dim"] == before["bits_per_dim"]
    assert np.isfinite(found["ode_bits_per_dim"]["mean"])
    assert 0 < found["ode_bits_per_dim"]["standard_error"] < np.inf
    assert "probability flow: " in capsys.readouterr().out


def test_other_images_and_other_chains_take_the_place_of_no_figure(trained, evaluated):
    one_image, _ = run(trained, "step_0000006_test_seed_1_first_1_unclipped", count=1, seed=1, clip=False)
    assert one_image["bits_per_dim"]["standard_error"] is None
    assert one_image["bits_per_dim"]["images"] == 1
    kept = json.loads((trained / "evaluation/step_0000006_test_seed_0_first_10/evaluation.json").read_text())
    assert kept["bits_per_dim"]["mean"] == pytest.approx(evaluated[0]["bits_per_dim"]["mean"], rel=1e-4)


@pytest.mark.parametrize("split", ["train", "all"])
def test_images_seen_in_training_are_said_to_be(trained, capsys, split):
    found, _ = run(trained, f"step_0000006_{split}_seed_0_first_10", split=split)
    assert "the run was trained on these images" in capsys.readouterr().out
    assert found["bits_per_dim"]["seen_in_training"] is True


def test_a_folder_has_no_splits_so_another_folder_must_be_named(trained, tmp_path):
    source = Source("folder", 3, lambda number: {"image": np.zeros((8, 8, 1), np.uint8), "label": 0})
    config, there = read_config(trained), read_config(trained)
    config.data.update(name="folder", directory=str(tmp_path / "a" / ".." / "b"))
    there.data.update(name="folder", directory=str(tmp_path / "b"))
    (tmp_path / "run").mkdir()
    write_config(there, tmp_path / "run")
    assert held_out.seen_in_training(config, tmp_path / "run", source)
    config.data.directory = str(tmp_path / "c")
    assert not held_out.seen_in_training(config, tmp_path / "run", source)


def test_images_are_called_after_their_source_and_split(trained):
    config, source = read_config(trained), digits("test")
    assert held_out.which_images(held_out.hold(config, make_mesh(), None, source)) == "digits, test"
    folder = dataclasses.replace(source, name="folder", split="", splits=())
    assert held_out.which_images(held_out.hold(config, make_mesh(), None, folder)) == "folder"


def test_images_of_other_classes_are_refused(trained):
    source = Source("letters", 3, lambda number: {"image": np.zeros((8, 8, 1), np.uint8), "label": 0}, ("a", "b"))
    config = read_config(trained)
    with pytest.raises(InvalidInput, match=r"the classes of letters are a, b: this network was trained on 0, 1, 2"):
        held_out._check_labels(config, source)


def test_classes_without_names_are_those_of_any_data_that_has_as_many(trained, capsys):
    config = read_config(trained)
    config.data.update(class_names=("0", "1"), classes_named=False)
    letters = Source("letters", 3, lambda number: pytest.fail("nothing need be read"), ("a", "b"))
    held_out._check_labels(config, letters)
    assert "the 2 classes of this network have no names: taken to be those of letters, in its order" in capsys.readouterr().out
    more = dataclasses.replace(letters, class_names=("a", "b", "c"))
    with pytest.raises(InvalidInput, match=r"the classes of letters are 3 \(a, b, c\): .* trained on 2 without names"):
        held_out._check_labels(config, more)


def test_a_classifier_is_judged_by_levels_of_noise(trained_classifier, capsys):
    config = read_config(trained_classifier)
    config.eval.update(count=COUNT, batch_size=BATCH)
    evaluate.main(config, trained_classifier)
    directory = trained_classifier / "evaluation/step_0000006_test_seed_0_first_10"
    found = json.loads((directory / "evaluation.json").read_text())["accuracy"]
    assert {"metric": "accuracy", "images": COUNT, "chance": 0.1, "checkpoint": 6, "split": "test"}.items() <= found.items()
    assert [(each["first"], each["last"]) for each in found["quarters"]] == [(0, 1), (2, 3), (4, 5), (6, 7)]
    assert sum(each["accuracy"] for each in found["levels"]) / len(found["levels"]) == pytest.approx(found["mean"], abs=0.2)
    with Image.open(directory / "accuracy.png") as picture:
        assert np.asarray(picture.convert("L")).std() > 5
    assert f"accuracy: {found['mean']:.1%} ± {found['standard_error']:.1%} (10 images)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("run_of", "metric", "message"),
    [
        ("trained_classifier", "bits_per_dim", "a classifier says nothing of how likely images are. Expected accuracy"),
        ("trained", "accuracy", "eval.metrics=accuracy is of a classifier, and model.network=unet"),
    ],
)
def test_a_metric_of_the_other_kind_of_network_is_refused(run_of, metric, message, request):
    workdir = request.getfixturevalue(run_of)
    config = read_config(workdir)
    config.eval.metrics = (metric,)
    with pytest.raises(InvalidInput, match=message):
        evaluate.main(config, workdir)


def test_a_network_that_says_nan_has_no_figure(trained, monkeypatch):
    def broken(config):
        bound = metrics.make_bound(config)
        return lambda denoiser, x0, key: bound(lambda xt, t: denoiser(xt, t) * np.nan, x0, key)

    monkeypatch.setitem(metrics.METRICS, "bits_per_dim", broken)
    with pytest.raises(InvalidInput, match=r"image 0 of 10 has nan bits/dim"):
        run(trained, seed=9)
    assert not (trained / "evaluation/step_0000006_test_seed_9_first_10").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"metrics": ("bits_per_dims",)}, r"unknown eval\.metrics 'bits_per_dims'.*Did you mean 'bits_per_dim'\?"),
        ({"metrics": ("bits_per_dim,fd",)}, r"unknown eval\.metrics 'fd'"),
        ({"count": 298}, r"298 images asked for: data set 'digits' has 297"),
        ({"split": "tset"}, r"unknown split of digits 'tset'.*Did you mean 'test'\?"),
        ({"respacing": "uniform9"}, r"expected 1 to 8 steps"),
    ],
)
def test_what_cannot_be_evaluated_is_told(trained, settings, message):
    with pytest.raises(InvalidInput, match=message):
        run(trained, **settings)
