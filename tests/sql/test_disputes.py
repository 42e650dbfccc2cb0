"""Disputes: open they call a person and take nothing, lost they are a refund, won they change nothing."""

from __future__ import annotations

import itertools
import uuid
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.database import Database, Row, call
from tests.support.races import all_at_once, start_and_see_it_wait

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

WAIT = 30  # seconds until a waiter is given up; nothing here takes long
OPEN, LOST, WON = "pending", "succeeded", "failed"
UNHARMED = ("completed", "fulfilled", 0, None)
CONTESTED = ("completed", "fulfilled", 0, "dispute_reported")
GONE = ("refunded", "reversed", 500, "dispute_reported")


def dispute(status: str, amount: int = 500, name: str = "dp_1", **more: Any) -> Row:
    """A dispute as an outcome states it."""
    return {"provider_refund_id": name, "amount": amount, "status": status, "kind": "dispute", **more}


def refund(amount: int, name: str = "re_1", status: str = "succeeded") -> Row:
    return {"provider_refund_id": name, "amount": amount, "status": status}


def report(db: Database, attempt: Row, *takings: Row, event: str | None = None, **said: Any) -> Row:
    """The provider speaks of disputes and refunds only."""
    facts: Row = {"provider": attempt["provider"], "reference": attempt["reference"]}
    answer: Row = db.as_service().rpc(
        "apply_payment_outcome",
        p_outcome=facts | {"refunds": list(takings)} | said,
        p_event={"id": event, "type": "dispute", "payload": {}} if event else None,
    )
    return answer


def standing(db: Database, session_id: uuid.UUID) -> tuple[str, str, int, str | None]:
    """Status, fulfilment, what went back and what a person must look at, when no guarantee is broken."""
    assert db.as_service().rpc("check_payment_invariants") == []
    row = db.session(session_id)
    return row["status"], row["fulfilment_status"], row["refunded_amount"], row["review_reason"]


@pytest.fixture
def paid(db: Database, attempt: Row) -> Row:
    """The page of a session that is paid: 100 credits for 500."""
    db.apply(attempt)
    return attempt


class TestItsCourse:
    def test_while_it_is_open_a_person_is_called_once_and_nothing_is_taken(
        self, db: Database, user: uuid.UUID, session_id: uuid.UUID, paid: Row
    ) -> None:
        for event in ("evt_1", "evt_2"):
            answer = report(db, paid, dispute(OPEN), event=event)
            assert (answer["review_reason"], answer["duplicate"]) == ("dispute_reported", False)
        assert standing(db, session_id) == CONTESTED
        assert db.trail(session_id)[1:] == [("completed", "completed", "dispute_reported")]
        assert db.entries(user) == [100]
        assert db.sql("select kind, status, amount from public.payment_refunds") == [
            {"kind": "dispute", "status": "pending", "amount": 500}
        ]
        assert db.value("select count(*) from payments.notifications where kind = 'review_alert'") == 1

    @pytest.mark.parametrize("opened", [True, False])
    def test_lost_it_takes_the_purchase_back_and_a_person_looks_at_it(
        self, db: Database, user: uuid.UUID, session_id: uuid.UUID, paid: Row, opened: bool
    ) -> None:
        if opened:
            report(db, paid, dispute(OPEN))
        report(db, paid, dispute(LOST))
        assert standing(db, session_id) == GONE
        assert db.trail(session_id)[1:] == [
            ("completed", "completed", "dispute_reported"), ("completed", "refunded", "refunds_changed"),
        ]  # fmt: skip
        assert db.entries(user) == [100, -100]

    def test_lost_in_part_it_takes_that_part(
        self, db: Database, user: uuid.UUID, session_id: uuid.UUID, paid: Row
    ) -> None:
        report(db, paid, dispute(LOST, 125))
        assert standing(db, session_id) == ("partially_refunded", "fulfilled", 125, "dispute_reported")
        assert db.entries(user) == [100, -25]

    def test_what_is_disputed_can_change_until_the_bank_decides(
        self, db: Database, session_id: uuid.UUID, paid: Row
    ) -> None:
        report(db, paid, dispute(OPEN, 500))
        report(db, paid, dispute(OPEN, 300))
        report(db, paid, dispute(LOST, 200))
        assert standing(db, session_id) == ("partially_refunded", "fulfilled", 200, "dispute_reported")
        report(db, paid, dispute(LOST, 500))  # too late
        assert standing(db, session_id)[2:] == (200, "dispute_reported, refund_conflict")

    @pytest.mark.parametrize("before", [OPEN, LOST])
    def test_won_it_gives_everything_back_and_needs_nobody_any_more(
        self, db: Database, user: uuid.UUID, session_id: uuid.UUID, paid: Row, before: str
    ) -> None:
        report(db, paid, dispute(before))
        report(db, paid, dispute(WON))
        assert standing(db, session_id) == UNHARMED
        assert db.balance(user) == 100

    def test_won_before_anybody_heard_of_it_is_no_matter(self, db: Database, session_id: uuid.UUID, paid: Row) -> None:
        report(db, paid, dispute(WON))
        assert standing(db, session_id) == UNHARMED
        assert len(db.trail(session_id)) == 1

    @pytest.mark.parametrize("news", sorted(set(itertools.permutations([OPEN, LOST, WON] * 2, 3))))
    def test_in_any_order_the_furthest_news_counts(
        self, db: Database, session_id: uuid.UUID, paid: Row, news: Iterable[str]
    ) -> None:
        for status in news:
            report(db, paid, dispute(status))
        ends = {OPEN: CONTESTED, LOST: GONE, WON: UNHARMED}
        assert standing(db, session_id) == ends[max(news, key=[OPEN, LOST, WON].index)]

    @pytest.mark.parametrize("status", [OPEN, LOST, WON])
    def test_a_replay_changes_nothing(self, db: Database, session_id: uuid.UUID, paid: Row, status: str) -> None:
        report(db, paid, dispute(OPEN))
        answer = report(db, paid, dispute(status))
        before = db.everything()
        assert report(db, paid, dispute(status)) == answer
        assert db.everything() == before

    def test_the_buyer_gets_no_letter_about_it(self, db: Database) -> None:
        attempt = db.open_attempt(db.new_session(p_email="buyer@example.test"))
        db.apply(attempt)
        for status in (OPEN, LOST, WON):
            report(db, attempt, dispute(status))
        assert db.value("select count(*) from payments.notifications where kind = 'refund'") == 0

    def test_that_overtakes_the_payment_calls_a_person_and_takes_it_back_when_it_comes(
        self, db: Database, user: uuid.UUID, session_id: uuid.UUID, attempt: Row
    ) -> None:
        report(db, attempt, dispute(LOST))
        assert standing(db, session_id) == ("pending", "none", 0, "dispute_reported")
        db.apply(attempt)
        assert standing(db, session_id) == GONE
        assert db.entries(user) == [100, -100]


