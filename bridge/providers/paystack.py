"""Paystack's hosted checkout page, over Paystack's HTTP API.

Sources: paystack.com/docs/api (transactions, refunds, disputes, errors), paystack.com/docs/payments/webhooks
(signature, events, addresses) and the OpenAPI description at github.com/PaystackOSS/openapi.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from itertools import count
from typing import Any
from urllib.parse import quote

import httpx
import stamina

from bridge.errors import InvalidRequest, ProviderRefused, ProviderUnavailable, SignatureInvalid, WrongMode
from bridge.money import exponent
from bridge.providers.base import Provider, query_values, return_url
from bridge.providers.http import is_temporary, send
from bridge.providers.shapes import MALFORMED, shaped, storable_json, text, whole
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

__all__ = ["Paystack", "from_paystack_amount", "to_paystack_amount", "verify_signature"]

log = logging.getLogger("pgcheckout")

_REFUNDS_PER_PAGE = 50  # the documented default, so that a shorter page is the last one whatever the server's limit
_OUR_REFERENCE = re.compile("[0-9a-f]{32}")
_ANSWER = "Paystack's answer"

# all others are under way (pending, processing, needs-attention)
_REFUND_STATUS: Mapping[str, RefundStatus] = {"processed": "succeeded", "failed": "failed"}
_NEEDS_ATTENTION = "needs attention: Paystack waits for the buyer's bank details (dashboard, Refunds)"
_DISPUTE_ACCEPTED = frozenset({"merchant-accepted", "auto-accepted"})

_NOT_FOUND_CODES = frozenset({"transaction_not_found", "not_found"})
_NOT_FOUND_MESSAGES = frozenset({"transaction reference not found", "transaction not found", "dispute not found"})
# the start of a documented message, in lower case, and the remedy; other messages could repeat what the buyer typed
_REMEDIES = {
    "currency not supported by merchant": "Ask Paystack to turn this currency on, or offer another one.",
    "transaction amount limit exceeded": "Use a smaller price.",
    "invalid amount": "Paystack has a smallest amount per currency: use a higher price.",
    "invalid email address": "Paystack does not take the buyer's e-mail address.",
    "insufficient balance": "Top up the Paystack balance, then refund again.",
    "transaction has been fully reversed": "Nothing is left to give back.",
    "cannot refund less than": "Refund a larger amount.",
}

# what tells one event from another; none of these is personal
_IDENTITY = ("id", "transaction_reference", "refund_reference", "amount", "status", "resolution", "refund_amount")
_SECRET_OR_PERSONAL = frozenset({
    "account_name", "account_number", "attachments", "authorization", "bin", "customer", "customer_note", "email",
    "evidence", "first_name", "history", "identification", "identifier", "initiated_by", "ip_address", "last4",
    "last_name", "log", "merchant_note", "messages", "metadata", "note", "notes", "phone", "pos_transaction_data",
    "receipt_number", "refunded_by", "split", "subaccount",
})  # fmt: skip


def to_paystack_amount(amount: int, currency: str) -> int:
    """Our minor units (ISO 4217) in Paystack's subunits, a hundredth of the major unit in every currency (XOF too).

    Raises ProviderRefused for what is not whole in them.
    """
    subunits, rest = divmod(amount * 100, _minor_units(currency))
    if rest:
        raise ProviderRefused(f"Paystack cannot charge {amount} minor units of {currency}.", "Use a rounder price.")
    return subunits


def _minor_units(currency: str) -> int:
    return int(10 ** exponent(currency))


def from_paystack_amount(amount: int, currency: str) -> int:
    """Paystack's subunits in our minor units (ISO 4217), rounded down: money that is not whole is not counted."""
    return amount * _minor_units(currency) // 100


def verify_signature(header: str, body: bytes, secrets: Iterable[str]) -> None:
    """Check ``x-paystack-signature``: lower-case hex HMAC-SHA512 of the raw body under a secret API key. There is no
    time in it; several keys during a roll-over. Raises SignatureInvalid."""
    given = header.encode(errors="replace")
    valid = False
    for secret in secrets:
        expected = hmac.new(secret.encode(), body, hashlib.sha512).hexdigest().encode()
        valid |= hmac.compare_digest(expected, given)
    if not valid:
        raise SignatureInvalid("x-paystack-signature does not match: check PGCHECKOUT_PAYSTACK_SECRET_KEYS.")


