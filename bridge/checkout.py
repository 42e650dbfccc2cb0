"""What the bridge does, in the order in which it must happen. SQL decides what it means for a session."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Unpack
from uuid import UUID

from bridge.auth import User
from bridge.errors import (
    AttemptAttached,
    PgcheckoutError,
    ProviderError,
    ProviderUnknown,
    Refused,
    SessionNotFound,
    SessionNotPending,
)
from bridge.providers import Provider
from bridge.rpc import AttemptName, Rpc
from bridge.values import Applied, Attempt, Notification, Source

__all__ = ["Checkout", "Handled", "Opened", "Verified"]

log = logging.getLogger("pgcheckout")

_PAID = ("completed", "partially_refunded", "refunded")


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """A session that is ready to be paid; ``checkout_url`` is None when there is nothing to pay (any more)."""

    session_id: UUID
    status: str
    checkout_url: str | None
    expires_at: datetime
    amount: int
    currency: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Verified:
    """What is known about a session after its provider was asked. ``verified`` is False when it could not be."""

    attempt: Attempt
    status: str
    verified: bool
    fulfilment_status: str
    fulfilment: Mapping[str, Any] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Handled:
    """What became of a genuine notification: applied, duplicate, ignored, or refused (and kept for a person)."""

    result: str
    reason: str = ""


class Checkout:
    """The use cases behind the routes and commands."""

    def __init__(self, rpc: Rpc, providers: Mapping[str, Provider]) -> None:
        self._rpc = rpc
        self._providers = providers

    def provider(self, name: str) -> Provider:
        """A provider that is turned on. Raises ProviderUnknown."""
        try:
            return self._providers[name]
        except KeyError:
            on = ", ".join(self._providers) or "none; see `pgcheckout doctor`"
            raise ProviderUnknown(f"The provider {name!r} is not turned on.", f"Turned on: {on}.") from None

    async def start(self, user: User, provider: str, arguments: Mapping[str, Any]) -> Opened:
        """Session and page in one call; what cannot be paid any more is answered as it is."""
        self.provider(provider)
        session_id = await self._rpc.get_or_create_checkout_session(user.id, {**arguments, "p_provider": provider})
        try:
            return await self._open(session_id, provider)
        except SessionNotPending:
            attempt = await self._rpc.find_checkout_attempt(session_id=session_id)
            return _opened(attempt, None)

    async def pay(self, user: User, session_id: UUID, provider: str | None) -> Opened:
        """A page for a session that the user's client made by RPC."""
        attempt = await self._rpc.find_checkout_attempt(session_id=session_id, user_id=user.id)
        chosen = provider or attempt.provider
        self.provider(chosen)
        return await self._open(session_id, chosen)

    async def verify(self, user: User | None, source: Source, **name: Unpack[AttemptName]) -> Verified:
        """Ask the provider about a session, named by any one id, and apply its answer."""
        attempt = await self._rpc.find_checkout_attempt(**name, user_id=user.id if user else None)
        if attempt.reference is None or attempt.status in _PAID:
            return _verified(attempt, verified=attempt.status in _PAID)
        outcome = await self.provider(attempt.provider).ask(attempt, source)
        # both names must lead to the same session, or the database refuses
        applied = await self._rpc.apply_payment_outcome(replace(outcome, session_id=attempt.session_id))
        return _verified(attempt, applied=applied, verified=True)

    async def notified(self, provider: str, headers: Mapping[str, str], body: bytes) -> Handled:
        """Handle a webhook. Raises what the provider should repeat the delivery for; the rest is answered."""
        notification = await self.provider(provider).read_notification(headers, body)
        try:
            return await self._apply(notification)
        except Refused as error:
            if isinstance(error, SessionNotFound) and not notification.ours:
                return Handled(result="ignored", reason="not a payment of this installation")
            await self._rpc.record_webhook_failure(provider, notification.event, error)
            log.warning("%s webhook %s not applied: %s", provider, notification.event.id, error.reason)
            if error.retryable:
                raise
            return Handled(result="refused", reason=error.reason)

    async def returned(self, provider: str, query: str) -> Verified | None:
        """Handle a buyer who comes back; None when nothing in the query names an attempt of ours."""
        adapter = self.provider(provider)
        back = await adapter.read_return(query)
        wanted = AttemptName(reference=back.reference, provider=provider, provider_session_id=back.provider_session_id)
        if back.outcome is not None:
            applied = await self._rpc.apply_payment_outcome(back.outcome)
            attempt = await self._rpc.find_checkout_attempt(**wanted)
            return _verified(attempt, applied=applied, verified=True)
        try:
            return await self.verify(None, "return", **wanted)
        except SessionNotFound:
            return None
        except ProviderError as error:
            # the buyer need not wait for the provider: its webhook, or the next verify, brings the truth
            log.warning("return from %s not verified: %s", provider, error.reason)
            return _verified(await self._rpc.find_checkout_attempt(**wanted), verified=False)

    async def _apply(self, notification: Notification) -> Handled:
        if notification.refused:
            raise notification.refused
        if notification.outcome is None:
            return Handled(result="ignored", reason=notification.ignored)
        applied = await self._rpc.apply_payment_outcome(notification.outcome, notification.event)
        return Handled(result="duplicate" if applied.duplicate else "applied")

    async def _open(self, session_id: UUID, provider: str) -> Opened:
        attempt = await self._rpc.open_checkout_attempt(session_id, provider)
        if attempt.replaced:
            await self._close_replaced(attempt.replaced)
        if attempt.checkout_url is None and attempt.number is not None:
            try:
                page = await self.provider(provider).open_page(attempt)
            except PgcheckoutError as error:
                await self._rpc.abandon_checkout_attempt(attempt.number, error)
                raise
            try:
                await self._rpc.attach_checkout_attempt(attempt.number, page)
                return _opened(attempt, page.url, page.expires_at)
            except AttemptAttached:  # another call opened a page for it meanwhile: that one is shown
                attempt = await self._rpc.open_checkout_attempt(session_id, provider)
        return _opened(attempt, attempt.checkout_url)

    async def _close_replaced(self, replaced: Mapping[str, str]) -> None:
        try:
            await self.provider(replaced["provider"]).close_page(replaced["provider_session_id"])
        except PgcheckoutError as error:
            # its payment would be recorded and flagged as a duplicate
            log.warning("page %s stays open: %s", replaced["provider_session_id"], error.reason)


def _opened(attempt: Attempt, url: str | None, expires_at: datetime | None = None) -> Opened:
    return Opened(
        session_id=attempt.session_id,
        status=attempt.status,
        checkout_url=url,
        expires_at=expires_at or attempt.session_expires_at,
        amount=attempt.amount,
        currency=attempt.currency,
    )


def _verified(attempt: Attempt, *, verified: bool, applied: Applied | None = None) -> Verified:
    known = applied or attempt
    return Verified(
        attempt=attempt,
        status=known.status or attempt.status,
        verified=verified,
        fulfilment_status=known.fulfilment_status or attempt.fulfilment_status,
        fulfilment=known.fulfilment,
    )
