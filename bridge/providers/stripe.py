"""Stripe Checkout (hosted page), over Stripe's HTTP API.

Sources: docs.stripe.com/api (sessions, events, refunds, disputes), docs.stripe.com/webhooks (signatures) and
docs.stripe.com/currencies, API version 2026-10-28.endive.
"""

from __future__ import annotations

import hashlib
import hmac
import time
from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import httpx

from bridge.errors import InvalidRequest, ProviderRefused, ProviderUnavailable, SignatureInvalid, WrongMode
from bridge.providers.base import Provider, query_values, return_url
from bridge.providers.http import is_temporary, send
from bridge.providers.shapes import MALFORMED, moment, shaped, storable_json, text, whole
from bridge.settings import Settings
from bridge.values import (
    Attempt,
    Event,
    Named,
    Notification,
    Outcome,
    Page,
    Refund,
    RefundKind,
    RefundOrder,
    RefundStatus,
    Source,
    Status,
)

__all__ = ["Stripe", "from_stripe_amount", "to_stripe_amount", "verify_signature"]

API_VERSION = "2026-10-28.endive"
REFERENCE = "pgcheckout_reference"  # key of our reference in metadata, at most 40 characters
TOLERANCE_SECONDS = 300
# a page must live 30 minutes to 24 hours after its creation; the margins are for clocks that differ
SHORTEST_PAGE, LONGEST_PAGE = timedelta(minutes=31), timedelta(hours=23, minutes=55)

# Stripe's unit is ISO's minor unit but for these: ISK and UGX are sent times 100, MGA without its two ISO digits.
_FACTOR = {"ISK": 100, "UGX": 100}
_DIVISOR = {"MGA": 100}
_LAST_DIGIT_MUST_BE_ZERO = frozenset({"BHD", "JOD", "KWD", "OMR", "TND"})
_LARGEST_CHARGE = 99_999_999

# all others are under way
_DISPUTE_STATUS: Mapping[str, RefundStatus] = {
    "won": "failed", "prevented": "failed", "warning_closed": "failed", "lost": "succeeded"
}  # fmt: skip
_EXPIRED_INTENTS = frozenset({"expired", "automatic"})
_REFUND_STATUS: Mapping[str, RefundStatus] = {"succeeded": "succeeded", "failed": "failed", "canceled": "failed"}
_SECRET_OR_PERSONAL = frozenset({
    "address", "billing_details", "client_secret", "collected_information", "custom_fields", "customer_details",
    "customer_email", "destination_details", "email", "evidence", "instructions_email", "last_payment_error",
    "next_action", "payment_method_details", "phone", "receipt_email", "receipt_url", "shipping", "shipping_details",
    "source", "url",
})  # fmt: skip
_OF_INTEREST = ("checkout.session.", "payment_intent.", "charge.", "refund.", "radar.early_fraud_warning.", "review.")
_SAID_BY_SESSION_EVENTS = "the checkout session's own events say it"
_IGNORED = {
    "payment_intent.payment_failed": "one try failed; the buyer can try again on the same page",
    "payment_intent.created": "no money yet",
    "payment_intent.requires_action": "no money yet",
    "payment_intent.amount_capturable_updated": "authorised, not captured",
    "payment_intent.partially_funded": "not fully paid yet",
    **dict.fromkeys(
        ("charge.succeeded", "charge.pending", "charge.failed", "charge.captured", "charge.expired", "charge.updated"),
        _SAID_BY_SESSION_EVENTS,
    ),
    **dict.fromkeys(("radar.early_fraud_warning.created", "review.opened", "review.closed"), "advice, not money"),
}


def to_stripe_amount(amount: int, currency: str) -> int:
    """Our minor units (ISO 4217) in Stripe's. Raises ProviderRefused for amounts that Stripe cannot take."""
    charge, rest = divmod(amount * _FACTOR.get(currency, 1), _DIVISOR.get(currency, 1))
    if rest or (currency in _LAST_DIGIT_MUST_BE_ZERO and charge % 10):
        raise ProviderRefused(f"Stripe cannot charge {amount} minor units of {currency}.", "Use a rounder price.")
    if charge > _LARGEST_CHARGE:
        raise ProviderRefused(f"Stripe cannot charge {amount} minor units of {currency}.", "Use a smaller price.")
    return charge


