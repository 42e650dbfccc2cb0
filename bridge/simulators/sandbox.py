"""A stand-in for the sandbox provider that outlives the bridge, and whose messages can go astray.

The sandbox that ships (``bridge.sandbox``) lives in the bridge's process and delivers its webhooks itself.
"""

from __future__ import annotations

import hmac
import json
import secrets
import time
from urllib.parse import urlsplit

from pydantic import ValidationError

from bridge.sandbox.server import NewPage, NewRefund, SandboxPage
from bridge.sandbox.signature import sign
from bridge.simulators.base import Answer, Delivery, Fault, Json, Received, Simulator, Tell

__all__ = ["SandboxSimulator"]


class SandboxSimulator(Simulator):
    """An account at the sandbox. ``pages`` by id are as the API shows them, and may be changed."""

    name = "sandbox"
    currency = "USD"

    def __init__(self) -> None:
        super().__init__()
        self.secret = secrets.token_hex(20)
        self.pages: dict[str, SandboxPage] = {}
        self._by_reference: dict[str, SandboxPage] = {}

    def settings(self) -> Json:
        return {"environment": "development", "sandbox_secret": self.secret, "sandbox_url": self.url}

    # what buyers and merchants do

    def buyer_pays(
        self, page: str, tell: Tell, *, amount: int | None = None, currency: str | None = None
    ) -> list[Delivery]:
        paid = self._open_page(page)
        paid.amount, paid.currency = amount or paid.amount, currency or paid.currency
        paid.payment_id = f"pay_{secrets.token_hex(9)}"
        paid.pay(time.time())
        return [self._told(paid)]

    def buyer_is_declined(self, page: str, tell: Tell) -> list[Delivery]:
        declined = self._open_page(page)
        declined.status = "declined"
        return [self._told(declined)]

    def buyer_pays_later(self, page: str, tell: Tell) -> list[Delivery]:
        paid = self._open_page(page)
        paid.status, paid.payment_id = "processing", f"pay_{secrets.token_hex(9)}"
        return [self._told(paid)]

    def money_arrives(self, page: str) -> list[Delivery]:
        paid = self._page(page)
        paid.pay(time.time())
        return [self._told(paid)]

    def page_expires(self, page: str) -> list[Delivery]:
        expired = self._open_page(page)
        expired.status = "expired"
        return [self._told(expired)]

    def return_query(self, page: str) -> str:
        return urlsplit(self._page(page).success_url).query

    def merchant_refunds(self, page: str, amount: int | None = None) -> list[Delivery]:
        paid = self._page(page)
        self._give_back(paid, NewRefund(key=secrets.token_hex(9), amount=amount or self._left(paid)))
        return [self._told(paid)]

    # what the sandbox knows

    def taken(self, page: str) -> int:
        paid = self._page(page)
        return paid.amount if paid.status == "paid" else 0

    def given_back(self, page: str) -> int:
        return sum(self._page(page).refunds.values())

    def forged(self, delivery: Delivery) -> Delivery:
        _, body = delivery
        return sign("somebody-elses", json.loads(body)["id"], body), body

    def _page(self, address: str) -> SandboxPage:
        return self.pages[address.rpartition("/")[2]]

    def _open_page(self, address: str) -> SandboxPage:
        page = self._page(address)
        if page.status != "open":
            raise ValueError(f"the page is {page.status}: nobody can pay on it")
        return page

    def _left(self, page: SandboxPage) -> int:
        return page.amount - sum(page.refunds.values())

    def _give_back(self, page: SandboxPage, refund: NewRefund) -> None:
        if refund.key in page.refunds:
            return
        if page.status != "paid" or refund.amount > self._left(page):
            raise ValueError("there is not so much to give back")
        page.refunds[refund.key] = refund.amount

    def _told(self, page: SandboxPage) -> Delivery:
        name = f"evt_{secrets.token_hex(9)}"
        event = {"id": name, "type": f"page.{page.status}", "created": int(time.time()), "data": page.public()}
        body = json.dumps(event).encode()
        return sign(self.secret, name, body) | {"content-type": "application/json"}, body

    # what arrives over HTTP

    def work(self, received: Received, fault: Fault) -> Answer:
        if not hmac.compare_digest(received.headers.get("authorization", ""), f"Bearer {self.secret}"):
            return Answer(401, b'{"detail": "The sandbox does not accept this key."}')
        try:
            page = self._work(received)
        except KeyError:
            return Answer(404, b'{"detail": "The sandbox knows no such page."}')
        except ValidationError:
            return Answer(422, b'{"detail": "The body is not as it should be."}')
        except ValueError:
            return Answer(409, b'{"detail": "There is not so much to give back."}')
        return Answer(200, json.dumps(page.public()).encode())

    def _work(self, received: Received) -> SandboxPage:
        match received.method, received.path.strip("/").split("/"):
            case "POST", ["v1", "pages"]:
                return self._create(NewPage.model_validate_json(received.body))
            case "GET", ["v1", "pages", str(name)]:
                return self.pages[name]
            case "POST", ["v1", "pages", str(name), "expire"]:
                if self.pages[name].status == "open":
                    self.pages[name].status = "expired"
                return self.pages[name]
            case "POST", ["v1", "pages", str(name), "refunds"]:
                self._give_back(self.pages[name], NewRefund.model_validate_json(received.body))
                return self.pages[name]
        raise KeyError(received.path)

    def _create(self, new: NewPage) -> SandboxPage:
        page = self._by_reference.get(new.reference)
        if page is None:
            name = f"page_{secrets.token_hex(9)}"
            page = SandboxPage(id=name, url=f"{self.url}/pay/{name}", **new.model_dump(mode="json"))
            self.pages[name] = self._by_reference[new.reference] = page
        return page
