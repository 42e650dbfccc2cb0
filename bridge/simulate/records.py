"""What is known of each purchase while it is played, and what has been counted."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field
from uuid import UUID

from bridge.simulate.plan import Purchase

__all__ = ["Counts", "Record"]


@dataclass(slots=True)
class Record:
    """One purchase as its buyer, its provider and the post office lived it. Times in seconds since the epoch."""

    purchase: Purchase
    user_id: UUID
    token: str
    sessions: list[UUID] = field(default_factory=list)
    pages: list[str] = field(default_factory=list)
    price: int = 0
    agreed: bool = False
    """Whether the buyer paid, as far as it was theirs to do."""
    paid_at: float | None = None
    ordered_back: int = 0
    forged: int = 0
    believed: int = 0
    """Forged messages that were not refused."""
    struck: set[str] = field(default_factory=set)
    """What befell it, and was not planned for it alone."""
    story: list[tuple[float, str]] = field(default_factory=list)

    def tell(self, what: str) -> None:
        """Note what happens, for the case that somebody must read it."""
        self.story.append((time.time(), what))

    @property
    def faults(self) -> frozenset[str]:
        return self.purchase.faults | self.struck


@dataclass(slots=True)
class Counts:
    """What the display shows while it goes on."""

    begun: int = 0
    played: int = 0
    requests: int = 0
    injected: Counter[str] = field(default_factory=Counter)
    strikes: Counter[str] = field(default_factory=Counter)
    answers: Counter[int] = field(default_factory=Counter)
    """HTTP answers of the bridges by status; 0 where nobody answered."""
    surprises: list[str] = field(default_factory=list)
    """What the simulated providers found that no real one would get, or could not do."""
    settled: int = 0
    unsettled: int = 0
