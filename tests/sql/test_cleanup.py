"""cleanup_completed_checkout_sessions: what is old and closed goes, what money left behind stays."""

from __future__ import annotations

import uuid
from functools import partial
from typing import Any

import psycopg
import pytest

from bridge.local.postgres import SUPERUSER
from tests.support.database import Database, Row, call, refused
from tests.support.races import start_and_see_it_wait

FUNCTION = "cleanup_completed_checkout_sessions"
WAIT = 30  # seconds until a waiter is given up; nothing here takes long

# A session with all its traces, told as if it had happened earlier: every time of its rows moves (but the periods of
# subscriptions, which add up to more than one session), and so does the time inside its id, wherever that is written.
# No foreign key names a session, and append-only tables yield to a replica.
_MOVE_BACK = """
do $$
declare
    v_old uuid := '{session_id}';
    v_new uuid := left(payments.first_id_at(
        (select s.created_at from public.payment_checkout_sessions as s where s.id = '{session_id}') - interval '{by}'
    )::text, 13) || right('{session_id}', 23);
    v_table record;
begin
    for v_table in
        select
            a.attrelid::regclass as name,
            string_agg(format(
                case
                    when a.atttypid = 'timestamptz'::regtype then '%1$I = %1$I - interval ''{by}'''
                    when a.atttypid = 'uuid'::regtype then '%1$I = case when %1$I = %2$L then %3$L::uuid else %1$I end'
                    else '%1$I = replace(%1$I, %2$L, %3$L)'
                end, a.attname, v_old, v_new
            ), ', ') as changes,
            string_agg(format('%1$I::text like %2$L', a.attname, v_old || '%'), ' or ')
                filter (where a.atttypid <> 'timestamptz'::regtype) as condition
        from pg_attribute as a
        inner join pg_class as c on a.attrelid = c.oid
        where c.relkind = 'r' and c.relnamespace in ('public'::regnamespace, 'payments'::regnamespace)
            and (
                a.atttypid = 'timestamptz'::regtype and a.attname not in ('starts_at', 'ends_at')
                or a.attname = 'source' and a.atttypid = 'text'::regtype
                or a.atttypid = 'uuid'::regtype and a.attname in ('id', 'session_id', 'group_id')
            )
        group by a.attrelid
        having bool_or(a.atttypid <> 'timestamptz'::regtype)
    loop
        execute format('update %s set %s where %s', v_table.name, v_table.changes, v_table.condition);
    end loop;
    perform set_config('test.moved', v_new::text, false);
end;
$$
"""


def move_back(db: Database, session_id: uuid.UUID, by: str) -> uuid.UUID:
    """Let a session and all that came of it have happened earlier; its new id, because ids tell the time."""
    with psycopg.connect(db.url(SUPERUSER)) as connection:
        connection.execute("set local session_replication_role = replica")
        connection.execute(_MOVE_BACK.format(session_id=session_id, by=by).encode())
        row = connection.execute("select current_setting('test.moved')::uuid").fetchone()
    assert row
    return uuid.UUID(str(row[0]))


def clean(db: Database, older_than: str = "30 days", **arguments: Any) -> int:
    """Clean up, and look whether every guarantee still holds."""
    count: int = db.as_service().rpc(FUNCTION, p_older_than=older_than, **arguments)
    assert db.as_service().rpc("check_payment_invariants") == []
    return count


def old_session(db: Database, status: str = "completed", by: str = "90 days", **arguments: Any) -> uuid.UUID:
    """A session that came to this end long ago."""
    session_id = db.new_session(**arguments)
    if status == "cancelled":
        db.close(session_id)
    elif status in ("completed", "refunded"):
        db.complete(session_id, p_provider_payment_id=f"pi_{session_id}")
    elif status != "pending":
        db.apply(db.open_attempt(session_id, f"cs_{session_id}"), status)
    if status == "refunded":
        refund(db, session_id, db.session(session_id)["amount"])
    return move_back(db, session_id, by)


def refund(db: Database, session_id: uuid.UUID, amount: int) -> None:
    db.as_service().rpc(
        "refund_checkout_session", p_session_id=session_id, p_provider_refund_id=f"re_{session_id}", p_amount=amount
    )


def sessions(db: Database) -> set[uuid.UUID]:
    return {row["id"] for row in db.sql("select id from public.payment_checkout_sessions")}


