"""What the database itself refuses, whoever asks: illegal transitions, changed history, impossible rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import psycopg
import pytest

from tests.support.database import Database, refused

if TYPE_CHECKING:
    import uuid

PAID = {"completed", "partially_refunded", "refunded"}

# docs/states.md, as a table: rows go from, columns go to
TRANSITIONS = {
    "pending": {"processing", "completed", "failed", "expired", "cancelled"},
    "processing": {"completed", "failed", "expired", "cancelled"},
    "failed": {"processing", "completed"},
    "expired": {"processing", "completed"},
    "cancelled": {"processing", "completed"},
    "completed": {"partially_refunded", "refunded"},
    "partially_refunded": {"refunded", "completed"},
    "refunded": {"partially_refunded", "completed"},
}


def insert_session(db: Database, status: str) -> uuid.UUID:
    """A row that was born in this state, which no function can make."""
    user = db.new_user()
    row = db.sql(
        "insert into public.payment_checkout_sessions (id, user_id, product_id, kind, terms, provider, currency,"
        " original_amount, amount, status, completed_at, created_at, updated_at, expires_at)"
        " values (gen_random_uuid(), %s, 'credits_100', 'credits', '{}', 'stripe', 'USD', 500, 500, %s,"
        " case when %s then now() end, now(), now(), now()) returning id",
        user, status, status in PAID,
    )  # fmt: skip
    session_id: uuid.UUID = row[0]["id"]
    return session_id


@pytest.mark.parametrize("old", TRANSITIONS)
def test_a_session_takes_the_allowed_ways_and_no_other(db: Database, old: str) -> None:
    taken = set()
    for new in TRANSITIONS:
        session_id = insert_session(db, old)
        change = (
            "update public.payment_checkout_sessions set status = %s, completed_at = case when %s then now() end"
            " where id = %s"
        )
        if new == old or new in TRANSITIONS[old]:
            db.sql(change, new, new in PAID, session_id)
            taken |= {new} - {old}
        else:
            with refused("PT409", "illegal_transition"):
                db.sql(change, new, new in PAID, session_id)
        assert db.session(session_id)["status"] == (new if new in taken else old)
    assert taken == TRANSITIONS[old]


def test_the_table_of_this_test_knows_every_state(db: Database) -> None:
    with pytest.raises(psycopg.IntegrityError, match="payment_checkout_sessions_status_is_known"):
        insert_session(db, "paid")
    for state in TRANSITIONS:
        insert_session(db, state)


@pytest.mark.parametrize(
    ("table", "verbs"),
    [
        ("payments.session_events", ("update", "delete", "truncate")),
        ("public.payment_credit_entries", ("update", "delete", "truncate")),
        ("payments.captures", ("delete", "truncate")),
    ],
)
def test_history_cannot_be_changed_even_by_its_owner(db: Database, table: str, verbs: tuple[str, ...]) -> None:
    db.apply(db.open_attempt(db.new_session()))
    statements = {
        "update": f"update {table} set created_at = now()",
        "delete": f"delete from {table}",
        "truncate": f"truncate {table}",
    }
    before = db.everything()
    for verb in verbs:
        with refused("PT409", "append_only"):
            db.sql(statements[verb])
    assert db.everything() == before
    assert before[table.removeprefix("public.")]


A_CAPTURE = "insert into payments.captures select 'click', '1', gen_random_uuid(), 1, null, "
SESSION = "update public.payment_checkout_sessions set "
A_PRODUCT = "insert into public.payment_products (id, kind, name, terms) values "
FORBIDDEN = {
    "payment_checkout_sessions_fulfilment_status_is_known": (
        SESSION + "status = 'completed', completed_at = now(), fulfilment_status = 'maybe'"
    ),
    "payment_checkout_sessions_fulfil_only_what_is_paid": SESSION + "fulfilment_status = 'fulfilled'",
    "payment_checkout_sessions_paid_ones_have_a_time": SESSION + "status = 'completed'",
    "payment_checkout_sessions_currency_is_an_iso_code": SESSION + "currency = 'usd'",
    "payment_checkout_sessions_amounts_add_up": SESSION + "amount = 499",
    "payment_checkout_sessions_refund_only_what_is_paid": SESSION + "refunded_amount = 501",
    "payment_checkout_sessions_store_the_attempt_before_its_page": SESSION + "checkout_url = 'https://pay.test'",
    "payment_checkout_sessions_texts_are_short": SESSION + "subject = repeat('s', 201)",
    "payment_checkout_sessions_one_open_per_purchase": (
        "insert into public.payment_checkout_sessions select (s).* from ("
        "select jsonb_populate_record(s, jsonb_build_object('id', gen_random_uuid(), 'status', 'processing')) as s"
        " from public.payment_checkout_sessions as s) as twin"
    ),
    "payment_checkout_sessions_one_per_idempotency_key": (
        "with keyed as (update public.payment_checkout_sessions set idempotency_key = 'k' returning *)"
        "insert into public.payment_checkout_sessions select (s).* from ("
        "select jsonb_populate_record(k::public.payment_checkout_sessions,"
        " jsonb_build_object('id', gen_random_uuid(), 'status', 'failed')) as s from keyed as k) as twin"
    ),
    "attempts_reference_is_unique": (
        "insert into payments.attempts (session_id, provider, reference, created_at, expires_at)"
        " select gen_random_uuid(), 'click', repeat('0', 32), now(), now() from generate_series(1, 2)"
    ),
    "attempts_one_per_provider_session": (
        "insert into payments.attempts (session_id, provider, provider_session_id, reference, created_at, expires_at)"
        " select gen_random_uuid(), 'click', 'page', n::text, now(), now() from generate_series(1, 2) as n"
    ),
    "attempts_status_is_known": (
        "insert into payments.attempts (session_id, provider, reference, status, created_at, expires_at)"
        " values (gen_random_uuid(), 'click', '0', 'paid', now(), now())"
    ),
    "captures_pkey": (A_CAPTURE + "5, 'USD', 'settled', now(), now() from generate_series(1, 2)"),
    "captures_one_settles_a_session": (
        "insert into payments.captures select 'click', n::text, '00000000-0000-0000-0000-000000000001', 1, null, 5,"
        " 'USD', 'settled', now(), now() from generate_series(1, 2) as n"
    ),
    "captures_amount_is_not_negative": (A_CAPTURE + "-5, 'USD', 'settled', now(), now()"),
    "captures_disposition_is_known": (A_CAPTURE + "5, 'USD', 'lost', now(), now()"),
    "webhook_events_handled_ones_have_a_time": (
        "insert into payments.webhook_events (provider, event_id, type, payload, status, received_at)"
        " values ('click', '1', 't', '{}', 'handled', now())"
    ),
    "payment_credit_balances_are_never_negative": (
        "insert into public.payment_credit_balances select id, -1, now() from auth.users"
    ),
    "payment_credit_entries_change_something": (
        "insert into public.payment_credit_entries (user_id, amount, reason, source, created_at)"
        " select id, 0, 'r', 's', now() from auth.users"
    ),
    "payment_credit_entries_one_per_reason_and_source": (
        "insert into public.payment_credit_entries (user_id, amount, reason, source, created_at)"
        " select id, n, 'r', 's', now() from auth.users, generate_series(1, 2) as n"
    ),
    "payment_subscriptions_end_after_they_start": (
        "insert into public.payment_subscriptions select id, 't', now(), now() - interval '1 s', now() from auth.users"
    ),
    "payment_prices_amount_is_positive": "update public.payment_prices set amount = 0",
    "payment_prices_currency_is_an_iso_code": "update public.payment_prices set currency = 'dollars'",
    "payment_prices_one_default_per_product": "update public.payment_prices set is_default = true",
    "payment_products_credits_are_a_positive_integer": A_PRODUCT + """('p', 'credits', 'P', '{"credits": -1}')""",
    "payment_products_subscription_names_tier_and_period": A_PRODUCT
    + """('p', 'subscription', 'P', '{"tier": "t"}')""",
    "payment_products_kind_fkey": A_PRODUCT + "('p', 'magic', 'P', '{}')",
    "settings_has_one_row": "insert into payments.settings (only_row) values (false)",
    "settings_session_ttl_is_30_minutes_or_more": "update payments.settings set session_ttl = '29 minutes'",
    "fulfilment_handlers_function_is_a_qualified_name": (
        "insert into payments.fulfilment_handlers values ('k', 'pg_sleep(9); select 1')"
    ),
}


@pytest.mark.parametrize("constraint", FORBIDDEN)
def test_each_guarding_constraint_refuses_what_it_forbids(db: Database, constraint: str) -> None:
    db.new_session()
    with pytest.raises(psycopg.IntegrityError) as caught:
        db.sql(FORBIDDEN[constraint])
    assert caught.value.diag.constraint_name == constraint


def test_the_audit_trail_captures_and_entries_outlive_the_user(db: Database) -> None:
    user = db.new_user()
    session_id = db.new_session(user)
    db.apply(db.open_attempt(session_id))
    db.sql("delete from auth.users where id = %s", user)
    assert db.sql("select 1 from public.payment_checkout_sessions where id = %s", session_id) == []
    assert (len(db.captures(session_id)), len(db.events(session_id)), db.entries(user)) == (1, 1, [100])