def from_stripe_amount(amount: int, currency: str) -> int:
    """Stripe's units in our minor units (ISO 4217), rounded down: money that is not whole is not counted."""
    return amount * _DIVISOR.get(currency, 1) // _FACTOR.get(currency, 1)


def verify_signature(header: str, body: bytes, secrets: Iterable[str], *, now: float | None = None) -> None:
    """Check ``Stripe-Signature`` over the raw body; several secrets during a roll-over. Raises SignatureInvalid."""
    pairs = [part.strip().partition("=") for part in header.split(",")]
    timestamp = next((value for key, _, value in pairs if key == "t"), "")
    given = [value.encode(errors="replace") for key, _, value in pairs if key == "v1"]
    if not (timestamp.isascii() and timestamp.isdigit() and len(timestamp) <= 15) or not given:
        raise SignatureInvalid("Stripe-Signature is missing or malformed.")
    message = timestamp.encode() + b"." + body
    valid = False
    for secret in secrets:
        expected = hmac.new(secret.encode(), message, hashlib.sha256).hexdigest().encode()
        for candidate in given:
            valid |= hmac.compare_digest(expected, candidate)
    if not valid:
        raise SignatureInvalid("Stripe-Signature does not match: check PGCHECKOUT_STRIPE_WEBHOOK_SECRETS.")
    if int(timestamp) < (time.time() if now is None else now) - TOLERANCE_SECONDS:
        raise SignatureInvalid("Stripe-Signature is too old: check this machine's clock.")


