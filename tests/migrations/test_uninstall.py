"""The SQL that docs/install.md has for being rid of pgcheckout takes all that is ours, and nothing else."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import psycopg
import pytest

from bridge.local.postgres import SUPERUSER, LocalPostgres
from bridge.migrations import migrate, packaged_migrations, seed_file
from tests.support.database import Database, apply_files

if TYPE_CHECKING:
    from tests.migrations.conftest import NewDatabase

# a project that has seen pgcheckout, in ways that a careless script would take for ours
THEIRS = """
create schema supabase_migrations;
create table supabase_migrations.schema_migrations (version text not null primary key, statements text [], name text);
insert into supabase_migrations.schema_migrations (version, name)
values ('20260101000000', 'payments'), ('20260102000000', 'wake_workers');
create table public.payment_reminders_of_ours (id int primary key);
create table public.orders (id int primary key, session_id uuid);
alter publication supabase_realtime add table public.orders;
create function public.payments_today() returns bigint language sql as 'select 0::bigint from public.orders';
"""


def dump(server: LocalPostgres, name: str) -> list[str]:
    """All of the database, rows of the catalogue of migrations too, as lines in any order."""
    done = subprocess.run(
        [server.bin / "pg_dump", server.url(name, SUPERUSER)], check=True, capture_output=True, text=True
    )
    return sorted(line for line in done.stdout.splitlines() if not line.startswith(("\\restrict", "\\unrestrict")))


@pytest.fixture
def project(new_database: NewDatabase, server: LocalPostgres) -> Database:
    name, url = new_database()
    with psycopg.connect(url) as connection:
        connection.execute(THEIRS)
    return Database("127.0.0.1", server.port, name)


def test_the_database_is_as_it_was_before(project: Database, server: LocalPostgres, uninstall: str) -> None:
    before = dump(server, project.name)
    migrate(project.url())
    apply_files(project.url(), [seed_file()])
    project.complete(project.new_session(), p_provider_payment_id="pi_1")
    project.sql(  # it mentions our schema, and does not depend on it
        "create or replace function public.payments_today() returns bigint language plpgsql"
        " as 'begin return (select count(*) from payments.captures); end'"
    )
    project.sql(uninstall)
    project.sql(
        "create or replace function public.payments_today() returns bigint language sql"
        " as 'select 0::bigint from public.orders'"
    )
    left = project.sql("select proname from pg_proc where pronamespace = 'public'::regnamespace order by 1")
    assert [row["proname"] for row in left] == ["payments_today"], "docs/install.md does not drop all functions"
    after = dump(server, project.name)
    assert [line for line in before if line not in after] == []
    assert len([line for line in after if line not in before]) == project.value("select count(*) from auth.users")
    assert migrate(project.url()) == packaged_migrations()


def test_what_depends_on_it_stops_it_and_nothing_is_lost(
    project: Database, server: LocalPostgres, uninstall: str
) -> None:
    migrate(project.url())
    project.sql("alter table public.orders add foreign key (session_id) references public.payment_checkout_sessions")
    before = dump(server, project.name)
    with pytest.raises(psycopg.errors.DependentObjectsStillExist, match="orders_session_id_fkey"):
        project.sql(uninstall)
    assert dump(server, project.name) == before
