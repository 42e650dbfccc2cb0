"""Money that goes back: by refund_checkout_session and by what providers report, in any order, once."""

from __future__ import annotations

import itertools
import uuid
from collections import Counter
from functools import partial
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from tests.sql.answers import answer_or_reason
from tests.support.database import Database, Row, call, outcome, refused
from tests.support.races import all_at_once, start_and_see_it_wait

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

FUNCTION = "refund_checkout_session"
WAIT = 30  # seconds until a waiter is given up; nothing here takes long
LARGEST = 2**63 - 1
PAID = ("completed", "fulfilled", 0, None)
BACK = ("refunded", "reversed", 500, None)


def refund(
    db: Database, session_id: uuid.UUID, amount: int | None, name: str | None = "re_1", status: str | None = "succeeded"
) -> Row:
    answer: Row = db.as_service().rpc(
        FUNCTION, p_session_id=session_id, p_provider_refund_id=name, p_amount=amount, p_status=status
    )
    return answer


def told(amount: int, name: str = "re_1", status: str = "succeeded", **more: Any) -> Row:
    """A refund as an outcome states it."""
    return {"provider_refund_id": name, "amount": amount, "status": status, **more}


def report(db: Database, attempt: Row, *refunds: Row, event: str | None = None, **said: Any) -> Row:
    """The provider speaks of refunds only."""
    facts: Row = {"provider": attempt["provider"], "reference": attempt["reference"], "source": "webhook"}
    answer: Row = db.as_service().rpc(
        "apply_payment_outcome",
        p_outcome=facts | {"refunds": list(refunds)} | said,
        p_event={"id": event, "type": "refund", "payload": {}} if event else None,
    )
    return answer


def standing(db: Database, session_id: uuid.UUID) -> tuple[str, str, int, str | None]:
    """Status, fulfilment, what went back and what a person must look at, when no guarantee is broken."""
    assert db.as_service().rpc("check_payment_invariants") == []
    row = db.session(session_id)
    return row["status"], row["fulfilment_status"], row["refunded_amount"], row["review_reason"]


def known(db: Database) -> dict[str, tuple[str, int]]:
    """Refunds on record."""
    rows = db.sql("select provider_refund_id, status, amount from public.payment_refunds")
    return {row["provider_refund_id"]: (row["status"], row["amount"]) for row in rows}


def told_reasons(db: Database, session_id: uuid.UUID) -> list[str | None]:
    return [reason for _, _, reason in db.trail(session_id)]


@pytest.fixture
def paid(db: Database, attempt: Row) -> Row:
    """The page of a session that is paid: 100 credits for 500."""
    db.apply(attempt)
    return attempt


@pytest.fixture(params=["called", "reported"])
def give_back(request: pytest.FixtureRequest, db: Database, session_id: uuid.UUID, paid: Row) -> Callable[..., Row]:
    """Each way for a refund to become known: the host's own call, and the provider's word."""
    if request.param == "called":
        return partial(refund, db, session_id)
    return lambda amount, name="re_1", status="succeeded": report(db, paid, told(amount, name, status))


class TestWhatGoesBack:
    def test_all_of_it(
        self, db: Database, user: uuid.UUID, session_id: uuid.UUID, give_back: Callable[..., Row]
    ) -> None:
        answer = give_back(500)
        assert (answer["session_id"], answer["status"], answer["already_completed"]) == (
            str(session_id), "refunded", True,
        )  # fmt: skip
        assert answer["fulfilment_status"] == "reversed"
        assert standing(db, session_id) == BACK
        assert db.trail(session_id)[1:] == [("completed", "refunded", "refunds_changed")]
        assert db.entries(user) == [100, -100]

    def test_a_part_of_it(
        self, db: Database, user: uuid.UUID, session_id: uuid.UUID, give_back: Callable[..., Row]
    ) -> None:
        assert give_back(200)["status"] == "partially_refunded"
        assert standing(db, session_id) == ("partially_refunded", "fulfilled", 200, None)
        assert db.entries(user) == [100, -40]

    def test_part_by_part(
        self, db: Database, user: uuid.UUID, session_id: uuid.UUID, give_back: Callable[..., Row]
    ) -> None:
        for number, amount in enumerate((1, 199, 200, 100)):
            give_back(amount, f"re_{number}")
        assert standing(db, session_id) == BACK
        assert [(old, new) for old, new, _ in db.trail(session_id)[1:]] == [
            ("completed", "partially_refunded"), ("partially_refunded", "partially_refunded"),
            ("partially_refunded", "partially_refunded"), ("partially_refunded", "refunded"),
        ]  # fmt: skip
        assert (db.balance(user), sum(db.entries(user))) == (0, 0)

    def test_several_in_one_report(self, db: Database, session_id: uuid.UUID, paid: Row) -> None:
        report(db, paid, told(100, "re_1"), told(100, "re_2", "pending"), told(150, "re_3"), told(100, "re_1"))
        assert standing(db, session_id) == ("partially_refunded", "fulfilled", 250, None)
        assert len(db.trail(session_id)) == 2

    def test_together_with_the_news_of_the_payment(
        self, db: Database, user: uuid.UUID, session_id: uuid.UUID, attempt: Row
    ) -> None:
        answer = db.apply(attempt, refunds=[told(500)])
        assert (answer["status"], answer["fulfilment_status"]) == ("refunded", "reversed")
        assert standing(db, session_id) == BACK
        assert db.entries(user) == [100, -100]

    def test_found_by_nothing_but_its_payment(self, db: Database, session_id: uuid.UUID, paid: Row) -> None:
        payment = db.session(session_id)["provider_payment_id"]
        db.as_service().rpc(
            "apply_payment_outcome",
            p_outcome={"provider": "stripe", "provider_payment_id": payment, "refunds": [told(500)]},
        )
        assert standing(db, session_id) == BACK

    def test_without_a_status_it_has_happened(self, db: Database, session_id: uuid.UUID, paid: Row) -> None:
        report(db, paid, {"provider_refund_id": "re_1", "amount": 500})
        assert standing(db, session_id) == BACK

    def test_what_is_told_of_it_is_kept(
        self, db: Database, user: uuid.UUID, session_id: uuid.UUID, attempt: Row
    ) -> None:
        db.apply(attempt, provider_payment_id="pi_x")
        report(db, attempt, told(20, "re_1", reason="é" * 501), provider_payment_id="pi_x")
        db.as_service().rpc(
            FUNCTION, p_session_id=session_id, p_provider_refund_id="re_2", p_amount=30, p_reason="wrong size"
        )
        common = {
            "provider": "stripe", "session_id": session_id, "user_id": user, "kind": "refund", "currency": "USD",
            "status": "succeeded",
        }  # fmt: skip
        rows = db.sql("select * from public.payment_refunds order by provider_refund_id")
        assert [row["created_at"] == row["updated_at"] for row in rows] == [True, True]
        assert rows[0].items() >= (common | {"provider_payment_id": "pi_x", "amount": 20, "reason": "é" * 500}).items()
        assert rows[1].items() >= (common | {"amount": 30, "reason": "wrong size"}).items()

    def test_of_a_currency_without_minor_units_and_of_one_with_three(self, db: Database) -> None:
        for currency, price in (("JPY", 333), ("KWD", 12_345)):
            plan = db.new_product(f"thing_{currency.lower()}", "none", {}, **{currency: price})
            session_id = db.new_session(plan=plan)
            db.complete(session_id, p_provider_payment_id=f"pi_{currency}")
            refund(db, session_id, price - 1, f"re_{currency}")
            assert standing(db, session_id)[:3] == ("partially_refunded", "fulfilled", price - 1)

    def test_the_answer_says_how_much_is_back_in_all(self, db: Database, session_id: uuid.UUID, paid: Row) -> None:
        assert refund(db, session_id, 100)["refunded_amount"] == 100
        assert refund(db, session_id, 100)["refunded_amount"] == 100
        assert refund(db, session_id, 150, "re_2", "pending")["refunded_amount"] == 100
        assert refund(db, session_id, 150, "re_2")["refunded_amount"] == 250


