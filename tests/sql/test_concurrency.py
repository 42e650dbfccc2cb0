"""What happens at the same time: many connections at once, and pairs of transactions in both orders."""

from __future__ import annotations

import uuid
from collections import Counter
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from tests.sql.answers import answer_or_reason
from tests.support.database import Database, Row, call, outcome, refused
from tests.support.races import again_when_told, all_at_once, start_and_see_it_wait

if TYPE_CHECKING:
    from collections.abc import Callable

WAIT = 30  # seconds until a waiter is given up; nothing here takes long


class TestManyAtOnce:
    def test_32_identical_requests_make_one_session(self, db: Database, user: uuid.UUID) -> None:
        ask = partial(db.as_user(user).rpc, "get_or_create_checkout_session", p_plan="credits_100")
        assert len(set(all_at_once([ask] * 32))) == 1
        assert db.value("select count(*) from public.payment_checkout_sessions") == 1

    def test_32_requests_with_one_key_make_one_session(self, db: Database, user: uuid.UUID) -> None:
        ask = partial(
            db.as_user(user).rpc, "get_or_create_checkout_session", p_plan="credits_100", p_idempotency_key="k"
        )
        assert len(set(all_at_once([ask] * 32))) == 1
        assert db.value("select count(*) from public.payment_checkout_sessions") == 1

    def test_32_completions_by_one_payment_give_once(
        self, db: Database, user: uuid.UUID, session_id: uuid.UUID
    ) -> None:
        complete = partial(
            db.as_service().rpc, "complete_checkout_session", p_session_id=session_id, p_provider_payment_id="pi_1"
        )
        answers = all_at_once([complete] * 32)
        assert Counter(answer["already_completed"] for answer in answers) == {False: 1, True: 31}
        assert {answer["fulfilment"]["balance"] for answer in answers} == {100}
        assert (len(db.captures(session_id)), db.entries(user), len(db.events(session_id))) == (1, [100], 1)

    def test_32_deliveries_of_one_event_are_handled_once(
        self, db: Database, user: uuid.UUID, session_id: uuid.UUID, attempt: Row
    ) -> None:
        answers = all_at_once([partial(db.apply, attempt, event="evt_1")] * 32)
        assert Counter(answer["duplicate"] for answer in answers) == {False: 1, True: 31}
        assert (len(db.captures(session_id)), db.entries(user), len(db.events(session_id))) == (1, [100], 1)

    def test_webhook_return_and_verify_of_one_payment_give_once(
        self, db: Database, user: uuid.UUID, session_id: uuid.UUID, attempt: Row
    ) -> None:
        page = attempt["provider_session_id"]
        by_page = partial(
            db.as_service().rpc, "complete_checkout_session", p_session_id=session_id, p_stripe_session_id=page
        )
        by_payment = partial(db.apply, attempt, provider_payment_id="pi_1")
        answers = all_at_once([by_page, by_payment, partial(by_payment, source="return")] * 8)
        assert {answer["status"] for answer in answers} == {"completed"}
        (capture,) = db.captures(session_id)
        assert capture["provider_payment_id"] == db.session(session_id)["provider_payment_id"] == "pi_1"
        assert (db.session(session_id)["review_reason"], db.entries(user)) == (None, [100])

    def test_16_payments_for_one_session_settle_once_and_the_others_are_flagged(
        self, db: Database, user: uuid.UUID, session_id: uuid.UUID, attempt: Row
    ) -> None:
        all_at_once([partial(db.apply, attempt, provider_payment_id=f"pi_{number}") for number in range(16)])
        assert Counter(capture["disposition"] for capture in db.captures(session_id)) == {"settled": 1, "duplicate": 15}
        assert db.session(session_id)["review_reason"] == "duplicate_payment"
        assert db.entries(user) == [100]

    def test_one_payment_claimed_by_16_sessions_pays_one(self, db: Database) -> None:
        attempts = [db.open_attempt(db.new_session()) for _ in range(16)]
        answers = all_at_once(
            [partial(answer_or_reason, db.apply, attempt, provider_payment_id="pi_1") for attempt in attempts]
        )
        reasons = Counter(answer if answer == "payment_reused" else answer["status"] for answer in answers)
        assert reasons == {"completed": 1, "payment_reused": 15}
        assert db.value("select count(*) from public.payment_credit_entries") == 1

    def test_the_balance_is_right_when_a_user_pays_many_sessions_at_once(self, db: Database, user: uuid.UUID) -> None:
        plans = ["credits_100", "credits_500"] * 8
        attempts = [db.open_attempt(db.new_session(user, plan, p_subject=str(n))) for n, plan in enumerate(plans)]
        answers = all_at_once([partial(db.apply, one) for one in attempts])
        assert [answer["fulfilment_status"] for answer in answers] == ["fulfilled"] * 16
        assert (db.balance(user), sum(db.entries(user))) == (4800, 4800)

    def test_a_subscription_bought_twice_at_once_is_extended_twice(self, db: Database, user: uuid.UUID) -> None:
        plan = db.new_product("month", "subscription", {"tier": "gold", "period": "30 days"}, USD=100)
        attempts = [db.open_attempt(db.new_session(user, plan, p_subject=str(number))) for number in range(8)]
        all_at_once([partial(db.apply, one) for one in attempts])
        assert db.value("select extract(day from ends_at - started_at) from public.payment_subscriptions") == 240

    def test_buyers_who_change_their_mind_at_once_supersede_each_other_without_deadlock(
        self, db: Database, user: uuid.UUID
    ) -> None:
        def choose(provider: str) -> list[uuid.UUID]:
            ask = partial(db.as_user(user).rpc, "get_or_create_checkout_session", p_plan="credits_100")
            return [ask(p_provider=provider) for _ in range(5)]

        all_at_once([partial(choose, provider) for provider in ("stripe", "paystack", "click", "paypal")])
        statuses = Counter(row["status"] for row in db.sql("select status from public.payment_checkout_sessions"))
        assert (statuses["pending"], set(statuses)) == (1, {"pending", "cancelled"})


