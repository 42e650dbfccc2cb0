"""The schema, built from ``sql/`` or from ``supabase/migrations``, and described so that both can be compared."""

from __future__ import annotations

import difflib
import itertools
import re
import subprocess
from collections.abc import Iterable
from pathlib import Path

import psycopg
from psycopg import sql

from bridge.local.postgres import SUPERUSER, LocalPostgres
from tests.support.database import REPOSITORY, apply_files

__all__ = ["MIGRATIONS", "SOURCE", "apply_migrations", "apply_source", "describe", "difference"]

SOURCE = REPOSITORY / "sql"
MIGRATIONS = REPOSITORY / "supabase" / "migrations"

_ROWS_THAT_MIGRATIONS_WRITE = ("payments.settings", "payments.fulfilment_handlers")


def apply_source(url: str, source: Path = SOURCE) -> None:
    """Build the schema from its declarative source: every file, in the order of the paths."""
    apply_files(url, list(source.rglob("*.sql")))


def apply_migrations(url: str, migrations: Path = MIGRATIONS) -> None:
    """Build the schema as databases in the field get it: each migration in a transaction of its own."""
    for file in sorted(migrations.glob("*.sql")):
        apply_files(url, [file])


def describe(server: LocalPostgres, database: str) -> list[str]:
    """All of a database that migrations decide, as lines: objects, owners, grants, comments and their own rows."""
    dump = subprocess.run(
        [
            str(server.bin / "pg_dump"),
            "--schema-only",
            "--exclude-schema=supabase_migrations",
            server.url(database, SUPERUSER),
        ],
        check=True,
        capture_output=True,
        text=True,
    )
    # \restrict carries a random token
    lines = [line for line in dump.stdout.splitlines() if line and not line.startswith(("\\restrict", "\\unrestrict"))]
    return [*_with_sorted_grants(map(_with_sorted_roles, lines)), *_rows(server.url(database, SUPERUSER))]


def difference(left: list[str], right: list[str], left_name: str = "sql/", right_name: str = "migrations") -> str:
    """A unified diff; empty when both are equal."""
    return "\n".join(difflib.unified_diff(left, right, left_name, right_name, lineterm=""))


def _with_sorted_grants(lines: Iterable[str]) -> list[str]:
    """The order of an object's grants says only in which order they were given."""
    blocks = itertools.groupby(lines, key=lambda line: line.startswith(("GRANT ", "REVOKE ")))
    return [line for is_grants, block in blocks for line in (sorted(block) if is_grants else block)]


def _with_sorted_roles(line: str) -> str:
    """pg_dump lists a policy's roles in the order in which they happen to lie in the cluster."""
    return re.sub(r"^(CREATE POLICY .* TO )([\w, ]+?)(?= USING| WITH CHECK|;)", _sort_roles, line)


def _sort_roles(match: re.Match[str]) -> str:
    return match[1] + ", ".join(sorted(match[2].split(", ")))


def _rows(url: str) -> list[str]:
    with psycopg.connect(url) as connection:
        return [
            f"{table}: {row}"
            for table in _ROWS_THAT_MIGRATIONS_WRITE
            for (row,) in connection.execute(
                sql.SQL("select to_jsonb(t)::text from {} as t order by 1").format(sql.Identifier(*table.split(".")))
            )
        ]