class TestNewsOfOneRefund:
    def test_a_pending_one_takes_nothing_until_it_succeeds(
        self, db: Database, user: uuid.UUID, session_id: uuid.UUID, give_back: Callable[..., Row]
    ) -> None:
        give_back(500, status="pending")
        assert standing(db, session_id) == PAID
        assert (db.entries(user), known(db)) == ([100], {"re_1": ("pending", 500)})
        give_back(500)
        assert standing(db, session_id) == BACK

    @pytest.mark.parametrize("amount", [500, 123])
    def test_one_that_fails_after_all_gives_everything_back(
        self, db: Database, user: uuid.UUID, session_id: uuid.UUID, give_back: Callable[..., Row], amount: int
    ) -> None:
        give_back(amount)
        give_back(amount, status="failed")
        assert standing(db, session_id) == PAID
        assert db.trail(session_id)[-1][1:] == ("completed", "refunds_changed")
        assert db.balance(user) == 100
        assert known(db) == {"re_1": ("failed", amount)}

    def test_of_two_the_one_that_fails_is_undone(
        self, db: Database, user: uuid.UUID, session_id: uuid.UUID, give_back: Callable[..., Row]
    ) -> None:
        give_back(400)
        give_back(100, "re_2")
        give_back(400, status="failed")
        assert standing(db, session_id) == ("partially_refunded", "fulfilled", 100, None)
        assert db.balance(user) == 80
        give_back(400, "re_3")
        assert standing(db, session_id) == BACK

    @pytest.mark.parametrize("news", sorted(set(itertools.permutations(["pending", "succeeded", "failed"] * 2, 3))))
    def test_in_any_order_the_furthest_counts(self, db: Database, news: Iterable[str]) -> None:
        attempt = db.open_attempt(db.new_session())
        session_id = uuid.UUID(attempt["session_id"])
        db.apply(attempt)
        for status in news:
            report(db, attempt, told(200, status=status))
        furthest = max(news, key=["pending", "succeeded", "failed"].index)
        assert known(db) == {"re_1": (furthest, 200)}
        assert standing(db, session_id)[2] == (200 if furthest == "succeeded" else 0)

    @pytest.mark.parametrize("status", ["pending", "succeeded", "failed"])
    def test_a_replay_changes_nothing(
        self, db: Database, session_id: uuid.UUID, give_back: Callable[..., Row], status: str
    ) -> None:
        answer = give_back(200, status=status)
        before = db.everything()
        assert give_back(200, status=status) == answer
        assert db.everything() == before

    def test_a_replay_of_old_news_changes_nothing(
        self, db: Database, session_id: uuid.UUID, give_back: Callable[..., Row]
    ) -> None:
        for number, status in enumerate(("pending", "succeeded", "failed")):
            give_back(100, f"re_{number}", status)
            give_back(100, "re_x", status)
        before = db.everything()
        for status in ("pending", "succeeded"):
            give_back(100, "re_x", status)
        give_back(100, "re_1", "pending")
        assert db.everything() == before

    def test_the_same_event_twice_is_handled_once(self, db: Database, session_id: uuid.UUID, paid: Row) -> None:
        report(db, paid, told(200), event="evt_1")
        before = db.everything()
        assert report(db, paid, told(200), event="evt_1") == {"duplicate": True}
        assert db.everything() == before

    def test_a_known_fact_in_a_new_event_changes_nothing_but_the_events(
        self, db: Database, session_id: uuid.UUID, paid: Row
    ) -> None:
        report(db, paid, told(200), event="evt_1")
        before = db.everything()
        assert report(db, paid, told(200), event="evt_2")["duplicate"] is False
        after = db.everything()
        assert {table for table in after if after[table] != before[table]} == {"payments.webhook_events"}

    def test_a_reason_that_is_told_later_is_kept_and_one_that_is_not_repeated_stays(
        self, db: Database, paid: Row
    ) -> None:
        for said in (told(9, status="pending"), told(9, reason="broken"), told(9, status="failed")):
            report(db, paid, said)
        assert db.value("select reason from public.payment_refunds") == "broken"


