"""spend_credits: once per key, never below zero, always equal to the entries."""

from __future__ import annotations

import uuid
from collections import Counter
from functools import partial
from typing import Any

import pytest

from tests.sql.answers import answer_or_reason
from tests.support.database import Database, Row, call, outcome, refused
from tests.support.races import all_at_once, start_and_see_it_wait

FUNCTION = "spend_credits"
WAIT = 30  # seconds until a waiter is given up; nothing here takes long
LARGEST = 2**63 - 1


def spend(db: Database, user: uuid.UUID | None, amount: int | None, key: str | None = "k", note: Any = "a poem") -> Any:
    return db.as_service().rpc(FUNCTION, p_user_id=user, p_amount=amount, p_reason=note, p_idempotency_key=key)


def page_to_buy_on(db: Database, user: uuid.UUID, subject: str | None = None) -> Row:
    """A page on which the user buys 100 credits."""
    return db.open_attempt(db.new_session(user, p_subject=subject))


def ledger(db: Database, user: uuid.UUID) -> tuple[int, list[int]]:
    """Balance and entries, after a look that no guarantee is broken."""
    assert db.as_service().rpc("check_payment_invariants") == []
    entries = db.entries(user)
    assert db.balance(user) == sum(entries)
    return db.balance(user), entries


@pytest.fixture
def buyer(db: Database, user: uuid.UUID) -> uuid.UUID:
    """A user who has 100 credits."""
    db.apply(page_to_buy_on(db, user))
    return user


class TestSpending:
    def test_it_takes_the_credits_and_says_what_is_left(self, db: Database, buyer: uuid.UUID) -> None:
        assert spend(db, buyer, 30) == {"spent": 30, "balance": 70, "already_spent": False}
        assert spend(db, buyer, 70, "k2") == {"spent": 70, "balance": 0, "already_spent": False}
        assert ledger(db, buyer) == (0, [100, -30, -70])

    def test_never_below_zero_and_a_refusal_leaves_no_trace(self, db: Database, buyer: uuid.UUID) -> None:
        before = db.everything()
        for amount in (101, LARGEST):
            with refused("PT402", "insufficient_credits"):
                spend(db, buyer, amount)
        assert db.everything() == before

    def test_a_key_whose_spending_was_refused_works_once_there_are_enough_credits(
        self, db: Database, buyer: uuid.UUID
    ) -> None:
        with refused("PT402", "insufficient_credits"):
            spend(db, buyer, 150)
        db.apply(page_to_buy_on(db, buyer))
        assert spend(db, buyer, 150) == {"spent": 150, "balance": 50, "already_spent": False}

    def test_a_user_who_never_bought_anything_and_a_user_who_does_not_exist_have_no_credits(
        self, db: Database, user: uuid.UUID
    ) -> None:
        before = db.everything()
        for nobody in (user, uuid.uuid4()):
            with refused("PT402", "insufficient_credits"):
                spend(db, nobody, 1)
        assert db.everything() == before

    @pytest.mark.parametrize(
        "bad",
        [{"amount": 0}, {"amount": -1}, {"amount": -LARGEST - 1}, {"amount": None}, {"user": None},
         {"key": None}, {"key": ""}, {"key": "k" * 256}],
        ids=str,
    )  # fmt: skip
    def test_impossible_input_is_refused_and_leaves_no_trace(self, db: Database, buyer: uuid.UUID, bad: Row) -> None:
        good: Row = {"user": buyer, "amount": 1}
        before = db.everything()
        with refused("PT422", "invalid_input"):
            spend(db, **(good | bad))
        assert db.everything() == before

    def test_an_amount_that_no_bigint_holds_is_refused(self, db: Database, buyer: uuid.UUID) -> None:
        with refused("42883"):  # no such function; PostgREST says 22003
            spend(db, buyer, LARGEST + 1)
        assert ledger(db, buyer) == (100, [100])

    @pytest.mark.parametrize(
        ("note", "kept"), [("a poem", "a poem"), (None, None), ("", ""), ("é" * 201, "é" * 200)], ids=str
    )
    def test_what_it_was_for_is_kept_for_the_users_statement(
        self, db: Database, buyer: uuid.UUID, note: str | None, kept: str | None
    ) -> None:
        spend(db, buyer, 1, note=note)
        seen = db.as_user(buyer).sql("select amount, note from public.payment_credit_entries order by id")
        assert seen == [{"amount": 100, "note": None}, {"amount": -1, "note": kept}]

    def test_only_the_service_may_spend(self, db: Database, buyer: uuid.UUID) -> None:
        for caller in (db.as_user(buyer), db.as_anon()):
            with refused("42501"):
                caller.rpc(FUNCTION, p_user_id=buyer, p_amount=1, p_reason="x", p_idempotency_key="k")
        assert ledger(db, buyer) == (100, [100])


