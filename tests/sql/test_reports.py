"""What the figures say: payment_report, payment_health, the views for BI tools; each number from real calls."""

from __future__ import annotations

import re
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from tests.sql.test_cleanup import many_sessions, move_back, rows_read
from tests.support.database import REPOSITORY, Database, Row, call, refused

NOON = datetime.now(UTC).replace(hour=12, minute=0, second=0, microsecond=0)
NOTHING: Row = {
    "created": 0, "opened": 0, "completed": 0, "fulfilled": 0, "expired": 0, "failed": 0, "cancelled": 0, "open": 0,
    "conversion_rate": None, "abandonment_rate": None, "revenue": {}, "refunds": {},
    "average_minutes": None, "median_minutes": None, "retries_per_user": None,
}  # fmt: skip
NO_REMINDERS = {"reminded": 0, "conversion_with_reminder": None, "conversion_without": None, "uplift": None}


def report(db: Database, days: int = 7) -> Row:
    answer: Row = db.as_service().rpc("payment_report", p_days=days)
    assert db.as_service().rpc("check_payment_invariants") == []
    return answer


def noon(days_ago: int) -> datetime:
    return NOON - timedelta(days=days_ago)


def day(days_ago: int) -> str:
    return noon(days_ago).strftime("%Y-%m-%d")


def happened(db: Database, session_id: uuid.UUID, days_ago: int, minutes_to_pay: float = 0) -> uuid.UUID:
    """Let a session have been made at noon of a day, and paid so many minutes later if it is paid."""
    by = db.session(session_id)["created_at"] - noon(days_ago)
    moved = move_back(db, session_id, f"{by.total_seconds()} seconds")
    db.sql(
        "update public.payment_checkout_sessions set completed_at = created_at + %s * interval '1 minute'"
        " where id = %s and completed_at is not null",
        minutes_to_pay, moved,
    )  # fmt: skip
    return moved


def paid(db: Database, user: uuid.UUID, plan: str, **arguments: Any) -> uuid.UUID:
    session_id = db.new_session(user, plan, **arguments)
    db.complete(session_id, p_provider_payment_id=f"pi_{session_id}")
    return session_id


def refund(db: Database, session_id: uuid.UUID, amount: int) -> None:
    db.as_service().rpc(
        "refund_checkout_session", p_session_id=session_id, p_provider_refund_id=f"re_{session_id}", p_amount=amount
    )


def pages(db: Database, session_id: uuid.UUID, number: int) -> Row:
    """So many tries to pay: all but the last page could not be opened."""
    for _ in range(number - 1):
        given_up = db.as_service().rpc("open_checkout_attempt", p_session_id=session_id)
        db.as_service().rpc("abandon_checkout_attempt", p_attempt=given_up["number"], p_error_code="provider_error")
    return db.open_attempt(session_id, f"cs_{session_id}")


@pytest.fixture
def week(db: Database) -> None:
    """Nine sessions of four buyers on three days, and one of the week before."""
    ann, bob, cid, dan = (db.new_user() for _ in range(4))
    db.sql("insert into payments.coupons (id, percent_off) values ('FREE', 100)")
    # three days ago: all paid, two refunded
    happened(db, paid(db, ann, "credits_100"), 3, minutes_to_pay=2)
    nairas = paid(db, ann, "credits_100", p_provider="paystack", p_currency="NGN")
    refund(db, nairas, 250_000)
    happened(db, nairas, 3, minutes_to_pay=10)
    third_try = db.new_session(bob, "pro_month")
    db.apply(pages(db, third_try, 3))
    refund(db, third_try, 1200)
    happened(db, third_try, 3, minutes_to_pay=30)
    # two days ago: none paid
    declined = db.new_session(bob, "credits_100")
    db.apply(pages(db, declined, 2), "failed")
    happened(db, declined, 2)
    forgotten = db.new_session(cid, "credits_100")
    db.apply(pages(db, forgotten, 1), "expired")
    happened(db, forgotten, 2)
    given_up = db.new_session(cid, "credits_500", p_provider="paystack", p_currency="NGN")
    db.close(given_up)
    happened(db, given_up, 2)
    # yesterday: two open ones, and one that cost nothing
    happened(db, db.new_session(dan, "credits_100"), 1)
    slow = db.new_session(dan, "pro_month")
    db.apply(pages(db, slow, 1), "processing")
    happened(db, slow, 1)
    happened(db, db.new_session(dan, "credits_500", p_coupon="free"), 1)
    # too long ago to count
    happened(db, paid(db, ann, "pro_month"), 8, minutes_to_pay=5)