class TestCompletionRaces:
    """Late money is honoured whoever holds the lock first."""

    @staticmethod
    def rivals(db: Database, user: uuid.UUID, session_id: uuid.UUID, attempt: Row) -> dict[str, tuple[Any, ...]]:
        """How a session may end: (caller, function, arguments, reason when it comes too late, how it ends)."""
        return {
            "cancel": (
                db.as_user(user), "cancel_checkout_session", {"p_session_id": session_id},
                "session_not_pending", "cancelled",
            ),
            "failure": (
                db.as_service(), "fail_checkout_session", {"p_session_id": session_id, "p_error_code": "x"},
                None, "failed",
            ),
            "expired page": (
                db.as_service(), "apply_payment_outcome", {"p_outcome": outcome(attempt, "expired")}, None, "expired",
            ),
            "lazy expiry": (
                db.as_user(user), "get_or_create_checkout_session", {"p_plan": "credits_100"}, None, "expired",
            ),
        }  # fmt: skip

    NAMES = ("cancel", "failure", "expired page", "lazy expiry")

    @pytest.mark.parametrize("name", NAMES)
    def test_who_comes_after_the_money_waits_and_undoes_nothing(
        self, db: Database, user: uuid.UUID, session_id: uuid.UUID, attempt: Row, name: str
    ) -> None:
        caller, function, arguments, reason, _ = self.rivals(db, user, session_id, attempt)[name]
        if name == "lazy expiry":
            db.lapse(session_id)
        with db.as_service().request() as first:
            call(first, "apply_payment_outcome", p_outcome=outcome(attempt))
            second = start_and_see_it_wait(db, partial(caller.rpc, function, **arguments))
        if reason:
            with refused("PT409", reason):
                second.result(WAIT)
        else:
            second.result(WAIT)
        assert db.session(session_id)["status"] == "completed"
        assert db.trail(session_id) == [("pending", "completed", None)]
        assert db.entries(user) == [100]

    @pytest.mark.parametrize("name", NAMES)
    def test_money_that_waits_for_the_end_of_its_session_is_honoured(
        self, db: Database, user: uuid.UUID, session_id: uuid.UUID, attempt: Row, name: str
    ) -> None:
        caller, function, arguments, _, ending = self.rivals(db, user, session_id, attempt)[name]
        if name == "lazy expiry":
            db.lapse(session_id)
        with caller.request() as first:
            call(first, function, **arguments)
            second = start_and_see_it_wait(db, partial(db.apply, attempt))
        assert second.result(WAIT)["fulfilment_status"] == "fulfilled"
        assert [(old, new) for old, new, _ in db.trail(session_id)] == [("pending", ending), (ending, "completed")]
        assert db.entries(user) == [100]

    def test_expiry_on_the_timer_skips_what_is_being_paid(
        self, db: Database, session_id: uuid.UUID, attempt: Row
    ) -> None:
        lapsed = db.new_session()
        for one in (session_id, lapsed):
            db.lapse(one)
        with db.as_service().request() as first:
            call(first, "apply_payment_outcome", p_outcome=outcome(attempt))
            assert db.as_service().rpc("expire_old_checkout_sessions") == 1
        assert (db.session(session_id)["status"], db.session(lapsed)["status"]) == ("completed", "expired")

    def test_money_that_waits_for_expiry_on_the_timer_is_honoured(
        self, db: Database, user: uuid.UUID, session_id: uuid.UUID, attempt: Row
    ) -> None:
        db.lapse(session_id)
        with db.as_service().request() as first:
            assert call(first, "expire_old_checkout_sessions") == 1
            second = start_and_see_it_wait(db, partial(db.apply, attempt))
        assert second.result(WAIT)["status"] == "completed"
        assert db.entries(user) == [100]

    def test_the_loser_of_a_race_gets_the_winners_result(self, db: Database, user: uuid.UUID, attempt: Row) -> None:
        with db.as_service().request() as first:
            won = call(first, "apply_payment_outcome", p_outcome=outcome(attempt))
            second = start_and_see_it_wait(db, partial(db.apply, attempt, source="return"))
        assert second.result(WAIT) == won | {"already_completed": True}
        assert db.entries(user) == [100]

    def test_money_whose_first_teller_died_is_taken_from_the_second(
        self, db: Database, user: uuid.UUID, attempt: Row
    ) -> None:
        class BridgeDied(Exception): ...

        def tell_and_die() -> Callable[[], Row]:
            with db.as_service().request() as first:
                event = {"id": "evt_1", "type": "t", "payload": {}}
                call(first, "apply_payment_outcome", p_outcome=outcome(attempt), p_event=event)
                waiting.append(start_and_see_it_wait(db, partial(db.apply, attempt, event="evt_1")))
                raise BridgeDied

        waiting: list[Any] = []
        with pytest.raises(BridgeDied):
            tell_and_die()
        answer = waiting[0].result(WAIT)
        assert (answer["duplicate"], answer["already_completed"]) == (False, False)
        assert db.entries(user) == [100]