class TestThePersonsFlag:
    def clear(self, db: Database, session_id: uuid.UUID) -> None:
        """The review as docs/states.md has it."""
        db.sql("update public.payment_checkout_sessions set review_reason = null where id = %s", session_id)

    def test_when_a_dispute_that_was_looked_at_is_lost_the_person_is_called_again(
        self, db: Database, session_id: uuid.UUID, paid: Row
    ) -> None:
        report(db, paid, dispute(OPEN))
        self.clear(db, session_id)
        report(db, paid, dispute(OPEN))
        assert standing(db, session_id) == UNHARMED
        report(db, paid, dispute(LOST))
        assert standing(db, session_id) == GONE

    @pytest.mark.parametrize("other", [OPEN, LOST])
    def test_it_stays_while_another_dispute_is_not_won(
        self, db: Database, session_id: uuid.UUID, paid: Row, other: str
    ) -> None:
        report(db, paid, dispute(OPEN, 200, "dp_1"), dispute(other, 100, "dp_2"))
        report(db, paid, dispute(WON, 200, "dp_1"))
        assert standing(db, session_id)[2:] == (0 if other == OPEN else 100, "dispute_reported")
        report(db, paid, dispute(WON, 100, "dp_2"))
        assert standing(db, session_id) == UNHARMED

    def test_winning_leaves_other_reasons_alone(self, db: Database, session_id: uuid.UUID, attempt: Row) -> None:
        db.apply(attempt, amount=501)
        report(db, attempt, dispute(OPEN))
        assert standing(db, session_id)[3] == "overpaid, dispute_reported"
        report(db, attempt, dispute(WON))
        assert standing(db, session_id)[3] == "overpaid"

    def test_a_provider_that_says_no_more_than_disputed_sets_it_once(
        self, db: Database, session_id: uuid.UUID, paid: Row
    ) -> None:
        for event in ("evt_1", "evt_2"):
            report(db, paid, event=event, disputed=True)
        assert standing(db, session_id) == CONTESTED
        assert len(db.trail(session_id)) == 2
        assert db.value("select count(*) from public.payment_refunds") == 0

    def test_disputed_and_the_dispute_itself_set_it_once(self, db: Database, session_id: uuid.UUID, paid: Row) -> None:
        report(db, paid, dispute(OPEN), disputed=True)
        assert standing(db, session_id) == CONTESTED
        assert len(db.trail(session_id)) == 2

    def test_the_payment_that_is_disputed_from_the_first_news_on_is_fulfilled_and_flagged(
        self, db: Database, user: uuid.UUID, session_id: uuid.UUID, attempt: Row
    ) -> None:
        db.apply(attempt, disputed=True, refunds=[dispute(OPEN)])
        assert standing(db, session_id) == CONTESTED
        assert db.entries(user) == [100]


