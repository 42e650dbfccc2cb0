"""The smaller diagrams of docs/states.md show exactly what the database does; tests/docs/test_documents.py looks at the
one of sessions.
"""

from __future__ import annotations

import itertools
import re

from psycopg.types.json import Jsonb

from tests.support.database import REPOSITORY, Database, outcome

Changes = set[tuple[str, str]]


def drawn(heading: str) -> Changes:
    """The changes that the diagram below the heading shows."""
    section = (REPOSITORY / "docs" / "states.md").read_text("utf-8").partition(f"\n## {heading}\n")[2]
    diagram = section.partition("\n## ")[0].partition("```mermaid\n")[2].partition("```")[0]
    return set(re.findall(r"^    (\w+) --> (\w+)", diagram, re.MULTILINE))


def begins(heading: str) -> set[str]:
    section = (REPOSITORY / "docs" / "states.md").read_text("utf-8").partition(f"\n## {heading}\n")[2]
    return set(re.findall(r"^    \[\*\] --> (\w+)", section.partition("\n## ")[0], re.MULTILINE))


def allowed(db: Database, table: str) -> set[str]:
    """The states that a constraint of the table knows."""
    (row,) = db.sql(
        "select pg_get_constraintdef(oid) as text from pg_constraint"
        " where conrelid = %s::regclass and conname like '%%_status_is_known'",
        table,
    )
    return set(re.findall(r"'(\w+)'::text", row["text"]))


def test_a_refund_only_advances_as_drawn(db: Database) -> None:
    session_id = db.new_session()
    db.apply(db.open_attempt(session_id))

    def status_after(name: str, *told: str) -> str:
        for status in told:
            db.as_service().rpc(
                "refund_checkout_session",
                p_session_id=session_id, p_provider_refund_id=name, p_amount=1, p_status=status,
            )  # fmt: skip
        (row,) = db.sql("select status from public.payment_refunds where provider_refund_id = %s", name)
        return str(row["status"])

    states = ("pending", "succeeded", "failed")
    found = {(old, status_after(f"{old} {new}", old, new)) for old, new in itertools.permutations(states, 2)}
    assert {change for change in found if change[0] != change[1]} == drawn("Refunds and disputes")
    db.as_service().rpc(
        "refund_checkout_session", p_session_id=session_id, p_provider_refund_id="too much", p_amount=10**6
    )
    first = {status_after(f"first {status}", status) for status in states} | {status_after("too much")}
    assert first == begins("Refunds and disputes") == allowed(db, "public.payment_refunds")


def test_an_attempt_only_advances_as_drawn(db: Database) -> None:
    attempt = db.open_attempt(db.new_session())
    states = allowed(db, "payments.attempts")

    def be(status: str, url: str | None) -> None:
        db.sql("update payments.attempts set status = %s, checkout_url = %s, provider_session_id = null", status, url)

    def status() -> str:
        return str(db.sql("select status from payments.attempts")[0]["status"])

    found: Changes = set()
    for old, new in itertools.product(states, states - {"open"}):
        be(old, "https://pay.example/1")
        db.sql(
            "select payments.advance_attempt(%s, jsonb_populate_record(null::payments.outcome, %s))",
            attempt["number"], Jsonb(outcome(attempt, new)),
        )  # fmt: skip
        found.add((old, status()))
    for old in states:
        be(old, None)
        db.as_service().rpc(
            "attach_checkout_attempt",
            p_attempt=attempt["number"], p_provider_session_id="page", p_checkout_url="https://pay.example/1",
        )  # fmt: skip
        found.add((old, status()))
    assert {change for change in found if change[0] != change[1]} == drawn("Attempts")
    assert begins("Attempts") == {"open"}


def test_a_webhook_event_only_changes_as_drawn(db: Database) -> None:
    attempt = db.open_attempt(db.new_session())
    event = {"id": "evt_1", "type": "page", "payload": {}}

    def come_to(status: str) -> str:
        if status == "handled":
            db.as_service().rpc("apply_payment_outcome", p_outcome=outcome(attempt, "processing"), p_event=event)
        else:
            db.as_service().rpc(
                "record_webhook_failure",
                p_provider=attempt["provider"], p_event=event, p_error="try_again", p_retryable=status == "failed",
            )  # fmt: skip
        return str(db.sql("select status from payments.webhook_events")[0]["status"])

    states = allowed(db, "payments.webhook_events")
    found: Changes = set()
    for old, new in itertools.permutations(states, 2):
        db.sql("delete from payments.webhook_events")
        assert come_to(old) == old
        found.add((old, come_to(new)))
    assert {change for change in found if change[0] != change[1]} == drawn("Webhook events")
    assert begins("Webhook events") == states
