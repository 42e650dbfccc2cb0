"""Contributions: a payment marks one cycle of one member as paid, and a cycle is paid once."""

from __future__ import annotations

import uuid
from collections import Counter
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from tests.sql.answers import answer_or_reason
from tests.sql.test_groups import (
    CONTRIBUTION,
    JOIN,
    NOBODY,
    ask,
    join,
    new_group,
    pay,
    refund,
    retry,
    sell_groups,
    set_status,
)
from tests.support.database import Database, Row, call, outcome, refused
from tests.support.races import all_at_once, start_and_see_it_wait

if TYPE_CHECKING:
    from collections.abc import Iterator

AMOUNT = 2000
ROUNDS = 8
WAIT = 30  # seconds until a waiter is given up; nothing here takes long


def ask_to_contribute(db: Database, user: uuid.UUID, group: str, cycle: Any = 1) -> uuid.UUID:
    return ask(db, user, CONTRIBUTION, f"{group}:{cycle}")


def contribute(db: Database, user: uuid.UUID, group: str, cycle: Any = 1) -> Row:
    """The user pays a cycle; what the completion answered."""
    return pay(db, ask_to_contribute(db, user, group, cycle))


def cycles(db: Database, user: uuid.UUID, group: str) -> dict[int, str]:
    """What is known of the member's cycles."""
    rows = db.sql(
        "select cycle, status from public.payment_contributions where group_id = %s and user_id = %s order by cycle",
        group, user,
    )  # fmt: skip
    return {row["cycle"]: row["status"] for row in rows}


def payer(db: Database, group: str, cycle: int = 1) -> uuid.UUID:
    """The session that paid the cycle last."""
    session_id = db.value(
        "select session_id from public.payment_contributions where group_id = %s and cycle = %s", group, cycle
    )
    assert isinstance(session_id, uuid.UUID)
    return session_id


def two_pages_for_one_cycle(db: Database, user: uuid.UUID, group: str) -> tuple[Row, Row]:
    """Two sessions for the same cycle: the first one was given up, but its page can still be paid."""
    first = db.open_attempt(ask_to_contribute(db, user, group))
    db.close(first["session_id"])
    second = db.open_attempt(ask_to_contribute(db, user, group))
    assert first["session_id"] != second["session_id"]
    return first, second


@pytest.fixture(autouse=True)
def _catalogue_and_invariants(db: Database) -> Iterator[None]:
    """Every test has the products, and leaves no guarantee broken."""
    sell_groups(db)
    yield
    assert db.as_service().rpc("check_payment_invariants") == []


@pytest.fixture
def group(db: Database, user: uuid.UUID) -> str:
    """A group in which the user holds slot 2."""
    return new_group(db, creator=user, position=2)


