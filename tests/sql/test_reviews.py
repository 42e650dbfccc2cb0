"""A person closes a review: with a word for the audit trail, and only the review that they have seen."""

from __future__ import annotations

import uuid
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest

from tests.support.database import Database, Row, refused


def reviews(db: Database) -> list[Row]:
    return db.sql("select session_id, review_reason from public.payment_open_reviews")


def audit(db: Database, session_id: uuid.UUID) -> list[Row]:
    return db.sql(
        "select reason, detail, source, from_status, to_status from payments.session_events"
        " where session_id = %s and source = 'admin' order by id",
        session_id,
    )


@pytest.fixture
def overpaid(db: Database) -> uuid.UUID:
    session_id = db.new_session()
    db.apply(db.open_attempt(session_id), amount=9999)
    return session_id


@pytest.fixture
def undelivered(db: Database) -> uuid.UUID:
    db.break_fulfilment("credits")
    session_id = db.new_session()
    db.apply(db.open_attempt(session_id))
    return session_id


def test_a_closed_review_is_gone_and_remembered(db: Database, overpaid: uuid.UUID) -> None:
    assert reviews(db) == [{"session_id": overpaid, "review_reason": "overpaid"}]
    before = db.session(overpaid)
    db.as_service().rpc("close_review", p_session_id=overpaid, p_note="Ann: the buyer keeps a credit")
    assert reviews(db) == []
    changed = {key: value for key, value in db.session(overpaid).items() if before[key] != value}
    assert changed.keys() == {"review_reason", "updated_at"}
    assert audit(db, overpaid) == [
        {
            "reason": "reviewed", "detail": "overpaid: Ann: the buyer keeps a credit", "source": "admin",
            "from_status": "completed", "to_status": "completed",
        }
    ]  # fmt: skip


def test_only_the_review_that_was_looked_at_is_closed(db: Database, overpaid: uuid.UUID) -> None:
    db.as_service().rpc(
        "refund_checkout_session", p_session_id=overpaid, p_provider_refund_id="re_1", p_amount=10**6
    )  # more than was paid: another reason
    with refused("PT409", "review_changed"):
        db.as_service().rpc("close_review", p_session_id=overpaid, p_note="seen", p_reasons="overpaid")
    (row,) = reviews(db)
    db.as_service().rpc("close_review", p_session_id=overpaid, p_note="seen", p_reasons=row["review_reason"])
    assert reviews(db) == []


def test_of_two_people_one_closes(db: Database, overpaid: uuid.UUID) -> None:
    def close(name: str) -> str:
        try:
            db.as_service().rpc("close_review", p_session_id=overpaid, p_note=name)
        except psycopg.Error as error:
            return error.diag.message_detail or ""
        return "closed"

    with ThreadPoolExecutor(2) as people:
        assert sorted(people.map(close, ("Ann", "Bob"))) == ["closed", "review_changed"]
    assert len(audit(db, overpaid)) == 1


def test_money_that_a_person_has_settled_breaks_no_guarantee(db: Database, undelivered: uuid.UUID) -> None:
    db.as_service().rpc("close_review", p_session_id=undelivered, p_note="Ann: delivered by hand")
    assert db.as_service().rpc("check_payment_invariants") == []
    # and without a person's word it still does
    other = db.new_session()
    db.apply(db.open_attempt(other))
    db.sql("update public.payment_checkout_sessions set review_reason = null where id = %s", other)
    assert [(row["invariant"], row["subject"]) for row in db.as_service().rpc("check_payment_invariants")] == [
        ("money_without_goods_is_in_review", str(other))
    ]


def test_a_dismissed_purchase_can_still_be_delivered(db: Database, undelivered: uuid.UUID) -> None:
    db.as_service().rpc("close_review", p_session_id=undelivered, p_note="Ann: wait for the buyer")
    db.mend_fulfilment("credits")
    answer = db.as_service().rpc("retry_fulfilment", p_session_id=undelivered)
    assert (answer["fulfilment_status"], answer["review_reason"]) == ("fulfilled", None)


def test_trouble_after_a_review_opens_a_new_one(db: Database, undelivered: uuid.UUID) -> None:
    db.as_service().rpc("close_review", p_session_id=undelivered, p_note="Ann: wait for the buyer")
    db.as_service().rpc("retry_fulfilment", p_session_id=undelivered)
    assert reviews(db) == [{"session_id": undelivered, "review_reason": "fulfilment_failed"}]


def test_a_note_changes_nothing_but_the_audit_trail(db: Database) -> None:
    session_id = db.new_session()
    before = db.session(session_id)
    db.as_service().rpc("add_session_note", p_session_id=session_id, p_note="Ann: called the buyer")
    assert db.session(session_id) == before
    assert [(row["reason"], row["detail"]) for row in audit(db, session_id)] == [("note", "Ann: called the buyer")]
    story = db.as_service().rpc("checkout_session_story", p_session_id=session_id)
    assert [row["detail"]["detail"] for row in story if row["title"] == "note"] == ["Ann: called the buyer"]


@pytest.mark.usefixtures("undelivered")
def test_a_report_counts_how_far_buyers_came(db: Database) -> None:
    db.mend_fulfilment("credits")
    db.new_session()
    db.open_attempt(db.new_session())
    fulfilled = db.new_session()
    db.apply(db.open_attempt(fulfilled))
    db.as_service().rpc("refund_checkout_session", p_session_id=fulfilled, p_provider_refund_id="re", p_amount=500)
    totals = db.as_service().rpc("payment_report", p_days=1)["totals"]
    assert [totals[step] for step in ("created", "opened", "completed", "fulfilled")] == [4, 3, 2, 1]


def test_a_review_closed_for_one_thing_excuses_no_other(db: Database, overpaid: uuid.UUID) -> None:
    db.as_service().rpc("close_review", p_session_id=overpaid, p_note="Ann: fulfilment_failed: is only a word here")
    db.sql("update public.payment_checkout_sessions set fulfilment_status = 'none' where id = %s", overpaid)
    assert [row["invariant"] for row in db.as_service().rpc("check_payment_invariants")] == [
        "money_without_goods_is_in_review"
    ]


def test_money_of_the_wrong_size_that_a_person_accepts_breaks_no_guarantee(db: Database) -> None:
    session_id = db.new_session()
    attempt = db.open_attempt(session_id)
    db.complete(session_id, p_provider_session_id=attempt["provider_session_id"])
    db.apply(attempt, amount=300)
    assert "amount_mismatch" in db.session(session_id)["review_reason"]
    db.as_service().rpc("close_review", p_session_id=session_id, p_note="Ann: the rest came in cash")
    assert db.as_service().rpc("check_payment_invariants") == []


def test_a_dead_webhook_and_a_letter_wait_no_more(db: Database) -> None:
    service = db.as_service()
    for kind, again in (("dead", False), ("failed", True)):
        event = {"id": kind, "type": "t", "payload": {"buyer": "x"}}
        service.rpc("record_webhook_failure", p_provider="stripe", p_event=event, p_error="no", p_retryable=again)
    with refused("PT404", "dead_letter_unknown"):  # its provider sends it again
        service.rpc("close_webhook_failure", p_provider="stripe", p_event_id="failed", p_note="Ann: settled")
    service.rpc("close_webhook_failure", p_provider="stripe", p_event_id="dead", p_note="Ann: settled")
    assert [row["event_id"] for row in service.rpc("list_webhook_failures")] == ["failed"]