class TestReport:
    def test_an_empty_database_has_a_report_too(self, db: Database) -> None:
        answer = report(db)
        assert datetime.fromisoformat(answer["to"]) - datetime.fromisoformat(answer["from"]) == timedelta(days=7)
        assert answer == {
            "from": answer["from"], "to": answer["to"],
            "totals": NOTHING, "by_day": [], "by_product": [], "by_provider": [],
            "reminders": NO_REMINDERS, "coupons": {},
        }  # fmt: skip

    @pytest.mark.usefixtures("week")
    def test_the_totals_of_a_week(self, db: Database) -> None:
        assert report(db)["totals"] == {
            "created": 9, "opened": 7, "completed": 4, "fulfilled": 4, "expired": 1, "failed": 1,
            "cancelled": 1, "open": 2, "conversion_rate": 0.4444, "abandonment_rate": 0.2222,
            "revenue": {"USD": 1700, "NGN": 750_000}, "refunds": {"USD": 1200, "NGN": 250_000},
            "average_minutes": 10.5, "median_minutes": 6, "retries_per_user": 0.75,
        }  # fmt: skip

    @pytest.mark.usefixtures("week")
    def test_each_day_in_order(self, db: Database) -> None:
        assert report(db)["by_day"] == [
            NOTHING | {
                "day": day(3), "created": 3, "opened": 3, "completed": 3, "fulfilled": 3, "conversion_rate": 1,
                "abandonment_rate": 0, "revenue": {"USD": 1700, "NGN": 750_000},
                "refunds": {"USD": 1200, "NGN": 250_000}, "average_minutes": 14, "median_minutes": 10,
                "retries_per_user": 1,
            },
            NOTHING | {
                "day": day(2), "created": 3, "opened": 2, "expired": 1, "failed": 1, "cancelled": 1,
                "conversion_rate": 0, "abandonment_rate": 0.6667, "retries_per_user": 0.5,
            },
            NOTHING | {
                "day": day(1), "created": 3, "opened": 2, "completed": 1, "fulfilled": 1, "open": 2,
                "conversion_rate": 0.3333, "abandonment_rate": 0, "average_minutes": 0, "median_minutes": 0,
                "retries_per_user": 0,
            },
        ]  # fmt: skip

    @pytest.mark.usefixtures("week")
    def test_each_product(self, db: Database) -> None:
        assert report(db)["by_product"] == [
            NOTHING | {
                "product": "credits_100", "created": 5, "opened": 4, "completed": 2, "fulfilled": 2, "expired": 1,
                "failed": 1, "open": 1,
                "conversion_rate": 0.4, "abandonment_rate": 0.2,
                "revenue": {"USD": 500, "NGN": 750_000}, "refunds": {"NGN": 250_000},
                "average_minutes": 6, "median_minutes": 6, "retries_per_user": 0.25,
            },
            NOTHING | {
                "product": "credits_500", "created": 2, "opened": 1, "completed": 1, "fulfilled": 1, "cancelled": 1,
                "conversion_rate": 0.5, "abandonment_rate": 0.5, "average_minutes": 0,
                "median_minutes": 0, "retries_per_user": 0,
            },
            NOTHING | {
                "product": "pro_month", "created": 2, "opened": 2, "completed": 1, "fulfilled": 1, "open": 1,
                "conversion_rate": 0.5, "abandonment_rate": 0, "revenue": {"USD": 1200}, "refunds": {"USD": 1200},
                "average_minutes": 30, "median_minutes": 30, "retries_per_user": 1,
            },
        ]  # fmt: skip

    @pytest.mark.usefixtures("week")
    def test_each_provider_and_what_needed_none(self, db: Database) -> None:
        lines = {line.pop("provider"): line for line in report(db)["by_provider"]}
        assert list(lines) == ["none", "paystack", "stripe"]
        assert lines["none"] == NOTHING | {
            "created": 1, "opened": 1, "completed": 1, "fulfilled": 1, "conversion_rate": 1, "abandonment_rate": 0,
            "average_minutes": 0, "median_minutes": 0, "retries_per_user": 0,
        }  # fmt: skip
        assert lines["paystack"] == NOTHING | {
            "created": 2, "opened": 1, "completed": 1, "fulfilled": 1, "cancelled": 1, "conversion_rate": 0.5,
            "abandonment_rate": 0.5, "revenue": {"NGN": 750_000}, "refunds": {"NGN": 250_000},
            "average_minutes": 10, "median_minutes": 10, "retries_per_user": 0,
        }  # fmt: skip
        assert lines["stripe"] == NOTHING | {
            "created": 6, "opened": 5, "completed": 2, "fulfilled": 2, "expired": 1, "failed": 1, "open": 2,
            "conversion_rate": 0.3333, "abandonment_rate": 0.1667, "revenue": {"USD": 1700}, "refunds": {"USD": 1200},
            "average_minutes": 16, "median_minutes": 16, "retries_per_user": 0.75,
        }  # fmt: skip

    def test_a_period_is_so_many_times_24_hours_back_from_now(self, db: Database) -> None:
        for hours in (23, 25, 167, 169):
            move_back(db, db.new_session(), f"{hours} hours")
        assert [report(db, days)["totals"]["created"] for days in (1, 2, 7, 8, 3660)] == [1, 2, 3, 4, 4]

    def test_a_day_is_a_day_of_utc_wherever_the_reader_is(self, db: Database) -> None:
        happened(db, db.new_session(), 1)
        with db.as_service().request() as caller:
            caller.execute("set local timezone = 'Pacific/Kiritimati'")  # noon there is the day before in UTC
            (line,) = call(caller, "payment_report")["by_day"]
        assert line["day"] == day(1)

    @pytest.mark.parametrize("days", [0, -1, None, 3661, 4000, 2**31 - 1])
    def test_a_period_that_makes_no_sense_is_refused(self, db: Database, days: int | None) -> None:
        with refused("PT422", "invalid_input"):
            db.as_service().rpc("payment_report", p_days=days)

    def test_what_was_paid_above_the_price_is_no_revenue(self, db: Database) -> None:
        session_id = db.new_session()
        db.apply(db.open_attempt(session_id), amount=700)
        db.complete(session_id, p_provider_payment_id="pi_second")
        assert report(db)["totals"]["revenue"] == {"USD": 500}

    def test_a_refund_that_failed_later_is_none(self, db: Database) -> None:
        session_id = paid(db, db.new_user(), "credits_100")
        refund(db, session_id, 500)
        assert report(db)["totals"]["refunds"] == {"USD": 500}
        db.as_service().rpc(
            "refund_checkout_session", p_session_id=session_id, p_provider_refund_id=f"re_{session_id}", p_amount=500,
            p_status="failed",
        )  # fmt: skip
        assert report(db)["totals"]["refunds"] == {}

    @pytest.mark.parametrize("function", ["payment_report", "payment_health"])
    def test_only_the_service_may_read_it(self, db: Database, function: str) -> None:
        for caller in (db.as_user(db.new_user()), db.as_anon()):
            with refused("42501"):
                caller.rpc(function)

    def test_it_reads_the_sessions_of_its_period_only(self, db: Database) -> None:
        many_sessions(db, 50_000)
        with db.as_service().request(read_only=True) as caller:
            answers = [call(caller, "payment_report", p_days=7) for _ in range(8)]  # generic plans come after five
            read = rows_read(caller)
        assert {answer["totals"]["created"] for answer in answers} <= {699, 700}
        assert (read["seq_scan"], read["seq_tup_read"]) == (0, 0)
        assert read["idx_tup_fetch"] <= 8 * 2 * 710  # twice: the lines, and the reminders


