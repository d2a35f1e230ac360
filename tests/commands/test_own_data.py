"""Images of one's own, of whatever kind, from files to a finished run."""

import io
import shutil
import zipfile
from itertools import islice

import chex
import numpy as np
import pytest
from PIL import Image

from jax_ddpm import experiment
from jax_ddpm.commands import sample, train
from jax_ddpm.config import read_config, write_config
from jax_ddpm.data.pipeline import one_pass
from jax_ddpm.data.sources.source import DamagedImage
from jax_ddpm.data.transforms import to_uint8
from jax_ddpm.errors import InvalidInput
from jax_ddpm.features import numbered
from jax_ddpm.held_out import held_out, seen_in_training
from jax_ddpm.training.logging import read_metrics
from tests.commands.conftest import last_state, make_tiny_config


def config_of(directory, **settings):
    config = make_tiny_config(steps=2, batch_size=4, sample_every=0, sample_count=4, warmup_steps=1, log_every=1)
    config.data.update(name="folder", directory=str(directory), channels=3, image_size=8, flip=False, **settings)
    config.model.update(multipliers=(1,), blocks=1)  # and conditional on the class
    return config


def flat(*colour: int, size: tuple[int, int] = (16, 16), mode: str = "RGB") -> Image.Image:
    return Image.new(mode, size, colour if len(colour) > 1 else colour[0])


def save(directory, name: str, picture: Image.Image, **options) -> None:
    path = directory / name
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path, **options)


def turned() -> tuple[Image.Image, Image.Exif]:
    """An image, red above and blue below, as a camera held upright stores it: on its side, with a note to turn it clockwise."""
    upright = Image.fromarray(np.repeat(np.array([[[255, 0, 0]], [[0, 0, 255]]], np.uint8), 8, axis=0).repeat(16, axis=1))
    exif = Image.Exif()
    exif[0x0112] = 6
    return upright.transpose(Image.Transpose.ROTATE_90), exif


RED_ON_BLUE = np.repeat(np.array([[[255, 0, 0]], [[0, 0, 255]]], np.uint8), 4, axis=0).repeat(8, axis=1)
MIXED = {  # name -> what the network should get, in the order in which they are read
    "bird/1_sixteen_bits.png": (128, 128, 128),
    "bird/2_palette.png": (40, 50, 60),
    "bird/3_cmyk.tiff": (204, 102, 0),
    "bird/4_turned.png": RED_ON_BLUE,
    "bird/5_wide.png": (10, 20, 30),
    "fish/1_grey.png": (77, 77, 77),
    "fish/2_two_colours.png": (255, 255, 255),
    "fish/3_transparent.png": (255, 255, 255),
    "fish/4_small.bmp": (90, 80, 70),
    "fish/5_photo.jpeg": (128, 128, 128),
    "fish/6_moving.gif": (0, 255, 0),
}


def write_mixed(directory) -> None:
    save(directory, "bird/1_sixteen_bits.png", Image.fromarray(np.full((9, 9), 128 * 257, np.uint16)))
    palette = flat(1, mode="P")
    palette.putpalette([10, 20, 30, 40, 50, 60])
    save(directory, "bird/2_palette.png", palette)
    save(directory, "bird/3_cmyk.tiff", flat(51, 153, 255, 0, size=(7, 31), mode="CMYK"))
    picture, exif = turned()
    save(directory, "bird/4_turned.png", picture, exif=exif)
    save(directory, "bird/5_wide.png", flat(10, 20, 30, size=(301, 17)))
    save(directory, "fish/1_grey.png", flat(77, size=(8, 8), mode="L"))
    save(directory, "fish/2_two_colours.png", flat(1, size=(33, 20), mode="1"))
    save(directory, "fish/3_transparent.png", flat(200, 0, 0, 0, mode="RGBA"))
    save(directory, "fish/4_small.bmp", flat(90, 80, 70, size=(3, 2)))
    save(directory, "fish/5_photo.jpeg", flat(128, 128, 128, size=(64, 48)))
    save(directory, "fish/6_moving.gif", flat(0, 255, 0), save_all=True, append_images=[flat(255, 0, 0)])


