"""Coupons under concurrent buyers, and money that comes for a place that was given up."""

from __future__ import annotations

import uuid
from collections import Counter
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from tests.sql.answers import answer_or_reason
from tests.sql.test_coupons import FUNCTION, buy, new_coupon, place, uses
from tests.support.database import Actor, Database, Row, call, outcome, refused
from tests.support.races import all_at_once, start_and_see_it_wait

if TYPE_CHECKING:
    from collections.abc import Callable

WAIT = 30  # seconds until a waiter is given up; nothing here takes long


def buyer(db: Database, code: str, **arguments: Any) -> Callable[[], Any]:
    """A new user who will ask for the coupon: the session, or the reason why there is none."""
    return partial(answer_or_reason, buy, db, db.new_user(), p_coupon=code, **arguments)


def without_waiting(actor: Actor, function: str, **arguments: Any) -> Any:
    """A call that fails if it has to wait for anybody's lock."""
    with actor.request() as connection:
        connection.execute("set local lock_timeout = '1s'")
        return call(connection, function, **arguments)


@pytest.fixture
def one(db: Database) -> str:
    """A coupon of half the price with one place."""
    return new_coupon(db, "ONE", max_redemptions=1)


class TestManyAtOnce:
    @pytest.mark.parametrize("cap", [1, 20, 49, 50])
    def test_of_50_buyers_at_once_exactly_as_many_as_there_are_places_get_one(self, db: Database, cap: int) -> None:
        new_coupon(db, "RUSH", max_redemptions=cap)
        answers = all_at_once([buyer(db, "RUSH") for _ in range(50)])
        assert Counter(a if a == "coupon_exhausted" else "ok" for a in answers) == Counter(
            ["ok"] * cap + ["coupon_exhausted"] * (50 - cap)
        )
        assert uses(db, "RUSH") == {"reserved": cap}

    def test_none_of_50_buyers_is_refused_while_places_of_others_have_been_released(self, db: Database) -> None:
        new_coupon(db, "RUSH", max_redemptions=50)
        for _ in range(30):
            db.lapse(db.new_session(p_coupon="RUSH"))
        assert db.as_service().rpc("expire_old_checkout_sessions") == 30
        answers = all_at_once([buyer(db, "RUSH") for _ in range(50)])
        assert [a for a in answers if not isinstance(a, uuid.UUID)] == []
        assert uses(db, "RUSH") == {"reserved": 50, "released": 30}

    def test_50_purchases_of_one_user_at_once_keep_to_the_cap_per_user(self, db: Database, user: uuid.UUID) -> None:
        new_coupon(db, "RUSH", max_redemptions=20, max_redemptions_per_user=3)
        ask = partial(answer_or_reason, buy, db, user, p_coupon="RUSH")
        answers = all_at_once([partial(ask, p_subject=str(number)) for number in range(50)])
        assert Counter(answers)["coupon_exhausted"] == 47
        assert uses(db, "RUSH") == {"reserved": 3}

    def test_32_identical_calls_take_one_place(self, db: Database, user: uuid.UUID, one: str) -> None:
        assert len(set(all_at_once([partial(buy, db, user, p_coupon=one)] * 32))) == 1
        assert uses(db, one) == {"reserved": 1}

    @pytest.mark.parametrize(
        ("cap", "stays", "got"), [(2, True, True), (1, False, True), (1, True, False)],
        ids=["another place is free", "the first gives up", "the first takes the last"],
    )  # fmt: skip
    def test_the_buyer_behind_waits_to_see_whether_a_place_is_left(
        self, db: Database, user: uuid.UUID, cap: int, stays: bool, got: bool
    ) -> None:
        new_coupon(db, "RUSH", max_redemptions=cap)
        with db.as_user(user).request() as first:
            call(first, FUNCTION, p_plan="credits_100", p_coupon="RUSH")
            second = start_and_see_it_wait(db, buyer(db, "RUSH"))
            if not stays:
                first.rollback()
        assert (second.result(WAIT) != "coupon_exhausted") == got
        assert uses(db, "RUSH") == {"reserved": stays + got}

    def test_paying_and_giving_up_do_not_wait_in_the_queue_of_the_buyers(self, db: Database, user: uuid.UUID) -> None:
        new_coupon(db, "RUSH", max_redemptions=9)
        paid = db.open_attempt(db.new_session(p_coupon="RUSH"))
        cancelled, lapsed = db.new_session(p_coupon="RUSH"), db.new_session(p_coupon="RUSH")
        db.lapse(lapsed)
        service = db.as_service()
        with db.as_user(user).request() as first:
            call(first, FUNCTION, p_plan="credits_100", p_coupon="RUSH")
            without_waiting(service, "apply_payment_outcome", p_outcome=outcome(paid))
            without_waiting(service, "cancel_checkout_session", p_session_id=cancelled)
            assert without_waiting(service, "expire_old_checkout_sessions") == 1
        assert uses(db, "RUSH") == {"reserved": 1, "confirmed": 1, "released": 2}


