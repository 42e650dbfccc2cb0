"""purge_old_payment_data: what payments.settings wants kept no longer leaves in batches; what is open never does."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from functools import partial
from typing import Any

import psycopg
import pytest

from tests.sql.test_cleanup import move_back, old_session, refund, sessions
from tests.support.database import Database, Row, call, refused
from tests.support.races import start_and_see_it_wait

FUNCTION = "purge_old_payment_data"
WAIT = 30  # seconds until a waiter is given up; nothing here takes long
EVENT = "evt_1"
# as of the settings' defaults: events go after 90 days, sessions after 400, the audit trail after 3650
SHORTLY, LATER, LAST = "100 days", "500 days", "11 years"


def purge(db: Database, **arguments: Any) -> dict[str, int]:
    """What left, without the zeros; every guarantee still holds."""
    answer: Row = db.as_service().rpc(FUNCTION, **arguments)
    assert list(answer) == [
        "alerts", "sessions", "notifications", "session_events", "webhook_events", "idempotency_keys"
    ]  # fmt: skip
    assert db.as_service().rpc("check_payment_invariants") == []
    return {kind: count for kind, count in answer.items() if count}


def purge_all(db: Database) -> dict[str, int]:
    """Repeat it until nothing is left to go, as a worker does."""
    total: dict[str, int] = {}
    while batch := purge(db, p_limit=2):
        assert sum(batch.values()) <= 2
        total = {kind: total.get(kind, 0) + batch.get(kind, 0) for kind in {*total, *batch}}
    return total


def paid(db: Database, ago: str, **outcome: Any) -> tuple[uuid.UUID, Row]:
    """A purchase that the provider's event completed so long ago, and whose receipt was sent; and its attempt."""
    session_id = db.new_session(p_email="ada@buyer.test")
    attempt = db.open_attempt(session_id)
    db.apply(attempt, event=EVENT, **outcome)
    send_letters(db)
    return move_back(db, session_id, ago), attempt


def send_letters(db: Database) -> None:
    for letter in db.as_service().rpc("claim_notifications"):
        db.as_service().rpc("finish_notification", p_id=letter["id"])


def closed_page(db: Database) -> Row:
    """The attempt of a session that its buyer gave up; the page can still be paid."""
    attempt = db.open_attempt(db.new_session())
    db.close(attempt["session_id"])
    return attempt


def count(db: Database, table: str) -> int:
    number: int = db.value(f"select count(*) from payments.{table}")
    return number


def fail_webhook(db: Database, *, dead: bool) -> None:
    db.as_service().rpc(
        "record_webhook_failure", p_provider="stripe", p_event={"id": EVENT, "type": "t", "payload": {}},
        p_error="try_again", p_retryable=not dead,
    )  # fmt: skip


