"""Devices that are not there, and what is said where they cannot be planned for."""

import importlib.metadata
import re
from types import SimpleNamespace

import jax
import pytest
from jax.errors import JaxRuntimeError

from jax_ddpm.errors import InvalidInput
from jax_ddpm.training import topologies
from jax_ddpm.training.chips import CHIPS
from jax_ddpm.training.topologies import find_topology, libtpu_requirement


def test_devices_of_a_cpu():
    found = find_topology("cpu:4")
    assert list(found.devices) == jax.devices()
    assert found.chip is None
    assert not found.stands_in


def test_gpus_by_description_are_stood_in_for():
    found = find_topology("gpu:4xA100-40GB")
    assert found.chip == CHIPS["A100-40GB"]
    assert len(found.devices) == 4
    assert found.stands_in


MISTAKES = {
    "v5:2x4": "unknown --topology 'v5': expected one of v4, v5e, v5p, v6e, gpu, cpu. Did you mean 'v5",
    "tpu": "unknown --topology 'tpu'",
    "v5e": "--topology=v5e:: expected 2 sides of a slice of at most 256 chips, such as v5e:2x4",
    "v5e:2x2x2": "expected 2 sides",
    "v5e:32x16": "at most 256 chips",
    "v5p:4x4": "expected 3 sides of a slice of at most 6,144 chips, such as v5p:2x2x4",
    "v5e:0x4": "expected 2 sides",
    "cpu": "--topology=cpu: expected a number of devices, such as v5e:16x16, v5p:2x2x4, gpu:8xH100 or cpu:8",
    "cpu:0": "expected a number of devices",
    "cpu:4xH100": "expected a number of devices",
    "gpu:4": "expected a number of devices",
    "gpu:4xH10": "unknown GPU 'H10': expected one of A100, A100-40GB, H100, H200, L4. Did you mean 'H100'?",
    "cpu:8": "4 devices were made of the CPU. Expected runtime.cpu_devices=8",
}


@pytest.mark.parametrize("name", MISTAKES)
def test_what_is_expected_is_said(name):
    with pytest.raises(InvalidInput, match=re.escape(MISTAKES[name])):
        find_topology(name)


def test_without_libtpu_it_is_said_how_to_get_the_one_that_fits(monkeypatch):
    monkeypatch.delenv("TPU_LIBRARY_PATH", raising=False)
    monkeypatch.setattr(topologies.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InvalidInput, match=re.escape(f"--no-deps '{libtpu_requirement()}'; then the same command")):
        find_topology("v5e:2x4")
    named = [row for row in importlib.metadata.requires("jax") if row.startswith("libtpu")]
    assert re.fullmatch(r"libtpu==[\d.]+\*", libtpu_requirement())
    assert any(row.startswith(libtpu_requirement()) for row in named)


@pytest.fixture
def asked_for(monkeypatch, tmp_path):
    """What libtpu would be asked for, by a stand-in for it that has one device for each of what it is asked for."""
    library, asked = tmp_path / "libtpu.so", []
    library.touch()
    monkeypatch.setattr(topologies.os, "environ", {"TPU_LIBRARY_PATH": str(library), "TPU_WORKER_HOSTNAMES": "mine"})

    def describe(*names, **told):
        if told["chips_per_host_bounds"] == (1, 1, 1):
            raise JaxRuntimeError("INVALID_ARGUMENT: no such topology\nand more of it")
        asked.append((*names, told))
        return SimpleNamespace(devices=["a device"])

    monkeypatch.setattr(topologies.topologies, "get_topology_desc", describe)
    return asked


@pytest.mark.parametrize(
    ("name", "cores", "machine"),
    [
        ("v4:2x2x4", "megacore", (2, 2, 1)),
        ("v5p:2x2x4", "megacore", (2, 2, 1)),
        ("v5p:2x1x1", "megacore", (2, 1, 1)),
        ("v5e:2x4", "default", (2, 2, 1)),
        ("v6e:1x2", "default", (1, 2, 1)),
    ],
)
def test_libtpu_is_told_what_a_device_is_and_how_large_a_machine(name, cores, machine, asked_for):
    found = find_topology(name)
    assert asked_for == [(name, "tpu", {"chip_config_name": cores, "chips_per_host_bounds": machine})]
    assert (found.devices, found.chip) == (["a device"], CHIPS[name.split(":")[0]])
    assert topologies.os.environ["TPU_SKIP_MDS_QUERY"] == "1"
    assert topologies.os.environ["TPU_WORKER_HOSTNAMES"] == "mine", "what is said already stays"


def test_a_slice_that_libtpu_does_not_know_is_told_with_one_that_it_does(asked_for):
    expected = (
        "--topology=v5p:3x3x3: libtpu knows no such slice (INVALID_ARGUMENT: no such topology). Expected one that is to be"
    )
    with pytest.raises(InvalidInput, match=re.escape(f"{expected} had, such as v5p:2x2x4")):
        find_topology("v5p:3x3x3")


def test_a_path_that_leads_nowhere(monkeypatch, tmp_path):
    monkeypatch.setenv("TPU_LIBRARY_PATH", str(tmp_path / "libtpu.so"))
    with pytest.raises(InvalidInput, match=r"there is no such file. Expected that of libtpu.so"):
        find_topology("v5e:2x4")
