"""POST /webhooks/{provider}: genuine, forged, repeated, reordered, misplaced and hopeless notifications."""

from __future__ import annotations

import functools
import json
import logging
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import psycopg
import pytest
import stamina
from anyio._backends._asyncio import AsyncIOBackend

from bridge.local.postgres import LocalPostgres
from bridge.sandbox.signature import sign
from bridge.simulators.stripe import Fault, StripeSimulator
from bridge.simulators.stripe_world import sign as sign_as_stripe
from tests.support.bridge import (
    SANDBOX_SECRET,
    Bridge,
    Buyer,
    Desk,
    SandboxDesk,
    StripeDesk,
    logged_url,
    running_bridge,
    statements_of,
    wait_until,
)
from tests.support.database import Database, Row
from tests.support.races import all_at_once


@pytest.fixture
def attempt(bridge: Bridge, buyer: Buyer, desk: Desk) -> Row:
    """A page of the buyer's at the provider, ready to be paid."""
    session_id = buyer.checkout(provider=desk.name).json()["session_id"]
    return bridge.attempt(session_id)


@pytest.fixture
def stripe_attempt(bridge: Bridge, buyer: Buyer) -> Row:
    return bridge.attempt(buyer.checkout(provider="stripe").json()["session_id"])


def result(response: httpx.Response) -> tuple[int, str]:
    """Status, and what became of it."""
    answer: dict[str, Any] = response.json()
    return response.status_code, answer["error"]["reason"] if "error" in answer else answer["result"]


def noted(calls: list[str], function: Callable[..., Any]) -> Callable[..., Any]:
    """The same function, which leaves its name when it is called."""

    @functools.wraps(function)
    def called(*arguments: Any, **named: Any) -> Any:
        calls.append(function.__qualname__)
        return function(*arguments, **named)

    return called


