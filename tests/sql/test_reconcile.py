"""The queue of pages whose provider must be asked: when, by whom, for how long, and what happens at the end of it.

Heartbeats, by which health checks see that somebody still works on that queue, are here too.
"""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from functools import partial
from typing import Any

import pytest

from tests.support.database import Database, Row, call, refused
from tests.support.races import all_at_once, start_and_see_it_wait

WAIT = 30  # seconds until a waiter is given up; nothing here takes long
MINUTE, HOUR = timedelta(minutes=1), timedelta(hours=1)
GROWING = [5 * MINUTE, 15 * MINUTE, HOUR]
ENDED = ["failed", "expired", "cancelled"]


def claim(db: Database, limit: int = 50) -> list[Row]:
    rows: list[Row] = db.as_service().rpc("claim_sessions_to_reconcile", p_limit=limit)
    return rows


def claimed(db: Database, limit: int = 50) -> list[str]:
    """The references that a worker gets."""
    return [row["reference"] for row in claim(db, limit)]


def finish(db: Database, session_id: uuid.UUID | str | None, result: str | None = "asked", **more: Any) -> None:
    db.as_service().rpc("finish_reconcile", p_session_id=session_id, p_result=result, **more)


def at_a_known_time(db: Database, function: str, **arguments: Any) -> tuple[Any, datetime]:
    """The answer of a call of the service, and what the time was for it."""
    with db.as_service().request() as connection:
        answer = call(connection, function, **arguments)
        (row,) = connection.execute("select now() as now").fetchall()
        return answer, row["now"]


def page_row(db: Database, page: Row) -> Row:
    (row,) = db.sql("select * from payments.attempts where number = %s", page["number"])
    return row


def next_time(db: Database, page: Row) -> datetime | None:
    """When the provider is asked about a page next."""
    at: datetime | None = page_row(db, page)["reconcile_at"]
    return at


def wait_for_next_time(db: Database, page: Row) -> None:
    """As much time passes as it takes until the provider is asked about the page again."""
    wait = db.value("select reconcile_at - now() from payments.attempts where number = %s", page["number"])
    time_passes(db, max(wait, timedelta()))


def ask(db: Database, page: Row, result: str = "asked") -> timedelta | None:
    """A worker asks when it is time to; the wait until the next time."""
    wait_for_next_time(db, page)
    assert claimed(db) == [page["reference"]]
    arguments = {"p_session_id": page["session_id"], "p_result": result}
    _, now = at_a_known_time(db, "finish_reconcile", **arguments)
    at = next_time(db, page)
    return at - now if at else None


def time_passes(db: Database, wait: timedelta) -> None:
    """All sessions and pages, and what is planned about them, become so much older."""
    for table, columns in {
        "payments.attempts": ("created_at", "expires_at", "reconcile_at"),
        "public.payment_checkout_sessions": ("created_at", "expires_at"),
    }.items():
        changes = ", ".join(f"{column} = {column} - %s::interval" for column in columns)
        db.sql(f"update {table} set {changes}", *[wait] * len(columns))


def time_comes(db: Database) -> None:
    """Every wait, and every claim, is over, the oldest page's first."""
    db.sql(
        "update payments.attempts set reconcile_at = now() - interval '1 hour' + number * interval '1 s'"
        " where reconcile_at is not null"
    )


def all_is_over(db: Database, page: Row) -> None:
    """Session and page have expired, and it is time to ask for the last time."""
    last = db.value(
        "select greatest(a.expires_at, s.expires_at) - now() + interval '2 minutes' from payments.attempts as a"
        " join public.payment_checkout_sessions as s on s.id = a.session_id where a.number = %s",
        page["number"],
    )
    time_passes(db, last)


def reviews(db: Database, page: Row) -> list[tuple[str | None, str]]:
    """The audit trail's details and sources of giving up."""
    events = db.events(page["session_id"])
    return [(event["detail"], event["source"]) for event in events if event["reason"] == "reconcile_gave_up"]


def new_page(db: Database) -> Row:
    return db.open_attempt(db.new_session())