class TestContributing:
    def test_it_marks_exactly_one_cycle_of_one_member_as_paid(self, db: Database, user: uuid.UUID, group: str) -> None:
        join(db, group)
        session_id = ask_to_contribute(db, user, group, 7)
        answer = pay(db, session_id)
        assert answer == {
            "session_id": str(session_id), "status": "completed", "already_completed": False, "position": 2,
            "fulfilment_status": "fulfilled", "review_reason": None,
            "fulfilment": {"kind": "contribution", "group_id": group, "cycle": 7, "position": 2},
        }  # fmt: skip
        completed_at = db.session(session_id)["completed_at"]
        assert db.sql("select * from public.payment_contributions") == [{
            "group_id": uuid.UUID(group), "user_id": user, "cycle": 7, "status": "paid", "session_id": session_id,
            "amount": AMOUNT, "currency": "USD", "paid_at": completed_at, "updated_at": completed_at,
        }]  # fmt: skip

    @pytest.mark.parametrize("order", [(1, 2, 3), (3, 1, 2), (9999, 1)], ids=str)
    def test_cycles_are_paid_in_any_order(
        self, db: Database, user: uuid.UUID, group: str, order: tuple[int, ...]
    ) -> None:
        for cycle in order:
            assert contribute(db, user, group, cycle)["fulfilment"]["cycle"] == cycle
        assert cycles(db, user, group) == dict.fromkeys(sorted(order), "paid")

    def test_every_member_pays_for_themselves_and_in_every_group(
        self, db: Database, user: uuid.UUID, group: str
    ) -> None:
        friend, other_group = db.new_user(), new_group(db, creator=user)
        join(db, group, friend)
        assert [contribute(db, *purchase)["position"] for purchase in ((friend, group), (user, other_group))] == [1, 1]
        assert cycles(db, user, group) == {}
        contribute(db, user, group)
        owners = ((friend, group), (user, other_group), (user, group))
        assert [cycles(db, *owner) for owner in owners] == [{1: "paid"}] * 3

    def test_it_is_kept_in_the_currency_that_was_paid(self, db: Database, user: uuid.UUID, group: str) -> None:
        session_id = db.new_session(user, CONTRIBUTION, p_subject=f"{group}:1", p_currency="NGN")
        pay(db, session_id)
        assert db.sql("select amount, currency from public.payment_contributions") == [
            {"amount": 3000000, "currency": "NGN"}
        ]

    def test_a_replay_answers_the_same_and_changes_nothing(self, db: Database, user: uuid.UUID, group: str) -> None:
        session_id = ask_to_contribute(db, user, group)
        first, before = pay(db, session_id), db.everything()
        assert pay(db, session_id) == first | {"already_completed": True}
        assert db.everything() == before

    def test_members_of_a_closed_group_still_pay(self, db: Database, user: uuid.UUID, group: str) -> None:
        set_status(db, group, "closed")
        assert contribute(db, user, group)["fulfilment_status"] == "fulfilled"

    def test_what_was_contributed_outlives_the_user(self, db: Database, user: uuid.UUID, group: str) -> None:
        contribute(db, user, group)
        db.sql("delete from auth.users where id = %s", user)
        assert cycles(db, user, group) == {1: "paid"}


class TestWhoSeesAContribution:
    def test_its_payer_and_the_service(self, db: Database, user: uuid.UUID, group: str) -> None:
        friend = db.new_user()
        join(db, group, friend)
        for who in (user, friend):
            contribute(db, who, group)
        query = "select user_id from public.payment_contributions"
        for who in (user, friend):
            assert db.as_user(who).sql(query) == [{"user_id": who}]
        assert db.as_user(db.new_user()).sql(query) == []
        assert len(db.as_service().sql(query)) == 2
        with refused("42501"):
            db.as_anon().sql(query)

    @pytest.mark.parametrize(
        "statement",
        ["insert into public.payment_contributions select * from public.payment_contributions",
         "update public.payment_contributions set status = 'paid'",
         "delete from public.payment_contributions",
         "truncate public.payment_contributions"],
    )  # fmt: skip
    def test_nobody_writes_it(self, db: Database, user: uuid.UUID, group: str, statement: str) -> None:
        contribute(db, user, group)
        for caller in (db.as_user(user), db.as_anon(), db.as_service()):
            with refused("42501"):
                caller.sql(statement)


