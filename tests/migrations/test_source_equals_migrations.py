"""``sql/`` is what people read and edit, ``supabase/migrations`` is what databases run: both must build the same."""

from __future__ import annotations

from typing import TYPE_CHECKING

import psycopg
import pytest

from bridge.local.postgres import SUPERUSER, LocalPostgres
from tests.support.schema import apply_migrations, apply_source, describe, difference

if TYPE_CHECKING:
    from tests.migrations.conftest import NewDatabase
    from tests.support.database import Database

QUOTE = "function public.quote_checkout(text, text, text)"
BALANCES = "public.payment_credit_balances"
OLD_DEFAULT_PRIVILEGES = """
    alter default privileges for role postgres in schema public
    grant all on tables to anon, authenticated, service_role;
    alter default privileges for role postgres in schema public
    grant all on sequences to anon, authenticated, service_role;
    alter default privileges for role postgres in schema public
    grant all on functions to anon, authenticated, service_role;
"""


def _run_as(url: str, statement: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(statement.encode())


def _changed_lines(diff: str) -> list[str]:
    """What was added or removed, without the headings that pg_dump gives to objects."""
    lines = [line for line in diff.splitlines() if line.startswith(("+", "-")) and not line.startswith(("+++", "---"))]
    return [line for line in lines if not line[1:].startswith("--")]


@pytest.fixture(scope="module")
def migrated(server: LocalPostgres) -> list[str]:
    """The description of a database that the migrations built."""
    apply_migrations(server.create_look_alike("migrated"))
    return describe(server, "migrated")


def test_both_build_the_same_objects_owners_grants_comments_and_rows(
    server: LocalPostgres, new_database: NewDatabase, migrated: list[str]
) -> None:
    name, url = new_database()
    apply_source(url)
    assert not difference(describe(server, name), migrated)


@pytest.mark.parametrize(
    ("change", "evidence"),
    [
        (f"revoke execute on {QUOTE} from authenticated", "-GRANT ALL ON FUNCTION"),
        (f"grant execute on {QUOTE} to anon", "+GRANT ALL ON FUNCTION"),
        (f"grant execute on {QUOTE} to public", "-REVOKE ALL ON FUNCTION"),
        ("grant update on sequence public.payment_credit_entries_id_seq to anon", "+GRANT UPDATE ON SEQUENCE"),
        ("grant select (email) on public.payment_checkout_sessions to anon", "+GRANT SELECT(email)"),
        ("comment on table payments.captures is 'Something else.'", "+COMMENT ON TABLE payments.captures"),
        ("alter function payments.fulfil_none owner to service_role", "+ALTER FUNCTION payments.fulfil_none"),
        ("alter function payments.fulfil_none security definer", "SECURITY DEFINER"),
        ("alter table payments.captures disable row level security", "-ALTER TABLE payments.captures ENABLE ROW LEVEL"),
        (f"drop policy payment_credit_balances_are_read_by_their_user on {BALANCES}", "-CREATE POLICY"),
        ("alter publication supabase_realtime drop table public.payment_checkout_sessions", "-ALTER PUBLICATION"),
        ("update payments.settings set session_ttl = '2 hours'", "+payments.settings"),
        ("delete from payments.fulfilment_handlers where kind = 'none'", "-payments.fulfilment_handlers"),
    ],
)  # fmt: skip
def test_the_comparison_notices_what_a_migration_forgot(
    server: LocalPostgres, db: Database, migrated: list[str], change: str, evidence: str
) -> None:
    _run_as(db.url(SUPERUSER), change)
    assert evidence in difference(migrated, describe(server, db.name))


def test_migrations_run_where_realtime_has_no_publication(
    server: LocalPostgres, new_database: NewDatabase, migrated: list[str]
) -> None:
    name, url = new_database()
    _run_as(url, "drop publication supabase_realtime")
    apply_migrations(url)
    changed = _changed_lines(difference(migrated, describe(server, name)))
    assert changed, "the publication was there all the same"
    assert [line for line in changed if "PUBLICATION" not in line] == []


@pytest.mark.parametrize(
    "publication",
    [
        pytest.param(
            "drop publication supabase_realtime; create publication supabase_realtime for all tables",
            id="of all tables",
        ),
        pytest.param(f"alter publication supabase_realtime owner to {SUPERUSER}", id="of another role"),
    ],
)
def test_migrations_run_where_the_publication_is_not_theirs_to_change(
    server: LocalPostgres, new_database: NewDatabase, migrated: list[str], publication: str
) -> None:
    name, url = new_database()
    for statement in publication.split(";"):
        _run_as(server.url(name, SUPERUSER), statement)
    apply_migrations(url)
    changed = _changed_lines(difference(migrated, describe(server, name)))
    assert "-ALTER PUBLICATION supabase_realtime ADD TABLE ONLY public.payment_checkout_sessions;" in changed
    assert [line for line in changed if "PUBLICATION" not in line] == []


def test_a_project_with_the_old_default_privileges_gets_the_same_grants(
    server: LocalPostgres, new_database: NewDatabase, migrated: list[str]
) -> None:
    name, url = new_database()
    _run_as(url, OLD_DEFAULT_PRIVILEGES)
    apply_migrations(url)
    changed = _changed_lines(difference(migrated, describe(server, name)))
    assert changed, "the old default privileges were not in force"
    assert [line for line in changed if "ALTER DEFAULT PRIVILEGES" not in line] == []


def test_migrations_need_no_superuser(new_database: NewDatabase) -> None:
    _, url = new_database()
    apply_migrations(url)
    with psycopg.connect(url) as connection:
        who = connection.execute("select current_user, rolsuper from pg_roles where rolname = current_user").fetchone()
        assert who == ("postgres", False)
        assert connection.execute("select count(*) from public.payment_checkout_sessions").fetchone() == (0,)