@pytest.fixture(autouse=True)
def _no_guarantee_is_broken_at_the_end(db: Database) -> Iterator[None]:
    yield
    assert db.as_service().rpc("check_payment_invariants") == []


class TestSchedule:
    def test_the_first_question_is_a_minute_after_the_page_was_opened(self, db: Database, attempt: Row) -> None:
        row = page_row(db, attempt)
        assert row["reconcile_at"] - row["created_at"] == MINUTE
        assert claim(db) == []

    @pytest.mark.parametrize("result", ["asked", "failed"])
    def test_the_waits_grow_to_an_hour_which_repeats_for_as_long_as_the_page_can_be_paid(
        self, db: Database, attempt: Row, result: str
    ) -> None:
        waits = []
        while (wait := ask(db, attempt, result)) is not None:
            waits.append(wait)
        # after the first minute; what is left at the end of the 24 hours is shorter
        assert waits[:-1] == [5 * MINUTE, 15 * MINUTE, *[HOUR] * 23]
        assert MINUTE < waits[-1] < HOUR
        assert page_row(db, attempt)["reconcile_tries"] == len(waits) + 1
        time_passes(db, 100 * HOUR)
        assert claim(db) == []

    def test_the_last_question_is_asked_a_minute_after_the_page_has_expired(self, db: Database, attempt: Row) -> None:
        for _ in GROWING:
            ask(db, attempt)
        db.sql("update payments.attempts set expires_at = now() + interval '90 minutes'")
        db.sql("update public.payment_checkout_sessions set expires_at = now() + interval '80 minutes'")
        assert ask(db, attempt) is not None
        assert next_time(db, attempt) == page_row(db, attempt)["expires_at"] + MINUTE
        assert ask(db, attempt) is None

    def test_the_waits_are_a_setting(self, db: Database, user: uuid.UUID) -> None:
        db.sql("update payments.settings set reconcile_after = array['2 minutes', '30 minutes']::interval[]")
        page = db.open_attempt(db.new_session(user))
        row = page_row(db, page)
        assert row["reconcile_at"] - row["created_at"] == 2 * MINUTE
        assert [ask(db, page) for _ in range(3)] == [30 * MINUTE] * 3

    @pytest.mark.parametrize("wrong", ["{}", "{0}", "{1 minute,-1 hour}"])
    def test_waits_that_are_none_are_refused(self, db: Database, wrong: str) -> None:
        with refused("23514"):
            db.sql("update payments.settings set reconcile_after = %s::text::interval[]", wrong)

    def test_a_page_that_outlives_its_session_is_asked_about_until_it_has_expired(
        self, db: Database, user: uuid.UUID
    ) -> None:
        session_id = db.new_session(user)
        db.sql("update public.payment_checkout_sessions set expires_at = now() + interval '1 minute'")
        page = db.open_attempt(session_id)
        db.lapse(session_id)
        db.as_service().rpc("expire_old_checkout_sessions")
        while ask(db, page) is not None:
            assert db.session(session_id)["status"] == "expired"
        row = page_row(db, page)
        assert row["reconcile_at"] is None
        assert row["expires_at"] <= db.value("select now()")

    def test_a_new_page_of_the_session_starts_again_with_short_waits(
        self, db: Database, session_id: uuid.UUID, attempt: Row
    ) -> None:
        for _ in GROWING:
            ask(db, attempt)
        db.sql("update payments.attempts set expires_at = now()")
        newer = db.open_attempt(session_id)
        assert newer["number"] != attempt["number"]
        assert page_row(db, newer)["reconcile_at"] - page_row(db, newer)["created_at"] == MINUTE
        time_comes(db)
        assert [(row["reference"], row["tries"]) for row in claim(db)] == [(newer["reference"], 1)]

    def test_an_answer_about_a_page_that_was_replaced_meanwhile_does_not_end_the_new_ones_questions(
        self, db: Database, session_id: uuid.UUID, attempt: Row
    ) -> None:
        time_comes(db)
        assert claimed(db) == [attempt["reference"]]
        db.sql("update payments.attempts set expires_at = now()")
        newer = db.open_attempt(session_id)
        finish(db, session_id)
        time_comes(db)
        assert claimed(db) == [newer["reference"]]

    def test_a_worker_that_was_down_for_days_asks_once_more(self, db: Database, attempt: Row) -> None:
        time_passes(db, 100 * HOUR)
        db.as_service().rpc("expire_old_checkout_sessions")
        assert claimed(db) == [attempt["reference"]]
        finish(db, attempt["session_id"])
        time_passes(db, 100 * HOUR)
        assert (claim(db), next_time(db, attempt)) == ([], None)