class TestWhatIsNotSold:
    """Refused before the buyer pays, and without a trace."""

    @staticmethod
    def assert_refused(db: Database, sqlstate: str, reason: str, *arguments: Any) -> None:
        before = db.everything()
        with refused(sqlstate, reason):
            ask(db, *arguments)
        assert db.everything() == before

    def test_a_cycle_that_is_paid(self, db: Database, user: uuid.UUID, group: str) -> None:
        contribute(db, user, group)
        self.assert_refused(db, "PT409", "contribution_paid", user, CONTRIBUTION, f"{group}:1")
        assert contribute(db, user, group, 2)["fulfilment_status"] == "fulfilled"

    def test_a_cycle_for_a_stranger(self, db: Database, group: str) -> None:
        self.assert_refused(db, "PT409", "not_a_member", db.new_user(), CONTRIBUTION, f"{group}:1")

    def test_a_cycle_for_who_has_asked_to_join_but_not_paid(self, db: Database, group: str) -> None:
        user = db.new_user()
        ask(db, user, JOIN, group)
        self.assert_refused(db, "PT409", "not_a_member", user, CONTRIBUTION, f"{group}:1")

    def test_a_cycle_for_who_was_refunded_and_left(self, db: Database, user: uuid.UUID, group: str) -> None:
        refund(db, group)
        self.assert_refused(db, "PT409", "not_a_member", user, CONTRIBUTION, f"{group}:1")

    @pytest.mark.parametrize(
        "cycle",
        ["0", "01", "-1", "+1", "10000", "1.0", "1e3", "one", "", " 1", "1 ", "1\n", "null", "1;drop", "1:", "1:2",
         "1:1", "٣", "１"],  # noqa: RUF001
    )  # fmt: skip
    def test_a_cycle_that_is_none(self, db: Database, user: uuid.UUID, group: str, cycle: str) -> None:
        self.assert_refused(db, "PT422", "invalid_input", user, CONTRIBUTION, f"{group}:{cycle}")

    def test_no_cycle(self, db: Database, user: uuid.UUID, group: str) -> None:
        self.assert_refused(db, "PT422", "invalid_input", user, CONTRIBUTION, group)

    @pytest.mark.parametrize("subject", [None, "1", ":1", f"{NOBODY}:1", "x:1", " {group}:1", "{GROUP}:1", "1:{group}"])
    def test_a_cycle_of_a_group_that_is_not_named_properly(
        self, db: Database, user: uuid.UUID, group: str, subject: str | None
    ) -> None:
        subject = subject and subject.format(group=group, GROUP=group.upper())
        self.assert_refused(db, "PT404", "group_unknown", user, CONTRIBUTION, subject)

    def test_a_cycle_with_the_product_of_another_group(self, db: Database, user: uuid.UUID, group: str) -> None:
        other = db.new_product("other_share", "contribution", USD=1)
        self.assert_refused(db, "PT422", "group_product_mismatch", user, other, f"{group}:1")


