"""Buyers and a provider that go on whatever happens, as the real ones do."""

from __future__ import annotations

import functools
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import httpx

from bridge.simulators.base import Delivery, Simulator
from tests.providers.life import CREDITS, PRICE
from tests.support.bridge import Bridge, Buyer
from tests.support.database import Database

__all__ = ["Load", "Sale"]

PATIENCE = 90.0  # seconds, with a bridge or database that does not come back


@dataclass(frozen=True)
class Sale:
    """A purchase that was paid."""

    buyer: Buyer
    session_id: uuid.UUID
    page: str
    news: list[Delivery]


@dataclass
class Load:
    """Sales at these bridges, in turn; ``acknowledged`` are those whose every notification was answered 2xx."""

    bridges: Sequence[Bridge]
    account: Simulator
    sales: list[Sale] = field(default_factory=list)
    acknowledged: list[Sale] = field(default_factory=list)
    troubles: Counter[int] = field(default_factory=Counter)
    """Answers that asked to come again, by status; 0 for none at all."""

    @property
    def db(self) -> Database:
        return self.bridges[0].db

    def run(self, *, buyers: int, purchases: int) -> None:
        """So many buyers at once, each with so many purchases; returns when all is paid and acknowledged."""
        self._shop(buyers, purchases, self._acknowledge)

    def sell(self, *, buyers: int, purchases: int) -> None:
        """The same, but nobody tells us of the payments."""
        self._shop(buyers, purchases, lambda *_: None)

    def everything_again(self) -> None:
        """The provider sends all its notifications once more."""
        for sale in self.sales:
            self._deliver(sale, 0)

    def is_whole(self) -> None:
        """Each sale was fulfilled once, paid once and told once; nothing is broken."""
        assert len(self.acknowledged) >= len(self.sales) > 0
        self.are_fulfilled(self.sales)
        for sale in self.sales:
            assert self.account.taken(sale.page) == PRICE
        totals = self.db.sql(
            "select (select count(*) from payments.captures) as captures,"
            " (select count(*) from public.payment_credit_entries) as entries,"
            " (select coalesce(sum(balance), 0)::int from public.payment_credit_balances) as credits,"
            " (select count(*) from payments.notifications where kind = 'receipt') as receipts"
        )
        sold = len(self.sales)
        assert totals == [{"captures": sold, "entries": sold, "credits": sold * CREDITS, "receipts": sold}]
        assert self.db.as_service().rpc("check_payment_invariants") == []

    def are_fulfilled(self, sales: Sequence[Sale]) -> None:
        """As far as the database knows now."""
        found = self.db.sql(
            "select count(*) as fulfilled from public.payment_checkout_sessions"
            " where id = any (%s) and (status, fulfilment_status) = ('completed', 'fulfilled')"
            " and review_reason is null",
            [sale.session_id for sale in sales],
        )
        assert found == [{"fulfilled": len(sales)}]

    def _shop(self, buyers: int, purchases: int, then: Callable[[Sale, int], None]) -> None:
        # each purchase has a user of its own: one would be shown the page that is still open
        users = self.db.sql(
            "insert into auth.users (id, email) select id, id || '@example.test'"
            " from (select gen_random_uuid() as id from generate_series(1, %s)) as u returning id",
            buyers * purchases,
        )

        def shop(number: int) -> None:
            bridge = self.bridges[number % len(self.bridges)]
            for user in users[number::buyers]:
                sale = self._buy(bridge, bridge.buyer(user["id"], email=f"{user['id']}@example.test"))
                self.sales.append(sale)
                then(sale, number)

        with ThreadPoolExecutor(buyers) as pool:
            list(pool.map(shop, range(buyers)))

    def _buy(self, bridge: Bridge, buyer: Buyer) -> Sale:
        opened = self._insist(
            lambda: buyer.checkout("conformance", provider=self.account.name, currency=self.account.currency)
        ).json()
        page = opened["checkout_url"]
        news = self.account.buyer_pays(page, lambda one: bridge.deliver(self.account.name, one))
        return Sale(buyer, uuid.UUID(opened["session_id"]), page, news)

    def _acknowledge(self, sale: Sale, number: int) -> None:
        self._deliver(sale, number)
        self.acknowledged.append(sale)

    def _deliver(self, sale: Sale, number: int) -> None:
        for at, one in enumerate(sale.news):
            bridge = self.bridges[(number + at) % len(self.bridges)]
            self._insist(functools.partial(bridge.deliver, self.account.name, one))

    def _insist(self, request: Callable[[], httpx.Response]) -> httpx.Response:
        """Ask until the answer is a success. Only 5xx, and no answer, are reasons to ask again."""
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                answer = request()
            except httpx.TransportError:
                self.troubles[0] += 1
            else:
                if answer.is_success:
                    return answer
                assert answer.status_code >= 500, answer.text
                self.troubles[answer.status_code] += 1
            assert time.monotonic() < deadline, f"it does not come back: {self.troubles}"
            threading.Event().wait(0.05)