class TestLatePaymentRaces:
    """Closed sessions of one purchase that are being paid after all, at the same time."""

    @staticmethod
    def closed(db: Database, user: uuid.UUID) -> Row:
        attempt = db.open_attempt(db.new_session(user))
        db.close(attempt["session_id"])
        return attempt

    @pytest.mark.parametrize("older_first", [True, False])
    def test_the_second_of_two_late_payments_waits_for_the_first_and_is_flagged(
        self, db: Database, user: uuid.UUID, older_first: bool
    ) -> None:
        pair = [self.closed(db, user), self.closed(db, user)]
        winner, loser = pair if older_first else reversed(pair)
        with db.as_service().request() as first:
            call(first, "apply_payment_outcome", p_outcome=outcome(winner))
            second = start_and_see_it_wait(db, partial(db.apply, loser))
        assert second.result(WAIT)["review_reason"] == "paid_twice"
        assert db.state(winner["session_id"]) == ("completed", "fulfilled", None)
        assert db.state(loser["session_id"]) == ("completed", "fulfilled", "paid_twice")
        assert db.entries(user) == [100, 100]

    def test_16_late_payments_of_one_purchase_are_all_given_and_all_but_the_first_are_flagged(
        self, db: Database, user: uuid.UUID
    ) -> None:
        late = [self.closed(db, user) for _ in range(16)]
        pending = db.new_session(user)
        answers = all_at_once([partial(db.apply, one) for one in late])
        assert Counter(answer["review_reason"] for answer in answers) == {None: 1, "paid_twice": 15}
        assert {answer["fulfilment_status"] for answer in answers} == {"fulfilled"}
        assert db.trail(pending) == [("pending", "cancelled", "superseded")]
        assert db.balance(user) == 1600

    @pytest.mark.parametrize("late_first", [True, False])
    def test_late_money_and_the_payment_of_the_newer_session_see_each_other(
        self, db: Database, user: uuid.UUID, late_first: bool
    ) -> None:
        late, newer = self.closed(db, user), db.open_attempt(db.new_session(user))
        winner, loser = (late, newer) if late_first else (newer, late)
        with db.as_service().request() as first:
            call(first, "apply_payment_outcome", p_outcome=outcome(winner))
            # a commit gives the row up an instant before the purchase: who is woken in between is told to try again
            second = start_and_see_it_wait(db, partial(again_when_told, partial(db.apply, loser)))
        assert second.result(WAIT)["review_reason"] == "paid_twice"
        for one in (late, newer):
            assert db.state(one["session_id"])[:2] == ("completed", "fulfilled")

    def test_a_buyer_who_changes_the_provider_meanwhile_does_not_keep_an_unpaid_session(
        self, db: Database, user: uuid.UUID
    ) -> None:
        late, newer = self.closed(db, user), db.new_session(user)
        with db.as_user(user).request() as first:
            newest = call(first, "get_or_create_checkout_session", p_plan="credits_100", p_provider="paystack")
            second = start_and_see_it_wait(db, partial(db.apply, late))
        assert second.result(WAIT)["review_reason"] is None
        for session_id in (newer, newest):
            assert db.trail(session_id) == [("pending", "cancelled", "superseded")]

    def test_late_payments_of_two_purchases_do_not_wait_for_each_other(self, db: Database, user: uuid.UUID) -> None:
        one = self.closed(db, user)
        other = db.open_attempt(db.new_session(user, db.new_product("poster", USD=100)))
        db.close(other["session_id"])
        with db.as_service().request() as first:
            call(first, "apply_payment_outcome", p_outcome=outcome(one))
            assert db.apply(other)["review_reason"] is None


