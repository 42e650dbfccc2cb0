"""The outbox: what is told to whom, in the transaction of what it tells, and each once; how workers take from it."""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from functools import partial
from typing import Any

import pytest

from tests.sql.answers import answer_or_reason
from tests.support.database import Database, Row, call, outcome, refused
from tests.support.races import all_at_once, start_and_see_it_wait

WAIT = 30  # seconds until a waiter is given up; nothing here takes long
ADDRESS = "buyer@example.test"
WHAT_A_WORKER_GETS = {"id", "session_id", "user_id", "kind", "email", "payload", "tries"}
PURCHASE = {"product_id": "credits_100", "product_name": "100 credits", "amount": 500, "currency": "USD"}


def outbox(db: Database, kind: str | None = None) -> list[Row]:
    """All notifications, or those of one kind, oldest first."""
    return db.sql("select * from payments.notifications where kind = coalesce(%s, kind) order by id", kind)


def told(db: Database) -> list[tuple[str, str]]:
    """The outbox in short: kind and occurrence."""
    return [(row["kind"], row["occurrence"]) for row in outbox(db)]


def alerts(db: Database) -> list[str]:
    """The reasons of which the operator was told."""
    return [row["occurrence"] for row in outbox(db, "review_alert")]


def notification(db: Database, number: int) -> Row:
    (row,) = db.sql("select * from payments.notifications where id = %s", number)
    return row


def claim(db: Database, limit: int = 50) -> list[Row]:
    rows: list[Row] = db.as_service().rpc("claim_notifications", p_limit=limit)
    return rows


def finish(db: Database, number: int | None, error: str | None = None) -> None:
    db.as_service().rpc("finish_notification", p_id=number, p_error=error)


def at_a_known_time(db: Database, function: str, **arguments: Any) -> tuple[Any, datetime]:
    """The answer of a call of the service, and what the time was for it."""
    with db.as_service().request() as connection:
        answer = call(connection, function, **arguments)
        (row,) = connection.execute("select now() as now").fetchall()
        return answer, row["now"]


def time_comes(db: Database) -> None:
    """Every wait, and every claim, is over."""
    db.sql("update payments.notifications set due_at = now() - interval '1 s'")


def many_receipts(db: Database, count: int) -> None:
    """Receipts that are due, the first one for longest."""
    db.sql(
        "insert into payments.notifications"
        " (session_id, user_id, kind, occurrence, email, payload, due_at, created_at)"
        " select gen_random_uuid(), gen_random_uuid(), 'receipt', '', 'buyer@example.test', '{}',"
        " now() - interval '1 hour' + n * interval '1 s', now() from generate_series(1, %s) as n",
        count,
    )


def settings(db: Database, **values: Any) -> None:
    for name, value in values.items():
        db.sql(f"update payments.settings set {name} = %s", value)


@pytest.fixture(autouse=True)
def _no_guarantee_is_broken_at_the_end(db: Database) -> Iterator[None]:
    yield
    assert db.as_service().rpc("check_payment_invariants") == []


@pytest.fixture
def session_id(db: Database, user: uuid.UUID) -> uuid.UUID:
    """A pending session of a buyer who has an address."""
    return db.new_session(user, p_email=ADDRESS)


@pytest.fixture
def receipt(db: Database, attempt: Row) -> Row:
    """The claimed receipt of a purchase."""
    db.apply(attempt)
    (row,) = claim(db)
    return row