class TestPaidTwice:
    def test_the_second_of_two_sessions_for_one_cycle_is_paid_and_left_for_review(
        self, db: Database, user: uuid.UUID, group: str
    ) -> None:
        late, second = two_pages_for_one_cycle(db, user, group)
        db.apply(second)
        answer = db.apply(late)
        assert (answer["status"], answer["fulfilment_status"], answer["fulfilment"]) == ("completed", "failed", None)
        assert "position" not in answer
        assert db.state(late["session_id"]) == ("completed", "failed", "paid_twice, fulfilment_failed")
        assert db.session(late["session_id"])["error_code"] == "contribution_paid"
        assert (cycles(db, user, group), payer(db, group)) == ({1: "paid"}, uuid.UUID(second["session_id"]))

    def test_the_second_waits_until_the_first_is_refunded(self, db: Database, user: uuid.UUID, group: str) -> None:
        late, second = two_pages_for_one_cycle(db, user, group)
        db.apply(second)
        db.apply(late)
        assert retry(db, late["session_id"])["fulfilment_status"] == "failed"
        refund(db, second["session_id"])
        assert cycles(db, user, group) == {1: "refunded"}
        answer = retry(db, late["session_id"])
        assert (answer["position"], answer["fulfilment"]["cycle"], answer["review_reason"]) == (2, 1, "paid_twice")
        assert cycles(db, user, group) == {1: "paid"}

    def test_the_second_is_refunded_and_the_first_stays_paid(self, db: Database, user: uuid.UUID, group: str) -> None:
        late, second = two_pages_for_one_cycle(db, user, group)
        db.apply(second)
        db.apply(late)
        refund(db, late["session_id"])
        assert db.state(late["session_id"]) == ("refunded", "reversed", "paid_twice")
        assert cycles(db, user, group) == {1: "paid"}

    def test_two_sessions_paid_at_the_same_moment_pay_the_cycle_once(
        self, db: Database, user: uuid.UUID, group: str
    ) -> None:
        for cycle in range(1, ROUNDS + 1):
            page = db.open_attempt(ask_to_contribute(db, user, group, cycle))
            db.close(page["session_id"])
            pages = [page, db.open_attempt(ask_to_contribute(db, user, group, cycle))]
            said = all_at_once([partial(answer_or_reason, db.apply, page) for page in pages])
            # who may not wait is told to come again, as providers do
            answers = [db.apply(page) if word == "try_again" else word for page, word in zip(pages, said, strict=True)]
            assert Counter(answer["fulfilment_status"] for answer in answers) == {"fulfilled": 1, "failed": 1}
            (paid,) = (a["session_id"] for a in answers if a["fulfilment_status"] == "fulfilled")
            assert str(payer(db, group, cycle)) == paid
        assert cycles(db, user, group) == dict.fromkeys(range(1, ROUNDS + 1), "paid")

    @pytest.mark.parametrize("committed", [True, False])
    def test_who_comes_second_waits_and_knows_what_became_of_the_first(
        self, db: Database, user: uuid.UUID, group: str, committed: bool
    ) -> None:
        late, second = two_pages_for_one_cycle(db, user, group)
        with db.as_service().request() as request:
            call(request, "apply_payment_outcome", p_outcome=outcome(second))
            waiting = start_and_see_it_wait(db, partial(db.apply, late))
            if not committed:
                request.rollback()
        assert waiting.result(WAIT)["fulfilment_status"] == ("failed" if committed else "fulfilled")
        assert str(payer(db, group)) == (second if committed else late)["session_id"]

    def test_16_deliveries_of_one_payment_pay_once(self, db: Database, user: uuid.UUID, group: str) -> None:
        page = db.open_attempt(ask_to_contribute(db, user, group))
        answers = all_at_once([partial(db.apply, page, event=f"evt_{number}") for number in range(16)])
        assert {answer["position"] for answer in answers} == {2}
        assert cycles(db, user, group) == {1: "paid"}

    def test_a_second_payment_of_one_session_is_flagged(self, db: Database, user: uuid.UUID, group: str) -> None:
        page = db.open_attempt(ask_to_contribute(db, user, group))
        for payment in ("pi_a", "pi_b"):
            db.apply(page, provider_payment_id=payment)
        assert db.state(page["session_id"]) == ("completed", "fulfilled", "duplicate_payment")
        assert cycles(db, user, group) == {1: "paid"}

    def test_many_cycles_paid_at_once_are_all_paid(self, db: Database, user: uuid.UUID, group: str) -> None:
        friend = db.new_user()
        join(db, group, friend)
        pages = [db.open_attempt(ask_to_contribute(db, who, group, n)) for who in (user, friend) for n in range(1, 7)]
        all_at_once([partial(db.apply, page) for page in pages])
        assert [cycles(db, who, group) for who in (user, friend)] == [dict.fromkeys(range(1, 7), "paid")] * 2


