"""A stand-in for api-m.paypal.com: the part of PayPal that the adapter uses, over real HTTP, with buyers and faults.

Behaves as developer.paypal.com/docs/api says (orders v2, payments v2, disputes v1, webhooks v1). It is strict: what
PayPal would refuse, it refuses. Webhooks are signed by a certificate that a CA of its own has issued.
"""

from __future__ import annotations

import asyncio
import base64
import json
import re
import secrets
import tempfile
import uuid
import zlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import cache
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID

from bridge.money import exponent
from bridge.simulators.base import Answer, Delivery, Fault, Json, Received, Simulator, Tell

__all__ = ["Identity", "PayPalSimulator", "new_identity"]

CERTIFICATES = "/v1/notifications/certs/"
SIGNER = "messageverificationcerts.paypal.com"
CURRENCIES = frozenset({
    "AUD", "BRL", "CAD", "CHF", "CNY", "CZK", "DKK", "EUR", "GBP", "HKD", "HUF", "ILS", "JPY", "MXN", "MYR", "NOK",
    "NZD", "PHP", "PLN", "SEK", "SGD", "THB", "TWD", "USD",
})  # fmt: skip
WHOLE_ONLY = frozenset({"HUF", "JPY", "TWD"})
EXPERIENCE: dict[str, frozenset[str] | None] = {
    "return_url": None, "cancel_url": None, "brand_name": None, "locale": None,
    "user_action": frozenset({"CONTINUE", "PAY_NOW"}),
    "shipping_preference": frozenset({"GET_FROM_FILE", "NO_SHIPPING", "SET_PROVIDED_ADDRESS"}),
    "payment_method_preference": frozenset({"UNRESTRICTED", "IMMEDIATE_PAYMENT_REQUIRED"}),
    "landing_page": frozenset({"LOGIN", "GUEST_CHECKOUT", "NO_PREFERENCE", "BILLING"}),
}  # fmt: skip
UNIT = frozenset({"reference_id", "custom_id", "invoice_id", "description", "soft_descriptor", "amount"})


@dataclass(frozen=True)
class Identity:
    """A private key and the certificate for it."""

    key: rsa.RSAPrivateKey
    certificate: x509.Certificate

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(Encoding.PEM)


@cache
def _key(number: int) -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, 2048)


def new_identity(
    name: str,
    issuer: Identity | None = None,
    *,
    key: int = 0,
    days: tuple[float, float] = (-1, 30),
    plain: bool = False,
) -> Identity:
    """A CA (without an issuer) or a signer's certificate; ``plain`` has a subject and nothing else."""
    private, subject = _key(key), x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    signer, now = (issuer.key if issuer else private), datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.certificate.subject if issuer else subject)
        .public_key(private.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + timedelta(days=days[0]))
        .not_valid_after(now + timedelta(days=days[1]))
    )
    if not plain:
        authority = x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key())
        uses = x509.KeyUsage(
            digital_signature=True, key_cert_sign=issuer is None, crl_sign=issuer is None, content_commitment=False,
            key_encipherment=False, data_encipherment=False, key_agreement=False, encipher_only=False,
            decipher_only=False,
        )  # fmt: skip
        builder = (
            builder.add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(private.public_key()), critical=False)
            .add_extension(authority, critical=False)
            .add_extension(uses, critical=True)
        )
        if issuer:
            builder = builder.add_extension(
                x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False
            ).add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
    return Identity(private, builder.sign(signer, SHA256()))


class Refusal(Exception):
    """An error of PayPal's."""

    def __init__(self, status: int, name: str, issue: str = "") -> None:
        super().__init__(name, issue)
        self.status = status
        self.body: Json = {"name": name, "message": "Somebody at example.test cannot.", "debug_id": "f0a1b2c3d4e5f"}
        if issue:
            self.body["details"] = [{"issue": issue, "description": "jane@example.test is not allowed to."}]


def unprocessable(issue: str) -> Refusal:
    return Refusal(422, "UNPROCESSABLE_ENTITY", issue)