class TestUsedUp:
    @pytest.mark.parametrize(
        ("ask", "arguments"),
        [(FUNCTION, {"p_plan": "credits_100"}), ("quote_checkout", {"p_plan": "credits_100"})],
    )
    def test_who_is_refused_reads_no_place_that_others_hold(self, db: Database, ask: str, arguments: Row) -> None:
        new_coupon(db, "RUSH", max_redemptions=40)
        for _ in range(40):
            db.new_session(p_coupon="RUSH")
        with db.as_service().request() as connection:
            connection.execute("set local enable_seqscan = off")
            connection.execute("savepoint before")
            with refused("PT409", "coupon_exhausted"):
                buyer = {"p_user_id": db.new_user()} if ask == FUNCTION else {}
                call(connection, ask, **arguments, **buyer, p_coupon="RUSH")
            connection.execute("rollback to before")
            row = connection.execute(
                "select idx_tup_fetch as rows from pg_stat_xact_user_tables"
                " where relid = 'payments.coupon_redemptions'::regclass"
            ).fetchone()
        assert row
        assert row["rows"] < 5


class TestTwoCoupons:
    """Buyers who replace one coupon by the other, in both directions."""

    @pytest.fixture(autouse=True)
    def coupons(self, db: Database) -> None:
        # so few places that the released ones must be given back all the time, and enough for everybody
        new_coupon(db, "A", max_redemptions=4)
        new_coupon(db, "B", max_redemptions=4)
        db.sql("update payments.settings set create_limit = null")

    def test_the_one_does_not_wait_for_the_other(self, db: Database) -> None:
        pair = {code: db.new_user() for code in "AB"}
        for code, user in pair.items():
            buy(db, user, p_coupon=code)
        ask = {"function": FUNCTION, "p_plan": "credits_100"}
        with db.as_user(pair["A"]).request() as first:
            call(first, **ask, p_coupon="B")
            without_waiting(db.as_user(pair["B"]), **ask, p_coupon="A")
        assert uses(db, "A") == uses(db, "B") == {"released": 1, "reserved": 1}

    def test_changing_to_and_fro_at_once_ends_in_no_deadlock_and_no_refusal(self, db: Database) -> None:
        users = [db.new_user() for _ in range(4)]

        def change(user: uuid.UUID, codes: str) -> list[uuid.UUID]:
            return [buy(db, user, p_coupon=code) for code in codes * 15]

        made = all_at_once([partial(change, user, "AB" if n % 2 else "BA") for n, user in enumerate(users)])
        assert len({session_id for sessions in made for session_id in sessions}) == 4 * 30
        assert uses(db, "A") + uses(db, "B") == {"reserved": 4, "released": 116}


