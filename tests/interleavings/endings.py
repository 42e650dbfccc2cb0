"""How a session ends, by what has happened to it, in whatever order it was told. All tests here are held to this."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["GOODS", "Ending", "ending"]

GOODS = 100  # credits


@dataclass(frozen=True)
class Ending:
    """A session at the end. ``entries`` are the credits that its buyer got and lost."""

    status: str
    fulfilment: str = "none"
    entries: tuple[int, ...] = ()
    review: str | None = None


_GIVEN = Ending("completed", "fulfilled", (GOODS,))
_TAKEN_BACK = Ending("refunded", "reversed", (GOODS, -GOODS))
_TWICE = Ending("completed", "fulfilled", (GOODS,), "duplicate_payment")
_TWICE_AND_TAKEN_BACK = Ending("refunded", "reversed", (GOODS, -GOODS), "duplicate_payment")

# What was told in any order, once or many times, in this process or that. Whether the session was also cancelled,
# declined or expired makes no difference: money is honoured in every state.
_TABLE = {
    # payments told, and which one's refund
    (1, None): _GIVEN,
    (1, "the payment"): _TAKEN_BACK,
    (2, None): _TWICE,  # a person gives the second one back
    (2, "the second payment"): _GIVEN,
    (2, "the payment"): _TWICE_AND_TAKEN_BACK,  # a person decides about the second one
}


def ending(payments: int, refunded: str | None = None, closed: str | None = None) -> Ending:
    """``payments`` that were told, the first of which gives the goods. ``refunded``: which one's refund was told; the
    refund of a payment that nobody has told of waits for it. ``closed``: the status that was given to the unpaid
    session by the first who closed it; who comes second is refused, or does nothing."""
    return _TABLE[payments, refunded] if payments else Ending(closed or "pending")
