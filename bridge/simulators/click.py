"""A stand-in for Click: its payment page, SHOP API calls and Merchant API, over real HTTP.

Behaves as docs.click.uz says: Prepare, then Complete, both signed with MD5 over the raw values; a Merchant API with an
``Auth`` header, that states no amounts and has no idempotency keys. It is strict: what Click refuses, it refuses.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

import httpx

from bridge.simulators.base import Answer, CannotDo, Delivery, Fault, Json, Received, Simulator, Tell

__all__ = ["ClickSimulator", "Payment", "Scenario", "auth_header", "sign_form", "soums"]

TASHKENT = timezone(timedelta(hours=5))
CREATED, BEING_PROCESSED, PAID, FAILED, REVERSED = 0, 1, 2, -1, -9
NO_MONEY = -5017  # what Click's own scenarios send when the card is declined


@dataclass(kw_only=True)
class Payment:
    """One try of a buyer's. ``amount`` and ``returned`` in tiyin."""

    id: int
    trans_id: int
    order: str
    amount: int
    day: date
    status: int = CREATED
    debited: bool = False
    returned: list[int] = field(default_factory=list)
    prepare_id: int | None = None


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """One step of Click's emulator: what it sends, what it expects, what it got."""

    step: int
    what: str
    expected: int
    got: int


def soums(amount: int) -> str:
    """Tiyin as Click writes amounts."""
    return f"{Decimal(amount).scaleb(-2):f}"


def sign_form(form: Json, secret: str) -> str:
    """docs.click.uz, SHOP API: MD5 of the values in this order, without separators."""
    prepare_id = f"{form['merchant_prepare_id']}" if str(form["action"]) == "1" else ""
    text = (
        f"{form['click_trans_id']}{form['service_id']}{secret}{form['merchant_trans_id']}{prepare_id}"
        f"{form['amount']}{form['action']}{form['sign_time']}"
    )
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()


def auth_header(user: str, secret: str, at: int) -> str:
    """docs.click.uz, Merchant API."""
    return f"{user}:{hashlib.sha1(f'{at}{secret}'.encode(), usedforsecurity=False).hexdigest()}:{at}"


