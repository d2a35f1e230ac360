"""The stream of batches: what is in it, in which order, and that it goes on exactly where it was saved."""

import dataclasses
import json
import threading
from collections import Counter
from itertools import islice

import chex
import numpy as np
import pytest

from jax_ddpm.data.augment import Augmentation, augment
from jax_ddpm.data.pipeline import batches, one_pass
from jax_ddpm.data.sources.source import DamagedImage, Source
from jax_ddpm.data.transforms import to_uint8
from jax_ddpm.errors import InvalidInput

COUNT = 11  # no multiple of any batch size here, so that batches reach from one epoch into the next


def image(number: int) -> np.ndarray:
    """[4, 4, 3] uint8: brighter to the right, so that a mirrored one is seen, and of another number another image."""
    return (20 * number + 5 * np.arange(4)[None, :, None] + np.zeros((4, 1, 3))).astype(np.uint8)


NUMBERED = Source("numbered", COUNT, lambda number: {"image": image(number), "label": number})


def stream(source: Source = NUMBERED, flip: bool = False, **changes):
    settings = {"batch_size": 4, "image_size": 4, "channels": 3, "augmentation": Augmentation(flip), "seed": 0}
    return batches(source, **settings | changes)


def labels(iterator, count: int) -> list[int]:
    """Of the next `count` batches, one after the other."""
    return np.concatenate([batch["label"] for batch in islice(iterator, count)]).tolist()


def assert_same(ours, theirs):
    assert set(ours) == set(theirs) == {"image", "label"}
    for name in ours:
        np.testing.assert_array_equal(ours[name], theirs[name])


def mirrored(batch) -> list[bool]:
    """Whether each image of the batch is mirrored; it must be the image of its label either way."""
    pictures = to_uint8(batch["image"])
    originals = [image(label) for label in batch["label"]]
    flags = [np.array_equal(picture, original[:, ::-1]) for picture, original in zip(pictures, originals, strict=True)]
    for picture, original, flag in zip(pictures, originals, flags, strict=True):
        assert flag or np.array_equal(picture, original)
    return flags


@pytest.mark.parametrize(("size", "channels"), [(4, 3), (2, 3), (8, 1)])
def test_batch_is_float32_in_minus_one_to_one_and_int32(size, channels):
    batch = next(stream(image_size=size, channels=channels))
    assert {name: (part.shape, part.dtype.name) for name, part in batch.items()} == {
        "image": ((4, size, size, channels), "float32"),
        "label": ((4,), "int32"),
    }
    assert isinstance(batch["image"], np.ndarray)
    means = (batch["image"].mean(axis=(1, 2, 3)) + 1) * 127.5
    np.testing.assert_allclose(means, [image(label).mean() for label in batch["label"]], rtol=0, atol=1)


def test_extreme_bytes_become_minus_one_and_one():
    black_to_white = Source("two", 1, lambda _: {"image": np.array([[[0], [255]], [[255], [0]]], np.uint8), "label": 0})
    batch = next(stream(black_to_white, batch_size=2, image_size=2, channels=1))
    np.testing.assert_array_equal(batch["image"][0, ..., 0], [[-1, 1], [1, -1]])


def test_every_epoch_visits_every_example_once_in_an_order_of_its_own():
    seen = labels(stream(), COUNT)  # 4 epochs of 11 in 11 batches of 4
    epochs = [tuple(seen[start : start + COUNT]) for start in range(0, 4 * COUNT, COUNT)]
    assert [sorted(epoch) for epoch in epochs] == [list(range(COUNT))] * 4
    assert len(set(epochs)) == 4
    assert tuple(range(COUNT)) not in epochs


