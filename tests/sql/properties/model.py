"""What the engine promises, told as plainly as possible: what each call must do to money, goods and sessions."""

from __future__ import annotations

import uuid
from fractions import Fraction
from typing import Any

from tests.sql.properties.catalogue import COUPONS, PRODUCTS
from tests.sql.properties.facts import (
    CLOSED,
    ENDED,
    OPEN,
    PAID,
    Capture,
    Offer,
    Page,
    Refund,
    Refused,
    Request,
    Session,
    Wish,
)  # fmt: skip
from tests.sql.properties.goods import Goods, is_exhausted

__all__ = ["DAY", "HOUR", "Model"]

HOUR, DAY = 60, 24 * 60
WAITS = (1, 5, 15, 60)  # settings.reconcile_after
ADVANCE = ("pending", "succeeded", "failed")


class Model:
    """The whole history of one shop."""

    def __init__(self, users: list[uuid.UUID]) -> None:
        self.users = users
        self.now = 0
        self.ticks = 0
        self.sessions: list[Session] = []
        self.pages: list[Page] = []
        self.captures: list[Capture] = []
        self.refunds: dict[tuple[str, str], Refund] = {}
        self.events: set[tuple[str, str]] = set()
        self.requests: dict[str, Request] = {}
        self.spent: dict[tuple[uuid.UUID, str], int] = {}
        self.goods = Goods()
        self.prices = {(p.id, currency): amount for p in PRODUCTS.values() for currency, amount in p.prices.items()}
        self.terms = {p.id: p.terms for p in PRODUCTS.values()}
        self.coupons_return = False

    def tick(self) -> int:
        self.ticks += 1
        return self.ticks

    # what is so

    def of_purchase(self, session: Session, *statuses: str) -> list[Session]:
        """The other sessions of the same user, product and subject."""
        return [
            other
            for other in self.sessions
            if other.purchase == session.purchase
            and other is not session
            and not other.gone
            and other.status in statuses
        ]

    def review(self, session: Session) -> set[str]:
        """Why a person must look: what happened, and money that is in the wrong place as long as it is there."""
        troubles = {self._trouble(capture) for capture in self.captures if capture.session is session} - {""}
        unfulfilled = {"fulfilment_failed"} if session.given == "failed" else set()
        return session.flags | troubles | unfulfilled

    def _trouble(self, capture: Capture) -> str:
        due = capture.session.amount
        if capture.disposition == "duplicate":
            reason, too_much = "duplicate_payment", capture.amount
        elif capture.disposition != "settled":
            reason, too_much = capture.disposition, capture.amount
        elif capture.currency != capture.session.offer.currency:
            reason, too_much = "currency_mismatch", capture.amount
        elif capture.amount < due:
            reason, too_much = "amount_mismatch", capture.amount
        else:
            reason, too_much = "overpaid", capture.amount - due
        return reason if self._back(capture, "succeeded") < too_much else ""

    def _back(self, capture: Capture, *statuses: str) -> int:
        return sum(r.amount for r in self.refunds.values() if r.status in statuses and self._refunded(r) is capture)

    def _refunded(self, refund: Refund) -> Capture | None:
        """The money that a refund gives back."""
        candidates = [
            c
            for c in self.captures
            if c.session is refund.session and c.provider == refund.provider and refund.payment in (None, c.payment)
        ]
        return min(candidates, key=lambda c: c.disposition != "settled", default=None)

    def settled(self, session: Session) -> Capture | None:
        return next((c for c in self.captures if c.session is session and c.disposition == "settled"), None)

    # buying

    def offer(self, plan: str, currency: str | None, coupon: str | None) -> Offer:
        currency = currency or "USD"
        if (plan, currency) not in self.prices:
            raise Refused("currency_unavailable")
        price, discount = self.prices[plan, currency], 0
        if coupon:
            terms = COUPONS[coupon]
            if terms.percent_off:
                discount = price * terms.percent_off // 100
            elif currency in terms.amounts_off:
                discount = min(terms.amounts_off[currency], price)
            else:
                raise Refused("coupon_not_applicable")
        return Offer(currency, price - discount, tuple(self.terms[plan].items()), coupon)

    def quote(self, user: uuid.UUID, plan: str, currency: str | None, coupon: str | None) -> int:
        offer = self.offer(plan, currency, coupon)
        holds = any(
            s.user == user and s.offer.coupon == coupon and s.coupon_use == "reserved" and not s.gone
            for s in self.sessions
        )
        if coupon and not holds and is_exhausted(coupon, user, self.sessions, but=None):
            raise Refused("coupon_exhausted")
        return offer.amount

    def get_or_create(self, user: uuid.UUID, wish: Wish, key: str | None) -> Session:
        """The session that the caller gets; one without an id is new."""
        known = next((s for s in self.sessions if key and (s.user, s.key, s.gone) == (user, key, False)), None)
        if known:
            if known.key_wish != wish:
                raise Refused("idempotency_conflict")
            self.lapse(known)
            return known
        draft = self._draft(user, wish, key)
        if draft.amount == 0 and not key and (repeated := self._repeated_free(draft)):
            return repeated
        self.goods.check_sale(draft)
        rivals = self.of_purchase(draft, *OPEN)
        if rivals and not self._gives_way(rivals[0], draft):
            return self._reuse(rivals[0], draft)
        self._reserve(draft, rivals[0] if rivals else None)
        for rival in rivals:
            if not self.lapse(rival):
                self.close(rival, "cancelled")
        self.sessions.append(draft)
        return draft

    def _draft(self, user: uuid.UUID, wish: Wish, key: str | None) -> Session:
        offer = self.offer(wish.plan, wish.currency, wish.coupon)
        return Session(
            uuid.UUID(int=0), user, PRODUCTS[wish.plan].kind, wish, offer, wish.provider if offer.amount else "none",
            self.tick(), self.now, self.now + DAY, key, wish if key else None, wish.email,
        )  # fmt: skip

    def _repeated_free(self, draft: Session) -> Session | None:
        """A double click: nothing was open in between."""
        earlier = [
            s
            for s in self.of_purchase(draft, "completed")
            if s.provider == "none" and s.offer.coupon == draft.offer.coupon and s.created > self.now - DAY
        ]
        return earlier[-1] if earlier else None

    def _gives_way(self, rival: Session, draft: Session) -> bool:
        same = (rival.provider, rival.offer) == (draft.provider, draft.offer)
        return rival.expires <= self.now or (rival.status == "pending" and not same)

    @staticmethod
    def _reuse(standing: Session, draft: Session) -> Session:
        standing.email = draft.email or standing.email
        if draft.key and not standing.key:
            standing.key, standing.key_wish = draft.key, draft.key_wish
        return standing

    def _reserve(self, draft: Session, rival: Session | None) -> None:
        if draft.offer.coupon:
            if rival and rival.coupon_use != "reserved":
                rival = None
            if is_exhausted(draft.offer.coupon, draft.user, self.sessions, but=rival):
                raise Refused("coupon_exhausted")
            draft.coupon_use, draft.has_place = "reserved", True

    # the life of a session

    def lapse(self, session: Session) -> bool:
        if session.status in OPEN and session.expires <= self.now:
            self.close(session, "expired")
            return True
        return False

    def close(self, session: Session, status: str) -> None:
        session.status = status
        if session.coupon_use == "reserved":
            session.coupon_use = "released"

    def expire(self) -> int:
        return sum(self.lapse(session) for session in self.sessions if not session.gone)

    def cancel(self, session: Session) -> None:
        if session.status != "pending":
            raise Refused("session_not_pending")
        self.close(session, "cancelled")

    def fail(self, session: Session) -> None:
        if session.status in OPEN:
            self.close(session, "failed")

    # pages

    def reusable_page(self, session: Session, provider: str) -> Page | None:
        """The page that a buyer is shown again; without one a new page opens."""
        if session.status != "pending":
            raise Refused("session_not_pending")
        if session.expires <= self.now:
            raise Refused("session_expired")
        page = session.page
        is_alive = (
            page and page.provider == provider and page.word == "open" and page.expires > self.now + 1
            and (page.name or page.created > self.now - 10)
        )  # fmt: skip
        return page if is_alive else None

    def open_page(self, session: Session, provider: str, number: int, reference: str) -> Page:
        session.expires = max(session.expires, self.now + 30)
        session.provider, session.pages = provider, session.pages + 1
        session.page = Page(number, reference, provider, session, self.now, session.expires, self.now + WAITS[0])
        self.pages.append(session.page)
        return session.page

    def attach(self, page: Page, name: str, minutes: int | None) -> None:
        if page.name not in (None, name):
            raise Refused("attempt_attached")
        if page.word == "failed" and not page.name:
            page.word = "open"
        page.name = name
        self._ask_later(page)
        if minutes is not None:
            page.expires = self.now + minutes
            if page.session.page is page and page.session.status == "pending":
                page.session.expires = max(page.session.expires, page.expires)

    def _ask_later(self, page: Page) -> None:
        """A page that can be paid is asked about, whatever happened while it had no name or was not the current one."""
        if page.ask_at is None:
            page.ask_at = self.now + WAITS[0]

    def abandon(self, page: Page) -> None:
        if page.word == "open" and not page.name:
            page.word = "failed"

    def hear_of_page(self, page: Page, word: str) -> None:
        session = page.session
        if word == "pending" or not (page.word == "open" or (page.word == "processing" and word != "processing")):
            return
        page.word = word
        if word == "processing":
            self._begin_processing(page)
        elif session.page is page and session.status in OPEN:
            others = [p for p in self.pages if p.session is session and p.word == "processing"]
            if session.status == "processing" and others:
                session.page = others[0]  # any of them may speak
                self._ask_later(session.page)
            else:
                self.close(session, word)

    def _begin_processing(self, page: Page) -> None:
        session = page.session
        if session.status == "processing" and session.page is not page:
            session.flags.add("second_payment_processing")
            return
        if session.status in CLOSED:
            for rival in self.of_purchase(session, "pending"):
                self.close(rival, "cancelled")
            if self.of_purchase(session, "processing"):
                session.flags.add("second_payment_processing")
                return
        if session.status not in PAID:
            session.status, session.page, session.expires = "processing", page, self.now + 14 * DAY
            self._ask_later(page)

    # money

    def pay(self, claim: Capture) -> bool:
        """Money is proven. False when it was known already."""
        known = self._known(claim)
        if known:
            if known.payment == known.page and known.payment != claim.payment:
                self._name(known, claim)
            return False
        session = claim.session
        if session.status in PAID:
            claim.disposition = "duplicate"
        elif claim.currency != session.offer.currency:
            claim.disposition = "currency_mismatch"
        elif claim.amount < session.amount:
            claim.disposition = "amount_mismatch"
        else:
            claim.disposition = "settled"
        self.captures.append(claim)
        if claim.disposition == "settled":
            self.complete(session, claim.provider)
        elif session.status in OPEN:
            self.close(session, "failed")
        self.settle_refunds(session)
        return True

    def _known(self, claim: Capture) -> Capture | None:
        """The same money under either of its names. What belongs to another session pays none."""
        mine = [c for c in self.captures if c.provider == claim.provider]
        known = next((c for c in mine if c.payment == claim.payment), None)
        owner = known.session if known else None
        if not known and claim.page:
            of_page = [c for c in mine if c.page == claim.page]
            known = next(
                (c for c in of_page if c.session is not claim.session or claim.page in (c.payment, claim.payment)), None
            )
            pages = (p.session for p in self.pages if (p.provider, p.name) == (claim.provider, claim.page))
            owner = known.session if known else next(pages, None)
        if owner not in (None, claim.session):
            raise Refused("payment_reused")
        return known

    def _name(self, known: Capture, claim: Capture) -> None:
        """Whoever knew only the page had to assume the price."""
        for refund in self.refunds.values():
            if (refund.session, refund.provider, refund.payment) == (known.session, known.provider, known.payment):
                refund.payment = claim.payment
        known.payment, known.amount, known.currency = claim.payment, claim.amount, claim.currency
        self.settle_refunds(known.session)

    def keep_orphan(self, claim: Capture) -> None:
        """Money for a session that is gone."""
        of_page = [c for c in self.captures if c.provider == claim.provider and claim.page and c.page == claim.page]
        mine = [c for c in self.captures if (c.provider, c.payment) == (claim.provider, claim.payment)]
        if not mine and not any(claim.page in (c.payment, claim.payment) for c in of_page):
            claim.disposition = "orphaned"
            self.captures.append(claim)

    def complete(self, session: Session, provider: str) -> None:
        if session.status in CLOSED:
            for rival in self.of_purchase(session, "pending"):
                self.close(rival, "cancelled")
            if any(
                s.status == "processing" or (s.paid_at or 0) > session.born
                for s in self.of_purchase(session, "processing", *PAID)
            ):
                session.flags.add("paid_twice")
        self._confirm_coupon(session)
        session.status, session.provider, session.paid_at = "completed", provider, self.tick()
        self._fulfil(session)
        session.documents.append(session.amount)
        self._write(session, "receipt", "")

    def _write(self, session: Session, kind: str, occurrence: str) -> None:
        if session.email:
            session.letters.add((kind, occurrence))

    def _confirm_coupon(self, session: Session) -> None:
        if session.coupon_use == "released" and session.offer.coupon:
            places = COUPONS[session.offer.coupon].places
            taken = sum(s.has_place for s in self._users_of(session.offer.coupon))
            session.has_place = places is None or taken < places
        if session.coupon_use:
            session.coupon_use = "confirmed"

    def _users_of(self, coupon: str) -> list[Session]:
        return [s for s in self.sessions if s.offer.coupon == coupon and s.coupon_use in ("reserved", "confirmed")]

    def _fulfil(self, session: Session) -> None:
        try:
            self.goods.fulfil(session)
        except Refused:
            session.given = "failed"
        else:
            session.given, session.granted = "fulfilled", True

    def retry(self, session: Session) -> None:
        if session.given != "failed" and "reversal_failed" not in session.flags:
            raise Refused("nothing_to_retry")
        was_given = session.granted or session.refunded > 0
        if not session.granted:
            self._fulfil(session)
        if was_given and session.granted:
            self._reverse(session)

    # money that goes back

    def refund(self, news: Refund) -> None:
        """News of a refund. Its status only advances; more than was paid is refused, as long as it is too much."""
        known = self.refunds.get((news.provider, news.id))
        capture = self._refunded(news)
        left = capture.amount - self._back(capture, "pending", "succeeded") if capture else None
        fits = news.status == "failed" or (None if left is None else news.amount <= left)
        if not known:
            news.status = "refused" if fits is False else news.status
            self.refunds[news.provider, news.id] = known = news
        elif (known.session, known.amount) != (news.session, news.amount):
            news.session.flags.add("refund_conflict")
            return
        elif (known.status == "refused" and fits) or self._is_newer(news.status, known.status):
            known.status = news.status
        else:
            return
        self._tell_refund(known)

    @staticmethod
    def _is_newer(status: str, known: str) -> bool:
        return known in ADVANCE and ADVANCE.index(known) < ADVANCE.index(status)

    def _tell_refund(self, refund: Refund) -> None:
        session = refund.session
        if refund.status == "refused":
            session.flags.add("refund_exceeds_payment")
        elif refund.kind == "dispute" and refund.status != "failed":
            session.flags.add("dispute_reported")
        elif refund.kind == "dispute":
            others = [r for r in self.refunds.values() if r.session is session and r.kind == "dispute"]
            if not any(r.status in ("pending", "succeeded") for r in others):
                session.flags.discard("dispute_reported")
        elif refund.status == "succeeded" and not session.gone:
            self._write(session, "refund", refund.id)

    def settle_refunds(self, session: Session) -> None:
        """The sum decides, whatever order the refunds came in."""
        captures = [c for c in self.captures if c.session is session]
        for refund in self.refunds.values():  # what a refund takes back never changes, whatever is paid later
            capture = self._refunded(refund) if refund.session is session else None
            refund.payment = capture.payment if capture else refund.payment
        if any(self._back(c, "succeeded") > c.amount for c in captures):
            session.flags.add("refund_exceeds_payment")
        settled = self.settled(session)
        if not settled:
            return
        back = self._back(settled, "succeeded")
        too_much = max(settled.amount - session.amount, 0)
        refunded = session.amount if back >= settled.amount else max(back - too_much, 0)
        if refunded == session.refunded:
            return
        was_refunded = session.status == "refunded"
        session.documents.append(session.refunded - refunded)
        session.refunded = refunded
        share = Fraction(refunded, session.amount)
        session.status = {0: "completed", 1: "refunded"}.get(share, "partially_refunded")  # type: ignore[call-overload]
        self._reverse(session)
        if session.status == "refunded" and self.coupons_return and session.coupon_use:
            session.coupon_use = "released"
        elif was_refunded and session.coupon_use:
            self._confirm_coupon(session)

    def _reverse(self, session: Session) -> None:
        share = Fraction(session.refunded, session.amount)
        if not session.granted:
            session.given = "reversed" if share == 1 else "failed"
            return
        try:
            self.goods.reverse(session, share)
        except Refused:
            session.flags.add("reversal_failed")
        else:
            session.given = "reversed" if share == 1 else "fulfilled"
            session.flags.discard("reversal_failed")

    # credits, workers, requests

    def spend(self, user: uuid.UUID, amount: int, key: str) -> bool:
        """False when this was spent before."""
        if (user, key) in self.spent:
            if self.spent[user, key] != amount:
                raise Refused("idempotency_conflict")
            return False
        if self.goods.balances.get(user, 0) < amount:
            raise Refused("insufficient_credits")
        self.spent[user, key] = amount
        self.goods.book(user, -amount, "spend", user)
        return True

    def remind(self) -> int:
        due = [
            s
            for s in self.sessions
            if not s.gone and s.status == "pending" and s.expires > self.now and s.email and s.wish.reminders
            and len(s.reminded) < 3 and max([s.created, *s.reminded]) <= self.now - 6 * HOUR
        ]  # fmt: skip
        for session in due:
            session.reminded.append(self.now)
            self._write(session, "reminder", str(len(session.reminded)))
        return len(due)

    def unsettled(self) -> set[uuid.UUID]:
        """Unpaid sessions with a page of which the provider has not said a last word."""
        return {
            page.session.id
            for page in self.pages
            if page.name and page.word not in ENDED and page.session.status not in PAID and not page.session.gone
        }

    def claim_pages(self) -> set[str]:
        """References of the pages that must be asked about now."""
        claimed = set()
        for page in self.pages:
            if page.ask_at is None or page.ask_at > self.now:
                continue
            session = page.session
            is_unsettled = (
                not session.gone and session.page is page and session.status not in PAID and page.name
                and page.word not in ENDED
            )  # fmt: skip
            page.ask_at = self.now + 5 if is_unsettled else None
            if is_unsettled:
                page.asked += 1
                claimed.add(page.reference)
        return claimed

    def finish_asking(self, session: Session, result: str) -> None:
        page = session.page
        if not page or page.ask_at is None:
            return
        last = max(session.expires, page.expires) + WAITS[0]
        if session.status in PAID or page.word in ENDED or self.now >= last:
            page.ask_at = None
            if session.status not in PAID and (result == "failed" or session.status == "processing"):
                session.flags.add("reconcile_gave_up")
        else:
            page.ask_at = min(self.now + WAITS[min(page.asked, len(WAITS) - 1)], last)

    def begin_request(self, key: str, request_hash: str) -> dict[str, Any]:
        known = self.requests.get(key)
        if not known:
            self.requests[key] = Request(request_hash, self.now + 1)
            return {"status": "new", "claim": 1}
        if known.hash != request_hash:
            raise Refused("idempotency_conflict")
        if known.status == "completed":
            return {"status": "completed", "response": known.response}
        if known.status == "pending" and known.leased_until > self.now:
            raise Refused("request_in_progress")
        known.status, known.leased_until, known.claim = "pending", self.now + 1, known.claim + 1
        return {"status": "new", "claim": known.claim}

    def finish_request(self, key: str, status: str, response: Any, claim: int | None) -> None:
        known = self.requests.get(key)
        if not known:
            raise Refused("idempotency_key_unknown")
        if known.status == "pending" and claim in (None, known.claim):
            known.status, known.response = status, response

    def delete_user(self, user: uuid.UUID) -> None:
        for session in self.sessions:
            if session.user == user:
                session.gone = True
                if session.coupon_use == "reserved":
                    session.coupon_use = "released"
        self.goods.forget(user)