class TestTheEnd:
    def test_a_session_that_nobody_paid_ends_quietly(self, db: Database, attempt: Row) -> None:
        all_is_over(db, attempt)
        claim(db)
        finish(db, attempt["session_id"])
        assert next_time(db, attempt) is None
        assert (db.session(attempt["session_id"])["review_reason"], reviews(db, attempt)) == (None, [])

    @pytest.mark.parametrize("expired", [True, False])
    def test_a_provider_that_could_not_be_asked_at_the_end_is_for_a_person(
        self, db: Database, attempt: Row, expired: bool
    ) -> None:
        all_is_over(db, attempt)
        if expired:
            db.as_service().rpc("expire_old_checkout_sessions")
        claim(db)
        finish(db, attempt["session_id"], "failed", p_detail="503 Service Unavailable")
        assert db.session(attempt["session_id"])["review_reason"] == "reconcile_gave_up"
        assert reviews(db, attempt) == [("503 Service Unavailable", "reconcile")]
        (alert,) = db.sql("select kind, occurrence, email from payments.notifications")
        assert alert == {"kind": "review_alert", "occurrence": "reconcile_gave_up", "email": None}
        assert next_time(db, attempt) is None

    @pytest.mark.parametrize("expired", [False, True])
    def test_a_delayed_payment_whose_end_was_never_told_is_for_a_person(
        self, db: Database, attempt: Row, expired: bool
    ) -> None:
        db.apply(attempt, "processing")
        all_is_over(db, attempt)
        if expired:
            db.as_service().rpc("expire_old_checkout_sessions")
        assert claimed(db) == [attempt["reference"]]
        finish(db, attempt["session_id"], p_detail="still processing")
        assert db.session(attempt["session_id"])["review_reason"] == "reconcile_gave_up"
        assert reviews(db, attempt) == [("still processing", "reconcile")]

    def test_a_delayed_payment_is_asked_about_for_as_long_as_its_session_waits(
        self, db: Database, attempt: Row
    ) -> None:
        db.apply(attempt, "processing")
        time_passes(db, timedelta(days=13))
        claim(db)
        _, now = at_a_known_time(db, "finish_reconcile", p_session_id=attempt["session_id"], p_result="asked")
        at = next_time(db, attempt)
        assert at is not None
        assert at > now
        assert reviews(db, attempt) == []

    def test_failures_on_the_way_are_forgiven_when_the_last_question_is_answered(
        self, db: Database, attempt: Row
    ) -> None:
        for _ in GROWING:
            ask(db, attempt, "failed")
        all_is_over(db, attempt)
        claim(db)
        finish(db, attempt["session_id"])
        assert (db.session(attempt["session_id"])["review_reason"], reviews(db, attempt)) == (None, [])

    def test_giving_up_twice_is_said_once(self, db: Database, attempt: Row) -> None:
        all_is_over(db, attempt)
        claim(db)
        for _ in range(2):
            finish(db, attempt["session_id"], "failed", p_detail="timeout")
        assert reviews(db, attempt) == [("timeout", "reconcile")]

    @pytest.mark.parametrize(("detail", "kept"), [(None, None), ("é" * 1001, "é" * 1000)], ids=["none", "long"])
    def test_the_detail_may_be_missing_and_is_cut(
        self, db: Database, attempt: Row, detail: str | None, kept: str | None
    ) -> None:
        all_is_over(db, attempt)
        claim(db)
        finish(db, attempt["session_id"], "failed", p_detail=detail)
        assert reviews(db, attempt) == [(kept, "reconcile")]

    def test_giving_up_hides_no_other_reason(self, db: Database, attempt: Row) -> None:
        db.apply(attempt, amount=1)
        assert db.state(attempt["session_id"]) == ("failed", "none", "amount_mismatch")
        all_is_over(db, attempt)
        claim(db)
        finish(db, attempt["session_id"], "failed")
        assert db.session(attempt["session_id"])["review_reason"] == "amount_mismatch, reconcile_gave_up"

    def test_money_that_the_last_question_finds_completes_the_expired_session_and_ends_the_questions(
        self, db: Database, user: uuid.UUID, session_id: uuid.UUID, attempt: Row
    ) -> None:
        all_is_over(db, attempt)
        db.as_service().rpc("expire_old_checkout_sessions")
        assert claimed(db) == [attempt["reference"]]
        db.apply(attempt, source="reconcile")
        finish(db, session_id)
        assert db.state(session_id) == ("completed", "fulfilled", None)
        assert [event["source"] for event in db.events(session_id)] == ["cron", "reconcile"]
        assert (db.entries(user), next_time(db, attempt)) == ([100], None)

    @pytest.mark.parametrize("result", ["asked", "failed"])
    def test_money_that_a_webhook_brings_meanwhile_leaves_nothing_for_a_person(
        self, db: Database, session_id: uuid.UUID, attempt: Row, result: str
    ) -> None:
        all_is_over(db, attempt)
        claim(db)
        db.apply(attempt)
        finish(db, session_id, result)
        assert (db.state(session_id), next_time(db, attempt)) == (("completed", "fulfilled", None), None)

    def test_the_first_answer_that_finds_the_money_ends_the_questions(self, db: Database, attempt: Row) -> None:
        time_comes(db)
        claim(db)
        db.apply(attempt, source="reconcile")
        finish(db, attempt["session_id"])
        assert next_time(db, attempt) is None

    @pytest.mark.parametrize("status", ENDED)
    def test_the_end_of_the_page_ends_the_questions(self, db: Database, attempt: Row, status: str) -> None:
        time_comes(db)
        claim(db)
        db.apply(attempt, status, source="reconcile")
        finish(db, attempt["session_id"])
        assert (next_time(db, attempt), reviews(db, attempt)) == (None, [])


