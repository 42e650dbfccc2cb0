"""PayPal (Orders v2, PayPal's own page), over PayPal's REST API.

Sources: developer.paypal.com/docs/api (orders v2, payments v2, customer-disputes v1),
developer.paypal.com/api/rest/webhooks/event-names and developer.paypal.com/api/rest/reference/currency-codes.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from urllib.parse import urlsplit

import httpx

from bridge.errors import InvalidRequest, ProviderRefused, ProviderUnavailable
from bridge.money import exponent
from bridge.providers.base import Provider, query_values, return_url
from bridge.providers.paypal_client import PayPalClient, Refusal, code
from bridge.providers.paypal_signature import PayPalSignatures
from bridge.providers.shapes import shaped, storable_json, text, whole
from bridge.settings import Settings
from bridge.values import (
    Attempt,
    Event,
    Named,
    Notification,
    Outcome,
    Page,
    Refund,
    RefundOrder,
    RefundStatus,
    Source,
    Status,
)

__all__ = ["PayPal", "from_paypal_amount", "to_paypal_amount"]

LONGEST_PAGE = timedelta(hours=3)  # a buyer must reach PayPal within 3 hours

_WHOLE_ONLY = frozenset({"HUF", "JPY", "TWD"})
_LONGEST_AMOUNT = 32
# what our side's ids look like, and PayPal's (orders, captures, refunds, disputes)
_REFERENCE, _ID = re.compile("[0-9a-f]{32}"), re.compile("[A-Za-z0-9-]{1,64}")

_ORDER_STATUS: Mapping[str, Status] = {
    "CREATED": "pending", "SAVED": "pending", "PAYER_ACTION_REQUIRED": "pending", "VOIDED": "cancelled"
}  # fmt: skip
_CAPTURE_STATUS: Mapping[str, Status] = {
    "COMPLETED": "completed", "PARTIALLY_REFUNDED": "completed", "REFUNDED": "completed",
    "PENDING": "processing", "DECLINED": "failed", "FAILED": "failed",
}  # fmt: skip
_REFUND_STATUS: Mapping[str, RefundStatus] = {
    "COMPLETED": "succeeded", "PENDING": "pending", "FAILED": "failed", "CANCELLED": "failed"
}  # fmt: skip
# all others are under way, or for a person to judge
_DISPUTE_OUTCOME: Mapping[str, RefundStatus] = {
    "RESOLVED_BUYER_FAVOUR": "succeeded", "RESOLVED_SELLER_FAVOUR": "failed", "CANCELED_BY_BUYER": "failed"
}  # fmt: skip
_BUYER_CAN_TRY_AGAIN = frozenset(
    {"ORDER_NOT_APPROVED", "PAYER_ACTION_REQUIRED", "INSTRUMENT_DECLINED", "REDIRECT_PAYER_FOR_ALTERNATE_FUNDING"}
)
_CAPTURE_NEVER = frozenset({
    "PAYER_CANNOT_PAY", "PAYER_ACCOUNT_RESTRICTED", "PAYER_ACCOUNT_LOCKED_OR_CLOSED", "TRANSACTION_REFUSED",
    "COMPLIANCE_VIOLATION", "PAYEE_BLOCKED_TRANSACTION", "TRANSACTION_BLOCKED_BY_PAYEE",
    "MAX_NUMBER_OF_PAYMENT_ATTEMPTS_EXCEEDED", "TRANSACTION_LIMIT_EXCEEDED", "DUPLICATE_INVOICE_ID",
    "DECLINED_DUE_TO_RELATED_TXN",
})  # fmt: skip
_REFUND_LATER = frozenset({"PENDING_CAPTURE", "REFUND_FAILED_INSUFFICIENT_FUNDS"})
_SECRET_OR_PERSONAL = frozenset({
    "address", "buyer", "communication_details", "email_address", "evidences", "messages", "name", "note",
    "note_to_payer", "offer", "payee", "payer", "payment_source", "phone", "seller", "shipping",
})  # fmt: skip

_NOT_OURS = "a payment that pgcheckout did not ask for"
_ORDER_EVENTS = ("CHECKOUT.ORDER.", "CHECKOUT.PAYMENT-APPROVAL.")
_REFUND_EVENTS = ("PAYMENT.CAPTURE.REFUNDED", "PAYMENT.CAPTURE.REVERSED", "PAYMENT.REFUND.")


def to_paypal_amount(amount: int, currency: str) -> dict[str, str]:
    """Our minor units (ISO 4217) as PayPal's money. Raises ProviderRefused for amounts that PayPal cannot take."""
    value = Decimal(amount).scaleb(-exponent(currency))
    if currency in _WHOLE_ONLY:
        if value != value.to_integral_value():
            raise ProviderRefused(
                f"PayPal takes no fractions of {currency}: {amount} minor units.", "Use a price in whole units."
            )
        value = value.to_integral_value()
    written = f"{value:f}"
    if len(written) > _LONGEST_AMOUNT:
        raise ProviderRefused(f"PayPal cannot charge {amount} minor units of {currency}.", "Use a smaller price.")
    return {"currency_code": currency, "value": written}


