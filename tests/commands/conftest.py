"""A network so small that a whole run takes seconds."""

from functools import partial
from pathlib import Path

import jax
import pytest
from ml_collections import ConfigDict

from configs import digits, digits_classifier
from jax_ddpm import experiment
from jax_ddpm.commands import import_weights, train
from jax_ddpm.config import default_config, read_config
from jax_ddpm.step_program import new_state
from jax_ddpm.training.checkpoints import Checkpoints
from jax_ddpm.training.sharding import abstract, make_mesh, replicated
from jax_ddpm.training.state import TrainState
from tests.compiling import pytest_runtest_protocol  # noqa: F401, compiles quickly here

ROOT = Path(__file__).parents[2]


def make_tiny_config(**train_settings: object) -> ConfigDict:
    config = digits.get_config()
    config.diffusion.steps = 8
    config.model.update(channels=8, multipliers=(1,), groups=4, attention_resolutions=())
    config.train.update(steps=6, batch_size=8, warmup_steps=2, log_every=2, checkpoint_every=2, keep_last=2)
    config.train.update(sample_every=3, sample_count=7)
    config.train.update(**train_settings)
    config.sample.update(count=7, batch_size=4)
    return config


def make_tiny_classifier_config(**train_settings: object) -> ConfigDict:
    config = digits_classifier.get_config()
    config.diffusion.steps = 8
    config.model.update(channels=8, multipliers=(1,), groups=4, attention_resolutions=())
    config.train.update(steps=6, batch_size=8, warmup_steps=2, log_every=2, checkpoint_every=2, keep_last=2)
    config.train.update(**train_settings)
    return config


def imported(source: str | Path, workdir: Path, **given: object) -> ConfigDict:
    """The settings of the workdir that --mode import_weights makes, where flags give the settings `given`."""
    config = default_config()
    config.update_from_flattened_dict(given)
    config.import_weights.update({"from": str(source), "given": tuple(given)})
    import_weights.main(config, workdir)
    return read_config(workdir)


def last_state(workdir: Path) -> tuple[TrainState, dict[str, int]]:
    """The train state that the newest checkpoint holds, its key as numbers, and the position of the data."""
    config = read_config(workdir)
    data = experiment.make_batches(config, experiment.make_source(config))
    like = abstract(jax.eval_shape(partial(new_state, config)), replicated(make_mesh()))
    with Checkpoints(workdir / "checkpoints", read_only=True) as checkpoints:
        state = checkpoints.restore(like, data)
    return state.replace(key=jax.random.key_data(state.key)), data.get_state()


def tiny_flags(**settings: object) -> list[str]:
    """The same settings as flags of the command line."""
    tiny, usual = make_tiny_config(), digits.get_config()
    flags = [
        f"--config.{group}.{name}={value}"
        for group in ("diffusion", "model", "train", "sample")
        for name, value in tiny[group].items()
        if value != usual[group][name]
    ]
    return [*flags, *(f"--config.{name}={value}" for name, value in settings.items())]


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The workdir of a finished tiny run."""
    workdir = tmp_path_factory.mktemp("trained") / "run"
    train.main(make_tiny_config(), workdir)
    return workdir


@pytest.fixture(scope="session")
def trained_classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The workdir of a finished tiny run of a classifier."""
    workdir = tmp_path_factory.mktemp("trained_classifier") / "run"
    train.main(make_tiny_classifier_config(), workdir)
    return workdir