@pytest.mark.parametrize("batch_size", [1, 2, COUNT, 3 * COUNT])
def test_batches_are_of_any_size(batch_size):
    seen = labels(stream(batch_size=batch_size), -(-2 * COUNT // batch_size))
    assert len(seen) % batch_size == 0
    assert sorted(seen[:COUNT]) == sorted(seen[COUNT : 2 * COUNT]) == list(range(COUNT))


def test_the_seed_alone_decides_the_order():
    first = labels(stream(), 6)
    assert labels(stream(), 6) == first
    assert labels(stream(seed=1), 6) != first
    assert labels(stream(flip=True), 6) == first
    assert labels(stream(batch_size=8), 3) == first


def test_flip_mirrors_half_of_the_images_anew_each_epoch():
    drawn = Counter()
    for batch in islice(stream(flip=True), 10 * COUNT):
        drawn.update(zip(batch["label"].tolist(), mirrored(batch), strict=True))
    flipped = sum(count for (_, flag), count in drawn.items() if flag)
    assert 168 < flipped < 272  # of 440 draws 220, and five deviations of √110
    assert len(drawn) == 2 * COUNT  # every image was seen both ways in its 40 epochs


def test_without_flip_no_image_is_ever_mirrored():
    assert not any(any(mirrored(batch)) for batch in islice(stream(), 3 * COUNT))


def test_the_seed_decides_the_flips():
    def flips(seed):
        return [flag for batch in islice(stream(flip=True, seed=seed), COUNT) for flag in mirrored(batch)]

    assert flips(0) == flips(0)
    assert flips(0) != flips(1)


def on_its_way(batch):
    """As a batch that was placed somewhere: marked, so that one that was not is seen."""
    return {**batch, "label": batch["label"] + 100}


STREAMS = {
    "plain": {},
    "flip": {"flip": True},
    "ahead": {"flip": True, "place": on_its_way, "prefetch": 3},
    "all": {"augmentation": Augmentation(True, 0.8, 10, 0.5), "cache_mib": 1, "prefetch": 1},
}


@pytest.mark.parametrize("settings", STREAMS.values(), ids=STREAMS)
@pytest.mark.parametrize("position", [0, 1, 2, 3, 17])
def test_a_fresh_iterator_goes_on_exactly_where_the_state_was_saved(position, settings):
    original = stream(**settings)
    for _ in islice(original, position):
        pass
    state = json.dumps(original.get_state())  # as plain data, for it is to be written to disk
    following = list(islice(original, 5))
    resumed = stream(**settings)
    resumed.set_state(json.loads(state))
    for ours, theirs in zip(islice(resumed, 5), following, strict=True):
        chex.assert_trees_all_equal(ours, theirs)


@pytest.mark.parametrize("prefetch", [0, 2])
def test_a_used_iterator_can_be_set_back(prefetch):
    iterator = stream(flip=True, prefetch=prefetch)
    state, first = iterator.get_state(), next(iterator)
    assert_same(next(stream(flip=True)), first)
    next(iterator)
    iterator.set_state(state)
    assert_same(next(iterator), first)


def test_batches_made_ahead_are_those_that_are_not_and_the_position_is_that_of_the_last_one_given():
    made, enough = [], threading.Event()

    def place(batch):
        made.append(batch["label"].tolist())
        if len(made) == 5:
            enough.set()
        return on_its_way(batch)

    ahead = stream(place=place, prefetch=3)
    given = [next(ahead), next(ahead)]
    assert enough.wait(60), "three lie ready behind the two that were given"
    assert ahead.get_state() == {"next_index": 2}
    for ours, theirs in zip(given, stream(), strict=False):
        assert_same(ours, on_its_way(theirs))
    ahead.close()
    assert made[:5] == [batch["label"].tolist() for batch in islice(stream(), 5)]


def counting(source: Source, reads: Counter) -> Source:
    def read(number):
        reads[number] += 1
        return source.read(number)

    return dataclasses.replace(source, read=read)


@pytest.mark.parametrize(("size", "mebibytes", "once"), [(4, 0, False), (64, 0.0430, True), (64, 0.0429, False)])
def test_images_are_read_once_where_all_of_them_fit_into_the_memory_given(size, mebibytes, once):
    reads = Counter()
    kept = stream(counting(NUMBERED, reads), workers=1, image_size=size, channels=1, cache_mib=mebibytes)
    for _, ours, theirs in zip(range(6), kept, stream(image_size=size, channels=1), strict=False):
        assert_same(ours, theirs)  # 24 images of 11, so that some came more than once
    assert (max(reads.values()) == 1) is once


def damaged(*numbers: int) -> Source:
    """Whose images of these numbers cannot be read."""

    def read(number):
        if number in numbers:
            raise DamagedImage(f"image {number} is broken")
        return {"image": image(number), "label": number}

    return Source("damaged", COUNT, read)


def test_a_damaged_image_stops_the_run_and_is_named():
    with pytest.raises(DamagedImage, match="image 3 is broken"):
        list(islice(stream(damaged(3), prefetch=2), COUNT))


@pytest.mark.parametrize("mebibytes", [0, 1])
def test_a_damaged_image_is_skipped_for_the_next_one_and_told_once(mebibytes, capsys):
    settings = {"batch_size": COUNT, "cache_mib": mebibytes, "on_damaged": "skip"}
    instead = {3: 5, 4: 5, 10: 0}
    found = [batch["label"].tolist() for batch in islice(stream(damaged(3, 4, 10), **settings), 3)]
    usual = [batch["label"].tolist() for batch in islice(stream(batch_size=COUNT), 3)]
    assert found == [[instead.get(label, label) for label in labels] for labels in usual]
    said = capsys.readouterr().err
    assert [said.count(f"image {number} is broken") for number in (3, 4, 10)] == [1, 1, 1]
    assert "(3 damaged images so far)" in said


def test_where_no_image_can_be_read_skipping_ends():
    with pytest.raises(InvalidInput, match="none of the 11 images of data set 'damaged' can be read"):
        next(stream(damaged(*range(COUNT)), on_damaged="skip"))
    with pytest.raises(InvalidInput, match="none of 11 images of data set 'damaged' can be read"):
        list(one_pass(damaged(*range(COUNT)), batch_size=4, image_size=4, channels=3, on_damaged="skip"))


def test_what_is_done_about_damage_has_a_name():
    with pytest.raises(InvalidInput, match=r"unknown on_damaged 'skipp': expected one of stop, skip\. Did you mean 'skip'\?"):
        stream(on_damaged="skipp")


def test_one_pass_leaves_damaged_images_out_and_counts_them(capsys):
    fitted = {"batch_size": 4, "image_size": 4, "channels": 3}
    found = list(one_pass(damaged(0, 6), **fitted, on_damaged="skip"))
    assert [size for _, size in found] == [4, 4, 1]
    assert [label for batch, size in found for label in batch["label"][:size].tolist()] == [1, 2, 3, 4, 5, 7, 8, 9, 10]
    said = capsys.readouterr().err
    assert "image 0 is broken" in said
    assert "2 of 11 images cannot be read and are left out" in said
    with pytest.raises(DamagedImage, match="image 0 is broken"):
        next(one_pass(damaged(0, 6), **fitted))


AUGMENTED = Augmentation(True, 0.5, 20, 0.5)


def test_what_is_drawn_for_an_image_depends_on_neither_workers_nor_processes_and_is_new_each_epoch():
    settings = {"augmentation": AUGMENTED, "batch_size": COUNT - COUNT % 2, "image_size": 8}
    whole = list(islice(stream(**settings), 4))
    for theirs, ours in zip(whole, stream(**settings, workers=7), strict=False):
        chex.assert_trees_all_equal(ours, theirs)
    rows = np.arange(settings["batch_size"])
    halves = [stream(**settings, rows=rows[rows % 2 == index]) for index in (0, 1)]
    for theirs, *parts in zip(whole, *halves, strict=False):
        for index, part in enumerate(parts):
            chex.assert_trees_all_equal(part, {name: values[index::2] for name, values in theirs.items()})
    drawn = np.concatenate([batch["augmentation"] for batch in whole])
    assert len({tuple(row) for row in drawn.tolist() if any(row[2:])}) == sum(any(row[2:]) for row in drawn.tolist()) > 20


@pytest.mark.parametrize("known", [True, False], ids=["known shape", "unknown shape"])
def test_images_are_cropped_from_the_pixels_that_they_have(known):
    """Not first enlarged to as many as the smallest window needs, which would only blur them."""
    noise = np.random.default_rng(0).integers(0, 256, (36, 36, 3), np.uint8)
    sizes = []

    def look(image, size, how, rng):
        if len(image) < 32:  # of another test's stream, whose threads run on
            return augment(image, size, how, rng)
        sizes.append(image.shape)
        np.testing.assert_array_equal(image, noise[: len(image), : len(image)])
        return image[:size, :size], np.zeros(9, np.float32)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("jax_ddpm.data.pipeline.augment", look)
        for side in (32, 36):
            example = {"image": noise[:side, :side], "label": 0}
            source = Source("one", 1, lambda _, example=example: example, shape=(side, side, 3) if known else None)
            for cache_mib in (0, 1):
                next(stream(source, image_size=32, augmentation=Augmentation(crop=0.8), cache_mib=cache_mib, workers=1))
    assert set(sizes) == {(32, 32, 3), (36, 36, 3)}


def test_what_is_made_ahead_waits_as_bytes(monkeypatch):
    made, floats, enough = [], [], threading.Event()
    monkeypatch.setattr("jax_ddpm.data.pipeline.to_float", lambda images: floats.append(images.dtype) or images)

    def read(number):
        made.append(number)
        if len(made) >= 12:
            enough.set()
        return NUMBERED.read(number)

    iterator = stream(dataclasses.replace(NUMBERED, read=read), workers=1)
    next(iterator)
    assert enough.wait(60), "two batches are made behind the one that was given"
    assert floats == [np.uint8]
    iterator.close()
    assert len(made) <= 4 * 4, "and one may be in the making"


def test_the_network_is_told_of_non_leaking_augmentation_alone():
    batch = next(stream(augmentation=Augmentation(True, 0.8, 10)))
    assert set(batch) == {"image", "label"}
    batch = next(stream(augmentation=Augmentation(non_leaking=0.5)))
    assert (batch["augmentation"].shape, batch["augmentation"].dtype) == ((4, 9), np.float32)
    batch = next(stream(augmentation=Augmentation(non_leaking=1e-12)))
    np.testing.assert_array_equal(batch["augmentation"], 0)
    assert not any(mirrored({name: batch[name] for name in ("image", "label")}))


@pytest.mark.parametrize("flip", [False, True], ids=["plain", "flip"])
@pytest.mark.parametrize("shares", [[[0, 1], [2, 3]], [[0, 3], [1, 2]], [[2], [0], [3], [1]]], ids=str)
def test_processes_together_read_what_one_would_row_by_row(shares, flip):
    streams = [stream(flip=flip, rows=rows) for rows in shares]
    for whole, *parts in islice(zip(stream(flip=flip), *streams, strict=True), 2 * COUNT):
        for rows, part in zip(shares, parts, strict=True):
            chex.assert_trees_all_equal(part, {name: values[rows] for name, values in whole.items()})


@pytest.mark.parametrize("rows", [[0, 1], [1, 3], [2]], ids=str)
def test_a_process_reads_its_own_rows_and_no_others(rows):
    """One image after the other, as a single thread comes to them, those that it makes ahead among them."""
    read = []

    def note(number):
        read.append(number)
        return NUMBERED.read(number)

    given = stream(dataclasses.replace(NUMBERED, read=note), rows=rows, workers=1)
    got = labels(given, 2 * COUNT)
    given.close()
    expected = np.array(labels(stream(), 4 * COUNT)).reshape(-1, 4)[:, rows].ravel().tolist()
    assert read[: len(got)] == got == expected[: len(got)]
    assert read == expected[: len(read)]


def test_the_position_of_one_process_is_that_of_all():
    here, there = stream(rows=[0, 1]), stream()
    for _ in range(COUNT):
        next(here)
    there.set_state(here.get_state())
    rest = stream(rows=[2, 3])
    rest.set_state(there.get_state())
    whole = next(there)
    chex.assert_trees_all_equal(next(rest), {name: values[2:] for name, values in whole.items()})


def test_an_empty_source_is_refused():
    with pytest.raises(InvalidInput, match="data set 'nothing' is empty"):
        stream(Source("nothing", 0, lambda number: {"image": image(number), "label": 0}))


@pytest.mark.parametrize("count", [0, 1, 4, 7, 11])
def test_one_pass_gives_each_image_once_in_order_in_batches_of_one_size(count):
    found = list(one_pass(NUMBERED, batch_size=4, image_size=4, channels=3, count=count))
    assert all(batch["image"].shape == (4, 4, 4, 3) and batch["label"].shape == (4,) for batch, _ in found)
    counted = [label for batch, size in found for label in batch["label"][:size].tolist()]
    assert counted == list(range(count or COUNT))
    for batch, size in found:
        assert_same(batch, {name: part[np.arange(4) % size] for name, part in batch.items()})
        assert not any(mirrored(batch))


@pytest.mark.parametrize("count", [12, -1])
def test_one_pass_over_images_that_are_not_there_is_refused(count):
    with pytest.raises(InvalidInput, match=f"{count} images asked for: data set 'numbered' has 11"):
        next(one_pass(NUMBERED, batch_size=4, image_size=4, channels=3, count=count))
