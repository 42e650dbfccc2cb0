"""The things that the model of the property test is made of. Times are minutes, amounts minor units."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from typing import Any

__all__ = [
    "CLOSED", "ENDED", "OPEN", "PAID", "Capture", "Group", "Offer", "Page", "Refund", "Refused", "Request", "Seat",
    "Session", "Wish",
]  # fmt: skip

OPEN = ("pending", "processing")
CLOSED = ("failed", "expired", "cancelled")
PAID = ("completed", "partially_refunded", "refunded")
ENDED = ("failed", "expired", "cancelled")  # of a page


class Refused(Exception):
    """The call must be refused for this reason, and change nothing."""

    @property
    def reason(self) -> str:
        return str(self.args[0])


@dataclass(frozen=True)
class Wish:
    """The arguments of get_or_create_checkout_session; its key stands for exactly these."""

    plan: str
    provider: str = "stripe"
    currency: str | None = None
    coupon: str | None = None
    subject: str | None = None
    email: str | None = None
    reminders: bool = False
    position: int | None = None

    @property
    def metadata(self) -> dict[str, Any]:
        return {"reminders": self.reminders, **({"position": self.position} if self.position else {})}


@dataclass(frozen=True)
class Offer:
    currency: str
    amount: int
    terms: tuple[tuple[str, Any], ...]
    coupon: str | None


@dataclass(eq=False)
class Page:
    """An attempt."""

    number: int
    reference: str
    provider: str
    session: Session
    created: int
    expires: int
    ask_at: int | None
    asked: int = 0
    word: str = "open"
    name: str | None = None  # the provider's session id, once attached


@dataclass(eq=False)
class Session:
    id: uuid.UUID
    user: uuid.UUID
    kind: str
    wish: Wish
    offer: Offer
    provider: str
    born: int  # the order of things that happen in the same minute
    created: int
    expires: int
    key: str | None = None
    key_wish: Wish | None = None
    email: str | None = None
    status: str = "pending"
    given: str = "none"
    granted: bool = False
    paid_at: int | None = None
    page: Page | None = None
    pages: int = 0
    coupon_use: str | None = None
    has_place: bool = False
    refunded: int = 0
    flags: set[str] = field(default_factory=set)
    documents: list[int] = field(default_factory=list)
    letters: set[tuple[str, str]] = field(default_factory=set)
    reminded: list[int] = field(default_factory=list)
    gone: bool = False

    @property
    def purchase(self) -> tuple[uuid.UUID, str, str | None]:
        return self.user, self.wish.plan, self.wish.subject

    @property
    def amount(self) -> int:
        return self.offer.amount


@dataclass(eq=False)
class Capture:
    provider: str
    payment: str
    page: str | None
    session: Session
    amount: int
    currency: str
    disposition: str = ""


@dataclass(eq=False)
class Refund:
    provider: str
    id: str
    session: Session
    payment: str | None  # null: nobody said which one
    amount: int
    status: str
    kind: str


@dataclass(eq=False)
class Seat:
    position: int
    session: Session
    active: bool = True


@dataclass(eq=False)
class Group:
    id: uuid.UUID
    capacity: int
    open: bool = True
    seats: dict[uuid.UUID, Seat] = field(default_factory=dict)


@dataclass(eq=False)
class Request:
    """An idempotent request."""

    hash: str
    leased_until: int
    status: str = "pending"
    response: Any = None
    claim: int = 1
