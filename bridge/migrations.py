"""Applies the packaged migrations and records them where the Supabase CLI looks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import psycopg

from bridge.errors import DatabaseUnavailable, SetupError
from bridge.rpc.reach import why_out_of_reach

__all__ = ["Migration", "migrate", "packaged_migrations", "pending_migrations", "seed_file", "types_file"]

_AS_OWNER = "Connect as the role that owns the project's schema (postgres), then run it again."

_AT_A_QUIET_MOMENT = "Another transaction held a table for too long: run it again at a quieter moment."

# any constant will do, as long as every pgcheckout uses the same
_LOCK = 7_243_920_531

# as `supabase db push` (CLI 3) creates it; it adds what a later version wants
_HISTORY = """
create schema if not exists supabase_migrations;
create table if not exists supabase_migrations.schema_migrations (
    version text not null primary key,
    statements text [],
    name text
);
"""


@dataclass(frozen=True, slots=True)
class Migration:
    """One file ``<version>_<name>.sql``."""

    version: str
    name: str
    sql: str


def _folder() -> Path:
    packaged = Path(__file__).with_name("_supabase")
    return packaged if packaged.is_dir() else Path(__file__).resolve().parents[1] / "supabase"


def seed_file() -> Path:
    """The example catalogue."""
    return _folder() / "seed.sql"


def types_file() -> Path:
    """What apps may read and call, as TypeScript."""
    return _folder() / "database.types.ts"


def packaged_migrations() -> list[Migration]:
    """All migrations of this version of pgcheckout, oldest first."""
    files = sorted((_folder() / "migrations").glob("*.sql"))
    return [_read(file) for file in files]


def _read(file: Path) -> Migration:
    version, _, name = file.stem.partition("_")
    return Migration(version, name, file.read_text("utf-8"))


def pending_migrations(connection: psycopg.Connection) -> list[Migration]:
    """Those that the database has not seen. Raises SetupError when another project used one of our versions."""
    known: dict[str, str | None] = {}
    if _has_history(connection):
        known = dict(connection.execute("select version, name from supabase_migrations.schema_migrations").fetchall())
    for migration in packaged_migrations():
        if known.get(migration.version) not in (None, migration.name):
            raise SetupError(
                f"Version {migration.version} is taken by the migration {known[migration.version]!r} of this project.",
                f"Rename one of the two; ours is {migration.name}.",
            )
    return [migration for migration in packaged_migrations() if migration.version not in known]


def migrate(url: str) -> list[Migration]:
    """Apply what is pending, each file in a transaction of its own, and return it.

    Two at once wait for each other. Raises SetupError that names the file and what Postgres says of it,
    DatabaseUnavailable.
    """
    try:
        with psycopg.connect(url, autocommit=True, connect_timeout=10) as connection:
            connection.execute("select pg_advisory_lock(%s)", (_LOCK,))
            if not _has_history(connection):
                connection.execute(_HISTORY)
            pending = pending_migrations(connection)
            if pending == packaged_migrations() and _schema_is_taken(connection):
                raise SetupError(
                    "This project has a schema payments of its own, and pgcheckout needs that name.",
                    "Rename it; if an earlier try left it behind, drop it.",
                )
            for migration in pending:
                _apply(connection, migration)
            return pending
    except psycopg.OperationalError as error:
        raise DatabaseUnavailable(why_out_of_reach(url, error), "Check PGCHECKOUT_DATABASE_URL.") from None
    except psycopg.errors.InsufficientPrivilege as error:
        raise SetupError(f"This role may not migrate: {error.diag.message_primary}.", _AS_OWNER) from None


def _apply(connection: psycopg.Connection, migration: Migration) -> None:
    try:
        with connection.transaction():
            connection.execute(migration.sql.encode())
            connection.execute(
                "insert into supabase_migrations.schema_migrations (version, name, statements) values (%s, %s, %s)",
                (migration.version, migration.name, [migration.sql]),
            )
        connection.execute("reset lock_timeout")
    except psycopg.Error as error:
        raise SetupError(
            f"Migration {migration.version}_{migration.name} failed and was rolled back: {error}",
            _AT_A_QUIET_MOMENT
            if isinstance(error, psycopg.errors.LockNotAvailable | psycopg.errors.DeadlockDetected)
            else _AS_OWNER,
        ) from None


def _schema_is_taken(connection: psycopg.Connection) -> bool:
    return connection.execute("select to_regnamespace('payments') is not null").fetchone() == (True,)


def _has_history(connection: psycopg.Connection) -> bool:
    row = connection.execute("select to_regclass('supabase_migrations.schema_migrations') is not null").fetchone()
    return row == (True,)