class TestReceipt:
    def test_the_worker_gets_address_purchase_and_invoice_number_and_nothing_else(
        self, db: Database, user: uuid.UUID, session_id: uuid.UUID, attempt: Row
    ) -> None:
        db.apply(attempt, provider_customer_id="cus_1", event="evt_1")
        (row,) = claim(db)
        assert set(row) == WHAT_A_WORKER_GETS
        assert (row["session_id"], row["user_id"], row["tries"]) == (session_id, user, 1)
        assert (row["kind"], row["email"]) == ("receipt", ADDRESS)
        (document,) = db.sql("select * from public.payment_invoices")
        number = f"INV-{document['year']}-{document['number']}"
        assert row["payload"] == PURCHASE | {"occurrence": "", "invoice": number}

    def test_the_amount_is_what_was_paid_in_the_currency_of_the_purchase(self, db: Database, user: uuid.UUID) -> None:
        db.apply(db.open_attempt(db.new_session(user, "pro_month", p_email=ADDRESS, p_currency="NGN")))
        (row,) = claim(db)
        assert {name: row["payload"][name] for name in PURCHASE} == {
            "product_id": "pro_month", "product_name": "Pro, one month", "amount": 1800000, "currency": "NGN",
        }  # fmt: skip

    def test_an_invoice_that_could_not_be_numbered_at_once_is_named_as_soon_as_it_is(
        self, db: Database, attempt: Row
    ) -> None:
        other = db.open_attempt(db.new_session())
        with db.as_service().request() as first:
            call(first, "apply_payment_outcome", p_outcome=outcome(other))
            db.apply(attempt)
        (row,) = claim(db)
        assert row["payload"]["invoice"] is None
        assert db.as_service().rpc("number_payment_invoices") == 1
        time_comes(db)
        (row,) = claim(db)
        assert row["payload"]["invoice"].startswith("INV-")

    @pytest.mark.parametrize(
        "replay",
        [
            lambda db, page: db.apply(page, event="evt_1"),
            lambda db, page: db.apply(page, event="evt_2"),
            lambda db, page: db.apply(page, source="return"),
            lambda db, page: db.apply(page, "processing"),
            lambda db, page: db.apply(page, provider_payment_id="pi_second"),
            lambda db, page: db.complete(page["session_id"], p_stripe_session_id=page["provider_session_id"]),
        ],
        ids=["same event", "other event", "return", "late news", "second payment", "complete"],
    )
    def test_whatever_is_replayed_there_is_one_receipt_per_session(
        self, db: Database, attempt: Row, replay: Callable[[Database, Row], Row]
    ) -> None:
        db.apply(attempt, event="evt_1")
        for _ in range(2):
            replay(db, attempt)
        assert len(outbox(db, "receipt")) == 1

    def test_a_replay_after_the_receipt_was_sent_does_not_send_it_again(
        self, db: Database, attempt: Row, receipt: Row
    ) -> None:
        finish(db, receipt["id"])
        db.apply(attempt, source="verify")
        time_comes(db)
        assert claim(db) == []

    def test_32_tellers_at_once_queue_one_receipt(self, db: Database, attempt: Row) -> None:
        all_at_once([partial(db.apply, attempt, event=f"evt_{number % 4}") for number in range(32)])
        assert told(db) == [("receipt", "")]

    def test_a_failed_fulfilment_that_is_retried_queues_no_second_receipt(
        self, db: Database, session_id: uuid.UUID, attempt: Row
    ) -> None:
        db.break_fulfilment("credits")
        db.apply(attempt)
        assert told(db) == [("review_alert", "fulfilment_failed"), ("receipt", "")]
        db.mend_fulfilment("credits")
        db.as_service().rpc("retry_fulfilment", p_session_id=session_id)
        assert len(outbox(db, "receipt")) == 1

    def test_a_buyer_without_an_address_gets_none(self, db: Database, user: uuid.UUID) -> None:
        assert db.apply(db.open_attempt(db.new_session(user)))["status"] == "completed"
        assert outbox(db) == []

    def test_the_address_is_the_one_that_the_session_had_when_it_was_paid(
        self, db: Database, user: uuid.UUID, session_id: uuid.UUID, attempt: Row
    ) -> None:
        assert db.new_session(user, p_email="new@example.test") == session_id
        db.apply(attempt)
        assert [row["email"] for row in claim(db)] == ["new@example.test"]

    def test_a_signed_in_buyers_address_comes_from_the_token(self, db: Database, user: uuid.UUID) -> None:
        caller = db.as_user(user, email=ADDRESS)
        db.apply(db.open_attempt(caller.rpc("get_or_create_checkout_session", p_plan="credits_100")))
        assert [row["email"] for row in claim(db)] == [ADDRESS]

    @pytest.mark.parametrize("wrong", [{"amount": 1}, {"currency": "EUR"}], ids=str)
    def test_the_wrong_money_brings_none(self, db: Database, attempt: Row, wrong: Row) -> None:
        db.apply(attempt, **wrong)
        assert outbox(db, "receipt") == []

    @pytest.mark.parametrize("status", ["pending", "processing", "failed", "expired", "cancelled"])
    def test_news_without_money_brings_none(self, db: Database, attempt: Row, status: str) -> None:
        db.apply(attempt, status)
        assert outbox(db) == []

    def test_late_money_brings_one(self, db: Database, session_id: uuid.UUID, attempt: Row) -> None:
        db.close(session_id)
        db.apply(attempt)
        assert told(db) == [("receipt", "")]

    def test_a_purchase_that_costs_nothing_brings_one_too(self, db: Database, user: uuid.UUID) -> None:
        db.sql("insert into payments.coupons (id, percent_off) values ('FREE', 100)")
        for _ in range(2):
            db.new_session(user, p_email=ADDRESS, p_coupon="free")
        (row,) = claim(db)
        assert row["payload"]["amount"] == 0

    def test_it_is_still_sent_when_the_session_is_gone(self, db: Database, user: uuid.UUID, attempt: Row) -> None:
        db.apply(attempt)
        db.sql("delete from public.payment_checkout_sessions")
        (row,) = claim(db)
        assert (row["user_id"], row["payload"]["product_id"]) == (user, "credits_100")


