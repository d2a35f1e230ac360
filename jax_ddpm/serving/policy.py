"""What keeps the page to this machine: where it listens, what it tells nobody, what a browser may ask for."""

import ipaddress
import os
import socket
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
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
    "object-src 'none'; base-uri 'self'; frame-ancestors 'none'"
)
"""Gradio's script is put into the page and puts together functions, so both have to be let; from elsewhere nothing is."""

_Message = dict[str, Any]
_Send = Callable[[_Message], Awaitable[None]]


class ContentPolicy:
    """Tells the browser, with everything that is sent, that it may ask this server alone."""

    def __init__(self, app: Callable[[_Message, Any, _Send], Awaitable[None]]) -> None:
        """Of an ASGI application."""
        self._app = app

    async def __call__(self, scope: _Message, receive: Any, send: _Send) -> None:
        """One request."""

        async def with_policy(message: _Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"content-security-policy", POLICY.encode())]
            await send(message)

        await self._app(scope, receive, with_policy)


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
            with socket.socket() as tried:
                tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                tried.bind((host, each))
                return each
        except OSError as error:
            said = f"{error.strerror or error}"
    where = f"port {port}" if port else f"any port from {FIRST_PORT} to {FIRST_PORT + PORTS - 1}"
    raise InvalidInput(f"cannot listen at {host}, {where}: {said}. Expected another --port, or --host=127.0.0.1")
