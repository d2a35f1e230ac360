"""Files that others have published: got once, and known by their SHA-256."""

import hashlib
import tempfile
import urllib.request
from pathlib import Path
from typing import IO, Any
from urllib.error import URLError

from jax_ddpm import files
from jax_ddpm.errors import InvalidInput
from jax_ddpm.runtime import cache_home

_PIECE = 2**20  # bytes


def published(place: str, sha256: str) -> tuple[Path, str]:
    """Where a file lies on this machine, and its digest.

    Args:
      place: a path, or an address that begins with https://, http:// or file://, or with gs:// or s3://, of object storage.
        What lies there is got once, into ~/.cache/jax_ddpm.
      sha256: what its digest must be, in hexadecimal; "": anything, for a file that has a path.
    Raises:
      InvalidInput: there is no such file, it is not to be had, or it is another one.
    """
    if "://" not in place:
        path = Path(place).expanduser()
        if not path.is_file():
            raise InvalidInput(f"no file at {path}")
        return path, _checked(path, sha256, f"{path}")
    if not sha256:
        raise InvalidInput(f"{place}: what is got from elsewhere must have a digest that is known. Expected a SHA-256")
    kept = cache_home() / f"{sha256[:16]}-{place.rpartition('/')[2]}"
    if not kept.is_file():
        _get(place, sha256, kept)
    return kept, _checked(kept, sha256, f"{kept}, from {place},")


def _get(address: str, sha256: str, kept: Path) -> None:
    """Puts it in its place when it is whole and the one that is expected."""
    kept.parent.mkdir(parents=True, exist_ok=True)
    print(f"getting {address} ...", flush=True)
    with tempfile.TemporaryDirectory(dir=kept.parent) as directory:
        partial = Path(directory) / "partial"
        try:
            with _opened(address) as source, partial.open("wb") as file:
                while piece := source.read(_PIECE):
                    file.write(piece)
        except (OSError, URLError, ValueError) as error:
            raise InvalidInput(f"{address} is not to be had: {error}. Get it by other means and name its path") from error
        _checked(partial, sha256, f"what {address} gives")
        partial.replace(kept)


def _opened(address: str) -> IO[Any]:
    if address.partition("://")[0] in files.CLIENTS:
        return files.place(address).open("rb")
    opened: IO[Any] = urllib.request.urlopen(address)
    return opened


def _checked(path: Path, sha256: str, what: str) -> str:
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if sha256 and found != sha256.lower():
        raise InvalidInput(f"{what} has the SHA-256 {found}: expected {sha256}")
    return found