class TestWithTheFacts:
    """A notification and what it tells commit together or not at all."""

    def test_a_completion_that_is_rolled_back_leaves_none(self, db: Database, attempt: Row) -> None:
        with db.as_service().request() as first:
            call(first, "apply_payment_outcome", p_outcome=outcome(attempt, amount=999))
            first.rollback()
        assert outbox(db) == []

    def test_nobody_can_claim_it_before_the_completion_commits(self, db: Database, attempt: Row) -> None:
        with db.as_service().request() as first:
            call(first, "apply_payment_outcome", p_outcome=outcome(attempt))
            assert claim(db) == []
        assert len(claim(db)) == 1

    def test_a_completion_that_meets_a_deadlock_leaves_none(self, db: Database, attempt: Row) -> None:
        db.break_fulfilment("credits", "40P01")
        with refused("40P01"):
            db.apply(attempt)
        assert outbox(db) == []

    def test_money_is_not_recorded_when_its_receipt_cannot_be_queued(
        self, db: Database, session_id: uuid.UUID, attempt: Row
    ) -> None:
        db.sql("alter table payments.notifications add constraint broken check (kind <> 'receipt')")
        before = db.everything()
        with refused("23514"):
            db.apply(attempt, event="evt_1")
        assert db.everything() == before
        db.sql("alter table payments.notifications drop constraint broken")
        assert db.apply(attempt, event="evt_1")["status"] == "completed"
        assert told(db) == [("receipt", "")]

    def test_who_waits_for_a_completion_that_dies_queues_the_receipt(self, db: Database, attempt: Row) -> None:
        with db.as_service().request() as first:
            call(first, "apply_payment_outcome", p_outcome=outcome(attempt))
            second = start_and_see_it_wait(db, partial(db.apply, attempt, source="return"))
            first.rollback()
        assert second.result(WAIT)["already_completed"] is False
        assert told(db) == [("receipt", "")]


