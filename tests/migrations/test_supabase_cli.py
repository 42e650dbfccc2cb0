"""What a DBA's own tool says about the migrations, run against a database that it migrated itself."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import psycopg
import pytest

from bridge.local.postgres import SUPERUSER, LocalPostgres
from tests.support import supabase_cli
from tests.support.schema import MIGRATIONS, apply_source, describe, difference

if TYPE_CHECKING:
    from pathlib import Path

    from tests.migrations.conftest import NewDatabase

pytestmark = pytest.mark.needs("supabase_cli")

# lint of the CLI -> why each of its findings is what we want
DELIBERATE = {
    "rls_enabled_no_policy": re.compile(r"Table `payments\..*"),  # internal tables: RLS without a policy means nobody
    "unused_index": re.compile(r"Index .*"),  # nothing has been read yet in a database of this age
    # products are switched off (active), not deleted: nobody waits for the scan that a delete would need
    "unindexed_foreign_keys": re.compile(
        r"Table `public\.(payment_(checkout_sessions|groups)` has a foreign key `\w+_product_id_fkey"
        r"|payment_products` has a foreign key `\w+_kind_fkey)`.*"
    ),
}


@pytest.fixture
def pushed(new_database: NewDatabase, cli: Path, project: Path) -> tuple[str, str]:
    """A database that `supabase db push` migrated: its name and URL."""
    name, url = new_database()
    done = supabase_cli.run(cli, project, "db", "push", f"--remote={url}", "--yes")
    assert done.returncode == 0, done.stderr
    return name, url


def test_db_push_builds_what_the_source_says(
    server: LocalPostgres, new_database: NewDatabase, pushed: tuple[str, str]
) -> None:
    from_source, url = new_database()
    apply_source(url)
    assert not difference(describe(server, from_source), describe(server, pushed[0]), "sql/", "db push")


def test_migration_list_agrees_that_all_are_applied(cli: Path, project: Path, pushed: tuple[str, str]) -> None:
    done = supabase_cli.run(cli, project, "migration", "list", f"--remote={pushed[1]}")
    assert done.returncode == 0, done.stderr
    rows = re.findall(r"`(\d{14})?`\s*\|\s*`(\d{14})?`", done.stdout)
    expected = [file.name.split("_")[0] for file in sorted(MIGRATIONS.glob("*.sql"))]
    assert rows == [(version, version) for version in expected]


def test_pushing_again_changes_nothing(
    server: LocalPostgres, cli: Path, project: Path, pushed: tuple[str, str]
) -> None:
    name, url = pushed
    before = describe(server, name)
    done = supabase_cli.run(cli, project, "db", "push", f"--remote={url}", "--yes")
    assert (done.returncode, describe(server, name)) == (0, before), done.stderr


def test_db_diff_finds_no_drift_from_the_source(
    new_database: NewDatabase, cli: Path, project: Path, pushed: tuple[str, str]
) -> None:
    _, wanted = new_database()
    apply_source(wanted)
    done = supabase_cli.run(cli, project, "db", "diff", f"--from={pushed[1]}", f"--to={wanted}")
    assert (done.returncode, done.stdout.strip()) == (0, ""), done.stderr


def test_the_advisors_warn_of_nothing_and_note_only_what_is_deliberate(
    cli: Path, project: Path, pushed: tuple[str, str]
) -> None:
    done = supabase_cli.run(
        cli, project, "db", "advisors", f"--remote={pushed[1]}",
        "--type", "all", "--level", "info", "--fail-on", "warn",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    findings = json.loads(done.stdout)
    assert findings, "the advisors saw nothing: were they run?"
    surprises = [
        finding["detail"]
        for finding in findings
        if not (finding["name"] in DELIBERATE and DELIBERATE[finding["name"]].fullmatch(finding["detail"]))
    ]
    assert surprises == []


def test_the_advisors_would_warn_of_a_table_without_row_level_security(
    cli: Path, project: Path, pushed: tuple[str, str]
) -> None:
    _, url = pushed
    with psycopg.connect(url) as connection:
        connection.execute("alter table public.payment_credit_balances disable row level security")
    done = supabase_cli.run(cli, project, "db", "advisors", f"--remote={url}", "--level", "info", "--fail-on", "warn")
    assert done.returncode != 0
    assert "rls_disabled_in_public" in done.stdout


@pytest.mark.needs("plpgsql_check")
def test_db_lint_finds_nothing(server: LocalPostgres, cli: Path, project: Path, pushed: tuple[str, str]) -> None:
    name, url = pushed
    with psycopg.connect(server.url(name, SUPERUSER)) as connection:
        connection.execute("create extension plpgsql_check with schema extensions")
    lint = [
        "db",
        "lint",
        f"--remote={url}",
        "--schema",
        "public,payments",
        "--level",
        "warning",
        "--fail-on",
        "warning",
    ]
    done = supabase_cli.run(cli, project, *lint)
    assert done.returncode == 0, done.stdout + done.stderr
    with psycopg.connect(url) as connection:
        connection.execute("alter table payments.captures rename column paid_at to paid_on")
    broken = supabase_cli.run(cli, project, *lint)
    assert broken.returncode != 0
    assert "paid_at" in broken.stdout
