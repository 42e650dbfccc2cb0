"""On a shop with a past (200,000 sessions) no call reads a whole table, nor an index beyond the rows it needs.

Counted by Postgres itself, through all functions that a call runs through; no time is measured.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest

from bridge.local.postgres import SUPERUSER, LocalPostgres
from bridge.migrations import migrate, seed_file
from tests.support.database import REPOSITORY, Database, Row, apply_files

SESSIONS = 200_000
# one row each, or as many as a shop has products: reading them whole is right
SMALL = (
    "settings", "payment_products", "payment_prices", "fulfilment_handlers", "heartbeats", "invoice_counters",
    "coupons", "alerts",
)  # fmt: skip


@dataclass(frozen=True)
class Shop:
    """The filled database, and the last purchase in it."""

    db: Database

    def reads_of(self, query: str, *parameters: Any, user: object = None) -> tuple[set[str], dict[str, int]]:
        """What one call reads: tables from end to end, and rows per index."""
        self.forget_the_dead()
        self.db_admin("select pg_stat_reset()")
        actor = self.db.as_user(user) if user else self.db.as_service()  # type: ignore[arg-type]
        actor.sql(query, *parameters)
        return self.reads()

    def forget_the_dead(self) -> None:
        """Remove what earlier tests left: Postgres counts index entries of dead rows as read, too."""
        with psycopg.connect(self.db.url(SUPERUSER), autocommit=True) as connection:
            connection.execute("vacuum (index_cleanup on)")

    def reads(self) -> tuple[set[str], dict[str, int]]:
        """What was read since the last reset."""
        for _ in range(200):  # the backend reports when it ends
            if self.db_admin("select 1 from pg_stat_user_tables where seq_scan + coalesce(idx_scan, 0) > 0 limit 1"):
                break
            time.sleep(0.02)
        tables = self.db_admin(
            "select relname from pg_stat_user_tables where seq_scan > 0 and relname <> all(%s)", list(SMALL)
        )
        indexes = self.db_admin(
            "select indexrelname, idx_tup_read from pg_stat_user_indexes where idx_scan > 0 and relname <> all(%s)",
            list(SMALL),
        )
        return {row["relname"] for row in tables}, {row["indexrelname"]: row["idx_tup_read"] for row in indexes}

    def db_admin(self, query: str, *parameters: Any) -> list[Row]:
        with psycopg.connect(self.db.url(SUPERUSER), row_factory=psycopg.rows.dict_row) as connection:
            cursor = connection.execute(query.encode(), parameters or None)
            return cursor.fetchall() if cursor.description else []


@pytest.fixture(scope="module")
def shop(server: LocalPostgres) -> Iterator[Shop]:
    url = server.create_look_alike("a_shop_with_a_past")
    migrate(url)
    apply_files(url, [seed_file()])
    shop = Shop(Database("127.0.0.1", server.port, "a_shop_with_a_past"))
    shop.db_admin((REPOSITORY / "tests/bench/fill.sql").read_text())
    shop.db_admin(f"call bench.fill({SESSIONS})")
    with psycopg.connect(shop.db.url(SUPERUSER), autocommit=True) as connection:
        connection.execute("vacuum analyze")
    yield shop
    with psycopg.connect(server.url(user=SUPERUSER), autocommit=True) as connection:
        connection.execute("drop database a_shop_with_a_past with (force)")


BUYER = "md5('buyer 10')::uuid"
OUTCOME = (
    "select public.apply_payment_outcome(jsonb_build_object('provider', 'stripe', 'reference', '{reference}')"
    " || '{{SAID}}', jsonb_build_object('id', gen_random_uuid(), 'type', 't', 'payload', '{{}}'::jsonb))"
)
PAID = OUTCOME.replace(
    "SAID", '"status": "completed", "provider_payment_id": "pi_{number}", "amount": 500, "currency": "USD"'
)
REFUNDED = OUTCOME.replace(
    "SAID",
    '"refunds": [{{"provider_refund_id": "re_{number}", "amount": 200, "currency": "USD", "status": "succeeded"}}]',
)

# call -> (statement, an index that it must use, rows that it may read through any one index)
CALLS = {
    "create": (
        "select public.get_or_create_checkout_session('credits_500', '{user}')",
        "payment_checkout_sessions_one_open_per_purchase",
        5,
    ),
    "reuse": (
        "select public.get_or_create_checkout_session('credits_100', '{user}')",
        "payment_checkout_sessions_one_open_per_purchase",
        5,
    ),
    "latest": ("select public.get_latest_checkout_session('{user}')", "payment_checkout_sessions_by_user", 2),
    "open": ("select public.open_checkout_attempt('{session}')", "attempts_pkey", 5),
    "attach": (
        "select public.attach_checkout_attempt({number}, 'cs_{number}', 'https://pay.test')",
        "attempts_pkey",
        5,
    ),
    "find by reference": (
        "select public.find_checkout_attempt(p_reference => '{reference}')",
        "attempts_reference_is_unique",
        5,
    ),
    "find by page": (
        "select public.find_checkout_attempt(p_provider => 'stripe', p_provider_session_id => 'cs_{number}')",
        "attempts_one_per_provider_session",
        5,
    ),
    "outcome": (PAID, "attempts_reference_is_unique", 12),
    "the same money again": (PAID, "captures_pkey", 5),
    "complete": (
        "select public.complete_checkout_session('{session}', p_provider_payment_id => 'pi_{number}')",
        "captures_pkey",
        12,
    ),
    "refund": (REFUNDED, "captures_one_settles_a_session", 20),
    "cancel": ("select public.cancel_checkout_session('{session}')", "payment_checkout_sessions_pkey", 12),
    "fail": ("select public.fail_checkout_session('{session}', 'x', 'y')", "payment_checkout_sessions_pkey", 12),
    "spend": ("select public.spend_credits({buyer}, 1, 'r', 'k')", "payment_credit_balances_pkey", 5),
    "expire": ("select public.expire_old_checkout_sessions()", "payment_checkout_sessions_due", 5),
    "reconcile": ("select public.claim_sessions_to_reconcile(20)", "attempts_to_reconcile", 5),
    "notify": ("select public.claim_notifications(20)", "notifications_due", 5),
    "failures": ("select public.list_webhook_failures()", "webhook_events_not_handled", 5),
    "story": ("select public.checkout_session_story('{session}')", "webhook_events_by_session", 5),
    "list": ("select public.list_checkout_sessions(p_limit => 5)", "payment_checkout_sessions_pkey", 6),
    "list from there": (
        "select public.list_checkout_sessions(p_before => '{session}', p_limit => 5)",
        "payment_checkout_sessions_pkey",
        7,
    ),
    "list the latest": (
        # since so short a time that the tests before have made few
        "select public.list_checkout_sessions(p_provider => 'none', p_since => now() - interval '10 ms')",
        "payment_checkout_sessions_pkey",
        20,
    ),
    "list paid": (
        "select public.list_checkout_sessions('completed', p_limit => 2)",
        "payment_checkout_sessions_pkey",
        40,
    ),
    "list refunded": (
        "select public.list_checkout_sessions('refunded')",
        "payment_checkout_sessions_by_ending",
        5,
    ),
    "list reviews": (
        "select public.list_checkout_sessions(p_in_review => true)",
        "payment_checkout_sessions_in_review",
        5,
    ),
    "list of a user": (
        "select public.list_checkout_sessions(p_user_id => {buyer})",
        "payment_checkout_sessions_by_user",
        5,
    ),
    "forget keys": ("select public.cleanup_idempotency_keys()", "idempotency_keys_by_age", 5),
}


@pytest.mark.parametrize("call", CALLS)
def test_a_call_reads_the_rows_that_it_needs(shop: Shop, call: str) -> None:
    statement, index, limit = CALLS[call]
    user = shop.db.new_user()
    session = shop.db.new_session(user)
    attempt = shop.db.open_attempt(session)
    if call in ("the same money again", "refund", "story"):
        shop.db.apply(attempt)
    whole_tables, rows = shop.reads_of(
        statement.format(
            user=user, session=session, number=attempt["number"], reference=attempt["reference"], buyer=BUYER
        )
    )
    assert not whole_tables
    assert index in rows
    assert max(rows.values()) <= limit, rows


@pytest.mark.parametrize(
    "query",
    [
        "select * from public.payment_history()",
        "select public.payment_stats()",
        "select * from public.payment_checkout_sessions",
        "select * from public.payment_invoices",
        "select * from public.payment_credit_entries",
        "select * from public.payment_refunds",
    ],
)
def test_a_user_reads_no_row_of_others(shop: Shop, query: str) -> None:
    (buyer,) = shop.db.sql(f"select {BUYER} as id")
    whole_tables, rows = shop.reads_of(query, user=buyer["id"])
    assert not whole_tables
    assert max(rows.values()) <= 10, rows


def test_a_purge_reads_what_it_deletes(shop: Shop) -> None:
    """The last test: the oldest of 90 days leaves, in batches by which Postgres has settled on a plan."""
    shop.db_admin(
        "update payments.settings set session_retention = '89 days', webhook_retention = '89 days',"
        " audit_retention = '89 days', idempotency_retention = '23 hours'"
    )
    deleted: dict[str, int] = {}
    shop.db_admin("select pg_stat_reset()")
    with psycopg.connect(shop.db.url(), autocommit=True) as purger:
        # as where it matters; index entries of what is gone are passed over once its commit is on disk
        purger.execute("set synchronous_commit = on")
        while (row := purger.execute("select public.purge_old_payment_data(100)").fetchone()) and sum(row[0].values()):
            deleted = {kind: deleted.get(kind, 0) + rows for kind, rows in row[0].items()}
    whole_tables, rows = shop.reads()
    assert min(deleted[kind] for kind in deleted if kind != "alerts") > 90
    assert whole_tables <= {"idempotency_keys"}  # those of a day, on a few pages
    # found, deleted by its key, and met once more by the next batch and by those who ask whether it is there
    for index, kind in {
        "payment_checkout_sessions_pkey": "sessions",
        "notifications_one_per_session_kind_and_occurrence": "notifications",
        "webhook_events_by_session": "webhook_events",
        "session_events_pkey": "session_events",
    }.items():
        assert 0 < rows[index] <= 5 * deleted[kind] + 500, (index, rows, deleted)
    assert max(rows.values()) <= 5 * max(deleted.values()) + 500, (rows, deleted)