class TestRefundNotice:
    @pytest.fixture(autouse=True)
    def _paid(self, db: Database, attempt: Row) -> None:
        db.apply(attempt)

    @staticmethod
    def refund(db: Database, session_id: uuid.UUID, name: str, amount: int, status: str = "succeeded") -> None:
        db.as_service().rpc(
            "refund_checkout_session",
            p_session_id=session_id, p_provider_refund_id=name, p_amount=amount, p_status=status,
        )  # fmt: skip

    def test_each_refund_is_told_once_with_its_amount(self, db: Database, session_id: uuid.UUID) -> None:
        for name, amount in (("re_1", 200), ("re_2", 300), ("re_1", 200)):
            self.refund(db, session_id, name, amount)
        notices = {row["payload"]["occurrence"]: row for row in claim(db) if row["kind"] == "refund"}
        assert {name: row["payload"]["refund_amount"] for name, row in notices.items()} == {"re_1": 200, "re_2": 300}
        assert {row["email"] for row in notices.values()} == {ADDRESS}
        assert len(outbox(db, "refund")) == 2
        (invoice,) = db.sql("select * from public.payment_invoices where kind = 'invoice'")
        assert notices["re_1"]["payload"] == PURCHASE | {
            "refund_amount": 200, "occurrence": "re_1", "invoice": f"INV-{invoice['year']}-{invoice['number']}",
        }  # fmt: skip

    def test_it_is_told_when_the_money_is_back_and_not_before(self, db: Database, session_id: uuid.UUID) -> None:
        self.refund(db, session_id, "re_1", 200, "pending")
        assert outbox(db, "refund") == []
        self.refund(db, session_id, "re_1", 200)
        assert len(outbox(db, "refund")) == 1
        self.refund(db, session_id, "re_1", 200, "failed")
        assert len(outbox(db, "refund")) == 1

    def test_a_refund_that_failed_is_not_told(self, db: Database, session_id: uuid.UUID) -> None:
        self.refund(db, session_id, "re_1", 200, "failed")
        assert outbox(db, "refund") == []

    def test_more_than_was_paid_is_told_the_operator_and_not_the_buyer(
        self, db: Database, session_id: uuid.UUID
    ) -> None:
        self.refund(db, session_id, "re_1", 501)
        assert told(db) == [("receipt", ""), ("review_alert", "refund_exceeds_payment")]

    @pytest.mark.parametrize(("kind", "expected"), [("refund", ("refund", "re_1")),
                                                    ("dispute", ("review_alert", "dispute_reported"))])  # fmt: skip
    def test_what_the_provider_reports_is_told_once(
        self, db: Database, attempt: Row, kind: str, expected: tuple[str, str]
    ) -> None:
        back = {"provider_refund_id": "re_1", "amount": 500, "status": "succeeded", "kind": kind}
        for event in ("evt_1", "evt_1", "evt_2"):
            db.apply(attempt, event=event, refunds=[back])
        assert told(db) == [("receipt", ""), expected]

    def test_a_buyer_without_an_address_gets_none(self, db: Database) -> None:
        session_id = db.new_session(db.new_user(), "credits_500")
        db.apply(db.open_attempt(session_id))
        self.refund(db, session_id, "re_9", 200)
        assert [row for row in outbox(db) if row["session_id"] == session_id] == []

    def test_a_refund_that_is_rolled_back_leaves_none(self, db: Database, session_id: uuid.UUID) -> None:
        with db.as_service().request() as first:
            call(first, "refund_checkout_session", p_session_id=session_id, p_provider_refund_id="re_1", p_amount=500)
            first.rollback()
        assert told(db) == [("receipt", "")]


def pay_twice(db: Database, page: Row) -> None:
    db.apply(page)
    db.apply(page, provider_payment_id="pi_second")


def pay_an_older_session_too(db: Database, page: Row) -> None:
    user = db.session(page["session_id"])["user_id"]
    db.close(page["session_id"])
    db.complete(db.new_session(user, p_email=ADDRESS), p_provider_payment_id="pi_newer")
    db.apply(page)


def pay_what_cannot_be_fulfilled(db: Database, page: Row) -> None:
    db.break_fulfilment("credits")
    db.apply(page)