class Paystack(Provider):
    """The Paystack adapter. Its name for a page is our reference; the canonical payment id is the transaction's id."""

    name = "paystack"
    title = "Paystack"
    needs = ("paystack_secret_keys",)
    currencies = frozenset({"GHS", "KES", "NGN", "USD", "XOF", "ZAR"})

    def __init__(self, settings: Settings, client: httpx.AsyncClient) -> None:
        if not settings.paystack_secret_keys:
            raise ValueError("paystack_secret_keys is needed")
        self._settings = settings
        self._client = client
        self._keys = [key.get_secret_value() for key in settings.paystack_secret_keys]
        # a key of an unknown form counts as live: then play money proves nothing
        self._mode = "test" if self._keys[0].startswith("sk_test_") else "live"

    @property
    def source_addresses(self) -> Collection[str]:
        """The same for test and live; ``PGCHECKOUT_PAYSTACK_SOURCE_IPS``."""
        return tuple(str(network) for network in self._settings.paystack_source_ips)

    async def open_page(self, attempt: Attempt) -> Page:
        """``POST /transaction/initialize``. Paystack takes a reference once, for ever."""
        if attempt.reference is None:
            raise ValueError("the attempt must be stored first")
        body = {
            "reference": attempt.reference,
            "amount": to_paystack_amount(attempt.amount, attempt.currency),
            "currency": attempt.currency,
            "email": attempt.email or self._stand_in(attempt.reference),
            # without a query of ours: Paystack appends ?trxref=…&reference=…
            "callback_url": self._settings.url(f"/return/{self.name}"),
            "metadata": {"cancel_action": return_url(self._settings, self.name, f"reference={attempt.reference}")},
        }
        # Sent once. When the answer is lost, the page may exist, and its address cannot be fetched again: a repeat
        # under the same reference would be refused as a duplicate and end the attempt, although the request may never
        # have arrived. So the buyer is asked to try again. That call gets the page if none exists, and is refused
        # otherwise, which makes the next one open a page under a new reference. Nobody holds the address of the lost
        # page, so nobody can pay on it.
        opened = await self._post("/transaction/initialize", body)
        with shaped(ProviderUnavailable, _ANSWER):
            if opened["reference"] != attempt.reference:
                raise ValueError("another reference")
            return Page(provider_session_id=attempt.reference, url=text(opened["authorization_url"], 4_000))

    async def ask(self, attempt: Attempt, source: Source, *, returned: str = "") -> Outcome:
        """``GET /transaction/verify/{reference}``, and what was given back of it. Raises WrongMode."""
        reference = attempt.provider_session_id or attempt.reference
        untouched = Outcome(provider=self.name, status="pending", source=source, reference=attempt.reference)
        if reference is None:
            return untouched
        said = await self._get(f"/transaction/verify/{quote(reference, safe='')}")
        if said is None:  # no page was opened (yet)
            return untouched
        with shaped(ProviderUnavailable, _ANSWER):
            if said["reference"] != reference:
                raise ValueError("another reference")
            if said["domain"] != self._mode:
                raise self._wrong_mode()
            outcome = _outcome(said, source, over=_is_over(attempt))
            if outcome.status != "completed":
                return outcome
            refunds = await self._taken_back(str(outcome.provider_payment_id), said, int(outcome.amount or 0))
            # a reversal that no refund or dispute explains: a person must look
            unexplained = said["status"] == "reversed" and not any(refund.status != "failed" for refund in refunds)
            return replace(outcome, refunds=refunds, disputed=unexplained)

    def read_return(self, query: str) -> Named:
        """Paystack names the reference twice, ``trxref`` and ``reference``; the cancel button brings our query."""
        values = query_values(query)
        return Named(reference=values.get("reference") or values.get("trxref"))

    async def read_event(self, headers: Mapping[str, str], body: bytes) -> Event:
        """Verify ``x-paystack-signature`` and read the envelope."""
        verify_signature(headers.get("x-paystack-signature", ""), body, self._keys)
        with shaped(InvalidRequest, "The event"):
            event = storable_json(body, _SECRET_OR_PERSONAL)
            kind = text(event["event"])
            return Event(id=_event_id(kind, event.get("data"), body), type=kind, payload=event)

    async def interpret(self, event: Event) -> Notification:
        """Which transaction it is about; Paystack is then asked, so order and repetition do not matter."""
        with shaped(InvalidRequest, "The event"):
            if event.type == "charge.success":
                reference = event.payload["data"]["reference"]
            elif event.type.startswith("refund."):
                reference = event.payload["data"]["transaction_reference"]
            elif event.type.startswith("charge.dispute."):
                reference = event.payload["data"]["transaction"]["reference"]
            else:
                return Notification(event=event, ignored="not an event that this adapter needs")
            if event.payload["data"].get("domain") not in (None, self._mode):
                return Notification(event=event, refused=self._wrong_mode())
            named = Named(reference=text(reference))
        ours = _OUR_REFERENCE.fullmatch(reference) is not None
        if ours and event.type == "refund.needs-attention":
            log.warning("a refund of the Paystack transaction %s %s", reference, _NEEDS_ATTENTION)
        return Notification(event=event, ask=named, ours=ours)

    async def refund(self, attempt: Attempt, order: RefundOrder) -> Refund:
        """``POST /refund``. Paystack has no idempotency keys: the order's key is the refund's note, and the refunds of
        the payment are read before and, when the answer is lost, after.

        What stays: an order given again while Paystack is still working on the lost first one does not find it and is
        sent twice. Paystack's limit, the amount of the payment, holds even then, and both refunds are reported.
        """
        payment = attempt.provider_payment_id
        if payment is None:
            raise ValueError("the attempt must be paid")
        body = {
            "transaction": payment,
            "amount": to_paystack_amount(order.amount, attempt.currency),
            "currency": attempt.currency,
            "merchant_note": order.key,
        }
        given = await self._ordered(payment, order)
        try:
            given = given or await self._post("/refund", body)
        except ProviderUnavailable:
            given = await self._ordered(payment, order)
            if given is None:  # giving the same order again looks at the list first
                raise
        with shaped(ProviderUnavailable, _ANSWER):
            return _refund(given, attempt.currency, order.amount)

    def _stand_in(self, reference: str) -> str:
        """An address for a buyer who has none here; Paystack demands one that looks deliverable."""
        host = self._settings.public_url.host or ""
        # not below an IP address or a name without a dot; example.com takes no mail (RFC 2606)
        return f"{reference}@{host if '.' in host and not host[-1].isdigit() else 'example.com'}"

    def _wrong_mode(self) -> WrongMode:
        return WrongMode(
            f"This installation uses a {self._mode} key; the transaction is of the other mode.",
            "Give each mode its own installation, keys and webhook URL.",
        )

    async def _ordered(self, payment: str, order: RefundOrder) -> dict[str, Any] | None:
        """The refund that an order has led to already, whatever became of it."""
        with shaped(ProviderUnavailable, _ANSWER):
            given = await self._refunds(payment)
            return next((refund for refund in given if refund.get("merchant_note") == order.key), None)

    async def _taken_back(self, payment: str, paid: dict[str, Any], most: int) -> tuple[Refund, ...]:
        """All refunds and disputes as they are now, each money once: a refund that a dispute has led to names it, and
        is left out unless the dispute was won. Where Paystack names none, the database flags what exceeds the payment.
        """
        currency = text(paid["currency"]).upper()
        disputed = [_dispute(said, currency, most) for said in await self._disputes(payment)]
        counted = {dispute.provider_refund_id for dispute in disputed if dispute.status != "failed"}
        given = [
            _refund(said, currency, most)
            for said in await self._refunds(payment)
            if not said.get("dispute") or _dispute_id(said["dispute"]) not in counted
        ]
        return (*given, *disputed)

    async def _refunds(self, payment: str) -> list[dict[str, Any]]:
        """``GET /refund?transaction=``, every page; only what really belongs to the payment."""
        found: dict[str, dict[str, Any]] = {}
        for number in count(1):
            query = {"transaction": payment, "perPage": str(_REFUNDS_PER_PAGE), "page": str(number)}
            page = {_id(refund): refund for refund in await self._get("/refund", query) or []}
            new = page.keys() - found.keys()
            found |= page
            if len(page) < _REFUNDS_PER_PAGE or not new:
                break
        return [refund for refund in found.values() if _id(refund["transaction"]) == payment]

    async def _disputes(self, payment: str) -> list[dict[str, Any]]:
        """``GET /dispute/transaction/{id}``; documented to answer one dispute, not a list of them."""
        said = await self._get(f"/dispute/transaction/{quote(payment, safe='')}")
        return said if isinstance(said, list) else [said] if said else []

    async def _get(self, path: str, query: Mapping[str, str] | None = None) -> Any:
        """What Paystack says; None where it knows no such thing."""
        request = self._request("GET", path, params=query)
        response = await send(self._client, request, provider=self.title)
        return None if _is_not_found(response) else _data(response)

    async def _post(self, path: str, body: Mapping[str, Any]) -> Any:
        """Send once what has no idempotency key; again only where no connection came about."""
        request = self._request("POST", path, json=body)
        again = (httpx.ConnectError, httpx.ConnectTimeout)
        try:
            async for attempt in stamina.retry_context(on=again, attempts=3, timeout=20.0, wait_initial=0.25):
                with attempt:
                    return _data(await self._client.send(request))
        except httpx.RequestError as error:
            lost = f"Paystack cannot be reached ({type(error).__name__})."
            raise ProviderUnavailable(lost, "Try again later.") from None
        raise AssertionError("unreachable")

    def _request(self, method: str, path: str, **content: Any) -> httpx.Request:
        url = str(self._settings.paystack_api_url).rstrip("/") + path
        return self._client.build_request(method, url, headers={"Authorization": f"Bearer {self._keys[0]}"}, **content)