class TestTheBuyerIsTold:
    @staticmethod
    def letters(db: Database) -> list[Row]:
        return db.sql(
            "select occurrence, email, payload ->> 'refund_amount' as amount from payments.notifications"
            " where kind = 'refund' order by id"
        )

    def test_once_per_refund_that_has_happened(self, db: Database) -> None:
        attempt = db.open_attempt(db.new_session(p_email="buyer@example.test"))
        db.apply(attempt)
        for refunds in (
            [told(100, "re_1", "pending"), told(10, "re_2")],
            [told(100, "re_1"), told(10, "re_2")],
            [told(5, "re_3", "failed"), told(10, "re_2", "failed"), told(9_000, "re_4")],
        ):
            report(db, attempt, *refunds)
        assert self.letters(db) == [
            {"occurrence": name, "email": "buyer@example.test", "amount": amount}
            for name, amount in (("re_2", "10"), ("re_1", "100"))
        ]

    def test_unless_there_is_no_address(self, db: Database, session_id: uuid.UUID, paid: Row) -> None:
        refund(db, session_id, 100)
        assert self.letters(db) == []


class TestMoreThanWasPaid:
    @pytest.mark.parametrize("news", list(itertools.product([501, 10**18 - 1], ["succeeded", "pending"])), ids=str)
    def test_it_is_refused_and_put_before_a_person_and_takes_nothing(
        self, db: Database, user: uuid.UUID, session_id: uuid.UUID, give_back: Callable[..., Row], news: tuple[int, str]
    ) -> None:
        amount, status = news
        assert give_back(amount, status=status)["review_reason"] == "refund_exceeds_payment"
        assert standing(db, session_id) == ("completed", "fulfilled", 0, "refund_exceeds_payment")
        assert told_reasons(db, session_id) == [None, "refund_exceeds_payment"]
        assert (db.entries(user), known(db)) == ([100], {"re_1": ("refused", amount)})
        assert db.value("select count(*) from payments.notifications where kind = 'review_alert'") == 1

    @pytest.mark.parametrize("first", ["succeeded", "pending"])
    @pytest.mark.parametrize("amount", [201, LARGEST])
    def test_two_that_exceed_it_together(
        self, db: Database, session_id: uuid.UUID, paid: Row, first: str, amount: int
    ) -> None:
        refund(db, session_id, 300, "re_1", first)
        assert refund(db, session_id, amount, "re_2")["review_reason"] == "refund_exceeds_payment"
        assert known(db) == {"re_1": (first, 300), "re_2": ("refused", amount)}
        assert standing(db, session_id)[2:] == (300 if first == "succeeded" else 0, "refund_exceeds_payment")

    def test_one_that_did_not_happen_takes_no_room(self, db: Database, session_id: uuid.UUID, paid: Row) -> None:
        refund(db, session_id, 400, "re_1", "pending")
        refund(db, session_id, 400, "re_1", "failed")
        refund(db, session_id, 9_999, "re_2", "failed")
        refund(db, session_id, 500, "re_3")
        assert standing(db, session_id) == BACK

    @pytest.mark.parametrize("status", ["pending", "succeeded"])
    def test_a_refused_one_stays_refused_and_its_replay_changes_nothing(
        self, db: Database, session_id: uuid.UUID, give_back: Callable[..., Row], status: str
    ) -> None:
        give_back(501, status="pending")
        before = db.everything()
        give_back(501, status=status)
        assert db.everything() == before

    def test_a_refused_one_that_did_not_happen_after_all_is_known_to_have_failed(
        self, db: Database, session_id: uuid.UUID, give_back: Callable[..., Row]
    ) -> None:
        for status in ("pending", "failed", "succeeded"):
            give_back(501, status=status)
        assert known(db) == {"re_1": ("failed", 501)}
        assert standing(db, session_id) == ("completed", "fulfilled", 0, "refund_exceeds_payment")

    def test_it_does_not_stand_in_the_way_of_one_that_fits(
        self, db: Database, user: uuid.UUID, session_id: uuid.UUID, give_back: Callable[..., Row]
    ) -> None:
        give_back(501)
        give_back(500, "re_2")
        assert standing(db, session_id) == ("refunded", "reversed", 500, "refund_exceeds_payment")
        assert db.entries(user) == [100, -100]

    @pytest.mark.parametrize("amounts", [(501,), (300, 300), (10**18 - 1,) * 12], ids=str)
    def test_news_that_came_before_the_payment_is_put_before_a_person(
        self, db: Database, user: uuid.UUID, session_id: uuid.UUID, attempt: Row, amounts: tuple[int, ...]
    ) -> None:
        for number, amount in enumerate(amounts):
            report(db, attempt, told(amount, f"re_{number}"))
        db.apply(attempt)
        assert standing(db, session_id)[3] == "refund_exceeds_payment"
        assert db.session(session_id)["refunded_amount"] <= 500
        assert db.balance(user) in (0, 40, 100)

    def test_when_the_first_of_two_fails_the_second_fits_after_all(
        self, db: Database, user: uuid.UUID, session_id: uuid.UUID, paid: Row
    ) -> None:
        """The provider gave 400 back twice because the first try failed; that news came last."""
        report(db, paid, told(400, "re_1", "pending"))
        report(db, paid, told(400, "re_2"))
        report(db, paid, told(400, "re_1", "failed"), told(400, "re_2"))
        assert standing(db, session_id)[:3] == ("partially_refunded", "fulfilled", 400)
        assert db.balance(user) == 20