class TestWhatGoes:
    def test_events_first_then_sessions_with_their_letters_and_the_audit_trail_last(self, db: Database) -> None:
        session_id, _ = paid(db, "80 days")
        assert purge_all(db) == {}
        session_id = move_back(db, session_id, "20 days")
        assert purge_all(db) == {"webhook_events": 1}
        session_id = move_back(db, session_id, "400 days")
        assert purge_all(db) == {"sessions": 1, "notifications": 1}
        move_back_what_is_left(db, "11 years")
        assert purge_all(db) == {"session_events": 1}
        left = {table for table, rows in db.everything().items() if rows}
        assert {"payments.attempts", "payments.captures", "payment_credit_entries", "payment_invoices"} <= left
        assert session_id not in sessions(db)

    def test_how_long_is_a_matter_of_the_settings(self, db: Database) -> None:
        paid(db, "61 days")
        db.sql(
            "update payments.settings"
            " set session_retention = '60 days', webhook_retention = '60 days', audit_retention = '60 days'"
        )
        assert purge_all(db) == {"sessions": 1, "notifications": 1, "webhook_events": 1, "session_events": 1}

    def test_answers_to_repeated_requests(self, db: Database) -> None:
        for key in ("old", "young", "working"):
            db.as_service().rpc("begin_idempotent_request", p_key=key, p_request_hash="h")
        db.sql("update payments.settings set idempotency_retention = '2 hours'")
        db.sql(
            "update payments.idempotency_keys set updated_at = now() - interval '3 hours',"
            " leased_until = now() + case key when 'working' then 1 else -1 end * interval '1 hour'"
            " where key <> 'young'"
        )
        assert purge(db) == {"idempotency_keys": 1}
        assert {row["key"] for row in db.sql("select key from payments.idempotency_keys")} == {"young", "working"}

    def test_incidents_that_are_long_over(self, db: Database) -> None:
        db.sql(
            "insert into payments.alerts (kind, subject, detail, opened_at, seen_at, due_at, closed_at)"
            " select 'stale_heartbeat', name, '', at, at, at, closed_at from (values"
            " ('open', now() - interval '2 years', null), ('over', now(), now() - interval '399 days'),"
            " ('long over', now(), now() - interval '401 days')) as a (name, at, closed_at)"
        )
        assert purge(db) == {"alerts": 1}
        assert {row["subject"] for row in db.sql("select subject from payments.alerts")} == {"open", "over"}

    def test_no_more_than_the_limit_in_all_and_the_rest_when_called_again(self, db: Database) -> None:
        paid(db, LAST)
        assert purge(db, p_limit=0) == {}
        assert [purge(db, p_limit=1) for _ in range(5)] == [
            {"sessions": 1}, {"notifications": 1}, {"webhook_events": 1}, {"session_events": 1}, {}
        ]  # fmt: skip

    @pytest.mark.parametrize(
        "change",
        [
            "session_retention = '29 days'",
            "webhook_retention = '30 days'",
            "audit_retention = '399 days'",
            "idempotency_retention = '59 minutes'",
            "webhook_retention = null",
        ],
    )
    def test_nobody_can_keep_things_for_too_short(self, db: Database, change: str) -> None:
        with pytest.raises(psycopg.errors.IntegrityError):
            db.sql(f"update payments.settings set {change}")


def move_back_what_is_left(db: Database, by: str) -> None:
    """For what has no session any more: a stand-in takes the session's place while everything moves."""
    (row,) = db.sql("select distinct session_id from payments.session_events")
    db.sql(
        "insert into public.payment_checkout_sessions select (jsonb_populate_record(null::"
        "public.payment_checkout_sessions, jsonb_build_object('id', %s::uuid, 'user_id', u.id, 'product_id',"
        " 'credits_100', 'kind', 'none', 'terms', '{}'::jsonb, 'provider', 'stripe', 'currency', 'USD',"
        " 'original_amount', 1, 'discount_amount', 0, 'amount', 1, 'status', 'expired', 'fulfilment_status', 'none',"
        " 'attempts', 0, 'refunded_amount', 0, 'metadata', '{}'::jsonb, 'created_at', now(), 'updated_at', now(),"
        " 'expires_at', now()))).* from auth.users as u limit 1",
        row["session_id"],
    )
    moved = move_back(db, row["session_id"], by)
    db.sql("delete from public.payment_checkout_sessions where id = %s", moved)


