"""A shop's past, made through the functions that really make one, then moved back in time."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from tests.sql.test_cleanup import move_back
from tests.support.database import Database

__all__ = ["Past", "day", "make_past"]

NOON = datetime.now(UTC).replace(hour=12, minute=0, second=0, microsecond=0)


@dataclass(frozen=True)
class Past:
    """Ids of the sessions that tests look at."""

    buyer: uuid.UUID
    refunded: uuid.UUID
    failed: uuid.UUID
    undelivered: uuid.UUID
    open: uuid.UUID


def day(days_ago: int) -> str:
    return f"{NOON - timedelta(days=days_ago):%Y-%m-%d}"


def at(db: Database, session_id: uuid.UUID, days_ago: int, minutes_to_pay: float = 4) -> uuid.UUID:
    """Let a session have been made at noon of a day, and paid so many minutes later if it is paid."""
    by = db.session(session_id)["created_at"] - (NOON - timedelta(days=days_ago))
    moved = move_back(db, session_id, f"{by.total_seconds()} seconds")
    db.sql(
        "update public.payment_checkout_sessions set completed_at = created_at + %s * interval '1 minute'"
        " where id = %s and completed_at is not null",
        minutes_to_pay, moved,
    )  # fmt: skip
    return moved


def bought(db: Database, user: uuid.UUID, plan: str = "credits_100", **arguments: str) -> uuid.UUID:
    """A session that the provider says, by webhook, was paid."""
    session_id = db.new_session(user, plan, **arguments)
    attempt = db.open_attempt(session_id, f"cs_{session_id}")
    db.apply(attempt, event=f"evt_{attempt['number']}")
    return session_id


def make_past(db: Database) -> Past:
    """Of the last days: 3 USD sales and one of NGN and JPY each, one undelivered, one failed, two open; one refund."""
    ann, bob, cid = db.new_user("ann@example.test"), db.new_user("bob@example.test"), db.new_user("cid@example.test")
    db.new_product("manga", JPY=1200)
    refunded = bought(db, ann, p_email="ann@example.test")
    db.as_service().rpc(
        "refund_checkout_session", p_session_id=refunded, p_provider_refund_id="re_1", p_amount=200,
        p_reason="asked by ann@example.test",
    )  # fmt: skip
    refunded = at(db, refunded, 3)
    at(db, bought(db, ann, "credits_100", p_provider="paystack", p_currency="NGN"), 3, minutes_to_pay=9)
    at(db, bought(db, bob, "pro_month"), 2)
    at(db, bought(db, cid, "manga"), 2)
    failed = db.new_session(bob, "credits_100", p_email="bob@example.test")
    first = db.as_service().rpc("open_checkout_attempt", p_session_id=failed)
    db.as_service().rpc("abandon_checkout_attempt", p_attempt=first["number"], p_error_code="provider_error")
    db.apply(db.open_attempt(failed, "cs_declined"), "failed", error_code="card_declined", error_message="Declined.")
    failed = at(db, failed, 1)
    db.break_fulfilment("credits")
    undelivered = bought(db, cid, "credits_500")
    db.mend_fulfilment("credits")
    at(db, db.new_session(bob, "pro_month"), 1)
    return Past(ann, refunded, failed, undelivered, db.new_session(cid, "credits_100"))
