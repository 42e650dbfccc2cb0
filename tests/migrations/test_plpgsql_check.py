"""Postgres checks the SQL inside PL/pgSQL bodies only when it runs it; plpgsql_check does it for all of it at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import psycopg
import pytest

from bridge.local.postgres import SUPERUSER

if TYPE_CHECKING:
    from tests.support.database import Database

pytestmark = pytest.mark.needs("plpgsql_check")

FINDINGS = """
    select p.oid::regprocedure::text as function, c.level, c.message
    from pg_catalog.pg_proc as p
    join pg_catalog.pg_language as l on l.oid = p.prolang and l.lanname = 'plpgsql'
    left join pg_catalog.pg_trigger as t on t.tgfoid = p.oid
    cross join lateral extensions.plpgsql_check_function_tb(
        p.oid, coalesce(t.tgrelid, 0), fatal_errors := false, extra_warnings := true, security_warnings := true,
        oldtable := t.tgoldtable, newtable := t.tgnewtable
    ) as c
    where p.pronamespace in ('public'::regnamespace, 'payments'::regnamespace)
"""

# (function, message) -> why it is what we want
DELIBERATE = {
    # the handler's name comes from payments.fulfilment_handlers, whose CHECK admits nothing but a qualified name
    ("payments.run_handler(text,payment_checkout_sessions,numeric)", "text type variable is not sanitized"),
    ("payments.check_sale(payment_checkout_sessions)", "text type variable is not sanitized"),
}


def _findings(db: Database) -> set[tuple[str, str]]:
    with psycopg.connect(db.url(SUPERUSER)) as connection:
        connection.execute("create extension if not exists plpgsql_check with schema extensions")
        return {(function, message) for function, _, message in connection.execute(FINDINGS)}


def test_no_function_or_trigger_has_a_finding(db: Database) -> None:
    assert _findings(db) == DELIBERATE


def test_a_renamed_column_is_found_in_functions_and_triggers(db: Database) -> None:
    with psycopg.connect(db.url()) as connection:
        connection.execute("alter table payments.captures rename column disposition to result")
        connection.execute("alter table public.payment_checkout_sessions rename column status to state")
    found = {function for function, _ in _findings(db)}
    assert {"payments.settle_capture(payments.captures,text,text,timestamp with time zone)"} <= found
    assert {"payments.guard_session()"} <= found
