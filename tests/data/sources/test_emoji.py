"""Google's emoji: the npm package, of a few images, made here."""

import json

import numpy as np
import pytest
from PIL import Image

from jax_ddpm.data.sources.emoji import EMOJI_NAMES
from jax_ddpm.data.sources.load import load_source
from jax_ddpm.data.sources.source import DamagedImage
from jax_ddpm.errors import InvalidInput
from tests.data.sources.made import everything

COUNT = 30
TONES = {7: 5, 8: 2, 15: 3}  # how many tones some of them have; the last is held out


def value(number: int, tone: int = 0) -> int:
    """What an emoji is filled with."""
    return 8 * number + tone


def entries():
    """As emoji.json says it, but for what is of no account here; not in the order of their code points."""
    made = [
        {
            "name": f"EMOJI {number}",
            "unified": f"1F{number:03X}",
            "image": f"1f{number:03x}.png",
            "category": EMOJI_NAMES[number % 10],
            "has_img_google": True,
        }
        for number in range(COUNT)
    ]
    for number, tones in TONES.items():
        images = {f"1F3F{b}": {"image": f"1f{number:03x}-1f3f{b}.png", "has_img_google": True} for b in range(tones)}
        made[number]["skin_variations"] = images
    return made[::-1]


@pytest.fixture
def package(tmp_path):
    folder = tmp_path / "data" / "emoji"
    images = folder / "img" / "google" / "64"
    images.mkdir(parents=True)
    (folder / "emoji.json").write_text(json.dumps(entries()))
    for number in range(COUNT):
        for tone in range(1 + TONES.get(number, 0)):
            name = f"1f{number:03x}{f'-1f3f{tone - 1}' if tone else ''}.png"
            pixels = np.full((64, 64, 4), (value(number, tone), 0, 0, 255), np.uint8)
            pixels[:8] = 0  # transparent
            Image.fromarray(pixels).save(images / name)
    return folder


def values(source):
    return [int(image[-1, -1, 0]) for image in everything(source)[0]]


def test_emoji_are_colour_on_white_with_their_categories_as_classes(package):
    source = load_source("emoji", "all", str(package))
    images, labels = everything(source)
    assert (source.name, len(source), source.class_names) == ("emoji", COUNT, EMOJI_NAMES)
    assert sorted(EMOJI_NAMES) == sorted(set(EMOJI_NAMES))
    assert len(EMOJI_NAMES) == 10
    assert (source.shape, source.splits, source.licence) == (
        (64, 64, 3),
        {"train": 27, "test": 3, "all": 30, "train+skin_tones": 34},
        "Apache-2.0",
    )
    assert {(image.shape, image.dtype.name) for image in images} == {((64, 64, 3), "uint8")}
    for image, label in zip(images, labels, strict=True):
        np.testing.assert_array_equal(image[:8], 255)
        number = image[-1, -1, 0] // 8
        np.testing.assert_array_equal(image[8:], np.broadcast_to([value(number), 0, 0], (56, 64, 3)))
        assert label == number % 10
    assert sorted(values(source)) == [value(number) for number in range(COUNT)]


def test_a_tenth_of_the_emoji_is_held_out_by_a_fixed_shuffle(package):
    train, test, both = (load_source("emoji", split, str(package)) for split in ("train", "test", "all"))
    assert (len(train), len(test), train.split, test.split) == (27, 3, "train", "test")
    assert values(train) + values(test) == values(both)
    order = np.random.default_rng(0).permutation(COUNT)  # of those sorted by code point, as `value` is
    assert values(both) == [value(number) for number in order]


def test_skin_tones_are_those_of_emoji_for_training_alone(package):
    base, toned = load_source("emoji", "train", str(package)), load_source("emoji", "train+skin_tones", str(package))
    held_out = {number // 8 for number in values(load_source("emoji", "test", str(package)))}
    expected = [value(number, 1 + tone) for number, tones in TONES.items() if number not in held_out for tone in range(tones)]
    assert len(expected) == 7
    assert values(toned)[: len(base)] == values(base)
    assert sorted(values(toned)[len(base) :]) == expected
    assert everything(toned)[1] == [each // 8 % 10 for each in values(toned)]


def test_emoji_are_looked_for_where_make_puts_them(package, monkeypatch):
    monkeypatch.chdir(package.parents[1])
    assert len(load_source("emoji", "all")) == COUNT


def test_emoji_stored_in_grey_come_in_colour(package):
    Image.new("LA", (64, 64), (90, 255)).save(package / "img" / "google" / "64" / "1f000.png")
    found = [image for image in everything(load_source("emoji", "all", str(package)))[0] if image[-1, -1, 0] == 90]
    np.testing.assert_array_equal(found, np.full((1, 64, 64, 3), 90))


def test_emoji_that_google_has_not_drawn_are_left_out(package):
    changed = entries()
    changed[0]["has_img_google"] = False
    (package / "emoji.json").write_text(json.dumps(changed))
    assert len(load_source("emoji", "all", str(package))) == COUNT - 1


def test_damaged_or_missing_image_is_told_when_it_is_read(package):
    for path in (package / "img" / "google" / "64").iterdir():
        path.write_bytes(b"")
    source = load_source("emoji", "train", str(package))
    with pytest.raises(DamagedImage, match=r"64/1f0..\.png cannot be read as an image"):
        source[0]


@pytest.mark.parametrize("directory", ["", "elsewhere"])
def test_emoji_that_are_nowhere_are_told_with_how_to_get_them(tmp_path, monkeypatch, directory):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InvalidInput) as error:
        load_source("emoji", "train", directory)
    message = str(error.value)
    assert f"no emoji.json in {tmp_path / (directory or 'data/emoji')}: " in message
    assert "`make data`" in message
    assert "\n  npm pack emoji-datasource-google@16.0.0 " in message


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[", r"emoji\.json cannot be read: JSONDecodeError"),
        ('{"a": 1}', r"emoji\.json cannot be read: AttributeError"),
        ('[{"unified": "1F000"}]', r"emoji\.json cannot be read: KeyError 'category'"),
        ("[]", r"emoji\.json has no emoji of Google's: expected that of emoji-datasource-google 16\.0\.0"),
        ('[{"unified": "1", "image": "1.png", "category": "Cats"}]', "has the categories Cats: expected"),
    ],
)
def test_damaged_list_of_emoji_is_told(tmp_path, content, message):
    (tmp_path / "emoji.json").write_text(content)
    with pytest.raises(InvalidInput, match=message):
        load_source("emoji", "train", str(tmp_path))


def test_emoji_have_no_other_split(package):
    with pytest.raises(
        InvalidInput, match=r"unknown split of emoji 'tset': expected one of train, test, all, train\+skin_tones"
    ):
        load_source("emoji", "tset", str(package))
