"""Everything the demo needs, started in one process: Postgres, migrations, catalogue, bridge, sandbox and shop."""

from __future__ import annotations

import contextlib
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass

import psycopg
import uvicorn

from bridge.api import create_app
from bridge.demo.shop import shop_router
from bridge.errors import SetupError
from bridge.local.postgres import LocalPostgres
from bridge.migrations import migrate, seed_file
from bridge.settings import Settings, load_settings

__all__ = ["Stack", "running_stack"]

_START_SECONDS = 15.0


@dataclass(frozen=True, slots=True)
class Stack:
    """A running demo. ``database_url`` is the owner's."""

    url: str
    database_url: str
    sandbox_secret: str


@contextlib.contextmanager
def running_stack(port: int = 8000) -> Iterator[Stack]:
    """Start the demo on this port of 127.0.0.1, or on a free one when it is taken; stop it at the end."""
    postgres = LocalPostgres(18)
    try:
        database_url = postgres.create_look_alike("demo")
        migrate(database_url)
        with psycopg.connect(database_url) as connection:
            connection.execute(seed_file().read_bytes())
        with _listening(port) as listener:
            url = f"http://127.0.0.1:{listener.getsockname()[1]}"
            settings = _settings(url, database_url)
            with _serving(settings, postgres.url("demo", "authenticator"), listener):
                assert settings.sandbox_secret is not None  # noqa: S101 # set below
                yield Stack(url, database_url, settings.sandbox_secret.get_secret_value())
    finally:
        postgres.stop()


def _settings(url: str, database_url: str) -> Settings:
    return load_settings(
        _env_file=None,
        environment="development",
        public_url=url,
        success_url=url + "/",
        cancel_url=url + "/",
        default_provider="sandbox",
        database_url=database_url,
        jwt_secret=secrets.token_hex(32),
        sandbox_secret=secrets.token_hex(32),
    )


@contextlib.contextmanager
def _listening(port: int) -> Iterator[socket.socket]:
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", port))
        except OSError:
            listener.bind(("127.0.0.1", 0))
        yield listener


@contextlib.contextmanager
def _serving(settings: Settings, shop_database_url: str, listener: socket.socket) -> Iterator[None]:
    app = create_app(settings)
    assert settings.jwt_secret is not None  # noqa: S101 # set above
    app.include_router(shop_router(shop_database_url, settings.jwt_secret.get_secret_value()))
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=3))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    deadline = time.monotonic() + _START_SECONDS
    while not server.started:
        if not thread.is_alive() or time.monotonic() > deadline:
            raise SetupError("The bridge did not start.")
        time.sleep(0.02)
    try:
        yield
    finally:
        server.should_exit = True
        thread.join()