class TestOncePerKey:
    def test_a_replay_answers_as_before_and_changes_nothing(self, db: Database, buyer: uuid.UUID) -> None:
        spend(db, buyer, 30)
        before = db.everything()
        for note in ("a poem", "worded otherwise"):
            assert spend(db, buyer, 30, note=note) == {"spent": 30, "balance": 70, "already_spent": True}
        assert db.everything() == before

    def test_a_replay_succeeds_even_when_nothing_is_left(self, db: Database, buyer: uuid.UUID) -> None:
        spend(db, buyer, 100)
        assert spend(db, buyer, 100) == {"spent": 100, "balance": 0, "already_spent": True}

    @pytest.mark.parametrize("amount", [29, 31, LARGEST])
    def test_the_same_key_with_another_amount_is_a_conflict(self, db: Database, buyer: uuid.UUID, amount: int) -> None:
        spend(db, buyer, 30)
        with refused("PT409", "idempotency_conflict"):
            spend(db, buyer, amount)
        assert ledger(db, buyer) == (70, [100, -30])

    def test_the_keys_of_two_users_do_not_meet(self, db: Database, buyer: uuid.UUID) -> None:
        other = db.new_user()
        db.apply(page_to_buy_on(db, other))
        assert [spend(db, who, amount)["already_spent"] for who, amount in ((buyer, 30), (other, 40))] == [False, False]
        assert (ledger(db, buyer)[0], ledger(db, other)[0]) == (70, 60)

    @pytest.mark.parametrize("key", ["k" * 255, "🦊" * 255, ":", " "], ids=["long", "wide", "colon", "space"])
    def test_any_key_of_1_to_255_characters_will_do(self, db: Database, buyer: uuid.UUID, key: str) -> None:
        assert [spend(db, buyer, 1, key)["already_spent"] for _ in range(2)] == [False, True]

    def test_the_session_of_a_purchase_as_a_key_does_not_meet_the_purchase(
        self, db: Database, user: uuid.UUID, session_id: uuid.UUID, attempt: Row
    ) -> None:
        db.apply(attempt)
        assert spend(db, user, 1, str(session_id))["already_spent"] is False
        assert ledger(db, user) == (99, [100, -1])

    def test_a_deleted_user_can_spend_nothing_more_and_the_replay_still_answers(
        self, db: Database, buyer: uuid.UUID
    ) -> None:
        spend(db, buyer, 30)
        db.sql("delete from auth.users where id = %s", buyer)
        assert spend(db, buyer, 30) == {"spent": 30, "balance": None, "already_spent": True}
        with refused("PT402", "insufficient_credits"):
            spend(db, buyer, 1, "k2")
        assert db.entries(buyer) == [100, -30]


