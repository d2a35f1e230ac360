"""What --mode data says of folders that are made here, and what it draws."""

import re
import shutil
import time
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from configs import digits, folder
from jax_ddpm import experiment
from jax_ddpm.commands import data
from jax_ddpm.data.augment import Augmentation
from jax_ddpm.data.inspection import inspect
from jax_ddpm.data.sources.source import Source
from jax_ddpm.errors import InvalidInput
from jax_ddpm.pictures import TITLE_HEIGHT
from tests.commands.conftest import make_tiny_classifier_config, make_tiny_config
from tests.data.sources.made import noise, write


@pytest.fixture(autouse=True)
def quickly(monkeypatch):
    monkeypatch.setattr(data, "SECONDS", 0.01)


def of_folder(directory, **settings):
    config = folder.get_config()
    config.data.update(directory=str(directory), image_size=16, workers=1, **settings)
    config.model.attention_resolutions = ()
    config.train.batch_size = 4
    return config


def said(config, tmp_path, capsys):
    data.main(config, tmp_path / "run")
    return capsys.readouterr().out


@pytest.fixture
def birds(tmp_path):
    """Three emus, of other sizes and colours, one owl, and a damaged one."""
    for name, image in {
        "emu/1": noise(16, 16, 3),
        "emu/2": noise(40, 20, 3),
        "emu/3": noise(8, 9, 1),
        "owl/1": noise(16, 16, 3),
    }.items():
        write(tmp_path / "birds" / f"{name}.png", image)
    whole = (tmp_path / "birds/owl/1.png").read_bytes()
    (tmp_path / "birds/owl/half.png").write_bytes(whole[: len(whole) // 2])
    return tmp_path / "birds"


def test_a_folder_is_described(birds, tmp_path, capsys):
    text = said(of_folder(birds), tmp_path, capsys)
    assert "data: folder, which has no splits\nlicence: not known\nimages read: 5, all of them\n" in text
    assert "height × width: 3 different; the smallest 8×9, the median 16×16, the largest 40×20\n" in text
    assert "colour: 1 grey, 3 in colour\n" in text
    assert re.search(r"classes: 2\n  emu +3\n  owl +1\n", text)
    changes = "1 enlarged, 1 made smaller, 2 cropped to a square, 1 grey in all three channels"
    assert f"the network gets: 16×16×3 in [-1, 1]; {changes}\n" in text
    assert re.search(r"read and fitted: [\d,]+ images/s", text)
    assert f"contact sheet: {tmp_path}/run/data/contact_sheet.png\n" in text
    assert "a run can begin with these settings" in text


@pytest.mark.parametrize(
    ("on_damaged", "told", "batches"),
    [
        ("stop", "training stops at the first", "not timed, for a damaged image"),
        ("skip", "training takes the next image", r"[\d,.]+ of 4 a"),
    ],
)
def test_every_damaged_image_is_named(birds, tmp_path, capsys, on_damaged, told, batches):
    (birds / "emu/text.jpg").write_text("no image at all")
    text = said(of_folder(birds, on_damaged=on_damaged), tmp_path, capsys)
    assert re.search(rf"damaged: 2; {told}.*\n  .*emu/text\.jpg.*\n  .*owl/half\.png.*\n", text)
    assert re.search(f"\nbatches: {batches}", text)


def test_what_training_skips_is_told_once(birds, tmp_path, capsys):
    data.main(of_folder(birds, on_damaged="skip"), tmp_path / "run")
    told = capsys.readouterr()
    assert (told.out + told.err).count("half.png") == 1


def test_values_are_those_of_the_images(tmp_path, capsys):
    for number, shade in enumerate((10, 200)):
        write(tmp_path / f"images/{number}.png", np.full((16, 16, 3), (shade, 51, 0), np.uint8))
    text = said(of_folder(tmp_path / "images"), tmp_path, capsys)
    assert "values: bytes from 0 to 200\n" in text
    # (10 + 200)/2 / 127.5 - 1, 51/127.5 - 1; half of 190/127.5
    assert "all as they are\n  mean red -0.176, green -0.600, blue -1.000; standard deviation red 0.745, green 0.000" in text
    assert "height × width: 16×16, all of them\n" in text
    assert "classes: none\n" in text


def test_a_large_set_is_read_in_part_and_told_so(tmp_path, capsys):
    config = digits.get_config()
    config.data.inspect = 100
    text = said(config, tmp_path, capsys)
    assert "images read: 100, drawn from all over the 1,500; --config.data.inspect=0 reads every one\n" in text
    assert "classes: 10; of the 100 read:\n" in text
    counts = [int(count) for count in re.findall(r"^  \d +(\d+)$", text, re.MULTILINE)]
    assert (len(counts), sum(counts)) == (10, 100)
    assert "data: digits, train of the splits train (1,500), test (297), all (1,797)\n" in text


def test_a_split_whose_size_is_not_known_is_named_alone():
    source = Source("made", 1, lambda number: None, split="b", splits={"a": None, "b": 1})
    found = inspect(source, [], 8, 3, keep=1)
    assert data.describe_source(source, found)[0] == "data: made, b of the splits a, b (1)"


@pytest.mark.parametrize(
    ("cache", "seconds", "timed", "told"),
    [
        (1024, 60, "once all are in memory", "kept in memory once they are read"),
        (1024, 0.0, "while they are first read", "kept in memory once they are read"),
        (0, 0.01, "in every epoch", "read anew each epoch: data.cache_mib=0 keeps none"),
    ],
)
def test_whether_images_are_kept_in_memory_is_told_and_what_was_timed(
    tmp_path, capsys, monkeypatch, cache, seconds, timed, told
):
    config, rate = digits.get_config(), data._rate
    config.data.cache_mib = cache
    monkeypatch.setattr(data, "SECONDS", seconds)
    monkeypatch.setattr(data, "_rate", lambda stream, most: rate(stream, min(most, 12)))  # an epoch, however much time there is
    text = said(config, tmp_path, capsys)
    assert re.search(rf"batches: .*, {timed}\n  images are {told}\n", text)


def test_images_that_are_too_many_to_be_kept_are_told(tmp_path, capsys):
    for number in range(6):
        write(tmp_path / f"images/{number}.png", noise(300, 300, 3))
    config = of_folder(tmp_path / "images", crop=1.0, cache_mib=1)
    config.data.image_size = 256  # 6 × 256 × 256 × 3 bytes
    assert "  images are read anew each epoch: too many for data.cache_mib=1\n" in said(config, tmp_path, capsys)


def test_a_slow_source_is_timed_by_one_batch_and_the_stream_is_closed(tmp_path, capsys, monkeypatch):
    closed, taken = [], []

    class Slow:
        def __next__(self):
            taken.append(time.sleep(0.02))

        def close(self):
            closed.append(True)

    monkeypatch.setattr(experiment, "make_batches", lambda *_: Slow())
    text = said(digits.get_config(), tmp_path, capsys)
    assert (len(taken), closed) == (1, [True])
    speed = float(re.search(r"timing batches \.\.\.\n.*\nbatches: ([\d.]+) of", text)[1])
    assert 5 < speed <= 50


def test_how_far_the_reading_is_is_told_without_a_terminal_too(birds, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(data, "PATIENCE", 0.0)
    data.main(of_folder(birds), tmp_path / "run")
    assert re.search(r"[1-5]/5 \[", capsys.readouterr().err)


def test_contact_sheet_has_a_row_a_class(tmp_path, capsys):
    shades = {"emu": (10, 20), "owl": (100,), "yak": (200, 210, 220)}
    for name, values in shades.items():
        for value in values:
            write(tmp_path / f"images/{name}/{value}.png", np.full((64, 64, 1), value, np.uint8))
    said(of_folder(tmp_path / "images", channels=1, flip=False), tmp_path, capsys)
    sheet = np.asarray(Image.open(tmp_path / "run/data/contact_sheet.png"))
    # Images of 16×16 are enlarged to 64×64; two pixels lie between them, titles above and before.
    body = sheet[TITLE_HEIGHT + 2 :, -(3 * 66 + 2) :]
    centres = body[34::66, 34::66]
    assert centres.tolist() == [[10, 20, 255], [100, 255, 255], [200, 210, 220]]
    before = sheet[TITLE_HEIGHT + 2 :, : -(3 * 66 + 2)]
    assert all((before[66 * row : 66 * row + 66] < 128).any() for row in range(3)), "each row has its name"
    assert not (tmp_path / "run/data/augmented.png").exists(), "nothing is augmented"


def test_images_without_classes_fill_rows(tmp_path, capsys):
    for number in range(14):
        write(tmp_path / f"images/{number:02}.png", np.full((16, 16, 1), number, np.uint8))
    said(of_folder(tmp_path / "images", channels=1), tmp_path, capsys)
    sheet = np.asarray(Image.open(tmp_path / "run/data/contact_sheet.png"))
    centres = sheet[TITLE_HEIGHT + 2 + 34 :: 66, 36::66]
    assert centres.tolist() == [list(range(12)), [12, 13, *[255] * 10]]


@pytest.mark.parametrize(
    "how", [Augmentation(flip=True), Augmentation(crop=0.5), Augmentation(rotate=30), Augmentation(non_leaking=1)]
)
def test_augmentations_are_shown_beside_each_image(tmp_path, capsys, how):
    image = noise(16, 16, 3)
    for number in range(2):
        write(tmp_path / f"images/{number}.png", image // (number + 1))
    settings = {"flip": how.flip, "crop": how.crop, "rotate": float(how.rotate), "augment": float(how.non_leaking)}
    text = said(of_folder(tmp_path / "images", **settings), tmp_path, capsys)
    path = tmp_path / "run/data/augmented.png"
    assert str(path) in text
    body = np.asarray(Image.open(path))[TITLE_HEIGHT + 2 + 2 :, 4:]
    for row in range(2):
        shown = [body[66 * row : 66 * row + 64 : 4, 66 * column : 66 * column + 64 : 4] for column in range(12)]
        np.testing.assert_array_equal(shown[0], image // (row + 1))
        changed = [each for each in shown[1:] if not np.array_equal(each, shown[0])]
        assert changed
        if how.flip:
            assert all(np.array_equal(each, shown[0][:, ::-1]) for each in changed)


def test_an_image_that_is_shown_augmented_is_read_once(tmp_path):
    reads = Counter()

    def read(number):
        reads[number] += 1
        return {"image": noise(16, 16, 3), "label": 0}

    source = Source("noted", 3, read)
    found = inspect(source, [], 16, 3, keep=1)
    data.augmented(of_folder(tmp_path, crop=0.5), source, range(3), found)
    assert reads == {0: 1, 1: 1, 2: 1}


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("train.batch_size", 6, "train.batch_size=6 does not divide over 4 devices"),
        ("seed", 1, "holds a run with other settings:\n  seed: the run has 0, now given 1"),
        ("eval.split", "tset", "unknown split of digits 'tset'"),
        ("guidance.classifier", "nowhere", "no run at .*nowhere"),
    ],
)
def test_what_keeps_training_from_beginning_is_told(setting, value, message, trained, tmp_path, capsys):
    config = make_tiny_classifier_config() if setting == "eval.split" else make_tiny_config()
    if setting == "seed":
        shutil.copytree(trained, tmp_path / "run")
    config.update_from_flattened_dict({setting: value})
    assert re.search(f"a run would not begin with these settings: .*{message}", said(config, tmp_path, capsys))


def test_a_run_goes_on_with_the_settings_that_it_has(trained, tmp_path, capsys):
    shutil.copytree(trained, tmp_path / "run")
    assert "a run can begin with these settings" in said(make_tiny_config(), tmp_path, capsys)


def test_a_run_that_could_not_begin_is_told_and_the_data_shown_all_the_same(tmp_path, capsys):
    write(tmp_path / "images/1.png", noise(16, 16, 3))
    config = of_folder(tmp_path / "images")
    config.model.class_conditional = True
    text = said(config, tmp_path, capsys)
    assert "images read: 1, all of them\n" in text
    assert "a run would not begin with these settings: model.class_conditional=True, but" in text


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"channels": 2}, "unknown data.channels '2'"),
        ({"on_damaged": "skipp"}, r"Did you mean 'skip'\?"),
        ({"inspect": -1}, "data.inspect=-1: expected 0 or more"),
        ({"directory": "nowhere"}, "nowhere"),
    ],
)
def test_settings_that_cannot_be_used_are_told_before_anything_is_written(tmp_path, settings, message):
    write(tmp_path / "images/1.png", noise(16, 16, 3))
    config = of_folder(tmp_path / "images")
    config.data.update(**settings)
    with pytest.raises(InvalidInput, match=message):
        data.main(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_set_of_damaged_images_alone_is_told_name_by_name(tmp_path, capsys):
    (tmp_path / "images").mkdir()
    for number in range(3):
        (tmp_path / f"images/{number}.png").write_bytes(b"")
    with pytest.raises(InvalidInput, match="none of the 3 images read of 'folder' can be read"):
        data.main(of_folder(tmp_path / "images"), tmp_path / "run")
    text = capsys.readouterr().out
    assert all(f"images/{number}.png" in text for number in range(3))


def test_many_classes_are_told_in_short(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(data, "LISTED", 4)
    text = said(digits.get_config(), tmp_path, capsys)
    assert re.search(r"classes: 10\n  0 +145\n  1 +149\n  2 +135\n  3 +161\n  and 6 more, of 144 to 158\n", text)
    with Image.open(tmp_path / "run/data/contact_sheet.png") as sheet:
        assert sheet.height == TITLE_HEIGHT + 2 + 4 * 66 + 2
