"""The sandbox as a server: pages live in memory, webhooks are signed and repeated until they are answered 2xx."""

from __future__ import annotations

import asyncio
import hmac
import json
import secrets
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import httpx
from fastapi import Depends, FastAPI, Form, Header, HTTPException, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from jinja2 import Environment, FileSystemLoader
from pydantic import BaseModel, Field, HttpUrl

from bridge.sandbox.signature import sign

__all__ = ["SandboxServer"]

REDELIVERY_DELAYS = (1.0, 5.0, 25.0)
_TEMPLATES = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True)
_SECURITY_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; form-action *; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
}

PageStatus = Literal["open", "processing", "paid", "declined", "cancelled", "expired"]
Action = Literal["pay", "pay_later", "decline", "cancel"]


class NewPage(BaseModel):
    """Body of ``POST /v1/pages``; ``amount`` in minor units."""

    reference: str = Field(min_length=1, max_length=100)
    amount: int = Field(gt=0)
    currency: str = Field(pattern="^[A-Z]{3}$")
    description: str = Field(max_length=200)
    display_amount: str = Field(max_length=40)
    success_url: HttpUrl
    cancel_url: HttpUrl
    webhook_url: HttpUrl
    expires_at: int


class NewRefund(BaseModel):
    """Body of ``POST /v1/pages/{id}/refunds``; the same ``key`` gives money back once. ``amount`` in minor units."""

    key: str = Field(min_length=1, max_length=255)
    amount: int = Field(gt=0)


@dataclass
class SandboxPage:
    """A payment page and what became of it."""

    id: str
    reference: str
    amount: int
    currency: str
    description: str
    display_amount: str
    success_url: str
    cancel_url: str
    webhook_url: str
    expires_at: int
    url: str
    status: PageStatus = "open"
    payment_id: str | None = None
    paid_at: int | None = None
    settles_at: float | None = None
    last_event: dict[str, Any] | None = None
    refunds: dict[str, int] = field(default_factory=dict)

    def refresh(self, now: float) -> bool:
        """Let time do its work: an open page expires, a delayed payment arrives. True when something changed."""
        if self.status == "open" and now >= self.expires_at:
            self.status = "expired"
        elif self.status == "processing" and self.settles_at is not None and now >= self.settles_at:
            self.pay(now)
        else:
            return False
        return True

    def pay(self, now: float) -> None:
        """Money arrives."""
        self.status, self.paid_at = "paid", int(now)

    def public(self) -> dict[str, Any]:
        """What the API and the webhooks show."""
        hidden = ("settles_at", "last_event", "webhook_url")
        return {name: value for name, value in asdict(self).items() if name not in hidden}


