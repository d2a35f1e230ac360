"""A whole run, in one process: what it writes, how it goes on, what it refuses."""

import re
import shutil

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from PIL import Image

from configs import digits, digits_super_resolution
from jax_ddpm import experiment, objective
from jax_ddpm.commands import train
from jax_ddpm.config import read_config, write_config
from jax_ddpm.errors import InvalidInput
from jax_ddpm.files import NotWritten
from jax_ddpm.step_program import new_state
from jax_ddpm.training.logging import read_metrics
from jax_ddpm.training.sharding import make_mesh, replicated, split_batch, to_devices
from tests.commands.conftest import last_state, make_tiny_classifier_config, make_tiny_config


def test_a_run_leaves_what_the_readme_says(trained):
    names = {str(path.relative_to(trained)) for path in trained.rglob("*")}
    assert {"config.json", "metrics.jsonl", "loss.png", "checkpoints/4", "checkpoints/6"} <= names
    assert {"samples/step_0000003.png", "samples/step_0000003_chain.png"} <= names
    assert {"samples/step_0000006.png", "samples/step_0000006_chain.png"} <= names
    assert "checkpoints/2" not in names, "the last two are kept"
    assert list((trained / "tensorboard").iterdir())


def test_metrics_have_a_line_every_other_step(trained):
    rows = read_metrics(trained)
    assert [row["step"] for row in rows] == [2, 4, 6]
    assert all(set(row) == {"step", "loss", "grad_norm", "images_per_second"} for row in rows)
    assert all(np.isfinite(row["loss"]) and row["loss"] > 0 for row in rows)


def test_the_grid_has_a_column_a_class_and_the_filmstrip_a_row_an_image(trained):
    # 8×8 images enlarged eight times, 1 + 1 pixels of gap: 7 samples in one row of 10; 7 chains of T = 8 steps, 9 states.
    with Image.open(trained / "samples/step_0000006.png") as grid:
        assert grid.size == ((10 * 9 + 1) * 8, (1 * 9 + 1) * 8)
    with Image.open(trained / "samples/step_0000006_chain.png") as strip:
        assert strip.size == ((9 * 9 + 1) * 8, (7 * 9 + 1) * 8)


def test_the_config_is_kept_with_the_classes_found(trained):
    config = read_config(trained)
    assert config.data.class_names == tuple("0123456789")
    assert config.train.batch_size == 8


def test_a_run_in_two_parts_is_the_run_in_one(trained, tmp_path):
    train.main(make_tiny_config(steps=4), tmp_path)
    train.main(make_tiny_config(steps=6), tmp_path)
    (whole, data), (parts, data_of_parts) = last_state(trained), last_state(tmp_path)
    assert int(whole.step) == 6
    chex.assert_trees_all_equal(whole, parts)
    assert data == data_of_parts == {"next_index": 6}
    assert [row["loss"] for row in read_metrics(tmp_path)] == [row["loss"] for row in read_metrics(trained)]


def test_a_run_goes_on_by_pmap_and_with_its_state_split(trained, tmp_path):
    train.main(make_tiny_config(steps=2, sample_every=0, parallel="pmap"), tmp_path)
    config = make_tiny_config(sample_every=0)
    config.mesh.update(fsdp=2, rules=("kernel=largest",))
    train.main(config, tmp_path)
    (whole, data), (split, data_of_split) = last_state(trained), last_state(tmp_path)
    # Float32 sums in another order; Adam divides by the size of the gradient, however small.
    chex.assert_trees_all_close(whole, split, rtol=1e-4, atol=1e-5)
    assert data == data_of_split
    with Image.open(tmp_path / "samples/step_0000006.png") as ours, Image.open(trained / "samples/step_0000006.png") as theirs:
        assert np.abs(np.asarray(ours, float) - np.asarray(theirs, float)).mean() < 1


