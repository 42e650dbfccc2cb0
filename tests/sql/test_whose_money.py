"""Money belongs to the session it was paid for, by whatever name it comes, and outlives the buyer."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.database import Database, Row, outcome, refused

if TYPE_CHECKING:
    from collections.abc import Callable

PAGE, PAYMENT = "cs_of_the_other", "pi_of_the_other"


@pytest.fixture
def other(db: Database) -> Row:
    """Another buyer's session with its page."""
    return db.open_attempt(db.new_session(), PAGE)


def by_page(db: Database, attempt: Row) -> Any:
    return db.complete(attempt["session_id"], p_stripe_session_id=PAGE)


def by_page_and_payment(db: Database, attempt: Row) -> Any:
    return db.complete(attempt["session_id"], p_provider_session_id=PAGE, p_provider_payment_id=PAYMENT)


def by_payment(db: Database, attempt: Row) -> Any:
    return db.complete(attempt["session_id"], p_provider_payment_id=PAYMENT)


def by_outcome(db: Database, attempt: Row) -> Any:
    return db.apply(attempt, provider_session_id=PAGE, provider_payment_id=PAYMENT)


WAYS = [by_page, by_page_and_payment, by_outcome]


class TestMoneyOfAnotherSession:
    @staticmethod
    def is_refused(db: Database, attempt: Row, tell: Callable[[Database, Row], Any]) -> None:
        before = db.everything()
        with refused("PT409", "payment_reused"):
            tell(db, attempt)
        assert db.everything() == before

    @pytest.mark.parametrize("tell", WAYS)
    def test_the_unpaid_page_of_another_session_pays_nothing(
        self, db: Database, attempt: Row, other: Row, tell: Callable[[Database, Row], Any]
    ) -> None:
        self.is_refused(db, attempt, tell)
        # and the other session can still be paid by it
        assert db.apply(other)["already_completed"] is False

    @pytest.mark.parametrize("first", [*WAYS, by_payment])
    @pytest.mark.parametrize("tell", WAYS)
    def test_the_paid_page_of_another_session_pays_nothing(
        self,
        db: Database,
        attempt: Row,
        other: Row,
        first: Callable[[Database, Row], Any],
        tell: Callable[[Database, Row], Any],
    ) -> None:
        first(db, other)
        self.is_refused(db, attempt, tell)

    @pytest.mark.parametrize("tell", [by_payment, by_page_and_payment, by_outcome])
    @pytest.mark.parametrize("page", [PAGE, "cs_of_nobody"])
    def test_a_payment_of_another_session_pays_nothing_whatever_page_is_named(
        self, db: Database, attempt: Row, other: Row, tell: Callable[[Database, Row], Any], page: str
    ) -> None:
        db.complete(other["session_id"], p_provider_session_id=PAGE, p_provider_payment_id=PAYMENT)
        self.is_refused(db, attempt, tell)
        self.is_refused(
            db,
            attempt,
            lambda db, attempt: db.apply(attempt, provider_session_id=page, provider_payment_id=PAYMENT),
        )

    @pytest.mark.parametrize("names", [{}, {"p_provider_payment_id": "pi_1"}], ids=["page", "page and payment"])
    @pytest.mark.parametrize("tell", WAYS)
    def test_a_page_that_was_never_attached_belongs_to_the_session_that_it_paid(
        self, db: Database, attempt: Row, tell: Callable[[Database, Row], Any], names: dict[str, str]
    ) -> None:
        db.complete(db.new_session(), p_stripe_session_id=PAGE, **names)
        self.is_refused(db, attempt, tell)

    @pytest.mark.parametrize("tell", WAYS)
    def test_a_completed_session_takes_no_page_of_another_either(
        self, db: Database, attempt: Row, other: Row, tell: Callable[[Database, Row], Any]
    ) -> None:
        db.apply(attempt)
        assert other["provider_session_id"] == PAGE
        self.is_refused(db, attempt, tell)

    def test_the_same_words_of_two_providers_are_two_payments(self, db: Database, other: Row) -> None:
        by_page_and_payment(db, other)
        session_id = db.new_session(p_provider="paystack")
        answer = db.complete(session_id, p_provider_session_id=PAGE, p_provider_payment_id=PAYMENT)
        assert answer["already_completed"] is False


