"""What keeps the page to this machine: where it listens, what it tells nobody, what a browser may ask for."""

import ipaddress
import os
import socket
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from tempfile import TemporaryDirectory
from typing import Any

from jax_ddpm.errors import InvalidInput

FIRST_PORT, PORTS = 7860, 100
QUIET = {
    "GRADIO_ANALYTICS_ENABLED": "False",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_OFFLINE": "1",
}
"""By which Gradio, and what it uses, asks nothing of other machines."""
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self'; worker-src 'self' blob:; "
    "object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'none'"
)
"""Gradio's script is put into the page and puts together functions, so both have to be let; from elsewhere nothing is."""

_Message = dict[str, Any]
_Send = Callable[[_Message], Awaitable[None]]


class Guard:
    """Answers the page's own requests alone, and tells the browser that it may ask this server alone."""

    def __init__(self, app: Callable[[_Message, Any, _Send], Awaitable[None]], hosts: frozenset[str], most: int) -> None:
        """Of an ASGI application.

        Args:
          hosts: by which the page may be called, see `own_hosts`; empty where every name is as good.
          most: bytes of what is sent with a request.
        """
        self._app, self._hosts, self._most = app, hosts, most

    async def __call__(self, scope: _Message, receive: Any, send: _Send) -> None:
        """One request."""
        if scope["type"] == "websocket":  # the page opens none
            await send({"type": "websocket.close"})
        elif scope["type"] != "http":
            await self._app(scope, receive, send)
        elif wrong := self._wrong(dict(scope["headers"])):
            await _refuse(_with_policy(send), wrong)
        else:
            await self._counted(scope, receive, _with_policy(send))

    def _wrong(self, headers: dict[bytes, bytes]) -> int:
        """The status with which a request is refused; 0 where nothing is wrong with it."""
        host, origin = (headers.get(name, b"").decode("latin-1").lower() for name in (b"host", b"origin"))
        length = headers.get(b"content-length", b"0").decode("latin-1")
        if self._hosts and host not in self._hosts:
            return 400
        if origin and origin not in (f"http://{host}", f"https://{host}"):  # a page from elsewhere asks
            return 403
        return 0 if length.isdecimal() and len(length) < 20 and int(length) <= self._most else 413

    async def _counted(self, scope: _Message, receive: Any, send: _Send) -> None:
        """Passes the request on as long as no more of it comes than may; its head need not say how much does."""
        met, refused, begun = 0, False, False

        async def counting() -> _Message:
            nonlocal met, refused
            message: _Message = await receive()
            met += len(message.get("body", b""))
            if met <= self._most:
                return message
            if not refused and not begun:
                await _refuse(send, 413)
            refused = True
            return {"type": "http.disconnect"}

        async def answering(message: _Message) -> None:
            nonlocal begun
            if not refused:
                begun = True
                await send(message)

        try:
            await self._app(scope, counting, answering)
        except Exception:
            if not refused:  # otherwise it is the application's word that nobody is there any more
                raise


def _with_policy(send: _Send) -> _Send:
    async def sending(message: _Message) -> None:
        if message["type"] == "http.response.start":
            own = [(b"content-security-policy", POLICY.encode()), (b"x-content-type-options", b"nosniff")]
            message = {**message, "headers": [*message["headers"], *own]}
        await send(message)

    return sending


async def _refuse(send: _Send, status: int) -> None:
    text = HTTPStatus(status).phrase.encode()
    headers = [(b"content-type", b"text/plain"), (b"content-length", str(len(text)).encode()), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": text})


def own_hosts(host: str, port: int) -> frozenset[str]:
    """What a browser on this machine may call the page, in the Host of its requests; empty where others reach it too.

    A name of somebody else's that leads here (DNS rebinding) makes a page of theirs one of the same origin.
    """
    names = (_in_url(host), "localhost", "127.0.0.1", "[::1]")
    said = {f"{name}:{port}" for name in names} | (set(names) if port == 80 else set())
    return frozenset(each.lower() for each in said) if is_own(host) else frozenset()


def link(host: str, port: int) -> str:
    """The address of the page, as a browser on this machine takes it."""
    return f"http://{_in_url({'0.0.0.0': '127.0.0.1', '::': '::1'}.get(host, host))}:{port}/"


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host


@contextmanager
def kept_to_itself() -> Iterator[None]:
    """Within it, Gradio may be imported: it reports to nobody, and what is uploaded is removed at the end."""
    with TemporaryDirectory(prefix="jax_ddpm_serve_") as folder:
        os.environ.update(QUIET, GRADIO_TEMP_DIR=folder)
        yield


def is_own(host: str) -> bool:
    """Whether only this machine reaches the address."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def free_port(host: str, port: int) -> int:
    """The port to listen at: the one asked for, or of 0 the first one that is free from FIRST_PORT on.

    Raises:
      InvalidInput: it is no port, or taken, or the host is not of this machine.
    """
    if not 0 <= port < 2**16:
        raise InvalidInput(f"serve.port={port}: expected 0 to 65535")
    said = ""
    for each in [port] if port else range(FIRST_PORT, FIRST_PORT + PORTS):
        try:
            with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as tried:
                tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                tried.bind((host, each))
                return each
        except OSError as error:
            said = f"{error.strerror or error}"
    where = f"port {port}" if port else f"any port from {FIRST_PORT} to {FIRST_PORT + PORTS - 1}"
    raise InvalidInput(f"cannot listen at {host}, {where}: {said}. Expected another --port, or --host=127.0.0.1")