class TestLatePayment:
    """Money for a session whose place was released."""

    @staticmethod
    def used(db: Database, code: str) -> Row:
        answer: Row = db.as_service().rpc("payment_report")["coupons"][code]
        return answer

    @pytest.fixture
    def held(self, db: Database, user: uuid.UUID, one: str) -> uuid.UUID:
        """The user's session that held the only place."""
        return buy(db, user, p_coupon=one)

    @pytest.fixture
    def late(self, db: Database, held: uuid.UUID) -> Row:
        """The page of that session, which has expired."""
        attempt = db.open_attempt(held)
        db.lapse(held)
        assert db.as_service().rpc("expire_old_checkout_sessions") == 1
        return attempt

    @staticmethod
    def honoured(db: Database, session_id: uuid.UUID) -> tuple[str, bool, bool]:
        assert db.state(session_id) == ("completed", "fulfilled", None)
        assert db.session(session_id)["amount"] == 250
        return place(db, session_id)

    def test_it_is_honoured_at_the_agreed_price_with_the_place_while_nobody_else_has_it(
        self, db: Database, one: str, held: uuid.UUID, late: Row
    ) -> None:
        for _ in range(2):
            db.apply(late)
            assert self.honoured(db, held) == ("confirmed", True, True)
        assert self.used(db, one) == {"redeemed": 1, "reserved": 0, "paid_late": 1, "above_cap": 0}
        with refused("PT409", "coupon_exhausted"):
            buy(db, db.new_user(), p_coupon=one)
        assert uses(db, one) == {"confirmed": 1}

    def test_it_is_honoured_above_the_cap_when_another_buyer_has_the_place_and_the_report_says_so(
        self, db: Database, one: str, held: uuid.UUID, late: Row
    ) -> None:
        buy(db, db.new_user(), p_coupon=one)
        for _ in range(2):
            db.apply(late)
            assert self.honoured(db, held) == ("confirmed", False, True)
        assert self.used(db, one) == {"redeemed": 1, "reserved": 1, "paid_late": 1, "above_cap": 1}
        assert uses(db, one) == {"confirmed": 1, "reserved": 1}

    def test_it_takes_a_place_that_was_given_back_meanwhile(
        self, db: Database, one: str, held: uuid.UUID, late: Row
    ) -> None:
        db.close(buy(db, db.new_user(), p_coupon=one))
        db.apply(late)
        assert self.honoured(db, held) == ("confirmed", True, True)
        assert self.used(db, one) == {"redeemed": 1, "reserved": 0, "paid_late": 1, "above_cap": 0}
        with refused("PT409", "coupon_exhausted"):
            buy(db, db.new_user(), p_coupon=one)
        assert uses(db, one) == {"confirmed": 1, "released": 1}

    def test_it_takes_a_place_that_was_added_meanwhile(
        self, db: Database, one: str, held: uuid.UUID, late: Row
    ) -> None:
        buy(db, db.new_user(), p_coupon=one)
        db.sql("update payments.coupons set max_redemptions = 2")
        db.apply(late)
        assert self.honoured(db, held) == ("confirmed", True, True)
        assert uses(db, one) == {"confirmed": 1, "reserved": 1}

    def test_a_coupon_without_a_cap_has_a_place_for_it(self, db: Database, user: uuid.UUID) -> None:
        session_id = buy(db, user, p_coupon=new_coupon(db, "ANY"))
        attempt = db.open_attempt(session_id)
        db.close(session_id)
        db.apply(attempt)
        assert self.honoured(db, session_id) == ("confirmed", True, True)
        assert uses(db, "ANY") == {"confirmed": 1}

    def test_a_user_who_has_used_the_coupon_again_meanwhile_is_honoured_twice_and_flagged(
        self, db: Database, user: uuid.UUID
    ) -> None:
        new_coupon(db, "ONCE", max_redemptions_per_user=1)
        late = db.open_attempt(buy(db, user, p_coupon="ONCE"))
        db.close(late["session_id"])
        db.apply(db.open_attempt(buy(db, user, p_coupon="ONCE")))
        assert db.apply(late)["review_reason"] == "paid_twice"
        assert uses(db, "ONCE") == {"confirmed": 2}

    def test_it_supersedes_the_newer_session_and_then_takes_its_place(
        self, db: Database, user: uuid.UUID, one: str, held: uuid.UUID, late: Row
    ) -> None:
        newer = buy(db, user, p_coupon=one)
        db.apply(late)
        assert db.trail(newer) == [("pending", "cancelled", "superseded")]
        assert place(db, newer)[0] == "released"
        assert self.honoured(db, held) == ("confirmed", True, True)
        assert uses(db, one) == {"confirmed": 1, "released": 1}

    @pytest.mark.parametrize("money_first", [True, False])
    def test_late_money_and_the_next_buyer_queue_for_the_place(
        self, db: Database, one: str, held: uuid.UUID, late: Row, money_first: bool
    ) -> None:
        rival = db.new_user()
        if money_first:
            with db.as_service().request() as first:
                call(first, "apply_payment_outcome", p_outcome=outcome(late))
                second = start_and_see_it_wait(db, partial(answer_or_reason, buy, db, rival, p_coupon=one))
            assert second.result(WAIT) == "coupon_exhausted"
        else:
            with db.as_user(rival).request() as first:
                call(first, FUNCTION, p_plan="credits_100", p_coupon=one)
                second = start_and_see_it_wait(db, partial(db.apply, late))
            assert second.result(WAIT)["status"] == "completed"
        assert self.honoured(db, held) == ("confirmed", money_first, True)
        assert uses(db, one) == Counter({"confirmed": 1} if money_first else {"confirmed": 1, "reserved": 1})

    def test_of_16_late_payments_as_many_get_a_place_as_there_are(self, db: Database) -> None:
        new_coupon(db, "FEW", max_redemptions=16)
        late = [db.open_attempt(db.new_session(p_coupon="FEW")) for _ in range(16)]
        for attempt in late:
            db.close(attempt["session_id"])
        for _ in range(10):
            db.new_session(p_coupon="FEW")
        all_at_once([partial(db.apply, attempt) for attempt in late])
        assert Counter(self.honoured(db, attempt["session_id"])[1] for attempt in late) == {True: 6, False: 10}
        assert self.used(db, "FEW") == {"redeemed": 16, "reserved": 10, "paid_late": 16, "above_cap": 10}
        assert uses(db, "FEW") == {"confirmed": 16, "reserved": 10}