def dispute(db: Database, page: Row) -> None:
    db.apply(page)
    db.apply(page, disputed=True)


TROUBLES: dict[str, Callable[[Database, Row], Any]] = {
    "amount_mismatch": lambda db, page: db.apply(page, amount=499),
    "currency_mismatch": lambda db, page: db.apply(page, currency="EUR"),
    "overpaid": lambda db, page: db.apply(page, amount=501),
    "duplicate_payment": pay_twice,
    "paid_twice": pay_an_older_session_too,
    "fulfilment_failed": pay_what_cannot_be_fulfilled,
    "dispute_reported": dispute,
}


class TestReviewAlert:
    @pytest.mark.parametrize("reason", TROUBLES)
    def test_each_reason_is_told_the_operator_and_not_the_buyer(self, db: Database, attempt: Row, reason: str) -> None:
        TROUBLES[reason](db, attempt)
        (row,) = [row for row in claim(db) if row["kind"] == "review_alert"]
        assert (str(row["session_id"]), row["email"]) == (attempt["session_id"], None)
        assert db.session(attempt["session_id"])["review_reason"] == reason
        assert row["payload"] | {"invoice": None} == PURCHASE | {"occurrence": reason, "invoice": None}

    @pytest.mark.parametrize("reason", TROUBLES)
    def test_a_buyer_without_an_address_does_not_keep_the_operator_from_being_told(
        self, db: Database, reason: str
    ) -> None:
        TROUBLES[reason](db, db.open_attempt(db.new_session()))
        assert alerts(db) == [reason]

    def test_the_same_reason_again_is_told_once_and_a_new_one_is_told(self, db: Database, attempt: Row) -> None:
        db.apply(attempt)
        for payment in ("pi_a", "pi_b", "pi_a", "pi_c"):
            db.apply(attempt, provider_payment_id=payment)
        assert alerts(db) == ["duplicate_payment"]
        for _ in range(2):
            db.apply(attempt, disputed=True)
        assert alerts(db) == ["duplicate_payment", "dispute_reported"]
        assert db.session(attempt["session_id"])["review_reason"] == "duplicate_payment, dispute_reported"

    def test_a_retry_that_fails_like_the_first_time_is_not_told_again(self, db: Database, attempt: Row) -> None:
        pay_what_cannot_be_fulfilled(db, attempt)
        for _ in range(2):
            db.as_service().rpc("retry_fulfilment", p_session_id=attempt["session_id"])
        assert alerts(db) == ["fulfilment_failed"]

    def test_reasons_that_come_together_are_told_and_none_of_them_again_later(self, db: Database, attempt: Row) -> None:
        db.break_fulfilment("credits")
        db.apply(attempt, amount=501)
        first = alerts(db)
        assert set(", ".join(first).split(", ")) == {"overpaid", "fulfilment_failed"}
        db.as_service().rpc("retry_fulfilment", p_session_id=attempt["session_id"])
        assert alerts(db) == first

    def test_16_second_payments_at_once_are_told_once(self, db: Database, attempt: Row) -> None:
        db.apply(attempt)
        all_at_once([partial(db.apply, attempt, provider_payment_id=f"pi_x{number}") for number in range(16)])
        assert alerts(db) == ["duplicate_payment"]


