"""The Stripe adapter on a bench: wired to a simulated Stripe, called without ``await``."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Coroutine, Mapping
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx

from bridge.providers.stripe import Stripe
from bridge.settings import load_settings
from bridge.values import Attempt, Notification, Outcome, Page, Returned, Source
from tests.support.stripe_world import Json, StripeWorld, sign

__all__ = ["Bench", "new_attempt"]

T = TypeVar("T")


def new_attempt(**changes: Any) -> Attempt:
    """A stored attempt over 25.00 USD that has no page yet."""
    now = datetime.now(UTC)
    values: dict[str, Any] = {
        "session_id": uuid.uuid4(), "user_id": uuid.uuid4(), "status": "pending", "fulfilment_status": "none",
        "fulfilment": None, "review_reason": None, "amount": 2500, "currency": "USD", "email": "buyer@example.test",
        "product_id": "credits_100", "product_name": "100 credits & more", "provider": "stripe",
        "provider_payment_id": None, "session_expires_at": now + timedelta(hours=2), "number": 7,
        "reference": uuid.uuid4().hex, "provider_session_id": None, "checkout_url": None,
        "created_at": now, "expires_at": now + timedelta(hours=2),
    }  # fmt: skip
    return Attempt(**(values | changes))


class Bench:
    """Use as a context manager. ``settings`` are changes to those that fit the simulated account."""

    def __init__(self, account: StripeWorld, url: str, *, timeout: float = 5.0, **settings: Any) -> None:
        fitting: dict[str, Any] = {
            "stripe_secret_key": account.secret_key,
            "stripe_webhook_secrets": account.webhook_secret,
            "stripe_api_url": url,
            "public_url": "https://bridge.test",
        }
        self.account = account
        self._client = httpx.AsyncClient(timeout=timeout)
        self.adapter = Stripe(load_settings(_env_file=None, **(fitting | settings)), self._client)
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

    def open_twice_at_once(self, attempt: Attempt) -> tuple[Page, Page]:
        async def both() -> tuple[Page, Page]:
            return await asyncio.gather(self.adapter.open_page(attempt), self.adapter.open_page(attempt))

        return self.run(both())

    def close_page(self, provider_session_id: str) -> bool:
        return self.run(self.adapter.close_page(provider_session_id))

    def ask(self, provider_session_id: str | None, source: Source = "verify") -> Outcome:
        return self.run(self.adapter.ask(new_attempt(provider_session_id=provider_session_id), source))

    def read(self, event: Json) -> Notification:
        """Read an event as Stripe delivers it."""
        return self._read(*self.account.sign(event))

    def read_body(self, body: bytes) -> Notification:
        """Read a body that Stripe has really signed."""
        return self._read({"stripe-signature": sign(body, self.account.webhook_secret)}, body)

    def _read(self, headers: Mapping[str, str], body: bytes) -> Notification:
        return self.run(self.adapter.interpret(self.adapter.read_event(headers, body)))

    def returned(self, query: str) -> Returned:
        return self.run(self.adapter.read_return(query))
