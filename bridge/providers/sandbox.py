"""The sandbox provider (``bridge.sandbox``): play money for development; production settings refuse it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import httpx

from bridge.errors import InvalidRequest, ProviderRefused, ProviderUnavailable
from bridge.money import display_amount
from bridge.providers.base import Provider, return_url
from bridge.providers.http import send
from bridge.providers.shapes import shaped, storable_json, text
from bridge.sandbox import signature
from bridge.settings import Settings
from bridge.values import Attempt, Event, Notification, Outcome, Page, Refund, RefundOrder, Source, Status

__all__ = ["Sandbox"]

_STATUS: dict[str, Status] = {
    "open": "pending",
    "processing": "processing",
    "paid": "completed",
    "declined": "failed",
    "cancelled": "cancelled",
    "expired": "expired",
}


class Sandbox(Provider):
    """The sandbox adapter."""

    name = "sandbox"
    title = "The sandbox"
    needs = ("sandbox_secret",)

    def __init__(self, settings: Settings, client: httpx.AsyncClient) -> None:
        if settings.sandbox_secret is None:
            raise ValueError("sandbox_secret is needed")
        self._settings = settings
        self._client = client
        self._secret = settings.sandbox_secret.get_secret_value()
        self._api = str(settings.sandbox_url or settings.url("/sandbox")).rstrip("/") + "/v1/pages"

    async def open_page(self, attempt: Attempt) -> Page:
        """``POST /v1/pages``; the sandbox knows an attempt by its reference and never opens two pages for it."""
        if attempt.reference is None or attempt.expires_at is None:
            raise ValueError("the attempt must be stored first")
        back = f"reference={attempt.reference}"
        page = await self._call(
            "POST",
            "",
            {
                "reference": attempt.reference,
                "amount": attempt.amount,
                "currency": attempt.currency,
                "description": attempt.product_name,
                "display_amount": display_amount(attempt.amount, attempt.currency),
                "success_url": return_url(self._settings, self.name, back),
                "cancel_url": return_url(self._settings, self.name, back),
                "webhook_url": self._settings.url(f"/webhooks/{self.name}"),
                "expires_at": int(attempt.expires_at.timestamp()),
            },
        )
        return Page(provider_session_id=page["id"], url=page["url"], expires_at=attempt.expires_at)

    async def close_page(self, provider_session_id: str) -> bool:
        """``POST /v1/pages/{id}/expire`` leaves a page alone that is not open."""
        page = await self._call("POST", f"/{provider_session_id}/expire")
        return page["status"] not in ("paid", "processing")

    async def ask(self, attempt: Attempt, source: Source, *, returned: str = "") -> Outcome:
        """``GET /v1/pages/{id}``."""
        if attempt.provider_session_id is None:
            return Outcome(provider=self.name, status="pending", source=source, reference=attempt.reference)
        return self._outcome(await self._call("GET", f"/{attempt.provider_session_id}"), source)

    async def refund(self, attempt: Attempt, order: RefundOrder) -> Refund:
        """``POST /v1/pages/{id}/refunds``, once per key."""
        await self._call("POST", f"/{attempt.provider_session_id}/refunds", {"key": order.key, "amount": order.amount})
        return Refund(provider_refund_id=order.key, amount=order.amount, status="succeeded", reason=order.reason)

    async def read_event(self, headers: Mapping[str, str], body: bytes) -> Event:
        """Verify and read one event."""
        signature.verify(self._secret, headers, body)
        with shaped(InvalidRequest, "The event"):
            event = storable_json(body)
            return Event(id=text(event["id"]), type=text(event["type"]), payload=event)

    async def interpret(self, event: Event) -> Notification:
        """Every event shows the page as it was then."""
        with shaped(InvalidRequest, "The event"):
            return Notification(event=event, outcome=self._outcome(event.payload["data"], "webhook"))

    def _outcome(self, page: dict[str, Any], source: Source) -> Outcome:
        return Outcome(
            provider=self.name,
            status=_STATUS[page["status"]],
            source=source,
            reference=page["reference"],
            provider_session_id=page["id"],
            provider_payment_id=page["payment_id"],
            amount=page["amount"],
            currency=page["currency"],
            paid_at=datetime.fromtimestamp(page["paid_at"], UTC) if page["paid_at"] else None,
            refunds=tuple(
                Refund(provider_refund_id=key, amount=amount, status="succeeded")
                for key, amount in page["refunds"].items()
            ),
            error_code="card_declined" if page["status"] == "declined" else None,
        )

    async def _call(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        request = self._client.build_request(
            method, self._api + path, json=body, headers={"Authorization": f"Bearer {self._secret}"}
        )
        response = await send(self._client, request, provider="The sandbox")
        if not response.is_success:
            raise ProviderRefused(
                f"The sandbox refused (HTTP {response.status_code}).", "Check PGCHECKOUT_SANDBOX_SECRET."
            )
        with shaped(ProviderUnavailable, "The sandbox's answer"):
            answer = response.json()
            if not isinstance(answer, dict):
                raise TypeError(f"a {type(answer).__name__}")
            return answer