@pytest.fixture
def mixed(tmp_path):
    write_mixed(tmp_path / "images")
    return tmp_path / "images"


def as_zip(directory, path):
    """The folder in a zip, as a system packs it: within a folder of its name, and with things of its own beside it."""
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(directory.rglob("*.*")):
            archive.write(file, f"{directory.name}/{file.relative_to(directory)}")
        archive.writestr("__MACOSX/images/bird/._1_sixteen_bits.png", b"no image")
    return path


@pytest.mark.parametrize("packed", [False, True], ids=["folder", "zip"])
def test_every_kind_of_file_reaches_the_network_as_it_looks(mixed, tmp_path, packed):
    config = config_of(as_zip(mixed, tmp_path / "images.zip") if packed else mixed)
    source = experiment.make_source(config)
    (batch, count), *rest = one_pass(source, batch_size=len(MIXED), image_size=8, channels=3)
    assert not rest
    expected = [np.broadcast_to(np.array(colour, np.uint8), (8, 8, 3)) for colour in MIXED.values()]
    assert count == len(expected)
    np.testing.assert_array_equal(to_uint8(batch["image"]), expected)
    assert batch["label"].tolist() == [0] * 5 + [1] * 6
    assert source.class_names == ("bird", "fish")


def test_a_network_is_trained_on_a_mixture_of_all_kinds_and_asked_for_a_class(mixed, tmp_path):
    config = config_of(mixed, rotate=10.0, crop=0.8)
    config.train.steps = 3
    stream = experiment.make_batches(config, numbered(experiment.make_source(config)))
    assert {number for batch in islice(stream, 3) for number in batch["label"].tolist()} == set(range(len(MIXED))), "each kind"
    train.main(config, tmp_path / "run")
    assert read_config(tmp_path / "run").data.class_names == ("bird", "fish")
    losses = [line["loss"] for line in read_metrics(tmp_path / "run")]
    assert np.isfinite(losses).all()
    assert len(losses) == 3
    with Image.open(tmp_path / "run/samples/step_0000003.png") as grid:
        assert grid.mode == "RGB"
    asked = read_config(tmp_path / "run")
    asked.sample.update(count=3, batch_size=4, labels=(1,))
    drawn = sample.draw(asked, tmp_path / "run")
    assert (drawn.images.shape, drawn.labels.tolist()) == ((3, 8, 8, 3), [1, 1, 1])
    asked.sample.labels = (0, 1)
    of_both = sample.draw(asked, tmp_path / "run")
    assert of_both.labels.tolist() == [0, 1, 0]
    same = [np.array_equal(*each) for each in zip(drawn.images, of_both.images, strict=True)]
    assert same == [False, True, False], "by the same noise, the class alone makes the difference"
    asked.sample.labels = (2,)
    with pytest.raises(InvalidInput, match=r"sample\.labels=\(2,\): expected labels in 0\.\.1"):
        sample.draw(asked, tmp_path / "run")