class TestWhatStays:
    @pytest.mark.parametrize("dead", [True, False])
    def test_an_event_that_somebody_may_still_handle(self, db: Database, dead: bool) -> None:
        attempt = db.open_attempt(db.new_session())
        fail_webhook(db, dead=dead)
        db.sql(
            "update payments.webhook_events set received_at = now() - interval '500 days',"
            " session_id = payments.first_id_at(now() - interval '500 days')"
        )
        assert purge(db) == {}
        db.apply(attempt, event=EVENT)  # handled now, and as old as it is
        assert purge(db) == {}
        move_back(db, attempt["session_id"], SHORTLY)
        assert purge(db) == {"webhook_events": 1}

    def test_an_event_of_an_old_session_that_has_come_lately(self, db: Database) -> None:
        _, attempt = paid(db, SHORTLY)
        said = [{"provider_refund_id": "re_1", "amount": 100, "status": "succeeded"}]
        db.apply(attempt, event="evt_2", refunds=said)
        assert purge(db) == {"webhook_events": 1}
        assert db.sql("select event_id from payments.webhook_events") == [{"event_id": "evt_2"}]

    @pytest.mark.parametrize("status", ["pending", "processing"])
    def test_an_open_session(self, db: Database, status: str) -> None:
        session_id = old_session(db, status, LATER)
        assert "sessions" not in purge(db)
        assert sessions(db) == {session_id}

    def test_a_session_in_review_with_its_letters_and_trail(self, db: Database) -> None:
        session_id, _ = paid(db, LAST)
        db.sql("update public.payment_checkout_sessions set review_reason = 'duplicate_payment'")
        assert purge_all(db) == {"webhook_events": 1}
        assert sessions(db) == {session_id}
        assert (count(db, "notifications"), count(db, "session_events")) == (1, 1)

    @pytest.mark.parametrize("kind", ["refund", "dispute"])
    def test_a_session_while_a_refund_or_dispute_is_under_way(self, db: Database, kind: str) -> None:
        session_id, attempt = paid(db, "1 day")

        def say(status: str) -> None:
            said = {"provider_refund_id": "re_1", "amount": 500, "status": status, "kind": kind}
            db.apply(attempt, refunds=[said])
            db.sql("update public.payment_checkout_sessions set review_reason = null")

        say("pending")
        session_id = move_back(db, session_id, LATER)
        assert "sessions" not in purge_all(db)
        say("succeeded")
        assert db.state(session_id)[:2] == ("refunded", "reversed")
        session_id = move_back(db, session_id, LATER)
        assert purge_all(db)["sessions"] == 1

    @pytest.mark.parametrize("status", ["queued", "dead"])
    def test_a_letter_that_was_not_sent(self, db: Database, status: str) -> None:
        paid(db, LATER)
        db.sql("update payments.notifications set status = %s", status)
        assert purge_all(db) == {"webhook_events": 1, "sessions": 1}
        db.sql("update payments.notifications set status = 'cancelled'")
        assert purge_all(db) == {"notifications": 1}

    def test_the_trail_of_money_that_paid_nothing(self, db: Database) -> None:
        session_id, _ = paid(db, "1 day")
        db.complete(session_id, p_provider_payment_id="pi_second")
        db.sql("update public.payment_checkout_sessions set review_reason = null")
        send_letters(db)
        move_back(db, session_id, LAST)
        assert "session_events" not in purge_all(db)
        assert count(db, "session_events") == 2

    def test_the_audit_trail_while_it_is_young_whoever_deletes(self, db: Database) -> None:
        paid(db, "3650 days")
        with refused("PT409", "append_only"):
            db.sql("delete from payments.session_events")
        assert "session_events" not in purge_all(db)
        db.sql("update payments.settings set audit_retention = '3600 days'")
        assert purge_all(db) == {"session_events": 1}


NEWS: dict[str, Callable[[Database, Row], Any]] = {
    "the payment": lambda db, attempt: db.apply(attempt, event=EVENT),
    "a refund": lambda db, attempt: db.apply(attempt, event=EVENT, refunds=[back("refund", "succeeded")]),
    "a dispute": lambda db, attempt: db.apply(attempt, event=EVENT, refunds=[back("dispute", "succeeded")]),
    "its end": lambda db, attempt: db.apply(attempt, "expired", event=EVENT),
    "its failure": lambda db, attempt: db.apply(attempt, "failed", event=EVENT, error_code="card_declined"),
}


def back(kind: str, status: str) -> Row:
    return {"provider_refund_id": "re_1", "amount": 500, "status": status, "kind": kind}


class TestAnEventThatComesAgainAfterItWasForgotten:
    @pytest.fixture(params=[SHORTLY, LATER, LAST], ids=["session there", "session gone", "audit trail gone"])
    def told_long_ago(self, db: Database, request: pytest.FixtureRequest) -> Callable[[str], Row]:
        def tell(news: str) -> Row:
            attempt = db.open_attempt(db.new_session(p_email="ada@buyer.test"))
            NEWS[news](db, attempt)
            send_letters(db)
            move_back(db, attempt["session_id"], request.param)
            assert purge_all(db)["webhook_events"] == 1
            return attempt

        return tell

    @pytest.mark.parametrize("news", NEWS)
    def test_changes_nothing_but_that_it_is_known_again(
        self, db: Database, told_long_ago: Callable[[str], Row], news: str
    ) -> None:
        attempt = told_long_ago(news)
        before = db.everything()
        assert NEWS[news](db, attempt)["duplicate"] is False
        after = db.everything()
        assert len(after.pop("payments.webhook_events")) == 1
        assert before.pop("payments.webhook_events") == []
        assert after == before

    def test_a_payment_of_a_removed_session_is_no_incident_when_it_is_known(
        self, db: Database, told_long_ago: Callable[[str], Row]
    ) -> None:
        NEWS["the payment"](db, told_long_ago("the payment"))
        assert db.as_service().rpc("watch_payments") == []


