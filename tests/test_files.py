"""Folders of object storage, named and moved; files that a disk does not take."""

import importlib.util

import fsspec
import numpy as np
import pytest

from jax_ddpm.errors import InvalidInput
from jax_ddpm.files import GrowingText, NotWritten, make_directory, move, place, write_json, write_npz
from tests.full_disk import files_end_at
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


@pytest.mark.parametrize("write", [write_json, lambda path, values: write_npz(path, values=np.array(values))])
def test_a_file_that_the_disk_has_no_room_for_is_told_and_the_old_one_stays(write, tmp_path):
    path = write(tmp_path / "folder/values", [1.0])
    before = path.read_bytes()
    with files_end_at(1000), pytest.raises(NotWritten, match=r"/folder/values could not be written: OSError: "):
        write(path, [float(number) for number in range(1000)])
    assert path.read_bytes() == before


def test_so_is_a_line_that_it_has_no_room_for(tmp_path):
    told = r"/lines could not be written: OSError: .*File too large"
    with files_end_at(30):
        text = GrowingText(tmp_path / "lines", "the first\n")
        text.add("the second")
        with pytest.raises(NotWritten, match=told):
            text.add("the third")
        with pytest.raises(NotWritten, match=told):
            text.close()
    assert (tmp_path / "lines").read_text().startswith("the first\nthe second\n")


def test_a_folder_that_cannot_be_made_is_told(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(NotWritten, match=r"/file/folder could not be written: NotADirectoryError: "):
        make_directory(tmp_path / "file/folder")
    with pytest.raises(NotWritten, match=r"/file/values could not be written: "):
        write_json(tmp_path / "file/values", {})
    (tmp_path / "moved").mkdir()
    with pytest.raises(NotWritten, match=r"/file/folder could not be written: NotADirectoryError: "):
        move(tmp_path / "moved", tmp_path / "file/folder")