def lines_of(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    """What the bridge has logged, and of which route; the client of these tests and the sandbox are no part of it."""
    lines = [
        (record.getMessage(), str(getattr(record, "route", ""))) for record in caplog.records if record.name != "httpx"
    ]
    return [(message, route) for message, route in lines if not route.startswith("/sandbox")]


def kept(bridge: Bridge) -> list[tuple[str, str | None, int]]:
    """Events in the database: state, reason, deliveries."""
    return [(row["status"], row["error"], row["deliveries"]) for row in bridge.webhook_events()]


class TestGenuineOnes:
    def test_money_completes_and_fulfils(self, bridge: Bridge, buyer: Buyer, desk: Desk, attempt: Row) -> None:
        before = bridge.counted(desk.name, "applied")
        response = bridge.deliver(desk.name, desk.deliver(desk.paid(attempt)))
        assert result(response) == (200, "applied")
        session = bridge.db.session(attempt["session_id"])
        assert (session["status"], session["fulfilment_status"]) == ("completed", "fulfilled")
        assert bridge.db.balance(buyer.id) == 100
        assert kept(bridge) == [("handled", None, 1)]
        assert bridge.counted(desk.name, "applied") == before + 1

    def test_the_same_one_again_changes_nothing(self, bridge: Bridge, buyer: Buyer, desk: Desk, attempt: Row) -> None:
        delivery = desk.deliver(desk.paid(attempt))
        bridge.deliver(desk.name, delivery)
        before = bridge.db.everything()
        assert result(bridge.deliver(desk.name, delivery)) == (200, "duplicate")
        assert bridge.db.everything() == before

    def test_thirty_two_at_once_fulfil_once(self, bridge: Bridge, buyer: Buyer, desk: Desk, attempt: Row) -> None:
        delivery = desk.deliver(desk.paid(attempt))
        answers = all_at_once([lambda: result(bridge.deliver(desk.name, delivery)) for _ in range(32)])
        assert sorted(map(str, answers)) == ["(200, 'applied')"] + ["(200, 'duplicate')"] * 31
        assert bridge.db.entries(buyer.id) == [100]
        assert len(bridge.db.captures(attempt["session_id"])) == 1

    def test_two_events_of_one_payment_at_once_fulfil_once(
        self, bridge: Bridge, buyer: Buyer, stripe: StripeSimulator, stripe_attempt: Row
    ) -> None:
        told = stripe.pay(stripe_attempt["provider_session_id"])
        told = [event for event in told if event["type"] != "charge.succeeded"]
        assert len(told) == 2
        answers = all_at_once([lambda e=event: result(bridge.deliver("stripe", stripe.sign(e))) for event in told])  # type: ignore[misc]
        assert answers == [(200, "applied")] * 2
        assert bridge.db.entries(buyer.id) == [100]
        assert len(bridge.db.captures(stripe_attempt["session_id"])) == 1
        assert bridge.db.session(stripe_attempt["session_id"])["review_reason"] is None

    def test_secrets_of_the_payload_are_not_kept(
        self, bridge: Bridge, stripe: StripeSimulator, stripe_attempt: Row
    ) -> None:
        told = stripe.pay(stripe_attempt["provider_session_id"])
        (intent,) = (event for event in told if event["type"] == "payment_intent.succeeded")
        secret = intent["data"]["object"]["client_secret"]
        assert secret
        bridge.deliver("stripe", stripe.sign(intent))
        (event,) = bridge.webhook_events()
        assert event["payload"]["data"]["object"]["id"] == intent["data"]["object"]["id"]
        assert secret not in json.dumps(event["payload"])
        assert "buyer@example.test" not in json.dumps(event["payload"])

    def test_a_payload_with_nul_is_handled_and_kept(
        self, bridge: Bridge, buyer: Buyer, desk: Desk, attempt: Row
    ) -> None:
        event = desk.paid(attempt)
        desk.subject(event)["note"] = "a\0b\ud800"
        assert result(bridge.deliver(desk.name, desk.deliver(event))) == (200, "applied")
        assert bridge.db.balance(buyer.id) == 100
        (row,) = bridge.webhook_events()
        assert "a?b?" in json.dumps(row["payload"])


class TestStatements:
    @pytest.fixture
    def bridge(self, db: Database, stripe: StripeSimulator) -> Iterator[Bridge]:
        with running_bridge(db, stripe, database_url=logged_url(db)) as running:
            yield running

    def test_a_webhook_is_one_statement_and_no_transaction_block(
        self, bridge: Bridge, server: LocalPostgres, desk: Desk, attempt: Row
    ) -> None:
        delivery = desk.deliver(desk.paid(attempt))
        with statements_of(bridge, server) as first:
            assert result(bridge.deliver(desk.name, delivery)) == (200, "applied")
        with statements_of(bridge, server) as second:
            assert result(bridge.deliver(desk.name, delivery)) == (200, "duplicate")
        assert [statement.replace('"', "").partition("(")[0] for statement in first + second] == [
            "select public.apply_payment_outcome"
        ] * 2

    def test_it_takes_no_client_no_thread_and_one_line_of_log(
        self,
        bridge: Bridge,
        desk: Desk,
        attempt: Row,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        delivery = desk.deliver(desk.paid(attempt))
        made: list[str] = []
        for owner, name in (
            (httpx.AsyncClient, "__init__"), (psycopg.AsyncConnection, "__init__"), (stamina, "retry_context"),
            (AsyncIOBackend, "run_sync_in_worker_thread"),
        ):  # fmt: skip
            monkeypatch.setattr(owner, name, noted(made, getattr(owner, name)))
        caplog.set_level(logging.INFO)
        caplog.clear()
        for _ in range(3):
            assert bridge.deliver(desk.name, delivery).status_code == 200
        assert bridge.http.get("/nowhere").status_code == 404  # its line comes after theirs
        wait_until(lambda: len(lines_of(caplog)) > 3)
        assert lines_of(caplog) == [("request", "/webhooks/{provider}")] * 3 + [("request", "none")]
        assert made == []


class TestForgedOnes:
    def test_a_wrong_signature_leaves_no_trace_but_a_count(self, bridge: Bridge, desk: Desk, attempt: Row) -> None:
        before = bridge.counted(desk.name, "signature_invalid")
        headers, body = desk.deliver(desk.paid(attempt))
        assert result(bridge.deliver(desk.name, (headers, body + b" "))) == (400, "signature_invalid")
        assert result(bridge.deliver(desk.name, ({}, body))) == (400, "signature_invalid")
        assert result(bridge.deliver(desk.name, ({}, b""))) == (400, "signature_invalid")
        assert bridge.webhook_events() == []
        assert bridge.db.session(attempt["session_id"])["status"] == "pending"
        assert bridge.counted(desk.name, "signature_invalid") == before + 3

    def test_an_old_delivery_cannot_be_replayed(
        self, bridge: Bridge, stripe: StripeSimulator, stripe_attempt: Row, sandbox_desk: SandboxDesk, buyer: Buyer
    ) -> None:
        old = int(time.time()) - 3600
        _, body = stripe.sign(stripe.pay(stripe_attempt["provider_session_id"])[-1])
        signed = {"stripe-signature": sign_as_stripe(body, stripe.webhook_secret, old)}
        assert result(bridge.deliver("stripe", (signed, body))) == (400, "signature_invalid")
        page = bridge.attempt(buyer.checkout("credits_500", provider="sandbox").json()["session_id"])
        event = sandbox_desk.paid(page)
        _, body = sandbox_desk.deliver(event)
        signed = sign(SANDBOX_SECRET, event["id"], body, now=old)
        assert result(bridge.deliver("sandbox", (signed, body))) == (400, "signature_invalid")

    def test_the_signature_of_one_provider_is_worthless_at_another(
        self, bridge: Bridge, stripe_desk: StripeDesk, stripe_attempt: Row
    ) -> None:
        delivery = stripe_desk.deliver(stripe_desk.paid(stripe_attempt))
        assert result(bridge.deliver("sandbox", delivery)) == (400, "signature_invalid")

    def test_both_secrets_work_during_a_roll_over(self, db: Database, stripe: StripeSimulator) -> None:
        with running_bridge(db, stripe, stripe_webhook_secrets=f"whsec_new, {stripe.webhook_secret}") as bridge:
            attempt = bridge.attempt(bridge.buyer().checkout().json()["session_id"])
            _, body = stripe.sign(stripe.pay(attempt["provider_session_id"])[-1])
            answers = [
                result(bridge.deliver("stripe", ({"stripe-signature": sign_as_stripe(body, secret)}, body)))
                for secret in ("whsec_new", stripe.webhook_secret, "whsec_gone")
            ]
        assert answers == [(200, "applied"), (200, "duplicate"), (400, "signature_invalid")]

    def test_signed_nonsense_is_refused(self, bridge: Bridge, stripe: StripeSimulator) -> None:
        for body in (b"", b"{", b"[]", b"null", b'"x"', b"\xff", b"{}", b'{"id": 7, "type": "x"}', b"[" * 100_000):
            stripes = {"stripe-signature": sign_as_stripe(body, stripe.webhook_secret)}
            assert result(bridge.deliver("stripe", (stripes, body))) == (422, "invalid_request"), body[:20]
            signed = sign(SANDBOX_SECRET, "evt_1", body)
            assert result(bridge.deliver("sandbox", (signed, body))) == (422, "invalid_request"), body[:20]
        assert bridge.webhook_events() == []

    def test_signed_numbers_beyond_all_reason_are_refused(
        self, bridge: Bridge, sandbox_desk: SandboxDesk, buyer: Buyer
    ) -> None:
        attempt = bridge.attempt(buyer.checkout(provider="sandbox").json()["session_id"])
        for bent in ({"paid_at": 10**30}, {"paid_at": "soon"}, {"status": "lost"}):
            event = sandbox_desk.event(attempt, **bent)
            assert result(bridge.deliver("sandbox", sandbox_desk.deliver(event))) == (200, "refused"), bent
        odd: list[Row] = [{"amount": 10**30}, {"amount": 1.5}, {"currency": 7}]
        for bent in odd:
            event = sandbox_desk.event(attempt, status="paid", payment_id="pay_1", paid_at=1, **bent)
            assert result(bridge.deliver("sandbox", sandbox_desk.deliver(event))) == (200, "refused"), bent
        reasons = ["invalid_request"] * 3 + ["outcome_invalid"] * 3
        assert [row[:2] for row in kept(bridge)] == [("dead", name) for name in reasons]
        assert bridge.db.session(attempt["session_id"])["status"] == "pending"


class TestOnesThatBelongElsewhere:
    def test_an_unknown_provider_is_told_so(self, bridge: Bridge) -> None:
        for name in ("paystack", "barter"):
            before = bridge.counted("unknown", "provider_unknown")
            assert result(bridge.deliver(name, ({}, b"{}"))) == (422, "provider_unknown")
            assert bridge.counted("unknown", "provider_unknown") == before + 1
        assert result(bridge.deliver("%00", ({}, b"{}"))) == (422, "invalid_request")

    def test_only_post_delivers(self, bridge: Bridge) -> None:
        response = bridge.http.get("/webhooks/stripe")
        assert result(response) == (405, "http_405")
        assert response.headers["allow"] == "POST"

    def test_an_unknown_kind_of_event_is_ignored(self, bridge: Bridge, stripe: StripeSimulator) -> None:
        event = stripe.event("invoice.paid", {"id": "in_1", "object": "invoice"})
        assert result(bridge.deliver("stripe", stripe.sign(event))) == (200, "ignored")
        assert bridge.webhook_events() == []

    def test_a_payment_of_another_shop_on_the_same_account_is_ignored(
        self, bridge: Bridge, stripe: StripeSimulator, stripe_attempt: Row
    ) -> None:
        (*_, event) = stripe.pay(stripe_attempt["provider_session_id"])
        event["data"]["object"].update(metadata={}, id="cs_foreign", payment_intent="pi_foreign")
        assert result(bridge.deliver("stripe", stripe.sign(event))) == (200, "ignored")
        assert bridge.webhook_events() == []

    def test_one_that_overtakes_its_own_attempt_is_handled_when_it_comes_again(
        self, bridge: Bridge, buyer: Buyer, desk: Desk, attempt: Row
    ) -> None:
        late = uuid.uuid4().hex
        delivery = desk.deliver(desk.renamed(desk.paid(attempt), late))
        # the page's own id would find it too: the row is not there yet
        bridge.db.sql("delete from payments.attempts where number = %s", attempt["number"])
        for deliveries in (1, 2):
            assert result(bridge.deliver(desk.name, delivery)) == (404, "session_not_found")
            assert kept(bridge) == [("failed", "session_not_found", deliveries)]
        bridge.db.sql(
            "insert into payments.attempts (session_id, provider, reference, created_at, expires_at)"
            " values (%s, %s, %s, now(), now() + interval '1 hour')",
            attempt["session_id"], desk.name, late,
        )  # fmt: skip
        assert result(bridge.deliver(desk.name, delivery)) == (200, "applied")
        assert kept(bridge) == [("handled", None, 3)]
        assert bridge.db.balance(buyer.id) == 100

    def test_the_other_mode_is_refused_and_kept_for_a_person(
        self, bridge: Bridge, stripe: StripeSimulator, stripe_attempt: Row
    ) -> None:
        (*_, event) = stripe.pay(stripe_attempt["provider_session_id"])
        assert result(bridge.deliver("stripe", stripe.sign(event | {"livemode": True}))) == (200, "refused")
        assert kept(bridge) == [("dead", "wrong_mode", 1)]
        assert bridge.db.session(stripe_attempt["session_id"])["status"] == "pending"

    def test_a_payment_pays_one_session_only(self, bridge: Bridge, desk: Desk, attempt: Row) -> None:
        event = desk.paid(attempt)
        bridge.deliver(desk.name, desk.deliver(event))
        other = bridge.attempt(bridge.buyer().checkout(provider=desk.name).json()["session_id"])
        reused = desk.renamed(event, other["reference"]) | {"id": "evt_reused"}
        desk.subject(reused)["id"] = other["provider_session_id"]
        assert result(bridge.deliver(desk.name, desk.deliver(reused))) == (200, "refused")
        assert ("dead", "payment_reused", 1) in kept(bridge)
        assert bridge.db.session(other["session_id"])["status"] == "pending"


class TestWrongMoney:
    def test_too_little_fails_the_session_and_calls_a_person(
        self, bridge: Bridge, buyer: Buyer, desk: Desk, attempt: Row
    ) -> None:
        event = desk.wrongly_priced(desk.paid(attempt), amount=1)
        assert result(bridge.deliver(desk.name, desk.deliver(event))) == (200, "applied")
        session = bridge.db.session(attempt["session_id"])
        assert (session["status"], session["review_reason"]) == ("failed", "amount_mismatch")
        assert bridge.db.balance(buyer.id) == 0

    def test_another_currency_does_too(self, bridge: Bridge, buyer: Buyer, desk: Desk, attempt: Row) -> None:
        event = desk.wrongly_priced(desk.paid(attempt), currency="JPY")
        assert result(bridge.deliver(desk.name, desk.deliver(event))) == (200, "applied")
        session = bridge.db.session(attempt["session_id"])
        assert (session["status"], session["review_reason"]) == ("failed", "currency_mismatch")
        assert bridge.db.balance(buyer.id) == 0

    def test_too_much_is_fulfilled_and_flagged(self, bridge: Bridge, buyer: Buyer, desk: Desk, attempt: Row) -> None:
        event = desk.wrongly_priced(desk.paid(attempt), amount=900)
        assert result(bridge.deliver(desk.name, desk.deliver(event))) == (200, "applied")
        session = bridge.db.session(attempt["session_id"])
        assert (session["status"], session["review_reason"]) == ("completed", "overpaid")
        assert bridge.db.balance(buyer.id) == 100


class TestDelayedMethods:
    @pytest.fixture
    def page(self, stripe_attempt: Row) -> str:
        return str(stripe_attempt["provider_session_id"])

    def status(self, bridge: Bridge, attempt: Row) -> str:
        return str(bridge.db.session(attempt["session_id"])["status"])

    def test_processing_then_paid(
        self, bridge: Bridge, buyer: Buyer, stripe: StripeSimulator, stripe_attempt: Row, page: str
    ) -> None:
        for event in stripe.pay_later(page):
            bridge.deliver("stripe", stripe.sign(event))
        assert self.status(bridge, stripe_attempt) == "processing"
        for event in stripe.settle(page):
            bridge.deliver("stripe", stripe.sign(event))
        assert self.status(bridge, stripe_attempt) == "completed"
        assert bridge.db.entries(buyer.id) == [100]

    def test_processing_then_failed(
        self, bridge: Bridge, stripe: StripeSimulator, stripe_attempt: Row, page: str
    ) -> None:
        for event in stripe.pay_later(page) + stripe.fail(page):
            bridge.deliver("stripe", stripe.sign(event))
        assert self.status(bridge, stripe_attempt) == "failed"

    def test_the_end_before_the_beginning_stays_the_end(
        self, bridge: Bridge, buyer: Buyer, stripe: StripeSimulator, stripe_attempt: Row, page: str
    ) -> None:
        begun = stripe.pay_later(page)
        ended = stripe.settle(page)
        answers = [result(bridge.deliver("stripe", stripe.sign(event))) for event in reversed(begun + ended)]
        assert {status for status, _ in answers} == {200}
        assert self.status(bridge, stripe_attempt) == "completed"
        assert bridge.db.entries(buyer.id) == [100]

    def test_processing_after_failed_changes_nothing(
        self, bridge: Bridge, stripe: StripeSimulator, stripe_attempt: Row, page: str
    ) -> None:
        begun = stripe.pay_later(page)
        for event in stripe.fail(page) + begun:
            assert bridge.deliver("stripe", stripe.sign(event)).status_code == 200
        assert self.status(bridge, stripe_attempt) == "failed"

    def test_money_after_failure_is_honoured(
        self, bridge: Bridge, buyer: Buyer, stripe: StripeSimulator, stripe_attempt: Row, page: str
    ) -> None:
        for event in stripe.pay_later(page) + stripe.fail(page) + stripe.settle(page):
            bridge.deliver("stripe", stripe.sign(event))
        assert self.status(bridge, stripe_attempt) == "completed"
        assert bridge.db.entries(buyer.id) == [100]

    def test_an_expired_page_expires_the_session(
        self, bridge: Bridge, stripe: StripeSimulator, stripe_attempt: Row, page: str
    ) -> None:
        for event in stripe.expire(page):
            bridge.deliver("stripe", stripe.sign(event))
        assert self.status(bridge, stripe_attempt) == "expired"


class TestMoneyTakenBack:
    @pytest.fixture
    def payment(self, bridge: Bridge, stripe: StripeSimulator, stripe_attempt: Row) -> str:
        (*_, event) = stripe.pay(stripe_attempt["provider_session_id"])
        bridge.deliver("stripe", stripe.sign(event))
        return str(event["data"]["object"]["payment_intent"])

    def standing(self, bridge: Bridge, attempt: Row) -> tuple[str, int, str | None, int]:
        """Status, what went back, what a person must look at, and the buyer's credits."""
        row = bridge.db.session(attempt["session_id"])
        return row["status"], row["refunded_amount"], row["review_reason"], bridge.db.balance(row["user_id"])

    def tell(self, bridge: Bridge, stripe: StripeSimulator, events: list[Row]) -> set[tuple[int, str]]:
        """What the bridge answers to these events."""
        return {result(bridge.deliver("stripe", stripe.sign(event))) for event in events}

    def test_a_refund_without_our_reference_finds_its_session(
        self, bridge: Bridge, stripe: StripeSimulator, stripe_attempt: Row, payment: str
    ) -> None:
        assert self.tell(bridge, stripe, stripe.refund(payment, 200)) == {(200, "applied")}
        assert self.standing(bridge, stripe_attempt) == ("partially_refunded", 200, None, 60)
        assert self.tell(bridge, stripe, stripe.refund(payment, 300)) == {(200, "applied")}
        assert self.standing(bridge, stripe_attempt) == ("refunded", 500, None, 0)

    def test_a_refund_that_fails_later_gives_everything_back(
        self, bridge: Bridge, stripe: StripeSimulator, stripe_attempt: Row, payment: str
    ) -> None:
        begun = stripe.refund(payment, 500)
        self.tell(bridge, stripe, begun)
        failed = stripe.fail_refund(begun[0]["data"]["object"]["id"])
        assert self.tell(bridge, stripe, failed) == {(200, "applied")}
        assert self.standing(bridge, stripe_attempt) == ("completed", 0, None, 100)

    @pytest.mark.parametrize("status", ["pending", "requires_action", "canceled", "failed"])
    def test_a_refund_that_has_not_happened_takes_nothing_and_stands_in_nobodys_way(
        self, bridge: Bridge, stripe: StripeSimulator, stripe_attempt: Row, payment: str, status: str
    ) -> None:
        assert self.tell(bridge, stripe, stripe.refund(payment, 100, status)) == {(200, "applied")}
        assert self.standing(bridge, stripe_attempt) == ("completed", 0, None, 100)
        assert self.tell(bridge, stripe, stripe.refund(payment, 200)) == {(200, "applied")}
        assert self.standing(bridge, stripe_attempt) == ("partially_refunded", 200, None, 60)

    def test_a_provider_that_is_away_while_we_ask_gets_the_event_back(
        self, bridge: Bridge, stripe: StripeSimulator, payment: str
    ) -> None:
        delivery = stripe.sign(stripe.refund(payment, 200)[-1])
        stripe.faults.extend([Fault(status=503)] * 3)
        assert result(bridge.deliver("stripe", delivery)) == (502, "provider_unavailable")
        assert result(bridge.deliver("stripe", delivery)) == (200, "applied")

    def test_a_dispute_calls_a_person(
        self, bridge: Bridge, stripe: StripeSimulator, stripe_attempt: Row, payment: str
    ) -> None:
        for event in stripe.dispute(payment):
            assert result(bridge.deliver("stripe", stripe.sign(event))) == (200, "applied")
        assert self.standing(bridge, stripe_attempt) == ("completed", 0, "dispute_reported", 100)

    @pytest.mark.parametrize("verdict", ["lost", "won"])
    def test_a_dispute_that_is_decided_takes_the_purchase_back_or_needs_nobody_any_more(
        self, bridge: Bridge, stripe: StripeSimulator, stripe_attempt: Row, payment: str, verdict: str
    ) -> None:
        opened = stripe.dispute(payment)
        self.tell(bridge, stripe, opened)
        self.tell(bridge, stripe, stripe.close_dispute(opened[0]["data"]["object"]["id"], verdict))
        assert self.standing(bridge, stripe_attempt) == (
            ("refunded", 500, "dispute_reported", 0) if verdict == "lost" else ("completed", 0, None, 100)
        )


class TestADatabaseThatIsAway:
    @pytest.fixture
    def own_bridge(self, own_db: Database, stripe: StripeSimulator, impatient: None) -> Iterator[Bridge]:
        with running_bridge(own_db, stripe) as running:
            yield running

    def test_the_provider_is_asked_to_come_again(
        self, own_bridge: Bridge, own_server: LocalPostgres, stripe: StripeSimulator
    ) -> None:
        buyer = own_bridge.buyer()
        session_id = buyer.checkout().json()["session_id"]
        delivery = stripe.sign(stripe.pay(own_bridge.attempt(session_id)["provider_session_id"])[-1])
        own_server.stop(keep=True)
        try:
            answers = all_at_once(
                [
                    lambda: result(own_bridge.deliver("stripe", delivery)),
                    lambda: result(own_bridge.http.get("/readyz")),
                    lambda: (own_bridge.http.get("/healthz").status_code, ""),
                ]
            )
            assert answers == [(503, "database_unavailable"), (503, "database_unavailable"), (200, "")]
        finally:
            own_server.start()
        assert result(own_bridge.deliver("stripe", delivery)) == (200, "applied")
        assert own_bridge.http.get("/readyz").status_code == 200
        assert own_bridge.db.balance(buyer.id) == 100


class TestGenuineOnesThatCannotBeApplied:
    """Kept for a person or for the next delivery: nothing genuine vanishes."""

    def test_an_unexpected_shape_is_refused_and_kept(
        self, bridge: Bridge, stripe: StripeSimulator, stripe_attempt: Row
    ) -> None:
        event = stripe.pay(stripe_attempt["provider_session_id"])[-1]
        event["data"]["object"]["amount_total"] = "five dollars"
        assert result(bridge.deliver("stripe", stripe.sign(event))) == (200, "refused")
        assert kept(bridge) == [("dead", "invalid_request", 1)]

    def test_a_provider_that_refuses_our_question_is_asked_again_at_the_next_delivery(
        self, bridge: Bridge, stripe: StripeSimulator, stripe_attempt: Row
    ) -> None:
        for event in stripe.pay(stripe_attempt["provider_session_id"]):
            bridge.deliver("stripe", stripe.sign(event))
        payment = bridge.db.session(stripe_attempt["session_id"])["provider_payment_id"]
        refunded = stripe.refund(payment, 100)[-1]
        stripe.faults.append(Fault(status=403))  # a restricted key without access to refunds
        response = bridge.deliver("stripe", stripe.sign(refunded))
        assert (response.status_code, response.json()["error"]["reason"]) == (502, "provider_refused")
        assert ("failed", "provider_refused", 1) in kept(bridge)
        assert result(bridge.deliver("stripe", stripe.sign(refunded))) == (200, "applied")
        assert bridge.db.session(stripe_attempt["session_id"])["refunded_amount"] == 100

    def test_trouble_in_the_database_is_kept_and_repeated(self, bridge: Bridge, desk: Desk, attempt: Row) -> None:
        event = desk.deliver(desk.paid(attempt))
        bridge.db.sql("alter function payments.settle_capture rename to settle_capture_away")
        assert bridge.deliver(desk.name, event).status_code == 500
        assert [status for status, *_ in kept(bridge)] == ["failed"]
        bridge.db.sql("alter function payments.settle_capture_away rename to settle_capture")
        assert result(bridge.deliver(desk.name, event)) == (200, "applied")

    def test_a_lock_that_is_held_elsewhere_does_not_hold_the_bridge(
        self, bridge: Bridge, desk: Desk, attempt: Row
    ) -> None:
        event = desk.deliver(desk.paid(attempt))
        with bridge.db.as_owner().request() as other:
            other.execute(
                "select from public.payment_checkout_sessions where id = %s for update", (attempt["session_id"],)
            )
            assert bridge.deliver(desk.name, event).status_code == 503
        assert result(bridge.deliver(desk.name, event)) == (200, "applied")
