"""The simulator is as strict as Stripe: what it lets pass, Stripe would let pass."""

from __future__ import annotations

import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import ClassVar

import httpx
import pytest
import stripe as official

from bridge.simulators.stripe import Fault, StripeSimulator
from bridge.simulators.stripe_world import API_VERSION

FORM = {
    "mode": "payment",
    "success_url": "https://bridge.test/",
    "line_items[0][quantity]": "1",
    "line_items[0][price_data][currency]": "usd",
    "line_items[0][price_data][unit_amount]": "2500",
    "line_items[0][price_data][product_data][name]": "credits",
}
AMOUNT, CURRENCY = "line_items[0][price_data][unit_amount]", "line_items[0][price_data][currency]"


def post(stripe: StripeSimulator, form: dict[str, str], **headers: str) -> httpx.Response:
    known = {"Authorization": f"Bearer {stripe.secret_key}", "Stripe-Version": API_VERSION}
    return httpx.post(f"{stripe.url}/v1/checkout/sessions", data=form, headers=known | headers)


def in_minutes(minutes: float) -> str:
    return str(int(time.time() + minutes * 60))


@pytest.mark.parametrize(
    "changes",
    [{"payment_method_types[0]": "card"}, {"mode": "setup"}, {"success_url": "bridge"}, {AMOUNT: "0"},
     {AMOUNT: "100000000"}, {AMOUNT: "25.00"}, {CURRENCY: "USD"}, {CURRENCY: "isk", AMOUNT: "2550"},
     {CURRENCY: "kwd", AMOUNT: "2501"}, {"expires_at": in_minutes(-60)}, {"expires_at": in_minutes(48 * 60)},
     {"client_reference_id": "r" * 201}, {"metadata[" + "k" * 41 + "]": "v"}, {"metadata[k]": "v" * 501}],
    ids=str,
)  # fmt: skip
def test_what_stripe_refuses_is_refused(changes: dict[str, str], stripe: StripeSimulator) -> None:
    assert post(stripe, FORM).status_code == 200
    answer = post(stripe, FORM | changes)
    assert answer.status_code == 400
    assert answer.json()["error"]["type"] == "invalid_request_error"
    assert answer.headers["request-id"].startswith("req_")


@pytest.mark.parametrize("missing", FORM)
def test_what_stripe_needs_is_needed(missing: str, stripe: StripeSimulator) -> None:
    assert post(stripe, {name: value for name, value in FORM.items() if name != missing}).status_code == 400


def test_key_and_version_are_checked(stripe: StripeSimulator) -> None:
    assert post(stripe, FORM, Authorization="Bearer sk_test_other").status_code == 401
    assert post(stripe, FORM, **{"Stripe-Version": "2019-01-01"}).status_code == 400


def test_a_key_replays_the_first_answer_and_fits_no_other_parameters(stripe: StripeSimulator) -> None:
    first, again = (post(stripe, FORM, **{"Idempotency-Key": "once"}) for _ in range(2))
    assert first.content == again.content
    assert "idempotent-replayed" not in first.headers
    assert again.headers["idempotent-replayed"] == "true"
    other = post(stripe, FORM | {AMOUNT: "1"}, **{"Idempotency-Key": "once"})
    assert (other.status_code, other.json()["error"]["type"]) == (400, "idempotency_error")


def test_a_server_error_is_replayed_but_a_refused_request_frees_its_key(stripe: StripeSimulator) -> None:
    stripe.faults.append(Fault(status=500, stored=True))
    assert [post(stripe, FORM, **{"Idempotency-Key": "broken"}).status_code for _ in range(2)] == [500, 500]
    assert post(stripe, FORM | {AMOUNT: "0"}, **{"Idempotency-Key": "wrong"}).status_code == 400
    assert post(stripe, FORM, **{"Idempotency-Key": "wrong"}).status_code == 200


class Endpoint(BaseHTTPRequestHandler):
    """A webhook endpoint that keeps what it gets."""

    got: ClassVar[list[tuple[str, bytes]]] = []

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.got.append((self.headers["Stripe-Signature"], body))
        self.send_response(204)
        self.end_headers()


def test_a_delivery_is_a_signed_request_that_the_official_library_accepts(stripe: StripeSimulator) -> None:
    event = stripe.event("charge.updated", {"id": "ch_1", "object": "charge"})
    with HTTPServer(("127.0.0.1", 0), Endpoint) as endpoint:
        threading.Thread(target=endpoint.handle_request, daemon=True).start()
        response = stripe.deliver(event, f"http://127.0.0.1:{endpoint.server_port}/webhooks/stripe")
    signature, body = Endpoint.got.pop()
    assert response.status_code == 204
    assert official.Webhook.construct_event(body, signature, stripe.webhook_secret).id == event["id"]