class TestReminders:
    """Of sessions that were still unpaid after settings.reminder_after: how many were paid in the end?"""

    def unpaid(self, db: Database, hours: int = 7, *, consent: bool = True) -> uuid.UUID:
        session_id = db.new_session(p_email="a@b.test", p_metadata={"reminders": consent})
        return move_back(db, session_id, f"{hours} hours")

    def remind(self, db: Database, error: str | None = None) -> None:
        db.as_service().rpc("enqueue_payment_reminders")
        for due in db.as_service().rpc("claim_notifications"):
            db.as_service().rpc("finish_notification", p_id=due["id"], p_error=error)

    def pay(self, db: Database, session_id: uuid.UUID) -> None:
        db.complete(session_id, p_provider_payment_id=f"pi_{session_id}")

    def test_the_uplift_is_what_the_reminded_did_better(self, db: Database) -> None:
        reminded = [self.unpaid(db) for _ in range(4)]
        others = [self.unpaid(db, consent=False) for _ in range(5)]
        self.remind(db)
        for session_id in (*reminded[:3], others[0]):
            self.pay(db, session_id)
        assert report(db)["reminders"] == {
            "reminded": 4, "conversion_with_reminder": 0.75, "conversion_without": 0.2, "uplift": 0.55,
        }  # fmt: skip

    def test_two_reminders_of_a_session_count_once(self, db: Database) -> None:
        session_id = self.unpaid(db)
        self.remind(db)
        db.sql("update payments.notifications set created_at = created_at - interval '7 hours'")
        self.remind(db)
        assert db.value("select count(*) from payments.notifications where status = 'sent'") == 2
        self.pay(db, session_id)
        answer = report(db)
        assert (answer["reminders"]["reminded"], answer["totals"]["created"]) == (1, 1)

    def test_one_that_was_never_sent_reminded_nobody(self, db: Database) -> None:
        self.unpaid(db)
        self.remind(db, error="mailbox full")
        assert report(db)["reminders"] == NO_REMINDERS | {"conversion_without": 0}

    def test_who_paid_before_a_reminder_was_due_is_not_compared(self, db: Database) -> None:
        quick = self.unpaid(db, hours=1)
        self.pay(db, quick)
        move_back(db, quick, "20 hours")
        assert report(db)["reminders"] == NO_REMINDERS

    def test_who_can_still_be_reminded_in_time_is_not_compared(self, db: Database) -> None:
        self.unpaid(db, hours=1)
        assert report(db)["reminders"] == NO_REMINDERS

    @pytest.mark.parametrize("end", ["cancelled", "failed", "expired"])
    def test_a_session_that_ended_before_a_reminder_was_due_is_not_compared(self, db: Database, end: str) -> None:
        session_id = self.unpaid(db, hours=0)
        db.apply(db.open_attempt(session_id), end)
        move_back(db, session_id, "20 hours")
        assert report(db)["reminders"] == NO_REMINDERS


