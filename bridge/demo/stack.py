"""Everything the demo needs, started in one process: Postgres, migrations, catalogue, bridge, sandbox and shop."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Iterator
from dataclasses import dataclass

import psycopg

from bridge.api import create_app
from bridge.demo.shop import shop_router
from bridge.local.postgres import LocalPostgres
from bridge.local.serving import listening, serving
from bridge.migrations import migrate, seed_file
from bridge.settings import Settings, load_settings

__all__ = ["Stack", "running_stack"]


@dataclass(frozen=True, slots=True)
class Stack:
    """A running demo. ``database_url`` is the owner's."""

    url: str
    database_url: str
    sandbox_secret: str
    admin_token: str
    settings: Settings


@contextlib.contextmanager
def running_stack(port: int = 8000) -> Iterator[Stack]:
    """Start the demo on this port of 127.0.0.1, or on a free one when it is taken; stop it at the end."""
    postgres = LocalPostgres(18)
    try:
        database_url = postgres.create_look_alike("demo")
        migrate(database_url)
        with psycopg.connect(database_url) as connection:
            connection.execute(seed_file().read_bytes())
        with listening(port) as listener:
            jwt_secret, sandbox_secret, admin_token = (secrets.token_hex(32) for _ in range(3))
            address = f"http://127.0.0.1:{listener.getsockname()[1]}"
            settings = _settings(address, database_url, jwt_secret, sandbox_secret, admin_token)
            app = create_app(settings)
            app.include_router(shop_router(postgres.url("demo", "authenticator"), jwt_secret))
            with serving(app, listener) as url:
                yield Stack(url, database_url, sandbox_secret, admin_token, settings)
    finally:
        postgres.stop()


def _settings(url: str, database_url: str, jwt_secret: str, sandbox_secret: str, admin_token: str) -> Settings:
    return load_settings(
        _env_file=None,
        environment="development",
        public_url=url,
        success_url=url + "/",
        cancel_url=url + "/",
        default_provider="sandbox",
        database_url=database_url,
        jwt_secret=jwt_secret,
        sandbox_secret=sandbox_secret,
        admin_token=admin_token,
    )