def _data(response: httpx.Response) -> Any:
    """The ``data`` of an answer. ``status: true`` means that the call worked, not that anything was paid."""
    if is_temporary(response):
        raise ProviderUnavailable(f"Paystack answered HTTP {response.status_code}.", "Try again later.")
    if not response.is_success:
        raise _refusal(response)
    with shaped(ProviderUnavailable, _ANSWER):
        answer = response.json()
        if answer["status"] is False:
            raise _refusal(response)
        return {} if answer["data"] is None else answer["data"]


def _refusal(response: httpx.Response) -> ProviderRefused:
    if response.status_code in (401, 403):
        return ProviderRefused(
            f"Paystack does not accept the API key (HTTP {response.status_code}).",
            "Check PGCHECKOUT_PAYSTACK_SECRET_KEYS.",
        )
    code, message = _explanation(response)
    if code == "duplicate_reference" or message.startswith("duplicate transaction reference"):
        return ProviderRefused("Paystack has opened this page before, and its address is lost.", "Start again.")
    known = next((start for start in _REMEDIES if message.startswith(start)), "")
    said = " ".join(filter(None, (code, known))) or "no explanation"
    return ProviderRefused(
        f"Paystack refused (HTTP {response.status_code}): {said}.", _REMEDIES.get(known, "See Paystack's dashboard.")
    )