class TestMoneyOfARemovedSession:
    def test_a_refund_that_comes_too_late_is_told_to_the_operator(self, db: Database) -> None:
        session_id, attempt = paid(db, LATER)
        assert purge_all(db)["sessions"] == 1
        db.apply(attempt, event="evt_2", refunds=[back("refund", "succeeded")])
        (alert,) = db.as_service().rpc("watch_payments")
        assert (alert["change"], alert["kind"], alert["subject"]) == ("opened", "orphaned_money", "stripe")
        assert db.value("select session_id from public.payment_refunds where user_id is null") == session_id

    def test_a_refund_that_was_in_time_is_none(self, db: Database) -> None:
        session_id, _ = paid(db, "1 day")
        refund(db, session_id, 500)
        move_back(db, session_id, LATER)
        assert purge_all(db)["sessions"] == 1
        assert db.as_service().rpc("watch_payments") == []


class TestManyAtOnce:
    def test_of_two_purgers_neither_waits_and_together_they_delete_each_row_once(self, db: Database) -> None:
        for _ in range(4):
            old_session(db, by=LATER)
        with db.as_service().request() as first:
            assert call(first, FUNCTION, p_limit=2)["sessions"] == 2
            assert purge_all(db) == {"sessions": 2}
        assert (sessions(db), purge(db)) == (set(), {})

    def test_purchases_do_not_wait_for_a_purge(self, db: Database) -> None:
        paid(db, LATER)
        late = closed_page(db)
        with db.as_service().request() as purger:
            assert call(purger, FUNCTION)["sessions"] == 1
            for attempt in (db.open_attempt(db.new_session(p_email="ada@buyer.test")), late):
                assert db.apply(attempt, event=str(uuid.uuid4()))["status"] == "completed"
            assert db.as_service().rpc("claim_notifications") != []
            db.as_service().rpc("enqueue_payment_reminders")
            db.as_service().rpc("begin_idempotent_request", p_key="k", p_request_hash="h")

    def test_a_repeat_of_an_event_that_is_being_forgotten_does_not_wait(self, db: Database) -> None:
        _, attempt = paid(db, SHORTLY)
        with db.as_service().request() as purger:
            assert call(purger, FUNCTION)["webhook_events"] == 1
            assert db.apply(attempt, event=EVENT) == {"duplicate": True}

    def test_what_others_hold_is_left_for_the_next_call(self, db: Database) -> None:
        paid(db, LAST)
        with psycopg.connect(db.url()) as other:
            other.execute("select from public.payment_checkout_sessions for no key update")
            assert purge_all(db) == {"webhook_events": 1}
        with psycopg.connect(db.url()) as other:
            other.execute("select from payments.notifications, payments.session_events for no key update")
            assert purge_all(db) == {"sessions": 1}
        assert purge_all(db) == {"notifications": 1, "session_events": 1}

    def test_late_money_that_waits_for_a_session_which_leaves_is_kept_when_it_is_sent_again(self, db: Database) -> None:
        attempt = closed_page(db)
        session_id = move_back(db, attempt["session_id"], LATER)
        with db.as_service().request() as purger:
            assert call(purger, FUNCTION)["sessions"] == 1
            paying = start_and_see_it_wait(db, partial(db.apply, attempt, event=EVENT))
        with refused("PT404", "session_not_found"):
            paying.result(WAIT)
        db.apply(attempt, event=EVENT)
        assert [capture["disposition"] for capture in db.captures(session_id)] == ["orphaned"]


def test_only_the_service_may_purge(db: Database) -> None:
    session_id = old_session(db, by=LATER)
    for caller in (db.as_user(db.session(session_id)["user_id"]), db.as_anon()):
        with refused("42501"):
            caller.rpc(FUNCTION)
    assert sessions(db) == {session_id}
