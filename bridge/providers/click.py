"""Click (click.uz, Uzbekistan): its own payment page behind a link, SHOP API and Merchant API.

Sources: docs.click.uz (the payment link, SHOP API requests and error codes, Merchant API) and Click's own libraries,
github.com/click-llc. Click calls us twice for each payment: Prepare asks for consent, Complete says what became of it.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any
from urllib.parse import parse_qsl, urlencode

import httpx

from bridge.errors import (
    InvalidRequest,
    NotSupported,
    PgcheckoutError,
    ProviderError,
    ProviderRefused,
    ProviderUnavailable,
    RefundInDoubt,
    SignatureInvalid,
)
from bridge.providers.base import Provider, query_values, return_url
from bridge.providers.http import is_temporary, send
from bridge.providers.shapes import MALFORMED, shaped, storable, text
from bridge.settings import Settings
from bridge.values import (
    Attempt,
    Event,
    Handled,
    Named,
    Notification,
    Outcome,
    Page,
    Refund,
    RefundOrder,
    Source,
    Status,
)

__all__ = ["Click", "sign_message"]

# Click names no time zone, so its own; no summer time since 1992, and slim images come without zone data
TASHKENT = timezone(timedelta(hours=5), "UZT")

# docs.click.uz, SHOP API: what we can answer, with Click's own words
OK, BAD_SIGNATURE, WRONG_AMOUNT, NO_SUCH_ACTION, ALREADY_PAID = 0, -1, -2, -3, -4
NO_SUCH_ORDER, NO_SUCH_TRANSACTION, NOT_APPLIED, BAD_REQUEST, CANCELLED = -5, -6, -7, -8, -9
NOTES = {
    OK: "Success",
    BAD_SIGNATURE: "SIGN CHECK FAILED!",
    WRONG_AMOUNT: "Incorrect parameter amount",
    NO_SUCH_ACTION: "Action not found",
    ALREADY_PAID: "Already paid",
    NO_SUCH_ORDER: "User does not exist",
    NO_SUCH_TRANSACTION: "Transaction does not exist",
    NOT_APPLIED: "Failed to update user",
    BAD_REQUEST: "Error in request from click",
    CANCELLED: "Transaction cancelled",
}
_REASONS = {
    "signature_invalid": BAD_SIGNATURE,
    "price_mismatch": WRONG_AMOUNT,
    "not_supported": NO_SUCH_ACTION,
    "session_not_found": NO_SUCH_ORDER,
    "attempt_not_found": NO_SUCH_TRANSACTION,
    "invalid_request": BAD_REQUEST,
    "session_not_pending": CANCELLED,
    "session_expired": CANCELLED,
}
_PAID = ("completed", "partially_refunded", "refunded")
_ACTIONS = {"0": "prepare", "1": "complete"}

_NUMBER = "[0-9]{1,18}"
_WELL_FORMED = {
    "click_trans_id": _NUMBER,
    "service_id": _NUMBER,
    "click_paydoc_id": _NUMBER,
    "merchant_trans_id": "(?s:.{1,200})",
    "amount": r"[0-9]{1,13}(\.[0-9]{1,2}0*)?",  # soums; 1000, 38400.5 and 1000.00 have all been seen
    "action": "-?[0-9]{1,9}",
    "error": "0|-[1-9][0-9]{0,8}",
    "sign_time": "20[0-9]{2}-[0-9]{2}-[0-9]{2} [0-9]{2}:[0-9]{2}:[0-9]{2}",
    "sign_string": "(?s:.+)",
}
_KEPT = (
    "click_trans_id", "service_id", "click_paydoc_id", "merchant_trans_id", "merchant_prepare_id", "amount", "action",
    "error", "error_note", "sign_time",
)  # fmt: skip


def sign_message(form: Mapping[str, str], secret: str) -> str:
    """The ``sign_string`` of a SHOP API request: MD5 in hex over the values as they were received."""
    prepare_id = form.get("merchant_prepare_id", "") if form["action"] == "1" else ""
    signed = (
        form["click_trans_id"], form["service_id"], secret, form["merchant_trans_id"], prepare_id, form["amount"],
        form["action"], form["sign_time"],
    )  # fmt: skip
    # the scheme is Click's choice; the flag lets it work where MD5 is switched off for everything else
    return hashlib.md5("".join(signed).encode(errors="surrogateescape"), usedforsecurity=False).hexdigest()


class Click(Provider):
    """The Click adapter."""

    name = "click"
    title = "Click"
    needs = ("click_merchant_id", "click_service_id", "click_merchant_user_id", "click_secret_key")
    currencies = frozenset({"UZS"})
    answers = True
    refunds_can_be_asked = False

    def __init__(self, settings: Settings, client: httpx.AsyncClient) -> None:
        if settings.click_secret_key is None:
            raise ValueError("click_secret_key is needed")
        self._settings = settings
        self._client = client
        self._service = str(settings.click_service_id)
        self._secret = settings.click_secret_key.get_secret_value()

    async def open_page(self, attempt: Attempt) -> Page:
        """A link; nothing is created at Click before the buyer pays. The buyer can edit it: Prepare checks the amount.

        The attempt's number is what Click will get and repeat as ``merchant_prepare_id``.
        """
        if attempt.reference is None or attempt.number is None:
            raise ValueError("the attempt must be stored first")
        if attempt.currency != "UZS" or attempt.amount <= 0:
            raise ProviderRefused(
                f"Click cannot take {attempt.amount} minor units of {attempt.currency}.", "Give a price in UZS."
            )
        link = {
            "service_id": self._service,
            "merchant_id": str(self._settings.click_merchant_id),
            "amount": _soums(attempt.amount),
            "transaction_param": attempt.reference,
            "return_url": return_url(self._settings, self.name, f"reference={attempt.reference}"),
            "merchant_user_id": str(self._settings.click_merchant_user_id),
        }
        return Page(
            provider_session_id=str(attempt.number),
            url=f"{self._settings.click_page_url}?{urlencode(link)}",
            expires_at=attempt.expires_at,
        )

    async def ask(self, attempt: Attempt, source: Source, *, returned: str = "") -> Outcome:
        """``payment/status_by_mti``, then ``payment/status``.

        Neither states the amount: a payment that succeeded has the one that Prepare consented to.
        """
        payment = await self._payment_of(attempt)
        code = await self._payment_status(payment) if payment else None
        status = _not_known(attempt) if code is None else _payment_status(code)
        completed = status == "completed"
        return Outcome(
            provider=self.name,
            status=status,
            source=source,
            reference=attempt.reference,
            provider_session_id=attempt.provider_session_id,
            provider_payment_id=payment,
            amount=attempt.amount if completed else None,
            currency=attempt.currency if completed else None,
            error_code=str(code) if status == "failed" else None,
        )

    async def read_event(self, headers: Mapping[str, str], body: bytes) -> Event:
        """Check a Prepare or Complete in the order of Click's own libraries: form, signature, service, action."""
        with shaped(InvalidRequest, "Click's request"):
            form = _read_form(body)
            _check(form)
        given = form["sign_string"].lower().encode(errors="replace")
        if not hmac.compare_digest(sign_message(form, self._secret).encode(), given):
            raise SignatureInvalid("sign_string does not fit.", "Check PGCHECKOUT_CLICK_SECRET_KEY.")
        if form["service_id"] != self._service:
            raise InvalidRequest("The request is about another service.", "Check PGCHECKOUT_CLICK_SERVICE_ID.")
        action = _ACTIONS.get(form["action"])
        if action is None:
            raise NotSupported(f"Click has no action {form['action']}.")
        kept: dict[str, str] = storable({name: form[name] for name in _KEPT if name in form}, ())
        # the same message has the same id, however often it comes; another verdict is another message
        parts = [action, kept["click_trans_id"], kept["merchant_trans_id"]]
        return Event(id=":".join(parts + [kept["error"]] * (action == "complete")), type=action, payload=kept)

    async def interpret(self, event: Event) -> Notification:
        """Prepare asks; Complete says that Click debited the buyer, or that it did not."""
        form = event.payload
        debited, prepared = form["error"] == "0", form.get("merchant_prepare_id", "")
        if event.type == "prepare":
            if not debited:
                return Notification(event=event, ignored="Click gave it up before it began")
            return Notification(event=event, asks=True, outcome=self._outcome(form, "processing"))
        if not prepared:
            return Notification(event=event, ignored="Click gave up a payment to which nobody had consented")
        page = str(int(prepared))
        if debited:
            outcome = self._outcome(form, "completed", provider_session_id=page)
            # what Click has cancelled before, it may not confirm
            return Notification(event=event, outcome=outcome, not_if=("failed",))
        said = {"error_code": form["error"], "error_message": form.get("error_note") or None}
        return Notification(event=event, outcome=self._outcome(form, "failed", provider_session_id=page, **said))

    def reply(self, body: bytes, result: Handled | PgcheckoutError) -> Mapping[str, Any]:
        """The code for what became of it; the ids are repeated where they can be read."""
        try:
            form = _read_form(body)
        except MALFORMED:
            form = {}
        code = _code(form, result)
        answer: dict[str, Any] = {"error": code, "error_note": NOTES[code]}
        trans_id, prepare_id = _number(form.get("click_trans_id")), _number(form.get("merchant_prepare_id"))
        if trans_id is not None:
            answer["click_trans_id"] = trans_id
        if "merchant_trans_id" in form:
            answer["merchant_trans_id"] = storable(form["merchant_trans_id"], ())
        if form.get("action") == "1":
            answer["merchant_confirm_id"] = prepare_id
        elif code == OK and isinstance(result, Handled) and result.attempt:
            answer["merchant_prepare_id"] = result.attempt.number
        return answer

    def read_return(self, query: str) -> Named:
        """Our own ``reference``. Click may add parameters, even behind a second question mark; they prove nothing."""
        reference, *_ = query_values(query).get("reference", "").split("?")
        return Named(reference=reference or None)

    async def refund(self, attempt: Attempt, order: RefundOrder) -> Refund:
        """``payment/reversal``, or ``payment/partial_reversal`` for a part. Click gives reversals no id and no key.

        A whole payment can be reversed once only, and its status then shows it. A part whose answer was lost is in
        doubt. Click reverses payments of the current month; last month's on the first day of this one.
        """
        payment = attempt.provider_payment_id
        if payment is None:
            raise ValueError("the attempt must be paid")
        what, amount = ("reversal", "") if order.in_full else ("partial_reversal", f"/{_soums(order.amount)}")
        try:
            refusal = await self._reverse(f"/payment/{what}/{self._service}/{payment}{amount}")
        except RefundInDoubt:
            # one that is not reversed yet may be so in a moment
            if not (order.in_full and await self._is_reversed(payment)):
                raise
        else:
            # an earlier answer to this order may have been lost
            if refusal and not (order.in_full and await self._is_reversed(payment)):
                raise refusal
        return Refund(provider_refund_id=order.key, amount=order.amount, status="succeeded", reason=order.reason)

    def _outcome(self, form: Mapping[str, str], status: Status, **said: Any) -> Outcome:
        at = datetime.strptime(form["sign_time"], "%Y-%m-%d %H:%M:%S").replace(tzinfo=TASHKENT)
        return Outcome(
            provider=self.name,
            status=status,
            source="webhook",
            reference=form["merchant_trans_id"],
            provider_payment_id=str(int(form["click_paydoc_id"])),
            amount=int(Decimal(form["amount"]) * 100),
            currency="UZS",
            paid_at=min(at, datetime.now(UTC)),
            **said,
        )

    async def _payment_of(self, attempt: Attempt) -> str | None:
        """Click's id of the payment; None when it knows none."""
        if attempt.created_at is None or attempt.expires_at is None or attempt.provider_session_id is None:
            return None
        for day in _days(attempt.created_at, attempt.expires_at):
            said = await self._look_up(f"/payment/status_by_mti/{self._service}/{attempt.reference}/{day}")
            if said is None or said.get("payment_id") is None:
                continue
            with shaped(ProviderUnavailable, "Click's answer"):
                if said.get("merchant_trans_id", attempt.reference) != attempt.reference:
                    raise ValueError("it is about another merchant_trans_id")
                return _payment_id(said["payment_id"])
        return None

    async def _payment_status(self, payment: str) -> int | None:
        said = await self._look_up(f"/payment/status/{self._service}/{payment}")
        if said is None:
            return None
        with shaped(ProviderUnavailable, "Click's answer"):
            if _payment_id(said.get("payment_id", payment)) != payment:
                raise ValueError("it is about another payment")
            code = said["payment_status"]
            if type(code) is not int or code > 2:
                raise ValueError("payment_status is none that is documented")
            return code

    async def _is_reversed(self, payment: str) -> bool | None:
        """Whether a payment that had succeeded is undone; None when nobody can tell."""
        try:
            code = await self._payment_status(payment)
        except ProviderError:
            return None
        return None if code in (None, 0, 1) else code != 2

    async def _look_up(self, path: str) -> dict[str, Any] | None:
        """None for what Click does not know. Its list of error codes is not published: any of them means that."""
        response = await send(self._client, self._request("GET", path), provider=self.title)
        if is_temporary(response):
            raise ProviderUnavailable(f"Click answered HTTP {response.status_code}.", "Try again later.")
        if response.status_code == 404:
            return None
        if not response.is_success:
            raise _refusal(response)
        with shaped(ProviderUnavailable, "Click's answer"):
            said = _read_answer(response)
            return said if said["error_code"] == 0 else None

    async def _reverse(self, path: str) -> ProviderRefused | None:
        """Click's refusal, or None when the money goes back. Raises RefundInDoubt when the answer was lost."""
        try:
            response = await self._client.send(self._request("DELETE", path))
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout):
            raise ProviderUnavailable("Click cannot be reached; nothing was sent.", "Try again later.") from None
        except httpx.RequestError as error:
            raise _in_doubt(type(error).__name__) from None
        if response.status_code == 429:
            raise ProviderUnavailable("Click answered HTTP 429.", "Try again later.")
        if response.is_server_error:
            raise _in_doubt(f"HTTP {response.status_code}")
        if not response.is_success:
            return _refusal(response)
        try:
            said = _read_answer(response)
        except MALFORMED as surprise:
            raise _in_doubt(type(surprise).__name__) from None
        if said["error_code"] == 0:
            return None
        note = storable(str(said.get("error_note"))[:200], ())
        return ProviderRefused(
            f"Click refused the reversal (error {said['error_code']}): {note}",
            "Click reverses payments of this month, and last month's on the 1st. Else ask Click's support.",
        )

    def _request(self, method: str, path: str) -> httpx.Request:
        now = str(int(time.time()))
        # the scheme is Click's choice, see sign_message
        digest = hashlib.sha1((now + self._secret).encode(), usedforsecurity=False).hexdigest()
        headers = {
            "Auth": f"{self._settings.click_merchant_user_id}:{digest}:{now}",
            "Accept": "application/json",
            "Content-Type": "application/json",
        }
        return self._client.build_request(method, str(self._settings.click_api_url).rstrip("/") + path, headers=headers)


