"""What providers tell the bridge: webhooks, questions before they take money, and buyers who come back."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from datetime import UTC, datetime

from bridge.checkout import Checkout, Verified
from bridge.errors import (
    AttemptNotFound,
    PgcheckoutError,
    PriceMismatch,
    ProviderError,
    Refused,
    SessionExpired,
    SessionNotFound,
    SessionNotPending,
)
from bridge.providers import Provider
from bridge.rpc import AttemptName, Rpc
from bridge.values import Attempt, Event, Handled, Named, Notification, Outcome

__all__ = ["News"]

log = logging.getLogger("pgcheckout")


class News:
    """The use cases behind the routes that providers and returning browsers call."""

    def __init__(self, rpc: Rpc, checkout: Checkout) -> None:
        self._rpc = rpc
        self._checkout = checkout

    async def notified(self, provider: str, headers: Mapping[str, str], body: bytes) -> Handled:
        """Handle a webhook. Raises what the provider should repeat the delivery for; the rest is answered.

        Whatever is genuine and cannot be applied is kept, whether or not it is repeated.
        """
        adapter = self._checkout.provider(provider)
        event = await adapter.read_event(headers, body)
        return await self._handle(provider, event)

    async def replayed(self, provider: str, event: Event) -> Handled:
        """Handle a webhook again that could not be applied when it came: its signature was checked then."""
        return await self._handle(provider, event)

    async def _handle(self, provider: str, event: Event) -> Handled:
        adapter = self._checkout.provider(provider)
        try:
            notification = await adapter.interpret(event)
            if not notification.asks:
                return await self._apply(adapter, notification)
        except PgcheckoutError as error:
            log.warning("%s webhook %r not applied: %s", provider, event.id, error.reason)
            # our rules refuse for good; whatever else went wrong may be mended by the next delivery
            comes_again = error.retryable or not isinstance(error, Refused)
            kept = await self._keep(provider, event, error.reason, comes_again=comes_again)
            if comes_again or not kept:
                raise
            return Handled(result="refused", reason=error.reason)
        # nothing has happened yet, so a refusal leaves nothing to keep
        return await self._consent(notification)

    async def returned(self, provider: str, query: str) -> Verified | None:
        """Handle a buyer who comes back; None when nothing in the query names an attempt of ours."""
        adapter = self._checkout.provider(provider)
        named = adapter.read_return(query)
        wanted, event = _wanted(provider, named), _return_event(named, query) if adapter.returns_are_proof else None
        try:
            return await self._checkout.verify(None, "return", returned=query, event=event, **wanted)
        except SessionNotFound:
            return None
        except PgcheckoutError as error:
            if event and (error.retryable or isinstance(error, ProviderError)):
                await self._keep(provider, event, error.reason, comes_again=error.retryable)
            if not isinstance(error, ProviderError) or (event and error.retryable):
                raise
            # the buyer need not wait for the provider: its webhook, or the next verify, brings the truth
            log.warning("return from %s not verified: %s", provider, error.reason)
            return await self._checkout.unverified(**wanted)

    async def _apply(self, adapter: Provider, notification: Notification) -> Handled:
        if notification.refused:
            raise notification.refused
        attempt = None
        try:
            if notification.ask:
                attempt = await self._rpc.find_checkout_attempt(**_wanted(adapter.name, notification.ask))
                applied = await self._checkout.ask(attempt, "webhook", notification.event)
            elif notification.outcome:
                if adapter.answers:
                    attempt = await self._attempt_in_question(notification)
                applied = await self._rpc.apply_payment_outcome(notification.outcome, notification.event)
            else:
                return Handled(result="ignored", reason=notification.ignored)
        except SessionNotFound:
            if notification.ours:
                raise
            return Handled(result="ignored", reason="not a payment of this installation")
        result = "duplicate" if applied.duplicate else "applied"
        return Handled(result=result, attempt=attempt, applied=applied)

    async def _attempt_in_question(self, notification: Notification) -> Attempt | None:
        """The attempt of a provider that waits for an answer; None when the session is gone. Raises what forbids it."""
        outcome = notification.outcome
        if outcome is None:
            return None
        try:
            attempt = await self._attempt_of(outcome)
        except SessionNotFound:  # deleted with its user, perhaps: the database still keeps the money
            return None
        if attempt.status in notification.not_if:
            raise SessionNotPending(f"The session is {attempt.status}.")
        if outcome.status == "completed" and not _is_due(attempt, outcome):
            raise PriceMismatch("The amount is not the one to which we consented.")
        return attempt

    async def _consent(self, notification: Notification) -> Handled:
        """Whether an attempt may be paid now; refused with the reason and the attempt when it may not."""
        outcome = notification.outcome
        if outcome is None:
            raise ValueError("a notification that asks says what it wants to do")
        attempt = await self._attempt_of(outcome)
        refusal = _why_not_payable(attempt, outcome)
        if refusal is None and attempt.status == "processing":
            current = await self._rpc.find_checkout_attempt(session_id=attempt.session_id)
            if current.number != attempt.number:  # its money is on the way from another page
                refusal = SessionNotPending
        applied = None
        if refusal is None:
            applied = await self._rpc.apply_payment_outcome(outcome, notification.event)
            overtaken = applied.status != outcome.status or "second_payment" in (applied.review_reason or "")
            if overtaken and not applied.duplicate:  # it has ended, or is being paid elsewhere, since we looked
                refusal = SessionNotPending
        if refusal:
            return Handled(result="refused", reason=refusal.reason, attempt=attempt)
        return Handled(result="applied", attempt=attempt, applied=applied)

    async def _attempt_of(self, outcome: Outcome) -> Attempt:
        """The attempt that an outcome names; both names must be its own."""
        attempt = await self._rpc.find_checkout_attempt(reference=outcome.reference, provider=outcome.provider)
        if outcome.provider_session_id not in (None, attempt.provider_session_id):
            raise AttemptNotFound("The page is not the one that was opened for this reference.")
        return attempt

    async def _keep(self, provider: str, event: Event, reason: str, *, comes_again: bool) -> bool:
        try:
            await self._rpc.record_webhook_failure(provider, event, reason, comes_again=comes_again)
        except PgcheckoutError as error:
            log.warning("%s webhook %r could not be kept either: %s", provider, event.id, error.reason)
            return False
        return True


def _return_event(named: Named, query: str) -> Event:
    """A return that is the only proof there will be, as an event: handled once, kept when it cannot be handled."""
    # its query names the buyer: only its digest is stored
    name = hashlib.sha256(query.encode(errors="replace")).hexdigest()[:32]
    return Event(id=f"return:{name}", type="return", payload={"reference": named.reference})


def _why_not_payable(attempt: Attempt, outcome: Outcome) -> type[Refused] | None:
    if attempt.status not in ("pending", "processing"):
        return SessionNotPending
    if not _is_due(attempt, outcome):
        return PriceMismatch
    return SessionExpired if attempt.session_expires_at <= datetime.now(UTC) else None


def _is_due(attempt: Attempt, outcome: Outcome) -> bool:
    return (outcome.amount, outcome.currency) == (attempt.amount, attempt.currency)


def _wanted(provider: str, named: Named) -> AttemptName:
    return AttemptName(reference=named.reference, provider=provider, provider_session_id=named.provider_session_id)
