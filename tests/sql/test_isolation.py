"""Tests of this folder share a database and must not see each other in it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import psycopg
import pytest

if TYPE_CHECKING:
    from tests.sql.conftest import Recycled
    from tests.support.database import Database

ROWS_ONLY = {
    "rows of every kind": "delete from public.payment_prices",
    "settings": "update payments.settings set session_ttl = '45 minutes'",
    "the catalogue": "update public.payment_products set active = false",
    "a handler's name": "update payments.fulfilment_handlers set fulfil_function = 'payments.gone'",
    "users": "insert into auth.users (id, email) values (gen_random_uuid(), 'a@b.test')",
}
MORE = {
    "a function": "create function payments.extra() returns int language sql as 'select 1'",
    "another body": "create or replace function payments.is_service() returns boolean language sql as 'select true'",
    "a grant": "grant execute on function payments.fulfil to anon",
    "a policy": "drop policy payment_credit_balances_are_read_by_their_user on public.payment_credit_balances",
    "security": "alter table public.payment_credit_balances disable row level security",
    "a table": "create table public.extra ()",
    "a comment": "comment on table payments.captures is 'x'",
}


IDENTITY = "select oid from pg_database where datname = current_database()"


@pytest.mark.parametrize("change", [*ROWS_ONLY, *MORE])
def test_whatever_a_test_changes_is_gone_in_the_next_one(recycled: Recycled, db: Database, change: str) -> None:
    clean, database = db.everything(), db.value(IDENTITY)
    db.apply(db.open_attempt(db.new_session()), event="evt_1")
    db.sql((ROWS_ONLY | MORE)[change])
    recycled.give_back()
    assert recycled.take() == db
    assert db.everything() == clean
    assert (db.value(IDENTITY) == database) == (change in ROWS_ONLY)
    assert db.value("select count(*) from auth.users") == 0
    # numbers start again, too
    assert db.open_attempt(db.new_session())["number"] == 1


def test_a_database_in_which_somebody_is_still_at_work_is_not_used_again(recycled: Recycled, db: Database) -> None:
    database = db.value(IDENTITY)
    straggler = psycopg.connect(db.url())
    recycled.give_back()
    recycled.take()
    assert db.value(IDENTITY) != database
    straggler.close()
