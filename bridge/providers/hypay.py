"""HyPay (Hyp Pay, formerly Yaad Sarig): the hosted page of an Israeli card terminal.

HyPay has no webhooks and cannot be asked about a page: the query with which the buyer's browser comes back is the only
news of a payment. It is signed, but not everything in it is.

Sources: developers.hyp.co.il (APISign, payment page, CancelTrans, zikoyAPI, tables of CCodes). How the signatures are
computed is read from Hyp's own WooCommerce plugin, 2.2.3; it reproduces the signed examples that Hyp publishes.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, NoReturn
from unicodedata import category
from urllib.parse import quote, unquote_to_bytes

import httpx
import stamina

from bridge.errors import (
    InvalidRequest,
    NotSupported,
    ProviderRefused,
    ProviderUnavailable,
    RefundInDoubt,
    SignatureInvalid,
)
from bridge.providers.base import Provider
from bridge.providers.http import is_temporary, send
from bridge.settings import Settings
from bridge.values import Attempt, Named, Outcome, Page, Refund, RefundOrder, Source, Status

__all__ = ["HyPay", "request_signature", "verify_return"]

COINS = {"ILS": "1", "USD": "2", "EUR": "3", "GBP": "4"}  # all with two decimals
PAGE_LIFE = timedelta(minutes=20)  # pageTimeOut=True
LONGEST_NAME = 80  # of a product, in Info; the page's address must stay short
LONGEST_RETURN = 8_000  # a real one has fewer than 1,500 characters
CLIENT_NAME = "Customer"  # a name is obligatory (CCode 401), and we know none

# the fields that Sign covers, in this order; after HKId where there is one (standing orders)
SIGNED = ("Id", "CCode", "Amount", "ACode", "Order", "Fild1", "Fild2", "Fild3")
# names with which a stranger could steer our question; ours come first, and only ours are sent
OURS = frozenset({"action", "what", "masof", "key", "passp"})
NOT_IN_SIGNATURE = frozenset({"KEY", "PassP", "What", "ACTION", "User", "Pass", "isHash", "signature"})

BUSY = (9, 999)  # no connection to the card network, or inside HyPay
_STATUS: Mapping[int, Status] = {
    0: "completed",
    9: "pending",
    700: "processing",  # J5: held, not charged
    800: "processing",  # postponed: charged once the merchant commits it
    998: "cancelled",
    999: "pending",
}
_MONEY = ("completed", "processing")
_HINTS = {
    33: "It is more than what is left of the payment.",
    401: "HyPay wants a name of the client.",
    402: "HyPay wants a text in Info.",
    901: "Ask HyPay to allow this method on the terminal.",
    902: (
        "Check PGCHECKOUT_HYPAY_TERMINAL, PGCHECKOUT_HYPAY_API_KEY and PGCHECKOUT_HYPAY_API_PASSWORD, and in HyPay's"
        " portal that pages are verified by signature and that this server's address is allowed."
    ),
}
_MESSAGES = {600: "The card was only checked, not charged.", 998: "The payment was cancelled."}

_CARD_NAMES = frozenset({
    "card", "cardno", "cardnum", "cardnumber", "cc", "ccno", "ccnum", "ccnumber", "creditcard", "creditcardnumber",
    "cvc", "cvc2", "cvn", "cvv", "cvv2", "pan", "securitycode",
})  # fmt: skip
# ids and telephone numbers: one in ten of their long ones looks like a card number, and refusing a return loses money
_NO_CARD = frozenset({"acode", "cell", "fild3", "hesh", "hkid", "id", "order", "phone", "sign", "uid", "userid"})
_VISIBLE = "".join(map(chr, range(0x21, 0x7F))).replace("#", "")


@dataclass(frozen=True, slots=True)
class _Field:
    """One ``name=value`` as it was received, in bytes."""

    raw: bytes
    name: str

    @property
    def plain(self) -> str:
        """The name as the most forgiving reader would take it."""
        return re.sub("[^a-z0-9]", "", self.name.lower())

    @property
    def value(self) -> bytes:
        return self.decoded(b" ")

    def decoded(self, plus: bytes) -> bytes:
        return unquote_to_bytes(self.raw.partition(b"=")[2].replace(b"+", plus))


def request_signature(key: str, parameters: Mapping[str, str | bytes]) -> str:
    """``signature`` of a request: HMAC-SHA256 over its parameters, sorted by name and percent-encoded (RFC 3986)."""
    pairs = sorted((name, value) for name, value in parameters.items() if name not in NOT_IN_SIGNATURE)
    return _hmac(key, pairs)


def verify_return(key: str, query: str) -> None:
    """Check ``Sign`` of a return without asking HyPay. Raises SignatureInvalid; InvalidRequest as ``read_return``."""
    _check_sign(key, _read_return(query))


class HyPay(Provider):
    """The HyPay adapter. The canonical payment id is HyPay's ``Id`` of the transaction."""

    name = "hypay"
    title = "HyPay"
    needs = ("hypay_terminal", "hypay_api_key", "hypay_api_password")
    currencies = frozenset(COINS)
    returns_are_proof = True
    refunds_can_be_asked = False

    def __init__(self, settings: Settings, client: httpx.AsyncClient) -> None:
        if not (settings.hypay_terminal and settings.hypay_api_key and settings.hypay_api_password):
            raise ValueError("hypay_terminal, hypay_api_key and hypay_api_password are needed")
        self._settings = settings
        self._client = client
        self._terminal = settings.hypay_terminal
        self._key = settings.hypay_api_key.get_secret_value()
        self._password = settings.hypay_api_password.get_secret_value()

    async def open_page(self, attempt: Attempt) -> Page:
        """``APISign`` with ``What=SIGN``: HyPay signs our parameters, and they are the page's address. It keeps
        nothing, so that the same attempt always has the same page."""
        if attempt.reference is None or attempt.expires_at is None:
            raise ValueError("the attempt must be stored first")
        page = self._page(attempt)
        answer = await self._asked({"action": "APISign", "What": "SIGN", "KEY": self._key}, _encoded(page))
        fields = _fields(answer)
        names = {field.name for field in fields}
        if "signature" not in names and "Masof" in names:
            raise ProviderRefused(
                "HyPay did not sign the page.", "Turn on `Verify by signature in the payment page` in HyPay's portal."
            )
        if "signature" not in names:
            _refuse(_ccode(fields))
        self._check_page(page, fields)
        address = _transportable(answer).decode()
        return Page(
            provider_session_id=attempt.reference,
            url=f"{self._settings.hypay_url}?{address}",
            expires_at=min(attempt.expires_at, datetime.now(UTC) + PAGE_LIFE),
        )

    async def ask(self, attempt: Attempt, source: Source, *, returned: str = "") -> Outcome:
        """``APISign`` with ``What=VERIFY`` over the query of the return. What it says of the buyer is not read, and the
        currency is ours: ``Coin`` is not signed."""
        if not returned:
            raise NotSupported("HyPay cannot be asked about a page; only the buyer's return tells.")
        fields = _read_return(returned)
        values = {field.name: _text(field.value) for field in fields}
        if attempt.reference is None or values.get("Order") != attempt.reference:
            raise SignatureInvalid("The return is about another payment.")
        code = _ccode(fields)
        if not values.get("Sign") and code is not None and _STATUS.get(code) not in _MONEY:
            # HyPay does not promise to sign failures; this one proves nothing, and the page can still be paid
            return self._outcome(attempt, source, "pending")
        if values.get("Coin") in COINS.values() and values["Coin"] != COINS.get(attempt.currency):
            raise SignatureInvalid("The return is about another currency.")
        _check_sign(self._key, fields)
        await self._confirm(fields)
        return self._read(attempt, source, code, values)

    def read_return(self, query: str) -> Named:
        """``Order``. Raises InvalidRequest for repeated names and for card data, and says nothing of their values."""
        orders = [_text(field.value) for field in _read_return(query) if field.name == "Order"]
        return Named(reference=orders[0] if orders else None)

    async def refund(self, attempt: Attempt, order: RefundOrder) -> Refund:
        """``CancelTrans`` (until the terminal has handed the day's payments in), else ``zikoyAPI``. HyPay knows neither
        an idempotency key nor an inquiry: a lost answer stays lost."""
        payment = attempt.provider_payment_id
        if payment is None:
            raise ValueError("the attempt must be paid")
        if order.in_full:
            code, _ = await self._told({"action": "CancelTrans"}, {"TransId": payment})
            if code == 0:
                return Refund(
                    provider_refund_id=f"cancel-{payment}", amount=order.amount, status="succeeded", reason=order.reason
                )
            if code not in (901, 920):  # voids are not allowed here, or it is too late for one
                _refuse(code)
        refund = {"TransId": payment, "Amount": _major(order.amount), "UTF8": "True", "UTF8out": "True"}
        code, identifier = await self._told({"action": "zikoyAPI"}, refund)
        if code != 0:
            _refuse(code)
        if not re.fullmatch("[0-9]{1,30}", identifier):
            raise RefundInDoubt("HyPay gave the money back and did not say under which id.", "Look in HyPay's portal.")
        return Refund(provider_refund_id=identifier, amount=order.amount, status="succeeded", reason=order.reason)

    def _page(self, attempt: Attempt) -> dict[str, str]:
        coin = COINS.get(attempt.currency)
        if coin is None:
            raise ProviderRefused(f"HyPay cannot take {attempt.currency}.", f"It takes: {', '.join(sorted(COINS))}.")
        return {
            "Order": attempt.reference or "",
            "Info": f"{_harmless(attempt.product_name)} {attempt.reference}".strip(),
            "Amount": _major(attempt.amount),
            "Coin": coin,
            "ClientName": CLIENT_NAME,
            "UserId": "000000000",  # nobody is asked for one
            "Tash": "1",  # one instalment, and no choice
            "FixTash": "True",
            "PageLang": self._settings.hypay_page_language,
            "Sign": "True",
            "MoreData": "True",
            "UTF8": "True",
            "UTF8out": "True",
            "pageTimeOut": "True",
        }

    def _check_page(self, page: Mapping[str, str], fields: Iterable[_Field]) -> None:
        """Whether HyPay has signed what we asked for, and nothing of it is secret."""
        signed = {field.name: field.value for field in fields}
        wanted = {name: page[name] for name in ("Order", "Coin", "Sign")} | {"Masof": self._terminal, "action": "pay"}
        same = all(signed.get(name) == value.encode() for name, value in wanted.items())
        if not same or _minor(_text(signed.get("Amount", b""))) != _minor(page["Amount"]):
            raise ProviderUnavailable("HyPay signed another page than ours.", "Try again later.")
        if signed.keys() & {"KEY", "PassP"}:
            raise ProviderUnavailable("HyPay's page would show secrets.", "Ask HyPay.")
        expected = request_signature(self._key, signed)
        if not hmac.compare_digest(expected.encode(), signed["signature"].lower()):
            # a return could not be checked either
            raise ProviderRefused("HyPay's signature does not match.", "Check PGCHECKOUT_HYPAY_API_KEY.")

    async def _confirm(self, fields: Iterable[_Field]) -> None:
        received = b"&".join(field.raw for field in fields if field.plain not in OURS)
        answer = await self._asked({"action": "APISign", "What": "VERIFY", "KEY": self._key}, received)
        code = _ccode(_fields(answer))
        if code == 902:
            # its Sign fits our key, so no stranger wrote it
            raise ProviderRefused(
                "HyPay does not confirm this return (CCode 902).",
                "It was altered, or HyPay does not accept PGCHECKOUT_HYPAY_API_PASSWORD or this server's address.",
            )
        if code != 0:
            _refuse(code)

    def _read(self, attempt: Attempt, source: Source, code: int | None, values: Mapping[str, str]) -> Outcome:
        """A return that HyPay has confirmed."""
        if code is None:
            raise InvalidRequest("The return has no CCode.", "Compare it with HyPay's documentation.")
        status = _STATUS.get(code, "failed")
        if status in _MONEY:
            amount, payment = _minor(values.get("Amount", "")), values.get("Id", "")
            if amount is None or not re.fullmatch("[0-9]{1,30}", payment):
                raise InvalidRequest("The return has no Id or no Amount.", "Compare it with HyPay's documentation.")
            return self._outcome(attempt, source, status, provider_payment_id=payment, amount=amount)
        message = _MESSAGES.get(code, f"The payment failed (CCode {code}).")
        return self._outcome(attempt, source, status, error_code=str(code), error_message=message)

    def _outcome(self, attempt: Attempt, source: Source, status: Status, **said: Any) -> Outcome:
        return Outcome(
            provider=self.name,
            status=status,
            source=source,
            reference=attempt.reference,
            provider_session_id=attempt.reference,
            currency=attempt.currency,
            **said,
        )

    async def _asked(self, question: Mapping[str, str], rest: bytes) -> bytes:
        """The answer to a question that is safe to repeat; HyPay's trouble comes with HTTP 200."""
        async for attempt in stamina.retry_context(on=_Busy, attempts=3, timeout=20.0, wait_initial=0.25, wait_max=4.0):
            with attempt:
                response = await send(self._client, self._request(question, rest), provider="HyPay")
                if not response.is_success:
                    raise ProviderRefused(f"HyPay answered HTTP {response.status_code}.", "Check PGCHECKOUT_HYPAY_URL.")
                answer = response.content.strip()
                if answer.startswith(b"<") or _ccode(_fields(answer)) in BUSY:
                    raise _Busy("HyPay is out of order.", "Try again later.")
                return answer
        raise AssertionError("unreachable")

    async def _told(self, order: Mapping[str, str], rest: Mapping[str, str]) -> tuple[int, str]:
        """CCode and ``Id`` of the answer to an order that must not be repeated. Raises RefundInDoubt."""
        try:
            response = await self._client.send(self._request(order, _encoded(rest)))
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:
            raise ProviderUnavailable(
                f"HyPay cannot be reached ({type(error).__name__}).", "Try again later."
            ) from None
        except httpx.RequestError as error:
            raise _in_doubt(type(error).__name__) from None
        if response.is_server_error:
            raise _in_doubt(f"HTTP {response.status_code}")
        if is_temporary(response):
            raise ProviderUnavailable(f"HyPay answered HTTP {response.status_code}.", "Try again later.")
        if not response.is_success:
            raise ProviderRefused(f"HyPay answered HTTP {response.status_code}.", "Check PGCHECKOUT_HYPAY_URL.")
        fields = _fields(response.content.strip())
        code = _ccode(fields)
        if code is None or code in BUSY:
            raise _in_doubt("no CCode" if code is None else f"CCode {code}")
        return code, next((_text(field.value) for field in fields if field.name == "Id"), "")

    def _request(self, parameters: Mapping[str, str], rest: bytes) -> httpx.Request:
        """``rest`` goes out byte for byte. httpx logs the URL, and not the target: it has the secrets."""
        url = httpx.URL(str(self._settings.hypay_url))
        head = _encoded({**parameters, "PassP": self._password, "Masof": self._terminal})
        target = url.raw_path + b"?" + head + b"&" + _transportable(rest)
        return self._client.build_request("GET", url, extensions={"target": target})


