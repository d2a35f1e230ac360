"""Where the page is to be had, and what it asks of others."""

import asyncio
import os
import socket

import pytest

from jax_ddpm.errors import InvalidInput
from jax_ddpm.serving import policy
from jax_ddpm.serving.policy import QUIET, ContentPolicy, free_port, is_own, kept_to_itself

OWN = "127.0.0.1"


def test_only_loopback_is_this_machines_alone():
    assert all(is_own(host) for host in (OWN, "127.8.9.1", "localhost", "::1"))
    assert not any(is_own(host) for host in ("0.0.0.0", "192.168.1.4", "::", "example.org", ""))


@pytest.fixture
def taken():
    """A port at which something listens."""
    with socket.create_server((OWN, 0)) as server:
        yield server.getsockname()[1]


def test_a_port_that_is_asked_for_is_taken_or_told_to_be_taken(taken):
    with pytest.raises(InvalidInput, match=f"cannot listen at {OWN}, port {taken}: Address already in use"):
        free_port(OWN, taken)
    with socket.create_server((OWN, 0)) as server:
        free = server.getsockname()[1]
    assert free_port(OWN, free) == free


def test_without_one_it_is_the_first_that_is_free(taken, monkeypatch):
    monkeypatch.setattr(policy, "FIRST_PORT", taken)
    assert taken < free_port(OWN, 0) < taken + policy.PORTS


@pytest.mark.parametrize("host", ["203.0.113.7", "::1"])
def test_an_address_of_another_machine_or_of_another_kind_is_refused(host):
    with pytest.raises(InvalidInput, match=f"cannot listen at {host}"):
        free_port(host, 0)


@pytest.mark.parametrize("port", [-1, 65536])
def test_what_is_no_port_is_refused(port):
    with pytest.raises(InvalidInput, match="expected 0 to 65535"):
        free_port(OWN, port)


def test_all_that_is_sent_has_the_policy():
    sent = []

    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": [(b"a", b"b")]})
        await send({"type": "http.response.body", "body": b"page"})

    async def send(message):
        sent.append(message)

    asyncio.run(ContentPolicy(app)({"type": "http"}, None, send))
    assert sent[0]["headers"] == [(b"a", b"b"), (b"content-security-policy", policy.POLICY.encode())]
    assert sent[1] == {"type": "http.response.body", "body": b"page"}
    for directive in policy.POLICY.split("; "):
        assert not {"*", "http:", "https:"} & set(directive.split()), directive


def test_nothing_is_reported_and_what_was_uploaded_is_removed(monkeypatch):
    for name in (*QUIET, "GRADIO_TEMP_DIR"):
        monkeypatch.setenv(name, "before")
    with kept_to_itself():
        folder = os.environ["GRADIO_TEMP_DIR"]
        assert os.path.isdir(folder)
        assert os.environ["GRADIO_ANALYTICS_ENABLED"] == "False"
    assert not os.path.exists(folder)
