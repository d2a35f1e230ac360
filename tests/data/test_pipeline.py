"""The stream of batches: what is in it, in which order, and that it goes on exactly where it was saved."""

import json
from collections import Counter
from itertools import islice

import numpy as np
import pytest

from jax_ddpm.data.pipeline import batches, one_pass
from jax_ddpm.data.sources.source import Source
from jax_ddpm.data.transforms import to_uint8
from jax_ddpm.errors import InvalidInput

COUNT = 11  # no multiple of any batch size here, so that batches reach from one epoch into the next


def image(number: int) -> np.ndarray:
    """[4, 4, 3] uint8: brighter to the right, so that a mirrored one is seen, and of another number another image."""
    return (20 * number + 5 * np.arange(4)[None, :, None] + np.zeros((4, 1, 3))).astype(np.uint8)


NUMBERED = Source("numbered", COUNT, lambda number: {"image": image(number), "label": number})


def stream(source: Source = NUMBERED, **changes):
    settings = {"batch_size": 4, "image_size": 4, "channels": 3, "flip": False, "seed": 0}
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


@pytest.mark.parametrize("flip", [False, True], ids=["plain", "flip"])
@pytest.mark.parametrize("position", [0, 1, 2, 3, 17])
def test_a_fresh_iterator_goes_on_exactly_where_the_state_was_saved(position, flip):
    original = stream(flip=flip)
    for _ in islice(original, position):
        pass
    state = json.dumps(original.get_state())  # as plain data, for it is to be written to disk
    following = list(islice(original, 5))
    resumed = stream(flip=flip)
    resumed.set_state(json.loads(state))
    for ours, theirs in zip(islice(resumed, 5), following, strict=True):
        assert_same(ours, theirs)


def test_a_used_iterator_can_be_set_back():
    iterator = stream(flip=True)
    state, first = iterator.get_state(), next(iterator)
    assert_same(next(stream(flip=True)), first)
    next(iterator)
    iterator.set_state(state)
    assert_same(next(iterator), first)


@pytest.mark.parametrize("flip", [False, True], ids=["plain", "flip"])
@pytest.mark.parametrize("processes", [2, 4])
def test_processes_together_read_what_one_would_batch_by_batch(processes, flip):
    shares = [stream(flip=flip, process_index=index, process_count=processes) for index in range(processes)]

    def contents(batch):
        return list(zip(batch["label"].tolist(), mirrored(batch), strict=True))

    for whole, *parts in islice(zip(stream(flip=flip), *shares, strict=True), 2 * COUNT):
        assert [len(part["label"]) for part in parts] == [4 // processes] * processes
        assert sorted(pair for part in parts for pair in contents(part)) == sorted(contents(whole))


def test_a_batch_that_does_not_divide_over_the_processes_is_refused():
    with pytest.raises(InvalidInput, match="batch_size=4 does not divide over 3 processes"):
        stream(process_count=3)


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