class TestClaiming:
    def test_the_oldest_come_first_and_no_more_than_were_asked_for(self, db: Database) -> None:
        many_receipts(db, 5)
        expected = [row["id"] for row in outbox(db)]
        assert sorted(row["id"] for row in claim(db, 2)) == expected[:2]
        assert sorted(row["id"] for row in claim(db, 2)) == expected[2:4]
        assert [row["id"] for row in claim(db, 2)] == expected[4:]
        assert claim(db, 2) == []

    def test_50_at_a_time_unless_the_worker_says_otherwise(self, db: Database) -> None:
        many_receipts(db, 51)
        assert [len(db.as_service().rpc("claim_notifications")) for _ in range(2)] == [50, 1]

    def test_what_is_not_due_yet_is_left(self, db: Database, attempt: Row) -> None:
        db.apply(attempt)
        db.sql("update payments.notifications set due_at = now() + interval '1 hour'")
        assert claim(db) == []

    @pytest.mark.parametrize("limit", [-1, None])
    def test_a_limit_that_is_none_is_refused(self, db: Database, limit: int | None) -> None:
        with refused("PT422", "invalid_input"):
            db.as_service().rpc("claim_notifications", p_limit=limit)

    def test_8_workers_at_once_get_each_notification_once(self, db: Database) -> None:
        many_receipts(db, 300)
        claims = all_at_once([partial(claim, db, 50)] * 8)
        taken = Counter(row["id"] for rows in claims for row in rows)
        assert taken == Counter(row["id"] for row in outbox(db))
        assert {row["tries"] for row in outbox(db)} == {1}

    def test_a_worker_does_not_wait_for_another_ones_claim(self, db: Database) -> None:
        many_receipts(db, 4)
        with db.as_service().request() as first:
            mine = {row["id"] for row in call(first, "claim_notifications", p_limit=2)}
            others = {row["id"] for row in claim(db)}
        assert (len(mine), len(others), mine & others) == (2, 2, set())
        assert claim(db) == []

    def test_a_claim_lasts_5_minutes_and_then_a_crashed_workers_notification_comes_back(
        self, db: Database, attempt: Row
    ) -> None:
        db.apply(attempt)
        (row,), claimed_at = at_a_known_time(db, "claim_notifications")
        assert notification(db, row["id"])["due_at"] == claimed_at + timedelta(minutes=5)
        assert claim(db) == []
        time_comes(db)
        assert claim(db) == [row | {"tries": 2}]

    def test_a_claim_that_is_rolled_back_was_none(self, db: Database, attempt: Row) -> None:
        db.apply(attempt)
        with db.as_service().request() as first:
            call(first, "claim_notifications")
            first.rollback()
        assert [row["tries"] for row in claim(db)] == [1]

    def test_neither_buyers_nor_visitors_may_take_or_read(self, db: Database, user: uuid.UUID, receipt: Row) -> None:
        for caller in (db.as_user(user), db.as_anon()):
            with refused("42501"):
                caller.rpc("claim_notifications")
            with refused("42501"):
                caller.rpc("finish_notification", p_id=receipt["id"])
        for reader in (db.as_user(user), db.as_anon(), db.as_service()):
            with refused("42501"):
                reader.sql("select * from payments.notifications")