class TestFinishing:
    @pytest.mark.parametrize("result", [None, "", "done", "ASKED", "asked "])
    def test_any_other_result_is_refused_and_changes_nothing(
        self, db: Database, attempt: Row, result: str | None
    ) -> None:
        before = db.everything()
        with refused("PT422", "invalid_input"):
            finish(db, attempt["session_id"], result)
        assert db.everything() == before

    @pytest.mark.parametrize("nobody", [None, uuid.UUID(int=1)], ids=str)
    def test_a_session_that_is_not_there_is_not_found(self, db: Database, nobody: uuid.UUID | None) -> None:
        with refused("PT404", "session_not_found"):
            finish(db, nobody)

    def test_a_session_without_a_page_has_nothing_to_finish(self, db: Database, session_id: uuid.UUID) -> None:
        db.lapse(session_id)
        before = db.everything()
        for result in ("asked", "failed"):
            finish(db, session_id, result)
        assert db.everything() == before

    def test_a_session_that_has_left_the_queue_does_not_come_back(self, db: Database, attempt: Row) -> None:
        db.apply(attempt)
        time_comes(db)
        claim(db)
        before = db.everything()
        for result in ("asked", "failed"):
            finish(db, attempt["session_id"], result)
        assert db.everything() == before

    def test_only_the_service_takes_part(self, db: Database, user: uuid.UUID, attempt: Row) -> None:
        for caller in (db.as_user(user), db.as_anon()):
            with refused("42501"):
                caller.rpc("claim_sessions_to_reconcile")
            with refused("42501"):
                caller.rpc("finish_reconcile", p_session_id=attempt["session_id"], p_result="asked")

    def test_an_answer_waits_for_a_payment_under_way_and_sees_it(self, db: Database, attempt: Row) -> None:
        all_is_over(db, attempt)
        claim(db)
        with db.as_service().request() as first:
            call(first, "complete_checkout_session", p_session_id=attempt["session_id"], p_provider_payment_id="pi_1")
            second = start_and_see_it_wait(db, partial(finish, db, attempt["session_id"], "failed"))
        second.result(WAIT)
        assert db.state(attempt["session_id"]) == ("completed", "fulfilled", None)


