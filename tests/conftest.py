"""One Postgres server per run (PG=15, 17 or 18), one cloned database per test."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from pytest_postgresql import factories

from bridge.local.postgres import LOOK_ALIKE, SUPERUSER, LocalPostgres
from tests.support import parts
from tests.support.database import REPOSITORY, Database, apply_files

SERVER = LocalPostgres(int(os.environ.get("PG", "18")))


def _build_template(*, host: str, port: int, user: str, dbname: str, **_: Any) -> None:
    url = f"postgresql://{{}}@{host}:{port}/{dbname}"
    with psycopg.connect(url.format(user), autocommit=True) as connection:
        connection.execute(LOOK_ALIKE.read_bytes())
    apply_files(url.format("postgres"), list((REPOSITORY / "supabase" / "migrations").glob("*.sql")))
    apply_files(url.format("postgres"), [REPOSITORY / "supabase" / "seed.sql"])


postgresql_server = factories.postgresql_noproc(
    host="127.0.0.1", port=SERVER.port, user=SUPERUSER, load=[_build_template], load_autocommit=True
)
postgresql = factories.postgresql("postgresql_server")


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
    yield Database(info.host, info.port, info.dbname)


def pytest_report_header() -> str:
    return f"PostgreSQL {SERVER.major} on port {SERVER.port}"
