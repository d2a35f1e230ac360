"""Runs so small that drawing takes next to nothing, with weights that say something."""

from pathlib import Path

import pytest

from tests.commands.conftest import make_tiny_classifier_config
from tests.compiling import pytest_runtest_protocol  # noqa: F401, compiles quickly here
from tests.test_generation import leave_run, tiny


@pytest.fixture(scope="session")
def conditional(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The workdir of a network that knows classes, and no class."""
    return leave_run(tmp_path_factory.mktemp("serving") / "a run", tiny(model={"label_dropout": 0.1}))


@pytest.fixture(scope="session")
def unconditional(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """That of one that knows none, with a learned variance."""
    groups = {
        "model": {"class_conditional": False, "label_dropout": 0.0},
        "diffusion": {"variance": "learned_range", "loss": "hybrid"},
    }
    return leave_run(tmp_path_factory.mktemp("serving") / "unconditional", tiny(**groups))


@pytest.fixture(scope="session")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """That of a classifier of the same noise."""
    return leave_run(tmp_path_factory.mktemp("serving") / "classifier", tiny(make_tiny_classifier_config))