@pytest.mark.parametrize(
    ("group", "name", "value", "error"),
    [
        ("mesh", "data", 3, "mesh.data=3 × mesh.fsdp=1, and there are 4 devices"),
        ("mesh", "rules", ("kernel",), "'kernel' is no rule"),
        ("train", "parallel", "pmpa", "unknown train.parallel 'pmpa': expected one of jit, pmap. Did you mean 'pmap'"),
    ],
)
def test_a_layout_that_is_none_is_told_before_anything_is_written(group, name, value, error, tmp_path):
    config = make_tiny_config()
    config[group][name] = value
    with pytest.raises(InvalidInput, match=error):
        train.main(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_finished_run_only_shows_its_results_again(trained, capsys):
    before = (trained / "metrics.jsonl").read_bytes()
    train.main(make_tiny_config(), trained)
    assert "compiling" not in capsys.readouterr().out
    assert (trained / "metrics.jsonl").read_bytes() == before


@pytest.mark.parametrize(("group", "name", "old", "new"), [("model", "channels", 8, 16), ("train", "batch_size", 8, 16)])
def test_a_run_is_not_continued_as_another(group, name, old, new, trained):
    config = make_tiny_config()
    config[group][name] = new
    before = (trained / "config.json").read_bytes()
    with pytest.raises(InvalidInput, match=rf"other settings:\n  {group}.{name}: the run has {old}, now given {new}"):
        train.main(config, trained)
    assert (trained / "config.json").read_bytes() == before


def test_what_cannot_be_written_before_the_first_step_is_told_with_the_last_checkpoint_too(trained, tmp_path):
    shutil.copytree(trained, tmp_path / "run")
    (tmp_path / "run/environment.json").unlink()
    (tmp_path / "run/environment.json").mkdir()
    told = r"environment.json could not be written: IsADirectoryError.*\nThe last whole checkpoint is that of step 6. Make room"
    with pytest.raises(NotWritten, match=told):
        train.main(make_tiny_config(steps=8), tmp_path / "run")


def test_a_run_goes_on_with_another_warm_up_and_more_steps(tmp_path):
    train.main(make_tiny_config(steps=2, sample_every=0), tmp_path)
    train.main(make_tiny_config(steps=4, sample_every=0, warmup_steps=0, learning_rate=1e-4), tmp_path)
    assert int(last_state(tmp_path)[0].step) == 4
    assert read_config(tmp_path).train.warmup_steps == 0


def test_a_run_that_never_saved_may_begin_anew_as_another(tmp_path):
    write_config(make_tiny_config(), tmp_path)
    config = make_tiny_config(steps=2, sample_every=0)
    config.model.channels = 16
    train.main(config, tmp_path)
    assert read_config(tmp_path).model.channels == 16


def test_losses_that_are_no_numbers_are_left_out_and_many_of_them_stop_the_run(tmp_path, capsys):
    config = make_tiny_config(steps=40, learning_rate=1e15, clip_norm=0.0, warmup_steps=0, checkpoint_every=1, max_skipped=4)
    config.train.update(log_every=1, sample_every=0)
    with pytest.raises(InvalidInput, match=r"4 times in a row .*\nThe last whole checkpoint is that of step \d+") as error:
        train.main(config, tmp_path)
    last = int(str(error.value).split()[-1])
    skipped = [int(step) for step in re.findall(r"step (\d+) is skipped: the loss is (?:nan|inf)", capsys.readouterr().out)]
    assert skipped == list(range(skipped[0], skipped[0] + 3)), "the fourth is in the message"
    assert [row["step"] for row in read_metrics(tmp_path) if row.get("skipped")] == skipped
    assert last == skipped[0] - 1, "nothing is saved of a state whose losses are skipped"
    state, _ = last_state(tmp_path)
    assert int(state.step) == last
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((state.params, state.opt_state)))

    config.train.steps = last + 2
    with pytest.raises(InvalidInput, match="values are not finite"):  # of the images that are drawn when all is saved
        train.main(config, tmp_path)
    ended, _ = last_state(tmp_path)
    assert int(ended.step) == last + 2, "of a run that ends in the midst of them it is saved,"
    chex.assert_trees_all_equal(ended.replace(step=last), state)
    assert (tmp_path / f"checkpoints/{last}").is_dir(), "beside the one from before"


def test_the_train_step_of_a_config_is_traced_once():
    config = make_tiny_config(accumulate=2)
    config.data.class_names = tuple("0123456789")
    mesh = make_mesh()
    chex.clear_trace_counter()
    counted = chex.assert_max_traces(objective.make_step(config), n=1)
    step = jax.jit(counted, in_shardings=(replicated(mesh), split_batch(mesh)), out_shardings=(replicated(mesh),) * 2)
    state = jax.device_put(new_state(config), replicated(mesh))
    data = experiment.make_batches(config, experiment.make_source(config))
    losses = set()
    for _ in range(3):
        state, metrics = step(state, to_devices(next(data), mesh))
        losses.add(float(metrics["loss"]))
    assert int(state.step) == len(losses) == 3


