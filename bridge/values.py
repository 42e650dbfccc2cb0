"""The values that travel between providers, the bridge and the database. All amounts are in minor units."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, Literal, Self
from uuid import UUID

from bridge.errors import Refused

__all__ = [
    "Applied",
    "Attempt",
    "Event",
    "Handled",
    "Named",
    "Notification",
    "Outcome",
    "Page",
    "Refund",
    "RefundKind",
    "RefundOrder",
    "RefundStatus",
    "SessionStatus",
    "Source",
    "Status",
]

Status = Literal["pending", "processing", "completed", "failed", "expired", "cancelled"]  # of an outcome
SessionStatus = Literal[
    "pending", "processing", "completed", "failed", "expired", "cancelled", "refunded", "partially_refunded"
]
Source = Literal["client", "webhook", "verify", "return", "reconcile", "cron", "admin"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """A checkout session and the attempt at a provider that speaks for it, as ``payments.attempt_answer`` gives them.

    ``amount`` is in minor units of ``currency`` (ISO 4217, upper case). ``number`` and ``reference`` are None when no
    page was opened yet; ``checkout_url`` is None until the provider has opened one. ``refundable_amount`` (minor units)
    is what is left of the payment to give back, 0 while nothing was paid; ``refund_count`` counts refunds in any state,
    ``refund_under_way`` is one that is pending, ``refund_statuses`` says of each refund what became of it.
    ``other_pages`` (``provider``, ``provider_session_id``) are those on which the same purchase could still be, or have
    been, paid.
    """

    session_id: UUID
    user_id: UUID
    status: SessionStatus
    fulfilment_status: str
    fulfilment: Mapping[str, Any] | None
    review_reason: str | None
    amount: int
    currency: str
    email: str | None
    product_id: str
    product_name: str
    provider: str
    provider_payment_id: str | None
    refundable_amount: int
    refund_count: int
    refund_under_way: str | None
    refund_statuses: Mapping[str, str]
    session_expires_at: datetime
    number: int | None
    reference: str | None
    provider_session_id: str | None
    checkout_url: str | None
    created_at: datetime | None
    expires_at: datetime | None
    other_pages: tuple[Mapping[str, str], ...] = ()

    @classmethod
    def from_json(cls, answer: Mapping[str, Any]) -> Self:
        """Read what ``open_checkout_attempt`` and ``find_checkout_attempt`` answer."""
        known = {name: answer[name] for name in cls.__dataclass_fields__ if name in answer}
        for name in ("session_expires_at", "created_at", "expires_at"):
            known[name] = datetime.fromisoformat(known[name]) if known[name] else None
        known["other_pages"] = tuple(answer.get("other_pages") or ())
        for name in ("session_id", "user_id"):
            known[name] = UUID(known[name])
        return cls(**known)


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """A payment page that a provider opened. ``provider_session_id`` is the provider's own name for it."""

    provider_session_id: str
    url: str
    expires_at: datetime | None = None


RefundStatus = Literal["pending", "succeeded", "failed"]
RefundKind = Literal["refund", "dispute"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Refund:
    """Money given back, or disputed. ``amount`` in minor units.

    ``status`` of a dispute: pending while it is open, succeeded when it is lost, failed when it is won.
    """

    provider_refund_id: str
    amount: int
    status: RefundStatus
    kind: RefundKind = "refund"
    reason: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RefundOrder:
    """Money to give back: ``amount`` in minor units; ``in_full`` when it is all that was paid.

    The same order has the same ``key``, however often it is given; another one has another.
    """

    key: str
    amount: int
    in_full: bool
    reason: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a provider says about an attempt, in our words (docs/architecture.md).

    ``status`` is None when it only speaks of refunds or disputes. ``provider_payment_id`` is canonical: every path
    derives the same id for the same money.
    """

    provider: str
    status: Status | None
    source: Source
    reference: str | None = None
    session_id: UUID | None = None
    provider_session_id: str | None = None
    provider_payment_id: str | None = None
    amount: int | None = None
    currency: str | None = None
    paid_at: datetime | None = None
    provider_customer_id: str | None = None
    refunds: tuple[Refund, ...] = ()
    disputed: bool = False
    error_code: str | None = None
    error_message: str | None = None

    def to_json(self) -> dict[str, Any]:
        """The form that ``apply_payment_outcome`` takes."""
        # asdict would copy each value deeply, which costs as much as checking the signature of a webhook
        said: dict[str, Any] = {name: getattr(self, name) for name in self.__slots__}
        said["refunds"] = tuple(asdict(refund) for refund in self.refunds)
        said["paid_at"] = self.paid_at.isoformat() if self.paid_at else None
        said["session_id"] = str(self.session_id) if self.session_id else None
        return said


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """A provider's notification as it is kept: its own id and type, and its body without secrets."""

    id: str
    type: str
    payload: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        """The form that ``apply_payment_outcome`` takes."""
        return {"id": self.id, "type": self.type, "payload": self.payload}


@dataclass(frozen=True, slots=True, kw_only=True)
class Named:
    """One of the two ids names an attempt. It proves nothing."""

    reference: str | None = None
    provider_session_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Notification:
    """A genuine notification. One of these says what it calls for:

    - ``outcome``: to be applied;
    - ``ask``: the provider is to be asked about this attempt, because the body alone is no proof;
    - ``ignored``: nothing, and why that is fine;
    - ``refused``: a person must look, and why.

    ``asks``: the provider has not taken the money yet and waits for consent; the outcome is what it wants to do.
    ``not_if``: states of the session in which the outcome is refused (SessionNotPending) instead of applied.
    ``ours`` is False when nothing in it shows that this installation caused it; an unknown session is then somebody
    else's business.
    """

    event: Event
    outcome: Outcome | None = None
    ask: Named | None = None
    ignored: str = ""
    refused: Refused | None = None
    asks: bool = False
    not_if: tuple[SessionStatus, ...] = ()
    ours: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Applied:
    """What the database made of an outcome. A ``duplicate`` event was handled before; the rest is then unset."""

    duplicate: bool = False
    session_id: UUID | None = None
    status: SessionStatus | None = None
    already_completed: bool = False
    fulfilment_status: str | None = None
    fulfilment: Mapping[str, Any] | None = None
    review_reason: str | None = None

    @classmethod
    def from_json(cls, answer: Mapping[str, Any]) -> Self:
        """Read what ``apply_payment_outcome`` answers."""
        known = {name: answer[name] for name in cls.__dataclass_fields__ if name in answer}
        if known.get("session_id"):
            known["session_id"] = UUID(known["session_id"])
        return cls(**known)


@dataclass(frozen=True, slots=True, kw_only=True)
class Handled:
    """What became of a genuine notification: applied, duplicate, ignored, or refused (and kept for a person).

    ``attempt`` is the attempt as it was before, for providers that wait for an answer about it; ``applied`` what the
    database made of the outcome.
    """

    result: str
    reason: str = ""
    attempt: Attempt | None = None
    applied: Applied | None = None
