"""A purchase at a simulated provider, from the page to the last refund, and all that is to be seen of it."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import Any

import httpx

from bridge.simulators.base import Delivery, Simulator
from tests.support.bridge import Bridge, Buyer
from tests.support.database import Row

__all__ = ["ADMIN_TOKEN", "CREDITS", "PRICE", "Life", "can"]

ADMIN_TOKEN = "the-admin-token-of-these-tests"
PRICE, CREDITS = 50_000, 100  # minor units; what is sold


def can(account: type[Simulator], *deeds: str) -> bool:
    """Whether this provider knows all these deeds."""
    return all(getattr(account, deed) is not getattr(Simulator, deed) for deed in deeds)


@dataclass
class Life:
    """One buyer, one session, one page."""

    bridge: Bridge
    account: Simulator
    buyer: Buyer
    session_id: uuid.UUID
    page: str

    @classmethod
    def begin(cls, bridge: Bridge, account: Simulator) -> Life:
        buyer = bridge.buyer()
        opened = buyer.checkout("conformance", provider=account.name, currency=account.currency)
        assert opened.status_code == 200, opened.text
        answer = opened.json()
        assert (answer["amount"], answer["currency"], answer["status"]) == (PRICE, account.currency, "pending")
        return cls(bridge, account, buyer, uuid.UUID(answer["session_id"]), answer["checkout_url"])

    # news on its way

    def tell(self, delivery: Delivery) -> httpx.Response:
        return self.bridge.deliver(self.account.name, delivery)

    def hear(self, deliveries: list[Delivery]) -> None:
        """Every delivery arrives and is accepted."""
        for delivery in deliveries:
            answer = self.tell(delivery)
            assert answer.status_code == 200, answer.text

    def come_back(self) -> dict[str, str]:
        """The buyer's browser comes back; what it is told."""
        query = self.account.return_query(self.page)
        answer = self.bridge.http.get(f"/return/{self.account.name}?{query}", follow_redirects=False)
        assert answer.status_code == 303, answer.text
        return dict(httpx.URL(answer.headers["location"]).params)

    def verify(self) -> Row:
        answer = self.buyer.verify(session_id=self.session_id)
        assert answer.status_code == 200, answer.text
        found: Row = answer.json()
        return found

    def learn(self, deliveries: list[Delivery]) -> None:
        """News comes by whatever way this provider has."""
        if deliveries:
            self.hear(deliveries)
        else:
            self.come_back()

    def pay(self) -> list[Delivery]:
        return self.account.buyer_pays(self.page, self.tell)

    def pay_and_learn(self) -> None:
        self.learn(self.pay())
        assert self.status == "completed", self.row

    def order_refund(self, amount: int | None = None, key: str = "") -> httpx.Response:
        return self.bridge.http.post(
            "/admin/refunds",
            json={"session_id": str(self.session_id), "amount": amount},
            headers={"Authorization": f"Bearer {ADMIN_TOKEN}"} | ({"Idempotency-Key": key} if key else {}),
        )

    @property
    def refunds_that_count(self) -> int:
        """Minor units given back, or perhaps given back, as the database knows it."""
        known = self.bridge.db.sql(
            "select coalesce(sum(amount), 0)::int as amount from public.payment_refunds"
            " where session_id = %s and status in ('pending', 'succeeded')", self.session_id,
        )  # fmt: skip
        return int(known[0]["amount"])

    # what is to be seen

    @property
    def row(self) -> Row:
        return self.bridge.db.session(self.session_id)

    @property
    def status(self) -> str:
        return str(self.row["status"])

    @property
    def credits(self) -> int:
        return self.bridge.db.balance(self.buyer.id)

    @property
    def captures(self) -> list[Row]:
        return self.bridge.db.captures(self.session_id)

    def is_fulfilled_once(self) -> None:
        row = self.row
        assert (row["status"], row["fulfilment_status"], row["review_reason"]) == ("completed", "fulfilled", None), row
        (capture,) = self.captures
        assert (capture["amount"], capture["currency"]) == (PRICE, self.account.currency)
        assert capture["provider_payment_id"] == row["provider_payment_id"]
        assert self.credits == CREDITS
        assert self.account.taken(self.page) == PRICE
        self.keeps_the_guarantees()

    def got_nothing(self) -> None:
        assert self.credits == 0
        assert self.row["fulfilment_status"] == "none"
        self.keeps_the_guarantees()

    def keeps_the_guarantees(self) -> None:
        assert self.bridge.db.as_service().rpc("check_payment_invariants") == []

    def changes_nothing(self, *deeds: Any) -> None:
        """Nothing that money depends on changes by these."""
        tables = ("payment_checkout_sessions", "payment_refunds", "payment_credit_entries", "payments.captures")
        before = {table: self.bridge.db.everything()[table] for table in tables}
        for deed in deeds:
            deed()
        assert {table: self.bridge.db.everything()[table] for table in tables} == before
