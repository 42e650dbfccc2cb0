"""Money that goes back on an operator's order: asked for once, recorded, and taken from what was bought."""

from __future__ import annotations

import json
import threading
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from bridge.simulators.stripe import Fault, StripeSimulator
from tests.support.bridge import Bridge, Buyer, running_bridge
from tests.support.command import run
from tests.support.database import Database

TOKEN = "the-admin-token-of-these-tests"


@pytest.fixture
def office(db: Database, stripe: StripeSimulator) -> Iterator[Bridge]:
    """A bridge whose admin routes are open."""
    with running_bridge(db, stripe, admin_token=TOKEN) as bridge:
        yield bridge


@pytest.fixture
def sale(office: Bridge, stripe: StripeSimulator) -> tuple[str, Buyer, str]:
    """A paid purchase of 500: its session, its buyer, and the name of its payment."""
    buyer = office.buyer()
    session_id = buyer.checkout().json()["session_id"]
    stripe.pay(office.attempt(session_id)["provider_session_id"])
    assert buyer.verify(session_id=session_id).json()["success"]
    (session,) = office.db.sql(
        "select provider_payment_id from public.payment_checkout_sessions where id = %s", session_id
    )
    return session_id, buyer, session["provider_payment_id"]


def order(office: Bridge, session_id: object, *, token: str = TOKEN, key: str = "", **fields: Any) -> httpx.Response:
    headers = {"Authorization": f"Bearer {token}"} | ({"Idempotency-Key": key} if key else {})
    return office.http.post("/admin/refunds", json={"session_id": str(session_id), **fields}, headers=headers)


def refunds(stripe: StripeSimulator, payment: str) -> list[int]:
    everything = stripe.objects.values()
    return [o["amount"] for o in everything if o["object"] == "refund" and o["payment_intent"] == payment]


def rows(office: Bridge, session_id: str) -> list[tuple[int, str, str]]:
    found = office.db.sql(
        "select amount, status, coalesce(reason, '') as reason from public.payment_refunds where session_id = %s"
        " order by created_at", session_id,
    )  # fmt: skip
    return [(row["amount"], row["status"], row["reason"]) for row in found]


def test_all_of_it_by_default(office: Bridge, sale: tuple[str, Buyer, str], stripe: StripeSimulator) -> None:
    session_id, buyer, payment = sale
    done = order(office, session_id, reason="asked nicely")
    assert done.status_code == 200, done.text
    assert done.json() | {"provider_refund_id": "", "message": ""} == {
        "session_id": session_id, "amount": 500, "currency": "USD", "status": "succeeded", "provider_refund_id": "",
        "session_status": "refunded", "refundable_amount": 0, "message": "",
    }  # fmt: skip
    assert refunds(stripe, payment) == [500]
    assert rows(office, session_id) == [(500, "succeeded", "asked nicely")]
    assert office.db.balance(buyer.id) == 0


def test_in_parts_never_more_than_was_paid(
    office: Bridge, sale: tuple[str, Buyer, str], stripe: StripeSimulator
) -> None:
    session_id, buyer, payment = sale
    assert order(office, session_id, amount=200).json()["refundable_amount"] == 300
    assert order(office, session_id, amount=200).json()["session_status"] == "partially_refunded"
    too_much = order(office, session_id, amount=101)
    assert (too_much.status_code, too_much.json()["error"]["reason"]) == (422, "invalid_request")
    assert "100 minor units of USD are left" in too_much.json()["error"]["message"]
    assert order(office, session_id).json()["amount"] == 100
    nothing = order(office, session_id)
    assert (nothing.status_code, nothing.json()["error"]["reason"]) == (409, "nothing_to_refund")
    assert refunds(stripe, payment) == [200, 200, 100]
    assert office.db.balance(buyer.id) == 0


