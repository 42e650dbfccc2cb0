"""A stand-in for api.paystack.co: the part of Paystack that the adapter uses, over real HTTP, with buyers and faults.

Behaves as paystack.com/docs/api says (transactions, refunds, disputes, errors). It is strict: what Paystack would
refuse, it refuses, and so it does with a field that Paystack does not document.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import secrets
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from bridge.simulators.base import Answer, Delivery, Fault, Json, Received, Simulator, Tell

__all__ = ["PaystackSimulator", "sign"]

INITIALIZE_FIELDS = frozenset({
    "email", "amount", "currency", "reference", "callback_url", "metadata", "channels", "label", "plan",
    "invoice_limit", "split_code", "split", "subaccount", "transaction_charge", "bearer",
})  # fmt: skip
REFUND_FIELDS = frozenset({"transaction", "amount", "currency", "customer_note", "merchant_note"})
# paystack.com/docs/api/#supported-currency, in subunits
SMALLEST = {"NGN": 5_000, "GHS": 10, "ZAR": 100, "KES": 300, "USD": 200, "XOF": 100}
LARGEST = 1_000_000_000


class Refusal(Exception):
    """An error of Paystack's."""

    def __init__(self, message: str, code: str, status: int = 400) -> None:
        super().__init__(message)
        body = {
            "status": False,
            "message": message,
            "meta": {"nextStep": "Read the documentation and try again"},
            "type": "validation_error" if status == 400 else "api_error",
            "code": code,
        }
        self.answer = Answer(status, json.dumps(body).encode())


def sign(body: bytes, key: str) -> str:
    """The value of ``x-paystack-signature``."""
    return hmac.new(key.encode(), body, hashlib.sha512).hexdigest()


def subunits(amount: int, currency: str) -> int:
    """Minor units (ISO 4217) in Paystack's subunits: XOF has no minor unit."""
    return amount * 100 if currency == "XOF" else amount


def minor_units(amount: int, currency: str) -> int:
    return amount // 100 if currency == "XOF" else amount


