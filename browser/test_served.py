"""What the server of --mode serve answers to requests that its own page never makes."""

import http.client
import io
import json
import os
import time
from pathlib import Path

import httpx
import pytest
from PIL import Image

import browser.conftest  # noqa: F401, for the devices that it makes
from jax_ddpm.config import read_config
from jax_ddpm.serving.painter import Painter
from jax_ddpm.serving.policy import POLICY, free_port, kept_to_itself
from tests.test_generation import leave_run, tiny

HOST = "127.0.0.1"
ELSEWHERE = ["http://8.8.8.8/picture.png", "https://huggingface.co/picture.png"]  # Gradio trusts the second


@pytest.fixture(scope="module")
def port(tmp_path_factory):
    workdir = leave_run(tmp_path_factory.mktemp("served"), tiny(model={"label_dropout": 0.1}, serve={"upload_mib": 1}))
    port = free_port(HOST, 0)
    with kept_to_itself(), pytest.MonkeyPatch.context() as patch:
        from jax_ddpm.serving import page

        patch.setattr(page, "CLEARED_EVERY", 1)
        patch.setattr(page, "LIES", 10)
        with page.served(page.make_page(Painter(read_config(workdir), workdir)), HOST, port, upload_mib=1):
            yield port


@pytest.fixture
def asked(monkeypatch):
    """The addresses that the server asks, by the only library by which it could."""
    addresses = []

    async def ask(_, request):
        addresses.append(str(request.url))
        return httpx.Response(200, content=b"of elsewhere")

    monkeypatch.setattr(httpx.AsyncHTTPTransport, "handle_async_request", ask)
    return addresses


def answer(port, method, path, body=None, **headers):
    """The response, and what it says."""
    connection = http.client.HTTPConnection(HOST, port, timeout=60)
    headers = {"Content-Type": "application/json", **headers}
    connection.request(method, path, body if body is None or isinstance(body, bytes) else json.dumps(body), headers)
    response = connection.getresponse()
    text = response.read().decode()
    connection.close()
    return response, text


def test_its_own_page_is_there_with_the_policy(port):
    response, text = answer(port, "GET", "/")
    assert (response.status, response.headers["Content-Security-Policy"]) == (200, POLICY)
    assert "Images drawn by" in text


@pytest.mark.parametrize(
    ("headers", "status"),
    [({"Host": "evil.example"}, 400), ({"Origin": "http://evil.example"}, 403), ({"Content-Length": str(2**40)}, 413)],
)
def test_what_its_page_does_not_ask_is_refused(port, headers, status):
    assert answer(port, "POST", "/gradio_api/queue/join", **headers)[0].status == status


def take_upload(port, path):
    """What the page says when it is told that a file has been uploaded."""
    functions = json.loads(answer(port, "GET", "/config")[1])["dependencies"]
    upload = next(each for each in functions if any(event == "upload" for _, event in each["targets"]))
    file = {"path": path, "meta": {"_type": "gradio.FileData"}}
    body = {"data": [file], "fn_index": upload["id"], "session_hash": "here"}
    assert answer(port, "POST", "/gradio_api/queue/join", body)[0].status == 200
    return answer(port, "GET", "/gradio_api/queue/data?session_hash=here")[1]


@pytest.mark.parametrize("address", ELSEWHERE)
def test_no_address_of_a_request_is_gone_to(port, asked, address):
    assert answer(port, "GET", f"/gradio_api/file={address}")[0].status == 403
    assert "nothing is asked of other machines" in take_upload(port, address)
    assert asked == []


def test_an_upload_is_gone_soon_after_it_was_read(port):
    picture = io.BytesIO()
    Image.new("L", (8, 8), 77).save(picture, "PNG")
    head = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\nContent-Type: image/png\r\n\r\n'
    form = head + picture.getvalue() + b"\r\n--x--\r\n"
    response, said = answer(port, "POST", "/gradio_api/upload", form, **{"Content-Type": "multipart/form-data; boundary=x"})
    assert response.status == 200
    (path,) = map(Path, json.loads(said))
    assert path.is_relative_to(os.environ["GRADIO_TEMP_DIR"])
    assert path.read_bytes() == picture.getvalue()
    assert "The picture is there." in take_upload(port, str(path))
    deadline = time.monotonic() + 120
    while path.exists():
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert [each for each in Path(os.environ["GRADIO_TEMP_DIR"]).rglob("*") if each.is_file()] == []
