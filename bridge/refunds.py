"""Giving money back through the provider: asked for once, recorded through the one door."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from itertools import count
from typing import Any
from uuid import UUID

from bridge.checkout import Checkout
from bridge.errors import (
    InvalidRequest,
    NothingToRefund,
    NotSupported,
    ProviderRefused,
    ProviderUnavailable,
    RefundInDoubt,
    ReviewChanged,
)
from bridge.idempotency import digest, run_once
from bridge.providers import Provider
from bridge.rpc import Rpc
from bridge.values import Applied, Attempt, Event, Outcome, Refund, RefundOrder, RefundStatus, SessionStatus

__all__ = ["Refunded", "Refunds"]

_KNOWN_ALREADY = (
    "Nothing was sent: the provider knew of a refund that was not recorded yet. It is now. Give the order again if "
    "more is to go back."
)

_IN_VAIN = ("failed", "refused")


@dataclass(frozen=True, slots=True, kw_only=True)
class Refunded:
    """What became of an order to refund. Amounts in minor units of ``currency``.

    ``status`` is that of the refund; None when nothing was sent, and ``message`` says why. ``refundable_amount`` is
    what is left.
    """

    session_id: UUID
    amount: int
    currency: str
    status: RefundStatus | None
    provider_refund_id: str | None
    session_status: SessionStatus
    refundable_amount: int
    message: str


class Refunds:
    """The use case behind ``pgcheckout refund`` and ``POST /admin/refunds``."""

    def __init__(self, rpc: Rpc, checkout: Checkout) -> None:
        self._rpc = rpc
        self._checkout = checkout

    async def give(
        self,
        session_id: UUID,
        *,
        amount: int | None = None,
        reason: str | None = None,
        key: str | None = None,
        seen: int | None = None,
    ) -> Refunded:
        """Give back ``amount`` minor units of a session's payment, or all that is left.

        The same order again (``key``, or else the same amount while no other refund was recorded meanwhile) gives
        nothing back a second time. ``seen``: how many refunds there were when somebody looked; nothing is given when
        there are others. Raises SessionNotFound, NothingToRefund, InvalidRequest, ProviderUnknown, NotSupported,
        ProviderError, RequestInProgress, IdempotencyConflict and ReviewChanged.
        """
        if reason and not reason.isprintable():
            raise InvalidRequest("reason: contains a control character.", "Send plain text.")
        attempt = await self._rpc.find_checkout_attempt(session_id=session_id)
        if seen is not None and attempt.refund_count != seen:
            raise ReviewChanged(
                "Money was given back since you looked; nothing was sent.", "Look at the session again."
            )
        wanted = attempt.refundable_amount if amount is None else amount
        same_order = f"key {key}" if key else f"{wanted} after {attempt.refund_count}"
        name = f"{session_id}: {same_order}"

        async def work() -> Mapping[str, Any]:
            order = RefundOrder(
                key=f"pgcheckout-{digest(name.encode())[:32]}",
                amount=_payable(attempt, wanted),
                in_full=wanted == attempt.amount == attempt.refundable_amount,
                reason=reason,
            )
            done = asdict(await self._give(attempt, order))
            return done | {"session_id": str(session_id)}

        answer = await run_once(self._rpc, attempt.user_id, name, f"{amount}".encode(), work, scope="refund")
        return Refunded(**{**answer, "session_id": session_id})

    async def _give(self, attempt: Attempt, order: RefundOrder) -> Refunded:
        adapter = self._checkout.provider(attempt.provider)
        if await self._learned_something(attempt):
            return await self._answer(attempt, None, _KNOWN_ALREADY)
        if adapter.refunds_can_be_asked:
            refund = await adapter.refund(attempt, order)
        else:
            refund = await self._give_blindly(adapter, attempt, order)
        await self._record(attempt, replace(refund, reason=refund.reason or order.reason))
        return await self._answer(attempt, refund, f"{adapter.title}: {refund.status}.")

    async def _learned_something(self, attempt: Attempt) -> bool:
        """Ask for the truth first: an earlier order may have been carried out although its answer was lost."""
        try:
            await self._checkout.ask(attempt, "admin")
        except NotSupported:
            return False
        known = await self._rpc.find_checkout_attempt(session_id=attempt.session_id)
        return known.refund_count != attempt.refund_count

    async def _give_blindly(self, adapter: Provider, attempt: Attempt, order: RefundOrder) -> Refund:
        """Where nobody can be asked what became of it, the refund is stored as pending before it is asked for: whatever
        happens then, it counts, and nothing more is sent, until a person knows better."""
        if attempt.refund_under_way:
            raise _in_doubt(attempt.refund_under_way)
        # a name per try: what has failed once stays failed
        tries = (f"{order.key}-{number}" for number in count())
        order = replace(order, key=next(name for name in tries if attempt.refund_statuses.get(name) not in _IN_VAIN))
        if order.key in attempt.refund_statuses:  # carried out by a worker that crashed before it could say so
            return Refund(provider_refund_id=order.key, amount=order.amount, status="succeeded")
        refund = Refund(provider_refund_id=order.key, amount=order.amount, status="pending", reason=order.reason)
        stored = await self._record(attempt, refund, Event(id=f"order:{order.key}", type="refund.ordered", payload={}))
        if stored.duplicate:
            raise _in_doubt(order.key)
        try:
            known = await self._rpc.find_checkout_attempt(session_id=attempt.session_id)
            if known.refund_under_way != order.key:  # another order was quicker, and took what was left
                raise ProviderRefused("Another refund was ordered at the same time; nothing was sent.", "Look again.")
            given = await adapter.refund(attempt, order)
        except RefundInDoubt as error:
            raise _in_doubt(order.key, error.message) from None
        except (NotSupported, ProviderRefused, ProviderUnavailable):  # nothing was given
            await self._record(attempt, replace(refund, status="failed"))
            raise
        told = f"{adapter.title} {given.provider_refund_id}"
        return replace(given, provider_refund_id=order.key, reason=f"{order.reason} ({told})" if order.reason else told)

    async def _record(self, attempt: Attempt, refund: Refund, event: Event | None = None) -> Applied:
        outcome = Outcome(
            provider=attempt.provider,
            status=None,
            source="admin",
            session_id=attempt.session_id,
            provider_payment_id=attempt.provider_payment_id,
            refunds=(refund,),
        )
        return await self._rpc.apply_payment_outcome(outcome, event)

    async def _answer(self, attempt: Attempt, refund: Refund | None, message: str) -> Refunded:
        now = await self._rpc.find_checkout_attempt(session_id=attempt.session_id)
        return Refunded(
            session_id=attempt.session_id,
            amount=refund.amount if refund else 0,
            currency=attempt.currency,
            status=refund.status if refund else None,
            provider_refund_id=refund.provider_refund_id if refund else None,
            session_status=now.status,
            refundable_amount=now.refundable_amount,
            message=message,
        )


def _in_doubt(refund_id: str, why: str = "Nothing was sent.") -> RefundInDoubt:
    return RefundInDoubt(
        f"It is not known what became of the refund {refund_id}. {why}",
        "Look in the provider's portal and settle it; docs/providers.md says how.",
    )


def _payable(attempt: Attempt, amount: int) -> int:
    left = attempt.refundable_amount
    if left == 0 or attempt.provider_payment_id is None:
        raise NothingToRefund(f"Nothing is left to give back: the session is {attempt.status}.")
    if not 0 < amount <= left:
        raise InvalidRequest(
            f"amount: {amount} cannot be given back; {left} minor units of {attempt.currency} are left.",
            f"Send an amount from 1 to {left}, or none for all of it.",
        )
    return amount