class PaystackSimulator(Simulator):
    """A Paystack account behind an HTTP API.

    ``transactions`` by reference, ``refunds`` and ``disputes`` are as the API shows them, and may be changed.
    ``fee``: subunits that the buyer pays on top. ``list_disputes`` answers them as a list.
    """

    name = "paystack"
    currency = "NGN"

    def __init__(self, *, live: bool = False) -> None:
        super().__init__()
        self.domain = "live" if live else "test"
        self.secret_key = f"sk_{self.domain}_{secrets.token_hex(20)}"
        self.fee = 0
        self.list_disputes = False
        self.transactions: dict[str, Json] = {}
        self.refunds: list[Json] = []
        self.disputes: list[Json] = []
        self._last_id = 4_099_260_515

    def settings(self) -> Json:
        return {"paystack_secret_keys": self.secret_key, "paystack_api_url": self.url}

    # what buyers and merchants do

    def buyer_pays(
        self, page: str, tell: Tell, *, amount: int | None = None, currency: str | None = None
    ) -> list[Delivery]:
        paid = self.transaction(page)
        if paid["status"] not in ("abandoned", "failed", "ongoing", "pending"):
            raise ValueError(f"nobody can pay a transaction that is {paid['status']}")
        if currency is not None:
            paid["currency"] = currency
        if amount is not None:
            paid["requested_amount"] = subunits(amount, paid["currency"])
        paid["amount"] = paid["requested_amount"] + self.fee
        paid["paid_at"] = paid["paidAt"] = _now()
        paid.update(status="success", gateway_response="Successful", message=None, channel="card")
        return [self.event("charge.success", {**paid, "source": {"type": "api", "identifier": None}})]

    def buyer_is_declined(self, page: str, tell: Tell) -> list[Delivery]:
        self.transaction(page).update(status="failed", gateway_response="Insufficient Funds")
        return []  # only success is told

    def buyer_pays_later(self, page: str, tell: Tell) -> list[Delivery]:
        self.transaction(page).update(status="pending", gateway_response="The transaction is pending")
        return []

    def money_arrives(self, page: str) -> list[Delivery]:
        return self.buyer_pays(page, _nobody)

    def return_query(self, page: str) -> str:
        reference = self.transaction(page)["reference"]
        return f"trxref={reference}&reference={reference}"

    def merchant_refunds(self, page: str, amount: int | None = None) -> list[Delivery]:
        paid = self.transaction(page)
        wanted = self.left(paid) if amount is None else subunits(amount, paid["currency"])
        refund = self.give_back(paid, wanted)
        return [self.refund_event(refund), *self.settle_refund(refund)]

    def buyer_disputes(self, page: str) -> list[Delivery]:
        paid = self.transaction(page)
        dispute = {
            "id": self._new_id(),
            "refund_amount": paid["amount"],
            "currency": paid["currency"],
            "status": "awaiting-merchant-feedback",
            "resolution": None,
            "domain": self.domain,
            "transaction": paid,
            "transaction_reference": None,
            "category": "chargeback",
            "customer": _CUSTOMER,
            "bin": "123456",
            "last4": "1234",
            "history": [{"status": "pending", "by": "jane@private.test"}],
            "messages": [{"sender": "jane@private.test", "body": "not mine"}],
            "resolvedAt": None,
        }
        self.disputes.append(dispute)
        return [self.event("charge.dispute.create", dispute)]

    def bank_decides(self, page: str, *, won: bool) -> list[Delivery]:
        paid = self.transaction(page)
        (dispute,) = [dispute for dispute in self.disputes if dispute["transaction"] is paid]
        dispute.update(status="resolved", resolution="declined" if won else "merchant-accepted", resolvedAt=_now())
        resolved = self.event("charge.dispute.resolve", dispute)
        if won:
            return [resolved]
        refund = self.give_back(paid, dispute["refund_amount"], dispute=dispute["id"])
        return [resolved, *self.settle_refund(refund)]

    def give_back(self, paid: Json, amount: int, *, note: str | None = None, dispute: int | None = None) -> Json:
        """A refund that is queued."""
        refund = {
            "id": self._new_id(),
            "integration": 412_829,
            "domain": self.domain,
            "transaction": paid["id"],
            "dispute": dispute,
            "amount": amount,
            "deducted_amount": 0,
            "currency": paid["currency"],
            "fully_deducted": False,
            "refunded_by": "merchant@private.test",
            "customer_note": f"Refund for transaction {paid['reference']}",
            "merchant_note": note or f"Refund for transaction {paid['reference']} by merchant@private.test",
            "status": "pending",
            "bank_reference": None,
            "created_at": _now(),
        }
        self.refunds.append(refund)
        return refund

    def settle_refund(self, refund: Json, status: str = "processed") -> list[Delivery]:
        """Paystack is through with a refund."""
        refund["status"] = status
        if status in ("processed", "failed"):
            refund["bank_reference"] = f"TRF_{refund['id']}"
        (paid,) = [paid for paid in self.transactions.values() if paid["id"] == refund["transaction"]]
        if status == "processed" and not self.left(paid):
            paid["status"] = "reversed"
        return [self.refund_event(refund)]

    # what Paystack knows

    def taken(self, page: str) -> int:
        paid = self.transaction(page)
        return minor_units(paid["amount"], paid["currency"]) if paid["status"] in ("success", "reversed") else 0

    def given_back(self, page: str) -> int:
        """Queued refunds count: Paystack has agreed to them."""
        paid = self.transaction(page)
        return minor_units(self._back(paid), paid["currency"])

    def left(self, paid: Json) -> int:
        """Subunits that can still be given back."""
        return int(paid["amount"]) - self._back(paid)

    def forged(self, delivery: Delivery) -> Delivery:
        headers, body = delivery
        return {**headers, "x-paystack-signature": sign(body, "sk_test_of_somebody_else")}, body

    def transaction(self, page: str) -> Json:
        code = urlsplit(page).path.rsplit("/", 1)[-1]
        (found,) = [paid for paid in self.transactions.values() if paid["access_code"] == code]
        return found

    def event(self, kind: str, data: Any) -> Delivery:
        """A webhook, signed."""
        shown = {name: value for name, value in data.items() if name != "access_code"}
        return self.deliver(json.dumps({"event": kind, "data": shown}).encode())

    def deliver(self, body: bytes) -> Delivery:
        headers = {"content-type": "application/json", "x-paystack-signature": sign(body, self.secret_key)}
        return headers, body

    def refund_event(self, refund: Json) -> Delivery:
        (paid,) = [paid for paid in self.transactions.values() if paid["id"] == refund["transaction"]]
        data = {
            "status": refund["status"],
            "transaction_reference": paid["reference"],
            "refund_reference": refund["bank_reference"],
            "amount": str(refund["amount"]),
            "currency": refund["currency"],
            "processor": "instant-transfer",
            "customer": _CUSTOMER,
            "integration": refund["integration"],
            "domain": self.domain,
        }
        if refund["status"] == "needs-attention":
            data |= {"id": str(refund["id"]), "customer_note": refund["customer_note"]}
        return self.event(f"refund.{refund['status']}", data)

    def _back(self, paid: Json) -> int:
        return sum(
            int(refund["amount"])
            for refund in self.refunds
            if refund["transaction"] == paid["id"] and refund["status"] != "failed"
        )

    def _new_id(self) -> int:
        self._last_id += 1
        return self._last_id

    # what arrives over HTTP

    def work(self, received: Received, fault: Fault) -> Answer:
        try:
            if received.headers.get("authorization") != f"Bearer {self.secret_key}":
                raise Refusal("Invalid key", "invalid_Key", 401)
            message, data, meta = self._work(received)
        except Refusal as refusal:
            return refusal.answer
        body = {"status": True, "message": message, "data": data, **({"meta": meta} if meta else {})}
        return Answer(200, json.dumps(body).encode())

    def _work(self, received: Received) -> tuple[str, Any, Json | None]:
        match received.method, received.path.strip("/").split("/"):
            case "POST", ["transaction", "initialize"]:
                return "Authorization URL created", self._initialize(_json(received)), None
            case "GET", ["transaction", "verify", str(reference)]:
                return "Verification successful", self._shown(self._find(unquote(reference))), None
            case "POST", ["refund"]:
                return "Refund has been queued for processing", self._refund(_json(received)), None
            case "GET", ["refund"]:
                return "Refunds retrieved", *self._list_refunds(dict(parse_qsl(received.query)))
            case "GET", ["dispute", "transaction", str(number)]:
                return "Dispute retrieved successfully", self._disputes_of(number), None
        raise Refusal("Endpoint not found", "not_found", 404)

    def _initialize(self, said: Json) -> Json:
        check_initialize(said)
        reference = said["reference"]
        if reference in self.transactions:
            raise Refusal("Duplicate Transaction Reference", "duplicate_reference")
        code = secrets.token_hex(8)
        self.transactions[reference] = {
            "id": self._new_id(),
            "access_code": code,
            "domain": self.domain,
            "status": "abandoned",
            "reference": reference,
            "amount": said["amount"],
            "requested_amount": said["amount"],
            "currency": said["currency"],
            "message": None,
            "gateway_response": "The transaction was not completed",
            "paid_at": None,
            "paidAt": None,
            "created_at": _now(),
            "channel": "card",
            "ip_address": "203.0.113.7",
            "metadata": said.get("metadata", ""),
            "log": {"input": [], "history": []},
            "fees": None,
            "customer": {**_CUSTOMER, "email": said["email"]},
            "authorization": {"authorization_code": "AUTH_secret", "last4": "4081", "bin": "408408"},
        }
        url = f"https://checkout.paystack.com/{code}"
        return {"authorization_url": url, "access_code": code, "reference": reference}

    def _find(self, reference: str) -> Json:
        if reference not in self.transactions:
            raise Refusal("Transaction reference not found.", "transaction_not_found")
        return self.transactions[reference]

    @staticmethod
    def _shown(paid: Json) -> Json:
        return {name: value for name, value in paid.items() if name != "access_code"}

    def _refund(self, said: Json) -> Json:
        if unknown := sorted(said.keys() - REFUND_FIELDS):
            raise Refusal(f'"{unknown[0]}" is not allowed', "invalid_params")
        wanted = said.get("transaction")
        found = [paid for paid in self.transactions.values() if wanted in (paid["reference"], str(paid["id"]))]
        if not found or found[0]["status"] not in ("success", "reversed"):
            raise Refusal("Transaction not found", "transaction_not_found", 404)
        (paid,) = found
        amount = said.get("amount", paid["amount"])
        if type(amount) is not int or amount <= 0 or said.get("currency", paid["currency"]) != paid["currency"]:
            raise Refusal("Invalid amount or currency", "invalid_params")
        if not self.left(paid):
            raise Refusal("Transaction has been fully reversed", "transaction_reversed")
        if amount > self.left(paid):
            raise Refusal("Refund amount cannot be more than the transaction amount", "invalid_params")
        if paid["currency"] == "USD" and amount < 100:
            raise Refusal("Cannot refund less than USD 1", "invalid_params")
        refund = self.give_back(paid, amount, note=said.get("merchant_note"))
        return {**refund, "transaction": self._shown(paid)}

    def _list_refunds(self, query: Mapping[str, str]) -> tuple[list[Json], Json]:
        found = [refund for refund in self.refunds if str(refund["transaction"]) == query.get("transaction")]
        size, page = int(query.get("perPage", "50")), int(query.get("page", "1"))
        meta = {"total": len(found), "skipped": 0, "perPage": size, "page": page, "pageCount": -(-len(found) // size)}
        newest_first = found[::-1]
        return newest_first[(page - 1) * size : page * size], meta

    def _disputes_of(self, number: str) -> Any:
        found = [dispute for dispute in self.disputes if str(dispute["transaction"]["id"]) == number]
        shown = [{**dispute, "transaction": self._shown(dispute["transaction"])} for dispute in found]
        if self.list_disputes:
            return shown
        if not shown:
            raise Refusal("Dispute not found", "not_found", 404)
        return shown[-1]


_CUSTOMER = {
    "id": 5_406_463,
    "first_name": "Jane",
    "last_name": "Private",
    "email": "jane@private.test",
    "customer_code": "CUS_6wbxh6689vt0n7s",
    "phone": "08000000000",
}


def check_initialize(said: Json) -> None:
    """Refuse what Paystack refuses."""
    if unknown := sorted(said.keys() - INITIALIZE_FIELDS):
        raise Refusal(f'"{unknown[0]}" is not allowed', "invalid_params")
    amount, currency = said.get("amount"), said.get("currency")
    if type(amount) is not int or amount <= 0:
        raise Refusal("Invalid Amount Sent", "invalid_params")
    if not isinstance(currency, str) or currency not in SMALLEST:
        raise Refusal("Currency not supported by merchant", "unsupported_currency")
    for bad, message in (
        (amount < SMALLEST[currency], "Invalid Amount Sent"),
        (amount > LARGEST, "Transaction amount limit exceeded"),
        (not re.fullmatch(r"[^@\s]+@[^@\s]+\.[A-Za-z]{2,}", str(said.get("email"))), "Invalid Email Address Passed"),
        (
            not re.fullmatch(r"[A-Za-z0-9.=-]+", str(said.get("reference"))),
            "Invalid character in transaction reference",
        ),
        (not str(said.get("callback_url", "https://")).startswith(("http://", "https://")), "Invalid callback_url"),
        (not isinstance(said.get("metadata", {}), dict), "Invalid metadata"),
    ):
        if bad:
            raise Refusal(message, "invalid_params")


def _json(received: Received) -> Json:
    if received.headers.get("content-type") != "application/json":
        raise Refusal("JSON is expected here", "invalid_params")
    said = json.loads(received.body)
    if not isinstance(said, dict):
        raise Refusal("JSON is expected here", "invalid_params")
    return said


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _nobody(delivery: Delivery) -> Any:
    raise AssertionError("Paystack asks nobody")