class SandboxServer:
    """The provider. ``app`` is its ASGI application, ``base_url`` where browsers reach it.

    ``pay_later_seconds`` is how long a delayed payment takes.
    """

    def __init__(self, secret: str, base_url: str, *, pay_later_seconds: float = 8.0) -> None:
        self._secret = secret
        self._base_url = base_url.rstrip("/")
        self._pay_later_seconds = pay_later_seconds
        self._pages: dict[str, SandboxPage] = {}
        self._by_reference: dict[str, SandboxPage] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self.app = FastAPI(title="pgcheckout sandbox provider", docs_url=None, redoc_url=None, openapi_url=None)
        api = [Depends(self._authorise)]
        self.app.post("/v1/pages", dependencies=api)(self.create)
        self.app.get("/v1/pages/{page_id}", dependencies=api)(self.read)
        self.app.post("/v1/pages/{page_id}/expire", dependencies=api)(self.expire)
        self.app.post("/v1/pages/{page_id}/refunds", dependencies=api)(self.refund)
        self.app.post("/v1/pages/{page_id}/redeliver", dependencies=api)(self.redeliver)
        self.app.get("/pay/{page_id}")(self.show)
        self.app.post("/pay/{page_id}")(self.act)

    def _authorise(self, authorization: Annotated[str, Header()] = "") -> None:
        if not hmac.compare_digest(authorization.encode(), f"Bearer {self._secret}".encode()):
            raise HTTPException(401, "The sandbox does not accept this key.")

    async def create(self, new: NewPage) -> dict[str, Any]:
        """Open a page; the same reference again gives the same page."""
        page = self._by_reference.get(new.reference)
        if page is None:
            page_id = "page_" + secrets.token_urlsafe(18)
            page = SandboxPage(id=page_id, url=f"{self._base_url}/pay/{page_id}", **new.model_dump(mode="json"))
            self._pages[page_id] = self._by_reference[new.reference] = page
        return page.public()

    async def read(self, page_id: str) -> dict[str, Any]:
        """The truth about a page."""
        return self._page(page_id).public()

    async def expire(self, page_id: str) -> dict[str, Any]:
        """Close an open page."""
        page = self._page(page_id)
        if page.status == "open":
            page.status = "expired"
            self._announce(page)
        return page.public()

    async def refund(self, page_id: str, new: NewRefund) -> dict[str, Any]:
        """Give money back."""
        page = self._page(page_id)
        if new.key not in page.refunds:
            if page.status != "paid" or sum(page.refunds.values()) + new.amount > page.amount:
                raise HTTPException(409, "There is not so much to give back.")
            page.refunds[new.key] = new.amount
            self._announce(page)
        return page.public()

    async def redeliver(self, page_id: str) -> dict[str, Any]:
        """Send the page's last event once more and say how it was answered."""
        page = self._page(page_id)
        if page.last_event is None:
            raise HTTPException(409, "Nothing has happened on this page.")
        return {"event": page.last_event["id"], "answered": await self._deliver(page, page.last_event)}

    async def show(self, page_id: str) -> Response:
        """The payment page."""
        page = self._page(page_id)
        html = _TEMPLATES.get_template("page.html").render(page=page, seconds=round(self._pay_later_seconds))
        return HTMLResponse(html, headers=_SECURITY_HEADERS)

    async def act(self, page_id: str, action: Annotated[Action, Form()]) -> Response:
        """A buyer presses a button."""
        page = self._page(page_id)
        now = time.time()
        if page.status == "open":
            if action in ("pay", "pay_later"):
                page.payment_id = "pay_" + secrets.token_urlsafe(18)
            match action:
                case "pay":
                    page.pay(now)
                case "pay_later":
                    page.status, page.settles_at = "processing", now + self._pay_later_seconds
                    self._start(self._settle_later(page))
                case "decline":
                    page.status = "declined"
                case "cancel":
                    page.status = "cancelled"
            self._announce(page)
        back = page.success_url if page.status in ("paid", "processing") else page.cancel_url
        return RedirectResponse(back, status_code=303)

    async def close(self, _request: Request | None = None) -> None:
        """Stop delivering."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _page(self, page_id: str) -> SandboxPage:
        page = self._pages.get(page_id)
        if page is None:
            raise HTTPException(404, "The sandbox knows no such page.")
        if page.refresh(time.time()):
            self._announce(page)
        return page

    def _announce(self, page: SandboxPage) -> None:
        page.last_event = {
            "id": "evt_" + secrets.token_urlsafe(18),
            "type": f"page.{page.status}",
            "created": int(time.time()),
            "data": page.public(),
        }
        self._start(self._deliver_until_answered(page, page.last_event))

    def _start(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _settle_later(self, page: SandboxPage) -> None:
        await asyncio.sleep(self._pay_later_seconds)
        self._page(page.id)

    async def _deliver_until_answered(self, page: SandboxPage, event: dict[str, Any]) -> None:
        for delay in (*REDELIVERY_DELAYS, None):
            answered = await self._deliver(page, event)
            if delay is None or 200 <= answered < 300:
                return
            await asyncio.sleep(delay)

    async def _deliver(self, page: SandboxPage, event: dict[str, Any]) -> int:
        body = json.dumps(event).encode()
        headers = sign(self._secret, event["id"], body) | {"content-type": "application/json"}
        try:
            async with httpx.AsyncClient(timeout=10.0) as client:
                return (await client.post(page.webhook_url, content=body, headers=headers)).status_code
        except httpx.HTTPError:
            return 0
