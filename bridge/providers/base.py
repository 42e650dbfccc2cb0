"""What a payment provider must be able to say and do.

An adapter holds wire formats and mappings and decides nothing about sessions.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol
from urllib.parse import parse_qsl

from bridge.settings import Settings
from bridge.values import Attempt, Event, Notification, Outcome, Page, Returned, Source

__all__ = ["Provider", "query_values", "return_url"]


class Provider(Protocol):
    """One payment provider.

    Every method may raise ProviderUnavailable (a later try can help) or ProviderRefused (it cannot), and NotSupported
    where the provider has no such thing.
    """

    name: str

    async def open_page(self, attempt: Attempt) -> Page:
        """Open the payment page of a stored attempt. Asking again for the same attempt must not open a second page,
        where the provider can promise that."""

    async def close_page(self, provider_session_id: str) -> bool:
        """Make a page unpayable. False when it is too late: the buyer has paid on it, or is about to."""

    async def ask(self, attempt: Attempt, source: Source) -> Outcome:
        """Ask for the truth about an attempt."""

    def read_event(self, headers: Mapping[str, str], body: bytes) -> Event:
        """Read a webhook from its raw bytes. Raises SignatureInvalid before anything of it is believed, and
        InvalidRequest when a genuine body has not even an id and a type."""

    async def interpret(self, event: Event) -> Notification:
        """What a genuine event calls for; may ask the provider. Raises InvalidRequest when it makes no sense."""

    async def read_return(self, query: str) -> Returned:
        """Read the query (or form body) with which a buyer comes back, as it was received."""


def return_url(settings: Settings, provider: str, query: str) -> str:
    """Where a provider sends the buyer back to."""
    return settings.url(f"/return/{provider}?{query}")


def query_values(query: str) -> dict[str, str]:
    """A query as a mapping; of a repeated name the first value counts."""
    values: dict[str, str] = {}
    for name, value in parse_qsl(query, errors="replace"):
        values.setdefault(name, value)
    return values
