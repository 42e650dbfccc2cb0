"""One Postgres server per run (PG=15, 17 or 18), one cloned database per test."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
import stamina
from playwright.sync_api import Browser
from psycopg import sql
from pytest_postgresql import factories

from bridge.local.postgres import LOOK_ALIKE, SUPERUSER, LocalPostgres
from bridge.migrations import migrate, seed_file
from bridge.simulators.stripe import StripeSimulator
from tests.support import log_scanner, parts
from tests.support.browser import running_browser
from tests.support.database import Database, apply_files

SERVER = LocalPostgres(int(os.environ.get("PG", "18")))


def _build_template(*, host: str, port: int, user: str, dbname: str, **_: Any) -> None:
    url = f"postgresql://{{}}@{host}:{port}/{dbname}"
    with psycopg.connect(url.format(user), autocommit=True) as connection:
        connection.execute(LOOK_ALIKE.read_bytes())
    migrate(url.format("postgres"))
    apply_files(url.format("postgres"), [seed_file()])


postgresql_server = factories.postgresql_noproc(
    host="127.0.0.1", port=SERVER.port, user=SUPERUSER, load=[_build_template], load_autocommit=True
)
postgresql = factories.postgresql("postgresql_server")


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(log_scanner)


def pytest_unconfigure() -> None:
    SERVER.stop()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    parts.deselect_impossible(config, items, SERVER)


def pytest_runtest_setup(item: pytest.Item) -> None:
    parts.check_needs(item, SERVER)


@pytest.fixture(scope="session")
def server() -> LocalPostgres:
    return SERVER


@pytest.fixture
def db(postgresql: psycopg.Connection[Any]) -> Iterator[Database]:
    """A migrated, seeded database of this test's own."""
    info = postgresql.info
    # a cloned database does not inherit the grants on its template
    postgresql.execute(sql.SQL("grant all on database {} to postgres").format(sql.Identifier(info.dbname)))
    postgresql.commit()
    database = Database(info.host, info.port, info.dbname)
    yield database
    # pytest-postgresql ends the connections that it sees and then drops: one that a pool is just opening would keep the
    # database, and every test after this one would fail
    with psycopg.connect(
        database.url(SUPERUSER).replace(f"/{info.dbname}", "/postgres"), autocommit=True
    ) as connection:
        connection.execute(sql.SQL("drop database if exists {} with (force)").format(sql.Identifier(info.dbname)))


@pytest.fixture(autouse=True)
def _retries_do_not_wait() -> Iterator[None]:
    """Retries against providers do not wait, unless a test turns that back on."""
    with stamina.set_testing(True, attempts=3):
        yield


@pytest.fixture(scope="session")
def stripe_server() -> Iterator[StripeSimulator]:
    with StripeSimulator() as server:
        yield server


@pytest.fixture(scope="module")
def browser(server: LocalPostgres) -> Iterator[Browser]:
    """Chromium, for tests that need it. Not for the whole run: its driver keeps an event loop."""
    with running_browser(server) as browser:
        yield browser


@pytest.fixture
def stripe(stripe_server: StripeSimulator) -> StripeSimulator:
    """A Stripe account, with no fault left over from another test."""
    stripe_server.faults.clear()
    stripe_server.received.clear()
    return stripe_server


def pytest_report_header() -> str:
    return f"PostgreSQL {SERVER.major} on port {SERVER.port}"
