"""--mode serve: a page on this machine on which a trained run is asked for images."""

import importlib.util
import os
import signal
import sys
import threading
from pathlib import Path

import jax
from ml_collections import ConfigDict

from jax_ddpm.errors import InvalidInput
from jax_ddpm.serving.painter import Painter
from jax_ddpm.serving.policy import free_port, is_own, kept_to_itself, link

PATIENCE = 5.0  # seconds that a part of a chain has to come to its end; a compiler may take minutes
NOT_INSTALLED = "--mode serve needs Gradio, which nothing else here does: pip install -r requirements-serve.txt"


def main(config: ConfigDict, workdir: Path) -> None:
    """Shows the page until SIGINT (Ctrl-C) or SIGTERM ends it.

    Raises:
      InvalidInput: Gradio is not installed, the run draws nothing from noise, or the address cannot be listened at.
    """
    if importlib.util.find_spec("gradio") is None:
        raise InvalidInput(NOT_INSTALLED)
    if jax.process_count() > 1:
        raise InvalidInput("--mode serve runs in one process: expected no --processes")
    serve = config.serve
    port = free_port(serve.host, serve.port)
    painter = Painter(config, workdir)
    ended_by_signal = _signalled()
    with kept_to_itself():
        from jax_ddpm.serving.page import make_page, served  # which takes seconds, and is not there for everyone

        with served(make_page(painter), serve.host, port, upload_mib=serve.upload_mib):
            if not is_own(serve.host):
                print(f"WARNING: whoever reaches {serve.host} can use this page; there is no password", flush=True)
            print(f"page: {link(serve.host, port)} (Ctrl-C ends it)", flush=True)
            ended_by_signal.wait()
            ended = painter.close(PATIENCE)
    print("the page is closed", flush=True)
    if not ended:  # a thread that is at work cannot be stopped, and would be torn up by Python's own end
        sys.stderr.flush()
        os._exit(0)


def _signalled() -> threading.Event:
    """What SIGINT and SIGTERM set from here on, so that what is uploaded is removed whenever they come."""
    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    return ended