class TestAnIdThatWasUsedBefore:
    def test_for_another_amount_is_a_conflict(
        self, db: Database, session_id: uuid.UUID, give_back: Callable[..., Row]
    ) -> None:
        give_back(100)
        assert give_back(101)["review_reason"] == "refund_conflict"
        assert standing(db, session_id) == ("partially_refunded", "fulfilled", 100, "refund_conflict")
        assert known(db) == {"re_1": ("succeeded", 100)}
        before = db.everything()
        give_back(101)
        assert db.everything() == before

    def test_for_another_session_is_a_conflict_of_that_session(
        self, db: Database, session_id: uuid.UUID, paid: Row
    ) -> None:
        other = db.open_attempt(db.new_session())
        db.apply(other)
        refund(db, session_id, 100)
        assert report(db, other, told(100))["review_reason"] == "refund_conflict"
        assert standing(db, uuid.UUID(other["session_id"])) == ("completed", "fulfilled", 0, "refund_conflict")
        assert standing(db, session_id) == ("partially_refunded", "fulfilled", 100, None)

    def test_by_another_provider_is_another_refund(self, db: Database, session_id: uuid.UUID, paid: Row) -> None:
        other = db.as_service().rpc("open_checkout_attempt", p_session_id=db.new_session(), p_provider="paystack")
        db.apply(other)
        for page in (paid, other):
            assert report(db, page, told(100))["status"] == "partially_refunded"
        assert db.value("select count(*) from public.payment_refunds") == 2


class TestMoneyThatBoughtNothing:
    """Its return takes nothing from the buyer, and then nobody needs to look at it any more."""

    @pytest.fixture
    def twice_paid(self, db: Database, attempt: Row) -> Row:
        for payment in ("pi_1", "pi_2", "pi_2"):
            db.apply(attempt, provider_payment_id=payment)
        return attempt

    def test_a_second_payment(self, db: Database, user: uuid.UUID, session_id: uuid.UUID, twice_paid: Row) -> None:
        report(db, twice_paid, told(200, "re_1"), provider_payment_id="pi_2")
        assert standing(db, session_id) == ("completed", "fulfilled", 0, "duplicate_payment")
        report(db, twice_paid, told(300, "re_2"), provider_payment_id="pi_2")
        assert standing(db, session_id) == PAID
        assert db.entries(user) == [100]

    def test_a_second_payment_while_a_third_is_still_here(
        self, db: Database, session_id: uuid.UUID, twice_paid: Row
    ) -> None:
        db.apply(twice_paid, provider_payment_id="pi_3")
        for number, review in ((2, "duplicate_payment"), (3, None)):
            report(db, twice_paid, told(500, f"re_{number}"), provider_payment_id=f"pi_{number}")
            assert standing(db, session_id)[2:] == (0, review)

    def test_more_than_the_second_payment_is_refused_although_the_first_would_cover_it(
        self, db: Database, session_id: uuid.UUID, twice_paid: Row
    ) -> None:
        report(db, twice_paid, told(501), provider_payment_id="pi_2")
        assert standing(db, session_id)[2:] == (0, "duplicate_payment, refund_exceeds_payment")

    def test_the_first_of_two_payments_takes_the_purchase_back(
        self, db: Database, user: uuid.UUID, session_id: uuid.UUID, twice_paid: Row
    ) -> None:
        report(db, twice_paid, told(500), provider_payment_id="pi_1")
        assert standing(db, session_id) == ("refunded", "reversed", 500, "duplicate_payment")
        assert db.balance(user) == 0

    @pytest.mark.parametrize("wrong", [{"amount": 300}, {"currency": "NGN"}], ids=str)
    def test_the_wrong_money(self, db: Database, session_id: uuid.UUID, attempt: Row, wrong: Row) -> None:
        came = outcome(attempt, **wrong)
        (reason,) = (db.apply(attempt, **wrong)["review_reason"],)
        assert reason in ("amount_mismatch", "currency_mismatch")
        report(db, attempt, told(came["amount"] - 1, "re_1"))
        assert standing(db, session_id) == ("failed", "none", 0, reason)
        report(db, attempt, told(1, "re_2"))
        assert standing(db, session_id) == ("failed", "none", 0, None)
        assert db.value("select count(*) from public.payment_invoices") == 0
        assert {row["currency"] for row in db.sql("select currency from public.payment_refunds")} == {came["currency"]}

    def test_the_wrong_money_by_the_hosts_own_call(self, db: Database, session_id: uuid.UUID, attempt: Row) -> None:
        db.apply(attempt, amount=300)
        answer = refund(db, session_id, 300)
        assert (answer["status"], answer["already_completed"], answer["refunded_amount"]) == ("failed", False, 0)
        assert standing(db, session_id) == ("failed", "none", 0, None)

    def test_an_overpayment(self, db: Database, user: uuid.UUID, session_id: uuid.UUID, attempt: Row) -> None:
        db.apply(attempt, amount=620)
        for number, (amount, review) in enumerate(((119, "overpaid"), (1, None))):
            refund(db, session_id, amount, f"re_{number}")
            assert standing(db, session_id) == ("completed", "fulfilled", 0, review)
        assert db.entries(user) == [100]

    def test_more_than_an_overpayment_takes_from_the_purchase(
        self, db: Database, user: uuid.UUID, session_id: uuid.UUID, attempt: Row
    ) -> None:
        db.apply(attempt, amount=620)
        refund(db, session_id, 220)
        assert standing(db, session_id) == ("partially_refunded", "fulfilled", 100, None)
        assert db.balance(user) == 80
        refund(db, session_id, 400, "re_2")
        assert standing(db, session_id) == BACK

    @pytest.mark.parametrize("status", ["pending", "failed"])
    def test_a_refund_that_has_not_happened_leaves_it_before_a_person(
        self, db: Database, session_id: uuid.UUID, twice_paid: Row, status: str
    ) -> None:
        report(db, twice_paid, told(500, status=status), provider_payment_id="pi_2")
        assert standing(db, session_id) == ("completed", "fulfilled", 0, "duplicate_payment")

    @pytest.mark.parametrize("reason", ["duplicate_payment", "amount_mismatch", "currency_mismatch", "overpaid"])
    def test_when_its_refund_fails_after_all_it_is_put_before_a_person_again(
        self, db: Database, session_id: uuid.UUID, attempt: Row, reason: str
    ) -> None:
        cases: dict[str, tuple[list[Row], int]] = {
            "duplicate_payment": ([{"provider_payment_id": "pi_1"}, {"provider_payment_id": "pi_2"}], 500),
            "amount_mismatch": ([{"provider_payment_id": "pi_2", "amount": 300}], 300),
            "currency_mismatch": ([{"provider_payment_id": "pi_2", "currency": "NGN"}], 500),
            "overpaid": ([{"provider_payment_id": "pi_2", "amount": 620}], 120),
        }
        paid_by, amount = cases[reason]
        for payment in paid_by:
            db.apply(attempt, **payment)
        report(db, attempt, told(amount), provider_payment_id="pi_2")
        assert standing(db, session_id)[2:] == (0, None)
        report(db, attempt, told(amount, status="failed"), provider_payment_id="pi_2")
        assert standing(db, session_id)[2:] == (0, reason)

    def test_other_reasons_stay(self, db: Database, session_id: uuid.UUID, attempt: Row) -> None:
        db.break_fulfilment("credits")
        for payment in ("pi_1", "pi_2"):
            db.apply(attempt, provider_payment_id=payment)
        report(db, attempt, told(500), provider_payment_id="pi_2")
        assert standing(db, session_id) == ("completed", "failed", 0, "fulfilment_failed")