class TestWhatGoes:
    @pytest.mark.parametrize("status", ["completed", "refunded", "failed", "expired", "cancelled"])
    def test_a_closed_session_to_which_nothing_has_happened_for_so_long(self, db: Database, status: str) -> None:
        session_id = old_session(db, status)
        assert db.session(session_id)["status"] == status
        assert (clean(db, "91 days"), sessions(db)) == (0, {session_id})
        assert (clean(db, "89 days"), sessions(db)) == (1, set())

    @pytest.mark.parametrize("status", ["pending", "processing"])
    def test_never_an_open_one_however_old(self, db: Database, status: str) -> None:
        session_id = old_session(db, status)
        assert (clean(db, "1 day"), sessions(db)) == (0, {session_id})

    def test_never_one_that_waits_for_a_person(self, db: Database) -> None:
        session_id = old_session(db)
        db.complete(session_id, p_provider_payment_id="pi_second")
        db.sql("update public.payment_checkout_sessions set updated_at = created_at where id = %s", session_id)
        assert db.state(session_id) == ("completed", "fulfilled", "duplicate_payment")
        assert (clean(db), sessions(db)) == (0, {session_id})

    def test_not_yet_one_to_which_something_has_happened_lately(self, db: Database) -> None:
        session_id = old_session(db)
        refund(db, session_id, 100)
        assert (clean(db), sessions(db)) == (0, {session_id})

    def test_by_default_those_older_than_90_days(self, db: Database) -> None:
        old, young = old_session(db, by="91 days"), old_session(db, by="89 days")
        assert (db.as_service().rpc(FUNCTION), sessions(db)) == (1, {young})
        assert old not in sessions(db)

    def test_the_oldest_first_and_no_more_than_the_limit(self, db: Database) -> None:
        by_age = [old_session(db, by=f"{days} days") for days in (40, 70, 50, 60)]
        assert (clean(db, p_limit=0), clean(db, p_limit=3)) == (0, 3)
        assert sessions(db) == {by_age[0]}
        assert (clean(db, p_limit=3), sessions(db)) == (1, set())

    def test_a_session_that_another_transaction_holds_is_left_for_the_next_call(self, db: Database) -> None:
        held, free = old_session(db), old_session(db)
        with psycopg.connect(db.url()) as other:
            other.execute("select from public.payment_checkout_sessions where id = %s for no key update", [held])
            assert (clean(db), sessions(db)) == (1, {held})
        assert free not in sessions(db)
        assert (clean(db), sessions(db)) == (1, set())


class TestWhatStays:
    def test_everything_else_that_the_session_left_behind(self, db: Database) -> None:
        user = db.new_user()
        db.sql("insert into payments.coupons (id, percent_off, max_redemptions) values ('HALF', 50, 1)")
        paid = db.new_session(user, "credits_100", p_coupon="HALF", p_email="a@b.test")
        db.apply(db.open_attempt(paid), event="evt_1")
        refund(db, paid, 100)
        db.complete(db.new_session(user, "pro_month"), p_provider_payment_id="pi_pro")
        for row in db.sql("select id from public.payment_checkout_sessions"):
            move_back(db, row["id"], "90 days")
        before = db.everything()
        assert clean(db) == 2
        after = db.everything()
        assert after.pop("payment_checkout_sessions") == []
        del before["payment_checkout_sessions"]
        assert after == before
        left = {table for table, rows in after.items() if rows}
        assert left >= {
            "payments.attempts", "payments.captures", "payments.session_events", "payments.webhook_events",
            "payments.coupon_redemptions", "payments.credit_clawbacks", "payments.subscription_periods",
            "payments.notifications", "payment_refunds", "payment_invoices", "payment_credit_entries",
            "payment_credit_balances", "payment_subscriptions",
        }  # fmt: skip

    def test_a_group_and_its_members(self, db: Database) -> None:
        db.new_product("pool_monthly", "contribution", USD=1000)
        terms = {"capacity": 3, "contribution_product": "pool_monthly", "cycle": "1 month"}
        db.new_product("pool", "group_create", terms, USD=200)
        user = db.new_user()
        founding = db.new_session(user, "pool")
        db.complete(founding, p_provider_payment_id="pi_1")
        group = move_back(db, founding, "90 days")
        assert clean(db) == 1
        members = db.as_user(user).sql("select group_id, position, status from public.payment_group_members")
        assert members == [{"group_id": group, "position": 1, "status": "active"}]
        assert db.sql("select id, status from public.payment_groups") == [{"id": group, "status": "open"}]
        # the group goes on: its founder pays the first cycle
        cycle = db.new_session(user, "pool_monthly", p_subject=f"{group}:1")
        assert db.complete(cycle, p_provider_payment_id="pi_2")["fulfilment"]["cycle"] == 1
        assert clean(db) == 0

    def test_a_coupon_stays_used_up(self, db: Database) -> None:
        user = db.new_user()
        db.sql("insert into payments.coupons (id, percent_off, max_redemptions_per_user) values ('HALF', 50, 1)")
        old_session(db, user_id=user, p_coupon="HALF")
        assert clean(db) == 1
        with refused("PT409", "coupon_exhausted"):
            db.new_session(user, p_coupon="HALF")