class PayPalSimulator(Simulator):
    """A PayPal merchant's REST app behind an HTTP API."""

    name = "paypal"
    currency = "USD"

    def __init__(self) -> None:
        super().__init__()
        self.client_id, self.client_secret = secrets.token_hex(10), secrets.token_hex(10)
        self.webhook_id = secrets.token_hex(9).upper()[:17]
        self.authority = new_identity("A CA of these tests", key=0)
        self.signer = new_identity(SIGNER, self.authority, key=1)
        self.served: dict[str, bytes] = {"CERT-1": self.signer.pem}
        self.tokens: list[str] = []
        self.orders: dict[str, Json] = {}
        self.captures: dict[str, Json] = {}
        self.refunds: dict[str, Json] = {}
        self.disputes: dict[str, Json] = {}
        self.captured: list[Delivery] = []
        """What PayPal tells of captures, not yet delivered."""
        self.next_capture: dict[str, str] = {}
        """By order: the issue that its capture is refused with, or PENDING."""
        self.next_refund = "COMPLETED"
        """Status of the next refunds, or the issue that they are refused with."""
        self._done: dict[str, Json] = {}  # by PayPal-Request-Id
        self._in_flight: set[str] = set()

    def _listen(self) -> None:
        super()._listen()
        self._folder = tempfile.TemporaryDirectory()
        self.ca_file = Path(self._folder.name) / "ca.pem"
        self.ca_file.write_bytes(self.authority.pem)

    def _hang_up(self) -> None:
        super()._hang_up()
        self._folder.cleanup()

    def settings(self) -> Json:
        return {
            "environment": "development",
            "paypal_client_id": self.client_id,
            "paypal_client_secret": self.client_secret,
            "paypal_webhook_id": self.webhook_id,
            "paypal_api_url": self.url,
            "paypal_ca_file": str(self.ca_file),
        }

    # what buyers and merchants do

    def buyer_pays(
        self, page: str, tell: Tell, *, amount: int | None = None, currency: str | None = None
    ) -> list[Delivery]:
        order = self.order_of(page)
        money = self._unit(order)["amount"]
        chosen = currency or money["currency_code"]
        written = money["value"] if amount is None else _written(amount, chosen)
        self._unit(order)["amount"] = {"currency_code": chosen, "value": written}
        return [self.approve(order["id"])]

    def buyer_is_declined(self, page: str, tell: Tell) -> list[Delivery]:
        order = self.order_of(page)
        self.next_capture[order["id"]] = "INSTRUMENT_DECLINED"
        return [self.approve(order["id"])]

    def buyer_pays_later(self, page: str, tell: Tell) -> list[Delivery]:
        order = self.order_of(page)
        self.next_capture[order["id"]] = "PENDING"
        return [self.approve(order["id"])]

    def money_arrives(self, page: str) -> list[Delivery]:
        return [self.settle(page, "COMPLETED")]

    def return_query(self, page: str) -> str:
        order = self.order_of(page)
        back: str = order["payment_source"]["paypal"]["experience_context"]["return_url"]
        return f"{urlsplit(back).query}&token={order['id']}&PayerID=QYR5Z8XDVJNXQ"

    def merchant_refunds(self, page: str, amount: int | None = None) -> list[Delivery]:
        capture = self.capture_of(page)
        left = _minor(capture["amount"]) - self._back(capture["id"], "PENDING", "COMPLETED")
        money = {"currency_code": capture["amount"]["currency_code"]}
        refund = self._refund(capture["id"], money | {"value": _written(amount or left, money["currency_code"])}, {})
        return [self.event("PAYMENT.CAPTURE.REFUNDED", "refund", refund)]

    def buyer_disputes(self, page: str) -> list[Delivery]:
        capture = self.capture_of(page)
        dispute = {
            "dispute_id": f"PP-D-{secrets.randbelow(90_000) + 10_000}",
            "disputed_transactions": [
                {"seller_transaction_id": capture["id"], "custom": capture["custom_id"], "buyer": {"name": "Jane Doe"}}
            ],
            "reason": "MERCHANDISE_OR_SERVICE_NOT_RECEIVED",
            "status": "OPEN",
            "dispute_amount": capture["amount"],
            "messages": [{"posted_by": "BUYER", "content": "jane@example.test is unhappy"}],
        }
        self.disputes[dispute["dispute_id"]] = dispute
        return [self.event("CUSTOMER.DISPUTE.CREATED", "dispute", dispute)]

    def bank_decides(self, page: str, *, won: bool) -> list[Delivery]:
        return [self.close_dispute(page, "RESOLVED_SELLER_FAVOUR" if won else "RESOLVED_BUYER_FAVOUR")]

    # what PayPal knows

    def taken(self, page: str) -> int:
        order = self.order_of(page)["id"]
        status = ("COMPLETED", "PARTIALLY_REFUNDED", "REFUNDED")
        return sum(_minor(c["amount"]) for c in self.captures.values() if _order(c) == order and c["status"] in status)

    def given_back(self, page: str) -> int:
        order = self.order_of(page)["id"]
        return sum(self._back(c["id"], "COMPLETED") for c in self.captures.values() if _order(c) == order)

    def forged(self, delivery: Delivery) -> Delivery:
        _, body = delivery
        stranger = new_identity(SIGNER, key=2)
        return self.sign(body, by=stranger), body

    # more that can happen

    def order_of(self, page: str) -> Json:
        """The order behind a page, or by its id."""
        found = parse_qs(urlsplit(page).query).get("token", [page])
        return self.orders[found[0]]

    def capture_of(self, page: str) -> Json:
        order = self.order_of(page)["id"]
        return [capture for capture in self.captures.values() if _order(capture) == order][-1]

    def approve(self, order_id: str) -> Delivery:
        """The buyer agrees; nothing is taken yet."""
        order = self.orders[order_id]
        if order["status"] not in ("CREATED", "PAYER_ACTION_REQUIRED", "APPROVED"):
            raise AssertionError(f"the order is {order['status']}")
        order.update(status="APPROVED", payer={"payer_id": "QYR5Z8XDVJNXQ", "email_address": "jane@example.test"})
        return self.event("CHECKOUT.ORDER.APPROVED", "checkout-order", order)

    def settle(self, page: str, status: str) -> Delivery:
        """A pending capture gets its last word: COMPLETED or DECLINED."""
        capture = self.capture_of(page)
        capture.update(status=status)
        return self.event(f"PAYMENT.CAPTURE.{status}", "capture", capture)

    def reverse(self, page: str, amount: int | None = None, *, listed: bool = True, shown: bool = True) -> Delivery:
        """PayPal takes money back; ``listed`` in the order and ``shown`` in the capture's status, or not."""
        capture = self.capture_of(page)
        before = capture["status"]
        money = {"currency_code": capture["amount"]["currency_code"]}
        written = _written(amount or _minor(capture["amount"]), money["currency_code"])
        reversal = self._refund(capture["id"], money | {"value": written}, {})
        reversal["unlisted"] = not listed
        if not shown:
            capture["status"] = before
        return self.event("PAYMENT.CAPTURE.REVERSED", "refund", reversal)

    def close_dispute(self, page: str, outcome: str) -> Delivery:
        capture = self.capture_of(page)["id"]
        (dispute,) = [
            found
            for found in self.disputes.values()
            if found["disputed_transactions"][0]["seller_transaction_id"] == capture
        ]
        dispute.update(status="RESOLVED", dispute_outcome={"outcome_code": outcome})
        return self.event("CUSTOMER.DISPUTE.RESOLVED", "dispute", dispute)

    def event(self, kind: str, resource_type: str, resource: Json) -> Delivery:
        """A signed webhook."""
        body = {
            "id": f"WH-{secrets.token_hex(8).upper()}-{secrets.token_hex(8).upper()}",
            "event_version": "1.0",
            "create_time": _now(),
            "resource_type": resource_type,
            "resource_version": "2.0",
            "event_type": kind,
            "summary": "Something happened",
            "resource": self._public(resource),
            "links": [],
        }
        content = json.dumps(body).encode()
        return self.sign(content), content

    def sign(self, body: bytes, *, by: Identity | None = None, certificate: str = "CERT-1") -> dict[str, str]:
        """The headers of a webhook."""
        given = (str(uuid.uuid4()), _now())
        message = f"{given[0]}|{given[1]}|{self.webhook_id}|{zlib.crc32(body)}".encode()
        signature = (by or self.signer).key.sign(message, PKCS1v15(), SHA256())
        return {
            "paypal-transmission-id": given[0],
            "paypal-transmission-time": given[1],
            "paypal-transmission-sig": base64.b64encode(signature).decode(),
            "paypal-cert-url": f"{self.url}{CERTIFICATES}{certificate}",
            "paypal-auth-algo": "SHA256withRSA",
        }

    # what arrives over HTTP

    async def answer(self, received: Received, fault: Fault) -> Answer:
        key = received.headers.get("paypal-request-id", "")
        if key and key in self._in_flight:
            return _answer(Refusal(409, "RESOURCE_CONFLICT", "PREVIOUS_REQUEST_IN_PROGRESS"))
        self._in_flight.add(key)
        try:
            if fault.status:
                return Answer(fault.status, fault.body)
            done = self.work(received, fault)
            await asyncio.sleep(fault.latency)
            return done
        finally:
            self._in_flight.discard(key)

    def work(self, received: Received, fault: Fault) -> Answer:
        if received.path.startswith(CERTIFICATES):
            pem = self.served.get(received.path.removeprefix(CERTIFICATES))
            return Answer(200, pem, {"Content-Type": "text/plain"}) if pem is not None else Answer(404, b"{}")
        try:
            if received.path == "/v1/oauth2/token":
                return Answer(200, json.dumps(self._log_in(received)).encode())
            if received.headers.get("authorization", "") not in [f"Bearer {token}" for token in self.tokens]:
                raise Refusal(401, "AUTHENTICATION_FAILURE")
            return self._keyed(received)
        except Refusal as refusal:
            return _answer(refusal)

    def _log_in(self, received: Received) -> Json:
        login = base64.b64encode(f"{self.client_id}:{self.client_secret}".encode()).decode()
        if received.headers.get("authorization") != f"Basic {login}":
            raise Refusal(401, "invalid_client")
        if received.values != {"grant_type": "client_credentials"}:
            raise Refusal(400, "unsupported_grant_type")
        self.tokens.append(f"A21AA{secrets.token_hex(8)}")
        return {"access_token": self.tokens[-1], "token_type": "Bearer", "expires_in": 32_400, "scope": "", "nonce": ""}

    def _keyed(self, received: Received) -> Answer:
        key = received.headers.get("paypal-request-id", "")
        if len(key) > 108:
            raise Refusal(400, "INVALID_REQUEST", "INVALID_STRING_LENGTH")
        kept = f"{received.path} {key}"
        if key and kept in self._done:  # the latest state of what the first request made
            return Answer(200, self._shown(received, self._done[kept]))
        made = self._do(received)
        if key:
            self._done[kept] = made
        return Answer(200 if received.method == "GET" else 201, self._shown(received, made))

    def _do(self, received: Received) -> Json:
        parts = received.path.strip("/").split("/")
        known = {"orders": self.orders, "captures": self.captures, "refunds": self.refunds, "disputes": self.disputes}
        match received.method, parts:
            case "POST", ["v1", "notifications", "verify-webhook-signature"]:
                return self._judge(received.body)
            case "POST", ["v2", "checkout", "orders"]:
                return self._create(_body(received), received.headers)
            case "POST", ["v2", "checkout", "orders", str(name), "capture"]:
                _body(received)
                return self._take(_find(self.orders, name))
            case "POST", ["v2", "payments", "captures", str(name), "refund"]:
                return self._order_refund(_find(self.captures, name), _body(received))
            case "GET", ["v2", "checkout" | "payments", str(kind), str(name)] | [
                "v1",
                "customer",
                str(kind),
                str(name),
            ]:
                return _find(known.get(kind, {}), name)
        raise Refusal(404, "RESOURCE_NOT_FOUND")

    def _shown(self, received: Received, made: Json) -> bytes:
        """Short unless the request prefers otherwise; a capture's answer has no ``custom_id`` on its unit."""
        shown = self._public(made)
        if received.path.endswith(("/capture", "/refund")):
            if received.headers.get("prefer") != "return=representation":
                shown = {name: shown[name] for name in ("id", "status", "links")}
            elif received.path.endswith("/capture"):
                unit = self._unit(shown)
                shown["purchase_units"] = [{name: unit[name] for name in ("reference_id", "payments")}]
        return json.dumps(shown).encode()

    def _create(self, body: Json, headers: Mapping[str, str]) -> Json:
        check_order(body)
        if not headers.get("paypal-request-id"):
            raise unprocessable("PAYPAL_REQUEST_ID_REQUIRED")
        name = _new_id()
        self.orders[name] = body | {
            "id": name,
            "status": "PAYER_ACTION_REQUIRED",
            "create_time": _now(),
            "links": [
                {"rel": "self", "href": f"{self.url}/v2/checkout/orders/{name}", "method": "GET"},
                {"rel": "payer-action", "href": f"https://www.sandbox.paypal.com/checkoutnow?token={name}"},
            ],
        }
        return self.orders[name]

    def _take(self, order: Json) -> Json:
        if order["status"] == "COMPLETED":
            raise unprocessable("ORDER_ALREADY_CAPTURED")
        if order["status"] != "APPROVED":
            raise unprocessable("ORDER_NOT_APPROVED")
        planned = self.next_capture.pop(order["id"], "COMPLETED")
        if planned not in ("COMPLETED", "PENDING", "DECLINED"):
            if planned == "INSTRUMENT_DECLINED":
                order["status"] = "PAYER_ACTION_REQUIRED"
            raise unprocessable(planned)
        unit = self._unit(order)
        name = _new_id()
        capture: Json = {
            "id": name,
            "status": planned,
            "amount": dict(unit["amount"]),
            "custom_id": unit["custom_id"],
            "final_capture": True,
            "create_time": _now(),
            "supplementary_data": {"related_ids": {"order_id": order["id"]}},
            "links": [{"rel": "up", "href": f"{self.url}/v2/checkout/orders/{order['id']}"}],
        }
        if planned != "COMPLETED":
            capture["status_details"] = {"reason": "PENDING_REVIEW" if planned == "PENDING" else "BUYER_COMPLAINT"}
        self.captures[name] = capture
        order["status"] = "COMPLETED"
        self.captured.append(self.event(f"PAYMENT.CAPTURE.{planned}", "capture", capture))
        return order

    def _order_refund(self, capture: Json, body: Json) -> Json:
        _known(body, {"amount", "custom_id", "invoice_id", "note_to_payer"})
        money = body.get("amount") or capture["amount"]
        check_money(money)
        if money["currency_code"] != capture["amount"]["currency_code"]:
            raise unprocessable("REFUND_CAPTURE_CURRENCY_MISMATCH")
        left = _minor(capture["amount"]) - self._back(capture["id"], "PENDING", "COMPLETED")
        if not left:
            raise unprocessable("CAPTURE_FULLY_REFUNDED")
        if _minor(money) > left:
            raise unprocessable("REFUND_AMOUNT_EXCEEDED")
        if capture["status"] == "PENDING":
            raise unprocessable("PENDING_CAPTURE")
        if self.next_refund not in ("COMPLETED", "PENDING", "FAILED", "CANCELLED"):
            raise unprocessable(self.next_refund)
        return self._refund(capture["id"], money, {"custom_id": body["custom_id"]} if "custom_id" in body else {})

    def _refund(self, capture_id: str, money: Json, more: Json) -> Json:
        capture, name = self.captures[capture_id], _new_id()
        up = f"{self.url}/v2/payments/captures/{capture_id}"
        self.refunds[name] = {
            "id": name,
            "status": self.next_refund,
            "amount": money,
            "create_time": _now(),
            "links": [{"rel": "self", "href": f"{self.url}/v2/payments/refunds/{name}"}, {"rel": "up", "href": up}],
            **more,
        }
        back = self._back(capture_id, "COMPLETED")
        if back:
            capture["status"] = "REFUNDED" if back >= _minor(capture["amount"]) else "PARTIALLY_REFUNDED"
        return self.refunds[name]

    def _judge(self, body: bytes) -> Json:
        given = json.loads(body)
        _known(given, {"auth_algo", "cert_url", "transmission_id", "transmission_sig", "transmission_time",
                       "webhook_id", "webhook_event"})  # fmt: skip
        event = body[body.index(b'"webhook_event": ') + len(b'"webhook_event": ') : -1]
        message = f"{given['transmission_id']}|{given['transmission_time']}|{self.webhook_id}|{zlib.crc32(event)}"
        try:
            if given["webhook_id"] != self.webhook_id or given["auth_algo"] != "SHA256withRSA":
                raise InvalidSignature
            signature = base64.b64decode(given["transmission_sig"])
            self.signer.key.public_key().verify(signature, message.encode(), PKCS1v15(), SHA256())
        except InvalidSignature:
            return {"verification_status": "FAILURE"}
        return {"verification_status": "SUCCESS"}

    # how things look from outside

    def _public(self, thing: Json) -> Json:
        shown = {name: value for name, value in thing.items() if name != "unlisted"}
        if shown.get("intent") == "CAPTURE":
            mine = [c for c in self.captures.values() if _order(c) == shown["id"]]
            captures = [{name: c[name] for name in c if name != "supplementary_data"} for c in mine]
            refunds = [
                self._public(refund)
                for refund in self.refunds.values()
                if _up(refund) in {c["id"] for c in mine} and not refund.get("unlisted")
            ]
            payments = {name: found for name, found in (("captures", captures), ("refunds", refunds)) if found}
            unit = dict(self._unit(shown))
            shown["purchase_units"] = [unit | {"payments": payments} if payments else unit]
            shown["payment_source"] = {"paypal": {}}
        return shown

    @staticmethod
    def _unit(order: Json) -> Json:
        unit: Json = order["purchase_units"][0]
        return unit

    def _back(self, capture_id: str, *status: str) -> int:
        return sum(_minor(r["amount"]) for r in self.refunds.values() if _up(r) == capture_id and r["status"] in status)


