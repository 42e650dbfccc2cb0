"""An adapter on a bench: wired to a simulated provider, called without ``await``."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Coroutine
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

import httpx

from bridge.providers import Provider
from bridge.settings import load_settings
from bridge.simulators.base import Delivery, Json
from bridge.values import Attempt, Notification, Outcome, Page, Refund, RefundOrder, Source

__all__ = ["AdapterBench", "new_attempt"]

T = TypeVar("T")
P = TypeVar("P", bound=Provider)


def new_attempt(**changes: Any) -> Attempt:
    """A stored attempt over 25.00 USD that has no page yet."""
    now = datetime.now(UTC)
    values: dict[str, Any] = {
        "session_id": uuid.uuid4(), "user_id": uuid.uuid4(), "status": "pending", "fulfilment_status": "none",
        "fulfilment": None, "review_reason": None, "amount": 2500, "currency": "USD", "email": "buyer@example.test",
        "product_id": "credits_100", "product_name": "100 credits & more", "provider": "stripe",
        "provider_payment_id": None, "refundable_amount": 0,
        "refund_count": 0, "refund_under_way": None, "refund_statuses": {},
        "session_expires_at": now + timedelta(hours=2), "number": 7,
        "reference": uuid.uuid4().hex, "provider_session_id": None, "checkout_url": None,
        "created_at": now, "expires_at": now + timedelta(hours=2),
    }  # fmt: skip
    return Attempt(**(values | changes))


class AdapterBench(Generic[P]):
    """Use as a context manager. ``fitting`` are the settings of the simulated account, ``settings`` changes to them."""

    def __init__(self, adapter: type[P], fitting: Json, *, timeout: float = 5.0, **settings: Any) -> None:
        self._client = httpx.AsyncClient(timeout=timeout)
        chosen = {"public_url": "https://bridge.test", **fitting, **settings}
        self.adapter = adapter(load_settings(_env_file=None, **chosen), self._client)
        self._runner = asyncio.Runner()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.run(self._client.aclose())
        self._runner.close()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return self._runner.run(coroutine)

    def open_page(self, attempt: Attempt) -> Page:
        return self.run(self.adapter.open_page(attempt))

    def close_page(self, provider_session_id: str) -> bool:
        return self.run(self.adapter.close_page(provider_session_id))

    def ask_about(self, attempt: Attempt, source: Source = "verify", *, returned: str = "") -> Outcome:
        return self.run(self.adapter.ask(attempt, source, returned=returned))

    def refund(self, attempt: Attempt, order: RefundOrder) -> Refund:
        return self.run(self.adapter.refund(attempt, order))

    def read_delivery(self, delivery: Delivery) -> Notification:
        """Read a webhook as the provider delivers it."""

        async def read() -> Notification:
            return await self.adapter.interpret(await self.adapter.read_event(*delivery))

        return self.run(read())
