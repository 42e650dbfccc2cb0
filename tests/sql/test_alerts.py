"""Incidents: opened once, seen to last, closed, opened again; each told by one process until it is told."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from tests.support.database import Database, Row, call, refused
from tests.support.races import all_at_once


def look(db: Database, function: str = "watch_payments") -> list[tuple[str, str, str]]:
    """What was opened and closed."""
    rows: list[Row] = db.as_service().rpc(function)
    return sorted((row["change"], row["kind"], row["subject"]) for row in rows)


def report(db: Database, count: int, kind: str = "signature_failures", provider: str = "stripe") -> None:
    db.as_service().rpc("report_trouble", p_kind=kind, p_subject=provider, p_count=count)


def fail_webhook(db: Database, event: str, reason: str = "price_mismatch", *, dead: bool = True) -> None:
    db.as_service().rpc(
        "record_webhook_failure", p_provider="stripe", p_event={"id": event, "type": "t", "payload": {"name": "Ada"}},
        p_error=reason, p_retryable=not dead,
    )  # fmt: skip


def beat(db: Database, name: str, ago: str) -> None:
    db.sql("insert into payments.heartbeats values (%s, now() - %s::interval)", name, ago)


def kill_letter(db: Database) -> None:
    db.complete(db.new_session(p_email="ada@buyer.test"), p_provider_payment_id="pi_1")
    db.sql("update payments.notifications set status = 'dead'")


def claim(db: Database) -> list[Row]:
    rows: list[Row] = db.as_service().rpc("claim_alerts")
    return rows


def finish(db: Database, number: int, error: str | None = None) -> None:
    db.as_service().rpc("finish_alert", p_id=number, p_error=error)


def orphan(db: Database) -> None:
    attempt = db.open_attempt(db.new_session())
    db.sql("delete from auth.users")
    db.apply(attempt)


INCIDENTS: dict[str, tuple[Callable[[Database], Any], str, str]] = {
    "dead_webhooks": (
        lambda db: fail_webhook(db, "evt_1"), "stripe: price_mismatch", "update payments.webhook_events"
        " set status = 'handled', handled_at = now()",
    ),
    "dead_letters": (kill_letter, "receipt", "update payments.notifications set status = 'queued'"),
    "orphaned_money": (
        orphan, "stripe", "update payments.captures set created_at = created_at - interval '7 days'"
    ),
    "stale_heartbeat": (
        lambda db: beat(db, "host:7", "3 minutes"), "host:7", "update payments.heartbeats set beat_at = now()"
    ),
    "signature_failures": (
        lambda db: report(db, 6), "stripe", "update payments.troubles set minute = minute - interval '1 hour'"
    ),
    "failed_verifications": (
        lambda db: report(db, 11, "failed_verifications", "paypal"), "paypal",
        "update payments.troubles set minute = minute - interval '1 hour'",
    ),
}  # fmt: skip


class TestIncidents:
    def test_nothing_is_wrong_with_a_new_shop(self, db: Database) -> None:
        assert (look(db), look(db, "audit_payments"), claim(db)) == ([], [], [])

    @pytest.mark.parametrize("kind", INCIDENTS)
    def test_each_is_opened_once_closed_and_new_when_it_comes_back(self, db: Database, kind: str) -> None:
        make, subject, mend = INCIDENTS[kind]
        make(db)
        assert look(db) == [("opened", kind, subject)]
        assert look(db) == []
        assert db.as_service().rpc("payment_health")["alerts"] == {kind: 1}
        (alert,) = claim(db)
        assert (alert["kind"], alert["subject"]) == (kind, subject)
        finish(db, alert["id"])
        db.sql(mend)
        assert look(db) == [("closed", kind, subject)]
        assert db.as_service().rpc("payment_health")["alerts"] == {}
        db.sql("update payments.notifications set status = 'dead'")
        db.sql("update payments.webhook_events set status = 'dead', handled_at = null")
        db.sql("update payments.heartbeats set beat_at = now() - interval '3 minutes'")
        if kind not in ("dead_letters", "dead_webhooks", "stale_heartbeat"):
            make(db)
        assert look(db) == [("opened", kind, subject)]
        assert [again["kind"] for again in claim(db)] == [kind]

    @pytest.mark.parametrize(
        "make",
        [
            lambda db: fail_webhook(db, "evt_1", dead=False),
            lambda db: beat(db, "host:7", "110 seconds"),
            lambda db: report(db, 5),
            lambda db: report(db, 10, "failed_verifications"),
            lambda db: all_at_once([partial(report, db, 3, provider=name) for name in ("stripe", "paypal")]),
        ],
        ids=["provider sends it again", "worker is only late", "few forged", "few unanswered", "each below its rate"],
    )
    def test_what_is_no_incident(self, db: Database, make: Callable[[Database], Any]) -> None:
        make(db)
        assert look(db) == []

    def test_reports_of_all_processes_add_up(self, db: Database) -> None:
        all_at_once([partial(report, db, 1)] * 6)
        assert look(db) == [("opened", "signature_failures", "stripe")]

    def test_the_rates_are_settings(self, db: Database) -> None:
        db.sql("update payments.settings set signature_failure_limit = 0, failed_verification_limit = null")
        report(db, 1)
        report(db, 1000, "failed_verifications")
        assert look(db) == [("opened", "signature_failures", "stripe")]

    def test_a_hundred_webhooks_with_the_same_trouble_are_one_incident(self, db: Database) -> None:
        for number in range(3):
            fail_webhook(db, f"evt_{number}")
        fail_webhook(db, "evt_odd", "Ada <ada@buyer.test> has no session")
        assert look(db) == [
            ("opened", "dead_webhooks", "stripe: other"), ("opened", "dead_webhooks", "stripe: price_mismatch")
        ]  # fmt: skip
        told = str(claim(db))
        assert "3 notifications" in told
        assert "Ada" not in told

    def test_what_lasts_says_how_it_is_now(self, db: Database) -> None:
        report(db, 6)
        look(db)
        report(db, 6)
        look(db)
        assert [alert["detail"] for alert in claim(db)] == ["12 in the last hour."]

    def test_a_worker_that_is_gone_for_a_day_is_forgotten_after_it_was_told_of(self, db: Database) -> None:
        beat(db, "host:7", "25 hours")
        assert look(db) == [("opened", "stale_heartbeat", "host:7")]
        assert look(db) == [("closed", "stale_heartbeat", "host:7")]
        assert [alert["subject"] for alert in claim(db)] == ["host:7"]

    def test_one_that_ends_in_good_order_is_not_missed(self, db: Database) -> None:
        for name in ("host:7", "host:8"):
            beat(db, name, "1 hour")
        db.as_service().rpc("forget_heartbeat", p_name="host:7")
        assert look(db) == [("opened", "stale_heartbeat", "host:8")]

    def test_old_reports_are_deleted(self, db: Database) -> None:
        report(db, 1)
        db.sql("update payments.troubles set minute = minute - interval '1 hour'")
        look(db)
        assert db.sql("select * from payments.troubles") == []

    def test_many_watchers_at_once_open_it_once(self, db: Database) -> None:
        beat(db, "host:7", "1 hour")
        answers = all_at_once([partial(look, db)] * 8)
        assert [change for answer in answers for change in answer] == [("opened", "stale_heartbeat", "host:7")]
        assert len(claim(db)) == 1

    def test_while_one_looks_another_does_not_wait(self, db: Database) -> None:
        beat(db, "host:7", "1 hour")
        with db.as_service().request() as connection:
            assert len(call(connection, "watch_payments")) == 1
            assert look(db) == []

    def test_a_broken_guarantee_is_one_incident_that_only_the_audit_opens_and_closes(self, db: Database) -> None:
        for _ in range(2):
            db.complete(db.new_session(), p_provider_payment_id=str(uuid.uuid4()))
        db.sql("update public.payment_credit_balances set balance = balance + 1")
        assert look(db) == []
        incident = ("broken_invariant", "balance_is_the_sum_of_entries")
        assert look(db, "audit_payments") == [("opened", *incident)]
        assert look(db) == look(db, "audit_payments") == []
        (alert,) = claim(db)
        assert alert["detail"] == "2 rows of check_payment_invariants."
        db.sql("update public.payment_credit_balances set balance = balance - 1")
        assert look(db) == []
        assert look(db, "audit_payments") == [("closed", *incident)]


class TestTelling:
    @pytest.fixture
    def alert(self, db: Database) -> Row:
        beat(db, "host:7", "1 hour")
        look(db)
        (alert,) = claim(db)
        return alert

    def test_one_process_tells_and_when_it_dies_another(self, db: Database, alert: Row) -> None:
        assert claim(db) == []
        db.sql("update payments.alerts set due_at = now()")
        (again,) = claim(db)
        assert (again["id"], again["tries"]) == (alert["id"], 2)

    def test_while_one_claims_another_neither_waits_nor_gets_the_same(self, db: Database) -> None:
        beat(db, "host:7", "1 hour")
        look(db)
        with db.as_service().request() as connection:
            assert len(call(connection, "claim_alerts")) == 1
            assert claim(db) == []

    def test_what_was_told_is_not_told_again(self, db: Database, alert: Row) -> None:
        finish(db, alert["id"])
        finish(db, alert["id"], "too late")
        db.sql("update payments.alerts set due_at = now()")
        assert claim(db) == []

    def test_it_is_never_given_up(self, db: Database, alert: Row) -> None:
        waits = []
        for _ in range(12):
            finish(db, alert["id"], "no mail today")
            waits.append(db.value("select round(extract(epoch from due_at - now()) / 60)::int from payments.alerts"))
            db.sql("update payments.alerts set due_at = now()")
            assert len(claim(db)) == 1
        assert waits == [1, 2, 4, 8, 16, 32, *[60] * 6]

    def test_what_was_over_yesterday_is_history(self, db: Database, alert: Row) -> None:
        db.sql("update payments.alerts set due_at = now(), closed_at = now() - interval '23 hours'")
        assert [again["id"] for again in claim(db)] == [alert["id"]]
        db.sql("update payments.alerts set due_at = now(), closed_at = now() - interval '25 hours'")
        assert claim(db) == []

    def test_one_that_was_not_claimed_cannot_be_finished(self, db: Database) -> None:
        beat(db, "host:7", "1 hour")
        look(db)
        with refused("PT404", "notification_not_claimed"):
            finish(db, db.value("select id from payments.alerts"))


class TestReviews:
    """A reason is told each time that it arises, not while it lasts."""

    @pytest.fixture
    def bought(self, db: Database) -> uuid.UUID:
        session_id = db.new_session()
        db.complete(session_id, p_provider_payment_id="pi_1")
        return session_id

    @staticmethod
    def told(db: Database) -> list[str]:
        rows = db.sql("select occurrence from payments.notifications where kind = 'review_alert' order by id")
        return [row["occurrence"] for row in rows]

    def test_one_that_comes_back_after_it_was_cleared_is_told_again(self, db: Database, bought: uuid.UUID) -> None:
        for again in ("", "#2", "#3"):
            self.flag(db, bought, "overpaid")
            self.flag(db, bought, "overpaid")
            assert self.told(db)[-1] == f"overpaid{again}"
            db.sql("update public.payment_checkout_sessions set review_reason = null")
        assert len(self.told(db)) == 3

    def test_reasons_are_counted_each_by_itself(self, db: Database, bought: uuid.UUID) -> None:
        for reason in ("overpaid", "over", "overpaid"):
            self.flag(db, bought, reason)
        assert self.told(db) == ["overpaid", "over"]

    def test_a_delivery_that_fails_again_after_it_worked_is_told_again(self, db: Database, bought: uuid.UUID) -> None:
        self.refund(db, bought, "re_1", broken=True)
        self.refund(db, bought, "re_2", broken=True)
        assert self.told(db) == ["reversal_failed"]
        self.refund(db, bought, "re_3", broken=False)
        assert db.session(bought)["review_reason"] is None
        self.refund(db, bought, "re_4", broken=True)
        assert self.told(db) == ["reversal_failed", "reversal_failed#2"]

    @staticmethod
    def flag(db: Database, session_id: uuid.UUID, reason: str) -> None:
        db.sql(
            "select payments.flag_session(s, %s, 'admin', null, now()) from public.payment_checkout_sessions as s"
            " where s.id = %s", reason, session_id,
        )  # fmt: skip

    @staticmethod
    def refund(db: Database, session_id: uuid.UUID, number: str, *, broken: bool) -> None:
        name = "payments.no_such_function" if broken else "payments.reverse_credits"
        db.sql("update payments.fulfilment_handlers set reverse_function = %s where kind = 'credits'", name)
        db.as_service().rpc(
            "refund_checkout_session", p_session_id=session_id, p_provider_refund_id=number, p_amount=50
        )