def from_paypal_amount(money: Any) -> tuple[int, str]:
    """PayPal's money as minor units (ISO 4217) and currency. Raises ValueError or TypeError for what is no amount."""
    currency, written = text(money["currency_code"], 3).upper(), text(money["value"], _LONGEST_AMOUNT)
    if not re.fullmatch(r"[0-9]+(\.[0-9]{1,3})?", written, re.ASCII):
        raise ValueError("a value that is no amount")
    minor = Decimal(written).scaleb(exponent(currency))
    if minor != minor.to_integral_value():
        raise ValueError("an amount with parts of a minor unit")
    return whole(int(minor)), currency


class PayPal(Provider):
    """The PayPal adapter. The canonical payment id is the capture."""

    name = "paypal"
    title = "PayPal"
    needs = ("paypal_client_id", "paypal_client_secret", "paypal_webhook_id")
    currencies = frozenset({
        "AUD", "BRL", "CAD", "CHF", "CNY", "CZK", "DKK", "EUR", "GBP", "HKD", "HUF", "ILS", "JPY", "MXN", "MYR", "NOK",
        "NZD", "PHP", "PLN", "SEK", "SGD", "THB", "TWD", "USD",
    })  # fmt: skip

    def __init__(self, settings: Settings, client: httpx.AsyncClient) -> None:
        if not (settings.paypal_client_id and settings.paypal_client_secret and settings.paypal_webhook_id):
            raise ValueError("paypal_client_id, paypal_client_secret and paypal_webhook_id are needed")
        self._settings = settings
        login = httpx.BasicAuth(settings.paypal_client_id, settings.paypal_client_secret.get_secret_value())
        self._paypal = PayPalClient(settings, client, login)
        self._signatures = PayPalSignatures(settings, client, self._paypal, settings.paypal_webhook_id)

    async def open_page(self, attempt: Attempt) -> Page:
        """``POST /v2/checkout/orders``. The same attempt asks for the same again, so that its key gives the same order
        (PayPal keeps keys of orders for 6 hours, longer than a page lives)."""
        if attempt.reference is None or attempt.created_at is None or attempt.expires_at is None:
            raise ValueError("the attempt must be stored first")
        back = return_url(self._settings, self.name, f"reference={attempt.reference}")
        unit = {
            "reference_id": attempt.reference,
            "custom_id": attempt.reference,  # PayPal copies it to captures and refunds
            "description": attempt.product_name[:127],
            "amount": to_paypal_amount(attempt.amount, attempt.currency),
        }
        experience = {
            "return_url": back,
            "cancel_url": back,
            "user_action": "PAY_NOW",
            "shipping_preference": "NO_SHIPPING",
            "payment_method_preference": "IMMEDIATE_PAYMENT_REQUIRED",
        }
        source = {"paypal": {"experience_context": experience}}
        body = {"intent": "CAPTURE", "purchase_units": [unit], "payment_source": source}
        # what the page shows can change between two tries: then it is another request, under another key
        version = hashlib.sha256(json.dumps(body).encode()).hexdigest()[:8]
        order = await self._paypal.call("POST", "/v2/checkout/orders", body, key=f"{attempt.reference}-{version}")
        with shaped(ProviderUnavailable, "PayPal's answer"):
            links = {link["rel"]: link["href"] for link in order["links"]}
            return Page(
                provider_session_id=_id(order["id"]),
                url=text(links.get("payer-action") or links["approve"], 5_000),
                expires_at=min(attempt.expires_at, attempt.created_at + LONGEST_PAGE),
            )

    async def ask(self, attempt: Attempt, source: Source, *, returned: str = "") -> Outcome:
        """``GET /v2/checkout/orders/{id}``, and its capture when the buyer has approved it."""
        if attempt.provider_session_id is None:
            return Outcome(provider=self.name, status="pending", source=source, reference=attempt.reference)
        try:
            order = await self._order(attempt.provider_session_id, attempt.provider_payment_id)
            self._check_reference(order, attempt)
            # Money is taken only for a session that still waits for it. PayPal has no way to close a page, so two of
            # one session can both be approved; the core asks about one page after the other and reads the session
            # again before each: once a page has paid, or its payment is under way (processing), the next one finds
            # the session no longer pending, is not captured, and its approval lapses. Only two pages captured in the
            # same moment would both be paid; the database flags that as duplicate_payment.
            if order["status"] == "APPROVED" and attempt.status == "pending":
                order = await self._capture(attempt)
        except Refusal as refusal:
            return self._refused_outcome(refusal, attempt, source)
        with shaped(ProviderUnavailable, "PayPal's answer"):
            return self._order_outcome(order, source, attempt)

    def read_return(self, query: str) -> Named:
        """``reference`` is ours, ``token`` (the order) is added by PayPal."""
        values = query_values(query)
        reference, token = values.get("reference", ""), values.get("token", "")
        return Named(
            reference=reference if _REFERENCE.fullmatch(reference) else None,
            provider_session_id=token if _ID.fullmatch(token) else None,
        )

    async def refund(self, attempt: Attempt, order: RefundOrder) -> Refund:
        """``POST /v2/payments/captures/{id}/refund``; PayPal keeps the key of a refund for 45 days."""
        if attempt.provider_payment_id is None:
            raise ValueError("the attempt must be paid")
        body = {"amount": to_paypal_amount(order.amount, attempt.currency), "custom_id": attempt.reference}
        path = f"/v2/payments/captures/{attempt.provider_payment_id}/refund"
        try:
            said = await self._paypal.call("POST", path, body, key=order.key)
        except Refusal as refusal:
            if refusal.issue in _REFUND_LATER:
                raise ProviderUnavailable(refusal.message, f"Try again later. {refusal.hint}") from None
            raise
        with shaped(ProviderUnavailable, "PayPal's answer"):
            return Refund(
                provider_refund_id=_id(said["id"]),
                amount=order.amount,
                status=_REFUND_STATUS[said["status"]],
                reason=order.reason,
            )

    async def read_event(self, headers: Mapping[str, str], body: bytes) -> Event:
        """Verify PayPal's signature and read the envelope."""
        await self._signatures.verify(headers, body)
        with shaped(InvalidRequest, "The event"):
            event = storable_json(body, _SECRET_OR_PERSONAL)
            return Event(id=text(event["id"]), type=text(event["event_type"]), payload=event)

    async def interpret(self, event: Event) -> Notification:
        """What to ask about: the signature covers no more of a body than its checksum."""
        with shaped(InvalidRequest, "The event"):
            resource = event.payload["resource"]
            if not isinstance(resource, dict):
                raise TypeError(f"a {type(resource).__name__}")
            if event.type.startswith("CUSTOMER.DISPUTE."):
                return await self._read_dispute(event, _id(resource["dispute_id"]))
            if event.type.startswith(_REFUND_EVENTS):
                return await self._read_refund(event, resource)
            if event.type.startswith("PAYMENT.CAPTURE."):
                return _ask_about(event, resource.get("custom_id"), _order_id(resource))
            if event.type.startswith(_ORDER_EVENTS):
                unit = (resource.get("purchase_units") or [{}])[0]
                return _ask_about(event, unit.get("custom_id"), resource.get("order_id") or resource.get("id"))
        return Notification(event=event, ignored="not an event that this adapter knows")

    # orders

    async def _order(self, order_id: str, capture_id: str | None) -> dict[str, Any]:
        """An order. Of one that PayPal has forgotten, its capture still tells what was paid, though not its refunds."""
        try:
            return await self._paypal.call("GET", f"/v2/checkout/orders/{order_id}")
        except Refusal as refusal:
            capture = await self._captured(capture_id) if capture_id and refusal.status_code == 404 else {}
            with shaped(ProviderUnavailable, "PayPal's answer"):
                if _order_id(capture) != order_id:
                    raise
                paid = _CAPTURE_STATUS[capture["status"]] == "completed"
                shown = {**capture, "status": "COMPLETED"} if paid else capture
                unit = {"custom_id": capture.get("custom_id"), "payments": {"captures": [shown]}}
                return {"id": order_id, "status": "COMPLETED", "purchase_units": [unit]}

    async def _capture(self, attempt: Attempt) -> dict[str, Any]:
        """Take the money of an approved order; the return and the webhook may both ask for it, and it is taken once."""
        path = f"/v2/checkout/orders/{attempt.provider_session_id}"
        try:
            # a capture keeps its key, whoever asks for it
            order = await self._paypal.call(
                "POST", f"{path}/capture", {}, key=f"cap-{attempt.reference}", whole_answer=True
            )
        except Refusal as refusal:
            if refusal.issue == "ORDER_ALREADY_CAPTURED":
                return await self._paypal.call("GET", path)
            if refusal.issue == "ORDER_COMPLETION_IN_PROGRESS":
                raise ProviderUnavailable(refusal.message, f"Try again later. {refusal.hint}") from None
            raise
        self._check_reference(order, attempt)
        return order

    def _check_reference(self, order: dict[str, Any], attempt: Attempt) -> None:
        with shaped(ProviderUnavailable, "PayPal's answer"):
            if _unit_reference(order["purchase_units"][0]) != attempt.reference:
                raise ProviderRefused("PayPal's order is not the one that was opened for this attempt.")
            text(order["status"])

    def _refused_outcome(self, refusal: Refusal, attempt: Attempt, source: Source) -> Outcome:
        status: Status
        if refusal.status_code == 404:  # PayPal forgets orders that nobody approved
            status = _unpaid(attempt)
        elif refusal.issue in _BUYER_CAN_TRY_AGAIN:
            status = "pending"
        elif refusal.issue in _CAPTURE_NEVER:
            status = "failed"
        else:
            raise refusal
        return Outcome(
            provider=self.name,
            status=status,
            source=source,
            reference=attempt.reference,
            provider_session_id=attempt.provider_session_id,
            error_code=refusal.issue if status == "failed" else None,
            error_message="PayPal could not take the payment." if status == "failed" else None,
        )

    def _order_outcome(self, order: dict[str, Any], source: Source, attempt: Attempt | None = None) -> Outcome:
        unit = order["purchase_units"][0]
        payments = unit.get("payments") or {}
        captures = sorted(payments.get("captures") or (), key=_weight)
        payer = (order.get("payer") or {}).get("payer_id")
        outcome = Outcome(
            provider=self.name,
            status=None,
            source=source,
            reference=_unit_reference(unit),
            provider_session_id=_id(order["id"]),
            provider_customer_id=_id(payer) if payer else None,
        )
        if not captures or (order["status"] != "COMPLETED" and _CAPTURE_STATUS[captures[-1]["status"]] == "failed"):
            return replace(outcome, status=_uncaptured(order["status"], attempt))
        capture = captures[-1]  # of several, the one that brought money
        amount, currency = from_paypal_amount(capture["amount"])
        failed = _CAPTURE_STATUS[capture["status"]] == "failed"
        why = code((capture.get("status_details") or {}).get("reason")) or capture["status"]
        return replace(
            outcome,
            status=_CAPTURE_STATUS[capture["status"]],
            provider_payment_id=_id(capture["id"]),
            amount=amount,
            currency=currency,
            paid_at=_time(capture.get("create_time")),
            refunds=_given_back(payments.get("refunds") or (), capture),
            error_code=why if failed else None,
            error_message="PayPal declined the payment." if failed else None,
        )

    # refunds and disputes, which name a capture

    async def _read_refund(self, event: Event, resource: dict[str, Any]) -> Notification:
        """The refund itself is read again too: a reversal (PayPal took the money back) may be missing in the order."""
        if resource.get("custom_id") and not _REFERENCE.fullmatch(str(resource["custom_id"])):
            return Notification(event=event, ignored=_NOT_OURS)
        refund: dict[str, Any] | None = None
        capture_id = _id(resource["id"])
        if up := _link(resource, "up"):
            refund, capture_id = await self._paypal.call("GET", f"/v2/payments/refunds/{capture_id}"), up
        capture = await self._captured(capture_id)
        with shaped(ProviderUnavailable, "PayPal's answer"):
            if not _REFERENCE.fullmatch(str(capture.get("custom_id"))):
                return Notification(event=event, ignored=_NOT_OURS)
            order = await self._order(_id(_order_id(capture)), capture_id)
            known = order["purchase_units"][0]["payments"].setdefault("refunds", [])
            if refund and refund["id"] not in [listed["id"] for listed in known]:
                known.append(refund)
            return Notification(event=event, outcome=self._order_outcome(order, "webhook"))

    async def _captured(self, capture_id: str) -> dict[str, Any]:
        capture = await self._paypal.call("GET", f"/v2/payments/captures/{capture_id}")
        # without a reference it would be taken for somebody else's
        with shaped(ProviderUnavailable, "PayPal's answer"):
            if capture["id"] != capture_id:
                raise ValueError("another capture")
        return capture

    async def _read_dispute(self, event: Event, dispute_id: str) -> Notification:
        dispute = await self._paypal.call("GET", f"/v1/customer/disputes/{dispute_id}")
        with shaped(ProviderUnavailable, "PayPal's answer"):
            for transaction in dispute["disputed_transactions"]:
                capture_id = _id(transaction["seller_transaction_id"])
                try:
                    capture = await self._captured(capture_id)
                except Refusal as refusal:
                    if refusal.status_code != 404:
                        raise
                    continue  # another kind of payment
                if _REFERENCE.fullmatch(str(capture.get("custom_id"))):
                    outcome = Outcome(
                        provider=self.name,
                        status=None,
                        source="webhook",
                        reference=capture["custom_id"],
                        provider_payment_id=capture_id,
                        refunds=(_dispute(dispute, capture),),
                    )
                    return Notification(event=event, outcome=outcome)
        return Notification(event=event, ignored=_NOT_OURS)