class TestSlowPaymentRaces:
    """A cancelled session whose page is being paid after all, beside a newer session of the same purchase."""

    @pytest.fixture
    def rival(self, db: Database, user: uuid.UUID, session_id: uuid.UUID, attempt: Row) -> Row:
        assert attempt["session_id"] == str(session_id)
        db.as_user(user).rpc("cancel_checkout_session", p_session_id=session_id)
        return db.open_attempt(db.new_session(user))

    @pytest.mark.parametrize("older_first", [True, False])
    def test_the_first_to_be_paid_keeps_the_place_and_the_other_is_flagged(
        self, db: Database, attempt: Row, rival: Row, older_first: bool
    ) -> None:
        winner, loser = (attempt, rival) if older_first else (rival, attempt)
        with db.as_service().request() as first:
            call(first, "apply_payment_outcome", p_outcome=outcome(winner, "processing"))
            second = start_and_see_it_wait(db, partial(db.apply, loser, "processing"))
        assert second.result(WAIT)["review_reason"] == "second_payment_processing"
        assert db.session(uuid.UUID(winner["session_id"]))["status"] == "processing"
        assert db.session(uuid.UUID(loser["session_id"]))["status"] == "cancelled"

    def test_a_new_session_that_appears_meanwhile_asks_for_a_retry_which_then_supersedes_it(
        self, db: Database, user: uuid.UUID, session_id: uuid.UUID, attempt: Row
    ) -> None:
        db.as_user(user).rpc("cancel_checkout_session", p_session_id=session_id)
        with db.as_user(user).request() as first:
            newer = call(first, "get_or_create_checkout_session", p_plan="credits_100")
            second = start_and_see_it_wait(db, partial(db.apply, attempt, "processing", event="evt_1"))
        with refused("PT503", "try_again"):
            second.result(WAIT)
        assert db.apply(attempt, "processing", event="evt_1")["status"] == "processing"
        assert db.session(newer)["status"] == "cancelled"


class TestIdempotencyKeyRaces:
    def test_one_key_for_two_purchases_at_once_is_a_conflict(self, db: Database, user: uuid.UUID) -> None:
        ask = "get_or_create_checkout_session"
        with db.as_user(user).request() as first:
            call(first, ask, p_plan="credits_100", p_idempotency_key="k")
            second = start_and_see_it_wait(
                db, partial(db.as_user(user).rpc, ask, p_plan="credits_500", p_idempotency_key="k")
            )
        with refused("PT409", "idempotency_conflict"):
            second.result(WAIT)

    def test_an_open_session_that_is_asked_under_a_key_taken_meanwhile_is_a_conflict(
        self, db: Database, user: uuid.UUID
    ) -> None:
        ask = "get_or_create_checkout_session"
        db.new_session(user, "credits_500")
        with db.as_user(user).request() as first:
            call(first, ask, p_plan="credits_100", p_idempotency_key="k")
            second = start_and_see_it_wait(
                db, partial(db.as_user(user).rpc, ask, p_plan="credits_500", p_idempotency_key="k")
            )
        with refused("PT409", "idempotency_conflict"):
            second.result(WAIT)
