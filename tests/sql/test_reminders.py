"""Reminders: to buyers who agreed and can still pay, a few, spaced, and none once they have paid."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest

from tests.support.database import Database, Row, call, outcome, refused
from tests.support.races import all_at_once, start_and_see_it_wait

WAIT = 30  # seconds until a waiter is given up; nothing here takes long
ADDRESS = "buyer@example.test"
AGREED = {"reminders": True}


def enqueue(db: Database) -> int:
    count: int = db.as_service().rpc("enqueue_payment_reminders")
    return count


def reminders(db: Database) -> list[Row]:
    return db.sql("select * from payments.notifications where kind = 'reminder' order by id")


def claim(db: Database) -> list[Row]:
    rows: list[Row] = db.as_service().rpc("claim_notifications")
    return rows


def abandoned(db: Database, **arguments: Any) -> uuid.UUID:
    """An open session that a buyer who agreed to reminders left 6 hours ago."""
    session_id = db.new_session(**({"p_email": ADDRESS, "p_metadata": AGREED} | arguments))
    left(db, session_id, "6 hours")
    return session_id


def left(db: Database, session_id: uuid.UUID, ago: str) -> None:
    """The session was made so long ago; it can still be paid."""
    db.sql(
        "update public.payment_checkout_sessions set created_at = now() - %s::interval where id = %s", ago, session_id
    )


def time_passes(db: Database, wait: str) -> None:
    """Everything that is known happened so much longer ago; open sessions stay open."""
    db.sql("update public.payment_checkout_sessions set created_at = created_at - %s::interval", wait)
    db.sql("update payments.notifications set created_at = created_at - %s::interval", wait)


def settings(db: Database, **values: Any) -> None:
    for name, value in values.items():
        db.sql(f"update payments.settings set {name} = %s", value)


def by_paying(db: Database, session_id: uuid.UUID) -> None:
    db.complete(session_id, p_provider_payment_id="pi_1")


def by_a_delayed_payment(db: Database, session_id: uuid.UUID) -> None:
    db.apply(db.open_attempt(session_id), "processing")


def by_failing(db: Database, session_id: uuid.UUID) -> None:
    db.as_service().rpc("fail_checkout_session", p_session_id=session_id, p_error_code="declined")


def by_a_refund(db: Database, session_id: uuid.UUID) -> None:
    by_paying(db, session_id)
    db.as_service().rpc("refund_checkout_session", p_session_id=session_id, p_provider_refund_id="re_1", p_amount=500)


def by_expiring(db: Database, session_id: uuid.UUID) -> None:
    db.lapse(session_id)
    db.as_service().rpc("expire_old_checkout_sessions")


def by_deletion(db: Database, session_id: uuid.UUID) -> None:
    db.sql("delete from public.payment_checkout_sessions where id = %s", session_id)


ENDINGS: list[Callable[[Database, uuid.UUID], None]] = [
    by_paying, by_a_delayed_payment, by_failing, by_a_refund, Database.close, by_expiring, Database.lapse, by_deletion,
]  # fmt: skip
ending = pytest.mark.parametrize("end", ENDINGS, ids=lambda end: end.__name__)


@pytest.fixture(autouse=True)
def _no_guarantee_is_broken_at_the_end(db: Database) -> Iterator[None]:
    yield
    assert db.as_service().rpc("check_payment_invariants") == []


class TestWhen:
    @pytest.mark.parametrize(("ago", "count"), [("5 hours 59 minutes", 0), ("6 hours", 1), ("20 hours", 1)])
    def test_the_first_comes_6_hours_after_the_session_was_made(self, db: Database, ago: str, count: int) -> None:
        left(db, abandoned(db), ago)
        assert (enqueue(db), len(reminders(db))) == (count, count)

    def test_there_are_3_at_most_and_6_hours_between_them(self, db: Database) -> None:
        abandoned(db)
        counts = []
        for _ in range(5):
            counts.append(enqueue(db))
            time_passes(db, "5 hours 59 minutes")
            counts.append(enqueue(db))
            time_passes(db, "1 minute")
        assert counts == [1, 0, 1, 0, 1, 0, 0, 0, 0, 0]
        assert [row["occurrence"] for row in reminders(db)] == ["1", "2", "3"]

    def test_the_wait_counts_from_the_reminder_before_and_not_from_the_session(self, db: Database) -> None:
        left(db, abandoned(db), "23 hours")
        assert [enqueue(db), enqueue(db)] == [1, 0]

    def test_reminders_that_were_sent_and_such_that_could_not_be_sent_both_count(self, db: Database) -> None:
        settings(db, reminder_limit=2, notification_tries=1)
        abandoned(db)
        for error in (None, "The mailbox is full."):
            enqueue(db)
            (row,) = claim(db)
            db.as_service().rpc("finish_notification", p_id=row["id"], p_error=error)
            time_passes(db, "6 hours")
        assert [row["status"] for row in reminders(db)] == ["sent", "dead"]
        assert enqueue(db) == 0

    @pytest.mark.parametrize(("limit", "expected"), [(0, 0), (1, 1), (2, 2)])
    def test_how_many_is_a_setting(self, db: Database, limit: int, expected: int) -> None:
        settings(db, reminder_limit=limit)
        abandoned(db)
        for _ in range(4):
            enqueue(db)
            time_passes(db, "6 hours")
        assert len(reminders(db)) == expected

    def test_a_limit_of_0_stops_those_under_way_too(self, db: Database) -> None:
        abandoned(db)
        enqueue(db)
        settings(db, reminder_limit=0)
        time_passes(db, "6 hours")
        assert enqueue(db) == 0

    def test_how_long_to_wait_is_a_setting(self, db: Database) -> None:
        settings(db, reminder_after="1 hour")
        left(db, abandoned(db), "59 minutes")
        assert enqueue(db) == 0
        time_passes(db, "1 minute")
        assert enqueue(db) == 1
        time_passes(db, "1 hour")
        assert enqueue(db) == 1

    @pytest.mark.parametrize(
        "wrong", [{"reminder_limit": -1}, {"reminder_limit": 11}, {"reminder_after": "0"}], ids=str
    )
    def test_settings_that_would_flood_a_buyer_are_refused(self, db: Database, wrong: Row) -> None:
        with refused("23514"):
            settings(db, **wrong)


class TestWhom:
    @pytest.mark.parametrize(
        "metadata",
        [{}, {"reminders": False}, {"reminders": "true"}, {"reminders": 1}, {"reminders": None}, {"Reminders": True},
         {"reminders": [True]}, {"reminders": {"reminders": True}}, {"consent": {"reminders": True}}],
        ids=str,
    )  # fmt: skip
    def test_nobody_who_did_not_agree(self, db: Database, metadata: Row) -> None:
        abandoned(db, p_metadata=metadata)
        assert (enqueue(db), reminders(db)) == (0, [])

    def test_who_agreed_whatever_else_the_app_keeps_there(self, db: Database) -> None:
        abandoned(db, p_metadata=AGREED | {"campaign": {"id": 7}})
        assert enqueue(db) == 1

    def test_nobody_without_an_address(self, db: Database) -> None:
        abandoned(db, p_email=None)
        assert (enqueue(db), reminders(db)) == (0, [])

    @ending
    def test_nobody_whose_session_has_ended(self, db: Database, end: Callable[[Database, uuid.UUID], None]) -> None:
        session_id, other = abandoned(db), abandoned(db)
        end(db, session_id)
        assert (enqueue(db), [row["session_id"] for row in reminders(db)]) == (1, [other])

    def test_each_session_by_itself(self, db: Database, user: uuid.UUID) -> None:
        sessions = {abandoned(db, user_id=user, p_subject=str(number)) for number in range(3)}
        assert enqueue(db) == 3
        assert {row["session_id"] for row in reminders(db)} == sessions

    def test_only_the_service_sends_them(self, db: Database, user: uuid.UUID) -> None:
        for caller in (db.as_user(user), db.as_anon()):
            with refused("42501"):
                caller.rpc("enqueue_payment_reminders")


class TestWhatItSays:
    def test_what_waits_to_be_paid_where_and_until_when_and_nothing_else(self, db: Database, user: uuid.UUID) -> None:
        session_id = abandoned(db, user_id=user, p_metadata=AGREED | {"note": "private"})
        page = db.open_attempt(session_id)
        enqueue(db)
        (row,) = claim(db)
        session = db.session(session_id)
        assert (row["kind"], row["session_id"], row["user_id"], row["email"]) == ("reminder", session_id, user, ADDRESS)
        assert row["payload"] == {
            "product_id": "credits_100", "product_name": "100 credits", "amount": 500, "currency": "USD",
            "occurrence": "1", "invoice": None,
            "checkout_url": f"https://pay.test/{page['provider_session_id']}",
            "expires_at": db.value("select to_jsonb(%s::timestamptz)", session["expires_at"]),
        }  # fmt: skip

    def test_no_page_when_none_was_opened(self, db: Database) -> None:
        abandoned(db)
        enqueue(db)
        (row,) = claim(db)
        assert row["payload"]["checkout_url"] is None

    def test_each_goes_to_the_address_of_the_moment(self, db: Database, user: uuid.UUID) -> None:
        abandoned(db, user_id=user)
        enqueue(db)
        db.new_session(user, p_email="new@example.test", p_metadata=AGREED)
        time_passes(db, "6 hours")
        enqueue(db)
        assert [row["email"] for row in reminders(db)] == [ADDRESS, "new@example.test"]


class TestNotAnyMore:
    @ending
    def test_a_reminder_that_waits_while_its_session_ends_is_not_sent(
        self, db: Database, end: Callable[[Database, uuid.UUID], None]
    ) -> None:
        session_id, other = abandoned(db), abandoned(db)
        enqueue(db)
        end(db, session_id)
        assert [row["session_id"] for row in claim(db) if row["kind"] == "reminder"] == [other]
        states = {row["session_id"]: (row["status"], row["finished_at"] is not None) for row in reminders(db)}
        assert states == {session_id: ("cancelled", True), other: ("queued", False)}

    def test_one_that_could_not_be_sent_at_first_is_not_sent_after_the_payment(self, db: Database) -> None:
        session_id = abandoned(db, p_email=ADDRESS)
        enqueue(db)
        (row,) = claim(db)
        db.as_service().rpc("finish_notification", p_id=row["id"], p_error="The mailbox is full.")
        by_paying(db, session_id)
        db.sql("update payments.notifications set due_at = now()")
        assert [row["kind"] for row in claim(db)] == ["receipt"]

    def test_a_worker_that_finishes_a_cancelled_one_is_not_told_off(self, db: Database) -> None:
        session_id = abandoned(db)
        enqueue(db)
        (row,) = claim(db)
        by_failing(db, session_id)
        db.sql("update payments.notifications set due_at = now()")
        assert claim(db) == []
        db.as_service().rpc("finish_notification", p_id=row["id"])
        assert [row["status"] for row in reminders(db)] == ["cancelled"]

    def test_a_payment_that_is_under_way_when_the_reminder_is_queued_cancels_it(self, db: Database) -> None:
        page = db.open_attempt(abandoned(db))
        with db.as_service().request() as first:
            call(first, "apply_payment_outcome", p_outcome=outcome(page))
            assert enqueue(db) == 1
        assert [row["kind"] for row in claim(db)] == ["receipt"]

    def test_the_receipt_is_not_cancelled_with_it(self, db: Database) -> None:
        session_id = abandoned(db)
        enqueue(db)
        by_paying(db, session_id)
        by_deletion(db, session_id)
        assert [row["kind"] for row in claim(db)] == ["receipt"]

    def test_many_that_are_no_longer_true_do_not_block_what_waits_behind_them(
        self, db: Database, user: uuid.UUID
    ) -> None:
        sessions = [abandoned(db, user_id=user, p_subject=str(number)) for number in range(5)]
        enqueue(db)
        by_paying(db, sessions[0])
        for session_id in sessions[1:]:
            db.lapse(session_id)
        rounds = [db.as_service().rpc("claim_notifications", p_limit=2) for _ in range(3)]
        assert [row["kind"] for rows in rounds for row in rows] == ["receipt"]
        assert db.as_service().rpc("payment_health")["notifications"]["due"] == 0

    def test_8_workers_at_once_send_none_of_many_that_are_no_longer_true(self, db: Database, user: uuid.UUID) -> None:
        sessions = [abandoned(db, user_id=user, p_subject=str(number)) for number in range(20)]
        assert enqueue(db) == 20
        for session_id in sessions:
            db.lapse(session_id)
        assert all_at_once([partial(claim, db)] * 8) == [[]] * 8
        assert {row["status"] for row in reminders(db)} == {"cancelled"}


class TestAtOnce:
    def test_8_enqueuers_at_once_queue_each_reminder_once(self, db: Database, user: uuid.UUID) -> None:
        sessions = {abandoned(db, user_id=user, p_subject=str(number)) for number in range(20)}
        assert sum(all_at_once([partial(enqueue, db)] * 8)) == 20
        assert {row["session_id"] for row in reminders(db)} == sessions
        assert [row["occurrence"] for row in reminders(db)] == ["1"] * 20

    def test_the_second_waits_for_the_first_and_finds_nothing_to_do(self, db: Database) -> None:
        abandoned(db)
        with db.as_service().request() as first:
            assert call(first, "enqueue_payment_reminders") == 1
            second = start_and_see_it_wait(db, partial(enqueue, db))
        assert (second.result(WAIT), len(reminders(db))) == (0, 1)

    def test_the_second_takes_over_when_the_first_dies(self, db: Database) -> None:
        abandoned(db)
        with db.as_service().request() as first:
            call(first, "enqueue_payment_reminders")
            second = start_and_see_it_wait(db, partial(enqueue, db))
            first.rollback()
        assert (second.result(WAIT), len(reminders(db))) == (1, 1)
