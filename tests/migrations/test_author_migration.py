from __future__ import annotations

import shutil
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest

from tests.support.author_migration import author

if TYPE_CHECKING:
    from pathlib import Path

    from bridge.local.postgres import LocalPostgres

NOON = datetime(2031, 5, 6, 12, 0, 0, tzinfo=UTC)
NEW_FUNCTION = """
create function payments.answer() returns int language sql immutable set search_path = '' as $$ select 42; $$;
revoke all on function payments.answer() from public, anon, authenticated, service_role;
"""


@pytest.fixture
def project(project: Path) -> Path:
    """A project whose ``sql/`` says what its migrations build, whatever is being worked on in this one."""
    shutil.rmtree(project / "sql")
    shutil.copytree(project / "supabase" / "migrations", project / "sql")
    return project


def test_nothing_is_written_when_nothing_differs(server: LocalPostgres, project: Path) -> None:
    path, message = author(server, project, "add_nothing", NOON, cli=None)
    assert path is None
    assert message.startswith("Nothing differs")
    assert not list((project / "supabase" / "migrations").glob("2031*"))


@pytest.mark.needs("supabase_cli")
def test_the_cli_proposes_the_sql_that_makes_both_equal(server: LocalPostgres, project: Path, cli: Path) -> None:
    (project / "sql" / "99_answer.sql").write_text(NEW_FUNCTION)
    path, message = author(server, project, "add_answer", NOON, cli)
    assert path == project / "supabase" / "migrations" / "20310506120000_add_answer.sql"
    text = path.read_text()
    assert text.startswith("-- Purpose: add answer.\n-- Locks:")
    assert "-- Undo:" in text
    assert "set lock_timeout = '5s';" in text
    assert "+CREATE FUNCTION payments.answer()" in message
    _, message = author(server, project, "add_nothing", NOON.replace(hour=13), cli)
    assert message.startswith("Nothing differs"), message


def test_without_the_cli_the_author_gets_a_header_and_sees_the_difference(server: LocalPostgres, project: Path) -> None:
    (project / "sql" / "99_answer.sql").write_text(NEW_FUNCTION)
    path, message = author(server, project, "add_answer", NOON, cli=None)
    assert path
    assert path.read_text().endswith("set lock_timeout = '5s';\n")
    assert "+CREATE FUNCTION payments.answer()" in message
