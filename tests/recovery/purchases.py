"""What can happen to a purchase, who acts again when the bridge did not answer, and what must be true at the end."""

from __future__ import annotations

import asyncio
import uuid
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import httpx

from bridge.checkout import Checkout
from bridge.jobs import reconcile
from bridge.providers import enabled_providers
from bridge.providers.http import new_client
from bridge.rpc import connect_rpc
from bridge.settings import Settings
from bridge.simulators.base import Delivery, Simulator
from bridge.simulators.click import ClickSimulator, Payment
from tests.providers.life import PRICE, Life
from tests.support.bridge import Bridge

__all__ = [
    "Purchase", "Row", "begin", "browser", "buyer_pays", "buyer_starts_to_pay", "cancel", "click", "click_and_payment",
    "fulfilled_once", "never_paid", "never_refunded_twice", "nothing", "nothing_is_stuck", "paid", "question",
    "question_and_payment", "reconciled", "refund", "refunded_once", "verify", "webhook", "worker",
]  # fmt: skip

PART = PRICE * 2 // 5  # of the price: it could be given back twice


@dataclass
class Purchase(Life):
    """What the rows of the table are about."""

    news: list[Delivery] = field(default_factory=list)
    payment: Payment | None = None
    key: str = field(default_factory=lambda: uuid.uuid4().hex)

    def move_to(self, bridge: Bridge) -> None:
        """From now on this bridge is asked."""
        self.bridge, self.buyer = bridge, replace(self.buyer, http=bridge.http)

    def sent_with_key(self, send: Callable[[], httpx.Response]) -> httpx.Response:
        """The answer to a request with an Idempotency-Key, when the lease of the one that was killed is over."""
        answer = send()
        if answer.status_code == 409 and answer.json()["error"]["reason"] == "request_in_progress":
            self.bridge.db.sql("update payments.idempotency_keys set leased_until = now() where status = 'pending'")
            answer = send()
        return answer


Deed = Callable[[Purchase], object]


# what has happened before


def nothing(_: Purchase) -> None:
    """The page is open, or not even that where the click is what matters."""


def buyer_pays(purchase: Purchase) -> None:
    """Nobody has heard of it yet."""
    purchase.news = purchase.pay()


def buyer_starts_to_pay(purchase: Purchase) -> None:
    assert isinstance(purchase.account, ClickSimulator)
    purchase.payment = purchase.account.begin(purchase.page)


def paid(purchase: Purchase) -> None:
    purchase.pay_and_learn()


# what the bridge is killed at, and what is done again


def webhook(purchase: Purchase) -> None:
    purchase.hear(purchase.news)


def question(purchase: Purchase) -> None:
    """Click asks whether it may take the money."""
    assert isinstance(purchase.account, ClickSimulator)
    assert purchase.payment
    assert purchase.account.prepare(purchase.payment, purchase.tell)["error"] == 0


def question_and_payment(purchase: Purchase) -> None:
    question(purchase)
    assert isinstance(purchase.account, ClickSimulator)
    assert purchase.payment
    purchase.account.debit(purchase.payment)
    purchase.hear([purchase.account.complete(purchase.payment)])


def browser(purchase: Purchase) -> None:
    """The buyer comes back, or loads that page again."""
    assert purchase.come_back()["status"] in ("completed", "unknown")


def verify(purchase: Purchase) -> None:
    assert purchase.verify()["success"]


def worker(purchase: Purchase) -> None:
    """Nobody does anything; what is unsettled is asked about when its time comes."""
    reconciled(purchase.bridge)


def click(purchase: Purchase) -> None:
    """The buyer wants to buy, and does as he is told."""

    def press() -> httpx.Response:
        return purchase.buyer.checkout(
            "conformance", key=purchase.key, provider=purchase.account.name, currency=purchase.account.currency
        )

    answer = purchase.sent_with_key(press)
    if answer.status_code == 502 and answer.json()["error"]["hint"] == "Start again.":
        answer = press()  # Paystack tells the address of a page once
    assert answer.status_code == 200, answer.text
    purchase.session_id, purchase.page = uuid.UUID(answer.json()["session_id"]), answer.json()["checkout_url"]


def click_and_payment(purchase: Purchase) -> None:
    click(purchase)
    purchase.pay_and_learn()


def cancel(purchase: Purchase) -> None:
    answer = purchase.buyer.post(f"/checkout/{purchase.session_id}/cancel")
    assert answer.status_code == 200, answer.text


def refund(purchase: Purchase) -> None:
    answer = purchase.sent_with_key(lambda: purchase.order_refund(PART, purchase.key))
    doubt = answer.status_code == 502 and answer.json()["error"]["reason"] == "refund_in_doubt"
    assert answer.status_code == 200 or doubt, answer.text


# what must be true at the end


def fulfilled_once(purchase: Purchase) -> None:
    purchase.is_fulfilled_once()
    receipts = "select count(*) from payments.notifications where kind = 'receipt' and session_id = %s"
    assert purchase.bridge.db.value(receipts, purchase.session_id) == 1


def never_paid(purchase: Purchase) -> None:
    assert purchase.status in ("cancelled", "expired")
    assert purchase.account.taken(purchase.page) == 0
    purchase.got_nothing()


def refunded_once(purchase: Purchase) -> None:
    assert purchase.account.given_back(purchase.page) == purchase.refunds_that_count == PART
    purchase.keeps_the_guarantees()


def never_refunded_twice(purchase: Purchase) -> None:
    """This provider cannot be asked: the order counts, and a person settles whether it was carried out."""
    assert purchase.account.given_back(purchase.page) in (0, PART)
    assert purchase.refunds_that_count == PART
    purchase.keeps_the_guarantees()


@dataclass(frozen=True)
class Row:
    """``killed_at`` is what goes wrong, ``then`` is what happens when all is well again."""

    account: type[Simulator]
    before: Deed
    killed_at: Deed
    then: Deed
    at_the_end: Deed = fulfilled_once

    def __str__(self) -> str:
        return "-".join((self.account.name, self.before.__name__, self.killed_at.__name__, self.then.__name__))


def begin(row: Row, bridge: Bridge, account: Simulator) -> Purchase:
    """A new buyer, with a page unless it is the click that matters."""
    purchase = Purchase(bridge, account, bridge.buyer(email="buyer@example.test"), uuid.UUID(int=0), "")
    if row.killed_at is not click:
        click(purchase)
    return purchase


def nothing_is_stuck(bridge: Bridge) -> None:
    """Nothing is held for anybody, and nothing waits for a person."""
    assert bridge.db.sql("select * from payments.idempotency_keys where status = 'pending'") == []
    assert bridge.db.sql("select * from payments.webhook_events where status <> 'handled'") == []
    assert reconciled(bridge)["failed"] == 0


def reconciled(bridge: Bridge) -> Counter[str]:
    """What a worker does when the time has come for all that is unsettled."""

    async def once(settings: Settings) -> Counter[str]:
        async with new_client() as client:
            rpc = await connect_rpc(settings)
            try:
                return await reconcile(rpc, Checkout(rpc, enabled_providers(settings, client)), {})
            finally:
                await rpc.close()

    bridge.db.sql("update payments.attempts set reconcile_at = now() where reconcile_at is not null")
    return asyncio.run(once(bridge.settings))