def test_the_same_key_gives_back_once(office: Bridge, sale: tuple[str, Buyer, str], stripe: StripeSimulator) -> None:
    session_id, _, payment = sale
    first = order(office, session_id, amount=200, key="ticket 7")
    assert order(office, session_id, amount=200, key="ticket 7").json() == first.json()
    other = order(office, session_id, amount=100, key="ticket 7")
    assert (other.status_code, other.json()["error"]["reason"]) == (409, "idempotency_conflict")
    assert order(office, session_id, amount=200, key="ticket 8").json()["refundable_amount"] == 100
    assert refunds(stripe, payment) == [200, 200]


def test_two_operators_at_once_give_back_once(
    office: Bridge, sale: tuple[str, Buyer, str], stripe: StripeSimulator
) -> None:
    session_id, _, payment = sale
    stripe.faults.extend([Fault(latency=0.2)] * 8)
    start = threading.Barrier(2)

    def press(_: int) -> int:
        start.wait()
        return order(office, session_id, amount=200).status_code

    with ThreadPoolExecutor(2) as pool:
        assert sorted(pool.map(press, range(2))) == [200, 409]
    assert refunds(stripe, payment) == [200]


def test_a_lost_answer_is_asked_for_again_under_the_same_key(
    office: Bridge, sale: tuple[str, Buyer, str], stripe: StripeSimulator
) -> None:
    session_id, _, payment = sale
    stripe.faults.extend([Fault(), Fault(lost=True)])  # the question for the truth, then the order
    assert order(office, session_id, amount=200).json()["status"] == "succeeded"
    assert refunds(stripe, payment) == [200]


def test_a_refund_that_nobody_recorded_is_recorded_and_nothing_is_sent(
    office: Bridge, sale: tuple[str, Buyer, str], stripe: StripeSimulator
) -> None:
    session_id, _, payment = sale
    stripe.refund(payment, 200)  # in Stripe's dashboard, say, and its webhook is lost
    done = order(office, session_id, amount=200).json()
    assert (done["status"], done["amount"], done["refundable_amount"]) == (None, 0, 300)
    assert "Nothing was sent" in done["message"]
    assert refunds(stripe, payment) == [200]
    assert rows(office, session_id) == [(200, "succeeded", "")]
    assert order(office, session_id, amount=200).json()["status"] == "succeeded"


def test_a_refund_that_failed_at_the_bank_can_be_given_again(
    office: Bridge, sale: tuple[str, Buyer, str], stripe: StripeSimulator
) -> None:
    session_id, _, _ = sale
    first = order(office, session_id).json()
    for event in stripe.fail_refund(first["provider_refund_id"]):
        office.deliver("stripe", stripe.sign(event))
    again = order(office, session_id).json()
    assert again["status"] == "succeeded"
    assert again["provider_refund_id"] != first["provider_refund_id"]
    assert [row[:2] for row in rows(office, session_id)] == [(500, "failed"), (500, "succeeded")]


def test_what_stripe_refuses_is_said_and_nothing_is_recorded(
    office: Bridge, sale: tuple[str, Buyer, str], stripe: StripeSimulator
) -> None:
    session_id, _, payment = sale
    body = b'{"error": {"type": "invalid_request_error", "code": "charge_disputed", "message": "no"}}'
    stripe.faults.extend([Fault(), Fault(status=400, body=body)])
    refused = order(office, session_id)
    assert (refused.status_code, refused.json()["error"]["reason"]) == (502, "provider_refused")
    assert "charge_disputed" in refused.json()["error"]["message"]
    assert (rows(office, session_id), refunds(stripe, payment)) == ([], [])
    assert order(office, session_id).json()["status"] == "succeeded"  # it may be tried again


def test_a_provider_that_cannot_be_asked_first_gives_nothing(
    office: Bridge, sale: tuple[str, Buyer, str], stripe: StripeSimulator
) -> None:
    session_id, _, payment = sale
    stripe.faults.extend([Fault(status=500)] * 3)
    away = order(office, session_id)
    assert (away.status_code, away.json()["error"]["reason"]) == (502, "provider_unavailable")
    assert refunds(stripe, payment) == []