class TestNothingToRefund:
    @pytest.mark.parametrize("status", ["pending", "processing", "failed", "expired", "cancelled"])
    def test_a_session_without_money(self, db: Database, session_id: uuid.UUID, attempt: Row, status: str) -> None:
        db.apply(attempt, status)
        before = db.everything()
        with refused("PT409", "nothing_to_refund"):
            refund(db, session_id, 500)
        assert db.everything() == before

    def test_a_session_that_cost_nothing(self, db: Database) -> None:
        db.sql("insert into payments.coupons (id, percent_off) values ('FREE', 100)")
        session_id = db.new_session(p_coupon="FREE")
        assert standing(db, session_id) == PAID
        before = db.everything()
        with refused("PT409", "nothing_to_refund"):
            refund(db, session_id, 1)
        assert db.everything() == before

    @pytest.mark.parametrize("nobody", [uuid.UUID(int=7), None])
    def test_a_session_that_does_not_exist(self, db: Database, nobody: uuid.UUID | None) -> None:
        with refused("PT404", "session_not_found"):
            db.as_service().rpc(FUNCTION, p_session_id=nobody, p_provider_refund_id="re_1", p_amount=1)
        assert known(db) == {}


class TestNewsThatOvertakesThePayment:
    @pytest.mark.parametrize("amount", [500, 200])
    def test_it_waits_for_the_payment(
        self, db: Database, user: uuid.UUID, session_id: uuid.UUID, attempt: Row, amount: int
    ) -> None:
        answer = report(db, attempt, told(amount), provider_payment_id=f"pi_{attempt['number']}")
        assert (answer["status"], answer["already_completed"]) == ("pending", False)
        assert standing(db, session_id) == ("pending", "none", 0, None)
        answer = db.apply(attempt)
        assert answer["status"] == ("refunded" if amount == 500 else "partially_refunded")
        assert standing(db, session_id)[2:] == (amount, None)
        assert db.balance(user) == 100 - amount // 5
        assert len(db.trail(session_id)) == 2

    @pytest.mark.parametrize("order", list(itertools.permutations(range(4))), ids=str)
    def test_payment_and_refunds_in_any_order_end_the_same(
        self, db: Database, user: uuid.UUID, session_id: uuid.UUID, attempt: Row, order: tuple[int, ...]
    ) -> None:
        steps = [
            partial(db.apply, attempt),
            partial(report, db, attempt, told(150, "re_1"), told(100, "re_2", "pending")),
            partial(report, db, attempt, told(100, "re_2", "failed")),
            partial(report, db, attempt, told(50, "re_3")),
        ]
        for number in order:
            steps[number]()
        assert standing(db, session_id) == ("partially_refunded", "fulfilled", 200, None)
        assert db.balance(user) == 60

    def test_a_failed_one_changes_nothing(self, db: Database, session_id: uuid.UUID, attempt: Row) -> None:
        report(db, attempt, told(500, status="failed"))
        db.apply(attempt)
        assert standing(db, session_id) == PAID

    def test_of_another_payment_than_the_one_that_comes_it_waits_on(
        self, db: Database, session_id: uuid.UUID, attempt: Row
    ) -> None:
        report(db, attempt, told(500), provider_payment_id="pi_2")
        db.apply(attempt, provider_payment_id="pi_1")
        assert standing(db, session_id) == PAID
        db.apply(attempt, provider_payment_id="pi_2")
        assert standing(db, session_id)[:3] == ("completed", "fulfilled", 0)

    def test_the_second_payment_that_is_refunded_before_it_is_known_needs_nobody(
        self, db: Database, session_id: uuid.UUID, attempt: Row
    ) -> None:
        db.apply(attempt, provider_payment_id="pi_1")
        report(db, attempt, told(500), provider_payment_id="pi_2")
        db.apply(attempt, provider_payment_id="pi_2")
        assert standing(db, session_id) == PAID

    @pytest.mark.parametrize("again", ["webhook", "verify"])
    def test_a_payment_that_is_known_by_its_page_is_refunded_once_its_own_name_is_known(
        self, db: Database, user: uuid.UUID, session_id: uuid.UUID, attempt: Row, again: str
    ) -> None:
        page = attempt["provider_session_id"]
        db.complete(session_id, p_stripe_session_id=page)
        report(db, attempt, told(500), provider_payment_id="pi_x")
        if again == "webhook":
            answer = db.apply(attempt, provider_payment_id="pi_x", provider_session_id=page)
        else:
            answer = db.complete(session_id, p_stripe_session_id=page, p_provider_payment_id="pi_x")
        assert answer["status"] == "refunded"
        assert standing(db, session_id) == BACK
        assert db.entries(user) == [100, -100]

    def test_a_payment_that_turns_out_larger_than_assumed_when_its_name_is_known(
        self, db: Database, user: uuid.UUID, session_id: uuid.UUID, attempt: Row
    ) -> None:
        page = attempt["provider_session_id"]
        db.complete(session_id, p_stripe_session_id=page)
        refund(db, session_id, 200)
        db.apply(attempt, provider_payment_id="pi_x", provider_session_id=page, amount=600)
        assert standing(db, session_id)[:3] == ("partially_refunded", "fulfilled", 100)
        assert db.balance(user) == 80