class Stripe(Provider):
    """The Stripe adapter. The canonical payment id is the PaymentIntent (the session, where nothing was due)."""

    name = "stripe"
    title = "Stripe"
    needs = ("stripe_secret_key", "stripe_webhook_secrets")

    def __init__(self, settings: Settings, client: httpx.AsyncClient) -> None:
        if settings.stripe_secret_key is None:
            raise ValueError("stripe_secret_key is needed")
        self._settings = settings
        self._client = client
        self._key = settings.stripe_secret_key.get_secret_value()
        self._webhook_secrets = [secret.get_secret_value() for secret in settings.stripe_webhook_secrets]
        self._live = "_live_" in self._key

    async def open_page(self, attempt: Attempt) -> Page:
        """``POST /v1/checkout/sessions``. The same attempt asks for the same again, so that its key can be replayed."""
        if attempt.reference is None or attempt.created_at is None or attempt.expires_at is None:
            raise ValueError("the attempt must be stored first")
        opened = attempt.created_at
        expires_at = min(max(attempt.expires_at, opened + SHORTEST_PAGE), opened + LONGEST_PAGE)
        form = {
            "mode": "payment",
            "client_reference_id": attempt.reference,
            f"metadata[{REFERENCE}]": attempt.reference,
            f"payment_intent_data[metadata][{REFERENCE}]": attempt.reference,
            "line_items[0][quantity]": "1",
            "line_items[0][price_data][currency]": attempt.currency.lower(),
            "line_items[0][price_data][unit_amount]": str(to_stripe_amount(attempt.amount, attempt.currency)),
            "line_items[0][price_data][product_data][name]": attempt.product_name,
            "success_url": return_url(self._settings, self.name, "page={CHECKOUT_SESSION_ID}"),
            "cancel_url": return_url(self._settings, self.name, f"reference={attempt.reference}"),
            "expires_at": str(int(expires_at.timestamp())),
        }
        if attempt.email:
            form["customer_email"] = attempt.email
        # name and address can change between two tries: then it is another request, under another key
        version = hashlib.sha256(f"{attempt.product_name}\n{attempt.email}".encode()).hexdigest()[:8]
        key = f"pgcheckout-{attempt.reference}-{version}"
        session = await self._call("POST", "/v1/checkout/sessions", form=form, key=key)
        with shaped(ProviderUnavailable, "Stripe's answer"):
            return Page(
                provider_session_id=text(session["id"]),
                url=text(session["url"], 5_000),
                expires_at=moment(session.get("expires_at")),
            )

    async def close_page(self, provider_session_id: str) -> bool:
        """``POST /v1/checkout/sessions/{id}/expire``; Stripe refuses when the session is no longer open."""
        try:
            await self._call("POST", f"/v1/checkout/sessions/{provider_session_id}/expire")
        except ProviderRefused:
            session = await self._call("GET", f"/v1/checkout/sessions/{provider_session_id}")
            if session.get("status") not in ("complete", "expired"):
                raise
            return bool(session["status"] == "expired")
        return True

    async def ask(self, attempt: Attempt, source: Source, *, returned: str = "") -> Outcome:
        """``GET /v1/checkout/sessions/{id}`` with its PaymentIntent and charge."""
        if attempt.provider_session_id is None:
            return Outcome(provider=self.name, status="pending", source=source, reference=attempt.reference)
        session = await self._call(
            "GET",
            f"/v1/checkout/sessions/{attempt.provider_session_id}",
            query={"expand[]": "payment_intent.latest_charge"},
        )
        with shaped(ProviderUnavailable, "Stripe's answer"):
            intent = session.get("payment_intent") or {}
            charge = intent.get("latest_charge") or {}
            refunds, disputes = bool(charge.get("amount_refunded")), bool(charge.get("disputed"))
            back = await self._taken_back(text(intent["id"]), refunds=refunds, disputes=disputes) if intent else ()
            status = _session_status(session, intent)
            return self._session_outcome(session, source, status, moment(charge.get("created")), refunds=back)

    def read_return(self, query: str) -> Named:
        """``page`` on success (Stripe fills it in), ``reference`` from the back button."""
        values = query_values(query)
        return Named(provider_session_id=values.get("page"), reference=values.get("reference"))

    async def refund(self, attempt: Attempt, order: RefundOrder) -> Refund:
        """``POST /v1/refunds``; Stripe keeps the idempotency key for at least a day."""
        if attempt.provider_payment_id is None:
            raise ValueError("the attempt must be paid")
        form = {
            "payment_intent": attempt.provider_payment_id,
            "amount": str(to_stripe_amount(order.amount, attempt.currency)),
            f"metadata[{REFERENCE}]": attempt.reference or "",
        }
        said = await self._call("POST", "/v1/refunds", form=form, key=order.key)
        with shaped(ProviderUnavailable, "Stripe's answer"):
            return replace(_refund(said, "refund", _REFUND_STATUS), reason=order.reason)

    async def read_event(self, headers: Mapping[str, str], body: bytes) -> Event:
        """Verify ``Stripe-Signature`` and read the envelope."""
        verify_signature(headers.get("stripe-signature", ""), body, self._webhook_secrets)
        with shaped(InvalidRequest, "The event"):
            event = storable_json(body, _SECRET_OR_PERSONAL)
            return Event(id=text(event["id"]), type=text(event["type"]), payload=event)

    async def interpret(self, event: Event) -> Notification:
        """What the event says, in our words; refunds and disputes are asked about again."""
        with shaped(InvalidRequest, "The event"):
            subject, at = event.payload["data"]["object"], moment(event.payload["created"])
            if not event.type.startswith(_OF_INTEREST):
                return Notification(event=event, ignored="not an event that this adapter knows")
            if event.payload["livemode"] is not self._live:
                mode = "live" if self._live else "test"
                wrong = WrongMode(
                    f"This installation uses a {mode} key; the event is of the other mode.",
                    "Point each mode's webhook endpoint at its own installation.",
                )
                return Notification(event=event, refused=wrong)
            return await self._read(event, subject, at)

    async def _read(self, event: Event, subject: dict[str, Any], at: datetime | None) -> Notification:
        kind = event.type
        if kind in _IGNORED:
            return Notification(event=event, ignored=_IGNORED[kind])
        if kind.startswith("checkout.session."):
            return self._read_session_event(event, subject, at)
        if kind in ("payment_intent.succeeded", "payment_intent.processing", "payment_intent.canceled"):
            return self._read_intent_event(event, subject, at)
        if kind == "charge.refunded" or kind.startswith(("refund.", "charge.refund.", "charge.dispute.")):
            return await self._read_taken_back_event(event, subject, at)
        return Notification(event=event, ignored="not an event that this adapter knows")

    def _read_session_event(self, event: Event, session: dict[str, Any], at: datetime | None) -> Notification:
        if _reference(session) is None:
            return Notification(event=event, ignored="a checkout session that pgcheckout did not open")
        failed = event.type == "checkout.session.async_payment_failed"
        status: Status = "failed" if failed else _session_status(session)
        return Notification(event=event, outcome=self._session_outcome(session, "webhook", status, at))

    def _read_intent_event(self, event: Event, intent: dict[str, Any], at: datetime | None) -> Notification:
        if _reference(intent) is None:
            return Notification(event=event, ignored="a payment that pgcheckout did not ask for")
        if intent.get("presentment_details"):
            # Adaptive Pricing: only the checkout session states the amount in the currency that we asked for
            return Notification(event=event, ignored=_SAID_BY_SESSION_EVENTS)
        currency = text(intent["currency"]).upper()
        outcome = self._outcome(
            intent, "webhook", _intent_status(intent), at,
            provider_payment_id=text(intent["id"]),
            amount=_amount(intent["amount_received"], currency) if intent["status"] == "succeeded" else None,
            currency=currency,
        )  # fmt: skip
        return Notification(event=event, outcome=outcome)

    async def _read_taken_back_event(self, event: Event, subject: dict[str, Any], at: datetime | None) -> Notification:
        payment = _id(subject["payment_intent"])
        disputes = event.type.startswith("charge.dispute.")
        refunds = await self._taken_back(payment, refunds=not disputes, disputes=disputes) if payment else ()
        if not refunds:
            return Notification(event=event, ignored="nothing of ours was taken back")
        # refunds and disputes have metadata of their own: the payment says whose it is
        with shaped(ProviderUnavailable, "Stripe's answer"):
            intent = await self._call("GET", f"/v1/payment_intents/{payment}")
            outcome = self._outcome(intent, "webhook", None, at, provider_payment_id=payment, refunds=refunds)
        # without our reference it can still be ours: paid before pgcheckout opened the pages
        return Notification(event=event, outcome=outcome, ours=outcome.reference is not None)

    def _session_outcome(
        self, session: dict[str, Any], source: Source, status: Status, at: datetime | None, **taken_back: Any
    ) -> Outcome:
        currency = text(session["currency"]).upper()
        # where nothing was due there is no PaymentIntent
        instead = session["id"] if status == "completed" else None
        return self._outcome(
            session, source, status, at,
            provider_session_id=text(session["id"]),
            provider_payment_id=_id(session.get("payment_intent")) or instead,
            amount=_amount(session["amount_total"], currency),
            currency=currency,
            **taken_back,
        )  # fmt: skip

    def _outcome(
        self, subject: dict[str, Any], source: Source, status: Status | None, at: datetime | None, **said: Any
    ) -> Outcome:
        return Outcome(
            provider=self.name,
            status=status,
            source=source,
            reference=_reference(subject),
            paid_at=at,
            provider_customer_id=_id(subject.get("customer")),
            **said,
        )

    async def _taken_back(self, payment_intent: str, *, refunds: bool, disputes: bool) -> tuple[Refund, ...]:
        """All refunds, all disputes, or both of a payment as they are now: events come in any order."""
        with shaped(ProviderUnavailable, "Stripe's answer"):
            given = await self._list("/v1/refunds", payment_intent) if refunds else []
            disputed = await self._list("/v1/disputes", payment_intent) if disputes else []
            return (
                *(_refund(said, "refund", _REFUND_STATUS) for said in given),
                *(_refund(said, "dispute", _DISPUTE_STATUS) for said in disputed),
            )

    async def _list(self, path: str, payment_intent: str) -> list[dict[str, Any]]:
        query = {"payment_intent": payment_intent, "limit": "100"}
        found: list[dict[str, Any]] = []
        while True:
            page = await self._call("GET", path, query=query)
            found += page["data"]
            if not page["has_more"]:
                return found
            query["starting_after"] = found[-1]["id"]

    async def _call(
        self,
        method: str,
        path: str,
        *,
        form: Mapping[str, str] | None = None,
        query: Mapping[str, str] | None = None,
        key: str | None = None,
    ) -> dict[str, Any]:
        headers = {"Authorization": f"Bearer {self._key}", "Stripe-Version": API_VERSION}
        if key:
            headers["Idempotency-Key"] = key
        url = str(self._settings.stripe_api_url).rstrip("/") + path
        request = self._client.build_request(method, url, data=form, params=query, headers=headers)
        response = await send(self._client, request, provider="Stripe")
        # a server error under an idempotency key is stored: the key would bring it back for a day
        if is_temporary(response) and not (key and response.is_server_error):
            raise ProviderUnavailable(f"Stripe answered HTTP {response.status_code}.", "Try again later.")
        if not response.is_success:
            raise _refusal(response)
        with shaped(ProviderUnavailable, "Stripe's answer"):
            answer = response.json()
            if not isinstance(answer, dict):
                raise TypeError(f"a {type(answer).__name__}")
            return answer


