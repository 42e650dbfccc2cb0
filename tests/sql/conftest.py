"""A clean database for every test of this folder, without a clone for each.

Cloning and dropping a database takes far longer than most of these tests. A test that changed rows only gives its
database back as it got it; one that changed anything else (a function, a grant, a table) takes its database with it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from psycopg import sql

from bridge.local.postgres import SUPERUSER
from tests.support.database import Database, Row

if TYPE_CHECKING:
    import uuid
    from collections.abc import Iterator

TABLES = """
    select c.oid::regclass::text from pg_catalog.pg_class as c
    where c.relkind = 'r' and (
        c.relnamespace in ('public'::regnamespace, 'payments'::regnamespace) or c.oid = 'auth.users'::regclass
    )
"""
IDENTITIES = "select c.oid::regclass::text from pg_catalog.pg_class as c where c.relkind = 'S'"
# what the server itself writes while nobody changes anything
STATISTICS = ("pg_statistic", "pg_statistic_ext_data")
CATALOGUES = """
    select c.relname from pg_catalog.pg_class as c
    where c.relnamespace = 'pg_catalog'::regnamespace and c.relkind = 'r' and not c.relisshared
        and c.relname <> all(%s)
    order by 1
"""


class Recycled:
    """One clone of the template at a time, used again for as long as tests change nothing but rows."""

    def __init__(self, server: Any) -> None:
        self.name = f"{server.dbname}_recycled"
        self.template = server.template_dbname
        self.host, self.port = server.host, server.port
        self.admin = psycopg.connect(
            f"postgresql://{SUPERUSER}@{self.host}:{self.port}/{server.maintenance_dbname}", autocommit=True
        )
        self.connection: psycopg.Connection[Any] | None = None

    def take(self) -> Database:
        """The database, as the template is."""
        if self.connection is None:
            database = {"name": sql.Identifier(self.name), "template": sql.Identifier(self.template)}
            self.admin.execute(sql.SQL("create database {name} template {template}").format(**database))
            # a cloned database does not inherit the grants on its template
            self.admin.execute(sql.SQL("grant all on database {name} to postgres").format(**database))
            self.connection = psycopg.connect(f"postgresql://{SUPERUSER}@{self.host}:{self.port}/{self.name}")
            self.tables = [table for (table,) in self.connection.execute(TABLES)]
            self.rows = {table: self._copy_out(self.connection, table) for table in self.tables}
            self.catalogue = self._catalogue(self.connection)
        return Database(self.host, self.port, self.name)

    def give_back(self) -> None:
        """Undo what a test did to the rows, or drop the database if it did more than that."""
        assert self.connection is not None
        if not self._is_deserted() or self._catalogue(self.connection) != self.catalogue:
            self.drop()
            return
        # neither append-only tables nor foreign keys stand in the way of a replica
        self.connection.execute("set local session_replication_role = replica")
        for table, rows in self.rows.items():
            self.connection.execute(f"delete from {table}".encode())
            if rows:
                with self.connection.cursor().copy(f"copy {table} from stdin".encode()) as copy:
                    copy.write(rows)
        for (identity,) in self.connection.execute(IDENTITIES).fetchall():
            self.connection.execute("select setval(%s, 1, false)", [identity])
        self.connection.commit()

    def drop(self) -> None:
        if self.connection is not None:
            self.connection.close()
            self.connection = None
            self.admin.execute(sql.SQL("drop database {} with (force)").format(sql.Identifier(self.name)))

    def _is_deserted(self) -> bool:
        """Nothing of the test before is at work in the database any more; connections that close need a moment."""
        assert self.connection is not None
        for _ in range(200):
            row = self.connection.execute(
                "select count(*) from pg_stat_activity, pg_sleep(0.001)"
                " where datname = current_database() and pid <> pg_backend_pid() and backend_type = 'client backend'"
            ).fetchone()
            self.connection.rollback()
            if row == (0,):
                return True
        return False

    def _catalogue(self, connection: psycopg.Connection[Any]) -> list[tuple[Any, ...]]:
        """How many rows each system catalogue has, and the sum of the transactions that wrote them."""
        names = [name for (name,) in connection.execute(CATALOGUES, [list(STATISTICS)])]
        parts = [f"select '{name}', count(*), sum(xmin::text::bigint) from pg_catalog.{name}" for name in names]
        found = connection.execute(" union all ".join(parts).encode()).fetchall()
        connection.rollback()
        return found

    @staticmethod
    def _copy_out(connection: psycopg.Connection[Any], table: str) -> bytes:
        with connection.cursor().copy(f"copy {table} to stdout".encode()) as copy:
            return b"".join(bytes(block) for block in copy)


@pytest.fixture(scope="session")
def recycled(postgresql_server: Any) -> Iterator[Recycled]:
    database = Recycled(postgresql_server)
    yield database
    database.drop()
    database.admin.close()


@pytest.fixture
def db(recycled: Recycled) -> Iterator[Database]:
    """A migrated, seeded database that looks as if nobody had used it before this test."""
    yield recycled.take()
    recycled.give_back()


@pytest.fixture
def user(db: Database) -> uuid.UUID:
    return db.new_user()


@pytest.fixture
def session_id(db: Database, user: uuid.UUID) -> uuid.UUID:
    """A pending session of the user."""
    return db.new_session(user)


@pytest.fixture
def attempt(db: Database, session_id: uuid.UUID) -> Row:
    """The page on which that session can be paid."""
    return db.open_attempt(session_id)
