"""What a caller puts into the temporary schema must never run with the rights of the engine's owner."""

from __future__ import annotations

from typing import TYPE_CHECKING

import psycopg

from tests.support.database import Database

if TYPE_CHECKING:
    import uuid

# A search path that does not name pg_temp has it in front, for types and tables: only a path that ends with it is safe.
SAFE = "pg_catalog, pg_temp"
TRAP = """
    create function pg_temp.evil(p_value text) returns boolean language plpgsql
    as $$ begin raise notice 'evil as %', current_user; return true; end $$;
    grant execute on function pg_temp.evil to public;
"""
DOMAINS = {name: f"pg_catalog.{name}" for name in ("uuid", "text", "jsonb", "numeric", "timestamptz", "int4", "bool")}


def who_ran_evil(db: Database, user: uuid.UUID) -> set[str]:
    """A user with a direct connection sets traps and buys; returns the roles that fell into them."""
    heard: set[str] = set()
    with psycopg.connect(db.url("authenticator")) as connection:
        connection.add_notice_handler(lambda notice: heard.add(str(notice.message_primary).removeprefix("evil as ")))
        connection.execute("select set_config('role', 'authenticated', false)")
        connection.execute(
            "select set_config('request.jwt.claims', json_build_object('sub', %s::text)::text, false)", [user]
        )
        connection.execute(TRAP)
        for name, original in DOMAINS.items():
            connection.execute(
                f"create domain pg_temp.{name} as {original} check (pg_temp.evil(value::pg_catalog.text))".encode()
            )
        connection.execute("select '00000000-0000-0000-0000-000000000001'::pg_temp.uuid")
        assert heard == {"authenticated"}, "the trap does not work"
        for call in (
            "public.get_or_create_checkout_session('credits_100', p_metadata => '{}')",
            "public.quote_checkout('credits_100')",
            "public.get_latest_checkout_session()",
            "public.payment_history(1, 20, 'pending')",
            "public.payment_stats()",
            "public.cancel_checkout_session((public.get_latest_checkout_session()).id)",
        ):
            connection.execute(f"select {call}".encode())
    return heard


def test_code_in_the_callers_temporary_schema_never_runs_as_another_role(db: Database) -> None:
    user = db.new_user()
    assert who_ran_evil(db, user) == {"authenticated"}
    assert [row["status"] for row in db.sql("select status from public.payment_checkout_sessions")] == ["cancelled"]


def test_an_empty_search_path_would_let_it_run_as_the_owner(db: Database) -> None:
    db.sql("alter function payments.get_or_create_checkout_session set search_path = ''")
    assert "postgres" in who_ran_evil(db, db.new_user())


def test_every_function_fixes_its_search_path(db: Database) -> None:
    loose = db.sql(
        "select p.oid::regprocedure::text from pg_proc as p"
        " where p.pronamespace in ('public'::regnamespace, 'payments'::regnamespace)"
        " and not coalesce(p.proconfig @> array['search_path=' || %s], false)",
        SAFE,
    )
    assert loose == []
