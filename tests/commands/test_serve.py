"""--mode serve before there is a page; the page itself is opened by `make browser`."""

import importlib.util
import os
import signal
import socket

import jax
import pytest

from jax_ddpm.commands import serve
from jax_ddpm.config import read_config
from jax_ddpm.errors import InvalidInput
from tests.commands.test_command_line import run


@pytest.fixture
def with_gradio(monkeypatch):
    """As where Gradio is installed, up to where it would be imported."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)


def test_without_gradio_it_says_how_to_get_it(trained, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InvalidInput, match=r"needs Gradio, .*: pip install -r requirements-serve\.txt$"):
        serve.main(read_config(trained), trained)


def test_a_port_that_is_none_is_told(trained):
    status, _, error = run("--mode=serve", f"--workdir={trained}", "--port=http")
    assert (status, error) == (1, "error: --port=http: expected a whole number, 0 or more\n")


def test_a_port_that_is_taken_is_told_before_the_run_is_opened(with_gradio, tmp_path, trained):
    config = read_config(trained)
    with socket.create_server(("127.0.0.1", 0)) as server:
        config.serve.port = server.getsockname()[1]
        with pytest.raises(InvalidInput, match="Address already in use"):
            serve.main(config, tmp_path)


def test_a_classifier_is_refused(with_gradio, trained_classifier):
    with pytest.raises(InvalidInput, match="this run is of a classifier"):
        serve.main(read_config(trained_classifier), trained_classifier)


def test_several_processes_are_refused(with_gradio, trained, monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(InvalidInput, match="runs in one process"):
        serve.main(read_config(trained), trained)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_waiting(number):
    before = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)}
    try:
        ended = serve._signalled()
        assert not ended.is_set()
        os.kill(os.getpid(), number)
        assert ended.wait(5)
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