def _ask_about(event: Event, custom_id: Any, order_id: Any) -> Notification:
    ours = isinstance(custom_id, str) and _REFERENCE.fullmatch(custom_id) is not None
    if custom_id and not ours:
        return Notification(event=event, ignored=_NOT_OURS)
    named = Named(reference=custom_id if ours else None, provider_session_id=_id(order_id) if order_id else None)
    if named == Named():
        raise ValueError("neither custom_id nor an order's id")
    return Notification(event=event, ask=named, ours=ours)


def _order_id(capture: Mapping[str, Any]) -> Any:
    return ((capture.get("supplementary_data") or {}).get("related_ids") or {}).get("order_id")


def _unit_reference(unit: Mapping[str, Any]) -> str | None:
    """The answer to a capture shows ``reference_id`` only; both were set to the same."""
    said = unit.get("custom_id") or unit.get("reference_id")
    return text(said) if said else None


def _unpaid(attempt: Attempt | None) -> Status:
    """PayPal tells nothing when a page's time is over."""
    over = attempt is not None and attempt.expires_at is not None and attempt.expires_at <= datetime.now(UTC)
    return "expired" if over else "pending"


def _uncaptured(order_status: str, attempt: Attempt | None) -> Status:
    if order_status == "APPROVED":  # and not captured, because nobody waits for the money any more
        return "pending" if attempt is None or attempt.status in ("pending", "processing") else "expired"
    status = _ORDER_STATUS[order_status]
    return _unpaid(attempt) if status == "pending" else status


