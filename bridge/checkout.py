"""What buyers ask of the bridge, in the order in which it must happen. SQL decides what it means for a session."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Unpack
from uuid import UUID

from bridge.alerts import note
from bridge.auth import User
from bridge.errors import (
    AttemptAttached,
    CurrencyUnavailable,
    NotSupported,
    PgcheckoutError,
    ProviderError,
    ProviderUnknown,
    Refused,
    SessionExpired,
    SessionNotFound,
    SessionNotPending,
    SignatureInvalid,
)
from bridge.metrics import VERIFICATIONS
from bridge.providers import Provider
from bridge.rpc import AttemptName, Rpc
from bridge.values import (
    Applied,
    Attempt,
    Event,
    Outcome,
    Page,
    SessionStatus,
    Source,
)

__all__ = ["Checkout", "Opened", "Verified"]

log = logging.getLogger("pgcheckout")

_PAID = ("completed", "partially_refunded", "refunded")


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """A session that is ready to be paid; ``checkout_url`` is None when there is nothing to pay (any more)."""

    session_id: UUID
    status: SessionStatus
    checkout_url: str | None
    expires_at: datetime
    amount: int
    currency: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Verified:
    """What is known about a session after its provider was asked. ``verified`` is False when it could not be."""

    attempt: Attempt
    status: SessionStatus
    verified: bool
    fulfilment_status: str
    fulfilment: Mapping[str, Any] | None


class Checkout:
    """The use cases behind the routes and commands."""

    def __init__(self, rpc: Rpc, providers: Mapping[str, Provider]) -> None:
        self._rpc = rpc
        self._providers = providers

    @property
    def providers(self) -> Collection[str]:
        """The names of those that are turned on."""
        return self._providers.keys()

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
        except (SessionNotPending, SessionExpired):
            attempt = await self._rpc.find_checkout_attempt(session_id=session_id)
            return _opened(attempt, None)

    async def pay(self, user: User, session_id: UUID, provider: str | None) -> Opened:
        """A page for a session that the user's client made by RPC."""
        attempt = await self._rpc.find_checkout_attempt(session_id=session_id, user_id=user.id)
        chosen = provider or attempt.provider
        self.provider(chosen)
        return await self._open(session_id, chosen)

    async def resume(self, session_id: UUID) -> Opened:
        """The page of an unpaid session, a new one when it is no longer open; none when there is nothing to pay."""
        attempt = await self._rpc.find_checkout_attempt(session_id=session_id)
        try:
            return await self._open(session_id, attempt.provider)
        except (SessionNotPending, SessionExpired):
            return _opened(attempt, None)

    async def verify(
        self,
        user: User | None,
        source: Source,
        *,
        returned: str = "",
        event: Event | None = None,
        **name: Unpack[AttemptName],
    ) -> Verified:
        """Ask the provider about a session, named by any one id, and apply its answer.

        ``returned`` is the query with which the buyer came back, if so; ``event`` makes a return that is proof count
        once.
        """
        attempt = await self._rpc.find_checkout_attempt(**name, user_id=user.id if user else None)
        # a page that was paid can be paid again: the return of the second payment is news, too
        if attempt.reference is None or (attempt.status in _PAID and event is None):
            return _verified(attempt, verified=attempt.status in _PAID)
        try:
            outcome = await self._truth(attempt, source, returned)
            # anybody can write a return that proves nothing: it leaves no trace
            proven = event if outcome.status != "pending" else None
            applied = await self._rpc.apply_payment_outcome(outcome, proven)
        except NotSupported:  # a provider that cannot be asked: its own news will come
            return _verified(attempt, verified=False)
        if applied.duplicate:
            attempt = await self._rpc.find_checkout_attempt(session_id=attempt.session_id)
            return _verified(attempt, verified=True)
        if applied.status == "completed" or not attempt.other_pages:
            return _verified(attempt, applied=applied, verified=True)
        # the buyer may have paid on an earlier page whose notification was lost
        for page in attempt.other_pages:
            await self._settle(page, source)
        attempt = await self._rpc.find_checkout_attempt(session_id=attempt.session_id)
        return _verified(attempt, verified=True)

    async def cancel(self, user: User, session_id: UUID) -> Verified:
        """Close the pages of a pending session at their providers, and cancel it. What was paid is applied instead.

        A page that cannot be closed may still be paid: its money would be honoured.
        """
        attempt = await self._rpc.find_checkout_attempt(session_id=session_id, user_id=user.id)
        if attempt.status == "pending":
            if attempt.provider_session_id:
                page = {"provider": attempt.provider, "provider_session_id": attempt.provider_session_id}
                attempt = replace(attempt, other_pages=(page, *attempt.other_pages))
            if not await self._close_others(attempt, take=False):
                await self._give_up(attempt)
            attempt = await self._rpc.find_checkout_attempt(session_id=session_id)
        return _verified(attempt, verified=attempt.status in _PAID)

    async def unverified(self, **name: Unpack[AttemptName]) -> Verified:
        """What is known about a session without asking anybody."""
        return _verified(await self._rpc.find_checkout_attempt(**name), verified=False)

    async def close(self, attempt: Attempt) -> None:
        """Close the page of an attempt that nobody waits for any more, where that is possible."""
        if attempt.provider_session_id:
            with contextlib.suppress(NotSupported):
                await self.provider(attempt.provider).close_page(attempt.provider_session_id)

    async def ask(self, attempt: Attempt, source: Source, event: Event | None = None) -> Applied:
        """Ask the provider about an attempt and apply its answer."""
        truth = await self._truth(attempt, source)
        applied = await self._rpc.apply_payment_outcome(truth, event)
        if applied.duplicate:  # two events can look the same, and what is true now may be new
            await self._rpc.apply_payment_outcome(truth)
        return applied

    async def _truth(self, attempt: Attempt, source: Source, returned: str = "") -> Outcome:
        outcome = await _asked(self.provider(attempt.provider), attempt, source, returned)
        # both names must lead to the same session, or the database refuses
        return replace(outcome, session_id=attempt.session_id)

    async def _open(self, session_id: UUID, provider: str) -> Opened:
        attempt = await self._rpc.open_checkout_attempt(session_id, provider)
        if attempt.checkout_url is not None or attempt.number is None:
            return _opened(attempt, attempt.checkout_url, attempt.expires_at)
        if attempt.other_pages:
            await self._close_others(attempt)
            now = await self._rpc.find_checkout_attempt(session_id=session_id)
            if now.status != "pending":  # paid, or superseded by a payment that was found
                return _opened(now, None)
        try:
            page = await self._page(self.provider(provider), attempt)
        except PgcheckoutError as error:
            # after a lost answer the page may exist: the next try continues this attempt and may get it
            if not error.retryable:
                await self._rpc.abandon_checkout_attempt(attempt.number, error)
            raise
        try:
            await self._rpc.attach_checkout_attempt(attempt.number, page)
        except AttemptAttached:  # another call opened a page for it meanwhile: that one is shown
            attempt = await self._rpc.open_checkout_attempt(session_id, provider)
            return _opened(attempt, attempt.checkout_url, attempt.expires_at)
        return _opened(attempt, page.url, page.expires_at)

    async def _page(self, adapter: Provider, attempt: Attempt) -> Page:
        if adapter.currencies is not None and attempt.currency not in adapter.currencies:
            taken = ", ".join(sorted(adapter.currencies))
            raise CurrencyUnavailable(f"{adapter.title} cannot take {attempt.currency}.", f"It takes: {taken}.")
        return await adapter.open_page(attempt)

    async def _close_others(self, attempt: Attempt, *, take: bool = True) -> bool:
        """Close the other pages of a purchase. One that cannot be closed, because it is paid say, is asked about; True
        when that has ended the session. ``take``: whether its money may still be taken where that is ours to do."""
        for page in attempt.other_pages:
            try:
                if not await self._closed(page):
                    applied = await self._settle(page, "client", take=take)
                    if applied and applied.session_id == attempt.session_id and applied.status != "pending":
                        return True
            except PgcheckoutError as error:
                # its payment would be recorded and flagged
                log.warning("page %r may stay open: %s", page["provider_session_id"], error.reason)
        return False

    async def _give_up(self, attempt: Attempt) -> None:
        given_up = Outcome(
            provider=attempt.provider, status="cancelled", source="client", session_id=attempt.session_id
        )
        for page in attempt.other_pages:
            try:
                await self._rpc.apply_payment_outcome(
                    replace(given_up, provider=page["provider"], provider_session_id=page["provider_session_id"])
                )
            except SessionNotFound:  # a page of an earlier session of the same purchase
                continue
        await self._rpc.apply_payment_outcome(given_up)

    async def _closed(self, page: Mapping[str, str]) -> bool:
        try:
            return await self.provider(page["provider"]).close_page(page["provider_session_id"])
        except NotSupported:  # then at least its truth is asked for
            return False

    async def _settle(self, page: Mapping[str, str], source: Source, *, take: bool = True) -> Applied | None:
        name = AttemptName(provider=page["provider"], provider_session_id=page["provider_session_id"])
        try:
            attempt = await self._rpc.find_checkout_attempt(**name)
            if attempt.status == "pending" and not take:
                attempt = replace(attempt, status="cancelled")
            return await self.ask(attempt, source)
        except (NotSupported, ProviderError, Refused) as error:
            # what is wrong with another page is no answer about this one
            log.warning("page %r could not be asked about: %s", page["provider_session_id"], error.reason)
            return None


async def _asked(provider: Provider, attempt: Attempt, source: Source, returned: str) -> Outcome:
    began, result = time.perf_counter(), "interrupted"
    try:
        outcome = await provider.ask(attempt, source, returned=returned)
    except PgcheckoutError as error:
        result = error.reason
        if isinstance(error, ProviderError):
            note("failed_verifications", provider.name)
        elif isinstance(error, SignatureInvalid):  # of a return that is proof
            note("signature_failures", provider.name)
        raise
    else:
        result = outcome.status or "none"
        return outcome
    finally:
        VERIFICATIONS.labels(provider.name, result).observe(time.perf_counter() - began)


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