def steps_on_one_device(config, steps):
    """The state after so many steps, and their losses: what a run's step does, without the rest of the run."""
    config.data.class_names = tuple("0123456789")
    step, state = jax.jit(objective.make_step(config), donate_argnums=0), new_state(config)
    data, losses = experiment.make_batches(config, experiment.make_source(config)), []
    for _ in range(steps):
        state, metrics = step(state, next(data))
        losses.append(float(metrics["loss"]))
    return state, losses


@pytest.mark.parametrize("loss", ["x0", "kl"])
@pytest.mark.parametrize("prediction", ["eps", "x0"])
def test_every_loss_and_prediction_trains(loss, prediction):
    config = make_tiny_config(learning_rate=3e-3)
    config.diffusion.update(loss=loss, prediction=prediction)
    _, losses = steps_on_one_device(config, 60)
    assert np.mean(losses[-20:]) < 0.8 * np.mean(losses[:20])


def test_a_bfloat16_body_trains_with_float32_parameters():
    config = make_tiny_config()
    config.model.dtype = "bfloat16"
    state, losses = steps_on_one_device(config, 4)
    assert {leaf.dtype for leaf in jax.tree.leaves((state.params, state.ema_params))} == {np.dtype(np.float32)}
    assert np.isfinite(losses).all()
    config.model.dtype = "float32"
    assert losses != steps_on_one_device(config, 4)[1], "it has eight bits of each number"


def test_a_first_moment_in_bfloat16_takes_half_its_room_and_learns_the_same():
    config = make_tiny_config(learning_rate=3e-3)
    whole, expected = steps_on_one_device(config, 20)
    config.train.adam_mu_dtype = "bfloat16"
    state, losses = steps_on_one_device(config, 20)
    first, second = (optax.tree.get(state.opt_state, name) for name in ("mu", "nu"))
    assert {leaf.dtype for leaf in jax.tree.leaves(first)} == {np.dtype(jnp.bfloat16)}
    others = jax.tree.leaves((second, state.params, state.ema_params))
    assert {leaf.dtype for leaf in others} == {np.dtype(np.float32)}
    parameters, saved = (sum(leaf.nbytes for leaf in jax.tree.leaves(tree)) for tree in (state.params, state.opt_state))
    assert saved == sum(leaf.nbytes for leaf in jax.tree.leaves(whole.opt_state)) - parameters // 2
    assert losses != expected
    # Each step is off by 2^-9 of the moment at the most, either way.
    np.testing.assert_allclose(losses, expected, rtol=0.01)