class TestSessionsThatAreGone:
    @pytest.fixture(params=["user deleted", "cleaned up"])
    def gone(self, request: pytest.FixtureRequest, db: Database, user: uuid.UUID, session_id: uuid.UUID) -> Row:
        """A session that was paid by pi_1, and refunded in part, and does not exist any more."""
        db.sql(
            "update public.payment_checkout_sessions"
            " set id = overlay(id::text placing left(payments.first_id_at(now() - '91 days'::interval)::text, 13)"
            " from 1 for 13)::uuid"
        )
        old_id = db.value("select id from public.payment_checkout_sessions")
        attempt = db.open_attempt(old_id)
        db.apply(attempt, provider_payment_id="pi_1")
        report(db, attempt, told(100, "re_0"))
        if request.param == "user deleted":
            db.sql("delete from auth.users where id = %s", user)
        else:
            db.sql("update public.payment_checkout_sessions set updated_at = now() - interval '91 days'")
            assert db.as_service().rpc("cleanup_completed_checkout_sessions") == 1
        assert db.value("select count(*) from public.payment_checkout_sessions") == 0
        return attempt

    def by_payment(self, db: Database, *refunds: Row, **said: Any) -> Row:
        facts: Row = {"provider": "stripe", "provider_payment_id": "pi_1", "refunds": list(refunds)}
        answer: Row = db.as_service().rpc("apply_payment_outcome", p_outcome=facts | said)
        return answer

    def test_their_refunds_stay_and_new_ones_are_kept(self, db: Database, gone: Row) -> None:
        answer = self.by_payment(db, told(300), told(101, "re_2"))
        assert answer["review_reason"] == "session_deleted"
        assert known(db) == {"re_0": ("succeeded", 100), "re_1": ("succeeded", 300), "re_2": ("refused", 101)}
        before = db.everything()
        self.by_payment(db, told(300), told(101, "re_2"))
        assert db.everything() == before

    def test_the_status_of_their_refunds_advances(self, db: Database, gone: Row) -> None:
        self.by_payment(db, told(100, "re_0", "failed"))
        self.by_payment(db, told(100, "re_0"))
        assert known(db) == {"re_0": ("failed", 100)}

    def test_a_dispute_is_kept(self, db: Database, gone: Row) -> None:
        self.by_payment(db, told(400, "dp_1", "pending", kind="dispute"), disputed=True)
        assert known(db)["dp_1"] == ("pending", 400)

    def test_the_hosts_own_call_finds_no_session(self, db: Database, gone: Row) -> None:
        before = db.everything()
        with refused("PT404", "session_not_found"):
            refund(db, uuid.UUID(gone["session_id"]), 100)
        assert db.everything() == before


class TestBadInput:
    @pytest.mark.parametrize(
        "bad",
        [
            {"p_amount": 0}, {"p_amount": -1}, {"p_amount": -LARGEST}, {"p_amount": None},
            {"p_provider_refund_id": None}, {"p_provider_refund_id": ""}, {"p_provider_refund_id": "r" * 256},
            {"p_status": None}, {"p_status": ""}, {"p_status": "refused"}, {"p_status": "cancelled"},
        ],
        ids=lambda bad: repr(bad)[:40],
    )  # fmt: skip
    def test_an_impossible_call_is_refused_and_leaves_no_trace(
        self, db: Database, session_id: uuid.UUID, paid: Row, bad: Row
    ) -> None:
        good: Row = {"p_session_id": session_id, "p_provider_refund_id": "re_1", "p_amount": 100}
        before = db.everything()
        with refused("PT422", "invalid_input"):
            db.as_service().rpc(FUNCTION, **(good | bad))
        assert db.everything() == before

    def test_an_amount_that_no_bigint_holds_is_refused(self, db: Database, session_id: uuid.UUID, paid: Row) -> None:
        with refused("42883"):  # no such function; PostgREST says 22003
            refund(db, session_id, LARGEST + 1)
        assert standing(db, session_id) == PAID

    @pytest.mark.parametrize("amount", [LARGEST, 10**18])
    @pytest.mark.parametrize("before", [0, 1])
    def test_the_largest_amounts_are_more_than_was_paid(
        self, db: Database, session_id: uuid.UUID, paid: Row, amount: int, before: int
    ) -> None:
        if before:
            refund(db, session_id, before, "re_0")
        refund(db, session_id, amount)
        assert standing(db, session_id)[2:] == (before, "refund_exceeds_payment")

    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("amount", 0), ("amount", -1), ("amount", None), ("amount", 1.5), ("amount", "many"), ("amount", ""),
            ("amount", 10**18), ("amount", 2**63), ("amount", 10**400), ("amount", [1]), ("amount", {}),
            ("amount", True), ("amount", "1\n"), ("amount", "007"),
            ("provider_refund_id", None), ("provider_refund_id", ""), ("provider_refund_id", "r" * 256),
            ("status", "refused"), ("status", ""), ("status", 7), ("status", []),
            ("kind", "gift"), ("kind", ""), ("kind", {}),
        ],
        ids=lambda value: repr(value)[:24],
    )  # fmt: skip
    @pytest.mark.parametrize("paid_too", [False, True], ids=["refunds alone", "with the payment"])
    def test_an_impossible_refund_is_refused_by_name_with_all_that_came_with_it(
        self, db: Database, attempt: Row, field: str, value: Any, paid_too: bool
    ) -> None:
        before = db.everything()
        with refused("PT422", "outcome_invalid") as caught:
            refunds = [told(100, "re_0"), told(100) | {field: value}]
            if paid_too:
                db.apply(attempt, event="evt_1", refunds=refunds)
            else:
                report(db, attempt, *refunds, event="evt_1")
        assert f"refunds[].{field}" in str(caught.value.diag.message_primary)
        assert db.everything() == before

    @pytest.mark.parametrize("refunds", [{}, "all", 7, True, [None], ["re_1"], [[]], [7], [{}]], ids=repr)
    def test_what_is_no_list_of_refunds_is_refused(
        self, db: Database, session_id: uuid.UUID, paid: Row, refunds: Any
    ) -> None:
        before = db.everything()
        with refused("PT422", "outcome_invalid"):
            db.apply(paid, refunds=refunds)
        assert db.everything() == before

    @pytest.mark.parametrize("refunds", [[], None])
    def test_a_report_of_nothing_is_refused_and_a_payment_without_refunds_is_not(
        self, db: Database, session_id: uuid.UUID, attempt: Row, refunds: Any
    ) -> None:
        with refused("PT422", "outcome_invalid"):
            report(db, attempt, refunds=refunds)
        db.apply(attempt, refunds=refunds)
        assert standing(db, session_id) == PAID

    @pytest.mark.parametrize("name", ["r" * 255, "🦊" * 255, " ", "'; drop table payment_refunds; --"])
    def test_any_id_of_1_to_255_characters_will_do(
        self, db: Database, session_id: uuid.UUID, give_back: Callable[..., Row], name: str
    ) -> None:
        give_back(100, name)
        assert known(db) == {name: ("succeeded", 100)}