class TestAfterwards:
    def test_late_money_for_a_removed_session_is_kept(self, db: Database) -> None:
        session_id = db.new_session()
        attempt = db.open_attempt(session_id)
        db.close(session_id)
        session_id = move_back(db, session_id, "90 days")
        assert clean(db) == 1
        answer = db.apply(attempt, event="evt_1", provider_payment_id="pi_late")
        assert answer == {"session_id": str(session_id), "review_reason": "session_deleted", "duplicate": False}
        captures = [(c["provider_payment_id"], c["amount"], c["disposition"]) for c in db.captures(session_id)]
        assert captures == [("pi_late", 500, "orphaned")]
        assert clean(db) == 0

    @pytest.mark.parametrize("payment", ["pi_1", "cs_1"])
    def test_the_same_money_again_changes_nothing(self, db: Database, payment: str) -> None:
        session_id = db.new_session()
        attempt = db.open_attempt(session_id, "cs_1")
        db.complete(session_id, p_provider_session_id="cs_1", p_provider_payment_id=payment)
        move_back(db, session_id, "90 days")
        assert clean(db) == 1
        before = db.everything()
        db.apply(attempt, provider_payment_id="pi_1")
        assert db.everything() == before

    def test_a_refund_of_a_removed_session_is_kept(self, db: Database) -> None:
        session_id = db.new_session()
        attempt = db.open_attempt(session_id)
        db.apply(attempt, provider_payment_id="pi_1")
        session_id = move_back(db, session_id, "90 days")
        assert clean(db) == 1
        said = [{"provider_refund_id": "re_1", "amount": 500, "status": "succeeded"}]
        db.apply(attempt, provider_payment_id="pi_1", refunds=said)
        refunds = db.sql("select session_id, amount, currency, status from public.payment_refunds")
        assert refunds == [{"session_id": session_id, "amount": 500, "currency": "USD", "status": "succeeded"}]
        assert clean(db) == 0

    def test_the_removed_session_is_unknown_and_its_purchase_can_be_made_again(self, db: Database) -> None:
        user = db.new_user()
        gone = old_session(db, user_id=user, p_idempotency_key="k")
        assert clean(db) == 1
        with refused("PT404", "session_not_found"):
            db.complete(gone, p_provider_payment_id="pi_2")
        again = db.new_session(user, p_idempotency_key="k")
        db.complete(again, p_provider_payment_id="pi_2")
        assert (db.balance(user), clean(db)) == (200, 0)

    def test_money_that_comes_while_its_session_is_being_removed_is_kept(self, db: Database) -> None:
        session_id = db.new_session()
        attempt = db.open_attempt(session_id)
        db.close(session_id)
        session_id = move_back(db, session_id, "90 days")
        with db.as_service().request() as cleaner:
            assert call(cleaner, FUNCTION, p_older_than="30 days") == 1
            paying = start_and_see_it_wait(db, partial(db.apply, attempt, event="evt_1", provider_payment_id="pi_late"))
        with refused("PT404", "session_not_found"):
            paying.result(WAIT)
        # the provider sends it again
        db.apply(attempt, event="evt_1", provider_payment_id="pi_late")
        assert [c["disposition"] for c in db.captures(session_id)] == ["orphaned"]


class TestWhoAndHow:
    def test_only_the_service_may_clean_up(self, db: Database) -> None:
        session_id = old_session(db)
        for caller in (db.as_user(db.session(session_id)["user_id"]), db.as_anon()):
            with refused("42501"):
                caller.rpc(FUNCTION)
        assert sessions(db) == {session_id}

    @pytest.mark.parametrize("younger", ["23:59:59", "0", "-90 days"])
    def test_less_than_a_day_is_refused(self, db: Database, younger: str) -> None:
        session_id = old_session(db)
        with refused("PT422", "invalid_input"):
            db.as_service().rpc(FUNCTION, p_older_than=younger)
        assert sessions(db) == {session_id}

    def test_it_reads_no_more_than_the_old_end_of_the_table(self, db: Database) -> None:
        many_sessions(db, 50_000)
        with db.as_service().request() as caller:
            counts = [call(caller, FUNCTION, p_older_than="499 days", p_limit=limit) for limit in (10, 10_000) * 4]
            read = rows_read(caller)
        assert counts[0] == 10
        assert 50 < sum(counts) < 200  # 100 a day
        assert (read["seq_scan"], read["seq_tup_read"]) == (0, 0)
        assert read["idx_tup_fetch"] < 2_000


def many_sessions(db: Database, number: int) -> None:
    """Closed sessions of one user, 100 a day until now."""
    db.sql(
        """
        insert into public.payment_checkout_sessions (
            id, user_id, product_id, kind, terms, provider, currency, original_amount, amount, status,
            created_at, updated_at, expires_at
        )
        select
            (left(payments.first_id_at(made.at)::text, 13) || right(gen_random_uuid()::text, 23))::uuid,
            %s, 'credits_100', 'credits', '{"credits": 100}', 'stripe', 'USD', 500, 500, 'expired',
            made.at, made.at, made.at
        from generate_series(1, %s) as n, lateral (select now() - n * interval '864 seconds' as at) as made
        """,
        db.new_user(), number,
    )  # fmt: skip
    db.sql("analyze public.payment_checkout_sessions")


def rows_read(connection: psycopg.Connection[Row]) -> Row:
    """What the open transaction has read of the sessions so far, by table scan and by index."""
    row = connection.execute(
        "select seq_scan, seq_tup_read, idx_scan, idx_tup_fetch from pg_stat_xact_user_tables"
        " where relid = 'public.payment_checkout_sessions'::regclass"
    ).fetchone()
    assert row
    return row
