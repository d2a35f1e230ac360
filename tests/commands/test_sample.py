"""Drawing images from a workdir and nothing else."""

import json
import shutil
import time

import numpy as np
import pytest
from PIL import Image

from jax_ddpm.commands import sample
from jax_ddpm.config import read_config, to_dict
from jax_ddpm.errors import InvalidInput
from jax_ddpm.training.checkpoints import Checkpoints
from tests.commands.conftest import make_tiny_config


def draw(workdir, **settings):
    config = read_config(workdir)
    config.sample.update(**settings)
    return sample.draw(config, workdir)


def wait_until(condition, seconds=60):
    """Orbax clears up in the background."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_images_labels_and_a_grid_are_written(trained):
    drawn = draw(trained, seed=3)
    directory = trained / "samples/step_0000006_seed_3"
    assert drawn.grid == directory / "grid.png"
    archive = np.load(directory / "samples.npz")
    assert archive["arr_0"].shape == (7, 8, 8, 1)
    assert archive["arr_0"].dtype == np.uint8
    np.testing.assert_array_equal(archive["arr_0"], drawn.images)
    np.testing.assert_array_equal(archive["arr_1"], range(7))
    for number in range(7):
        with Image.open(directory / f"{number:05d}.png") as image:
            np.testing.assert_array_equal(np.asarray(image), drawn.images[number, ..., 0])


def test_the_same_seed_gives_the_same_images_and_another_gives_others(trained):
    first, again, other = draw(trained, seed=1), draw(trained, seed=1), draw(trained, seed=2)
    np.testing.assert_array_equal(first.images, again.images)
    assert (first.images != other.images).any()


def test_more_images_in_the_last_batch_do_not_change_the_earlier_ones(trained):
    np.testing.assert_array_equal(draw(trained, count=5).images, draw(trained, count=8).images[:5])


def test_images_of_one_batch_differ(trained):
    images = draw(trained, count=4, labels=(3,)).images
    assert len(np.unique(images.reshape(4, -1), axis=0)) == 4


def test_labels_are_taken_in_turn(trained):
    np.testing.assert_array_equal(draw(trained, count=5, labels=(7, 2)).labels, [7, 2, 7, 2, 7])
    np.testing.assert_array_equal(draw(trained, count=12).labels, [*range(10), 0, 1])


def test_fewer_images_leave_none_of_the_earlier_ones(trained):
    draw(trained, seed=5)
    directory = draw(trained, seed=5, count=2).grid.parent
    assert sorted(path.name for path in directory.iterdir()) == [
        "00000.png",
        "00001.png",
        "grid.png",
        "samples.json",
        "samples.npz",
    ]


def test_pictures_are_of_the_first_and_the_archive_has_all(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sample, "MOST_PICTURES", 4)
    images = np.random.default_rng(0).integers(0, 256, (7, 8, 8, 1), np.uint8)
    path = sample.write(tmp_path / "drawn", images, np.arange(7), columns=2)
    names = sorted(each.name for each in path.parent.iterdir())
    assert names == ["00000.png", "00001.png", "00002.png", "00003.png", "grid.png", "samples.npz"]
    with Image.open(path) as picture:
        assert picture.size == (19 * 8, 19 * 8)  # two by two, each pixel a square of eight
    np.testing.assert_array_equal(np.load(path.parent / "samples.npz")["arr_0"], images)
    assert "pictures are of the first 4 images; all 7 are in" in capsys.readouterr().out


def test_how_they_were_drawn_is_noted_beside_them(trained):
    config = read_config(trained)
    config.sampler.update(name="ddim", steps=4)
    config.sample.update(seed=6, count=3)
    noted = json.loads((sample.draw(config, trained).grid.parent / "samples.json").read_text())
    assert (noted["checkpoint"], noted["samples"], noted["evaluations"], noted["sample"]["seed"]) == (6, 3, 4, 6)
    assert (noted["sampler"]["name"], noted["sampler"]["steps"], noted["guidance"]["scale"]) == ("ddim", 4, 1)


def test_the_config_file_of_the_run_will_do_too(trained):
    config = make_tiny_config()
    config.sample.count = 1
    assert sample.draw(config, trained).labels == [0]


def test_checkpoints_alone_open_with_the_settings_that_lie_in_them(trained, tmp_path):
    shutil.copytree(trained / "checkpoints", tmp_path / "checkpoints")
    config = read_config(tmp_path)
    assert to_dict(config) == json.loads((trained / "config.json").read_text())
    assert config.to_dict() == read_config(trained).to_dict(), "tuples are tuples again"
    np.testing.assert_array_equal(draw(tmp_path, seed=1, count=2).images, draw(trained, seed=1, count=2).images)


def test_another_chain_than_the_one_trained_is_refused(trained):
    config = read_config(trained)
    config.diffusion.steps = 4
    with pytest.raises(InvalidInput, match=r"diffusion.steps: the run has 8, now given 4"):
        sample.draw(config, trained)


def test_a_run_that_is_being_written_is_not_disturbed(trained):
    unfinished = trained / "checkpoints" / "7.orbax-checkpoint-tmp"
    unfinished.mkdir()
    draw(trained, count=1)
    assert unfinished.is_dir()
    with Checkpoints(trained / "checkpoints"):
        wait_until(lambda: not unfinished.exists())


def test_a_label_that_does_not_exist_is_told(trained):
    with pytest.raises(InvalidInput, match=r"labels=\(10,\): expected labels in 0..9"):
        draw(trained, labels=(10,))


def test_a_workdir_that_was_never_trained_is_told(tmp_path):
    with pytest.raises(InvalidInput, match=r"no run at .*expected a config.json"):
        read_config(tmp_path)


def test_a_classifier_draws_nothing(trained_classifier):
    with pytest.raises(InvalidInput, match=r"this run is of a classifier .* which draws no images"):
        draw(trained_classifier)
    assert not (trained_classifier / "samples").exists()