class TestWhoMay:
    def test_only_the_service_refunds(self, db: Database, user: uuid.UUID, session_id: uuid.UUID, paid: Row) -> None:
        for caller in (db.as_user(user), db.as_anon()):
            with refused("42501"):
                caller.rpc(FUNCTION, p_session_id=session_id, p_provider_refund_id="re_1", p_amount=1)
        assert standing(db, session_id) == PAID

    def test_a_user_sees_the_own_refunds_and_writes_none(
        self, db: Database, user: uuid.UUID, session_id: uuid.UUID, paid: Row
    ) -> None:
        refund(db, session_id, 100)
        other = db.open_attempt(db.new_session())
        db.apply(other)
        report(db, other, told(200, "re_2"))
        look = "select provider_refund_id from public.payment_refunds"
        assert db.as_user(user).sql(look) == [{"provider_refund_id": "re_1"}]
        assert db.as_user(uuid.uuid4()).sql(look) == []
        assert len(db.as_service().sql(look)) == 2
        with refused("42501"):
            db.as_anon().sql(look)
        for caller in (db.as_user(user), db.as_service()):
            for statement in (
                "update public.payment_refunds set amount = 1", "delete from public.payment_refunds",
                "insert into public.payment_refunds select * from public.payment_refunds",
            ):  # fmt: skip
                with refused("42501"):
                    caller.sql(statement)

    @pytest.mark.parametrize(
        "statement", ["delete from public.payment_refunds", "truncate public.payment_refunds cascade"]
    )
    def test_not_even_the_owner_deletes_a_refund(
        self, db: Database, session_id: uuid.UUID, paid: Row, statement: str
    ) -> None:
        refund(db, session_id, 100)
        with refused("PT409", "append_only"):
            db.as_owner().sql(statement)
        assert known(db) == {"re_1": ("succeeded", 100)}