class _Busy(ProviderUnavailable):
    """The same question can be answered in a moment."""


def _in_doubt(why: str) -> RefundInDoubt:
    return RefundInDoubt(
        f"HyPay's answer was lost ({why}).", "Look in HyPay's portal whether the money went back, before another try."
    )


def _refuse(code: int | None) -> NoReturn:
    if code is None or code == 0:
        raise ProviderUnavailable("HyPay's answer is not as documented.", "Try again later.")
    # not its errMsg: that can repeat what the buyer typed
    raise ProviderRefused(f"HyPay refused (CCode {code}).", _HINTS.get(code, "See HyPay's table of CCodes."))


def _fields(raw: bytes) -> list[_Field]:
    parts = [part for part in raw.split(b"&") if part]
    return [_Field(part, _text(unquote_to_bytes(part.partition(b"=")[0].replace(b"+", b" ")))) for part in parts]


def _read_return(query: str) -> list[_Field]:
    """The fields of a return. The route gives bytes of a form as latin-1."""
    try:
        raw = query.encode("latin-1")
    except UnicodeEncodeError:
        raw = query.encode(errors="replace")
    if len(raw) > LONGEST_RETURN:
        raise InvalidRequest("The return is too long.", "HyPay's own are much shorter.")
    fields = _fields(raw)
    # HyPay reads the first of two, others the last
    if len({field.plain for field in fields}) < len(fields):
        raise InvalidRequest("The return names a field twice.", "HyPay's own never do.")
    if any(map(_is_card_data, fields)):
        raise InvalidRequest("The return carries card data, and was not read.", "HyPay's own never do.")
    return fields


