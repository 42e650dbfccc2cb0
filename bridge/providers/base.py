"""What a payment provider must be able to say and do.

An adapter holds wire formats and mappings and decides nothing about sessions. What a provider does not have, its
adapter does not define: the methods here then say so.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection, Mapping
from typing import Any, ClassVar, Protocol
from urllib.parse import parse_qsl

import httpx

from bridge.errors import NotSupported, PgcheckoutError
from bridge.settings import Settings
from bridge.values import Attempt, Event, Handled, Named, Notification, Outcome, Page, Refund, RefundOrder, Source

__all__ = ["Provider", "query_values", "return_url"]


class Provider(Protocol):
    """One payment provider; adapters inherit from it.

    Every method may raise ProviderUnavailable (a later try can help) or ProviderRefused (it cannot), and NotSupported
    where the provider has no such thing.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    """What people call it."""
    needs: ClassVar[tuple[str, ...]]
    """The settings that turn it on when all of them are set."""
    currencies: ClassVar[frozenset[str] | None] = None
    """ISO 4217 codes that it takes; None when they are too many to list."""
    answers: ClassVar[bool] = False
    """Whether its notifications are questions, so that ``reply`` is told about the attempt."""
    returns_are_proof: ClassVar[bool] = False
    """Whether the signed return of the buyer is the only news of a payment that there will ever be."""
    refunds_can_be_asked: ClassVar[bool] = True
    """Whether ``ask`` tells its refunds. Where not, a refund is stored under our own id before it is asked for."""

    def __init__(self, settings: Settings, client: httpx.AsyncClient) -> None:
        """Every adapter is made like this; ``client`` is shared."""

    @property
    def source_addresses(self) -> Collection[str]:
        """IP addresses from which its webhooks come; none when it publishes no list to rely on."""
        return ()

    @abstractmethod
    async def open_page(self, attempt: Attempt) -> Page:
        """Open the payment page of a stored attempt. Asking again for the same attempt must not open a second page,
        where the provider can promise that."""

    async def close_page(self, provider_session_id: str) -> bool:
        """Make a page unpayable. False when it is too late: the buyer has paid on it, or is about to."""
        raise NotSupported(f"{self.title} cannot close a page.")

    @abstractmethod
    async def ask(self, attempt: Attempt, source: Source, *, returned: str = "") -> Outcome:
        """Ask for the truth about an attempt, and take its money where that is ours to do.

        ``returned`` is the query with which the buyer came back; for some providers the only proof there will be.
        """

    async def read_event(self, headers: Mapping[str, str], body: bytes) -> Event:
        """Read a webhook from its raw bytes. Raises SignatureInvalid before anything of it is believed, and
        InvalidRequest when a genuine body has not even an id and a type."""
        raise NotSupported(f"{self.title} sends no webhooks.")

    async def interpret(self, event: Event) -> Notification:
        """What a genuine event calls for; may ask the provider. Raises InvalidRequest when it makes no sense."""
        raise NotSupported(f"{self.title} sends no webhooks.")

    def reply(self, body: bytes, result: Handled | PgcheckoutError) -> Mapping[str, Any] | None:
        """The JSON that the provider wants to read (with HTTP 200); None when our own answer will do."""
        return None

    def read_return(self, query: str) -> Named:
        """Which attempt a buyer comes back from; ``query`` (or form body) is as it was received."""
        return Named(reference=query_values(query).get("reference"))

    async def refund(self, attempt: Attempt, order: RefundOrder) -> Refund:
        """Give back money of the payment ``attempt.provider_payment_id``.

        The same order given again must not give it back twice where the provider can promise that. Where it cannot,
        and the answer was lost: RefundInDoubt.
        """
        raise NotSupported(f"{self.title} cannot give money back over its API.")


def return_url(settings: Settings, provider: str, query: str) -> str:
    """Where a provider sends the buyer back to."""
    return settings.url(f"/return/{provider}?{query}")


def query_values(query: str) -> dict[str, str]:
    """A query as a mapping; of a repeated name the first value counts."""
    values: dict[str, str] = {}
    for name, value in parse_qsl(query, errors="replace"):
        values.setdefault(name, value)
    return values