class TestManyAtOnce:
    def test_32_spendings_with_one_key_spend_once(self, db: Database, buyer: uuid.UUID) -> None:
        answers = all_at_once([partial(spend, db, buyer, 10)] * 32)
        assert Counter(answer["already_spent"] for answer in answers) == {False: 1, True: 31}
        assert {answer["balance"] for answer in answers} == {90}
        assert ledger(db, buyer) == (90, [100, -10])

    def test_of_32_spendings_with_credits_for_10_exactly_10_succeed(self, db: Database, buyer: uuid.UUID) -> None:
        answers = all_at_once([partial(answer_or_reason, spend, db, buyer, 10, f"k{n}") for n in range(32)])
        left = [answer["balance"] for answer in answers if answer != "insufficient_credits"]
        assert sorted(left) == list(range(0, 100, 10))
        assert ledger(db, buyer) == (0, [100] + [-10] * 10)

    def test_the_second_of_two_with_one_key_waits_and_takes_over_when_the_first_dies(
        self, db: Database, buyer: uuid.UUID
    ) -> None:
        arguments = {"p_user_id": buyer, "p_amount": 10, "p_reason": "x", "p_idempotency_key": "k"}
        with db.as_service().request() as first:
            call(first, FUNCTION, **arguments)
            second = start_and_see_it_wait(db, partial(spend, db, buyer, 10))
            first.rollback()
        assert second.result(WAIT) == {"spent": 10, "balance": 90, "already_spent": False}

    @pytest.mark.parametrize(("paid", "left"), [(True, 140), (False, 40)])
    def test_a_spending_waits_for_a_purchase_under_way_and_knows_what_became_of_it(
        self, db: Database, buyer: uuid.UUID, paid: bool, left: int
    ) -> None:
        page = page_to_buy_on(db, buyer)
        with db.as_service().request() as first:
            call(first, "apply_payment_outcome", p_outcome=outcome(page))
            second = start_and_see_it_wait(db, partial(spend, db, buyer, 60))
            if not paid:
                first.rollback()
        assert second.result(WAIT)["balance"] == left
        assert ledger(db, buyer)[0] == left

    def test_a_spending_that_waits_for_another_is_refused_when_too_little_is_left(
        self, db: Database, buyer: uuid.UUID
    ) -> None:
        with db.as_service().request() as first:
            call(first, FUNCTION, p_user_id=buyer, p_amount=60, p_reason="x", p_idempotency_key="k")
            second = start_and_see_it_wait(db, partial(answer_or_reason, spend, db, buyer, 60, "k2"))
        assert second.result(WAIT) == "insufficient_credits"
        assert ledger(db, buyer) == (40, [100, -60])

    def test_a_purchase_waits_for_a_spending_under_way_and_loses_nothing(self, db: Database, buyer: uuid.UUID) -> None:
        page = page_to_buy_on(db, buyer)
        with db.as_service().request() as first:
            call(first, FUNCTION, p_user_id=buyer, p_amount=100, p_reason="x", p_idempotency_key="k")
            second = start_and_see_it_wait(db, partial(db.apply, page))
        assert second.result(WAIT)["fulfilment"]["balance"] == 100
        assert ledger(db, buyer) == (100, [100, -100, 100])

    def test_credits_that_are_not_paid_for_yet_cannot_be_spent(
        self, db: Database, user: uuid.UUID, attempt: Row
    ) -> None:
        with db.as_service().request() as first:
            call(first, "apply_payment_outcome", p_outcome=outcome(attempt))
            with refused("PT402", "insufficient_credits"):
                spend(db, user, 1)
        assert spend(db, user, 1)["balance"] == 99

    def test_purchases_and_spendings_at_once_end_neither_in_a_deadlock_nor_in_a_lost_update(
        self, db: Database, buyer: uuid.UUID
    ) -> None:
        pages = [page_to_buy_on(db, buyer, str(number)) for number in range(8)]
        buying = [partial(db.apply, page) for page in pages]
        spending = [partial(spend, db, buyer, 5, f"k{number % 10}") for number in range(20)]
        all_at_once([*buying, *spending])
        balance, entries = ledger(db, buyer)
        assert (balance, Counter(entries)) == (850, {100: 9, -5: 10})
