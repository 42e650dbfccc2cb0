"""Serves an ASGI application from a thread of this process, on this machine only."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator

import uvicorn
from starlette.types import ASGIApp

from bridge.api.server import SERVER_OPTIONS
from bridge.errors import SetupError

__all__ = ["listening", "serving"]

_START_SECONDS = 15.0


@contextlib.contextmanager
def listening(port: int = 0) -> Iterator[socket.socket]:
    """A socket on this port of 127.0.0.1, or on a free one when it is taken."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", port))
        except OSError:
            listener.bind(("127.0.0.1", 0))
        yield listener


@contextlib.contextmanager
def serving(app: ASGIApp, listener: socket.socket) -> Iterator[str]:
    """Serve until the end of the block; gives the address once the application has started."""
    config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=3, **SERVER_OPTIONS)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    deadline = time.monotonic() + _START_SECONDS
    while not server.started:
        if not thread.is_alive() or time.monotonic() > deadline:
            raise SetupError("The server did not start.")
        time.sleep(0.02)
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
