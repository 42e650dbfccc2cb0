"""A stand-in for pay.hyp.co.il: one terminal of HyPay, over real HTTP, with buyers and faults.

Behaves as developers.hyp.co.il says (APISign, the payment page, CancelTrans, zikoyAPI): url-encoded answers, HTTP 200
even for errors, the first of two parameters with one name counts. It signs with code of its own.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from urllib.parse import quote, unquote_to_bytes, urlsplit

from bridge.simulators.base import Answer, CannotDo, Delivery, Fault, Json, Received, Simulator, Tell

__all__ = ["Fault", "HyPaySimulator", "Transaction", "encoded", "sign_return"]

COINS = {"1": "ILS", "2": "USD", "3": "EUR", "4": "GBP"}
SIGNED = ("Id", "CCode", "Amount", "ACode", "Order", "Fild1", "Fild2", "Fild3")
BOOLEANS = ("FixTash", "Sign", "MoreData", "UTF8", "UTF8out", "pageTimeOut", "J5", "Postpone", "SendHesh")


class Refusal(Exception):
    """An error of HyPay's."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


@dataclass
class Transaction:
    """What became of one try to pay; ``amount`` in minor units."""

    id: str
    code: int
    order: str
    amount: int
    coin: str
    transmitted: bool = False
    cancelled: bool = False
    refunds: dict[str, int] = field(default_factory=dict)

    @property
    def taken(self) -> int:
        return self.amount if self.code == 0 else 0

    @property
    def given_back(self) -> int:
        return self.taken if self.cancelled else sum(self.refunds.values())


def encoded(value: str | bytes) -> str:
    """RFC 3986, upper case."""
    raw = value.encode() if isinstance(value, str) else value
    return "".join(chr(b) if (chr(b).isalnum() and b < 128) or chr(b) in "-._~" else f"%{b:02X}" for b in raw)


def sign_return(key: str, values: Mapping[str, str | bytes]) -> str:
    """``Sign`` over the eight fields."""
    message = "&".join(f"{name}={encoded(values[name])}" for name in SIGNED)
    return hmac.new(key.encode(), message.encode(), hashlib.sha256).hexdigest()


def read(query: str) -> dict[str, bytes]:
    """Names are case-sensitive, and the first of two counts."""
    values: dict[str, bytes] = {}
    for part in query.split("&"):
        name, _, value = part.partition("=")
        values.setdefault(unquote_to_bytes(name).decode("latin-1"), unquote_to_bytes(value.replace("+", " ")))
    return values