def _refusal(response: httpx.Response) -> ProviderRefused:
    request_id = response.headers.get("request-id", "unknown")
    if response.status_code in (401, 403):
        return ProviderRefused(
            f"Stripe does not accept the API key (HTTP {response.status_code}, request {request_id}).",
            "Check PGCHECKOUT_STRIPE_SECRET_KEY.",
        )
    try:
        error = response.json()["error"]
        # not its message: that can repeat what the buyer typed
        said = f"{error.get('type')} {error.get('code') or ''} {error.get('param') or ''}"
    except MALFORMED:
        said = "no explanation"
    return ProviderRefused(
        f"Stripe refused (HTTP {response.status_code}): {said.strip()}", f"Stripe request {request_id}."
    )


def _session_status(session: dict[str, Any], intent: Mapping[str, Any] = {}) -> Status:
    match session["status"], session["payment_status"]:
        case "complete", "paid" | "no_payment_required":
            return "completed"
        case "complete", _:
            # a delayed method; once it has failed, only the PaymentIntent shows it
            failed = intent.get("status") in ("requires_payment_method", "canceled")
            return "failed" if failed else "processing"
        case "expired", _:
            return "expired"
    return "pending"


def _intent_status(intent: dict[str, Any]) -> Status:
    match intent["status"]:
        case "succeeded":
            return "completed"
        case "processing" | "requires_capture":
            return "processing"
        case "canceled":
            return "expired" if intent.get("cancellation_reason") in _EXPIRED_INTENTS else "cancelled"
    return "pending"


def _reference(subject: dict[str, Any]) -> str | None:
    return _id((subject.get("metadata") or {}).get(REFERENCE))


def _id(value: Any) -> str | None:
    """Stripe gives an id, or the object itself where it was expanded."""
    identifier = value["id"] if isinstance(value, dict) else value
    return text(identifier) if identifier else None


def _refund(said: Mapping[str, Any], kind: RefundKind, statuses: Mapping[str, RefundStatus]) -> Refund:
    return Refund(
        provider_refund_id=text(said["id"]),
        amount=_amount(said["amount"], text(said["currency"]).upper()),
        status=statuses.get(said["status"], "pending"),
        kind=kind,
        reason=said.get("reason"),
    )


def _amount(value: Any, currency: str) -> int:
    return from_stripe_amount(whole(value), currency)