class TestMoneyThatWasKnownByItsPage:
    """Who knows only the page has to assume that the price was paid."""

    @pytest.mark.parametrize(
        ("said", "reason"),
        [
            ({"amount": 499}, "amount_mismatch"), ({"amount": 501}, "overpaid"),
            ({"currency": "NGN"}, "currency_mismatch"), ({"currency": "NGN", "amount": 9}, "currency_mismatch"),
        ],
    )  # fmt: skip
    def test_what_the_provider_states_is_recorded_and_a_difference_put_before_a_person(
        self, db: Database, user: uuid.UUID, attempt: Row, said: Row, reason: str
    ) -> None:
        session_id = attempt["session_id"]
        db.complete(session_id, p_stripe_session_id=attempt["provider_session_id"])
        for _ in range(2):
            assert db.apply(attempt, provider_payment_id="pi_1", **said)["review_reason"] == reason
        (capture,) = db.captures(session_id)
        assert (capture["provider_payment_id"], capture["disposition"]) == ("pi_1", "settled")
        assert (capture["amount"], capture["currency"]) == (said.get("amount", 500), said.get("currency", "USD"))
        assert db.session(session_id)["provider_payment_id"] == "pi_1"
        assert db.trail(session_id) == [("pending", "completed", None), ("completed", "completed", reason)]
        assert db.entries(user) == [100]

    def test_a_statement_that_agrees_flags_nothing(self, db: Database, session_id: uuid.UUID, attempt: Row) -> None:
        db.complete(session_id, p_stripe_session_id=attempt["provider_session_id"])
        db.apply(attempt, provider_payment_id="pi_1")
        assert db.state(session_id) == ("completed", "fulfilled", None)

    def test_a_second_payment_that_was_known_by_its_page_gets_its_name_too(
        self, db: Database, session_id: uuid.UUID, attempt: Row
    ) -> None:
        db.apply(attempt, provider_payment_id="pi_1")
        db.complete(session_id, p_stripe_session_id="cs_second")
        db.apply(attempt, provider_session_id="cs_second", provider_payment_id="pi_2", amount=400)
        assert [(c["provider_payment_id"], c["amount"], c["disposition"]) for c in db.captures(session_id)] == [
            ("pi_1", 500, "settled"), ("pi_2", 400, "duplicate"),
        ]  # fmt: skip
        row = db.session(session_id)
        assert (row["provider_payment_id"], row["review_reason"]) == ("pi_1", "duplicate_payment")


class TestDeletedUser:
    @pytest.fixture
    def orphan(self, db: Database, user: uuid.UUID, attempt: Row) -> Row:
        """The page of a buyer whose account is gone, and the session with it."""
        db.sql("delete from auth.users where id = %s", user)
        return attempt

    @staticmethod
    def answer(attempt: Row) -> Row:
        return {"session_id": attempt["session_id"], "review_reason": "session_deleted", "duplicate": False}

    def test_late_money_is_kept_and_its_event_is_handled(self, db: Database, orphan: Row) -> None:
        assert db.apply(orphan, event="evt_1", provider_payment_id="pi_1") == self.answer(orphan)
        (capture,) = db.captures(uuid.UUID(orphan["session_id"]))
        assert (capture["provider_payment_id"], capture["disposition"]) == ("pi_1", "orphaned")
        assert (capture["amount"], capture["currency"]) == (500, "USD")
        assert capture["attempt_number"] == orphan["number"]
        (event,) = db.sql("select event_id, status, session_id from payments.webhook_events")
        assert event == {"event_id": "evt_1", "status": "handled", "session_id": uuid.UUID(orphan["session_id"])}

    def test_a_replay_changes_nothing_more(self, db: Database, orphan: Row) -> None:
        db.apply(orphan, event="evt_1")
        before = db.everything()
        assert db.apply(orphan, event="evt_1") == {"duplicate": True}
        assert db.apply(orphan) == self.answer(orphan)
        assert db.everything() == before

    @pytest.mark.parametrize("word", ["pending", "processing", "failed", "expired", "cancelled"])
    def test_a_word_about_the_page_changes_nothing(self, db: Database, orphan: Row, word: str) -> None:
        before = db.everything()
        assert db.apply(orphan, word) == self.answer(orphan)
        # providers name the payment and its amount also when it failed
        assert db.apply(orphan, word, provider_payment_id="pi_1", amount=500, currency="USD") == self.answer(orphan)
        assert db.everything() == before

    def test_a_refund_for_a_buyer_who_is_gone_changes_nothing(
        self, db: Database, user: uuid.UUID, attempt: Row
    ) -> None:
        db.apply(attempt, provider_payment_id="pi_1")
        db.sql("delete from auth.users where id = %s", user)
        before = db.everything()
        refund = {"provider": "stripe", "provider_payment_id": "pi_1", "disputed": True}
        assert db.as_service().rpc("apply_payment_outcome", p_outcome=refund) == self.answer(attempt)
        assert db.everything() == before

    @pytest.mark.parametrize("known_by_its_page", [True, False])
    def test_money_that_was_given_before_is_not_kept_twice(
        self, db: Database, user: uuid.UUID, session_id: uuid.UUID, attempt: Row, known_by_its_page: bool
    ) -> None:
        if known_by_its_page:
            db.complete(session_id, p_stripe_session_id=attempt["provider_session_id"])
        else:
            db.apply(attempt)
        db.sql("delete from auth.users where id = %s", user)
        assert db.apply(attempt) == self.answer(attempt)
        assert [capture["disposition"] for capture in db.captures(session_id)] == ["settled"]

    def test_the_money_of_a_buyer_who_is_gone_pays_for_nobody_else(self, db: Database, orphan: Row) -> None:
        db.apply(orphan, provider_payment_id="pi_1")
        other = db.open_attempt(db.new_session())
        with refused("PT409", "payment_reused"):
            db.apply(other, provider_payment_id="pi_1")
        assert db.as_service().rpc("apply_payment_outcome", p_outcome=outcome(other))["status"] == "completed"
