"""What each kind of product gives, and what happens when it cannot be given."""

from __future__ import annotations

import itertools
import uuid
from datetime import timedelta

import pytest

from tests.support.database import Database, Row, refused


class TestKinds:
    def buy(self, db: Database, user: uuid.UUID, plan: str) -> Row:
        session_id = db.new_session(user, plan)
        return db.complete(session_id, p_provider_payment_id=f"pi_{session_id}") | {"id": session_id}

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

    @pytest.mark.parametrize("day", ["2031-01-29", "2031-01-31", "2032-02-29", "2031-12-31"])
    def test_periods_join_without_gap_or_overlap_at_the_ends_of_months(self, db: Database, day: str) -> None:
        user = db.new_user()
        plan = db.new_product("month", "subscription", {"tier": "gold", "period": "1 month"}, USD=100)
        self.buy(db, user, plan)
        db.sql("update public.payment_subscriptions set ends_at = %s", f"{day} 23:30:00+00")
        for _ in range(14):
            self.buy(db, user, plan)
        first, *periods = db.sql("select starts_at, ends_at from payments.subscription_periods order by created_at")
        assert first["ends_at"] < periods[0]["starts_at"]
        assert periods[0]["starts_at"].isoformat() == f"{day}T23:30:00+00:00"
        for earlier, later in itertools.pairwise(periods):
            assert earlier["ends_at"] == later["starts_at"]
            assert 28 <= (later["ends_at"] - later["starts_at"]).days <= 31
        assert self.subscription(db, user)["ends_at"] == periods[-1]["ends_at"]

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


