"""check_payment_invariants: silent about what the engine did, and loud about what a hand or a restore broke."""

from __future__ import annotations

import re
import uuid
from dataclasses import dataclass

import psycopg
import pytest

from bridge.local.postgres import SUPERUSER
from tests.support.database import Database, Row, refused

FUNCTION = "check_payment_invariants"
SUBSCRIPTION, CREDITS, POSTER, CIRCLE = "pro_month", "credits_100", "poster", "circle"


def broken(db: Database) -> list[Row]:
    rows = db.as_service().rpc(FUNCTION)
    assert isinstance(rows, list)
    return rows


def meddle(db: Database, statements: str, parameters: Row) -> None:
    """What no role of the platform may do: a superuser, with triggers and foreign keys out of the way."""
    with psycopg.connect(db.url(SUPERUSER)) as connection:
        connection.execute("set session_replication_role = replica")
        for statement in statements.split(";"):
            connection.execute(statement.encode(), parameters)


def busy_database(db: Database) -> None:
    """Everything that happens to payments, good and bad, through the doors of the engine."""
    service = db.as_service()
    db.new_product(POSTER, USD=900)
    for _ in range(2):
        user = db.new_user()
        for plan in (CREDITS, "credits_500", SUBSCRIPTION, SUBSCRIPTION, POSTER):
            db.apply(db.open_attempt(db.new_session(user, plan)))
        service.rpc("spend_credits", p_user_id=user, p_amount=600, p_reason="all of it", p_idempotency_key="k")
        odd_money: list[Row] = [{"amount": 9999}, {"amount": 1}, {"currency": "EUR"}]
        for money in odd_money:
            db.apply(db.open_attempt(db.new_session(user, POSTER, p_subject=str(money))), **money)
        twice = db.open_attempt(db.new_session(user, p_subject="paid twice on one page"))
        for payment in ("a", "b"):
            db.apply(twice, provider_payment_id=f"pi_{twice['number']}_{payment}")
        late = db.open_attempt(db.new_session(user, p_subject="late"))
        db.close(late["session_id"])
        db.new_session(user, p_subject="late")
        db.apply(late)
        assumed = db.new_session(user, p_subject="by its page")
        db.complete(assumed, p_stripe_session_id=db.open_attempt(assumed)["provider_session_id"])
        for word in ("processing", "failed", "expired", "cancelled"):
            db.apply(db.open_attempt(db.new_session(user, p_subject=word)), word)
        db.open_attempt(db.new_session(user, p_subject="not paid yet"))
    db.break_fulfilment("credits")
    for _ in range(2):
        undelivered = db.new_session(user, p_subject="undelivered")
        db.apply(db.open_attempt(undelivered))
    db.mend_fulfilment("credits")
    service.rpc("retry_fulfilment", p_session_id=undelivered)
    gone = db.new_user()
    orphan = db.open_attempt(db.new_session(gone))
    db.apply(db.open_attempt(db.new_session(gone, "credits_500")))
    db.apply(db.open_attempt(db.new_session(gone, SUBSCRIPTION)))
    db.sql("delete from auth.users where id = %s", gone)
    db.apply(orphan)


def test_a_busy_database_is_healthy(db: Database) -> None:
    busy_database(db)
    states = "select distinct status || ' ' || fulfilment_status as state from public.payment_checkout_sessions"
    assert {row["state"] for row in db.sql(states)} == {
        "pending none", "processing none", "completed fulfilled", "completed failed", "failed none", "expired none",
        "cancelled none",
    }  # fmt: skip
    assert {row["disposition"] for row in db.sql("select disposition from payments.captures")} == {
        "settled", "duplicate", "amount_mismatch", "currency_mismatch", "orphaned"
    }  # fmt: skip
    assert broken(db) == []


def test_an_empty_database_is_healthy(db: Database) -> None:
    assert broken(db) == []


def test_it_is_for_the_service_only(db: Database, user: uuid.UUID) -> None:
    for caller in (db.as_user(user), db.as_anon()):
        with refused("42501"):
            caller.rpc(FUNCTION)


@dataclass(frozen=True)
class Damage:
    """How an invariant is broken for a session that was paid (or is still open), and what is said of it."""

    invariant: str
    detail: str
    statements: str
    plan: str = POSTER
    subject: str = "session_id"
    still_open: bool = False
    coupon: bool = False