def _explanation(response: httpx.Response) -> tuple[str, str]:
    """The code, if it looks like one, and the message in lower case. Older answers have no code."""
    try:
        said = response.json()
        code, message = said.get("code"), str(said.get("message"))
    except MALFORMED:
        return "", ""
    looks_right = isinstance(code, str) and re.fullmatch("[a-z_]{1,64}", code)
    return str(code) if looks_right else "", message.lower().rstrip(".")


def _is_not_found(response: httpx.Response) -> bool:
    if response.status_code not in (400, 404):
        return False
    code, message = _explanation(response)
    return code in _NOT_FOUND_CODES or message in _NOT_FOUND_MESSAGES


def _outcome(said: dict[str, Any], source: Source, *, over: bool) -> Outcome:
    currency = text(said["currency"]).upper()
    charged = _subunits(said["amount"])
    # where the buyer bears the fees, more is charged than we asked for; never count more than was charged
    asked = said.get("requested_amount")
    counted = charged if asked is None else min(_subunits(asked), charged)
    failed = said["status"] == "failed"
    return Outcome(
        provider=Paystack.name,
        status=_status(said["status"], over=over),
        source=source,
        reference=text(said["reference"]),
        provider_session_id=text(said["reference"]),
        provider_payment_id=_id(said),
        amount=from_paystack_amount(counted, currency),
        currency=currency,
        paid_at=_moment(said.get("paid_at") or said.get("paidAt")),
        provider_customer_id=_customer(said.get("customer")),
        error_code="payment_failed" if failed else None,
        error_message=str(said.get("gateway_response") or "")[:255] or None if failed else None,
    )