def damage(directory) -> None:
    """A file that is cut short, and one that is none."""
    rng = np.random.default_rng(0)
    file = io.BytesIO()
    Image.fromarray(rng.integers(0, 256, (32, 32, 3), np.uint8)).save(file, "PNG")
    (directory / "fish/half.png").write_bytes(file.getvalue()[: len(file.getvalue()) // 2])
    (directory / "bird/empty.jpg").write_bytes(b"")


@pytest.fixture
def damaged(tmp_path):
    """Four good images and two damaged ones: fewer than the two batches of a run."""
    for number in range(4):
        save(tmp_path / "images", f"{('bird', 'fish')[number % 2]}/{number}.png", flat(50 * number, 9, 9))
    damage(tmp_path / "images")
    return tmp_path / "images"


def test_a_damaged_file_stops_the_run_and_is_named(damaged, tmp_path):
    with pytest.raises(DamagedImage, match=rf"{damaged}/(fish/half\.png|bird/empty\.jpg)"):
        train.main(config_of(damaged), tmp_path / "run")


def test_what_was_trained_before_a_damaged_file_is_saved_and_the_run_goes_on_without_it(tmp_path):
    def config_of_twelve(**changes):
        config = config_of(tmp_path / "images", **changes)
        config.train.update(steps=4, checkpoint_every=1000)
        return config

    for number in range(12):
        save(tmp_path / "images", f"{('bird', 'fish')[number % 2]}/{number:02}.png", flat(20 * number, 9, 9))
    config = config_of_twelve()
    order = [
        to_uint8(batch["image"])[:, 0, 0, 0] // 20
        for batch in islice(experiment.make_batches(config, experiment.make_source(config)), 4)
    ]
    config.train.steps = 2
    train.main(config, tmp_path / "short")
    number = order[2][1]  # of the third batch, and of none before
    path = tmp_path / "images" / f"{('bird', 'fish')[number % 2]}/{number:02}.png"
    path.write_bytes(b"")
    with pytest.raises(DamagedImage) as caught:
        train.main(config_of_twelve(), tmp_path / "run")
    assert str(path) in str(caught.value)
    assert f"saved at step 2. To go on from there without such images: python run.py --workdir {tmp_path}/run" in str(
        caught.value
    )
    assert "--config.data.on_damaged=skip" in str(caught.value)
    chex.assert_trees_all_equal(last_state(tmp_path / "run"), last_state(tmp_path / "short"))
    train.main(config_of_twelve(on_damaged="skip"), tmp_path / "run")
    assert [line["step"] for line in read_metrics(tmp_path / "run")] == [1, 2, 3, 4]


def test_damaged_files_are_passed_over_named_and_counted_where_the_config_says_so(damaged, tmp_path, capsys):
    train.main(config_of(damaged, on_damaged="skip"), tmp_path / "run")
    said = capsys.readouterr().err
    assert [said.count(f"{damaged}/{name}") for name in ("fish/half.png", "bird/empty.jpg")] == [1, 1], "each once"
    assert "2 damaged images so far" in said
    assert [line["step"] for line in read_metrics(tmp_path / "run")] == [1, 2]


def test_one_image_is_enough(tmp_path):
    save(tmp_path / "images", "only.png", flat(1, 2, 3))
    config = config_of(tmp_path / "images")
    config.model.class_conditional = False
    train.main(config, tmp_path / "run")
    assert [line["step"] for line in read_metrics(tmp_path / "run")] == [1, 2]


@pytest.mark.parametrize("left", ["nothing", "notes", "zip"])
def test_a_folder_without_images_is_told_before_anything_is_written(tmp_path, left):
    place = tmp_path / "images"
    place.mkdir()
    if left == "notes":
        (place / "notes.txt").write_text("none yet")
    if left == "zip":
        place = tmp_path / "images.zip"
        zipfile.ZipFile(place, "w").close()
    with pytest.raises(InvalidInput, match=f"no images in {place}"):
        train.main(config_of(place), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_folders_called_train_and_test_are_what_is_trained_on_and_what_is_held_out(mixed, tmp_path):
    shutil.copytree(mixed, tmp_path / "sets/train")
    save(tmp_path / "sets", "test/fish/1.png", flat(5, 5, 5))
    config = config_of(tmp_path / "sets")
    source = experiment.make_source(config)
    assert (len(source), source.split, source.splits) == (11, "train", {"train": 11, "test": 1})
    config.data.class_names = source.class_names
    write_config(config, tmp_path / "run")
    held = held_out(config)
    assert (len(held), held[0]["label"], held.split) == (1, 1, "test")
    assert not seen_in_training(config, tmp_path / "run", held)