class TestAtTheSameTime:
    def test_16_calls_about_one_refund_take_once(
        self, db: Database, user: uuid.UUID, session_id: uuid.UUID, paid: Row
    ) -> None:
        answers = all_at_once([partial(refund, db, session_id, 200), partial(report, db, paid, told(200))] * 8)
        assert {answer["status"] for answer in answers} == {"partially_refunded"}
        assert standing(db, session_id) == ("partially_refunded", "fulfilled", 200, None)
        assert db.entries(user) == [100, -40]

    def test_16_deliveries_of_one_event_take_once(
        self, db: Database, user: uuid.UUID, session_id: uuid.UUID, paid: Row
    ) -> None:
        answers = all_at_once([partial(report, db, paid, told(200), event="evt_1")] * 16)
        assert Counter(answer["duplicate"] for answer in answers) == {False: 1, True: 15}
        assert db.entries(user) == [100, -40]

    def test_of_10_refunds_of_which_5_fit_exactly_5_are_taken(
        self, db: Database, user: uuid.UUID, session_id: uuid.UUID, paid: Row
    ) -> None:
        all_at_once([partial(refund, db, session_id, 100, f"re_{number}") for number in range(10)])
        assert Counter(status for status, _ in known(db).values()) == {"succeeded": 5, "refused": 5}
        assert standing(db, session_id) == ("refunded", "reversed", 500, "refund_exceeds_payment")
        assert db.entries(user) == [100] + [-20] * 5

    def test_the_second_waits_for_the_first_and_knows_what_became_of_it(
        self, db: Database, session_id: uuid.UUID, paid: Row
    ) -> None:
        with db.as_service().request() as first:
            call(first, FUNCTION, p_session_id=session_id, p_provider_refund_id="re_1", p_amount=300)
            second = start_and_see_it_wait(db, partial(refund, db, session_id, 201, "re_2"))
        assert second.result(WAIT)["review_reason"] == "refund_exceeds_payment"
        assert standing(db, session_id)[2] == 300

    def test_the_second_takes_over_when_the_first_dies(self, db: Database, session_id: uuid.UUID, paid: Row) -> None:
        with db.as_service().request() as first:
            call(first, FUNCTION, p_session_id=session_id, p_provider_refund_id="re_1", p_amount=300)
            second = start_and_see_it_wait(db, partial(refund, db, session_id, 500, "re_2"))
            first.rollback()
        assert second.result(WAIT)["status"] == "refunded"
        assert known(db) == {"re_2": ("succeeded", 500)}

    def test_a_refund_waits_for_the_payment_under_way(
        self, db: Database, user: uuid.UUID, session_id: uuid.UUID, attempt: Row
    ) -> None:
        with db.as_service().request() as first:
            call(first, "apply_payment_outcome", p_outcome=outcome(attempt))
            second = start_and_see_it_wait(db, partial(report, db, attempt, told(500)))
        assert second.result(WAIT)["status"] == "refunded"
        assert standing(db, session_id) == BACK
        assert db.entries(user) == [100, -100]

    def test_a_payment_waits_for_the_refund_that_overtook_it(
        self, db: Database, user: uuid.UUID, session_id: uuid.UUID, attempt: Row
    ) -> None:
        said = {"provider": "stripe", "reference": attempt["reference"], "refunds": [told(500)]}
        with db.as_service().request() as first:
            call(first, "apply_payment_outcome", p_outcome=said)
            second = start_and_see_it_wait(db, partial(db.apply, attempt))
        assert second.result(WAIT)["status"] == "refunded"
        assert standing(db, session_id) == BACK
        assert db.entries(user) == [100, -100]

    def test_payment_and_refunds_at_once_end_the_same(
        self, db: Database, user: uuid.UUID, session_id: uuid.UUID, attempt: Row
    ) -> None:
        paying: list[Callable[[], Any]] = [partial(db.apply, attempt)] * 4
        refunding: list[Callable[[], Any]] = [
            partial(report, db, attempt, told(50, f"re_{number % 4}")) for number in range(8)
        ]
        all_at_once(paying + refunding)
        assert standing(db, session_id) == ("partially_refunded", "fulfilled", 200, None)
        assert db.balance(user) == 60

    def test_one_id_for_two_sessions_takes_from_one_of_them(self, db: Database) -> None:
        pages = [db.open_attempt(db.new_session()) for _ in range(8)]
        for page in pages:
            db.apply(page)
        answers = all_at_once([partial(answer_or_reason, report, db, page, told(500)) for page in pages])
        refusals = [answer for answer in answers if answer == "try_again" or answer["review_reason"]]
        assert len(refusals) == 7
        for page in pages:  # whoever was asked to try again learns of the conflict
            report(db, page, told(500))
        states = Counter(standing(db, uuid.UUID(page["session_id"])) for page in pages)
        assert states == {BACK: 1, ("completed", "fulfilled", 0, "refund_conflict"): 7}

    def test_a_refund_waits_for_a_spending_and_takes_what_is_left(
        self, db: Database, user: uuid.UUID, session_id: uuid.UUID, paid: Row
    ) -> None:
        with db.as_service().request() as first:
            call(first, "spend_credits", p_user_id=user, p_amount=70, p_reason="x", p_idempotency_key="k")
            second = start_and_see_it_wait(db, partial(refund, db, session_id, 500))
        assert second.result(WAIT)["fulfilment"]["reversal"] == {"share": 1, "credits": 30, "shortfall": 70}
        assert db.entries(user) == [100, -70, -30]

    def test_a_spending_waits_for_a_refund_and_finds_the_credits_gone(
        self, db: Database, user: uuid.UUID, session_id: uuid.UUID, paid: Row
    ) -> None:
        spend = partial(
            db.as_service().rpc, "spend_credits", p_user_id=user, p_amount=70, p_reason="x", p_idempotency_key="k"
        )
        with db.as_service().request() as first:
            call(first, FUNCTION, p_session_id=session_id, p_provider_refund_id="re_1", p_amount=200)
            second = start_and_see_it_wait(db, partial(answer_or_reason, spend))
        assert second.result(WAIT) == "insufficient_credits"
        assert db.entries(user) == [100, -40]

    def test_purchases_refunds_and_spendings_of_one_user_end_neither_in_a_deadlock_nor_in_a_lost_update(
        self, db: Database, user: uuid.UUID
    ) -> None:
        pages = [db.open_attempt(db.new_session(user, p_subject=str(number))) for number in range(12)]
        for page in pages[:8]:
            db.apply(page)
        jobs: list[Callable[[], Any]] = [partial(db.apply, page) for page in pages[8:]]
        for number, page in enumerate(pages[:8]):
            jobs.append(partial(report, db, page, told(250, f"re_{number}")))
            jobs.append(
                partial(
                    db.as_service().rpc, "spend_credits",
                    p_user_id=user, p_amount=10, p_reason="x", p_idempotency_key=str(number),
                )
            )  # fmt: skip
        all_at_once(jobs)
        assert db.as_service().rpc("check_payment_invariants") == []
        assert Counter(db.entries(user)) == {100: 12, -50: 8, -10: 8}
        assert db.balance(user) == 720

    def test_a_refund_and_a_cleanup_of_the_same_session_do_not_lose_the_refund(
        self, db: Database, user: uuid.UUID, session_id: uuid.UUID, paid: Row
    ) -> None:
        with db.as_owner().request() as first:
            first.execute("delete from payment_checkout_sessions where id = %s", (session_id,))
            second = start_and_see_it_wait(
                db, partial(answer_or_reason, report, db, paid, told(200), provider_payment_id=f"pi_{paid['number']}")
            )
        assert second.result(WAIT) == "session_not_found"  # worth another delivery
        payment = f"pi_{paid['number']}"
        report(db, paid, told(200), provider_payment_id=payment)
        assert known(db) == {"re_1": ("succeeded", 200)}


def test_a_read_only_transaction_cannot_refund(db: Database, session_id: uuid.UUID, paid: Row) -> None:
    with pytest.raises(psycopg.errors.ReadOnlySqlTransaction), db.as_service().request(read_only=True) as request:
        call(request, FUNCTION, p_session_id=session_id, p_provider_refund_id="re_1", p_amount=1)
    assert standing(db, session_id) == PAID


def test_what_a_refund_needs_can_change_while_it_is_under_way(db: Database, attempt: Row) -> None:
    db.apply(attempt)
    for reason in (None, "needs attention: a bank account", None):
        db.apply(
            attempt, refunds=[{"provider_refund_id": "re_1", "amount": 500, "status": "pending", "reason": reason}]
        )
    (refund,) = db.sql("select status, amount, reason from public.payment_refunds")
    assert refund == {"status": "pending", "amount": 500, "reason": "needs attention: a bank account"}
