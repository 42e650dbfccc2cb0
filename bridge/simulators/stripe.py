"""A stand-in for api.stripe.com: the part of Stripe that the adapter uses, over real HTTP, with buyers and faults.

Behaves as docs.stripe.com/api says (sessions, refunds, disputes, idempotent requests, errors), API version
2026-10-28.endive. It is strict: what Stripe would refuse, it refuses.
"""

from __future__ import annotations

import asyncio
import json
import re
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from urllib.parse import urlsplit

from bridge.simulators.base import Answer, Delivery, Fault, Json, Received, Simulator, Tell
from bridge.simulators.stripe_world import API_VERSION, StripeWorld, sign

__all__ = ["Fault", "Received", "StripeSimulator"]

CREATE_PARAMETERS = frozenset({
    "mode", "client_reference_id", "metadata", "payment_intent_data", "line_items", "success_url", "cancel_url",
    "expires_at", "customer_email", "locale", "submit_type",
})  # fmt: skip


@dataclass(frozen=True)
class Kept:
    """What Stripe says; kept under the idempotency key when the request was executed."""

    status: int
    body: bytes
    parameters: str = ""
    executed: bool = True
    replayed: bool = False


class Refusal(Exception):
    """An error of Stripe's."""

    def __init__(self, message: str, *, code: str = "parameter_invalid", status: int = 400, param: str = "") -> None:
        super().__init__(message)
        kind = "idempotency_error" if code == "idempotency_error" else "invalid_request_error"
        error = {"type": kind, "code": code, "message": message, "param": param}
        self.answer = Kept(status, json.dumps({"error": error}).encode(), executed=False)


class StripeSimulator(StripeWorld, Simulator):
    """A Stripe account behind an HTTP API."""

    name = "stripe"
    currency = "USD"

    def __init__(self, *, livemode: bool = False) -> None:
        Simulator.__init__(self)
        StripeWorld.__init__(self, livemode=livemode)
        self._answers: dict[str, Kept] = {}
        self._in_flight: set[str] = set()

    def settings(self) -> Json:
        return {
            "stripe_secret_key": self.secret_key,
            "stripe_webhook_secrets": self.webhook_secret,
            "stripe_api_url": self.url,
        }

    # what buyers and merchants do

    def buyer_pays(
        self, page: str, tell: Tell, *, amount: int | None = None, currency: str | None = None
    ) -> list[Delivery]:
        session = self._session(page)
        changed = {"amount_total": amount, "currency": currency and currency.lower()}
        session.update({name: value for name, value in changed.items() if value is not None})
        return self._signed(self.pay(session["id"]))

    def buyer_is_declined(self, page: str, tell: Tell) -> list[Delivery]:
        session = self._session(page)
        intent = {"id": "pi_declined", "metadata": session["metadata"], "status": "requires_payment_method"}
        return self._signed([self.event("payment_intent.payment_failed", intent)])

    def buyer_pays_later(self, page: str, tell: Tell) -> list[Delivery]:
        return self._signed(self.pay_later(self._session(page)["id"]))

    def money_arrives(self, page: str) -> list[Delivery]:
        return self._signed(self.settle(self._session(page)["id"]))

    def page_expires(self, page: str) -> list[Delivery]:
        return self._signed(self.expire(self._session(page)["id"]))

    def return_query(self, page: str) -> str:
        return f"page={self._session(page)['id']}"

    def merchant_refunds(self, page: str, amount: int | None = None) -> list[Delivery]:
        left = self.taken(page) - self.given_back(page)
        return self._signed(self.refund(self._session(page)["payment_intent"], amount or left))

    def buyer_disputes(self, page: str) -> list[Delivery]:
        return self._signed(self.dispute(self._session(page)["payment_intent"]))

    def bank_decides(self, page: str, *, won: bool) -> list[Delivery]:
        (dispute,) = self._of(page, "dispute")
        return self._signed(self.close_dispute(dispute["id"], "won" if won else "lost"))

    # what Stripe knows

    def taken(self, page: str) -> int:
        return sum(charge["amount"] for charge in self._of(page, "charge") if charge["status"] == "succeeded")

    def given_back(self, page: str) -> int:
        return sum(refund["amount"] for refund in self._of(page, "refund") if refund["status"] == "succeeded")

    def forged(self, delivery: Delivery) -> Delivery:
        headers, body = delivery
        return {**headers, "stripe-signature": sign(body, "whsec_of_somebody_else")}, body

    def _session(self, page: str) -> Json:
        return self.objects[urlsplit(page).path.rsplit("/", 1)[-1]]

    def _of(self, page: str, kind: str) -> list[Json]:
        intent = self._session(page)["payment_intent"]
        return [o for o in self.objects.values() if o["object"] == kind and intent and o["payment_intent"] == intent]

    def _signed(self, events: list[Json]) -> list[Delivery]:
        return [self.sign(event) for event in events]

    # what arrives over HTTP

    async def answer(self, received: Received, fault: Fault) -> Answer:
        key = received.headers.get("idempotency-key", "")
        if key and key in self._in_flight:
            in_use = "Another request with this key is in progress."
            kept = Refusal(in_use, code="idempotency_key_in_use", status=409).answer
        else:
            self._in_flight.add(key)
            try:
                kept = self._answer(received, key, fault)
                await asyncio.sleep(fault.latency)
            finally:
                self._in_flight.discard(key)
        replayed = {"Idempotent-Replayed": "true"} if kept.replayed else {}
        return Answer(kept.status, kept.body, {"Request-Id": f"req_{secrets.token_hex(7)}", **replayed})

    def work(self, received: Received, fault: Fault) -> Answer:
        raise AssertionError("answer() does it")

    def _answer(self, received: Received, key: str, fault: Fault) -> Kept:
        try:
            return self._execute(received, key, fault)
        except Refusal as refusal:
            return refusal.answer

    def _execute(self, received: Received, key: str, fault: Fault) -> Kept:
        if received.headers.get("authorization") != f"Bearer {self.secret_key}":
            raise Refusal("Invalid API Key provided.", code="api_key_invalid", status=401)
        if received.headers.get("stripe-version") != API_VERSION:
            raise Refusal("Invalid Stripe API version.")
        parameters = json.dumps(received.values, sort_keys=True)
        if key in self._answers:
            if self._answers[key].parameters != parameters:
                raise Refusal("Keys can only be used with the same parameters.", code="idempotency_error")
            return replace(self._answers[key], replayed=True)
        if fault.status:
            answer = Kept(fault.status, fault.body, parameters, executed=fault.stored)
        else:
            answer = Kept(200, json.dumps(self._work(received)).encode(), parameters)
        if key and answer.executed:
            self._answers[key] = answer
        return answer

    def _work(self, received: Received) -> Json:
        values = received.values
        match received.method, received.path.removeprefix("/v1/").split("/"):
            case "POST", ["checkout", "sessions"]:
                form = nested(values)
                check_session(form)
                return self.create_session(form)
            case "GET", ["checkout", "sessions", str(name)]:
                return self._expanded(self._find(name), values.get("expand[]", ""))
            case "POST", ["checkout", "sessions", str(name), "expire"]:
                if self._find(name)["status"] != "open":
                    raise Refusal('Only Checkout Sessions with a status in ["open"] can be expired.', code="not_open")
                self.expire(name)
                return self._find(name)
            case "POST", ["refunds"]:
                return self._create_refund(values)
            case "GET", ["payment_intents", str(name)]:
                return self._find(name)
            case "GET", ["refunds" | "disputes" as kind]:
                return self._list(kind.removesuffix("s"), values)
        raise Refusal("Unrecognized request URL.", status=404)

    def _create_refund(self, values: Mapping[str, str]) -> Json:
        intent = self._find(values["payment_intent"])
        refunds = [o for o in self.objects.values() if o["object"] == "refund" and o["payment_intent"] == intent["id"]]
        left = intent["amount_received"] - sum(refund["amount"] for refund in refunds if refund["status"] != "failed")
        if not 0 < int(values["amount"]) <= left:
            raise Refusal("Refund amount is greater than unrefunded amount.", code="amount_too_large")
        before = set(self.objects)
        self.refund(intent["id"], int(values["amount"]))
        (name,) = self.objects.keys() - before
        return self.objects[name]

    def _find(self, name: str) -> Json:
        if name not in self.objects:
            raise Refusal(f"No such object: '{name}'", code="resource_missing", status=404)
        return self.objects[name]

    def _expanded(self, session: Json, path: str) -> Json:
        answer = node = dict(session)
        for name in filter(None, path.split(".")):
            if node.get(name) is None:
                break
            node[name] = dict(self._find(node[name]))
            node = node[name]
        return answer

    def _list(self, kind: str, values: Mapping[str, str]) -> Json:
        everything = list(self.objects.values())
        found = [o for o in everything if o["object"] == kind and o["payment_intent"] == values["payment_intent"]]
        ids = [listed["id"] for listed in found]
        start = ids.index(values["starting_after"]) + 1 if "starting_after" in values else 0
        end = start + int(values.get("limit", "10"))
        return {"object": "list", "data": found[start:end], "has_more": end < len(found), "url": f"/v1/{kind}s"}