def without_a_page(db: Database) -> Row:
    attempt: Row = db.as_service().rpc("open_checkout_attempt", p_session_id=db.new_session())
    return attempt


def given_up(db: Database) -> Row:
    attempt = without_a_page(db)
    db.as_service().rpc("abandon_checkout_attempt", p_attempt=attempt["number"], p_error_code="provider_down")
    return attempt


def ended(status: str) -> Callable[[Database], Row]:
    def make(db: Database) -> Row:
        page = new_page(db)
        db.apply(page, status)
        return page

    return make


def settled(db: Database) -> Row:
    page = new_page(db)
    db.apply(page, provider_payment_id=f"pi_{page['number']}")
    return page


def refunded(db: Database) -> Row:
    page = settled(db)
    db.as_service().rpc(
        "refund_checkout_session",
        p_session_id=page["session_id"], p_provider_refund_id=f"re_{page['number']}", p_amount=500,
    )  # fmt: skip
    return page


def replaced(db: Database) -> Row:
    page = new_page(db)
    db.as_service().rpc("open_checkout_attempt", p_session_id=page["session_id"], p_provider="paystack")
    return page


def of_a_deleted_session(db: Database) -> Row:
    page = new_page(db)
    db.sql("delete from public.payment_checkout_sessions where id = %s", page["session_id"])
    return page


def of_a_deleted_user(db: Database) -> Row:
    page = new_page(db)
    db.sql("delete from auth.users where id = %s", page["user_id"])
    return page


DEAD: dict[str, Callable[[Database], Row]] = {
    "without a page": without_a_page,
    "given up": given_up,
    "settled": settled,
    "refunded": refunded,
    "replaced": replaced,
    "of a deleted session": of_a_deleted_session,
    "of a deleted user": of_a_deleted_user,
    **{status: ended(status) for status in ENDED},
}