def _is_card_data(field: _Field) -> bool:
    value = field.value.strip()
    if field.plain in _NO_CARD or not value:
        return False
    digits = re.sub(rb"[ -]", b"", value)
    return field.plain in _CARD_NAMES or bool(re.fullmatch(rb"[1-9][0-9]{12,18}", digits) and _passes_luhn(digits))


def _passes_luhn(digits: bytes) -> bool:
    ones = [digit - ord("0") for digit in reversed(digits)]
    return (sum(ones[::2]) + sum(sum(divmod(2 * digit, 10)) for digit in ones[1::2])) % 10 == 0


def _check_sign(key: str, fields: Collection[_Field]) -> None:
    by_name = {field.name: field for field in fields}
    given = by_name["Sign"].value.lower() if "Sign" in by_name else b""
    names = [name for name in ("HKId", *SIGNED) if name in by_name or name != "HKId"]
    valid = False
    for plus in (b" ", b"+"):
        received = [(name, by_name[name].decoded(plus) if name in by_name else b"") for name in names]
        # a browser or a form may have changed the charset in which HyPay signed
        for charset in (None, "utf-8", "cp1255"):
            pairs = [(name, _text(value).encode(charset, "replace") if charset else value) for name, value in received]
            valid |= hmac.compare_digest(_hmac(key, pairs).encode(), given)
    if not valid:
        raise SignatureInvalid("HyPay did not sign this return: it was altered, or check PGCHECKOUT_HYPAY_API_KEY.")


