"""Which files are found in folders with links, and in zips of odd names."""

import zipfile

import numpy as np
import pytest

from jax_ddpm.data.sources.listing import list_images
from jax_ddpm.data.sources.load import load_source
from jax_ddpm.data.sources.source import DamagedImage
from jax_ddpm.errors import InvalidInput
from tests.data.sources.made import noise, png, write

OWL, EMU = noise(2, 3, 3, seed=1), noise(2, 3, 3, seed=2)


@pytest.fixture
def elsewhere(tmp_path):
    write(tmp_path / "elsewhere" / "1.png", OWL)
    write(tmp_path / "elsewhere" / "deep" / "2.png", EMU)
    return tmp_path / "elsewhere"


def test_folders_that_are_linked_to_are_entered(tmp_path, elsewhere):
    (tmp_path / "birds" / "emu").mkdir(parents=True)
    (tmp_path / "birds" / "owl").symlink_to(elsewhere)
    (tmp_path / "birds" / "wren").symlink_to("owl")  # the same images under another name
    (tmp_path / "birds" / "emu" / "one.png").symlink_to(elsewhere / "deep" / "2.png")
    (tmp_path / "link").symlink_to("birds")
    for place in (tmp_path / "birds", tmp_path / "link"):
        found = list_images(place)
        assert found.names == ("emu/one.png", "owl/1.png", "owl/deep/2.png", "wren/1.png", "wren/deep/2.png")
        for name, image in zip(found.names, (EMU, OWL, EMU, OWL, EMU), strict=True):
            np.testing.assert_array_equal(found.read(name), image)


def test_links_that_lead_back_are_followed_once(tmp_path, elsewhere):
    (elsewhere / "deep" / "up").symlink_to(elsewhere)
    (elsewhere / "deep" / "here").symlink_to(".")
    (elsewhere / "itself").symlink_to("itself")
    for one, other in (("a", "b"), ("b", "a")):
        write(tmp_path / one / f"{one}.png", OWL)
        (tmp_path / one / "other").symlink_to(tmp_path / other)
    assert list_images(elsewhere).names == ("1.png", "deep/2.png")
    assert list_images(tmp_path / "a").names == ("a.png", "other/b.png")


def test_folders_that_systems_leave_behind_are_not_entered(tmp_path, elsewhere, monkeypatch):
    write(tmp_path / "birds" / "1.png", OWL)
    for name in (".all", "__all"):
        (tmp_path / "birds" / name).symlink_to(elsewhere)
    entered = []
    monkeypatch.setattr("os.path.realpath", lambda path: entered.append(str(path)) or str(path))
    assert list_images(tmp_path / "birds").names == ("1.png",)
    assert entered == [str(tmp_path / "birds")]


def test_link_that_leads_nowhere_is_a_damaged_image(tmp_path):
    write(tmp_path / "birds" / "owl" / "1.png", OWL)
    (tmp_path / "birds" / "owl" / "2.png").symlink_to("gone.png")
    (tmp_path / "birds" / "owl" / "3.png").symlink_to("3.png")
    source = load_source("folder", "train", str(tmp_path / "birds"))
    assert (len(source), source.class_names) == (3, ("owl",))
    for number, name in ((1, "2"), (2, "3")):
        with pytest.raises(DamagedImage, match=rf"birds/owl/{name}\.png cannot be read as an image"):
            source[number]


def packed(path, *names):
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, b"" if name.endswith("/") else png(OWL).getvalue())
    return path


@pytest.mark.parametrize("begin", ["./", "/", ".//", "./photos/", "photos/./", ".\\photos\\"])
def test_zip_has_its_folders_however_their_names_are_written(tmp_path, begin):
    found = list_images(packed(tmp_path / "a.zip", begin, f"{begin}cats.png/", f"{begin}b/1.png", f"{begin}c/../d//1.png"))
    assert found.names == ("b/1.png", "d/1.png")
    for name in found.names:
        np.testing.assert_array_equal(found.read(name), OWL)


def test_what_would_lie_outside_of_a_zip_is_passed_over(tmp_path):
    assert list_images(packed(tmp_path / "a.zip", "1.png", "../2.png", "a/../../3.png")).names == ("1.png",)
    with pytest.raises(InvalidInput, match=r"no images in .*b\.zip"):
        list_images(packed(tmp_path / "b.zip", "../1.png"))