def _status(said: str, *, over: bool) -> Status:
    """What a transaction's status means; ``over`` when our own time for the page has passed, for Paystack sets none.

    ``failed`` is one try: the buyer can try again on the same page, so it ends nothing before that. ``abandoned`` is
    also what a page is that nobody has touched yet.
    """
    match said:
        case "success" | "reversed":
            return "completed"
        case "pending" | "processing" | "queued":
            return "processing"
        case "failed" if over:
            return "failed"
        case "abandoned" if over:
            return "expired"
    return "pending"


def _is_over(attempt: Attempt) -> bool:
    return attempt.expires_at is not None and attempt.expires_at <= datetime.now(UTC)


def _refund(said: Mapping[str, Any], currency: str, most: int) -> Refund:
    # never more than what was counted as paid: a full refund includes the fees that the buyer bore
    amount = min(from_paystack_amount(_subunits(said["amount"]), currency), most)
    return Refund(
        provider_refund_id=_id(said),
        amount=amount,
        status=_REFUND_STATUS.get(said["status"], "pending"),
        reason=_NEEDS_ATTENTION if said["status"] == "needs-attention" else None,
    )


def _dispute(said: Mapping[str, Any], currency: str, most: int) -> Refund:
    wanted = said.get("refund_amount")
    return Refund(
        provider_refund_id=_dispute_id(said),
        amount=most if wanted is None else min(from_paystack_amount(_subunits(wanted), currency), most),
        status=_dispute_status(said),
        kind="dispute",
        reason=str(said.get("category") or "")[:255] or None,
    )


def _dispute_status(said: Mapping[str, Any]) -> RefundStatus:
    """A dispute is decided when it is resolved: what the merchant declined, the bank may still decide otherwise."""
    if said["status"] != "resolved":
        return "pending"
    if said.get("resolution") == "declined":
        return "failed"
    accepted = said.get("resolution") in _DISPUTE_ACCEPTED and said.get("refund_amount") is not None
    return "succeeded" if accepted else "pending"


def _dispute_id(said: Any) -> str:
    """Refunds and disputes are counted separately at Paystack: without the prefix, one could pass for the other."""
    return f"dispute-{_id(said)}"


def _event_id(kind: str, data: Any, body: bytes) -> str:
    """Paystack gives events no id: what tells one from another stands in for it.

    Two equal refunds of one payment can look the same until Paystack gives them references; nothing is lost by that,
    because any event about a payment brings all its refunds.
    """
    values = [data.get(name) for name in _IDENTITY] if isinstance(data, dict) else []
    known = [str(value) for value in values if isinstance(value, str | int)]
    identity = ":".join([kind, *known]) if known else f"{kind}:{hashlib.sha256(body).hexdigest()}"
    return identity if len(identity) <= 255 else hashlib.sha256(identity.encode()).hexdigest()


def _id(said: Any) -> str:
    """An id, given as such or within its object; 64 bits, so as text."""
    value = said["id"] if isinstance(said, dict) else said
    if isinstance(value, str):
        return text(value)
    if type(value) is not int or not 0 < value < 2**64:
        raise TypeError(f"{type(value).__name__} where an id belongs")
    return str(value)


def _customer(said: Any) -> str | None:
    code = said.get("customer_code") if isinstance(said, dict) else None
    return text(code) if code else None


def _subunits(value: Any) -> int:
    """An amount, as a number or as its digits."""
    digits = isinstance(value, str) and value.isascii() and value.isdigit()
    return whole(int(value) if digits else value)


def _moment(said: Any) -> datetime | None:
    """A time in ISO 8601, UTC where it names no zone; never in the future, whatever the clocks say."""
    if said is None:
        return None
    at = datetime.fromisoformat(text(said))
    at = at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)
    if at.year < 1970:
        raise ValueError("a time before 1970")
    return min(at, datetime.now(UTC))