class TestRefunds:
    @pytest.fixture
    def paid(self, db: Database, user: uuid.UUID, group: str) -> uuid.UUID:
        """The session that paid the first of two cycles."""
        contribute(db, user, group, 2)
        return uuid.UUID(contribute(db, user, group)["session_id"])

    def test_in_full_it_marks_the_cycle_as_refunded_and_the_cycle_can_be_paid_again(
        self, db: Database, user: uuid.UUID, group: str, paid: uuid.UUID
    ) -> None:
        refund(db, paid)
        assert db.state(paid) == ("refunded", "reversed", None)
        assert cycles(db, user, group) == {1: "refunded", 2: "paid"}
        answer = contribute(db, user, group)
        assert (answer["fulfilment_status"], answer["position"]) == ("fulfilled", 2)
        assert cycles(db, user, group) == {1: "paid", 2: "paid"}
        assert payer(db, group) == uuid.UUID(answer["session_id"]) != paid

    def test_in_part_it_changes_nothing_until_the_parts_are_the_whole(
        self, db: Database, user: uuid.UUID, group: str, paid: uuid.UUID
    ) -> None:
        refund(db, paid, AMOUNT - 1, name="a")
        assert db.state(paid) == ("partially_refunded", "fulfilled", None)
        assert cycles(db, user, group)[1] == "paid"
        with refused("PT409", "contribution_paid"):
            ask_to_contribute(db, user, group)
        refund(db, paid, 1, name="b")
        assert cycles(db, user, group)[1] == "refunded"

    def test_a_replay_changes_nothing(self, db: Database, paid: uuid.UUID) -> None:
        refund(db, paid)
        before = db.everything()
        refund(db, paid)
        assert db.everything() == before

    @pytest.mark.parametrize("part", [AMOUNT, AMOUNT - 1])
    def test_when_it_fails_later_the_cycle_is_paid_again(
        self, db: Database, user: uuid.UUID, group: str, paid: uuid.UUID, part: int
    ) -> None:
        refund(db, paid, part, name="a")
        if part < AMOUNT:
            refund(db, paid, AMOUNT - part, name="b")
        assert cycles(db, user, group)[1] == "refunded"
        refund(db, paid, part, status="failed", name="a")
        assert db.state(paid) == ("completed" if part == AMOUNT else "partially_refunded", "fulfilled", None)
        assert (cycles(db, user, group), payer(db, group)) == ({1: "paid", 2: "paid"}, paid)

    def test_when_it_fails_after_the_cycle_was_paid_again_a_person_is_asked_and_nothing_is_lost(
        self, db: Database, user: uuid.UUID, group: str, paid: uuid.UUID
    ) -> None:
        refund(db, paid)
        again = uuid.UUID(contribute(db, user, group)["session_id"])
        refund(db, paid, status="failed")
        assert db.state(paid) == ("completed", "reversed", "reversal_failed")
        assert retry(db, paid)["review_reason"] == "reversal_failed"
        assert (payer(db, group), db.state(again)) == (again, ("completed", "fulfilled", None))

        refund(db, again)
        assert retry(db, paid)["position"] == 2
        assert db.state(paid) == ("completed", "fulfilled", None)
        assert (cycles(db, user, group)[1], payer(db, group)) == ("paid", paid)

    def test_a_late_refund_of_a_session_that_no_longer_pays_the_cycle_takes_nothing(
        self, db: Database, user: uuid.UUID, group: str, paid: uuid.UUID
    ) -> None:
        refund(db, paid)
        contribute(db, user, group)
        refund(db, paid, status="failed")
        refund(db, paid, name="once more")
        assert db.state(paid)[:2] == ("refunded", "reversed")
        assert cycles(db, user, group)[1] == "paid"

    def test_who_pays_again_while_the_refund_is_under_way_waits_for_it(
        self, db: Database, user: uuid.UUID, group: str
    ) -> None:
        late, second = two_pages_for_one_cycle(db, user, group)
        db.apply(second)
        with db.as_service().request() as request:
            call(
                request, "refund_checkout_session",
                p_session_id=second["session_id"], p_provider_refund_id="re_1", p_amount=AMOUNT,
            )  # fmt: skip
            waiting = start_and_see_it_wait(db, partial(db.apply, late))
        assert waiting.result(WAIT)["fulfilment_status"] == "fulfilled"
        assert (cycles(db, user, group), str(payer(db, group))) == ({1: "paid"}, late["session_id"])

    def test_the_refund_of_a_place_leaves_what_was_contributed(
        self, db: Database, user: uuid.UUID, group: str, paid: uuid.UUID
    ) -> None:
        refund(db, group)
        assert cycles(db, user, group) == {1: "paid", 2: "paid"}
        assert db.state(paid) == ("completed", "fulfilled", None)

    def test_8_retries_of_the_second_payment_after_the_refund_of_the_first_pay_once(
        self, db: Database, user: uuid.UUID, group: str
    ) -> None:
        late, second = two_pages_for_one_cycle(db, user, group)
        db.apply(second)
        db.apply(late)
        refund(db, second["session_id"])
        answers = all_at_once([partial(answer_or_reason, retry, db, late["session_id"])] * 8)
        results = Counter(answer if isinstance(answer, str) else answer["fulfilment_status"] for answer in answers)
        assert results == {"fulfilled": 1, "nothing_to_retry": 7}
