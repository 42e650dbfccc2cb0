"""The example app on this machine: the page, a Supabase project, the bridge with the sandbox, and a Postgres.

``make example``. The page, the project and the bridge have different origins, as an installed app's have.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import signal
import socket
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from bridge.api import create_app
from bridge.local.postgres import LocalPostgres
from bridge.local.serving import listening, serving
from bridge.migrations import migrate, seed_file
from bridge.settings import load_settings
from tests.support.database import REPOSITORY
from tests.support.parts import find, path_of
from tests.support.postgrest import PUBLISHABLE, Keys
from tests.support.project import supabase_project

__all__ = ["Example", "running_example"]

PAGE = REPOSITORY / "examples" / "shop"


@dataclass(frozen=True)
class Example:
    """Where the parts of a running example are."""

    url: str
    supabase_url: str
    bridge_url: str


@contextlib.contextmanager
def running_example(server: LocalPostgres, database_url: str, port: int = 0) -> Iterator[Example]:
    """Serve the example on this database (the owner's URL) until the end of the block."""
    keys = Keys(shared_secret=secrets.token_hex(32))
    with contextlib.ExitStack() as stack:
        project = stack.enter_context(supabase_project(path_of("postgrest", server), database_url, keys))
        page, bridge = stack.enter_context(listening(port)), stack.enter_context(listening())
        example = Example(_address(page), project, _address(bridge))
        settings = load_settings(
            _env_file=None,
            environment="development",
            public_url=example.bridge_url,
            success_url=example.url,
            cancel_url=example.url,
            cors_origins=example.url,
            default_provider="sandbox",
            database_url=database_url,
            jwt_secret=keys.shared_secret,
            sandbox_secret=secrets.token_hex(32),
        )
        stack.enter_context(serving(create_app(settings, watching=False), bridge))
        stack.enter_context(serving(_page(example, path_of("supabase_js", server)), page))
        yield example


def _address(listener: socket.socket) -> str:
    return f"http://127.0.0.1:{listener.getsockname()[1]}"


def _page(example: Example, supabase_js: Path) -> Starlette:
    """The files of the example, and the two that its README asks to put beside them."""

    def config(_: Request) -> Response:
        values = {"supabaseUrl": example.supabase_url, "supabaseKey": PUBLISHABLE, "bridgeUrl": example.bridge_url}
        return Response(f"window.SHOP = {json.dumps(values)};", media_type="text/javascript")

    def library(_: Request) -> Response:
        return FileResponse(supabase_js / "dist" / "umd" / "supabase.js", media_type="text/javascript")

    files = StaticFiles(directory=PAGE, html=True)
    return Starlette(routes=[Route("/config.js", config), Route("/supabase.js", library), Mount("/", files)])


def _run() -> None:
    for ending in (signal.SIGTERM, signal.SIGHUP):  # a closed terminal must not leave a Postgres behind
        signal.signal(ending, lambda *_: sys.exit(1))
    server = LocalPostgres(18)
    try:
        if missing := [part for part in ("postgrest", "supabase_js") if find(part, server) is None]:
            sys.exit(f"Missing: {', '.join(missing)}. Remedy: make parts")
        database_url = server.create_look_alike("example")
        migrate(database_url)
        with psycopg.connect(database_url) as connection:
            connection.execute(seed_file().read_bytes())
        with running_example(server, database_url, 3000) as example:
            print(f"\n  The example is open:  {example.url}\n\n  Ctrl-C closes it.\n", flush=True)
            with contextlib.suppress(KeyboardInterrupt):
                while True:
                    time.sleep(3600)
    finally:
        server.stop()


if __name__ == "__main__":
    _run()