class TestFinishing:
    def test_without_an_error_it_is_sent_and_never_claimed_again(self, db: Database, receipt: Row) -> None:
        _, now = at_a_known_time(db, "finish_notification", p_id=receipt["id"])
        row = notification(db, receipt["id"])
        assert (row["status"], row["error"], row["finished_at"]) == ("sent", None, now)
        time_comes(db)
        assert claim(db) == []

    @pytest.mark.parametrize("error", [None, "The mailbox is full."])
    def test_finishing_again_changes_nothing(self, db: Database, receipt: Row, error: str | None) -> None:
        finish(db, receipt["id"])
        before = db.everything()
        finish(db, receipt["id"], error)
        assert db.everything() == before

    @pytest.mark.parametrize("error", [None, "The mailbox is full."])
    def test_what_nobody_claimed_cannot_be_finished(self, db: Database, attempt: Row, error: str | None) -> None:
        db.apply(attempt)
        (row,) = outbox(db)
        before = db.everything()
        for number in (row["id"], 999999, None):
            with refused("PT404", "notification_not_claimed"):
                finish(db, number, error)
        assert db.everything() == before

    def test_an_error_brings_it_back_after_growing_waits_until_it_is_dead(self, db: Database, receipt: Row) -> None:
        waits, number = [], receipt["id"]
        while notification(db, number)["status"] == "queued":
            _, now = at_a_known_time(db, "finish_notification", p_id=number, p_error="The mailbox is full.")
            row = notification(db, number)
            if row["status"] == "queued":
                waits.append(row["due_at"] - now)
                assert (row["error"], row["finished_at"]) == ("The mailbox is full.", None)
                assert claim(db) == []
                time_comes(db)
                claim(db)
        assert [wait / timedelta(minutes=1) for wait in waits] == [1, 2, 4, 8, 16, 32, 64]
        assert (row["status"], row["tries"], row["finished_at"]) == ("dead", 8, now)

    @pytest.mark.parametrize(("tries", "minutes"), [(9, 256), (10, 360), (11, 360), (60, 360), (2000, 360)])
    def test_no_wait_is_longer_than_6_hours(self, db: Database, receipt: Row, tries: int, minutes: int) -> None:
        settings(db, notification_tries=5000)
        db.sql("update payments.notifications set tries = %s", tries)
        _, now = at_a_known_time(db, "finish_notification", p_id=receipt["id"], p_error="x")
        assert notification(db, receipt["id"])["due_at"] - now == timedelta(minutes=minutes)

    def test_a_dead_one_is_never_claimed_and_stays_dead(self, db: Database, receipt: Row) -> None:
        settings(db, notification_tries=1)
        finish(db, receipt["id"], "x")
        time_comes(db)
        before = db.everything()
        assert claim(db) == []
        for error in (None, "y"):
            finish(db, receipt["id"], error)
        assert db.everything() == before
        assert db.as_service().rpc("payment_health")["notifications"]["dead"] == 1

    @pytest.mark.parametrize("tries", [1, 3])
    def test_how_often_it_is_tried_is_a_setting(self, db: Database, receipt: Row, tries: int) -> None:
        settings(db, notification_tries=tries)
        statuses = []
        for _ in range(tries):
            finish(db, receipt["id"], "x")
            statuses.append(notification(db, receipt["id"])["status"])
            time_comes(db)
            claim(db)
        assert statuses == ["queued"] * (tries - 1) + ["dead"]

    def test_a_later_success_ends_it_and_forgets_the_error(self, db: Database, receipt: Row) -> None:
        finish(db, receipt["id"], "x")
        time_comes(db)
        claim(db)
        finish(db, receipt["id"])
        row = notification(db, receipt["id"])
        assert (row["status"], row["error"], row["tries"]) == ("sent", None, 2)

    def test_a_long_error_is_cut(self, db: Database, receipt: Row) -> None:
        finish(db, receipt["id"], "é" * 501)
        assert notification(db, receipt["id"])["error"] == "é" * 500

    def test_a_slow_worker_may_still_finish_after_its_claim_has_run_out(self, db: Database, receipt: Row) -> None:
        time_comes(db)
        finish(db, receipt["id"])
        assert claim(db) == []

    def test_a_slow_worker_cannot_bring_back_what_another_one_has_sent_meanwhile(
        self, db: Database, receipt: Row
    ) -> None:
        time_comes(db)
        claim(db)
        finish(db, receipt["id"])
        finish(db, receipt["id"], "x")
        time_comes(db)
        assert claim(db) == []

    def test_8_workers_that_finish_one_at_once_do_not_disturb_each_other(self, db: Database, receipt: Row) -> None:
        answers = all_at_once([partial(answer_or_reason, finish, db, receipt["id"])] * 8)
        assert set(answers) == {None}
        assert notification(db, receipt["id"])["status"] == "sent"

    def test_one_notification_ends_and_the_others_do_not(self, db: Database) -> None:
        many_receipts(db, 3)
        first, second, _ = sorted(row["id"] for row in claim(db))
        finish(db, first)
        finish(db, second, "x")
        assert [row["status"] for row in outbox(db)] == ["sent", "queued", "queued"]
        assert [row["error"] for row in outbox(db)] == [None, "x", None]