def _read_form(body: bytes) -> dict[str, str]:
    """The values byte for byte, because they are signed as they were sent. A name that comes twice is a ValueError."""
    pairs = parse_qsl(
        body.decode(errors="surrogateescape"), keep_blank_values=True, max_num_fields=100, errors="surrogateescape"
    )
    form = dict(pairs)
    if len(form) != len(pairs):
        raise ValueError("a parameter comes twice")
    return form


def _check(form: Mapping[str, str]) -> None:
    """Raises ValueError for what is missing or ill-formed."""
    for name, pattern in _WELL_FORMED.items():
        if not re.fullmatch(pattern, form.get(name, "")):
            raise ValueError(f"{name} is missing or ill-formed")
    datetime.strptime(form["sign_time"], "%Y-%m-%d %H:%M:%S")  # noqa: DTZ007 - only whether there is such a time
    # a payment that was refused at Prepare has no prepare id when Click gives it up
    needed = form["action"] == "1" and form["error"] == "0"
    prepared = form.get("merchant_prepare_id", "")
    if (prepared or needed) and form["action"] == "1" and _number(prepared) is None:
        raise ValueError("merchant_prepare_id is missing or ill-formed")


def _number(value: str | None) -> int | None:
    return int(value) if value and re.fullmatch(_NUMBER, value) else None


