"""Where the page is to be had, and what it asks of others."""

import asyncio
import os
import socket

import pytest

from jax_ddpm.errors import InvalidInput
from jax_ddpm.serving import policy
from jax_ddpm.serving.policy import QUIET, Guard, free_port, is_own, kept_to_itself, link, own_hosts

OWN = "127.0.0.1"
HOSTS = own_hosts(OWN, 7860)


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


@pytest.mark.parametrize("host", ["203.0.113.7", "2001:db8::7"])
def test_an_address_of_another_machine_or_of_another_kind_is_refused(host):
    with pytest.raises(InvalidInput, match=f"cannot listen at {host}"):
        free_port(host, 0)


@pytest.mark.parametrize("port", [-1, 65536])
def test_what_is_no_port_is_refused(port):
    with pytest.raises(InvalidInput, match="expected 0 to 65535"):
        free_port(OWN, port)


def asked(headers, chunks=(b"",), hosts=HOSTS, app=None):
    """What a guard of the hosts and of 100 bytes sends, and whether the application was met by all that was sent to it."""
    sent, met, left = [], [], list(chunks)

    async def reading(scope, receive, send):
        while left:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise RuntimeError("nobody is there")
            met.append(message["body"])
        await send({"type": "http.response.start", "status": 200, "headers": [(b"a", b"b")]})
        await send({"type": "http.response.body", "body": b"page"})

    async def receive():
        return {"type": "http.request", "body": left.pop(0), "more_body": bool(left)}

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "headers": [(name.encode(), value.encode()) for name, value in headers.items()]}
    asyncio.run(Guard(app or reading, hosts, 100)(scope, receive, send))
    return sent, b"".join(met)


HERE = {"host": "127.0.0.1:7860"}


def test_all_that_is_sent_has_the_policy():
    sent, _ = asked(HERE)
    own = [(b"content-security-policy", policy.POLICY.encode()), (b"x-content-type-options", b"nosniff")]
    assert sent[0]["headers"] == [(b"a", b"b"), *own]
    assert sent[1] == {"type": "http.response.body", "body": b"page"}
    assert asked({})[0][0]["headers"][-2:] == own
    for directive in policy.POLICY.split("; "):
        assert not {"*", "http:", "https:"} & set(directive.split()), directive


@pytest.mark.parametrize("host", ["127.0.0.1:7860", "localhost:7860", "LocalHost:7860", "[::1]:7860"])
def test_it_answers_to_its_own_names(host):
    assert asked({"host": host})[0][0]["status"] == 200
    assert asked({"host": host, "origin": f"http://{host}"})[0][0]["status"] == 200


@pytest.mark.parametrize("host", ["evil.example:7860", "127.0.0.1", "127.0.0.1:7861", "localhost.evil.example:7860", ""])
def test_a_name_that_somebody_else_gave_this_machine_is_refused(host):
    sent, met = asked({"host": host}, [b"something"])
    assert (sent[0]["status"], met) == (400, b"")
    assert asked({"host": host}, hosts=own_hosts("0.0.0.0", 7860))[0][0]["status"] == 200


def test_without_a_name_it_is_refused():
    assert asked({})[0][0]["status"] == 400


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "null", "http://localhost:7861", "http://127.0.0.1:7860.evil.example"]
)
@pytest.mark.parametrize("hosts", [HOSTS, frozenset()])
def test_a_page_from_elsewhere_is_refused(origin, hosts):
    sent, met = asked({**HERE, "origin": origin}, [b"something"], hosts)
    assert (sent[0]["status"], met) == (403, b"")


@pytest.mark.parametrize("length", ["101", "1e3", "-1", "", "9" * 5000])
def test_what_says_that_it_is_too_large_is_refused_unread(length):
    sent, met = asked({**HERE, "content-length": length}, [bytes(101)])
    assert (sent[0]["status"], met) == (413, b"")


@pytest.mark.parametrize("said", [{}, {"content-length": "100"}])
def test_what_comes_to_be_too_large_is_refused_where_it_does(said):
    assert asked({**HERE, **said}, [bytes(60), bytes(40)]) == (asked(HERE)[0], bytes(100))
    sent, met = asked({**HERE, **said}, [bytes(60), bytes(41), bytes(60)])
    assert ([each.get("status") for each in sent], met) == ([413, None], bytes(60))


def test_an_error_of_the_application_is_its_own():
    async def failing(scope, receive, send):
        raise RuntimeError("something else")

    with pytest.raises(RuntimeError, match="something else"):
        asked(HERE, app=failing)


def test_the_link_is_one_that_a_browser_here_takes():
    assert link(OWN, 7860) == "http://127.0.0.1:7860/"
    assert link("0.0.0.0", 80) == "http://127.0.0.1:80/"
    assert link("::1", 7860) == link("::", 7860) == "http://[::1]:7860/"


def test_nothing_is_reported_and_what_was_uploaded_is_removed(monkeypatch):
    for name in (*QUIET, "GRADIO_TEMP_DIR"):
        monkeypatch.setenv(name, "before")
    with kept_to_itself():
        folder = os.environ["GRADIO_TEMP_DIR"]
        assert os.path.isdir(folder)
        assert os.environ["GRADIO_ANALYTICS_ENABLED"] == "False"
    assert not os.path.exists(folder)
