"""The providers of a simulation, by name, and the deeds of buyers at them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping

import httpx

from bridge.errors import InvalidRequest
from bridge.simulators.base import Delivery, Fault, Simulator
from bridge.simulators.click import FAILED, NO_MONEY, ClickSimulator, Payment
from bridge.simulators.hypay import HyPaySimulator
from bridge.simulators.paypal import PayPalSimulator
from bridge.simulators.paystack import PaystackSimulator
from bridge.simulators.sandbox import SandboxSimulator
from bridge.simulators.stripe import StripeSimulator

__all__ = [
    "ACCOUNTS",
    "AsyncTell",
    "chosen_providers",
    "decline",
    "is_refused",
    "is_taken_in",
    "pay",
    "trouble",
    "with_room",
]

AsyncTell = Callable[[Delivery], Awaitable[httpx.Response | None]]
"""Delivers a message now; None when nobody answered."""

ACCOUNTS: Mapping[str, type[Simulator]] = {
    kind.name: kind
    for kind in (
        StripeSimulator, PaystackSimulator, ClickSimulator, HyPaySimulator, PayPalSimulator, SandboxSimulator
    )
}  # fmt: skip

OTHER_CURRENCY = {"NGN": "GHS", "USD": "EUR"}
_NOT_NOW = -7  # Click's code for what could not be applied; it sends the same again


def chosen_providers(words: str) -> tuple[str, ...]:
    """``all``, or names with commas. Raises InvalidRequest."""
    names = tuple(ACCOUNTS) if words == "all" else tuple(name.strip() for name in words.split(",") if name.strip())
    if unknown := [name for name in names if name not in ACCOUNTS] or ([] if names else [words]):
        raise InvalidRequest(f"There is no simulated provider {unknown[0]!r}.", f"There are: {', '.join(ACCOUNTS)}.")
    return names


async def pay(account: Simulator, page: str, tell: AsyncTell, way: str, price: int) -> list[Delivery] | None:
    """The buyer pays, wrongly if ``way`` says so; None when the provider did not let it happen."""
    amount = price // 2 if way == "amount" else None
    currency = OTHER_CURRENCY[account.currency] if way == "currency" else None
    if isinstance(account, PayPalSimulator):  # with another card than one that was to be declined
        account.next_capture.pop(account.order_of(page)["id"], None)
    if not isinstance(account, ClickSimulator):
        try:
            return account.buyer_pays(page, _nobody, amount=amount, currency=currency)
        except ValueError:  # the page is closed
            return None
    payment = account.begin(page, amount)
    error = await _prepared(account, payment, tell)
    if error == 0:
        account.debit(payment)
        return [account.complete(payment)]
    payment.status = FAILED
    return None


async def decline(account: Simulator, page: str, tell: AsyncTell) -> list[Delivery]:
    """The buyer's card is declined."""
    if not isinstance(account, ClickSimulator):
        return account.buyer_is_declined(page, _nobody)
    payment = account.begin(page)
    error = await _prepared(account, payment, tell)
    payment.status = NO_MONEY if error == 0 else FAILED
    return [account.complete(payment, error=NO_MONEY)] if error == 0 else []


def is_taken_in(provider: str, response: httpx.Response | None) -> bool:
    """Whether the provider reads this answer as received; else it sends the message again."""
    if response is None or not response.is_success:
        return False
    return provider != "click" or response.json().get("error") != _NOT_NOW


def is_refused(provider: str, response: httpx.Response) -> bool:
    """Whether this answer says that the message is not genuine."""
    if provider == "click":
        return response.is_success and response.json().get("error") == -1
    return response.status_code in (400, 401, 403)


def trouble(kind: str) -> Fault:
    """What an outage does to each request."""
    return {
        "errors": Fault(status=500),
        "lost": Fault(lost=True),
        "cut": Fault(cut=True),
        "garbled": Fault(garbled=True, body=b"<html><body>One moment"),
        "slow": Fault(latency=11.0),  # longer than the bridge waits
    }[kind]


def with_room(accounts: Collection[Simulator]) -> None:
    """Thousands of purchases leave no use for the memory of each request."""
    for account in accounts:
        account.remembers = False


async def _prepared(account: ClickSimulator, payment: Payment, tell: AsyncTell) -> int | None:
    response = await tell(account.preparation(payment))
    if response is None or not response.is_success:
        return None
    error: int = account.heed(payment, response)["error"]
    return error


def _nobody(delivery: Delivery) -> httpx.Response:
    raise AssertionError("only Click asks before it takes money")