def _weight(capture: Mapping[str, Any]) -> int:
    return ("failed", "processing", "completed").index(_CAPTURE_STATUS[capture["status"]])


def _given_back(listed: Any, capture: Mapping[str, Any]) -> tuple[Refund, ...]:
    """All refunds of a capture. What PayPal took back without listing it goes under the capture's own id."""
    refunds = tuple(_refund(said) for said in listed if _link(said, "up") in (None, capture["id"]))
    amount, _ = from_paypal_amount(capture["amount"])
    rest = amount - sum(refund.amount for refund in refunds if refund.status != "failed")
    if capture["status"] == "REFUNDED" and rest > 0:
        reversal = Refund(provider_refund_id=_id(capture["id"]), amount=rest, status="succeeded", reason="reversed")
        return (*refunds, reversal)
    return refunds


def _refund(said: Mapping[str, Any]) -> Refund:
    # reversals can be written with a sign
    money = {**said["amount"], "value": text(said["amount"]["value"]).removeprefix("-")}
    return Refund(
        provider_refund_id=_id(said["id"]), amount=from_paypal_amount(money)[0], status=_REFUND_STATUS[said["status"]]
    )


def _dispute(dispute: Mapping[str, Any], capture: Mapping[str, Any]) -> Refund:
    paid, currency = from_paypal_amount(capture["amount"])
    amount, of = from_paypal_amount(dispute["dispute_amount"])
    outcome = (dispute.get("dispute_outcome") or {}).get("outcome_code")
    resolved = dispute["status"] == "RESOLVED"
    return Refund(
        provider_refund_id=_id(dispute["dispute_id"]),
        amount=amount if of == currency else paid,
        status=_DISPUTE_OUTCOME.get(str(outcome), "pending") if resolved else "pending",
        kind="dispute",
        reason=code(dispute.get("reason")),
    )


def _link(resource: Mapping[str, Any], rel: str) -> str | None:
    """The id at the end of a link."""
    found = [text(link["href"], 2_000) for link in resource.get("links") or () if link.get("rel") == rel]
    return _id(urlsplit(found[0]).path.rsplit("/", 1)[-1]) if found else None


def _time(value: Any) -> datetime | None:
    if value is None:
        return None
    at = datetime.fromisoformat(text(value))
    return min(at if at.tzinfo else at.replace(tzinfo=UTC), datetime.now(UTC))


def _id(value: Any) -> str:
    """An id of PayPal's, which is safe in a path."""
    if not isinstance(value, str) or not _ID.fullmatch(value):
        raise ValueError("not an id of PayPal's")
    return value