class TestBesideRefunds:
    def test_what_is_refunded_and_disputed_adds_up(
        self, db: Database, user: uuid.UUID, session_id: uuid.UUID, paid: Row
    ) -> None:
        report(db, paid, refund(100), dispute(LOST, 400))
        assert standing(db, session_id) == GONE
        report(db, paid, dispute(WON, 400))
        assert standing(db, session_id) == ("partially_refunded", "fulfilled", 100, None)
        assert db.balance(user) == 80

    def test_an_open_dispute_of_what_is_refunded_already_is_more_than_was_paid(
        self, db: Database, user: uuid.UUID, session_id: uuid.UUID, paid: Row
    ) -> None:
        report(db, paid, refund(500))
        report(db, paid, dispute(OPEN))
        assert standing(db, session_id)[:3] == ("refunded", "reversed", 500)
        assert "refund_exceeds_payment" in str(db.session(session_id)["review_reason"])
        assert db.entries(user) == [100, -100]

    def test_the_hosts_own_word_about_a_dispute_counts_for_the_dispute(
        self, db: Database, session_id: uuid.UUID, paid: Row
    ) -> None:
        def say(status: str) -> None:
            db.as_service().rpc(
                "refund_checkout_session",
                p_session_id=session_id, p_provider_refund_id="dp_1", p_amount=500, p_status=status,
            )  # fmt: skip

        report(db, paid, dispute(OPEN))
        say(LOST)
        assert standing(db, session_id) == GONE
        say(WON)
        assert standing(db, session_id) == UNHARMED

    def test_the_dispute_of_a_second_payment_takes_nothing_from_the_buyer(
        self, db: Database, user: uuid.UUID, session_id: uuid.UUID, attempt: Row
    ) -> None:
        for payment in ("pi_1", "pi_2"):
            db.apply(attempt, provider_payment_id=payment)
        report(db, attempt, dispute(LOST), provider_payment_id="pi_2")
        assert standing(db, session_id) == ("completed", "fulfilled", 0, "dispute_reported")
        assert db.entries(user) == [100]


class TestAtTheSameTime:
    def test_16_reports_of_one_lost_dispute_take_once(
        self, db: Database, user: uuid.UUID, session_id: uuid.UUID, paid: Row
    ) -> None:
        all_at_once([partial(report, db, paid, dispute(status)) for status in (OPEN, LOST) * 8])
        assert standing(db, session_id) == GONE
        assert db.entries(user) == [100, -100]

    @pytest.mark.parametrize("lost_first", [True, False])
    def test_lost_and_won_at_once_end_won(
        self, db: Database, user: uuid.UUID, session_id: uuid.UUID, paid: Row, lost_first: bool
    ) -> None:
        first_news, second_news = (LOST, WON) if lost_first else (WON, LOST)
        said = {"provider": "stripe", "reference": paid["reference"], "refunds": [dispute(first_news)]}
        with db.as_service().request() as first:
            call(first, "apply_payment_outcome", p_outcome=said)
            second = start_and_see_it_wait(db, partial(report, db, paid, dispute(second_news)))
        assert second.result(WAIT)["status"] == "completed"
        assert standing(db, session_id) == UNHARMED
        assert db.balance(user) == 100

    def test_a_refund_and_a_dispute_of_the_same_money_take_it_once(
        self, db: Database, user: uuid.UUID, session_id: uuid.UUID, paid: Row
    ) -> None:
        jobs: list[Callable[[], Row]] = [
            partial(report, db, paid, refund(500)),
            partial(report, db, paid, dispute(LOST)),
        ]
        all_at_once(jobs * 4)
        row = standing(db, session_id)
        assert row[:3] == ("refunded", "reversed", 500)
        assert "refund_exceeds_payment" in str(row[3])
        assert db.entries(user) == [100, -100]


def test_a_user_sees_disputes_of_the_own_payments_only(
    db: Database, user: uuid.UUID, session_id: uuid.UUID, paid: Row
) -> None:
    report(db, paid, dispute(OPEN))
    look = "select kind, session_id from public.payment_refunds"
    assert db.as_user(user).sql(look) == [{"kind": "dispute", "session_id": session_id}]
    assert db.as_user(uuid.uuid4()).sql(look) == []