def _code(form: Mapping[str, str], result: Handled | PgcheckoutError) -> int:
    if isinstance(result, PgcheckoutError):
        return _REASONS.get(result.reason, NOT_APPLIED)
    attempt = result.attempt
    if result.result == "refused":
        code = _REASONS.get(result.reason, NOT_APPLIED)
        # "already paid" makes Click finish the payment without a Complete: true of the one that paid, of no other
        paid = _number(form.get("click_paydoc_id"))
        same = attempt and attempt.status in _PAID and attempt.provider_payment_id == str(paid)
        return ALREADY_PAID if same and code == CANCELLED else code
    if result.result == "ignored":
        return CANCELLED
    return OK if form.get("action") == "0" else _confirmation(form, result)


def _confirmation(form: Mapping[str, str], result: Handled) -> int:
    """The answer to a Complete. Once the buyer is debited it may be an error only where nothing could be applied."""
    applied = result.applied
    known = bool(applied and applied.already_completed) or bool(result.attempt and result.attempt.status in _PAID)
    if form.get("error") != "0":
        return ALREADY_PAID if known else CANCELLED
    if known or result.result == "duplicate":
        return ALREADY_PAID
    # a session that is gone keeps its money for a person
    if applied and (applied.status in _PAID or applied.review_reason == "session_deleted"):
        return OK
    return WRONG_AMOUNT if applied and "amount_mismatch" in (applied.review_reason or "") else NOT_APPLIED