def _hmac(key: str, pairs: Iterable[tuple[str, str | bytes]]) -> str:
    message = "&".join(f"{name}={quote(value, safe='')}" for name, value in pairs)
    return hmac.new(key.encode(), message.encode(errors="replace"), hashlib.sha256).hexdigest()


def _ccode(fields: Iterable[_Field]) -> int | None:
    code = next((field.value for field in fields if field.name == "CCode"), b"")
    return int(code) if re.fullmatch(b"[0-9]{1,4}", code) else None


def _text(value: bytes) -> str:
    """HyPay writes UTF-8 when asked to, and on some ways windows-1255 all the same."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("cp1255", "replace")


def _encoded(parameters: Mapping[str, str]) -> bytes:
    return "&".join(f"{name}={quote(value, safe='')}" for name, value in parameters.items()).encode()


def _transportable(raw: bytes) -> bytes:
    """The same bytes, but for those that cannot stand in an address: these percent-encoded."""
    return quote(raw, safe=_VISIBLE).encode()


def _harmless(name: str) -> str:
    """Without what HyPay would echo raw into addresses, and without control characters and lone surrogates."""
    kept = "".join(" " if letter in "#&?=%+" or category(letter).startswith("C") else letter for letter in name)
    return " ".join(kept.split())[:LONGEST_NAME].strip()


def _major(amount: int) -> str:
    """``_major(2500) == "25.00"``."""
    return f"{Decimal(amount).scaleb(-2):.2f}"


def _minor(amount: str) -> int | None:
    """``_minor("25") == _minor("25.00") == 2500``; what is not whole is not counted. None for what is no amount."""
    if not re.fullmatch(r"[0-9]{1,12}(\.[0-9]{0,6})?", amount):
        return None
    return int(Decimal(amount).scaleb(2))
