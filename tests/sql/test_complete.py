"""The other ways out of a session: complete, fail, cancel, expire; and what each kind of product gives."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.support.database import Database, Row, refused

FUNCTION = "complete_checkout_session"


def complete(db: Database, session_id: uuid.UUID, **arguments: Any) -> Row:
    answer: Row = db.as_service().rpc(FUNCTION, p_session_id=session_id, **arguments)
    return answer


class TestComplete:
    def test_everything_that_is_given_is_stored(self, db: Database) -> None:
        user = db.new_user()
        session_id = db.new_session(user, p_provider="paystack")
        paid_at = datetime(2026, 1, 2, tzinfo=UTC)
        answer = complete(
            db, session_id, p_provider_session_id="ps_1", p_provider_payment_id="77", p_amount=500, p_currency="usd",
            p_provider_customer_id="cus_1", p_paid_at=paid_at,
        )  # fmt: skip
        assert answer == {
            "session_id": str(session_id), "status": "completed", "already_completed": False,
            "fulfilment_status": "fulfilled", "fulfilment": {"kind": "credits", "credits": 100, "balance": 100},
            "review_reason": None,
        }  # fmt: skip
        row = db.session(session_id)
        assert (row["provider_session_id"], row["provider_payment_id"], row["provider_customer_id"]) == ("ps_1", "77", "cus_1")
        (capture,) = db.captures(session_id)
        assert (capture["provider"], capture["provider_payment_id"], capture["paid_at"]) == ("paystack", "77", paid_at)
        assert db.events(session_id)[0]["source"] == "verify"

    def test_the_stripe_names_that_existing_callers_use_are_enough(self, db: Database) -> None:
        session_id = db.new_session()
        complete(db, session_id, p_stripe_session_id="cs_1", p_stripe_customer_id="cus_1")
        row = db.session(session_id)
        assert (row["provider"], row["provider_session_id"], row["provider_customer_id"]) == ("stripe", "cs_1", "cus_1")
        (capture,) = db.captures(session_id)
        assert (capture["provider_payment_id"], capture["amount"], capture["currency"]) == ("cs_1", 500, "USD")

    def test_the_webhook_that_follows_names_the_same_money(self, db: Database) -> None:
        user = db.new_user()
        session_id = db.new_session(user)
        attempt = db.open_attempt(session_id, "cs_1")
        complete(db, session_id, p_stripe_session_id="cs_1")
        assert db.apply(attempt, event="evt_1", provider_payment_id="pi_1")["already_completed"] is True
        assert [(c["provider_payment_id"], c["disposition"]) for c in db.captures(session_id)] == [("pi_1", "settled")]
        assert (db.session(session_id)["review_reason"], db.entries(user)) == (None, [100])
        # whichever name comes next, it is known
        complete(db, session_id, p_stripe_session_id="cs_1")
        db.apply(attempt, provider_payment_id="pi_1")
        assert (len(db.captures(session_id)), db.entries(user)) == (1, [100])

    def test_the_webhook_that_came_first_named_the_same_money(self, db: Database) -> None:
        user = db.new_user()
        session_id = db.new_session(user)
        db.apply(db.open_attempt(session_id, "cs_1"), provider_payment_id="pi_1")
        assert complete(db, session_id, p_stripe_session_id="cs_1")["already_completed"] is True
        assert [c["provider_payment_id"] for c in db.captures(session_id)] == ["pi_1"]
        assert (db.session(session_id)["review_reason"], db.entries(user)) == (None, [100])

    def test_the_session_row_names_the_payment_as_soon_as_it_is_known(self, db: Database) -> None:
        session_id = db.new_session()
        attempt = db.open_attempt(session_id, "cs_1")
        complete(db, session_id, p_stripe_session_id="cs_1")
        db.apply(attempt, provider_payment_id="pi_1")
        assert db.session(session_id)["provider_payment_id"] == "pi_1"

    def test_money_known_to_be_wrong_is_not_the_right_money_under_its_pages_name(self, db: Database) -> None:
        user = db.new_user()
        session_id = db.new_session(user)
        db.apply(db.open_attempt(session_id, "cs_1"), provider_payment_id="pi_1", amount=1)
        answer = complete(db, session_id, p_stripe_session_id="cs_1")
        assert (answer["status"], answer["already_completed"]) == ("failed", False)
        assert (len(db.captures(session_id)), db.entries(user)) == (1, [])

    def test_a_payment_must_be_named(self, db: Database) -> None:
        session_id = db.new_session()
        for names in ({"p_stripe_customer_id": "cus_1"}, {"p_provider_payment_id": "", "p_stripe_session_id": ""}):
            with refused("PT422", "payment_id_required"):
                complete(db, session_id, **names)
        assert db.session(session_id)["status"] == "pending"

    @pytest.mark.parametrize(
        ("wrong", "reason"), [({"p_amount": 499}, "amount_mismatch"), ({"p_currency": "EUR"}, "currency_mismatch")]
    )
    def test_the_money_is_compared_when_it_is_given(self, db: Database, wrong: Row, reason: str) -> None:
        answer = complete(db, db.new_session(), p_provider_payment_id="pi_1", **wrong)
        assert (answer["status"], answer["review_reason"]) == ("failed", reason)

    def test_a_replay_only_reads(self, db: Database) -> None:
        session_id = db.new_session()
        complete(db, session_id, p_stripe_session_id="cs_1")
        for names in ({"p_stripe_session_id": "cs_1"}, {"p_provider_session_id": "cs_1"}):
            answer = db.as_service().rpc_that_only_reads(FUNCTION, p_session_id=session_id, **names)
            assert (answer["already_completed"], answer["fulfilment_status"]) == (True, "fulfilled")

    def test_a_payment_of_another_session_is_refused(self, db: Database) -> None:
        complete(db, db.new_session(), p_stripe_session_id="cs_1")
        other = db.new_session()
        with refused("PT409", "payment_reused"):
            complete(db, other, p_stripe_session_id="cs_1")
        assert db.session(other)["status"] == "pending"

    def test_an_unknown_session_is_refused(self, db: Database) -> None:
        with refused("PT404", "session_not_found"):
            complete(db, uuid.uuid4(), p_stripe_session_id="cs_1")


class TestKinds:
    def buy(self, db: Database, user: uuid.UUID, plan: str) -> Row:
        session_id = db.new_session(user, plan)
        return complete(db, session_id, p_provider_payment_id=f"pi_{session_id}") | {"id": session_id}

    def subscription(self, db: Database, user: uuid.UUID) -> Row:
        (row,) = db.sql("select * from public.payment_subscriptions where user_id = %s", user)
        return row

    def test_a_subscription_starts_now_and_buying_again_extends_it(self, db: Database) -> None:
        user = db.new_user()
        plan = db.new_product("month", "subscription", {"tier": "gold", "period": "30 days"}, USD=100)
        self.buy(db, user, plan)
        first = self.subscription(db, user)
        assert (first["tier"], first["ends_at"] - first["started_at"]) == ("gold", timedelta(days=30))
        self.buy(db, user, plan)
        second = self.subscription(db, user)
        assert (second["started_at"], second["ends_at"]) == (first["started_at"], first["ends_at"] + timedelta(days=30))
        periods = db.sql("select starts_at, ends_at from payments.subscription_periods order by starts_at")
        assert periods == [
            {"starts_at": first["started_at"], "ends_at": first["ends_at"]},
            {"starts_at": first["ends_at"], "ends_at": second["ends_at"]},
        ]

    def test_a_lapsed_subscription_starts_again(self, db: Database) -> None:
        user = db.new_user()
        self.buy(db, user, "pro_month")
        db.sql("update public.payment_subscriptions set started_at = '2020-01-01', ends_at = '2020-02-01'")
        bought = self.buy(db, user, "pro_month")
        row = self.subscription(db, user)
        assert row["started_at"] == db.session(bought["id"])["completed_at"]
        assert row["ends_at"] > row["started_at"] + timedelta(days=27)
        assert bought["fulfilment"]["tier"] == "pro"

    def test_tiers_are_held_beside_each_other(self, db: Database) -> None:
        user = db.new_user()
        self.buy(db, user, "pro_month")
        self.buy(db, user, db.new_product("month", "subscription", {"tier": "gold", "period": "1 week"}, USD=100))
        rows = db.sql("select tier from public.payment_subscriptions where user_id = %s order by tier", user)
        assert [row["tier"] for row in rows] == ["gold", "pro"]

    def test_kind_none_leaves_delivery_to_the_application(self, db: Database) -> None:
        bought = self.buy(db, db.new_user(), db.new_product("poster", USD=100))
        assert (bought["fulfilment_status"], bought["fulfilment"]) == ("fulfilled", {"kind": "none"})

    def test_a_new_kind_is_one_function_and_one_row(self, db: Database) -> None:
        db.sql("create table public.licences (session_id uuid primary key, user_id uuid)")
        db.sql(
            "create function public.fulfil_licence(p_session public.payment_checkout_sessions) returns jsonb"
            " language plpgsql as $$ begin"
            " insert into public.licences values (p_session.id, p_session.user_id);"
            " return jsonb_build_object('kind', 'licence', 'seats', p_session.terms -> 'seats'); end $$"
        )
        db.sql("insert into payments.fulfilment_handlers values ('licence', 'public.fulfil_licence')")
        user = db.new_user()
        bought = self.buy(db, user, db.new_product("seats_5", "licence", {"seats": 5}, USD=100))
        assert bought["fulfilment"] == {"kind": "licence", "seats": 5}
        assert db.sql("select * from public.licences") == [{"session_id": bought["id"], "user_id": user}]


class TestFail:
    def fail(self, db: Database, session_id: uuid.UUID) -> Row:
        answer: Row = db.as_service().rpc(
            "fail_checkout_session", p_session_id=session_id, p_error_code="declined", p_error_message="No funds."
        )
        return answer

    @pytest.mark.parametrize("first", ["pending", "processing"])
    def test_an_open_session_fails_with_its_reason(self, db: Database, first: str) -> None:
        session_id = db.new_session()
        db.apply(db.open_attempt(session_id), first)
        assert self.fail(db, session_id)["status"] == "failed"
        row = db.session(session_id)
        assert (row["error_code"], row["error_message"]) == ("declined", "No funds.")
        assert db.trail(session_id)[-1] == (first, "failed", None)

    def test_a_completed_session_is_left_as_it_is_and_says_so(self, db: Database) -> None:
        session_id = db.new_session()
        complete(db, session_id, p_provider_payment_id="pi_1")
        before = db.everything()
        answer = self.fail(db, session_id)
        assert (answer["status"], answer["already_completed"]) == ("completed", True)
        assert db.everything() == before

    def test_an_unknown_session_is_refused(self, db: Database) -> None:
        with refused("PT404", "session_not_found"):
            self.fail(db, uuid.uuid4())


class TestCancel:
    def test_the_owner_cancels_and_a_stranger_cannot(self, db: Database) -> None:
        owner, stranger = db.new_user(), db.new_user()
        session_id = db.new_session(owner)
        with refused("PT403", "not_your_session"):
            db.as_user(stranger).rpc("cancel_checkout_session", p_session_id=session_id)
        with refused("42501"):
            db.as_anon().rpc("cancel_checkout_session", p_session_id=session_id)
        assert db.session(session_id)["status"] == "pending"
        row = db.as_user(owner).rpc("cancel_checkout_session", p_session_id=session_id)
        assert (row["id"], row["status"]) == (session_id, "cancelled")
        assert [(event["source"], event["reason"]) for event in db.events(session_id)] == [("client", "cancelled")]

    def test_the_service_cancels_for_anybody(self, db: Database) -> None:
        session_id = db.new_session()
        db.as_service().rpc("cancel_checkout_session", p_session_id=session_id)
        assert [event["source"] for event in db.events(session_id)] == ["admin"]

    @pytest.mark.parametrize("word", ["processing", "completed", "failed", "expired", "cancelled"])
    def test_only_a_pending_session_can_be_cancelled(self, db: Database, word: str) -> None:
        user = db.new_user()
        session_id = db.new_session(user)
        db.apply(db.open_attempt(session_id), word)
        with refused("PT409", "session_not_pending"):
            db.as_user(user).rpc("cancel_checkout_session", p_session_id=session_id)
        assert db.session(session_id)["status"] == word

    def test_an_unknown_session_is_refused(self, db: Database) -> None:
        for session_id in (uuid.uuid4(), None):
            with refused("PT404", "session_not_found"):
                db.as_user(db.new_user()).rpc("cancel_checkout_session", p_session_id=session_id)


class TestExpire:
    def test_lapsed_sessions_expire_and_others_do_not(self, db: Database) -> None:
        pending, processing, paid, alive = [db.new_session() for _ in range(4)]
        db.apply(db.open_attempt(processing), "processing")
        complete(db, paid, p_provider_payment_id="pi_1")
        for session_id in (pending, processing, paid):
            db.lapse(session_id)
        assert db.as_service().rpc("expire_old_checkout_sessions") == 2
        assert [db.session(one)["status"] for one in (pending, processing, paid, alive)] == [
            "expired", "expired", "completed", "pending",
        ]  # fmt: skip
        assert db.trail(pending) == [("pending", "expired", "lapsed")]
        assert db.trail(processing)[-1] == ("processing", "expired", "lapsed")
        assert db.events(pending)[0]["source"] == "cron"
        assert db.as_service().rpc("expire_old_checkout_sessions") == 0

    def test_the_oldest_go_first_when_there_is_a_limit(self, db: Database) -> None:
        made = [db.new_session() for _ in range(3)]
        for hours, session_id in zip((1, 3, 2), made, strict=True):
            db.sql(
                "update public.payment_checkout_sessions set expires_at = now() - %s where id = %s",
                timedelta(hours=hours), session_id,
            )  # fmt: skip
        assert db.as_service().rpc("expire_old_checkout_sessions", p_limit=2) == 2
        assert [db.session(one)["status"] for one in made] == ["pending", "expired", "expired"]


class TestLatest:
    def test_it_is_the_newest_session_of_the_user_in_whatever_state(self, db: Database) -> None:
        user = db.new_user()
        db.new_session(user)
        newest = db.new_session(user, "credits_500")
        complete(db, newest, p_provider_payment_id="pi_1")
        db.new_session()
        for caller, arguments in ((db.as_user(user), {}), (db.as_service(), {"p_user_id": user})):
            (row,) = caller.rpc("get_latest_checkout_session", **arguments)
            assert (row["id"], row["status"]) == (newest, "completed")

    def test_there_may_be_none(self, db: Database) -> None:
        assert db.as_user(db.new_user()).rpc("get_latest_checkout_session") == []

    def test_a_stranger_is_refused_even_when_there_is_nothing_to_see(self, db: Database) -> None:
        with refused("PT403", "not_your_session"):
            db.as_user(db.new_user()).rpc("get_latest_checkout_session", p_user_id=db.new_user())
        with refused("PT422", "user_required"):
            db.as_service().rpc("get_latest_checkout_session")