def _payment_status(code: int) -> Status:
    """docs.click.uz, Merchant API: below 0 an error, 0 created, 1 being processed, 2 paid."""
    if code < 0:
        return "failed"
    return "completed" if code == 2 else "processing" if code == 1 else "pending"


def _not_known(attempt: Attempt) -> Status:
    """Nobody has paid; or Click is about to take the money that we consented to, and cannot say so yet."""
    over = attempt.expires_at is not None and attempt.expires_at <= datetime.now(UTC)
    return "expired" if over and attempt.status == "pending" else "pending"


def _days(created_at: datetime, expires_at: datetime) -> Iterator[date]:
    """Days on which the payment can have begun, in Click's calendar; around the first one in case its zone differs."""
    first = created_at.astimezone(TASHKENT).date()
    today, last = datetime.now(TASHKENT).date(), expires_at.astimezone(TASHKENT).date()
    later = max(1, (min(today, last + timedelta(days=1)) - first).days)
    for offset in (0, -1, *range(1, later + 1)):
        yield first + timedelta(days=offset)


def _soums(amount: int) -> str:
    """Minor units (tiyin) as Click writes amounts: ``_soums(2500050) == "25000.50"``."""
    return f"{amount // 100}.{amount % 100:02d}"


def _payment_id(value: Any) -> str:
    """As a number or as text, in one form."""
    return str(int(text(str(value), 18)))


def _read_answer(response: httpx.Response) -> dict[str, Any]:
    said = response.json()
    if not isinstance(said, dict) or type(said.get("error_code")) is not int:
        raise TypeError("error_code is missing")
    return said


def _refusal(response: httpx.Response) -> ProviderRefused:
    if response.status_code in (401, 403):
        return ProviderRefused(
            f"Click does not accept our key (HTTP {response.status_code}).",
            "Check PGCHECKOUT_CLICK_MERCHANT_USER_ID, PGCHECKOUT_CLICK_SECRET_KEY and this machine's clock.",
        )
    return ProviderRefused(f"Click refused (HTTP {response.status_code}).", "Check PGCHECKOUT_CLICK_SERVICE_ID.")


def _in_doubt(why: str) -> RefundInDoubt:
    return RefundInDoubt(f"Click's answer to the reversal was lost ({why}).", "Look at the payment in Click's cabinet.")
