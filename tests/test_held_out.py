"""Which images a run was trained on, and which of those that are evaluated a process reads."""

import numpy as np
import pytest

from jax_ddpm import held_out
from jax_ddpm.config import default_config, write_config
from jax_ddpm.data.sources.source import DamagedImage, Source
from jax_ddpm.held_out import hold, own_batches, seen_in_training
from jax_ddpm.training.sharding import make_mesh


@pytest.mark.parametrize(
    ("splits", "trained", "held", "seen"),
    [
        (("train", "valid"), "validation", "valid", True),
        (("train", "valid"), "valid", "val", True),
        (("Train", "Test"), "train", "training", True),
        (("Train", "Test"), "Train", "test", False),
        (("train", "eval"), "test", "evaluation", True),
        (("train", "eval", "test"), "eval", "test", False),  # two splits, of which each is asked for by its very name
        (("train", "validation"), "train[:90%]+validation[:10%]", "validation[10%:]", True),
        (("train", "validation"), "train[:90%]", "validation", False),
        (("train", "test", "all"), "all", "test", True),
        ((), "train", "test", True),
    ],
)
def test_a_split_is_the_same_under_all_its_names(tmp_path, splits, trained, held, seen):
    config = default_config()
    config.data.update(name="folder", directory=str(tmp_path), split=trained)
    write_config(config, tmp_path)
    config.eval.split = held
    source = Source("folder", 1, lambda number: pytest.fail("nothing need be read"), splits=dict.fromkeys(splits))
    assert seen_in_training(config, tmp_path, source) is seen


def held(read, on_damaged="stop", images=11):
    """So many images of four pixels, in batches of eight."""
    config = default_config()
    config.data.update(image_size=2, channels=1, on_damaged=on_damaged)
    config.eval.batch_size = 8
    return hold(config, make_mesh(), None, Source("numbered", images, read))


def number_of(index):
    return {"image": np.full((2, 2, 1), index, np.uint8), "label": index}


def test_a_process_reads_its_rows_of_each_batch_alone_and_together_they_are_the_batches_of_one(monkeypatch):
    whole, read = list(own_batches(held(number_of))), []
    assert [real for _, real in whole] == [8, 3]
    np.testing.assert_array_equal([batch["label"] for batch, _ in whole], [range(8), [8, 9, 10, 8, 9, 10, 8, 9]])
    # The second batch is filled up with its own first images, in every process.
    for rows, numbers in (([0, 1, 4, 5], {0, 1, 4, 5, 8, 9, 10}), ([2, 3, 6, 7], {2, 3, 6, 7, 8, 9, 10}), ([2], {2, 10})):
        monkeypatch.setattr(held_out, "own_rows", lambda size, mesh, rows=rows: np.array(rows))
        own = list(own_batches(held(lambda index: read.append(index) or number_of(index))))
        assert set(read) == numbers
        read.clear()
        for (batch, real), (of_all, all_real) in zip(own, whole, strict=True):
            assert real == all_real
            for name, values in batch.items():
                np.testing.assert_array_equal(values, of_all[name][rows])


def test_where_damaged_images_are_left_out_the_rows_are_those_of_what_is_left(monkeypatch):
    def read(index):
        if index in (1, 9):
            raise DamagedImage(f"{index} is damaged")
        return number_of(index)

    with pytest.raises(DamagedImage, match="1 is damaged"):
        list(own_batches(held(read)))
    monkeypatch.setattr(held_out, "own_rows", lambda size, mesh: np.array([2, 3]))
    found = [(batch["label"].tolist(), real) for batch, real in own_batches(held(read, "skip"))]
    assert found == [([3, 4], 8), ([10, 10], 1)]
