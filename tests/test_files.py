"""Folders of object storage, named and moved; a folder of a disk is what other tests are about."""

import importlib.util

import fsspec
import pytest

from jax_ddpm.errors import InvalidInput
from jax_ddpm.files import move, place
from tests.object_storage import find


def test_a_folder_moves(storage):
    files, root = fsspec.url_to_fs(f"{storage[1]}/moving")
    files.pipe_file(f"{root}/a/b.txt", b"text")
    move(place(f"{storage[1]}/moving/a"), place(f"{storage[1]}/moving/c"))
    assert find(place(f"{storage[1]}/moving")) == ["c/b.txt"]


def test_what_cannot_be_reached_is_told(monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    fsspec.filesystem("s3").clear_instance_cache()
    with pytest.raises(InvalidInput, match=r"s3://bucket/run cannot be reached: "):
        place("s3://bucket/run")
    fsspec.filesystem("s3").clear_instance_cache()


def test_what_cannot_be_a_workdir_is_told(monkeypatch):
    with pytest.raises(InvalidInput, match=r"unknown storage 'gcs': expected one of gs, s3. Did you mean 'gs'"):
        place("gcs://bucket/run")
    with pytest.raises(InvalidInput, match="names no bucket: expected gs://BUCKET/FOLDER"):
        place("gs://")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InvalidInput, match=r"s3:// needs the package s3fs, which is not installed: pip install s3fs"):
        place("s3://bucket/run")
