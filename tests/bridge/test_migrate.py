"""`pgcheckout migrate` applies the packaged migrations once, in order, each as a whole."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from bridge import migrations
from bridge.errors import SetupError
from bridge.migrations import migrate, packaged_migrations
from tests.support.command import run
from tests.support.database import REPOSITORY, Database, Row
from tests.support.races import all_at_once


def history(db: Database) -> list[Row]:
    return db.sql("select version, name, statements from supabase_migrations.schema_migrations order by version")


def test_all_are_applied_and_recorded_where_the_supabase_cli_looks(empty_database: Database) -> None:
    applied = migrate(empty_database.url())
    assert applied == packaged_migrations()
    assert [(row["version"], row["name"], row["statements"]) for row in history(empty_database)] == [
        (migration.version, migration.name, [migration.sql]) for migration in applied
    ]
    assert empty_database.value("select count(*) from public.payment_products") == 0


def test_the_second_time_there_is_nothing_to_do(empty_database: Database) -> None:
    migrate(empty_database.url())
    before = history(empty_database)
    assert migrate(empty_database.url()) == []
    assert history(empty_database) == before


def test_two_at_once_wait_for_each_other(empty_database: Database) -> None:
    answers = all_at_once([lambda: len(migrate(empty_database.url())) for _ in range(3)])
    assert sorted(map(str, answers)) == ["0", "0", str(len(packaged_migrations()))]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A release with one more migration, whose second half fails."""
    shutil.copytree(REPOSITORY / "supabase" / "migrations", tmp_path / "migrations")
    broken = tmp_path / "migrations" / "29990101000000_break_things.sql"
    broken.write_text("create table public.half_done ();\nselect 1 / 0;\n", "utf-8")
    monkeypatch.setattr(migrations, "_folder", lambda: tmp_path)
    return tmp_path


def test_one_that_fails_is_named_and_rolled_back(empty_database: Database, folder: Path) -> None:
    with pytest.raises(SetupError, match="29990101000000_break_things failed and was rolled back: division by zero"):
        migrate(empty_database.url())
    assert empty_database.value("select to_regclass('public.half_done')") is None
    assert len(history(empty_database)) == len(packaged_migrations()) - 1
    (folder / "migrations" / "29990101000000_break_things.sql").write_text("create table public.half_done ();", "utf-8")
    assert [migration.name for migration in migrate(empty_database.url())] == ["break_things"]


def test_a_role_without_the_right_is_told_so(empty_database: Database) -> None:
    with pytest.raises(SetupError) as caught:
        migrate(empty_database.url("authenticator"))
    assert "postgres" in caught.value.hint


def test_the_command_says_what_it_did(empty_database: Database, tmp_path: Path) -> None:
    first = run(tmp_path, "migrate", "--database-url", empty_database.url())
    count = len(packaged_migrations())
    assert (first.code, first.out.count("applied "), first.err) == (0, count, "")
    assert first.out.endswith(f"{count} applied; the database is up to date.\n")
    second = run(tmp_path, "migrate", database_url=empty_database.url())
    assert second.out == "0 applied; the database is up to date.\n"


def test_what_is_missing_is_one_line(tmp_path: Path) -> None:
    for words, settings, code, said in (
        ([], {}, 1, "PGCHECKOUT_DATABASE_URL is not set"),
        ([], {"database_url": "postgresql://postgres@127.0.0.1:1/x"}, 2, "cannot be reached: Connection refused."),
        (["--database-url", "postgresql://u:p%ssword@h/d"], {}, 1, "PGCHECKOUT_DATABASE_URL: not a Postgres URL"),
    ):
        done = run(tmp_path, "migrate", *words, **settings)
        assert done.code == code
        assert len(done.err.splitlines()) == 1
        assert said in done.err
        assert "Traceback" not in done.err
        assert "p%ssword" not in done.err


def test_a_project_with_a_schema_payments_of_its_own_is_left_alone(empty_database: Database) -> None:
    empty_database.sql("create schema payments")
    empty_database.sql("grant usage on schema payments to anon")
    with pytest.raises(SetupError, match="a schema payments of its own"):
        migrate(empty_database.url())
    assert empty_database.value("select has_schema_privilege('anon', 'payments', 'usage')")
    assert history(empty_database) == []


def test_a_table_that_is_held_elsewhere_asks_for_a_quieter_moment(empty_database: Database) -> None:
    with empty_database.as_owner().request() as other:
        other.execute("lock table auth.users in share row exclusive mode")
        with pytest.raises(SetupError) as refused:
            migrate(empty_database.url())
    assert "quieter moment" in refused.value.hint
    assert len(migrate(empty_database.url())) == len(packaged_migrations())
