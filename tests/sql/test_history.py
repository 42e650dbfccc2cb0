"""payment_history and payment_stats: what a user sees of the own payments."""

from __future__ import annotations

import uuid
from typing import Any

import pytest

from tests.support.database import Actor, Database, Row, refused

HISTORY, STATS = "payment_history", "payment_stats"
STATUSES = (
    "pending", "processing", "completed", "failed", "expired", "cancelled", "refunded", "partially_refunded"
)  # fmt: skip


def history(db: Database, user: uuid.UUID, **arguments: Any) -> Row:
    answer = db.as_user(user).rpc(HISTORY, **arguments)
    assert isinstance(answer, dict)
    return answer


def ids(answer: Row) -> list[str]:
    return [payment["id"] for payment in answer["payments"]]


def buy(db: Database, user: uuid.UUID, plan: str = "credits_100", **arguments: Any) -> uuid.UUID:
    session_id = db.new_session(user, plan, **arguments)
    db.complete(session_id, p_provider_payment_id=f"pi_{session_id}")
    return session_id


def refund(db: Database, session_id: uuid.UUID, amount: int, status: str) -> None:
    db.sql(
        "update public.payment_checkout_sessions set refunded_amount = %s, status = %s where id = %s",
        amount, status, session_id,
    )  # fmt: skip


def one_of_each(db: Database, user: uuid.UUID) -> dict[str, str]:
    """A session in every state: {status: id}."""
    sessions = {status: db.new_session(user, p_subject=status) for status in STATUSES}
    db.apply(db.open_attempt(sessions["processing"]), "processing")
    for status in ("failed", "expired", "cancelled"):
        db.apply(db.open_attempt(sessions[status]), status)
    for status in ("completed", "refunded", "partially_refunded"):
        db.complete(sessions[status], p_provider_payment_id=status)
    refund(db, sessions["refunded"], 500, "refunded")
    refund(db, sessions["partially_refunded"], 200, "partially_refunded")
    return {status: str(session_id) for status, session_id in sessions.items()}


class TestHistory:
    def test_pages_follow_each_other_newest_first_and_say_when_there_is_more(
        self, db: Database, user: uuid.UUID
    ) -> None:
        newest_first = [str(db.new_session(user, p_subject=str(number))) for number in range(5)][::-1]
        pages = [history(db, user, p_page=page, p_page_size=2) for page in (1, 2, 3, 4)]
        assert [ids(page) for page in pages] == [newest_first[:2], newest_first[2:4], newest_first[4:], []]
        assert [page["has_more"] for page in pages] == [True, True, False, False]
        assert [(page["page"], page["page_size"], page["total_count"]) for page in pages] == [
            (number, 2, 5) for number in (1, 2, 3, 4)
        ]

    def test_a_last_page_that_is_full_has_nothing_after_it(self, db: Database, user: uuid.UUID) -> None:
        for number in range(4):
            db.new_session(user, p_subject=str(number))
        assert history(db, user, p_page=2, p_page_size=2)["has_more"] is False

    def test_without_arguments_it_is_the_first_20(self, db: Database, user: uuid.UUID) -> None:
        for number in range(21):
            db.new_session(user, p_subject=str(number))
        answer = history(db, user)
        assert (len(answer["payments"]), answer["page"], answer["page_size"], answer["has_more"]) == (20, 1, 20, True)

    def test_nobody_yet_is_an_empty_page(self, db: Database, user: uuid.UUID) -> None:
        empty = {"payments": [], "total_count": 0, "page": 1, "page_size": 20, "has_more": False}
        assert history(db, user) == history(db, user, p_status="completed") == empty

    def test_each_status_can_be_asked_for(self, db: Database, user: uuid.UUID) -> None:
        sessions = one_of_each(db, user)
        for status, session_id in sessions.items():
            answer = history(db, user, p_status=status)
            assert (ids(answer), answer["total_count"], answer["has_more"]) == ([session_id], 1, False)
            assert answer["payments"][0]["status"] == status
        assert history(db, user, p_status=None)["total_count"] == len(STATUSES)

    @pytest.mark.parametrize("status", ["paid", "", "Completed", "completed' or 'a' = 'a"])
    def test_a_status_that_does_not_exist_is_refused(self, db: Database, user: uuid.UUID, status: str) -> None:
        with refused("PT422", "invalid_input"):
            history(db, user, p_status=status)

    def test_a_payment_shows_what_the_buyer_may_know(self, db: Database, user: uuid.UUID) -> None:
        session_id = buy(db, user, p_subject="team", p_metadata={"internal": "note"})
        (payment,) = history(db, user)["payments"]
        row = db.session(session_id)
        assert [payment.pop(when) is not None for when in ("created_at", "completed_at", "expires_at")] == [True] * 3
        assert payment == {
            "id": str(session_id), "product_id": "credits_100", "subject": "team", "status": "completed",
            "fulfilment_status": "fulfilled", "fulfilment": row["fulfilment"], "provider": "stripe", "currency": "USD",
            "original_amount": 500, "discount_amount": 0, "amount": 500, "refunded_amount": 0,
        }  # fmt: skip

    @pytest.mark.parametrize(
        "bad",
        [{"p_page": 0}, {"p_page": -1}, {"p_page": None}, {"p_page": 1_000_001}, {"p_page": 2**31 - 1},
         {"p_page_size": 0}, {"p_page_size": -1}, {"p_page_size": 101}, {"p_page_size": None},
         {"p_page_size": 2**31 - 1}],
        ids=str,
    )  # fmt: skip
    def test_a_page_that_cannot_be_is_refused(self, db: Database, user: uuid.UUID, bad: Row) -> None:
        with refused("PT422", "invalid_input"):
            history(db, user, **bad)

    def test_the_largest_pages_are_answered(self, db: Database, user: uuid.UUID, session_id: uuid.UUID) -> None:
        assert ids(history(db, user, p_page_size=100)) == [str(session_id)]
        beyond = history(db, user, p_page=1_000_000, p_page_size=100)
        assert (beyond["payments"], beyond["total_count"], beyond["has_more"]) == ([], 1, False)


