"""One migrated, seeded database for all cases of this folder: each case has a buyer and a session of its own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import psycopg
import pytest
from psycopg import sql
from psycopg.rows import dict_row

from bridge.local.postgres import SUPERUSER
from tests.support.database import Database, Row


@dataclass(frozen=True)
class WatchedDatabase(Database):
    """Looks and meddles over one connection that it keeps: there are many hundreds of cases."""

    kept: list[psycopg.Connection[Row]] = field(default_factory=list)

    def sql(self, query: str, *parameters: Any) -> list[Row]:
        if not self.kept:
            self.kept.append(psycopg.connect(self.url(), autocommit=True, row_factory=dict_row))
        cursor = self.kept[0].execute(query.encode(), parameters)
        return cursor.fetchall() if cursor.description else []


@pytest.fixture(scope="session")
def db(postgresql_server: Any) -> Iterator[Database]:
    server = postgresql_server
    names = {"name": sql.Identifier("interleavings"), "template": sql.Identifier(server.template_dbname)}
    admin = f"postgresql://{SUPERUSER}@{server.host}:{server.port}/{server.maintenance_dbname}"
    with psycopg.connect(admin, autocommit=True) as connection:
        connection.execute(sql.SQL("create database {name} template {template}").format(**names))
        # a cloned database does not inherit the grants on its template
        connection.execute(sql.SQL("grant all on database {name} to postgres").format(**names))
        database = WatchedDatabase(server.host, server.port, "interleavings")
        database.sql("update payments.settings set create_limit = null, verify_limit = null")
        yield database
        for kept in database.kept:
            kept.close()
        connection.execute(sql.SQL("drop database {name} with (force)").format(**names))
