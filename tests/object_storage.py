"""Servers on loopback that answer as S3 and Google Cloud Storage do, and keep what they are given in memory."""

import dataclasses
import logging
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Any

import boto3
import fsspec
from gcp_storage_emulator import server as gcp
from gcp_storage_emulator.exceptions import NotFound
from gcp_storage_emulator.handlers import objects
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

FULL = b"<Error><Code>QuotaExceeded</Code><Message>no room is left</Message></Error>"


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


PORTS = {kind: _free_port() for kind in ("s3", "gs")}  # of all servers of this process, for epath keeps its clients


@dataclasses.dataclass
class Server:
    """One that runs: the variables by which a program finds it, and whether it takes what is written to it."""

    environment: dict[str, str]
    full: bool = False


@contextmanager
def s3() -> Iterator[Server]:
    """Within it, S3 with an empty bucket `bucket` answers."""
    answer = DomainDispatcherApplication(create_backend_app)

    def unless_full(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        if running.full and environ["REQUEST_METHOD"] in ("PUT", "POST"):
            environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
            start_response("403 Forbidden", [("Content-Type", "application/xml"), ("Content-Length", str(len(FULL)))])
            return [FULL]
        return answer(environ, start_response)

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = make_server("127.0.0.1", PORTS["s3"], unless_full, threaded=True)
    keys = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_REGION": "us-east-1"}
    url = f"http://127.0.0.1:{PORTS['s3']}"
    running = Server({**keys, "AWS_DEFAULT_REGION": "us-east-1", "AWS_ENDPOINT_URL": url})
    threading.Thread(target=server.serve_forever, daemon=True).start()
    named = {"region_name": "us-east-1", "aws_access_key_id": "key", "aws_secret_access_key": "secret"}
    boto3.client("s3", endpoint_url=url, **named).create_bucket(Bucket="bucket")
    yield running
    server.shutdown()
    server.server_close()


@contextmanager
def gs() -> Iterator[Server]:
    """The same for Google Cloud Storage."""
    url = f"http://127.0.0.1:{PORTS['gs']}"
    running = Server({"STORAGE_EMULATOR_HOST": url, "TENSORSTORE_GCS_HTTP_URL": url, "NO_GCE_CHECK": "true"})
    taken_apart = [dict(methods) for _, methods in gcp.HANDLERS]
    for _, methods in gcp.HANDLERS:
        for method, handler in methods.items():
            if handler in (objects.get, objects.download, objects.insert):
                methods[method] = _with_generations(handler, running)
    server = gcp.create_server("127.0.0.1", PORTS["gs"], in_memory=True, default_bucket="bucket")
    server.start()
    yield running
    server.stop()
    for (_, methods), before in zip(gcp.HANDLERS, taken_apart, strict=True):
        methods.update(before)


def _with_generations(handler: Callable[..., None], running: Server) -> Callable[..., None]:
    """A handler of the emulator's, with what it leaves out: an object's generation, conditions upon it, and an end of room."""

    def answer(request: Any, response: Any, storage: Any) -> None:
        bucket, name = request.params["bucket_name"], request.params.get("object_id") or request.query.get("name", [""])[0]
        try:
            generation = str(storage.get_file_obj(bucket, name)["generation"])
        except NotFound:
            generation = "0"
        wanted, unwanted = (request.query.get(each, [None])[0] for each in ("ifGenerationMatch", "ifGenerationNotMatch"))
        if running.full and handler is objects.insert:
            response.status = HTTPStatus.FORBIDDEN
        elif wanted not in (None, generation):
            response.status = HTTPStatus.PRECONDITION_FAILED
        elif unwanted == generation != "0":
            response.status = HTTPStatus.NOT_MODIFIED
        else:
            handler(request, response, storage)
            response["x-goog-generation"] = generation

    return answer


SERVERS = {"s3": s3, "gs": gs}


def find(workdir: Path, under: str = "") -> list[str]:
    """Every file below a folder, by its path there."""
    files, root = fsspec.url_to_fs(str(workdir / under))
    return sorted(name.removeprefix(root).lstrip("/") for name in files.find(root))