class TestWhoIsAskedAbout:
    def test_the_worker_gets_what_names_the_page_and_nothing_else(
        self, db: Database, session_id: uuid.UUID, attempt: Row
    ) -> None:
        time_comes(db)
        assert claim(db) == [
            {
                "session_id": session_id, "provider": "stripe", "reference": attempt["reference"],
                "provider_session_id": attempt["provider_session_id"], "tries": 1,
            }
        ]  # fmt: skip

    @pytest.mark.parametrize("kind", DEAD)
    def test_what_needs_no_question_leaves_the_queue_and_is_not_handed_out(self, db: Database, kind: str) -> None:
        dead, alive = DEAD[kind](db), new_page(db)
        time_comes(db)
        assert claimed(db) == [alive["reference"]]
        row = page_row(db, dead)
        assert (row["reconcile_at"], row["reconcile_tries"]) == (None, 0)

    def test_a_delayed_payment_is_asked_about(self, db: Database, attempt: Row) -> None:
        db.apply(attempt, "processing")
        time_comes(db)
        assert claimed(db) == [attempt["reference"]]

    @pytest.mark.parametrize("end", [Database.close, Database.lapse], ids=["cancelled", "lapsed"])
    def test_a_session_that_ended_while_its_page_can_still_be_paid_is_asked_about(
        self, db: Database, attempt: Row, end: Callable[[Database, uuid.UUID | str], None]
    ) -> None:
        end(db, attempt["session_id"])
        db.as_service().rpc("expire_old_checkout_sessions")
        time_comes(db)
        assert claimed(db) == [attempt["reference"]]

    def test_the_page_of_a_superseded_session_is_asked_about_like_that_of_the_new_one(
        self, db: Database, user: uuid.UUID, attempt: Row
    ) -> None:
        newer = db.open_attempt(db.new_session(user, p_provider="paystack"))
        time_comes(db)
        assert set(claimed(db)) == {attempt["reference"], newer["reference"]}

    def test_dead_rows_do_not_block_those_behind_them(self, db: Database) -> None:
        for make in DEAD.values():
            make(db)
        dead = db.value("select count(*) from payments.attempts where reconcile_at is not null")
        alive = new_page(db)
        time_comes(db)
        # "replaced" leaves a page behind that has not been opened, so there are more of them than ways to die
        assert dead > len(DEAD)
        rounds = [claimed(db, 3) for _ in range(dead // 3 + 1)]
        assert [reference for found in rounds for reference in found] == [alive["reference"]]
        assert db.as_service().rpc("payment_health")["reconcile"]["due"] == 0


class TestWhatIsNotForgotten:
    """Whatever can still bring money stays in the queue, however the news about it came in."""

    def test_a_page_that_was_opened_late_under_an_earlier_attempt_is_asked_about(
        self, db: Database, session_id: uuid.UUID
    ) -> None:
        attempt = db.as_service().rpc("open_checkout_attempt", p_session_id=session_id)
        time_passes(db, 2 * MINUTE)
        assert claim(db) == []  # there is no page yet: the bridge crashed
        page = db.open_attempt(session_id)
        assert page["number"] == attempt["number"]
        time_comes(db)
        assert claimed(db) == [page["reference"]]

    def test_an_older_page_on_which_a_delayed_payment_began_is_asked_about(self, db: Database) -> None:
        older = replaced(db)
        time_comes(db)
        assert claim(db) == []
        db.apply(older, "processing")
        assert db.session(older["session_id"])["current_attempt"] == older["number"]
        time_comes(db)
        assert claimed(db) == [older["reference"]]

    def test_a_delayed_payment_that_began_after_the_last_question_is_asked_about(
        self, db: Database, attempt: Row
    ) -> None:
        all_is_over(db, attempt)
        claim(db)
        finish(db, attempt["session_id"])
        assert next_time(db, attempt) is None
        db.apply(attempt, "processing")
        assert db.session(attempt["session_id"])["status"] == "processing"
        time_comes(db)
        assert claimed(db) == [attempt["reference"]]

    def test_a_page_that_speaks_for_the_session_after_another_one_ended_is_asked_about(
        self, db: Database, session_id: uuid.UUID
    ) -> None:
        first = db.open_attempt(session_id)
        db.sql("update payments.attempts set expires_at = now()")
        second = db.open_attempt(session_id)
        db.apply(second, "processing")
        db.apply(first, "processing")
        time_comes(db)
        assert claimed(db) == [second["reference"]]
        db.apply(second, "failed")
        assert db.session(session_id)["current_attempt"] == first["number"]
        time_comes(db)
        assert claimed(db) == [first["reference"]]


class TestClaiming:
    def test_the_oldest_come_first_and_no_more_than_were_asked_for(self, db: Database) -> None:
        pages = [new_page(db)["reference"] for _ in range(3)]
        time_comes(db)
        assert set(claimed(db, 2)) == set(pages[:2])
        assert [claimed(db, 2), claimed(db, 2)] == [pages[2:], []]

    @pytest.mark.parametrize("limit", [-1, None])
    def test_a_limit_that_is_none_is_refused(self, db: Database, limit: int | None) -> None:
        with refused("PT422", "invalid_input"):
            db.as_service().rpc("claim_sessions_to_reconcile", p_limit=limit)

    def test_8_workers_at_once_get_each_page_once(self, db: Database) -> None:
        pages = [new_page(db)["reference"] for _ in range(40)]
        time_comes(db)
        claims = all_at_once([partial(claimed, db, 10)] * 8)
        assert Counter(reference for found in claims for reference in found) == Counter(pages)

    def test_a_worker_does_not_wait_for_another_ones_claim(self, db: Database) -> None:
        pages = {new_page(db)["reference"] for _ in range(4)}
        time_comes(db)
        with db.as_service().request() as first:
            mine = {row["reference"] for row in call(first, "claim_sessions_to_reconcile", p_limit=2)}
            others = set(claimed(db))
        assert (len(mine), len(others), mine | others) == (2, 2, pages)

    def test_a_claim_lasts_5_minutes_and_then_a_crashed_workers_session_comes_back(
        self, db: Database, attempt: Row
    ) -> None:
        time_comes(db)
        (row,), claimed_at = at_a_known_time(db, "claim_sessions_to_reconcile")
        assert next_time(db, attempt) == claimed_at + 5 * MINUTE
        assert claim(db) == []
        time_comes(db)
        assert claim(db) == [row | {"tries": 2}]

    def test_a_crash_at_the_last_question_does_not_lose_it(self, db: Database, attempt: Row) -> None:
        all_is_over(db, attempt)
        claim(db)
        time_passes(db, HOUR)
        assert claimed(db) == [attempt["reference"]]
        finish(db, attempt["session_id"], "failed")
        assert db.session(attempt["session_id"])["review_reason"] == "reconcile_gave_up"

    def test_a_claim_does_not_wait_for_a_payment_under_way(self, db: Database, attempt: Row) -> None:
        time_comes(db)
        with db.as_service().request() as first:
            call(first, "complete_checkout_session", p_session_id=attempt["session_id"], p_provider_payment_id="pi_1")
            assert claimed(db) == [attempt["reference"]]
        time_comes(db)
        assert (claim(db), next_time(db, attempt)) == ([], None)


class TestHeartbeats:
    @staticmethod
    def beat(db: Database, name: str | None) -> None:
        db.as_service().rpc("record_heartbeat", p_name=name)

    @staticmethod
    def heartbeats(db: Database) -> dict[str, datetime]:
        return {row["name"]: row["beat_at"] for row in db.sql("select * from payments.heartbeats")}

    def test_each_worker_is_noted_with_the_time(self, db: Database) -> None:
        expected = {name: at_a_known_time(db, "record_heartbeat", p_name=name)[1] for name in ("worker-1", "worker-2")}
        assert self.heartbeats(db) == expected

    def test_a_later_beat_replaces_the_one_before(self, db: Database) -> None:
        self.beat(db, "worker")
        _, now = at_a_known_time(db, "record_heartbeat", p_name="worker")
        assert self.heartbeats(db) == {"worker": now}

    def test_health_says_how_long_ago_it_was(self, db: Database) -> None:
        self.beat(db, "worker")
        db.sql("update payments.heartbeats set beat_at = now() - interval '2 hours'")
        assert db.as_service().rpc("payment_health")["heartbeats"]["worker"] >= 7200
        self.beat(db, "worker")
        assert db.as_service().rpc("payment_health")["heartbeats"]["worker"] < 7200

    @pytest.mark.parametrize("name", ["w", "é" * 100, "wörker 1:8000 🦊"])
    def test_any_name_of_1_to_100_characters_will_do(self, db: Database, name: str) -> None:
        self.beat(db, name)
        assert set(self.heartbeats(db)) == {name}

    @pytest.mark.parametrize("name", [None, "", "w" * 101])
    def test_no_name_and_a_long_one_are_refused(self, db: Database, name: str | None) -> None:
        with refused("PT422", "invalid_input"):
            self.beat(db, name)
        assert self.heartbeats(db) == {}

    def test_16_beats_at_once_are_one_row(self, db: Database) -> None:
        all_at_once([partial(self.beat, db, "worker")] * 16)
        assert len(self.heartbeats(db)) == 1

    def test_only_the_service_has_a_heart(self, db: Database, user: uuid.UUID) -> None:
        for caller in (db.as_user(user), db.as_anon()):
            with refused("42501"):
                caller.rpc("record_heartbeat", p_name="worker")
        assert self.heartbeats(db) == {}