class TestCoupons:
    @pytest.fixture
    def capped(self, db: Database) -> None:
        db.sql("insert into payments.coupons (id, percent_off, max_redemptions) values ('ONE', 10, 1)")

    def expired(self, db: Database, coupon: str) -> uuid.UUID:
        session_id = db.new_session(p_coupon=coupon)
        db.lapse(session_id)
        assert db.as_service().rpc("expire_old_checkout_sessions") == 1
        return session_id

    def test_each_coupon_with_what_became_of_it(self, db: Database) -> None:
        db.sql("insert into payments.coupons (id, percent_off) values ('SAVE', 10), ('OTHER', 20), ('UNUSED', 30)")
        for _ in range(2):
            paid(db, db.new_user(), "credits_100", p_coupon="save")
        db.new_session(p_coupon="SAVE")
        self.expired(db, "SAVE")
        self.expired(db, "OTHER")
        assert report(db)["coupons"] == {
            "SAVE": {"redeemed": 2, "reserved": 1, "paid_late": 0, "above_cap": 0},
            "OTHER": {"redeemed": 0, "reserved": 0, "paid_late": 0, "above_cap": 0},
        }

    @pytest.mark.usefixtures("capped")
    def test_late_money_that_still_found_its_place(self, db: Database) -> None:
        late = self.expired(db, "ONE")
        db.complete(late, p_provider_payment_id="pi_late")
        assert report(db)["coupons"] == {"ONE": {"redeemed": 1, "reserved": 0, "paid_late": 1, "above_cap": 0}}

    @pytest.mark.usefixtures("capped")
    def test_late_money_whose_place_was_taken_is_above_the_cap(self, db: Database) -> None:
        late = self.expired(db, "ONE")
        paid(db, db.new_user(), "credits_100", p_coupon="ONE")
        db.complete(late, p_provider_payment_id="pi_late")
        assert report(db)["coupons"] == {"ONE": {"redeemed": 2, "reserved": 0, "paid_late": 1, "above_cap": 1}}

    @pytest.mark.usefixtures("capped")
    def test_a_redemption_counts_in_the_period_of_its_session(self, db: Database) -> None:
        move_back(db, paid(db, db.new_user(), "credits_100", p_coupon="ONE"), "8 days")
        assert report(db, 7)["coupons"] == {}
        assert report(db, 9)["coupons"] == {"ONE": {"redeemed": 1, "reserved": 0, "paid_late": 0, "above_cap": 0}}