class TestFulfilmentFailure:
    def test_what_cannot_be_given_is_paid_flagged_and_can_be_retried_once(
        self, db: Database, user: uuid.UUID, session_id: uuid.UUID, attempt: Row
    ) -> None:
        db.break_fulfilment("credits", "PT409")
        db.apply(attempt)
        assert db.state(session_id) == ("completed", "failed", "fulfilment_failed")
        row = db.session(session_id)
        assert (row["error_code"], row["error_message"]) == ("shelf_empty", "The shelf is empty.")
        retry = db.as_service()
        assert retry.rpc("retry_fulfilment", p_session_id=session_id)["fulfilment_status"] == "failed"

        db.mend_fulfilment("credits")
        answer = retry.rpc("retry_fulfilment", p_session_id=session_id)
        assert (answer["fulfilment_status"], answer["review_reason"]) == ("fulfilled", None)
        assert db.session(session_id)["error_code"] is None
        with refused("PT409", "nothing_to_retry"):
            retry.rpc("retry_fulfilment", p_session_id=session_id)
        assert db.entries(user) == [100]
        assert [reason for _, _, reason in db.trail(session_id)] == [
            "fulfilment_failed", "fulfilment_failed", "fulfilment_retried",
        ]  # fmt: skip

    def test_the_same_money_again_does_not_retry(self, db: Database, user: uuid.UUID, attempt: Row) -> None:
        db.break_fulfilment("credits")
        db.apply(attempt)
        db.mend_fulfilment("credits")
        assert db.apply(attempt, event="evt_2")["fulfilment_status"] == "failed"
        assert db.balance(user) == 0

    def test_what_a_handler_did_before_it_refused_is_undone(self, db: Database, user: uuid.UUID, attempt: Row) -> None:
        db.fulfil_with("credits", "begin perform payments.fulfil_credits(p_session); raise 'half way'; end")
        assert db.apply(attempt)["fulfilment_status"] == "failed"
        assert (db.entries(user), db.balance(user)) == ([], 0)

    @pytest.mark.parametrize(
        ("body", "error"),
        [
            ("begin raise 'the password is 123'; end", "P0001 the password is 123"),
            ("begin raise 'bug' using errcode = 'XX000'; end", "XX000 bug"),
            ("begin raise 'no' using errcode = '53400'; end", "53400 no"),
            ("begin raise 'lost' using errcode = '25006'; end", "25006 lost"),
            ("begin assert false, 'never'; end", "P0004 never"),
            ("begin return 1 / 0; end", "22012 division by zero"),
            ("begin insert into public.payment_credit_balances values (null, 1, now()); end", "23502 null value"),
        ],
        ids=lambda value: value.split()[0] if value[:1] != "b" else "",
    )
    def test_a_bug_of_a_handler_is_told_to_operators_and_not_to_buyers(
        self, db: Database, user: uuid.UUID, attempt: Row, body: str, error: str
    ) -> None:
        session_id = attempt["session_id"]
        db.fulfil_with("credits", body)
        assert db.apply(attempt, event="evt_1")["status"] == "completed"
        assert db.state(session_id) == ("completed", "failed", "fulfilment_failed")
        (row,) = db.as_user(user).sql("select error_code, error_message from public.payment_checkout_sessions")
        assert row == {"error_code": "handler_error", "error_message": "It could not be delivered yet."}
        assert [event["detail"][: len(error)] for event in db.events(session_id)] == [error]
        assert len(db.captures(session_id)) == 1
        # the operators' view of a failed retry is as complete
        db.as_service().rpc("retry_fulfilment", p_session_id=session_id)
        assert db.events(session_id)[-1]["detail"].startswith(error)

    def test_a_handler_that_raises_pt_speaks_to_the_buyer(
        self, db: Database, session_id: uuid.UUID, attempt: Row
    ) -> None:
        db.break_fulfilment("credits", "PT418")
        db.apply(attempt)
        row = db.session(session_id)
        assert (row["error_code"], row["error_message"]) == ("shelf_empty", "The shelf is empty.")
        assert db.events(session_id)[-1]["detail"] is None

    def test_what_a_handler_says_to_the_buyer_has_a_code_even_if_it_gave_none(
        self, db: Database, session_id: uuid.UUID, attempt: Row
    ) -> None:
        db.fulfil_with("credits", "begin raise 'Sold out.' using errcode = 'PT409'; end")
        db.apply(attempt)
        row = db.session(session_id)
        assert (row["error_code"], row["error_message"]) == ("handler_error", "Sold out.")

    def test_a_constraint_that_a_handler_put_off_fails_the_fulfilment_and_not_the_payment(
        self, db: Database, session_id: uuid.UUID, attempt: Row
    ) -> None:
        db.sql(
            "create table public.teams (id uuid primary key); create table public.seats"
            " (session_id uuid, team_id uuid references public.teams (id) deferrable initially deferred)"
        )
        db.fulfil_with(
            "credits", "begin insert into public.seats values (p_session.id, gen_random_uuid()); return '{}'; end"
        )
        answer = db.apply(attempt, event="evt_1")
        assert (answer["status"], answer["fulfilment_status"]) == ("completed", "failed")
        assert db.state(session_id) == ("completed", "failed", "fulfilment_failed")
        assert db.events(session_id)[-1]["detail"].startswith("23503 ")
        assert db.sql("select * from public.seats") == []

    def test_a_retry_that_succeeds_takes_back_its_own_reason_only(
        self, db: Database, session_id: uuid.UUID, attempt: Row
    ) -> None:
        db.break_fulfilment("credits")
        db.apply(attempt, amount=501)
        db.apply(attempt, disputed=True)
        assert db.session(session_id)["review_reason"] == "overpaid, fulfilment_failed, dispute_reported"
        db.as_service().rpc("retry_fulfilment", p_session_id=session_id)
        assert db.session(session_id)["review_reason"] == "overpaid, fulfilment_failed, dispute_reported"
        db.mend_fulfilment("credits")
        answer = db.as_service().rpc("retry_fulfilment", p_session_id=session_id)
        assert (answer["fulfilment_status"], answer["review_reason"]) == ("fulfilled", "overpaid, dispute_reported")

    @pytest.mark.parametrize(
        "sqlstate", ["08006", "40001", "40P01", "53000", "53100", "53200", "53300", "55P03", "57014", "57P01", "58030"]
    )
    def test_trouble_of_the_server_undoes_everything_so_that_a_retry_can_succeed(
        self, db: Database, session_id: uuid.UUID, attempt: Row, sqlstate: str
    ) -> None:
        db.break_fulfilment("credits", sqlstate)
        before = db.everything()
        with refused(sqlstate):
            db.apply(attempt, event="evt_1")
        assert db.everything() == before
        db.mend_fulfilment("credits")
        assert db.apply(attempt, event="evt_1")["fulfilment_status"] == "fulfilled"
        assert db.trail(session_id) == [("pending", "completed", None)]

    def test_a_kind_whose_handler_is_gone_is_paid_and_flagged(
        self, db: Database, session_id: uuid.UUID, attempt: Row
    ) -> None:
        db.sql(
            "update payments.fulfilment_handlers set fulfil_function = 'payments.fulfil_gone' where kind = 'credits'"
        )
        db.apply(attempt)
        assert db.state(session_id) == ("completed", "failed", "fulfilment_failed")
        assert db.session(session_id)["error_code"] == "handler_error"
        assert db.events(session_id)[-1]["detail"].startswith("42883 ")
