"""The other ways out of a session: complete, fail, cancel, expire; and what each kind of product gives."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta

import pytest

from tests.support.database import Database, Row, refused

FUNCTION = "complete_checkout_session"


class TestComplete:
    def test_everything_that_is_given_is_stored(self, db: Database) -> None:
        user = db.new_user()
        session_id = db.new_session(user, p_provider="paystack")
        paid_at = datetime(2026, 1, 2, tzinfo=UTC)
        answer = db.complete(
            session_id, p_provider_session_id="ps_1", p_provider_payment_id="77", p_amount=500, p_currency="usd",
            p_provider_customer_id="cus_1", p_paid_at=paid_at,
        )  # fmt: skip
        assert answer == {
            "session_id": str(session_id), "status": "completed", "already_completed": False,
            "fulfilment_status": "fulfilled", "fulfilment": {"kind": "credits", "credits": 100, "balance": 100},
            "review_reason": None,
        }  # fmt: skip
        row = db.session(session_id)
        assert (row["provider_session_id"], row["provider_payment_id"], row["provider_customer_id"]) == (
            "ps_1",
            "77",
            "cus_1",
        )
        (capture,) = db.captures(session_id)
        assert (capture["provider"], capture["provider_payment_id"], capture["paid_at"]) == ("paystack", "77", paid_at)
        assert db.events(session_id)[0]["source"] == "verify"

    def test_the_stripe_names_that_existing_callers_use_are_enough(self, db: Database) -> None:
        session_id = db.new_session()
        db.complete(session_id, p_stripe_session_id="cs_1", p_stripe_customer_id="cus_1")
        row = db.session(session_id)
        assert (row["provider"], row["provider_session_id"], row["provider_customer_id"]) == ("stripe", "cs_1", "cus_1")
        (capture,) = db.captures(session_id)
        assert (capture["provider_payment_id"], capture["amount"], capture["currency"]) == ("cs_1", 500, "USD")

    def test_the_webhook_that_follows_names_the_same_money(self, db: Database) -> None:
        user = db.new_user()
        session_id = db.new_session(user)
        attempt = db.open_attempt(session_id, "cs_1")
        db.complete(session_id, p_stripe_session_id="cs_1")
        assert db.apply(attempt, event="evt_1", provider_payment_id="pi_1")["already_completed"] is True
        assert [(c["provider_payment_id"], c["disposition"]) for c in db.captures(session_id)] == [("pi_1", "settled")]
        assert (db.session(session_id)["review_reason"], db.entries(user)) == (None, [100])
        # whichever name comes next, it is known
        db.complete(session_id, p_stripe_session_id="cs_1")
        db.apply(attempt, provider_payment_id="pi_1")
        assert (len(db.captures(session_id)), db.entries(user)) == (1, [100])

    def test_the_webhook_that_came_first_named_the_same_money(self, db: Database) -> None:
        user = db.new_user()
        session_id = db.new_session(user)
        db.apply(db.open_attempt(session_id, "cs_1"), provider_payment_id="pi_1")
        assert db.complete(session_id, p_stripe_session_id="cs_1")["already_completed"] is True
        assert [c["provider_payment_id"] for c in db.captures(session_id)] == ["pi_1"]
        assert (db.session(session_id)["review_reason"], db.entries(user)) == (None, [100])

    def test_the_session_row_names_the_payment_as_soon_as_it_is_known(self, db: Database) -> None:
        session_id = db.new_session()
        attempt = db.open_attempt(session_id, "cs_1")
        db.complete(session_id, p_stripe_session_id="cs_1")
        db.apply(attempt, provider_payment_id="pi_1")
        assert db.session(session_id)["provider_payment_id"] == "pi_1"

    def test_money_known_to_be_wrong_is_not_the_right_money_under_its_pages_name(self, db: Database) -> None:
        user = db.new_user()
        session_id = db.new_session(user)
        db.apply(db.open_attempt(session_id, "cs_1"), provider_payment_id="pi_1", amount=1)
        answer = db.complete(session_id, p_stripe_session_id="cs_1")
        assert (answer["status"], answer["already_completed"]) == ("failed", False)
        assert (len(db.captures(session_id)), db.entries(user)) == (1, [])

    def test_a_payment_must_be_named(self, db: Database) -> None:
        session_id = db.new_session()
        for names in ({"p_stripe_customer_id": "cus_1"}, {"p_provider_payment_id": "", "p_stripe_session_id": ""}):
            with refused("PT422", "payment_id_required"):
                db.complete(session_id, **names)
        assert db.session(session_id)["status"] == "pending"

    def test_empty_names_are_no_names(self, db: Database) -> None:
        session_id = db.new_session(p_provider="paystack")
        db.complete(session_id, p_provider_payment_id="77", p_provider_session_id="", p_stripe_session_id="")
        row = db.session(session_id)
        assert (row["status"], row["provider"], row["provider_session_id"]) == ("completed", "paystack", None)

    @pytest.mark.parametrize(
        "bad",
        [{"p_amount": -1}, {"p_currency": "dollars"}, {"p_currency": ""}, {"p_currency": "U$D"},
         {"p_provider_payment_id": "p" * 256}, {"p_provider_session_id": "p" * 256},
         {"p_stripe_session_id": "p" * 256}],
        ids="-".join,
    )  # fmt: skip
    def test_impossible_input_is_refused_and_leaves_no_trace(self, db: Database, bad: Row) -> None:
        session_id = db.new_session()
        before = db.everything()
        with refused("PT422", "invalid_input"):
            db.complete(session_id, **{"p_provider_payment_id": "pi_1"} | bad)
        assert db.everything() == before

    @pytest.mark.parametrize(
        ("wrong", "reason"), [({"p_amount": 499}, "amount_mismatch"), ({"p_currency": "EUR"}, "currency_mismatch")]
    )
    def test_the_money_is_compared_when_it_is_given(self, db: Database, wrong: Row, reason: str) -> None:
        answer = db.complete(db.new_session(), p_provider_payment_id="pi_1", **wrong)
        assert (answer["status"], answer["review_reason"]) == ("failed", reason)

    def test_a_replay_only_reads(self, db: Database) -> None:
        session_id = db.new_session()
        db.complete(session_id, p_stripe_session_id="cs_1")
        for names in ({"p_stripe_session_id": "cs_1"}, {"p_provider_session_id": "cs_1"}):
            answer = db.as_service().rpc_that_only_reads(FUNCTION, p_session_id=session_id, **names)
            assert (answer["already_completed"], answer["fulfilment_status"]) == (True, "fulfilled")

    def test_an_unknown_session_is_refused(self, db: Database) -> None:
        with refused("PT404", "session_not_found"):
            db.complete(uuid.uuid4(), p_stripe_session_id="cs_1")


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
        db.complete(session_id, p_provider_payment_id="pi_1")
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
        db.complete(paid, p_provider_payment_id="pi_1")
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
        db.complete(newest, p_provider_payment_id="pi_1")
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