HEALTHY: dict[str, Row] = {
    "sessions": {"pending_over_1h": 0, "processing": 0, "overdue": 0},
    "reviews": {"open": 0, "paid_but_unfulfilled": 0, "oldest_seconds": None},
    "webhooks": {"failed": 0, "dead": 0, "oldest_seconds": None},
    "notifications": {"due": 0, "oldest_seconds": None, "dead": 0},
    "reconcile": {"due": 0, "oldest_seconds": None},
    "invoices": {"unnumbered": 0, "oldest_seconds": None},
    "heartbeats": {},
    "alerts": {},
}
HOUR = 3600


class TestHealth:
    """Each figure moves by its cause, and by nothing else."""

    def ill(self, db: Database, **areas: Row) -> None:
        """Expect these figures and no others; ages are at least what is given."""
        health = db.as_service().rpc("payment_health")
        pending = db.value("select count(*) from public.payment_checkout_sessions where status = 'pending'")
        assert health["sessions"].pop("pending") == pending
        for area, figures in areas.items():
            for name in ("oldest_seconds",) if area != "heartbeats" else tuple(figures):
                if figures.get(name) is not None:
                    assert figures[name] <= health[area][name] < figures[name] + HOUR, (area, name)
                    figures[name] = health[area][name]
        assert health == {area: values | areas.get(area, {}) for area, values in HEALTHY.items()}

    def test_nothing_waits_in_a_new_installation(self, db: Database) -> None:
        self.ill(db)

    def test_sessions_that_have_been_pending_for_more_than_an_hour(self, db: Database) -> None:
        move_back(db, db.new_session(), "59 minutes")
        self.ill(db)
        move_back(db, db.new_session(), "61 minutes")
        self.ill(db, sessions={"pending_over_1h": 1})

    def test_payments_on_their_way(self, db: Database) -> None:
        db.apply(db.open_attempt(db.new_session()), "processing")
        self.ill(db, sessions={"processing": 1})

    def test_sessions_that_nobody_expires(self, db: Database) -> None:
        move_back(db, db.new_session(), "25 hours")
        self.ill(db, sessions={"pending_over_1h": 1})
        move_back(db, db.new_session(), "27 hours")
        self.ill(db, sessions={"pending_over_1h": 2, "overdue": 1})
        db.as_service().rpc("expire_old_checkout_sessions")
        self.ill(db)

    def test_reviews(self, db: Database) -> None:
        session_id = paid(db, db.new_user(), "credits_100")
        db.complete(session_id, p_provider_payment_id="pi_second")
        move_back(db, session_id, "5 hours")
        alert = {"due": 1, "oldest_seconds": 5 * HOUR}
        self.ill(db, reviews={"open": 1, "oldest_seconds": 5 * HOUR}, notifications=alert)

    def test_money_without_goods(self, db: Database) -> None:
        db.break_fulfilment("credits")
        session_id = paid(db, db.new_user(), "credits_100")
        self.ill(
            db,
            reviews={"open": 1, "paid_but_unfulfilled": 1, "oldest_seconds": 0},
            notifications={"due": 1, "oldest_seconds": 0},
        )
        db.mend_fulfilment("credits")
        db.as_service().rpc("retry_fulfilment", p_session_id=session_id)
        self.ill(db, notifications={"due": 1, "oldest_seconds": 0})

    def test_webhooks_that_could_not_be_applied(self, db: Database) -> None:
        attempt = db.open_attempt(db.new_session())
        for number, retryable in enumerate((True, True, False)):
            db.as_service().rpc(
                "record_webhook_failure", p_provider="stripe",
                p_event={"id": f"evt_{number}", "type": "t", "payload": {}}, p_error="no", p_retryable=retryable,
            )  # fmt: skip
        db.sql("update payments.webhook_events set received_at = now() - interval '2 hours' where event_id = 'evt_1'")
        self.ill(db, webhooks={"failed": 2, "dead": 1, "oldest_seconds": 2 * HOUR})
        db.apply(attempt, event="evt_1")
        self.ill(db, webhooks={"failed": 1, "dead": 1, "oldest_seconds": 0})

    def test_notifications_that_nobody_sends(self, db: Database) -> None:
        move_back(db, paid(db, db.new_user(), "credits_100", p_email="a@b.test"), "3 hours")
        self.ill(db, notifications={"due": 1, "oldest_seconds": 3 * HOUR})
        (claimed,) = db.as_service().rpc("claim_notifications")
        self.ill(db)  # somebody is at it
        db.sql("update payments.settings set notification_tries = 1")
        db.as_service().rpc("finish_notification", p_id=claimed["id"], p_error="mailbox full")
        db.sql("update payments.notifications set due_at = now() - interval '1 hour'")
        self.ill(db, notifications={"dead": 1})

    def test_pages_that_nobody_asks_about(self, db: Database) -> None:
        session_id = db.new_session()
        db.open_attempt(session_id)
        self.ill(db)
        move_back(db, session_id, "31 minutes")
        self.ill(db, reconcile={"due": 1, "oldest_seconds": HOUR // 2})
        db.as_service().rpc("claim_sessions_to_reconcile")
        self.ill(db)

    def test_documents_without_a_number(self, db: Database) -> None:
        paid(db, db.new_user(), "credits_100")
        with psycopg.connect(db.url()) as other:
            other.execute("select from payments.invoice_counters for update")
            session_id = paid(db, db.new_user(), "credits_100")
        self.ill(db, invoices={"unnumbered": 1, "oldest_seconds": 0})
        assert db.as_service().rpc("number_payment_invoices") == 1
        self.ill(db)
        assert db.value("select number from public.payment_invoices where session_id = %s", session_id) == 2

    def test_workers_that_have_stopped(self, db: Database) -> None:
        for worker in ("reconcile", "notify"):
            db.as_service().rpc("record_heartbeat", p_name=worker)
        db.sql("update payments.heartbeats set beat_at = now() - interval '4 hours' where name = 'notify'")
        self.ill(db, heartbeats={"reconcile": 0, "notify": 4 * HOUR})
        db.as_service().rpc("record_heartbeat", p_name="notify")
        self.ill(db, heartbeats={"reconcile": 0, "notify": 0})


class TestViews:
    VIEWS = ("payment_daily_conversion", "payment_daily_revenue", "payment_open_reviews")

    @pytest.mark.usefixtures("week")
    def test_daily_conversion_agrees_with_the_report(self, db: Database) -> None:
        rows = db.as_service().sql("select * from public.payment_daily_conversion")
        assert len(rows) == 9
        (line,) = (
            r for r in rows if (str(r["day"]), r["product_id"], r["provider"]) == (day(3), "pro_month", "stripe")
        )
        figures = {name: line[name] for name in ("created", "completed", "expired", "failed", "cancelled")}
        assert figures == {"created": 1, "completed": 1, "expired": 0, "failed": 0, "cancelled": 0}
        assert line["conversion_rate"] == 1
        for by_day in report(db)["by_day"]:
            of_day = [row for row in rows if str(row["day"]) == by_day["day"]]
            for figure in ("created", "completed", "expired", "failed", "cancelled"):
                assert sum(row[figure] for row in of_day) == by_day[figure], (by_day["day"], figure)

    def test_daily_conversion_is_a_share_of_what_was_made(self, db: Database) -> None:
        paid(db, db.new_user(), "credits_100")
        for _ in range(2):
            db.new_session()
        (row,) = db.as_service().sql("select created, completed, conversion_rate::float from payment_daily_conversion")
        assert row == {"created": 3, "completed": 1, "conversion_rate": 0.3333}

    def test_daily_revenue_comes_from_the_documents(self, db: Database) -> None:
        user = db.new_user()
        first = paid(db, user, "credits_100")
        refund(db, first, 200)
        paid(db, user, "credits_100")
        paid(db, user, "credits_100", p_provider="paystack", p_currency="NGN")
        rows = db.as_service().sql(
            "select product_id, provider, currency, sales, sold, refunded, revenue from payment_daily_revenue"
            " order by provider"
        )
        assert rows == [
            {"product_id": "credits_100", "provider": "paystack", "currency": "NGN",
             "sales": 1, "sold": 750_000, "refunded": 0, "revenue": 750_000},
            {"product_id": "credits_100", "provider": "stripe", "currency": "USD",
             "sales": 2, "sold": 1000, "refunded": 200, "revenue": 800},
        ]  # fmt: skip

    def test_a_refund_counts_on_its_own_day(self, db: Database) -> None:
        session_id = happened(db, paid(db, db.new_user(), "credits_100"), 3)
        refund(db, session_id, 500)
        rows = db.as_service().sql("select day, sales, sold, refunded, revenue from payment_daily_revenue order by 1")
        sold, refunded = ({name: row[name] for name in ("sales", "sold", "refunded", "revenue")} for row in rows)
        assert sold == {"sales": 1, "sold": 500, "refunded": 0, "revenue": 500}
        assert refunded == {"sales": 0, "sold": 0, "refunded": 500, "revenue": -500}
        assert str(rows[0]["day"]) == day(3)

    def test_open_reviews_are_the_sessions_that_wait_for_a_person(self, db: Database) -> None:
        user = db.new_user()
        fine, twice = paid(db, user, "credits_100"), paid(db, user, "pro_month")
        db.complete(twice, p_provider_payment_id="pi_second")
        rows = db.as_service().sql("select * from public.payment_open_reviews")
        assert [(row["session_id"], row["review_reason"], row["amount"], row["status"]) for row in rows] == [
            (twice, "duplicate_payment", 1200, "completed")
        ]
        assert (rows[0]["user_id"], rows[0]["provider_payment_id"]) == (user, f"pi_{twice}")
        assert fine not in {row["session_id"] for row in rows}

    @pytest.mark.parametrize("view", VIEWS)
    def test_nobody_but_the_service_may_read_them(self, db: Database, view: str) -> None:
        assert db.as_service().sql(f"select * from public.{view}") == []
        for caller in (db.as_user(db.new_user()), db.as_anon()):
            with refused("42501"):
                caller.sql(f"select * from public.{view}")

    @pytest.mark.parametrize("change", ["delete from {}", "update {} set review_reason = null"])
    def test_nobody_closes_a_review_through_the_view(self, db: Database, change: str) -> None:
        with refused("42501"):
            db.as_service().sql(change.format("public.payment_open_reviews"))


RUNBOOK = re.findall(
    r"^```sql\n(.*?)^```", (REPOSITORY / "docs/runbook.md").read_text("utf-8"), re.DOTALL | re.MULTILINE
)


class TestRunbook:
    """docs/runbook.md where there is something to find; that it runs at all is tested with the other documents."""

    def run(self, db: Database, naming: str, session_id: uuid.UUID | None = None, email: str = "") -> list[Row]:
        """Run the one block that contains this text, for this session or buyer; rows of its first statement."""
        (block,) = (block for block in RUNBOOK if naming in block)
        block = block.replace("00000000-0000-0000-0000-000000000000", str(session_id))
        return db.sql(block.replace("buyer@example.com", email))

    def test_it_finds_buyers_who_gave_up(self, db: Database) -> None:
        user, stubborn = db.new_user(), db.new_session()
        pages(db, stubborn, 3)
        db.new_session()
        for session_id in (stubborn, db.new_session(user, p_email="a@b.test")):
            move_back(db, session_id, "61 minutes")
        rows = self.run(db, "AND attempts < 3")
        assert [(row["user_id"], row["email"]) for row in rows] == [(user, "a@b.test")]

    def test_it_finds_pages_that_may_have_been_paid(self, db: Database) -> None:
        db.new_session()
        session_id = db.new_session()
        db.open_attempt(session_id, "cs_1")
        rows = self.run(db, "provider_session_id IS NOT NULL")
        assert [(row["id"], row["provider"], row["provider_session_id"]) for row in rows] == [
            (session_id, "stripe", "cs_1")
        ]

    @pytest.mark.usefixtures("week")
    def test_it_counts_conversion_per_day(self, db: Database) -> None:
        rows = self.run(db, "COUNT(CASE WHEN")
        assert [(str(row["day"]), row["created"], row["completed"], float(row["conversion"])) for row in rows] == [
            (day(3), 3, 1, 0.3333), (day(2), 3, 0, 0), (day(1), 3, 1, 0.3333),
        ]  # fmt: skip

    @pytest.mark.parametrize("spelling", ["p_paid_at", "p_stripe_customer_id"])
    def test_it_makes_a_session_for_a_buyer_and_completes_it(self, db: Database, spelling: str) -> None:
        user = db.new_user("somebody@b.test")
        (made,) = self.run(db, "get_or_create_checkout_session", email="somebody@b.test")
        session_id = made["get_or_create_checkout_session"]
        for already in (False, True):
            (answer,) = self.run(db, spelling, session_id)
            assert answer["complete_checkout_session"]["already_completed"] is already
        assert db.entries(user) == [100]
        assert db.session(session_id)["metadata"] == {"by": "support"}
        (event,) = self.run(db, "payments.session_events", session_id)
        assert (event["from_status"], event["to_status"]) == ("pending", "completed")

    def test_it_expires_delivers_and_refunds(self, db: Database) -> None:
        user, lapsed = db.new_user(), db.new_session()
        db.lapse(lapsed)
        assert self.run(db, "expire_old_checkout_sessions") == [{"expire_old_checkout_sessions": 1}]
        db.break_fulfilment("credits")
        unfulfilled = paid(db, user, "credits_100")
        db.mend_fulfilment("credits")
        (row,) = self.run(db, "retry_fulfilment")
        assert (row["session_id"], row["retry_fulfilment"]["fulfilment_status"]) == (unfulfilled, "fulfilled")
        (row,) = self.run(db, "refund_checkout_session", unfulfilled)
        assert row["refund_checkout_session"]["refunded_amount"] == 500
        (row,) = self.run(db, "from payment_refunds as r\nwhere r.created_at")
        assert (row["session_id"], row["amount"], row["reason"]) == (unfulfilled, 500, "the buyer changed their mind")
        assert db.as_service().rpc("check_payment_invariants") == []

    def test_it_closes_a_dead_letter_and_sends_a_dead_message_again(self, db: Database) -> None:
        db.as_service().rpc(
            "record_webhook_failure", p_provider="stripe", p_error="payment_reused", p_retryable=False,
            p_event={"id": "evt_0000", "type": "t", "payload": {}},
        )  # fmt: skip
        (row,) = self.run(db, "e.event_id, e.type, e.error")
        assert (row["event_id"], row["error"]) == ("evt_0000", "payment_reused")
        self.run(db, "close_webhook_failure")
        assert self.run(db, "e.event_id, e.type, e.error") == []
        paid(db, db.new_user(), "credits_100", p_email="a@b.test")
        db.sql("update payments.settings set notification_tries = 1")
        (claimed,) = db.as_service().rpc("claim_notifications")
        db.as_service().rpc("finish_notification", p_id=claimed["id"], p_error="mailbox full")
        assert [row["id"] for row in self.run(db, "retry_notification")] == [claimed["id"]]
        assert [row["id"] for row in db.as_service().rpc("claim_notifications")] == [claimed["id"]]

    def test_its_coupons_can_be_used_and_ended(self, db: Database) -> None:
        self.run(db, "percent_off")
        self.run(db, "amount_off")

        def discount(plan: str, coupon: str) -> Any:
            return db.as_service().rpc("quote_checkout", p_plan=plan, p_coupon=coupon)["discount_amount"]

        assert (discount("credits_100", "welcome20"), discount("credits_500", "five_off")) == (100, 500)
        with refused("PT422", "coupon_not_applicable"):
            discount("credits_100", "five_off")
        self.run(db, "set valid_until = now()")
        with refused("PT422", "coupon_expired"):
            discount("credits_100", "welcome20")

    def test_its_groups_can_be_founded_joined_and_contributed_to(self, db: Database) -> None:
        self.run(db, "insert into payment_products")
        founder, joiner = db.new_user(), db.new_user()
        group = paid(db, founder, "circle")
        paid(db, joiner, "circle_place", p_subject=str(group))
        paid(db, joiner, "circle_month", p_subject=f"{group}:1")
        assert self.run(db, "from payment_groups") == [
            {"name": "A savings circle for twelve", "position": position, "user_id": user, "status": "active",
             "cycles_paid": cycles, "last_cycle": cycles or None}
            for position, user, cycles in ((1, founder, 0), (2, joiner, 1))
        ]  # fmt: skip

    def test_its_settings_hold_from_the_next_call_on(self, db: Database) -> None:
        self.run(db, "session_ttl")
        self.run(db, "array_remove(providers")
        session = db.session(db.new_session())
        assert session["expires_at"] - session["created_at"] == timedelta(hours=2)
        with refused("PT422", "provider_unknown"):
            db.new_session(p_provider="paypal")

    def test_there_is_nothing_to_schedule_without_pg_cron(self, db: Database) -> None:
        assert self.run(db, "schedule_jobs") == [{"schedule_jobs": 0}]
