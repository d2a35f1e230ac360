"""Servers on loopback that answer as S3 and Google Cloud Storage do, and keep what they are given in memory."""

import logging
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from typing import Any

import boto3
from gcp_storage_emulator.exceptions import NotFound
from gcp_storage_emulator.handlers import objects
from gcp_storage_emulator.server import HANDLERS, create_server
from moto.moto_server.threaded_moto_server import ThreadedMotoServer

Handler = Callable[[Any, Any, Any], None]

AWS = {
    "AWS_ACCESS_KEY_ID": "key",
    "AWS_SECRET_ACCESS_KEY": "secret",
    "AWS_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "1",
}


@contextmanager
def s3() -> Iterator[dict[str, str]]:
    """Within it, S3 with an empty bucket `bucket` answers; yields the variables by which a program finds it."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server.start()
    url = "http://{}:{}".format(*server.get_host_and_port())
    client = boto3.client(
        "s3", endpoint_url=url, region_name="us-east-1", aws_access_key_id="key", aws_secret_access_key="secret"
    )
    client.create_bucket(Bucket="bucket")
    yield {**AWS, "AWS_ENDPOINT_URL": url}
    server.stop()


@contextmanager
def gs() -> Iterator[dict[str, str]]:
    """The same for Google Cloud Storage."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = create_server("127.0.0.1", port, in_memory=True, default_bucket="bucket")
    server.start()
    url = f"http://127.0.0.1:{port}"
    yield {"STORAGE_EMULATOR_HOST": url, "TENSORSTORE_GCS_HTTP_URL": url}
    server.stop()


def _with_generations(handler: Handler) -> Handler:
    """A handler of the emulator's, with what it leaves out: the object's generation, and conditions upon it."""

    def answer(request: Any, response: Any, storage: Any) -> None:
        bucket, name = request.params["bucket_name"], request.params.get("object_id") or request.query.get("name", [""])[0]
        try:
            generation = str(storage.get_file_obj(bucket, name)["generation"])
        except NotFound:
            generation = "0"
        wanted, unwanted = (request.query.get(each, [None])[0] for each in ("ifGenerationMatch", "ifGenerationNotMatch"))
        if wanted not in (None, generation):
            response.status = HTTPStatus.PRECONDITION_FAILED
        elif unwanted == generation != "0":
            response.status = HTTPStatus.NOT_MODIFIED
        else:
            handler(request, response, storage)
            response["x-goog-generation"] = generation

    return answer


for _, methods in HANDLERS:
    for method, handler in methods.items():
        if handler in (objects.get, objects.download, objects.insert):
            methods[method] = _with_generations(handler)

KINDS = {"s3": s3, "gs": gs}
