"""Each start of training is noted with what it ran on."""

import importlib.metadata
import sys
from datetime import UTC, datetime

import jax
import pytest

from jax_ddpm.errors import InvalidInput
from jax_ddpm.training.environment import PACKAGES, note_start, read_starts


def test_each_start_adds_an_entry_with_versions_and_devices(tmp_path):
    before = datetime.now(UTC).replace(microsecond=0)
    assert read_starts(tmp_path) == []
    note_start(tmp_path, 0, "1.2.3")
    note_start(tmp_path, 40, "1.2.4")
    first, second = read_starts(tmp_path)
    assert (first["step"], second["step"]) == (0, 40)
    assert before <= datetime.fromisoformat(first["started"]) <= datetime.fromisoformat(second["started"])
    assert second["packages"] == {"jax_ddpm": "1.2.4"} | {name: importlib.metadata.version(name) for name in PACKAGES}
    assert second["python"] == ".".join(map(str, sys.version_info[:3]))
    assert second["devices"] == {"platform": "cpu", "kind": jax.devices()[0].device_kind, "count": 4}  # tests/conftest.py
    assert (second["processes"], second["cores"] >= 1, bool(second["os"])) == (1, True, True)


def test_a_damaged_file_is_told(tmp_path):
    (tmp_path / "environment.json").write_text('[{"step": 0')
    with pytest.raises(InvalidInput, match=r"environment\.json cannot be read .*: remove it"):
        note_start(tmp_path, 0, "1.2.3")