class ClickSimulator(Simulator):
    """A merchant at Click with one service."""

    name = "click"
    currency = "UZS"
    merchant_id, service_id, user_id, secret = "46", "73438", "12345", "ClickSecretTest1"

    def __init__(self) -> None:
        super().__init__()
        self.payments: dict[int, Payment] = {}
        self.today: date | None = None
        """The day on which payments are made, where it is not this one."""
        self.refuses: str = ""
        """Why reversals are refused."""
        self._ids = itertools.count(int(time.time()) * 1000)

    def settings(self) -> Json:
        return {
            "click_merchant_id": self.merchant_id,
            "click_service_id": self.service_id,
            "click_merchant_user_id": self.user_id,
            "click_secret_key": self.secret,
            "click_page_url": f"{self.url}/services/pay",
            "click_api_url": f"{self.url}/v2/merchant",
        }

    # what buyers do

    def buyer_pays(
        self, page: str, tell: Tell, *, amount: int | None = None, currency: str | None = None
    ) -> list[Delivery]:
        """The buyer can edit the amount in the link. Click asks before it debits."""
        if currency not in (None, "UZS"):
            raise CannotDo
        payment = self.begin(page, amount)
        match self.prepare(payment, tell)["error"]:
            case 0:
                self.debit(payment)
                return [self.complete(payment)]
            case -4:  # Click takes it for confirmed, finishes the payment and sends no Complete
                self.debit(payment)
                return []
        payment.status = FAILED
        return [self.complete(payment, error=-1)]

    def buyer_is_declined(self, page: str, tell: Tell) -> list[Delivery]:
        payment = self.begin(page)
        agreed = self.prepare(payment, tell)["error"] == 0
        payment.status = NO_MONEY if agreed else FAILED
        return [self.complete(payment, error=NO_MONEY if agreed else -1)]

    def return_query(self, page: str) -> str:
        """Our own query, and what Click adds."""
        link = self.read_link(page)
        return urlsplit(link["return_url"]).query + "&payment_id=1&payment_status=2"

    def taken(self, page: str) -> int:
        return sum(payment.amount for payment in self._of(page) if payment.debited)

    def given_back(self, page: str) -> int:
        return sum(sum(payment.returned) for payment in self._of(page))

    def forged(self, delivery: Delivery) -> Delivery:
        _, body = delivery
        form = dict(parse_qsl(body.decode(), keep_blank_values=True))
        return self.delivery(form, secret="somebody-elses")

    # one payment, step by step

    def read_link(self, page: str) -> dict[str, str]:
        """The link as Click's page reads it; refuses what Click does not know."""
        link = dict(parse_qsl(urlsplit(page).query, strict_parsing=True))
        assert (link["service_id"], link["merchant_id"]) == (self.service_id, self.merchant_id)
        assert re.fullmatch(r"\d+\.\d\d", link["amount"]), link["amount"]
        assert link["transaction_param"]
        known = {
            "service_id",
            "merchant_id",
            "amount",
            "transaction_param",
            "merchant_user_id",
            "return_url",
            "card_type",
        }
        assert not link.keys() - known
        return link

    def begin(self, page: str, amount: int | None = None) -> Payment:
        """The buyer presses Pay."""
        link = self.read_link(page)
        due = int(Decimal(link["amount"]) * 100)
        return self.new_payment(link["transaction_param"], due if amount is None else amount)

    def new_payment(self, order: str, amount: int) -> Payment:
        day = self.today or datetime.now(TASHKENT).date()
        payment = Payment(id=next(self._ids), trans_id=next(self._ids), order=order, amount=amount, day=day)
        self.payments[payment.id] = payment
        return payment

    def prepare(self, payment: Payment, tell: Tell) -> Json:
        """Ask the merchant, and keep the id that it gives."""
        return self.heed(payment, tell(self.preparation(payment)))

    def heed(self, payment: Payment, response: httpx.Response) -> Json:
        """Take in the merchant's answer to a Prepare."""
        answer = self.read_reply(response)
        if answer["error"] == 0:
            assert type(answer["merchant_prepare_id"]) is int
            assert 0 < answer["merchant_prepare_id"] < 2**31
            payment.prepare_id, payment.status = answer["merchant_prepare_id"], BEING_PROCESSED
        return answer

    def debit(self, payment: Payment) -> None:
        payment.debited, payment.status = True, PAID

    def preparation(self, payment: Payment, **changes: Any) -> Delivery:
        return self.delivery({**self._form(payment), "action": "0", "error": "0", **changes})

    def complete(self, payment: Payment, error: int = 0, **changes: Any) -> Delivery:
        prepare_id = {} if payment.prepare_id is None else {"merchant_prepare_id": str(payment.prepare_id)}
        note = {"error_note": "Insufficient funds"} if error == NO_MONEY else {}
        form = {**self._form(payment), **prepare_id, **note, "action": "1", "error": str(error), **changes}
        return self.delivery({"merchant_prepare_id": "", **form})

    def delivery(self, form: Json, secret: str | None = None) -> Delivery:
        """A form, signed as Click signs it."""
        unsigned = {name: value for name, value in form.items() if name != "sign_string"}
        signed = {**unsigned, "sign_string": sign_form(unsigned, secret or self.secret)}
        return {"content-type": "application/x-www-form-urlencoded"}, urlencode(signed).encode()

    def read_reply(self, response: httpx.Response) -> Json:
        """The merchant's answer as Click reads it: HTTP 200, JSON, whole numbers."""
        assert response.status_code == 200, response.text
        answer: Json = response.json()
        assert type(answer["error"]) is int
        assert isinstance(answer["error_note"], str)
        for name in ("click_trans_id", "merchant_prepare_id", "merchant_confirm_id"):
            assert type(answer.get(name)) in (int, type(None)), answer
        return answer

    # Click's emulator

    def run_scenarios(self, tell: Tell, orders: tuple[str, str, str], amount: int) -> list[Scenario]:
        """The 15 scenarios with which Click accepts a merchant.

        The emulator thinks of an account that is topped up, and prepares it three times: here each time is an order.
        Every request has a ``click_trans_id`` of its own; those of one order speak of one payment.
        """
        first, second, third = (self.new_payment(order, amount) for order in orders)
        nobody = self.new_payment("0" * 32, amount)
        done: list[Scenario] = []

        def send(what: str, expected: int, payment: Payment, action: int, error: int = 0, **changes: Any) -> None:
            payment.trans_id = next(self._ids)
            form = self.preparation(payment, **changes) if action == 0 else self.complete(payment, error, **changes)
            if "wrongly" in what:
                form = self.forged(form)
            answer = self.read_reply(tell(form))
            payment.prepare_id = answer.get("merchant_prepare_id", payment.prepare_id)
            done.append(Scenario(step=len(done) + 1, what=what, expected=expected, got=answer["error"]))

        send("a wrongly signed Prepare", -1, first, 0)
        send("a Prepare", 0, first, 0)
        send("a wrongly signed Complete", -1, first, 1)
        send("a Complete over another amount", -2, first, 1, amount=soums(amount - 100))
        send("a Complete", 0, first, 1)
        send("the Complete again", -4, first, 1)
        send("it is cancelled after all", -4, first, 1, error=-1)
        send("a Prepare of nobody's order", -5, nobody, 0)
        send("a Prepare", 0, second, 0)
        send("a Complete with another prepare id", -6, second, 1, merchant_prepare_id=str(next(self._ids)))
        send("a Complete", 0, second, 1)
        send("a Prepare", 0, third, 0)
        send("it is cancelled", -9, third, 1, error=NO_MONEY)
        send("it is cancelled again", -9, third, 1, error=NO_MONEY)
        send("it is completed after all", -9, third, 1)
        return done

    # the Merchant API

    def work(self, received: Received, fault: Fault) -> Answer:
        if not self._may_call(received):
            return Answer(401, b"")
        found = re.fullmatch(rf"/v2/merchant/payment/([a-z_]+)/{self.service_id}/([^/]+)/?(.*)", received.path)
        method, name, rest = (f"{received.method} {found[1]}", found[2], found[3]) if found else ("", "", "")
        answers: dict[str, Callable[[], Answer]] = {
            "GET status": lambda: self._status(name),
            "GET status_by_mti": lambda: self._status_of_order(name, rest),
            "DELETE reversal": lambda: self._reverse(name, None),
            "DELETE partial_reversal": lambda: self._reverse(name, rest),
        }
        return answers[method]() if method in answers else Answer(404, b"")

    def _may_call(self, received: Received) -> bool:
        said = re.fullmatch(r"([^:]+):([0-9a-f]{40}):([0-9]{10})", received.headers.get("auth", ""))
        if not said or abs(int(said[3]) - time.time()) > 300:
            return False
        if {received.headers.get("accept"), received.headers.get("content-type")} != {"application/json"}:
            return False
        return said[0] == auth_header(self.user_id, self.secret, int(said[3]))

    def _status(self, name: str) -> Answer:
        payment = self.payments.get(int(name))
        if payment is None:
            return _refused(-1907, "payment not found")
        return _said(payment_id=payment.id, payment_status=payment.status)

    def _status_of_order(self, order: str, day: str) -> Answer:
        for payment in reversed(self.payments.values()):
            if payment.order == order and payment.day == date.fromisoformat(day):
                return _said(payment_id=payment.id, merchant_trans_id=order)
        return _refused(-1907, "payment not found")

    def _reverse(self, name: str, text: str | None) -> Answer:
        payment = self.payments.get(int(name))
        if payment is None or payment.status != PAID:
            return _refused(-515, "payment cannot be reversed")
        if self.refuses:
            return _refused(-5019, self.refuses)
        left = payment.amount - sum(payment.returned)
        amount = left
        if text is not None:
            if not re.fullmatch(r"\d+\.\d\d", text) or not 0 < int(Decimal(text) * 100) <= left:
                return _refused(-516, "incorrect amount")
            amount = int(Decimal(text) * 100)
        payment.returned.append(amount)
        if text is None:
            payment.status = REVERSED
            return _said(payment_id=payment.id)
        return _said()

    def _of(self, page: str) -> list[Payment]:
        order = self.read_link(page)["transaction_param"]
        return [payment for payment in self.payments.values() if payment.order == order]

    def _form(self, payment: Payment) -> dict[str, str]:
        return {
            "click_trans_id": str(payment.trans_id),
            "service_id": self.service_id,
            "click_paydoc_id": str(payment.id),
            "merchant_trans_id": payment.order,
            "amount": soums(payment.amount),
            "error_note": "Success",
            "sign_time": datetime.now(TASHKENT).strftime("%Y-%m-%d %H:%M:%S"),
        }


def _said(**fields: Any) -> Answer:
    return Answer(200, json.dumps({"error_code": 0, "error_note": "Success", **fields}).encode())


def _refused(code: int, note: str) -> Answer:
    return Answer(200, json.dumps({"error_code": code, "error_note": note}).encode())
