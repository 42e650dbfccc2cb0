"""The demo shop as its visitor sees it, and what the database says about that visitor afterwards."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import urlsplit

import psycopg
from playwright.sync_api import ConsoleMessage, Locator, Page, Request, expect
from psycopg.rows import dict_row

from bridge.demo.stack import Stack

__all__ = ["Product", "Shop"]

Product = Literal["100 credits", "500 credits", "Pro, one month"]

_PAYMENT_PAGE = re.compile(r"/sandbox/pay/page_[\w-]+$")

_FACTS = """
with mine as (
    select s.id, s.status
    from public.payment_checkout_sessions as s
    inner join auth.users as u on s.user_id = u.id
    where u.email = %(email)s
)

select
    (select coalesce(array_agg(status order by id), '{}') from mine) as sessions,
    (select count(*) from payments.attempts where session_id in (select id from mine)) as attempts,
    (select count(*) from payments.captures where session_id in (select id from mine)) as captures,
    (select count(*) from payments.subscription_periods where session_id in (select id from mine)) as periods,
    (
        select coalesce(array_agg(e.amount order by e.id), '{}')
        from public.payment_credit_entries as e
        inner join auth.users as u on e.user_id = u.id
        where u.email = %(email)s
    ) as credit_entries
"""
_PAID_WITHOUT_WEBHOOK = """
select count(*) as missing
from public.payment_checkout_sessions as s
inner join auth.users as u on s.user_id = u.id
where u.email = %(email)s
    and s.status = 'completed'
    and not exists (
        select from payments.webhook_events as w
        where w.session_id = s.id and w.type = 'page.paid' and w.status = 'handled'
    )
"""


@dataclass
class Shop:
    """A browser page on the shop. It keeps all requests and all complaints of the browser's console."""

    page: Page
    stack: Stack
    email: str = ""
    requests: list[Request] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.page.on("request", lambda request: self.requests.append(request))  # noqa: PLW0108 # it wants a function
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("console", self._listen)

    def _listen(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.complaints.append(f"{message.text} {message.location}")

    # what the visitor sees

    @property
    def news(self) -> Locator:
        return self.page.get_by_role("status")

    @property
    def trouble(self) -> Locator:
        return self.page.get_by_role("alert")

    @property
    def credits(self) -> Locator:
        return self.page.locator("dt:text-is('Credits') + dd")

    @property
    def subscription(self) -> Locator:
        return self.page.locator("div:has(> dt:text-is('Subscription'))")

    @property
    def purchases(self) -> Locator:
        return self.page.get_by_role("table", name="Your purchases").locator("tbody").get_by_role("row")

    def product(self, name: Product) -> Locator:
        return self.page.get_by_role("listitem").filter(has=self.page.get_by_role("heading", name=name, exact=True))

    def button(self, name: str) -> Locator:
        return self.page.get_by_role("button", name=name, exact=True)

    # what the visitor does

    def sign_in(self) -> None:
        self.page.goto(self.stack.url)
        self.button("Sign in as a demo user").click()
        expect(self.credits).to_have_text("0")
        self.email = self.page.get_by_text("@example.test").inner_text()

    def buy(self, product: Product) -> str:
        """Press Buy and wait for the payment page; its address."""
        self.button(f"Buy {product}").click()
        return self.arrive_at_payment_page()

    def arrive_at_payment_page(self) -> str:
        self.page.wait_for_url(_PAYMENT_PAGE)
        return self.page.url

    def press(self, action: str) -> None:
        """Press a button of the payment page (its name begins like this) and wait for the shop's news about it."""
        self.page.get_by_role("button", name=re.compile(f"^{action}")).click()
        self.page.wait_for_url(f"{self.stack.url}/")

    def choose(self, currency: str) -> None:
        self.page.get_by_role("radio", name=currency).check()

    # what is true

    def posts(self, path: str) -> list[Request]:
        return [r for r in self.requests if r.method == "POST" and urlsplit(r.url).path == path]

    def facts(self) -> dict[str, Any]:
        """The visitor's sessions and what came of them, once the webhook of each paid one has been handled, too."""
        deadline = time.monotonic() + 15
        while self.query(_PAID_WITHOUT_WEBHOOK)["missing"]:
            assert time.monotonic() < deadline, "the webhook did not arrive"
            time.sleep(0.05)
        return self.query(_FACTS)

    def query(self, statement: str) -> dict[str, Any]:
        """One row; ``%(email)s`` is the visitor's."""
        with psycopg.connect(self.stack.database_url, row_factory=dict_row) as connection:
            row = connection.execute(statement, {"email": self.email}).fetchone()
            assert row is not None
            return row

    def change(self, statement: str) -> None:
        """Something happens in the shop's database."""
        with psycopg.connect(self.stack.database_url) as connection:
            connection.execute(statement)