SESSION = "update public.payment_checkout_sessions set {} where id = %(session_id)s"
CAPTURE = "update payments.captures set {} where session_id = %(session_id)s"
ENTRY = "{} public.payment_credit_entries where source = %(session_id)s"
BALANCE = "update public.payment_credit_balances set balance = balance {} where user_id = %(user_id)s"
NEW_CAPTURE = (
    "insert into payments.captures"
    " (provider, provider_payment_id, session_id, amount, currency, disposition, paid_at, created_at)"
    " values ('stripe', 'pi_extra', %(session_id)s, 900, 'USD', 'settled', now(), now())"
)
DAMAGES = {
    "two open sessions of one purchase": Damage(
        "one_open_session_per_purchase",
        POSTER,
        "drop index public.payment_checkout_sessions_one_open_per_purchase;"
        "insert into public.payment_checkout_sessions select (jsonb_populate_record(s, jsonb_build_object('id',"
        " gen_random_uuid()))).* from public.payment_checkout_sessions as s where id = %(session_id)s",
        subject="user_id",
        still_open=True,
    ),
    "a payment without its capture": Damage(
        "paid_session_has_one_settled_capture",
        "0 settled captures",
        "delete from payments.captures where session_id = %(session_id)s",
    ),
    "a payment whose capture counts for nothing": Damage(
        "paid_session_has_one_settled_capture", "0 settled captures", CAPTURE.format("disposition = 'orphaned'")
    ),
    "a payment with two captures": Damage(
        "paid_session_has_one_settled_capture",
        "2 settled captures",
        f"drop index payments.captures_one_settles_a_session; {NEW_CAPTURE}",
    ),
    "money of a session that is not paid": Damage(
        "settled_capture_completes_its_session", "stripe pi_extra", NEW_CAPTURE, still_open=True
    ),
    "too little money": Damage(
        "settled_capture_pays_the_price", "900 USD due, 899 USD captured", CAPTURE.format("amount = 899")
    ),
    "money of another currency": Damage(
        "settled_capture_pays_the_price", "900 USD due, 900 EUR captured", CAPTURE.format("currency = 'EUR'")
    ),
    "goods that were never given": Damage(
        "money_without_goods_is_in_review", "none", SESSION.format("fulfilment_status = 'none'")
    ),
    "goods that could not be given and nobody looks": Damage(
        "money_without_goods_is_in_review", "failed", SESSION.format("fulfilment_status = 'failed'")
    ),
    "fulfilled without an entry": Damage(
        "credits_are_granted_once_per_paid_session",
        "0 entries",
        f"{ENTRY.format('delete from')}; {BALANCE.format('- 100')}",
        CREDITS,
    ),
    "fulfilled with two entries": Damage(
        "credits_are_granted_once_per_paid_session",
        "2 entries",
        "alter table public.payment_credit_entries"
        " drop constraint payment_credit_entries_one_per_reason_and_source;"
        "insert into public.payment_credit_entries (user_id, amount, reason, source, created_at)"
        f" {ENTRY.format('select user_id, amount, reason, source, now() from')}; {BALANCE.format('+ 100')}",
        CREDITS,
    ),
    "credits for goods that failed": Damage(
        "credits_are_granted_for_fulfilled_sessions_only",
        "failed",
        SESSION.format("fulfilment = null, fulfilment_status = 'failed', review_reason = 'fulfilment_failed'"),
        CREDITS,
    ),
    "a balance that was edited": Damage(
        "balance_is_the_sum_of_entries",
        "balance 101, entries 100",
        BALANCE.format("+ 1"),
        CREDITS,
        subject="user_id",
    ),
    "a balance without entries": Damage(
        "balance_is_the_sum_of_entries",
        "balance 7, entries 0",
        "insert into public.payment_credit_balances values (%(user_id)s, 7, now())",
        subject="user_id",
    ),
    "entries without a balance": Damage(
        "entries_have_a_balance",
        "entries 100",
        "delete from public.payment_credit_balances where user_id = %(user_id)s",
        CREDITS,
        subject="user_id",
    ),
    "a subscription that ends later than was paid for": Damage(
        "subscription_covers_its_periods",
        "pro",
        "update public.payment_subscriptions set ends_at = ends_at + interval '1 day' where user_id = %(user_id)s",
        SUBSCRIPTION,
        subject="user_id",
    ),
    "a subscription that ends too early": Damage(
        "subscription_covers_its_periods",
        "pro",
        "update public.payment_subscriptions set ends_at = ends_at - interval '1 s' where user_id = %(user_id)s",
        SUBSCRIPTION,
        subject="user_id",
    ),
    "a subscription that was lost": Damage(
        "subscription_covers_its_periods",
        "pro",
        "delete from public.payment_subscriptions where user_id = %(user_id)s",
        SUBSCRIPTION,
        subject="user_id",
    ),
    "credits for another user": Damage(
        "credits_are_granted_once_per_paid_session",
        "0 entries",
        f"{ENTRY.format('delete from')}; {BALANCE.format('- 100')}; insert into public.payment_credit_entries"
        " (user_id, amount, reason, source, created_at) values (gen_random_uuid(), 100, 'purchase', %(session_id)s,"
        " now())",
        CREDITS,
    ),
    "more credits than were bought": Damage(
        "credits_are_granted_once_per_paid_session",
        "0 entries",
        f"{ENTRY.format('update')[: -len(' where source = %(session_id)s')]} set amount = 101"
        f" where source = %(session_id)s; {BALANCE.format('+ 1')}",
        CREDITS,
    ),
    "a clawback without its entry": Damage(
        "clawbacks_match_their_entries",
        "taken 5, entries 0",
        "insert into payments.credit_clawbacks values (%(session_id)s, %(user_id)s, 5, 5, 1, now())",
    ),
    "a second payment that nobody flagged": Damage(
        "unsettled_money_was_flagged", "duplicate", NEW_CAPTURE.replace("'settled'", "'duplicate'")
    ),
    "the wrong money that nobody flagged": Damage(
        "unsettled_money_was_flagged", "amount_mismatch", NEW_CAPTURE.replace("'settled'", "'amount_mismatch'")
    ),
    "a subscription without its period": Damage(
        "fulfilled_subscription_has_a_period",
        "pro",
        "delete from payments.subscription_periods where session_id = %(session_id)s;"
        "delete from public.payment_subscriptions where user_id = %(user_id)s",
        SUBSCRIPTION,
    ),
    "more members than places": Damage(
        "group_is_within_its_capacity",
        "2 of 1",
        "insert into public.payment_group_members values"
        " (%(session_id)s, gen_random_uuid(), 2, 'active', gen_random_uuid(), 0, 'USD', now(), now());"
        "update public.payment_groups set capacity = 1 where id = %(session_id)s",
        CIRCLE,
    ),
    "a slot that does not exist": Damage(
        "group_is_within_its_capacity",
        "1 of 2",
        "update public.payment_group_members set position = 3 where group_id = %(session_id)s;"
        "update public.payment_groups set capacity = 2 where id = %(session_id)s",
        CIRCLE,
    ),
    "a member who lost the slot": Damage(
        "fulfilled_member_holds_a_slot",
        "group_create",
        "delete from public.payment_group_members where group_id = %(session_id)s",
        CIRCLE,
    ),
    "a contribution that was lost": Damage(
        "fulfilled_contribution_is_paid",
        "the first",
        SESSION.format("kind = 'contribution', subject = 'the first'"),
    ),
    "a coupon that miscounts": Damage(
        "coupon_counts_its_places",
        "2 counted, 1 held",
        "update payments.coupons set places_taken = 2",
        coupon=True,
        subject="coupon_id",
    ),
    "a coupon used more often than allowed": Damage(
        "coupon_is_within_its_cap_per_user",
        "user_id",
        "insert into payments.coupon_redemptions values (gen_random_uuid(), 'WELCOME', %(user_id)s, 'confirmed', true,"
        " false, now(), now());"
        "update payments.coupons set places_taken = 2",
        coupon=True,
        subject="coupon_id",
    ),
    "an open session without its place": Damage(
        "open_session_holds_its_coupon_place",
        "WELCOME",
        "update payments.coupon_redemptions set status = 'released' where session_id = %(session_id)s",
        coupon=True,
        still_open=True,
    ),
    "a discount that was not redeemed": Damage(
        "paid_session_has_redeemed_its_coupon",
        "WELCOME",
        "update payments.coupon_redemptions set status = 'reserved' where session_id = %(session_id)s",
        coupon=True,
    ),
    "a place that nobody gave up": Damage(
        "closed_session_reserves_no_coupon",
        "WELCOME",
        SESSION.format("status = 'expired'"),
        coupon=True,
        still_open=True,
    ),
    "a refund that was not added up": Damage(
        "refunded_amount_is_what_refunds_add_up_to",
        "0 stated, 1 refunded",
        "insert into public.payment_refunds values ('stripe', 're_1', %(session_id)s, %(user_id)s, null, 'refund', 1,"
        " 'USD', 'succeeded', null, now(), now())",
    ),
    "a status that forgot a refund": Damage(
        "status_follows_the_refunded_amount",
        "refunded, 0 of 900",
        SESSION.format("status = 'refunded', fulfilment_status = 'reversed'"),
    ),
    "goods that were taken for nothing": Damage(
        "refunded_purchase_is_taken_back", "reversed", SESSION.format("fulfilment_status = 'reversed'")
    ),
    "a purchase without an invoice": Damage(
        "documents_add_up_to_what_was_kept",
        "900 kept",
        "delete from public.payment_invoices where session_id = %(session_id)s;"
        "update payments.invoice_counters set last_number = 1",
    ),
    "a gap in the invoices": Damage(
        "document_numbers_have_no_gaps",
        "2 documents, last 3",
        "update public.payment_invoices set number = 3 where session_id = %(session_id)s",
        subject="series",
    ),
    "a completion that nobody wrote down": Damage(
        "completion_is_in_the_audit_trail",
        "completed",
        "delete from payments.session_events where session_id = %(session_id)s",
    ),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_what_is_broken_is_named_and_nothing_else(db: Database, user: uuid.UUID, name: str) -> None:
    damage = DAMAGES[name]
    db.new_product(POSTER, USD=900)
    db.new_product("contribution", "contribution", USD=100)
    terms = {"capacity": 9, "contribution_product": "contribution", "cycle": "1 week"}
    db.new_product(CIRCLE, "group_create", terms, USD=900)
    db.sql("insert into payments.coupons (id, percent_off, max_redemptions_per_user) values ('WELCOME', 10, 1)")
    db.apply(db.open_attempt(db.new_session(plan=damage.plan)))  # another buyer, who is well
    session_id = db.new_session(user, damage.plan, **({"p_coupon": "WELCOME"} if damage.coupon else {}))
    attempt = db.open_attempt(session_id)
    if not damage.still_open:
        db.apply(attempt)
    assert broken(db) == []
    year = db.value("select extract(year from now() at time zone 'UTC')::int")
    names = {
        "session_id": str(session_id), "user_id": str(user), "coupon_id": "WELCOME", "series": f"INV-{year}"
    }  # fmt: skip
    meddle(db, damage.statements, names)
    assert {(row["invariant"], row["subject"], row["detail"]) for row in broken(db)} == {
        (damage.invariant, names[damage.subject], names.get(damage.detail, damage.detail))
    }


def test_every_invariant_is_broken_by_a_test(db: Database) -> None:
    source = db.value("select string_agg(prosrc, '') from pg_proc where proname like 'broken%%rules'")
    assert set(re.findall(r"select\s+'(\w+)'", source)) == {damage.invariant for damage in DAMAGES.values()}


def test_what_a_person_is_looking_at_already_is_not_reported_again(db: Database) -> None:
    session_id = db.new_session()
    db.apply(db.open_attempt(session_id))
    meddle(db, CAPTURE.format("amount = 1"), {"session_id": session_id})
    assert [row["invariant"] for row in broken(db)] == ["settled_capture_pays_the_price"]
    db.sql("update public.payment_checkout_sessions set review_reason = 'amount_mismatch' where id = %s", session_id)
    assert broken(db) == []


def test_documents_that_wait_for_their_number_are_read_once_however_many_sessions_there_are(db: Database) -> None:
    db.apply(db.open_attempt(db.new_session()))
    with psycopg.connect(db.url()) as holder:
        holder.execute("select from payments.invoice_counters for update")
        for _ in range(6):
            db.apply(db.open_attempt(db.new_session()))
    with db.as_service().request() as connection:
        connection.execute(f"select * from public.{FUNCTION}()".encode())
        (read,) = connection.execute(
            "select seq_tup_read as rows from pg_stat_xact_user_tables"
            " where relid = 'payments.unnumbered_invoices'::regclass"
        )
    assert read["rows"] == 6