def check_order(body: Json) -> None:
    """Refuse what PayPal refuses."""
    _known(body, {"intent", "purchase_units", "payment_source"})
    if body.get("intent") != "CAPTURE" or len(body.get("purchase_units", [])) != 1:
        raise Refusal(400, "INVALID_REQUEST", "MISSING_REQUIRED_PARAMETER")
    unit = body["purchase_units"][0]
    _known(unit, UNIT)
    check_money(unit.get("amount"))
    for name, longest in (("reference_id", 256), ("custom_id", 127), ("description", 127), ("invoice_id", 127)):
        if name in unit and not 1 <= len(unit[name]) <= longest:
            raise Refusal(400, "INVALID_REQUEST", "INVALID_STRING_LENGTH")
    source = body.get("payment_source", {})
    _known(source, {"paypal"})
    _known(source.get("paypal", {}), {"experience_context", "email_address"})
    experience = source.get("paypal", {}).get("experience_context", {})
    _known(experience, EXPERIENCE)
    for name, value in experience.items():
        known = EXPERIENCE[name]
        if known is not None and value not in known:
            raise Refusal(400, "INVALID_REQUEST", "INVALID_PARAMETER_VALUE")
    for name in ("return_url", "cancel_url"):
        if not re.match("https?://", experience.get(name, "")):
            raise Refusal(400, "INVALID_REQUEST", "INVALID_PARAMETER_SYNTAX")