def test_a_run_with_every_augmentation_goes_on_as_it_was(tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    config = make_tiny_config(steps=4, sample_every=0, sample_count=1)
    config.data.update(flip=True, crop=0.8, rotate=5.0, augment=0.5)
    train.main(config, whole)
    shutil.copytree(whole, parts, ignore=shutil.ignore_patterns("4"))
    config.data.update(workers=1, prefetch=0, cache_mib=0)  # which no image depends on
    train.main(config, parts)
    (state, data), (state_of_parts, data_of_parts) = last_state(whole), last_state(parts)
    chex.assert_trees_all_equal(state, state_of_parts)
    assert data == data_of_parts == {"next_index": 4}
    # The average began as the parameters and lags behind what they learn.
    learned = state.params["augmentation_embedding"]["kernel"] - state.ema_params["augmentation_embedding"]["kernel"]
    assert np.abs(learned).max(axis=1).min() > 1e-6, "from each of the nine numbers"


def test_an_unconditional_run_on_a_folder_of_images(tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    source = experiment.make_source(digits.get_config())
    for number in range(12):
        Image.fromarray(source[number]["image"].repeat(3, axis=2).repeat(3, axis=0).repeat(3, axis=1)).save(
            images / f"{number}.png"
        )
    config = make_tiny_config(sample_every=0)
    config.data.update(name="folder", directory=str(images), channels=3, image_size=16, flip=True)
    config.model.class_conditional = False
    train.main(config, tmp_path / "run")
    assert read_config(tmp_path / "run").data.class_names == ()
    with Image.open(tmp_path / "run/samples/step_0000006.png") as grid:
        assert grid.mode == "RGB"


def test_classes_are_asked_of_data_that_has_none(tmp_path):
    (tmp_path / "images").mkdir()
    Image.new("L", (8, 8)).save(tmp_path / "images/a.png")
    config = make_tiny_config()
    config.data.update(name="folder", directory=str(tmp_path / "images"))
    with pytest.raises(InvalidInput, match=r"class_conditional=True, but .* no labels"):
        train.main(config, tmp_path / "run")
    assert not (tmp_path / "run").exists(), "nothing is written for a run that cannot begin"


def test_a_classifier_s_run_leaves_its_accuracy_and_no_samples(trained_classifier):
    names = {str(path.relative_to(trained_classifier)) for path in trained_classifier.rglob("*")}
    assert {"config.json", "metrics.jsonl", "loss.png", "accuracy.png", "checkpoints/6"} <= names
    assert not any(name.startswith("samples") for name in names)
    rows = read_metrics(trained_classifier)
    assert [row["step"] for row in rows] == [2, 4, 6]
    for row in rows:
        quarters = [row[name] for name in ("accuracy_q1", "accuracy_q2", "accuracy_q3", "accuracy_q4") if name in row]
        assert set(row) - {"accuracy_q1", "accuracy_q2", "accuracy_q3", "accuracy_q4"} == {
            *("step", "loss", "grad_norm", "accuracy", "images_per_second")
        }
        assert min(quarters) <= row["accuracy"] <= max(quarters)
        assert row["accuracy"] * 16 == round(row["accuracy"] * 16), "of the sixteen images of two steps"


def test_a_finished_classifier_says_how_often_it_is_right(trained_classifier, capsys):
    train.main(make_tiny_classifier_config(), trained_classifier)
    printed = capsys.readouterr().out
    assert "compiling" not in printed
    assert re.search(r"accuracy on images of digits, test: \d+\.\d% ± \d\.\d% \(297 images\)", printed)
    rows = re.findall(r"^ +(\d)–(\d) +[\d.]+% +[\d.]+%$", printed, re.MULTILINE)
    assert rows == [("0", "1"), ("2", "3"), ("4", "5"), ("6", "7")]
    assert "note" not in printed


def test_a_classifier_judged_on_what_it_was_trained_on_says_so(trained_classifier, capsys):
    config = make_tiny_classifier_config()
    config.eval.update(split="train", count=8)
    train.main(config, trained_classifier)
    printed = capsys.readouterr().out
    assert "note: the run was trained on these images" in printed
    assert re.search(r"accuracy on images of digits, train: .* \(8 images\)", printed)


def test_the_average_of_a_classifier_is_its_parameters(trained_classifier):
    state, _ = last_state(trained_classifier)
    chex.assert_trees_all_equal(state.ema_params, state.params)


def test_a_classifier_learns(tmp_path):
    config = make_tiny_classifier_config(steps=80, batch_size=64, learning_rate=5e-3, log_every=40, checkpoint_every=100)
    config.diffusion.steps = 100
    config.model.multipliers = (1, 2)
    train.main(config, tmp_path)
    first, last = read_metrics(tmp_path)
    assert last["loss"] < first["loss"]
    # By chance a tenth, of some 640 images: off by .012.
    assert last["accuracy_q1"] > 0.3
    assert last["accuracy_q4"] < 0.2, "there is nothing but noise"


def test_a_network_that_enlarges_shows_what_it_makes_of_small_images(tmp_path, capsys):
    config = digits_super_resolution.get_config()
    config.diffusion.steps = 8
    config.model.update(channels=8, groups=4, attention_resolutions=())
    config.train.update(steps=4, batch_size=8, warmup_steps=2, log_every=2, checkpoint_every=2, sample_every=2, sample_count=3)
    train.main(config, tmp_path)
    printed = capsys.readouterr().out
    for step in (2, 4):
        with Image.open(tmp_path / f"samples/step_{step:07d}.png") as picture:
            assert np.asarray(picture.convert("L")).std() > 5
    assert "step_0000004.png" in printed
    assert "chain from noise" not in printed
