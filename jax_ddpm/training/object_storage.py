"""Checkpoints on object storage: what Orbax has to be told, and which of its errors are of the network and not of a file."""

import os
import re
from pathlib import Path
from typing import Any

from orbax.checkpoint import options
from orbax.checkpoint._src.path import gcs_utils
from orbax.checkpoint._src.serialization import tensorstore_utils

_ADDRESS = re.compile(r"(gs|s3):/+([^/]+)/*(.*)", re.DOTALL)
_CLIENTS = ("aiobotocore", "aiohttp", "botocore", "gcsfs", "google", "requests", "urllib3")
_STATUS = re.compile(r"\b(UNAVAILABLE|DEADLINE_EXCEEDED|PERMISSION_DENIED|UNAUTHENTICATED|RESOURCE_EXHAUSTED|ABORTED)\b")


def commit_by_file() -> options.AtomicityOptions:
    """A checkpoint is whole when a last file says so: a folder cannot be moved in one step there."""
    return options.AtomicityOptions(mode=options.AtomicityMode.COMMIT_FILE)


def open_to_orbax(directory: Path) -> None:
    """Lets Orbax write arrays to s3:// as it does to gs://.

    It leaves them to TensorStore, which has a driver for each, and asks for that of gs:// alone. There is no setting for it:
    the three functions by which it does are replaced. What lies on gs:// or a local disk is what it was.
    """
    if str(directory).startswith("s3://"):
        vars(tensorstore_utils).update(_use_gcs_driver=_is_address, _normalize_path=_normalised)
        vars(gcs_utils).update(get_kvstore_for_gcs=kvstore)


def _is_address(path: str) -> bool:
    return _ADDRESS.match(path) is not None


def _normalised(path: str) -> str:
    """Without what is superfluous in a path; normpath makes one of the two slashes that an address begins with."""
    return re.sub(r"^(gs|s3):/", r"\1://", os.path.normpath(path))


def kvstore(path: str) -> dict[str, Any]:
    """TensorStore's specification of a folder of a bucket.

    TensorStore heeds none of the variables that name another endpoint of S3; s3fs does, as AWS' own programs do.
    """
    kind, bucket, folder = _ADDRESS.fullmatch(path).groups()  # type: ignore[union-attr]
    if kind == "gs":
        return {"driver": os.environ.get("TENSORSTORE_GCS_BACKEND", "gcs"), "bucket": bucket, "path": folder}
    environment = {
        "endpoint": os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL"),
        "aws_region": os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION"),
    }
    return {"driver": "s3", "bucket": bucket, "path": folder, **{name: value for name, value in environment.items() if value}}


def is_unreachable(error: BaseException | None) -> bool:
    """Whether an error says that the storage did not answer, or would not: what lies there may be whole."""
    if error is None:
        return False
    of_client = type(error).__module__.partition(".")[0] in _CLIENTS
    refused = isinstance(error, (ConnectionError, TimeoutError, PermissionError))
    return of_client or refused or bool(_STATUS.search(str(error))) or is_unreachable(error.__cause__ or error.__context__)