def check_money(money: Json | None) -> None:
    if not money or set(money) != {"currency_code", "value"} or not isinstance(money["value"], str):
        raise Refusal(400, "INVALID_REQUEST", "MISSING_REQUIRED_PARAMETER")
    if money["currency_code"] not in CURRENCIES:
        raise unprocessable("CURRENCY_NOT_SUPPORTED")
    if len(money["value"]) > 32 or not re.fullmatch(r"[0-9]+(\.[0-9]+)?", money["value"]):
        raise Refusal(400, "INVALID_REQUEST", "INVALID_PARAMETER_SYNTAX")
    decimals = len(money["value"].partition(".")[2])
    if money["currency_code"] in WHOLE_ONLY and decimals:
        raise unprocessable("DECIMALS_NOT_SUPPORTED")
    if decimals > 2:
        raise unprocessable("DECIMAL_PRECISION")
    if Decimal(money["value"]) <= 0:
        raise unprocessable("CANNOT_BE_ZERO_OR_NEGATIVE")


def _known(given: Json, allowed: Collection[str]) -> None:
    if set(given) - set(allowed):
        raise Refusal(400, "INVALID_REQUEST", "INVALID_PARAMETER")


def _body(received: Received) -> Json:
    if received.headers.get("content-type") != "application/json":
        raise Refusal(415, "UNSUPPORTED_MEDIA_TYPE")
    try:
        body = json.loads(received.body)
    except ValueError:
        raise Refusal(400, "INVALID_REQUEST", "MALFORMED_REQUEST_JSON") from None
    if not isinstance(body, dict):
        raise Refusal(400, "INVALID_REQUEST", "MALFORMED_REQUEST_JSON")
    return body


def _answer(refusal: Refusal) -> Answer:
    return Answer(refusal.status, json.dumps(refusal.body).encode())


def _find(things: Mapping[str, Json], name: str) -> Json:
    if name not in things:
        raise Refusal(404, "RESOURCE_NOT_FOUND", "INVALID_RESOURCE_ID")
    return things[name]


def _order(capture: Json) -> str:
    return str(capture["supplementary_data"]["related_ids"]["order_id"])


def _up(refund: Json) -> str:
    return str(refund["links"][1]["href"]).rsplit("/", 1)[-1]


def _minor(money: Json) -> int:
    return int(Decimal(money["value"]).scaleb(exponent(money["currency_code"])))


def _written(amount: int, currency: str) -> str:
    value = Decimal(amount).scaleb(-exponent(currency))
    return f"{value.quantize(Decimal(1)) if currency in WHOLE_ONLY else value:f}"


def _new_id() -> str:
    return "".join(secrets.choice("ABCDEFGHIJKLMNPQRSTUVWXYZ0123456789") for _ in range(17))


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