def nested(values: Mapping[str, str]) -> Json:
    """``{"a[b][0]": "c"}`` as ``{"a": {"b": {"0": "c"}}}``."""
    root: Json = {}
    for name, value in values.items():
        *parents, last = re.findall(r"[^\[\]]+", name)
        node = root
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = value
    return root


def check_session(form: Json) -> None:
    """Refuse what Stripe refuses."""
    if unknown := sorted(form.keys() - CREATE_PARAMETERS):
        raise Refusal(f"Received unknown parameter: {unknown[0]}", code="parameter_unknown", param=unknown[0])
    try:
        item = form["line_items"]["0"]
        price: Json = item["price_data"]
        amount, currency, lives = (
            int(price["unit_amount"]),
            price["currency"],
            float(form.get("expires_at", time.time() + 86_000)),
        )
        given = (form["mode"], item["quantity"], price["product_data"]["name"], form["success_url"])
    except (KeyError, TypeError, ValueError) as wrong:
        raise Refusal("Missing required param, or no integer.", code="parameter_missing", param=str(wrong)) from None
    metadata = [*form.get("metadata", {}).items(), *form.get("payment_intent_data", {}).get("metadata", {}).items()]
    last_digits = {"isk": 100, "ugx": 100, "bhd": 10, "jod": 10, "kwd": 10, "omr": 10, "tnd": 10}.get(currency, 1)
    for bad, what in (
        (given[:2] != ("payment", "1"), "mode"),
        (not given[2], "line_items[0][price_data][product_data][name]"),
        (not given[3].startswith(("http://", "https://")), "success_url"),
        (not re.fullmatch("[a-z]{3}", currency), "currency"),
        (not 1 <= amount <= 99_999_999 or amount % last_digits != 0, "line_items[0][price_data][unit_amount]"),
        (not 1800 <= lives - time.time() <= 86_400, "expires_at"),
        (len(form.get("client_reference_id", "")) > 200, "client_reference_id"),
        ("@" not in form.get("customer_email", "@"), "customer_email"),
        (len(metadata) > 50 or any(len(k) > 40 or len(v) > 500 for k, v in metadata), "metadata"),
    ):
        if bad:
            raise Refusal(f"Invalid {what}.", param=what)
