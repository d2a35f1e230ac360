"""`make data`, with an npm, an apt-get and a dpkg-deb of this test's in the place of real ones."""

import io
import json
import os
import shutil
import subprocess
import tarfile
from pathlib import Path

import numpy as np
import pytest

from jax_ddpm.data.sources.load import load_source
from tests.data.sources.made import CLOTHES, clothes, noise, png

ROOT = Path(__file__).parents[1]
USUAL = ("sh", "make", "rm", "mkdir", "mv", "cp", "ls", "grep", "wc", "tar", "gzip")
FAKES = {
    "apt-get": 'echo "$0 $*" >> "$LOG"; [ "$1 $3" = "download dataset-fashion-mnist" ] && cp "$PACKAGES/fashion.deb" .',
    "dpkg-deb": 'echo "$0 $*" >> "$LOG"; [ "$1" = --extract ] && tar -xf "$2" -C "$3"',
    "npm": 'echo "$0 $*" >> "$LOG"; [ "$1 $3" = "pack emoji-datasource-google@16.0.0" ] && cp "$PACKAGES/emoji.tgz" .',
}
ENTRIES = [{"unified": f"1F60{n}", "image": f"1f60{n}.png", "category": "Flags", "has_img_google": True} for n in range(10)]
FACES = noise(10, 64, 64, 3)


def pack(path: Path, mode: str, files: dict[str, bytes]) -> None:
    with tarfile.open(path, mode) as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


@pytest.fixture
def there(tmp_path):
    """A folder with the Makefile, the tools and the packages that they give."""
    for name in ("bin", "packages", "files"):
        (tmp_path / name).mkdir()
    shutil.copy(ROOT / "Makefile", tmp_path)
    for name in USUAL:
        (tmp_path / "bin" / name).symlink_to(shutil.which(name))
    for name, script in FAKES.items():
        (tmp_path / "bin" / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    files = {path.name: path.read_bytes() for path in clothes(tmp_path / "files", ".gz").iterdir()}
    placed = {f"./usr/share/datasets/fashion-mnist/{name}": content for name, content in files.items()}
    pack(tmp_path / "packages/fashion.deb", "w", placed | {"./usr/share/doc/dataset-fashion-mnist/copyright": b"MIT"})
    images = {f"img/google/64/{entry['image']}": png(face).getvalue() for entry, face in zip(ENTRIES, FACES, strict=True)}
    rest = {
        "emoji.json": json.dumps(ENTRIES).encode(),
        "LICENSE": b"MIT",
        "README.md": b"Apache",
        "img/google/sheets/32.png": b"",
    }
    pack(tmp_path / "packages/emoji.tgz", "w:gz", {f"package/{name}": content for name, content in (images | rest).items()})
    return tmp_path


def make_data(there: Path) -> tuple[int, str]:
    variables = {"PATH": str(there / "bin"), "PACKAGES": str(there / "packages"), "LOG": str(there / "log")}
    kept = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")}
    done = subprocess.run(["make", "data"], cwd=there, env=kept | variables, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


def got(there: Path) -> list[str]:
    return sorted(path.name for path in (there / "data").iterdir())


def test_both_sets_are_got_and_read(there):
    status, said = make_data(there)
    assert status == 0, said
    assert got(there) == ["emoji", "fashion_mnist"]
    assert "data/fashion_mnist: 4 files" in said
    assert "data/emoji: 10 images" in said
    assert (there / "data/fashion_mnist/LICENSE").read_text() == "MIT"
    assert sorted(path.name for path in (there / "data/emoji").iterdir()) == ["LICENSE", "README.md", "emoji.json", "img"]
    assert [path.name for path in (there / "data/emoji/img/google").iterdir()] == ["64"], "sheets are left out"
    fashion = load_source("fashion_mnist", "test", str(there / "data/fashion_mnist"))
    np.testing.assert_array_equal(fashion[0]["image"][2:-2, 2:-2, 0], CLOTHES["t10k"][0][0])
    faces = load_source("emoji", "all", str(there / "data/emoji"))
    assert {faces[n]["image"].tobytes() for n in range(len(faces))} == {face.tobytes() for face in FACES}


def test_what_is_there_is_not_got_again(there):
    make_data(there)
    before = (there / "log").read_text()
    assert len(before.splitlines()) == 3
    assert make_data(there)[0] == 0
    assert (there / "log").read_text() == before


NO_LISTS = "echo 'E: Unable to locate package dataset-fashion-mnist' >&2; exit 100"  # what apt-get says without its lists
APT_UPDATE = "Where apt-get has no lists yet, as in a new container, apt-get update gets them."
BY_HAND = "Its four files, train-images-idx3-ubyte.gz and so on, are also at https://github.com/zalandoresearch/fashion-mnist:"


def spoil(tool: str, how: str):
    return lambda there: (there / "bin" / tool).write_text(f"#!/bin/sh\n{how}\n")


def without(tool: str):
    return lambda there: (there / "bin" / tool).unlink()


def cut(package: str):
    def apply(there):
        content = (there / "packages" / package).read_bytes()
        (there / "packages" / package).write_bytes(content[: len(content) // 2])

    return apply


@pytest.mark.parametrize(
    ("spoil_it", "missing", "message"),
    [
        (
            without("npm"),
            "emoji",
            "data/emoji: there is no npm here. What the npm package emoji-datasource-google@16.0.0 holds",
        ),
        (
            without("apt-get"),
            "fashion_mnist",
            "data/fashion_mnist: there is no apt-get here. Where",
        ),
        (without("dpkg-deb"), "fashion_mnist", "data/fashion_mnist: there is no dpkg-deb here."),
        (spoil("npm", "exit 1"), "emoji", "data/emoji: it could not be got. What the npm package"),
        (spoil("apt-get", NO_LISTS), "fashion_mnist", f"data/fashion_mnist: it could not be got. {APT_UPDATE} {BY_HAND}"),
        (cut("emoji.tgz"), "emoji", "data/emoji: it could not be got."),
        (cut("fashion.deb"), "fashion_mnist", "data/fashion_mnist: it could not be got."),
    ],
    ids=[
        "no npm",
        "no apt-get",
        "no dpkg-deb",
        "npm fails",
        "no lists of apt-get's",
        "half a package of npm's",
        "half a Debian package",
    ],
)
def test_what_cannot_be_got_is_told_and_the_other_is_got(there, spoil_it, missing, message):
    spoil_it(there)
    status, said = make_data(there)
    assert status != 0
    assert message in said
    assert missing not in got(there)
    assert ({"emoji", "fashion_mnist"} - {missing}) <= set(got(there))


def test_what_was_left_half_done_is_done_anew(there):
    for name in ("emoji", "fashion_mnist"):
        (there / "data" / f"{name}.partial/whole").mkdir(parents=True)
        (there / "data" / f"{name}.partial/old.tgz").write_bytes(b"half")
        (there / "data" / f"{name}.partial/old.deb").write_bytes(b"half")
        (there / "data" / f"{name}.partial/whole/left").write_bytes(b"half")
    status, said = make_data(there)
    assert status == 0, said
    assert got(there) == ["emoji", "fashion_mnist"]
    assert not list((there / "data").rglob("left"))


def test_data_is_not_committed_but_the_package_of_that_name_is():
    assert "/data/" in (ROOT / ".gitignore").read_text().splitlines()
    assert "data/" not in (ROOT / ".gitignore").read_text().splitlines()
