"""Which images a run was trained on."""

import pytest

from jax_ddpm.config import default_config, write_config
from jax_ddpm.data.sources.source import Source
from jax_ddpm.held_out import seen_in_training


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