def test_the_page_that_was_paid_is_the_one_that_is_asked_about(office: Bridge, stripe: StripeSimulator) -> None:
    buyer = office.buyer()
    session_id = buyer.checkout(provider="stripe").json()["session_id"]
    paid = office.attempt(session_id)["provider_session_id"]
    stripe.pay(paid)
    # the buyer went to the sandbox's page meanwhile; then the news of the first page comes
    office.db.sql("select public.open_checkout_attempt(%s, 'sandbox')", session_id)
    office.deliver("stripe", stripe.sign(stripe.events[-1]))
    done = order(office, session_id).json()
    assert (done["status"], done["session_status"]) == ("succeeded", "refunded")


def test_play_money_goes_back_too(office: Bridge) -> None:
    buyer = office.buyer()
    session = buyer.checkout(provider="sandbox").json()
    office.http.post(session["checkout_url"], data={"action": "pay"})
    buyer.verify(session_id=session["session_id"])
    assert order(office, session["session_id"], amount=100, key="k").json()["refundable_amount"] == 400
    assert office.db.balance(buyer.id) == 80
    assert buyer.verify(session_id=session["session_id"]).json()["payment_status"] == "partially_refunded"


def test_what_was_not_paid_cannot_go_back(office: Bridge) -> None:
    session_id = office.buyer().checkout().json()["session_id"]
    refused = order(office, session_id)
    assert (refused.status_code, refused.json()["error"]["reason"]) == (409, "nothing_to_refund")
    unknown = order(office, uuid.uuid4())
    assert (unknown.status_code, unknown.json()["error"]["reason"]) == (404, "session_not_found")


@pytest.mark.parametrize(
    "fields", [{"amount": 0}, {"amount": -1}, {"amount": "all"}, {"reason": ""}, {"reason": "a\0b"}, {"surprise": 1}]
)
def test_a_malformed_order_names_the_field(office: Bridge, fields: dict[str, Any]) -> None:
    refused = order(office, uuid.uuid4(), **fields)
    assert (refused.status_code, refused.json()["error"]["reason"]) == (422, "invalid_request")
    assert next(iter(fields)) in refused.json()["error"]["message"]


@pytest.mark.parametrize("token", ["none", "wrong", TOKEN[:-1], TOKEN + "x", "the-ädmin-token-of-these-tests"])
def test_only_the_admin_token_opens(office: Bridge, token: str) -> None:
    headers = {b"Authorization": f"Bearer {token}".encode()}
    refused = office.http.post("/admin/refunds", json={"session_id": str(uuid.uuid4())}, headers=headers)
    assert (refused.status_code, refused.json()["error"]["reason"]) == (401, "not_signed_in")


def test_without_a_token_the_routes_are_closed(bridge: Bridge) -> None:
    for token in ("None", TOKEN):
        refused = order(bridge, uuid.uuid4(), token=token)
        assert (refused.status_code, refused.json()["error"]["reason"]) == (404, "not_supported")
        assert "PGCHECKOUT_ADMIN_TOKEN" in refused.json()["error"]["hint"]


def test_the_command_does_the_same(
    office: Bridge, sale: tuple[str, Buyer, str], stripe: StripeSimulator, tmp_path: Path
) -> None:
    session_id, _, payment = sale
    settings = {"database_url": office.db.url(), **{name: str(value) for name, value in stripe.settings().items()}}
    done = run(tmp_path, "refund", session_id, "--amount", "200", "--reason", "broken", **settings)
    assert done.code == 0, done.err
    assert json.loads(done.out)["refundable_amount"] == 300
    assert rows(office, session_id) == [(200, "succeeded", "broken")]
    refused = run(tmp_path, "refund", session_id, "--amount", "301", **settings)
    assert (refused.code, "300 minor units" in refused.err, refused.out) == (1, True, "")
    assert refunds(stripe, payment) == [200]
