"""The Stripe adapter on a bench."""

from __future__ import annotations

import asyncio
from typing import Any

from bridge.providers.stripe import Stripe
from bridge.simulators.stripe_world import Json, StripeWorld, sign
from bridge.values import Attempt, Named, Notification, Outcome, Page, Source
from tests.providers.bench import AdapterBench, new_attempt

__all__ = ["Bench", "new_attempt"]


class Bench(AdapterBench[Stripe]):
    """``settings`` are changes to those that fit the simulated account."""

    def __init__(self, account: StripeWorld, url: str, **settings: Any) -> None:
        fitting = {
            "stripe_secret_key": account.secret_key,
            "stripe_webhook_secrets": account.webhook_secret,
            "stripe_api_url": url,
        }
        super().__init__(Stripe, fitting, **settings)
        self.account = account

    def open_twice_at_once(self, attempt: Attempt) -> tuple[Page, Page]:
        async def both() -> tuple[Page, Page]:
            return await asyncio.gather(self.adapter.open_page(attempt), self.adapter.open_page(attempt))

        return self.run(both())

    def ask(self, provider_session_id: str | None, source: Source = "verify") -> Outcome:
        return self.run(self.adapter.ask(new_attempt(provider_session_id=provider_session_id), source))

    def read(self, event: Json) -> Notification:
        """Read an event as Stripe delivers it."""
        return self.read_delivery(self.account.sign(event))

    def read_body(self, body: bytes) -> Notification:
        """Read a body that Stripe has really signed."""
        return self.read_delivery(({"stripe-signature": sign(body, self.account.webhook_secret)}, body))

    def returned(self, query: str) -> Named:
        return self.adapter.read_return(query)