class TestStats:
    def stats(self, db: Database, user: uuid.UUID) -> Any:
        return db.as_user(user).rpc(STATS)

    def test_a_user_without_payments_has_empty_totals(self, db: Database, user: uuid.UUID) -> None:
        assert self.stats(db, user) == {"spent": {}, "credits_bought": 0, "payments_by_status": {}}

    def test_spent_is_per_currency_with_refunds_deducted(self, db: Database, user: uuid.UUID) -> None:
        buy(db, user)
        buy(db, user, "pro_month")
        buy(db, user, p_currency="NGN")
        refund(db, buy(db, user), 200, "partially_refunded")
        refund(db, buy(db, user, p_currency="ILS"), 1900, "refunded")
        assert self.stats(db, user)["spent"] == {"USD": 500 + 1200 + 300, "NGN": 750000, "ILS": 0}

    def test_only_what_was_paid_counts_as_spent(self, db: Database, user: uuid.UUID) -> None:
        one_of_each(db, user)
        assert self.stats(db, user) == {
            "spent": {"USD": 500 + 0 + 300},
            "credits_bought": 300,
            "payments_by_status": dict.fromkeys(STATUSES, 1),
        }

    def test_credits_bought_are_not_lessened_by_spending_them(self, db: Database, user: uuid.UUID) -> None:
        buy(db, user)
        buy(db, user, "credits_500")
        db.as_service().rpc("spend_credits", p_user_id=user, p_amount=50, p_reason="x", p_idempotency_key="k")
        assert self.stats(db, user)["credits_bought"] == 600

    def test_payments_are_counted_by_status(self, db: Database, user: uuid.UUID) -> None:
        for _ in range(3):
            buy(db, user)
        db.new_session(user)
        assert self.stats(db, user)["payments_by_status"] == {"completed": 3, "pending": 1}


@pytest.mark.parametrize("function", [HISTORY, STATS])
class TestWhoMayAsk:
    @pytest.mark.parametrize("guarded", [True, False])
    def test_users_see_their_own_payments_only_even_when_row_level_security_was_switched_off(
        self, db: Database, user: uuid.UUID, function: str, guarded: bool
    ) -> None:
        if not guarded:
            for table in ("payment_checkout_sessions", "payment_credit_entries"):
                db.sql(f"alter table public.{table} disable row level security")
        other, nobody = db.new_user(), db.new_user()
        of_nobody = db.as_user(nobody).rpc(function)
        buy(db, user)
        of_user = db.as_user(user).rpc(function)
        buy(db, other, "credits_500")
        assert db.as_user(user).rpc(function) == of_user != of_nobody
        assert db.as_user(nobody).rpc(function) == of_nobody

    def test_the_service_is_nobody_in_particular(self, db: Database, function: str) -> None:
        for caller in (db.as_service(), db.as_owner()):
            with refused("PT422", "user_required"):
                caller.rpc(function)

    def test_who_is_not_signed_in_is_refused(self, db: Database, function: str) -> None:
        with refused("42501"):
            db.as_anon().rpc(function)
        with refused("PT401", "not_signed_in"):
            Actor(db.url("authenticator"), "authenticated", {"role": "authenticated"}).rpc(function)
