"""apply_payment_outcome: the one door by which money facts enter."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest

from tests.support.database import Database, Row, outcome, refused


def say(db: Database, p_event: Row | None = None, **said: Any) -> Row:
    answer: Row = db.as_service().rpc("apply_payment_outcome", p_outcome=said, p_event=p_event)
    return answer


class TestStatuses:
    def test_money_completes_fulfils_and_is_recorded(
        self, db: Database, user: uuid.UUID, session_id: uuid.UUID, attempt: Row
    ) -> None:
        answer = db.apply(attempt, event="evt_1", provider_customer_id="cus_1")
        assert answer == {
            "duplicate": False, "session_id": str(session_id), "status": "completed", "already_completed": False,
            "fulfilment_status": "fulfilled", "fulfilment": {"kind": "credits", "credits": 100, "balance": 100},
            "review_reason": None,
        }  # fmt: skip
        row = db.session(session_id)
        assert row["provider_payment_id"] == f"pi_{attempt['number']}"
        assert (row["provider_session_id"], row["provider_customer_id"]) == (attempt["provider_session_id"], "cus_1")
        assert row["completed_at"] is not None
        (capture,) = db.captures(session_id)
        assert (capture["amount"], capture["currency"], capture["disposition"]) == (500, "USD", "settled")
        assert capture["attempt_number"] == attempt["number"]
        assert db.entries(user) == [100]
        (event,) = db.sql("select * from payments.webhook_events")
        assert (event["event_id"], event["status"], event["session_id"]) == ("evt_1", "handled", session_id)

    def test_pending_changes_nothing(self, db: Database, session_id: uuid.UUID, attempt: Row) -> None:
        before = db.everything()
        assert db.apply(attempt, "pending")["status"] == "pending"
        assert db.everything() == before
        assert db.trail(session_id) == []

    def test_processing_waits_as_long_as_slow_methods_need(
        self, db: Database, session_id: uuid.UUID, attempt: Row
    ) -> None:
        db.sql("update payments.settings set processing_ttl = '20 days'")
        assert db.apply(attempt, "processing")["status"] == "processing"
        row = db.session(session_id)
        assert (row["expires_at"] - row["updated_at"]).days == 20
        db.apply(attempt)
        assert db.trail(session_id) == [("pending", "processing", None), ("processing", "completed", None)]

    @pytest.mark.parametrize("status", ["failed", "expired", "cancelled"])
    @pytest.mark.parametrize("first", ["pending", "processing"])
    def test_an_open_session_ends_with_its_page(
        self, db: Database, session_id: uuid.UUID, attempt: Row, first: str, status: str
    ) -> None:
        db.apply(attempt, first)
        answer = db.apply(attempt, status, error_code="card_declined", error_message="m" * 600)
        row = db.session(session_id)
        assert (answer["status"], row["status"], answer["already_completed"]) == (status, status, False)
        assert (row["error_code"], row["error_message"]) == ("card_declined", "m" * 500)
        assert db.trail(session_id)[-1] == (first, status, None)

    def test_the_audit_trail_has_the_providers_time_beside_ours(
        self, db: Database, session_id: uuid.UUID, attempt: Row
    ) -> None:
        paid_at = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
        db.apply(attempt, paid_at=paid_at.isoformat(), source="reconcile")
        (event,) = db.events(session_id)
        assert (event["occurred_at"], event["source"]) == (paid_at, "reconcile")
        assert event["created_at"] == db.session(session_id)["completed_at"] > paid_at
        assert db.captures(session_id)[0]["paid_at"] == paid_at


class TestEvents:
    def test_a_handled_event_changes_nothing_again(self, db: Database, attempt: Row) -> None:
        db.apply(attempt, event="evt_1")
        before = db.everything()
        assert db.apply(attempt, event="evt_1") == {"duplicate": True}
        assert db.apply(attempt, "failed", event="evt_1") == {"duplicate": True}
        assert db.everything() == before

    def test_the_same_event_id_of_two_providers_is_two_events(self, db: Database, attempt: Row) -> None:
        db.apply(attempt, event="1")
        other = db.as_service().rpc("open_checkout_attempt", p_session_id=db.new_session(), p_provider="paystack")
        assert db.apply(other, event="1")["status"] == "completed"

    def test_a_known_fact_in_a_new_event_is_marked_handled_and_changes_no_session(
        self, db: Database, user: uuid.UUID, session_id: uuid.UUID, attempt: Row
    ) -> None:
        db.apply(attempt, event="evt_1")
        before = db.session(session_id), db.events(session_id), db.entries(user)
        answer = db.apply(attempt, event="evt_2")
        assert (answer["duplicate"], answer["already_completed"]) == (False, True)
        assert (db.session(session_id), db.events(session_id), db.entries(user)) == before
        assert db.value("select count(*) from payments.webhook_events where status = 'handled'") == 2

    def test_a_known_fact_without_an_event_is_only_read(self, db: Database, attempt: Row) -> None:
        db.apply(attempt)
        db.as_service().rpc_that_only_reads("apply_payment_outcome", p_outcome=outcome(attempt))

    def test_an_event_that_failed_before_can_be_handled_later(self, db: Database, attempt: Row) -> None:
        event = {"id": "evt_1", "type": "checkout.completed", "payload": {"n": 1}}
        db.as_service().rpc(
            "record_webhook_failure", p_provider="stripe", p_event=event, p_error="session_not_found", p_retryable=True
        )
        assert db.apply(attempt, event="evt_1")["status"] == "completed"
        (row,) = db.sql(
            "select status, error, deliveries, handled_at is not null as timed from payments.webhook_events"
        )
        assert row == {"status": "handled", "error": None, "deliveries": 2, "timed": True}

    @pytest.mark.parametrize(
        "event",
        [{}, [], "evt", {"id": "", "type": "t", "payload": {}}, {"id": "e", "payload": {}}, {"id": "e", "type": "t"},
         {"id": "e" * 256, "type": "t", "payload": {}}, {"id": "e", "type": "t" * 256, "payload": {}}],
        ids=lambda event: repr(event)[:24],
    )  # fmt: skip
    def test_a_malformed_event_is_refused(self, db: Database, attempt: Row, event: Any) -> None:
        with refused("PT422", "event_invalid"):
            db.as_service().rpc(
                "apply_payment_outcome", p_outcome=outcome(attempt), p_event=psycopg.types.json.Jsonb(event)
            )
        assert db.value("select count(*) from payments.captures") == 0


class TestFinding:
    @pytest.mark.parametrize("name", ["reference", "session_id", "provider_session_id"])
    def test_money_is_found_by_any_name(self, db: Database, attempt: Row, name: str) -> None:
        facts: Row = {
            "provider": "stripe",
            "status": "completed",
            "provider_payment_id": "pi",
            "amount": 500,
            "currency": "usd",
        }
        assert say(db, **facts, **{name: attempt[name]})["status"] == "completed"
        assert db.captures(uuid.UUID(attempt["session_id"]))[0]["attempt_number"] == attempt["number"]

    def test_a_refund_that_names_only_its_payment_is_found(
        self, db: Database, session_id: uuid.UUID, attempt: Row
    ) -> None:
        db.apply(attempt, provider_payment_id="pi_x")
        say(db, provider="stripe", provider_payment_id="pi_x", disputed=True)
        assert db.state(session_id) == ("completed", "fulfilled", "dispute_reported")

    @pytest.mark.parametrize(
        "names",
        [
            {"reference": "0" * 32}, {"session_id": str(uuid.UUID(int=7))}, {"provider_session_id": "cs_foreign"},
            {"provider_payment_id": "pi_foreign"}, {},
        ],
        ids=lambda names: "+".join(names) or "no name",
    )  # fmt: skip
    def test_foreign_money_is_refused_and_leaves_no_trace(self, db: Database, attempt: Row, names: Row) -> None:
        before = db.everything()
        event = {"id": "evt_1", "type": "t", "payload": {}}
        facts = {"status": "completed", "provider_payment_id": "pi_1", "amount": 500, "currency": "USD"} | names
        with refused("PT404", "session_not_found"):
            say(db, event, provider=attempt["provider"], **facts)
        assert db.everything() == before

    def test_a_reference_of_one_session_and_the_id_of_another_are_refused(self, db: Database, attempt: Row) -> None:
        with refused("PT404", "session_not_found"):
            db.apply(attempt, session_id=str(db.new_session()))

    def test_a_provider_cannot_use_the_reference_of_another(self, db: Database, attempt: Row) -> None:
        with refused("PT404", "session_not_found"):
            db.apply(attempt, provider="paystack")

    def test_a_page_outcome_of_another_provider_does_not_end_the_session(
        self, db: Database, session_id: uuid.UUID, attempt: Row
    ) -> None:
        say(db, provider="paystack", session_id=attempt["session_id"], status="expired")
        assert db.state(session_id) == ("pending", "none", None)

    def test_money_through_another_provider_of_the_same_session_counts(
        self, db: Database, session_id: uuid.UUID, attempt: Row
    ) -> None:
        other = db.as_service().rpc("open_checkout_attempt", p_session_id=session_id, p_provider="paystack")
        db.as_service().rpc("open_checkout_attempt", p_session_id=session_id, p_provider="stripe")
        db.apply(other)
        row = db.session(session_id)
        assert (row["status"], row["provider"]) == ("completed", "paystack")
        assert attempt["provider"] == "stripe"


class TestValidation:
    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("provider", None), ("status", None), ("status", "paid"), ("source", "gossip"),
            ("session_id", "not-a-uuid"),
            ("provider_payment_id", None), ("provider_payment_id", ""), ("amount", None), ("amount", -1),
            ("amount", 5.5), ("amount", "many"), ("amount", 2**63), ("currency", None), ("currency", "DOLLARS"),
            ("currency", ""), ("paid_at", "yesterday-ish"), ("disputed", "perhaps"), ("refunds", {"amount": 1}),
            ("refunds", "all"), ("provider_payment_id", "p" * 256),
        ],
        ids=lambda value: repr(value)[:24],
    )  # fmt: skip
    def test_an_invalid_field_is_refused_by_name(self, db: Database, attempt: Row, field: str, value: Any) -> None:
        before = db.everything()
        with refused("PT422", "outcome_invalid") as caught:
            db.apply(attempt, event="evt_1", **{field: value})
        assert field in str(caught.value.diag.message_primary)
        assert db.everything() == before

    @pytest.mark.parametrize("said", [[], "completed", 7, None])
    def test_what_is_not_an_object_is_refused(self, db: Database, said: Any) -> None:
        with refused("PT422", "outcome_invalid"):
            db.as_service().rpc("apply_payment_outcome", p_outcome=psycopg.types.json.Jsonb(said))

    def test_unknown_fields_and_nulls_are_ignored(self, db: Database, attempt: Row) -> None:
        answer = db.apply(attempt, weather="fine", refunds=None, disputed=None, source=None, paid_at=None)
        assert answer["status"] == "completed"
        assert answer["review_reason"] is None


class TestStaleOutcomes:
    @pytest.mark.parametrize("word", ["failed", "expired", "cancelled"])
    def test_the_end_of_an_older_page_does_not_end_the_session(
        self, db: Database, session_id: uuid.UUID, attempt: Row, word: str
    ) -> None:
        db.as_service().rpc("open_checkout_attempt", p_session_id=session_id, p_provider="paystack")
        db.apply(attempt, word)
        assert (db.session(session_id)["status"], db.trail(session_id)) == ("pending", [])

    def test_processing_after_the_end_of_the_same_page_is_ignored(
        self, db: Database, session_id: uuid.UUID, attempt: Row
    ) -> None:
        db.apply(attempt, "failed")
        assert db.apply(attempt, "processing")["status"] == "failed"
        assert db.trail(session_id) == [("pending", "failed", None)]

    @pytest.mark.parametrize("word", ["processing", "failed", "expired", "cancelled"])
    def test_nothing_undoes_a_completed_session(
        self, db: Database, session_id: uuid.UUID, attempt: Row, word: str
    ) -> None:
        db.apply(attempt)
        before = db.session(session_id), db.events(session_id)
        answer = db.apply(attempt, word, event="evt_late")
        assert (answer["status"], answer["already_completed"]) == ("completed", True)
        assert (db.session(session_id), db.events(session_id)) == before

    def test_a_pending_report_about_a_completed_session_says_that_it_is_completed(
        self, db: Database, attempt: Row
    ) -> None:
        db.apply(attempt)
        answer = db.apply(attempt, "pending")
        assert (answer["status"], answer["already_completed"]) == ("completed", True)

    def test_processing_on_an_older_page_makes_it_the_current_one(
        self, db: Database, session_id: uuid.UUID, attempt: Row
    ) -> None:
        newer = db.as_service().rpc("open_checkout_attempt", p_session_id=session_id, p_provider="paystack")
        db.apply(attempt, "processing")
        db.apply(newer, "expired")
        assert db.session(session_id)["status"] == "processing"
        db.apply(attempt, "failed")
        assert db.session(session_id)["status"] == "failed"

    def test_processing_after_expiry_opens_the_session_again(
        self, db: Database, session_id: uuid.UUID, attempt: Row
    ) -> None:
        db.lapse(session_id)
        db.as_service().rpc("expire_old_checkout_sessions")
        db.apply(attempt, "processing")
        assert db.trail(session_id) == [("pending", "expired", "lapsed"), ("expired", "processing", None)]
        assert db.session(session_id)["expires_at"] > db.session(session_id)["updated_at"]

    def test_an_unpaid_rival_gives_way_to_the_one_that_is_being_paid(
        self, db: Database, user: uuid.UUID, session_id: uuid.UUID, attempt: Row
    ) -> None:
        db.as_user(user).rpc("cancel_checkout_session", p_session_id=session_id)
        rival = db.new_session(user)
        db.apply(attempt, "processing")
        assert db.state(session_id) == ("processing", "none", None)
        assert db.trail(rival) == [("pending", "cancelled", "superseded")]

    def test_of_two_slow_payments_of_one_session_the_second_is_put_before_a_person(
        self, db: Database, session_id: uuid.UUID, attempt: Row
    ) -> None:
        second = db.as_service().rpc("open_checkout_attempt", p_session_id=session_id, p_provider="paystack")
        db.apply(attempt, "processing")
        assert db.apply(second, "processing")["review_reason"] == "second_payment_processing"
        assert db.session(session_id)["current_attempt"] == attempt["number"]
        # the second one fails: nothing is lost
        db.apply(second, "failed")
        assert db.state(session_id) == ("processing", "none", "second_payment_processing")

    def test_when_the_first_of_two_slow_payments_fails_the_session_waits_for_the_second(
        self, db: Database, user: uuid.UUID, session_id: uuid.UUID, attempt: Row
    ) -> None:
        second = db.as_service().rpc("open_checkout_attempt", p_session_id=session_id, p_provider="paystack")
        for one in (attempt, second):
            db.apply(one, "processing")
        assert db.apply(attempt, "failed")["status"] == "processing"
        assert db.session(session_id)["current_attempt"] == second["number"]
        assert db.apply(second, "failed")["status"] == "failed"
        assert db.trail(session_id)[-1] == ("processing", "failed", None)
        db.apply(second)
        assert (db.session(session_id)["status"], db.entries(user)) == ("completed", [100])

    def test_a_second_payment_in_progress_is_put_before_a_person(
        self, db: Database, user: uuid.UUID, session_id: uuid.UUID, attempt: Row
    ) -> None:
        db.as_user(user).rpc("cancel_checkout_session", p_session_id=session_id)
        rival = db.new_session(user)
        db.apply(db.open_attempt(rival), "processing")
        for event in ("evt_1", "evt_2"):
            db.apply(attempt, "processing", event=event)
        assert db.state(session_id) == ("cancelled", "none", "second_payment_processing")
        assert db.state(rival) == ("processing", "none", None)
        assert [reason for _, _, reason in db.trail(session_id)] == ["cancelled", "second_payment_processing"]


class TestMoneyTakenBack:
    """What it takes from the buyer: test_refunds.py, test_disputes.py, test_reversals.py."""

    @pytest.mark.parametrize(
        ("said", "ending"),
        [
            ({"refunds": [{"provider_refund_id": "re_1", "amount": 100, "status": "succeeded"}]},
             ("completed", "partially_refunded", "refunds_changed")),
            ({"disputed": True}, ("completed", "completed", "dispute_reported")),
        ],
        ids=["refund", "dispute"],
    )  # fmt: skip
    def test_it_changes_the_session_once(
        self, db: Database, session_id: uuid.UUID, attempt: Row, said: Row, ending: tuple[str, str, str]
    ) -> None:
        db.apply(attempt)
        for event in ("evt_1", "evt_2"):
            answer = db.apply(attempt, event=event, **said)
            assert (answer["status"], answer["duplicate"]) == (ending[1], False)
        assert db.trail(session_id) == [("pending", "completed", None), ending]

    def test_a_refund_that_did_not_happen_changes_nothing_and_one_that_did_is_applied(
        self, db: Database, session_id: uuid.UUID, attempt: Row
    ) -> None:
        db.apply(attempt)
        refund = {"provider_refund_id": "re_1", "amount": 100, "status": "failed"}
        assert db.apply(attempt, event="evt_1", refunds=[refund])["status"] == "completed"
        refunds = [refund, refund | {"provider_refund_id": "re_2", "status": "succeeded"}]
        assert db.apply(attempt, event="evt_2", refunds=refunds)["status"] == "partially_refunded"
        assert db.session(session_id)["refunded_amount"] == 100

    def test_a_refund_whose_status_is_not_said_has_happened(self, db: Database, attempt: Row) -> None:
        db.apply(attempt)
        answer = db.apply(attempt, refunds=[{"provider_refund_id": "re_1", "amount": 500}])
        assert (answer["status"], answer["review_reason"]) == ("refunded", None)

    def test_a_later_reason_does_not_hide_an_earlier_one(
        self, db: Database, session_id: uuid.UUID, attempt: Row
    ) -> None:
        db.apply(attempt, amount=501)
        for said in ({"disputed": True}, {"provider_payment_id": "pi_b"}, {"disputed": True}):
            db.apply(attempt, **said)
        assert db.session(session_id)["review_reason"] == "overpaid, dispute_reported, duplicate_payment"


class TestWrongMoney:
    @pytest.mark.parametrize(
        ("wrong", "reason"),
        [
            ({"amount": 499}, "amount_mismatch"), ({"amount": 0}, "amount_mismatch"),
            ({"currency": "NGN"}, "currency_mismatch"), ({"currency": "NGN", "amount": 750000}, "currency_mismatch"),
        ],
    )  # fmt: skip
    def test_it_is_kept_and_flagged_and_fulfils_nothing(
        self, db: Database, attempt: Row, wrong: Row, reason: str
    ) -> None:
        session_id = uuid.UUID(attempt["session_id"])
        answer = db.apply(attempt, **wrong)
        assert (answer["already_completed"], answer["review_reason"]) == (False, reason)
        assert db.state(session_id) == ("failed", "none", reason)
        row = db.session(session_id)
        assert row["error_code"] == reason
        assert "500 USD were due" in row["error_message"]
        (capture,) = db.captures(session_id)
        assert capture["disposition"] == reason
        assert {name: capture[name] for name in wrong} == wrong
        assert db.entries(db.session(session_id)["user_id"]) == []
        assert db.trail(session_id) == [("pending", "failed", reason), ("failed", "failed", reason)]

    def test_the_same_wrong_money_again_changes_nothing_and_is_not_called_completed(
        self, db: Database, attempt: Row
    ) -> None:
        db.apply(attempt, amount=1)
        before = db.everything()
        answer = db.apply(attempt, amount=1)
        assert (answer["status"], answer["already_completed"]) == ("failed", False)
        assert db.everything() == before

    def test_the_right_payment_completes_it_afterwards(
        self, db: Database, user: uuid.UUID, session_id: uuid.UUID, attempt: Row
    ) -> None:
        db.apply(attempt, amount=1, provider_payment_id="pi_wrong")
        db.apply(attempt, provider_payment_id="pi_right")
        assert db.state(session_id) == ("completed", "fulfilled", "amount_mismatch")
        assert [capture["disposition"] for capture in db.captures(session_id)] == ["amount_mismatch", "settled"]
        assert db.entries(user) == [100]

    def test_an_overpayment_is_fulfilled_and_flagged(
        self, db: Database, user: uuid.UUID, session_id: uuid.UUID, attempt: Row
    ) -> None:
        db.apply(attempt, amount=501)
        assert db.state(session_id) == ("completed", "fulfilled", "overpaid")
        assert (db.captures(session_id)[0]["amount"], db.entries(user)) == (501, [100])


class TestLateAndSecondMoney:
    @pytest.mark.parametrize("ending", ["expired", "cancelled", "failed"])
    def test_late_money_is_honoured(
        self, db: Database, user: uuid.UUID, session_id: uuid.UUID, attempt: Row, ending: str
    ) -> None:
        db.apply(attempt, ending)
        db.apply(attempt)
        assert db.state(session_id) == ("completed", "fulfilled", None)
        assert db.session(session_id)["error_code"] is None
        assert db.trail(session_id)[-1] == (ending, "completed", None)
        assert db.entries(user) == [100]

    def test_late_money_cancels_an_unpaid_newer_session_of_the_same_purchase(
        self, db: Database, user: uuid.UUID, session_id: uuid.UUID, attempt: Row
    ) -> None:
        db.close(session_id)
        newer, other = db.new_session(user), db.new_session(user, p_subject="team")
        db.apply(attempt, source="return")
        assert db.state(session_id) == ("completed", "fulfilled", None)
        assert db.trail(newer) == [("pending", "cancelled", "superseded")]
        assert db.events(newer)[0]["source"] == "return"
        assert db.state(other) == ("pending", "none", None)

    @pytest.mark.parametrize("newer_is", ["processing", "completed"])
    def test_late_money_beside_another_payment_of_the_purchase_is_given_and_put_before_a_person(
        self, db: Database, user: uuid.UUID, session_id: uuid.UUID, attempt: Row, newer_is: str
    ) -> None:
        db.close(session_id)
        newer = db.new_session(user)
        newer_attempt = db.open_attempt(newer)
        db.apply(newer_attempt, newer_is)
        answer = db.apply(attempt)
        assert answer["review_reason"] == "paid_twice"
        assert db.trail(session_id)[-1] == ("cancelled", "completed", "paid_twice")
        db.apply(newer_attempt)
        assert db.state(session_id) == ("completed", "fulfilled", "paid_twice")
        assert db.state(newer) == ("completed", "fulfilled", None)
        assert db.entries(user) == [100, 100]

    def test_an_earlier_purchase_that_was_paid_before_this_one_began_is_not_a_second_payment(
        self, db: Database, user: uuid.UUID
    ) -> None:
        db.apply(db.open_attempt(db.new_session(user)))
        again = db.new_session(user)
        attempt = db.open_attempt(again)
        db.close(again)
        assert db.apply(attempt)["review_reason"] is None

    def test_a_second_payment_is_recorded_flagged_and_fulfils_nothing(
        self, db: Database, user: uuid.UUID, session_id: uuid.UUID, attempt: Row
    ) -> None:
        db.apply(attempt, provider_payment_id="pi_a")
        for _ in range(2):
            answer = db.apply(attempt, provider_payment_id="pi_b")
            assert answer["already_completed"] is True
        assert db.state(session_id) == ("completed", "fulfilled", "duplicate_payment")
        assert db.session(session_id)["provider_payment_id"] == "pi_a"
        assert [capture["disposition"] for capture in db.captures(session_id)] == ["settled", "duplicate"]
        assert db.trail(session_id)[1:] == [("completed", "completed", "duplicate_payment")]
        assert db.entries(user) == [100]

    def test_a_payment_never_pays_two_sessions(self, db: Database, attempt: Row) -> None:
        db.apply(attempt, provider_payment_id="pi_a")
        other = db.open_attempt(db.new_session())
        before = db.everything()
        with refused("PT409", "payment_reused"):
            db.apply(other, event="evt_2", provider_payment_id="pi_a")
        assert db.everything() == before


class TestWebhookFailures:
    def record(self, db: Database, error: str, *, retryable: bool, event: Row | None = None) -> Row:
        strange = {"id": "evt_1", "type": "charge.strange", "payload": {"a": [1]}}
        db.as_service().rpc(
            "record_webhook_failure",
            p_provider="stripe", p_event=event or strange, p_error=error, p_retryable=retryable,
        )  # fmt: skip
        (row,) = db.sql("select status, error, deliveries, type, payload from payments.webhook_events")
        return row

    def test_it_is_kept_with_its_reason_and_deliveries_are_counted(self, db: Database) -> None:
        kept = {"type": "charge.strange", "payload": {"a": [1]}}
        first = self.record(db, "session_not_found", retryable=True)
        assert first == kept | {"status": "failed", "error": "session_not_found", "deliveries": 1}
        second = self.record(db, "outcome_invalid", retryable=False)
        assert second == kept | {"status": "dead", "error": "outcome_invalid", "deliveries": 2}

    def test_a_long_reason_is_cut(self, db: Database) -> None:
        assert self.record(db, "e" * 300, retryable=True)["error"] == "e" * 200

    def test_a_handled_event_stays_handled(self, db: Database, attempt: Row) -> None:
        db.apply(attempt, event="evt_1")
        row = self.record(db, "late", retryable=True)
        assert (row["status"], row["error"], row["deliveries"]) == ("handled", None, 1)

    def test_a_malformed_event_is_refused(self, db: Database) -> None:
        good = {"id": "e" * 255, "type": "t" * 255, "payload": {}}
        for bad in ({"id": "evt_1"}, good | {"id": "e" * 256}, good | {"type": "t" * 256}, good | {"id": None}):
            with refused("PT422", "event_invalid"):
                self.record(db, "x", retryable=True, event=bad)
        assert self.record(db, "x", retryable=True, event=good)["status"] == "failed"


def test_a_refund_and_a_dispute_in_one_outcome_are_both_kept(db: Database) -> None:
    attempt = db.open_attempt(db.new_session())
    refunds = [{"provider_refund_id": "re_1", "amount": 100, "status": "succeeded"}]
    said = outcome(attempt, refunds=refunds, disputed=True)
    answer = db.as_service().rpc("apply_payment_outcome", p_outcome=said)
    assert (answer["status"], answer["review_reason"]) == ("partially_refunded", "dispute_reported")
    assert db.as_service().rpc("check_payment_invariants") == []
