"""The model of what is sold: credits, seats and contributions, and coupon places."""

from __future__ import annotations

import uuid
from fractions import Fraction
from math import floor

from tests.sql.properties.catalogue import COUPONS
from tests.sql.properties.facts import Group, Refused, Seat, Session

__all__ = ["Goods"]


class Goods:
    """Who has what, and how it is given and taken back. Each ``fulfil`` or ``reverse`` does all of it or nothing."""

    def __init__(self) -> None:
        self.balances: dict[uuid.UUID, int] = {}
        self.entries: list[tuple[uuid.UUID, int, str, str]] = []
        self.clawbacks: dict[Session, tuple[int, int]] = {}  # owed, taken
        self.positions: dict[Session, int] = {}
        self.groups: dict[str, Group] = {}
        self.contributions: dict[tuple[str, uuid.UUID, int], tuple[str, Session]] = {}
        self.cannot_fulfil: set[str] = set()
        self.cannot_reverse: set[str] = set()

    def book(self, user: uuid.UUID, amount: int, reason: str, source: object) -> None:
        if amount:
            self.balances[user] = self.balances.get(user, 0) + amount
            self.entries.append((user, amount, reason, str(source)))

    def check_sale(self, session: Session) -> None:
        """Refuse to sell what could not be given."""
        if session.kind == "group_create":
            self._check_position(session, dict(session.offer.terms)["capacity"])
        elif session.kind == "group_join":
            group = self._group(session)
            self._check_position(session, group.capacity)
            self._check_seat(group, session.user)
        elif session.kind == "contribution":
            key = self._cycle(session)
            seat = self.groups[key[0]].seats.get(session.user)
            if not (seat and seat.active):
                raise Refused("not_a_member")
            if self.contributions.get(key, ("", None))[0] == "paid":
                raise Refused("contribution_paid")

    def fulfil(self, session: Session) -> None:
        if session.kind in self.cannot_fulfil:
            raise Refused("shelf_empty")
        if session.kind == "credits":
            self.book(session.user, dict(session.offer.terms)["credits"], "purchase", session.id)
        elif session.kind == "group_create":
            group = Group(session.id, dict(session.offer.terms)["capacity"])
            self.groups[str(group.id)] = group
            self._seat(group, session, session.wish.position)
        elif session.kind == "group_join":
            self._seat(self._group(session), session, session.wish.position)
        elif session.kind == "contribution":
            self._contribute(session)

    def reverse(self, session: Session, share: Fraction) -> None:
        if session.kind in self.cannot_reverse:
            raise Refused("handler_error")
        if session.kind == "credits":
            self._claw_back(session, share)
        elif session.kind == "group_create":
            self._reverse_group(self.groups[str(session.id)], session, share)
        elif session.kind == "group_join":
            self._set_seat(self._group(session), session, active=share < 1)
        elif session.kind == "contribution":
            key = self._cycle(session)
            is_mine = self.contributions[key][1] is session
            if share == 1 and is_mine:
                self.contributions[key] = ("refunded", session)
            elif share < 1 and self.contributions[key] != ("paid", session):
                self._contribute(session)

    def _claw_back(self, session: Session, share: Fraction) -> None:
        owed, taken = self.clawbacks.get(session, (0, 0))
        owed_now = floor(dict(session.offer.terms)["credits"] * share + Fraction(1, 2))
        more = owed_now - owed
        take = min(more, self.balances[session.user]) if more > 0 else min(taken, owed_now) - taken
        self.clawbacks[session] = (owed_now, taken + take)
        self.book(session.user, -take, "clawback" if take > 0 else "reinstatement", session.id)

    def _group(self, session: Session) -> Group:
        group = self.groups.get((session.wish.subject or "").partition(":")[0])
        if not group:
            raise Refused("group_unknown")
        return group

    @staticmethod
    def _check_position(session: Session, capacity: int) -> None:
        if (session.wish.position or 1) > capacity:
            raise Refused("invalid_input")

    @staticmethod
    def _check_seat(group: Group, user: uuid.UUID) -> set[int]:
        """The free positions, one of which the user can have."""
        if user in group.seats and group.seats[user].active:
            raise Refused("already_member")
        taken = {seat.position for seat in group.seats.values() if seat.active}
        free = set(range(1, group.capacity + 1)) - taken
        if not free or not group.open:
            raise Refused("group_full")
        return free

    def _seat(self, group: Group, session: Session, preferred: int | None) -> None:
        free = self._check_seat(group, session.user)
        position = min(free, key=lambda free: (free < (preferred or 1), free))
        group.seats[session.user] = Seat(position, session)
        self.positions[session] = position

    def _set_seat(self, group: Group, session: Session, *, active: bool) -> None:
        seat = group.seats.get(session.user)
        mine = seat if seat and seat.session is session else None
        if mine and not active:
            mine.active = False
        elif active and not (mine and mine.active):
            self._seat(group, session, self.positions[session])

    def _reverse_group(self, group: Group, session: Session, share: Fraction) -> None:
        is_empty = not any(seat.active for seat in group.seats.values())
        was_open, group.open = group.open, group.open or (share < 1 and is_empty)
        try:
            self._set_seat(group, session, active=share < 1)
        except Refused:
            group.open = was_open
            raise
        group.open = group.open and any(seat.active for seat in group.seats.values())

    def _cycle(self, session: Session) -> tuple[str, uuid.UUID, int]:
        group, _, cycle = (session.wish.subject or "").partition(":")
        if group not in self.groups:
            raise Refused("group_unknown")
        if not cycle:
            raise Refused("invalid_input")
        return group, session.user, int(cycle)

    def _contribute(self, session: Session) -> None:
        key = self._cycle(session)
        if self.contributions.get(key, ("", None))[0] == "paid":
            raise Refused("contribution_paid")
        self.contributions[key] = ("paid", session)

    def forget(self, user: uuid.UUID) -> None:
        """The user is deleted: what is booked and contributed stays."""
        self.balances.pop(user, None)
        for group in self.groups.values():
            group.seats.pop(user, None)


def is_exhausted(coupon_id: str, user: uuid.UUID, sessions: list[Session], *, but: Session | None) -> bool:
    """Whether no place of the coupon is left for the user, when the session ``but`` gives its own back."""
    coupon = COUPONS[coupon_id]
    uses = [
        session
        for session in sessions
        if session.offer.coupon == coupon_id and session.coupon_use in ("reserved", "confirmed") and session is not but
    ]
    return (coupon.places is not None and sum(session.has_place for session in uses) >= coupon.places) or (
        coupon.places_per_user is not None and sum(session.user == user for session in uses) >= coupon.places_per_user
    )
