"""A file is got once, and one that is not the one expected is not kept."""

import hashlib

import pytest

from jax_ddpm import files
from jax_ddpm.errors import InvalidInput
from jax_ddpm.interop.published import published

DIGEST = hashlib.sha256(b"weights").hexdigest()


@pytest.fixture
def address(tmp_path, monkeypatch):
    """Of a file on this machine, as an address; what is got lies in a cache of the test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "weights.pth").write_bytes(b"weights")
    return (tmp_path / "weights.pth").as_uri()


def test_what_has_an_address_is_got_once(address, tmp_path, capsys):
    kept, digest = published(address, DIGEST)
    assert kept == tmp_path / f"cache/jax_ddpm/{DIGEST[:16]}-weights.pth"
    assert (kept.read_bytes(), digest) == (b"weights", DIGEST)
    (tmp_path / "weights.pth").unlink()
    assert published(address, DIGEST.upper().lower()) == (kept, digest)
    assert capsys.readouterr().out.count("getting") == 1
    assert list(kept.parent.iterdir()) == [kept]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::DeprecationWarning")
def test_what_lies_in_a_bucket_is_got_once(storage, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    address = f"{storage[1]}/weights.pth"
    files.place(address).write_bytes(b"weights")
    kept, digest = published(address, DIGEST)
    assert (kept.read_bytes(), digest, kept.parent) == (b"weights", DIGEST, tmp_path / "cache/jax_ddpm")
    with pytest.raises(InvalidInput, match=r"nowhere\.pth is not to be had: .* Get it by other means and name its path"):
        published(f"{storage[1]}/nowhere.pth", DIGEST)


def test_another_file_is_not_kept(address, tmp_path):
    with pytest.raises(InvalidInput, match=f"what file://.* gives has the SHA-256 {DIGEST}: expected {'0' * 64}"):
        published(address, "0" * 64)
    assert list((tmp_path / "cache/jax_ddpm").iterdir()) == []


def test_one_that_was_kept_and_then_spoilt_is_told(address):
    kept, _ = published(address, DIGEST)
    kept.write_bytes(b"wights")
    with pytest.raises(InvalidInput, match=r"weights\.pth, from file://.*, has the SHA-256"):
        published(address, DIGEST)


def test_a_path_is_taken_as_it_is_and_checked_where_a_digest_is_given(tmp_path):
    (tmp_path / "a.pth").write_bytes(b"weights")
    assert published(str(tmp_path / "a.pth"), "") == (tmp_path / "a.pth", DIGEST)
    with pytest.raises(InvalidInput, match=rf"a\.pth has the SHA-256 {DIGEST}: expected 00"):
        published(str(tmp_path / "a.pth"), "00")


def test_what_is_not_there_is_told(address, tmp_path):
    with pytest.raises(InvalidInput, match=r"no file at .*nowhere"):
        published(str(tmp_path / "nowhere"), "")
    with pytest.raises(InvalidInput, match=r"is not to be had: .* Get it by other means and name its path"):
        published(address + ".gone", DIGEST)
    with pytest.raises(InvalidInput, match="must have a digest that is known"):
        published(address, "")