class HyPaySimulator(Simulator):
    """A terminal. ``charset`` is that of its returns.

    HyPay tells nobody anything: deeds return no webhooks, and those that only a webhook or a question could bring to
    the bridge (a page that times out, a refund in the portal, a dispute) are not there.
    """

    name = "hypay"
    currency = "ILS"
    can_be_asked = False

    def __init__(self, *, charset: str = "utf-8") -> None:
        super().__init__()
        self.terminal = "0010" + "".join(secrets.choice("0123456789") for _ in range(6))
        self.key = secrets.token_hex(20)
        self.password = "pass " + secrets.token_hex(6) + "&#"
        self.charset = charset
        self.buyer = ("דנה לוי", "dana+shop@example.test", "0501234567")
        self.signs_failures = True
        self.allows_voids = True
        self.verifies_pages = True  # the portal's option "Verify by signature in the payment page"
        self.transactions: dict[str, Transaction] = {}
        self._next = 90_000_000

    def settings(self) -> Json:
        return {
            "hypay_terminal": self.terminal,
            "hypay_api_key": self.key,
            "hypay_api_password": self.password,
            "hypay_url": f"{self.url}/p/",
        }

    # what buyers and merchants do

    def buyer_pays(
        self, page: str, tell: Tell, *, amount: int | None = None, currency: str | None = None
    ) -> list[Delivery]:
        self._try(page, 0, amount=amount, currency=currency)
        return []

    def buyer_is_declined(self, page: str, tell: Tell) -> list[Delivery]:
        self._try(page, 4)
        return []

    def buyer_ends(self, page: str, code: int) -> str:
        """A try ends with this CCode; the query of the return."""
        self._try(page, code)
        return self.return_query(page)

    def return_query(self, page: str) -> str:
        """After the latest try. There is no address for buyers who give up without one."""
        tries = self._tries(page)
        if not tries:
            raise CannotDo("HyPay sends nobody back who has not tried to pay")
        return self.return_of(tries[-1])

    def forged_return_query(self, page: str) -> str:
        return self.return_of(self._tries(page)[-1], key="somebody-elses")

    def return_of(self, transaction: Transaction, key: str | None = None) -> str:
        """The query with which HyPay sends a buyer back; signed with ``key``."""
        major = f"{Decimal(transaction.amount) / 100:f}"
        name, email, phone = (text.encode(self.charset) for text in self.buyer)
        values: dict[str, str | bytes] = {
            "Id": transaction.id, "CCode": str(transaction.code), "Amount": major, "ACode": "0099887",
            "Order": transaction.order, "Fild1": name, "Fild2": email, "Fild3": phone,
        }  # fmt: skip
        if transaction.code in (0, 700, 800) or self.signs_failures:
            values["Sign"] = sign_return(key or self.key, values)
        values |= {
            "Bank": "6", "Payments": "1", "UserId": "000000000", "Brand": "2", "Issuer": "2", "L4digit": "4242",
            "Coin": transaction.coin, "Tmonth": "03", "Tyear": "2029", "errMsg": " (0)", "Hesh": "0",
            "UID": "26112012345678901234567",
        }  # fmt: skip
        return "&".join(f"{name}={encoded(value)}" for name, value in values.items())

    def day_ends(self) -> None:
        """The terminal hands its payments in: they cannot be cancelled any more."""
        for transaction in self.transactions.values():
            transaction.transmitted = True

    # what the provider knows

    def taken(self, page: str) -> int:
        return sum(transaction.taken for transaction in self._tries(page))

    def given_back(self, page: str) -> int:
        return sum(transaction.given_back for transaction in self._tries(page))

    def _order(self, page: str) -> str:
        values = read(urlsplit(page).query)
        given = values.pop("signature", b"").decode("latin-1")
        if values.get("action") != b"pay" or not hmac.compare_digest(self._signature(values), given):
            raise Refusal(902)
        return values["Order"].decode()

    def _tries(self, page: str) -> list[Transaction]:
        order = self._order(page)
        return [transaction for transaction in self.transactions.values() if transaction.order == order]

    def _try(self, page: str, code: int, *, amount: int | None = None, currency: str | None = None) -> None:
        order = self._order(page)
        values = read(urlsplit(page).query)
        self._next += 1
        due = int(Decimal(values["Amount"].decode()) * 100)
        coin = next(coin for coin, name in COINS.items() if name == currency) if currency else values["Coin"].decode()
        self.transactions[str(self._next)] = Transaction(str(self._next), code, order, amount or due, coin)

    def _give_back(self, transaction: Transaction, amount: int) -> str:
        if not 0 < amount <= transaction.taken - transaction.given_back:
            raise Refusal(33)
        self._next += 1
        transaction.refunds[str(self._next)] = amount
        return str(self._next)

    def _signature(self, values: Mapping[str, bytes]) -> str:
        left_out = ("KEY", "PassP", "What", "ACTION", "User", "Pass", "isHash")
        message = "&".join(f"{name}={encoded(values[name])}" for name in sorted(values) if name not in left_out)
        return hmac.new(self.key.encode(), message.encode(), hashlib.sha256).hexdigest()

    # what arrives over HTTP

    def work(self, received: Received, fault: Fault) -> Answer:
        try:
            answer = self._act(received)
        except Refusal as refusal:
            answer = f"CCode={refusal.code}&errMsg={quote('שגיאה'.encode('cp1255'))}"
        return Answer(200, answer.encode(), {"Content-Type": "text/html; charset=UTF-8"})

    def _act(self, received: Received) -> str:
        if received.method != "GET" or received.path != "/p/":
            return "<html><body>System error</body></html>"
        values = read(received.query)
        action, what = values.get("action"), values.get("What")
        signing = action == b"APISign"
        if values.get("Masof") != self.terminal.encode() or values.get("PassP") != self.password.encode():
            raise Refusal(902)
        if signing and values.get("KEY") != self.key.encode():
            raise Refusal(902)
        match action, what:
            case b"APISign", b"SIGN":
                return self._sign(values)
            case b"APISign", b"VERIFY":
                return f"CCode={self._verify(values)}"
            case b"CancelTrans", None:
                return self._cancel(values)
            case b"zikoyAPI", None:
                return self._refund(values)
        raise Refusal(901)

    def _sign(self, values: dict[str, bytes]) -> str:
        for wrong, code in (
            (not values.get("ClientName") and not values.get("ClientLName"), 401),
            (not values.get("Info"), 402),
            (not re.fullmatch(rb"[0-9]+(\.[0-9]{1,2})?", values.get("Amount", b"0")), 905),
            (values.get("Coin", b"1").decode("latin-1") not in COINS, 905),
            (values.get("PageLang", b"HEB") not in (b"HEB", b"ENG"), 905),
            (any(values.get(name, b"True") not in (b"True", b"False") for name in BOOLEANS), 905),
        ):
            if wrong:
                raise Refusal(code)
        page = {name: value for name, value in values.items() if name not in ("KEY", "PassP", "What")}
        page["action"] = b"pay"
        parts = [f"{name}={encoded(page[name])}" for name in sorted(page)]
        signature = [f"signature={self._signature(page)}"] if self.verifies_pages else []
        return "&".join([*parts, *signature])

    def _verify(self, values: dict[str, bytes]) -> int:
        fields: dict[str, str | bytes] = {name: values.get(name, b"") for name in SIGNED}
        return 0 if values.get("Sign", b"").decode("latin-1") == sign_return(self.key, fields) else 902

    def _paid(self, values: dict[str, bytes], otherwise: int) -> Transaction:
        found = self.transactions.get(values.get("TransId", b"").decode("latin-1"))
        if found is None or not found.taken or found.cancelled:
            raise Refusal(otherwise)
        return found

    def _cancel(self, values: dict[str, bytes]) -> str:
        if not self.allows_voids:
            raise Refusal(901)
        found = self._paid(values, 920)
        if found.transmitted or found.refunds:
            raise Refusal(920)
        found.cancelled = True
        return f"TransId={found.id}&CCode=0&Hesh=0"

    def _refund(self, values: dict[str, bytes]) -> str:
        amount = values.get("Amount", b"").decode("latin-1")
        if not re.fullmatch(r"[0-9]+(\.[0-9]{1,2})?", amount):
            raise Refusal(905)
        identifier = self._give_back(self._paid(values, 250), int(Decimal(amount) * 100))
        return f"Id={identifier}&CCode=0&ACode=0012345&HeshASM=0"
