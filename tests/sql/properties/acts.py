"""What anybody can do to the shop: each act calls the real function, tells the model, and compares the two answers."""

from __future__ import annotations

import functools
import uuid
from collections import Counter
from contextlib import nullcontext
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from tests.sql.properties.facts import PAID, Capture, Group, Page, Refund, Refused, Session, Wish
from tests.sql.properties.model import DAY, Model

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.sql.properties.shop import Shop
    from tests.support.database import Row

__all__ = ["Acts"]

Money = tuple[int, str | None]


def promised(call: Callable[..., Any], *arguments: Any) -> Any:
    """What the model answers: a refusal is its reason."""
    try:
        return call(*arguments)
    except Refused as refusal:
        return refusal.reason


def if_there_are(things: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """The act does nothing as long as there are none."""

    def wrap(act: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(act)
        def skip_or_act(self: Acts, *arguments: Any, **named: Any) -> None:
            if getattr(self, things, None) or getattr(self.model, things, None):
                act(self, *arguments, **named)

        return skip_or_act

    return wrap


class Acts:
    """One history of the shop, told to the database and to the model."""

    def __init__(self, shop: Shop, users_count: int, plans: dict[str, str], coupons: dict[str, str]) -> None:
        users = [uuid.UUID(int=0x4000_8000_0000_0000_0000 + n) for n in range(users_count)]
        shop.start_over(users)
        self.shop = shop
        self.names = plans | coupons  # what the acts call them
        self.model = Model(users)
        self.told: list[tuple[Page, str, Money, str]] = []
        self.sent: set[int] = set()
        self.leases: dict[int, tuple[int, int]] = {}
        self.busy = False
        self.calls: Counter[str] = Counter()

    @property
    def groups(self) -> dict[str, Group]:
        return self.model.goods.groups

    # small helpers

    def ask(self, function: str, *, caller: uuid.UUID | None = None, **arguments: Any) -> Any:
        self.calls[function] += 1
        with self.shop.another_purchase_counts() if self.busy else nullcontext():
            return self.shop.ask(caller, function, **arguments)

    def pick(self, things: list[Any], which: int) -> Any:
        return things[-1 - which % len(things)]

    def a_session(self, which: int) -> Session:
        session: Session = self.pick(self.model.sessions, which)
        return session

    def agree(self, answer: Any, session: Session, promise: Any, **more: Any) -> None:
        """The answer is the promised refusal, or speaks of the session as it is now."""
        if isinstance(promise, str) or isinstance(answer, str):
            assert answer == promise
            return
        expected = {"session_id": str(session.id), "status": session.status, "fulfilment_status": session.given, **more}
        assert {name: answer.get(name) for name in expected} == expected, self.facts(session)
        reasons = set(filter(None, (answer["review_reason"] or "").split(", ")))
        assert reasons == self.model.review(session), self.facts(session)

    def facts(self, session: Session) -> str:
        """The money of a session, for whoever reads a failure."""
        captures = [
            f"{c.disposition} {c.provider} {c.payment} {c.amount} {c.currency}"
            for c in self.model.captures
            if c.session is session
        ]
        refunds = [
            f"{r.kind} {r.provider} {r.id} of {r.payment} {r.amount} {r.status}"
            for r in self.model.refunds.values() if r.session is session
        ]  # fmt: skip
        return f"{session.wish.plan} for {session.amount} {session.offer.currency}; {captures}; {refunds}"

    # the buyers

    def buy(self, user: int, wish: Wish, key: str | None, by_service: bool) -> None:
        wish = replace(
            wish, plan=self.names.get(wish.plan, wish.plan), coupon=self.names.get(wish.coupon or "", wish.coupon)
        )
        self.get_or_create(self.pick(self.model.users, user), wish, key, by_service=by_service)

    @if_there_are("sessions")
    def buy_again(self, which: int, user: int | None) -> None:
        """The same thing once more, by its buyer or by another one."""
        session = self.a_session(which)
        buyer = (
            session.user
            if user is None and session.user in self.model.users
            else self.pick(self.model.users, user or 0)
        )
        self.get_or_create(buyer, session.wish, None, by_service=True)

    @if_there_are("groups")
    def buy_in_group(self, user: int, group: int, cycle: int | None, position: int | None, coupon: str | None) -> None:
        subject, coupon = self.pick(list(self.groups), group), self.names.get(coupon or "", coupon)
        if cycle:
            wish = Wish("dues", subject=f"{subject}:{cycle}", coupon=coupon)
        else:
            wish = Wish("seat", subject=subject, position=position, coupon=coupon)
        self.get_or_create(self.pick(self.model.users, user), wish, None, by_service=False)

    def get_or_create(self, user: uuid.UUID, wish: Wish, key: str | None, *, by_service: bool) -> None:
        answer = self.ask(
            "get_or_create_checkout_session", caller=None if by_service else user, p_user_id=user, p_plan=wish.plan,
            p_provider=wish.provider, p_currency=wish.currency, p_coupon=wish.coupon, p_subject=wish.subject,
            p_email=wish.email, p_metadata=wish.metadata, p_idempotency_key=key,
        )  # fmt: skip
        promise = promised(self.model.get_or_create, user, wish, key)
        if isinstance(promise, str) or isinstance(answer, str):
            assert answer == promise
        elif promise.id.int:
            assert answer == promise.id
        else:
            assert answer not in {session.id for session in self.model.sessions}
            promise.id = answer
            if not promise.amount:
                self.model.complete(promise, "none")

    def cancel(self, which: int, user: int, *, by_service: bool) -> None:
        session, caller = self.a_session(which), self.pick(self.model.users, user)
        answer = self.ask("cancel_checkout_session", caller=None if by_service else caller, p_session_id=session.id)
        if session.gone:
            assert answer == "session_not_found"
        elif not by_service and caller != session.user:
            assert answer == "not_your_session"
        else:
            promise = promised(self.model.cancel, session)
            assert answer == promise if promise else answer["status"] == "cancelled"

    def look_around(self, user: int, plan: str, currency: str | None, coupon: str | None) -> None:
        """Prices and the user's own statements; none of it changes anything."""
        plan, coupon = self.names.get(plan, plan), self.names.get(coupon or "", coupon)
        caller = self.pick(self.model.users, user)
        mine = [s for s in self.model.sessions if s.user == caller and not s.gone]
        quote = self.ask("quote_checkout", caller=caller, p_plan=plan, p_currency=currency, p_coupon=coupon)
        amount = quote if isinstance(quote, str) else quote["amount"]
        assert amount == promised(self.model.quote, caller, plan, currency, coupon)
        history = self.ask("payment_history", caller=caller, p_page_size=2)
        assert [payment["id"] for payment in history["payments"]] == [str(s.id) for s in reversed(mine[-2:])]
        assert (history["total_count"], history["has_more"]) == (len(mine), len(mine) > 2)
        latest = self.ask("get_latest_checkout_session", caller=caller)
        assert [row["id"] for row in latest] == [s.id for s in mine[-1:]]
        spent: Counter[str] = Counter()
        for session in mine:
            if session.status in PAID:
                spent[session.offer.currency] += session.amount - session.refunded
        bought = sum(e[1] for e in self.model.goods.entries if e[0] == caller and e[2] == "purchase")
        assert self.ask("payment_stats", caller=caller) == {
            "spent": spent, "credits_bought": bought, "payments_by_status": Counter(s.status for s in mine)
        }  # fmt: skip
        self.read_reports()

    @if_there_are("sessions")
    def give_up(self, which: int, user: int, by: str) -> None:
        if by == "failure":
            self.fail(which)
        else:
            self.cancel(which, user, by_service=by == "service")

    # pages at a provider

    def open_page(self, which: int, provider: str) -> None:
        session = self.a_session(which)
        answer = self.ask("open_checkout_attempt", p_session_id=session.id, p_provider=provider)
        promise = "session_not_found" if session.gone else promised(self.model.reusable_page, session, provider)
        if isinstance(promise, str):
            assert answer == promise
        elif promise:
            assert (answer["number"], answer["reference"]) == (promise.number, promise.reference)
        else:
            assert answer["reference"] not in {page.reference for page in self.model.pages}
            self.model.open_page(session, provider, answer["number"], answer["reference"])
            assert (answer["amount"], answer["currency"]) == (session.amount, session.offer.currency)

    @if_there_are("sessions")
    def open_and_attach(self, which: int, *, elsewhere: bool = False) -> None:
        """What mostly happens; the buyer may change to another provider, and the page there stays open."""
        provider = self.a_session(which).wish.provider
        self.open_page(which, {"stripe": "paystack", "paystack": "stripe"}[provider] if elsewhere else provider)
        page = self.a_session(which).page
        if page:
            self.attach(page, other=False, minutes=None)

    @if_there_are("pages")
    def handle_page(self, which: int, provider: str, what: str, minutes: int | None) -> None:
        """Double clicks, crashed bridges and slow providers."""
        page = self.pick(self.model.pages, which)
        if what == "open":
            self.open_page(which, provider)
        elif what == "abandon":
            self.abandon(page)
        else:
            self.attach(page, other=what != "attach", minutes=minutes)

    def attach(self, page: Page, *, other: bool, minutes: int | None) -> None:
        name = f"cs_{page.number}{'_other' if other else ''}"
        until = None if minutes is None else datetime.now(UTC) + timedelta(minutes=minutes)
        answer = self.ask(
            "attach_checkout_attempt", p_attempt=page.number, p_provider_session_id=name,
            p_checkout_url=f"https://pay.test/{name}", p_expires_at=until,
        )  # fmt: skip
        promise = "session_not_found" if page.session.gone else promised(self.model.attach, page, name, minutes)
        assert (answer or None) == promise

    def abandon(self, page: Page) -> None:
        self.ask("abandon_checkout_attempt", p_attempt=page.number, p_error_code="page_refused")
        self.model.abandon(page)

    @if_there_are("pages")
    def hear_of_page(self, which: int, word: str) -> None:
        page = self.pick(self.model.pages, which)
        session = page.session
        answer = self.ask("apply_payment_outcome", p_outcome=self.outcome(page, word))
        if session.gone:
            assert answer["review_reason"] == "session_deleted"
            return
        was_page = session.page
        self.model.hear_of_page(page, word)
        if session.page is not was_page and page is not session.page:
            self.follow_hand_over(session)
        self.agree(answer, session, None)

    def follow_hand_over(self, session: Session) -> None:
        """Any page whose payment is under way may speak for the session now: it is asked which one does."""
        (row,) = self.shop.rows(
            "select current_attempt as number from public.payment_checkout_sessions where id = %s", session.id
        )
        (page,) = [p for p in self.model.pages if p.number == row["number"]]
        assert (page.session, page.word) == (session, "processing")
        session.page = page

    @if_there_are("sessions")
    def verify(self, which: int, user: int) -> None:
        """The buyer, or somebody else, asks what became of it."""
        session, caller = self.a_session(which), self.pick(self.model.users, user)
        answer = self.ask("find_checkout_attempt", p_session_id=session.id, p_user_id=caller)
        if session.gone or caller != session.user:
            assert answer == ("session_not_found" if session.gone else "not_your_session")
        else:
            page = session.page if session.page and session.page.provider == session.provider else None
            assert (answer["status"], answer["amount"]) == (session.status, session.amount)
            assert page is None or answer["number"] == page.number

    # money

    def outcome(self, page: Page, status: str | None, **more: Any) -> dict[str, Any]:
        return {"provider": page.provider, "reference": page.reference, "status": status, "source": "webhook", **more}

    @if_there_are("pages")
    def hear_of_money(self, which: int, payment: str, money: Money, event: str, fails_first: bool) -> None:
        page = self.pick(self.model.pages, which)
        event = event and f"{event}_{page.number}_{payment}_{money}"
        if event and fails_first:
            self.ask(
                "record_webhook_failure", p_provider=page.provider, p_error="timeout", p_retryable=True,
                p_event={"id": event, "type": "paid", "payload": {}},
            )  # fmt: skip
            closed = self.ask("close_webhook_failure", p_provider=page.provider, p_event_id=event, p_note="Ann: no")
            assert closed == "dead_letter_unknown"  # it comes again
        self.told.append((page, payment, money, event))
        self.tell_money(page, payment, money, event)

    @if_there_are("told")
    def hear_again(self, which: int, with_event: bool) -> None:
        """Late, twice and out of order."""
        page, payment, money, event = self.pick(self.told, which)
        self.tell_money(page, payment, money, event if with_event else "")

    def tell_money(self, page: Page, payment: str, money: Money, event: str) -> None:
        session = page.session
        claim = Capture(
            page.provider,
            payment,
            page.name,
            session,
            max(session.amount + money[0], 1),
            money[1] or session.offer.currency,
        )
        outcome = self.outcome(
            page, "completed", provider_payment_id=payment, amount=claim.amount, currency=claim.currency
        )
        answer = self.apply(outcome, {"id": event, "type": "paid", "payload": {}} if event else None)
        if (page.provider, event) in self.model.events:
            assert answer == {"duplicate": True}
            return
        promise = self.settle(claim)
        if event and promise is None:
            self.model.events.add((page.provider, event))
        if session.gone:
            assert answer["review_reason"] == "session_deleted"
        else:
            self.agree(answer, session, promise, duplicate=False)

    def apply(self, outcome: Row, event: Row | None) -> Any:
        """As a busy bridge does with webhooks: in a call with others, and alone if it was not applied there."""
        if event:
            answers = self.ask("apply_payment_outcomes", p_calls=[{"outcome": outcome, "event": event}])
            if answers and answers[0]:
                return answers[0]
        return self.ask("apply_payment_outcome", p_outcome=outcome, p_event=event)

    def settle(self, claim: Capture) -> str | None:
        """The reason if the model refuses the money."""
        promise = promised(self.model.keep_orphan if claim.session.gone else self.model.pay, claim)
        return promise if isinstance(promise, str) else None

    @if_there_are("sessions")
    def complete(
        self, which: int, payment: str | None, money: Money | None, page: str, as_alias: bool
    ) -> None:  # fmt: skip
        """The host's own code has verified a payment; some hosts know the provider's page only."""
        session = self.a_session(which)
        name = self.name_of_page(session, page)
        money = (0, None) if money is None and not session.amount else money
        amount = None if money is None else max(session.amount + money[0], 1)
        currency = None if money is None else money[1]
        answer = self.ask(
            "complete_checkout_session", p_session_id=session.id, p_provider_payment_id=payment,
            p_amount=amount, p_currency=currency,
            p_stripe_session_id=name if as_alias else None,
            p_provider_session_id=None if as_alias else name,
        )  # fmt: skip
        if session.gone:
            assert answer == "session_not_found"
            return
        if not (payment or name):
            assert answer == "payment_id_required"
            return
        claim = Capture(
            "stripe" if name and as_alias else session.provider, payment or name or "", name, session,
            session.amount if amount is None else amount, currency or session.offer.currency,
        )  # fmt: skip
        self.agree(answer, session, self.settle(claim))

    def name_of_page(self, session: Session, which: str) -> str | None:
        names = [p.name for p in self.model.pages if p.name and (p.session is session) == (which == "own")]
        if which in ("own", "other"):
            return names[-1] if names else None
        return f"cs_of_{session.born}" if which else None

    def fail(self, which: int) -> None:
        session = self.a_session(which)
        answer = self.ask("fail_checkout_session", p_session_id=session.id, p_error_code="card_declined")
        if not session.gone:
            self.model.fail(session)
        self.agree(answer, session, "session_not_found" if session.gone else None)

    @if_there_are("sessions")
    def pay_and_be_given(self, which: int) -> None:
        """The plain way, so that there is always something to refund, spend and join."""
        session = self.a_session(which)
        payment, amount = f"pi_of_{session.born}", session.amount or 1
        answer = self.ask(
            "complete_checkout_session", p_session_id=session.id, p_provider_payment_id=payment, p_amount=amount
        )
        claim = Capture(session.provider, payment, None, session, amount, session.offer.currency)
        self.agree(answer, session, "session_not_found" if session.gone else self.settle(claim))

    @if_there_are("sessions")
    def retry(self, which: int) -> None:
        session = self.a_session(which)
        answer = self.ask("retry_fulfilment", p_session_id=session.id)
        self.agree(answer, session, "session_not_found" if session.gone else promised(self.model.retry, session))
        # an operator looks, and closes nothing that was not seen
        gone = "session_not_found" if session.gone else ""
        assert (self.ask("add_session_note", p_session_id=session.id, p_note="Ann: looked") or "") == gone
        closed = self.ask("close_review", p_session_id=session.id, p_note="Ann: settled", p_reasons="unseen")
        assert closed == (gone or "review_changed")

    # money that goes back

    @if_there_are("sessions")
    def refund(self, which: int, name: str, share: int, status: str) -> None:
        session = self.a_session(which)
        refund = self.new_refund(session, session.provider, name=name, share=share, status=status, kind="refund")
        answer = self.ask(
            "refund_checkout_session", p_session_id=session.id, p_provider_refund_id=refund.id, p_amount=refund.amount,
            p_status=status,
        )  # fmt: skip
        captures = [c for c in self.model.captures if c.session is session and c.provider == session.provider]
        if session.gone or not captures:
            assert answer == ("session_not_found" if session.gone else "nothing_to_refund")
            return
        self.model.refund(refund)
        self.model.settle_refunds(session)
        self.agree(answer, session, None, refunded_amount=session.refunded)

    def new_refund(self, session: Session, provider: str, *, name: str, share: int, status: str, kind: str) -> Refund:
        """A part of the price; of a gift, what somebody paid by mistake."""
        name = name if name == "re_shared" else f"{name}_{session.born}"
        return Refund(provider, name, session, None, max(session.amount // share, 1), status, kind)

    @if_there_are("pages")
    def hear_of_refund(
        self, which: int, *, payment: str | None, status: str, share: int, name: str, kind: str, disputed: bool
    ) -> None:  # fmt: skip
        """News of a refund or a dispute, perhaps before the news of the payment."""
        page = self.pick(self.model.pages, which)
        session = page.session
        refund = self.new_refund(session, page.provider, name=name, share=share, status=status, kind=kind)
        refund.payment = payment
        said = {"provider_refund_id": refund.id, "amount": refund.amount, "status": status, "kind": kind}
        answer = self.ask(
            "apply_payment_outcome",
            p_outcome=self.outcome(page, None, provider_payment_id=payment, refunds=[said], disputed=disputed),
        )
        self.model.refund(refund)
        if session.gone:
            assert answer["review_reason"] == "session_deleted"
            return
        if disputed:
            session.flags.add("dispute_reported")
        self.model.settle_refunds(session)
        self.agree(answer, session, None)

    # credits, workers, requests

    def spend(self, user: int, amount: int, key: str) -> None:
        buyer = self.pick(self.model.users, user)
        answer = self.ask("spend_credits", p_user_id=buyer, p_amount=amount, p_reason=key, p_idempotency_key=key)
        promise = promised(self.model.spend, buyer, amount, key)
        if isinstance(promise, str):
            assert answer == promise
        else:
            balance = self.model.goods.balances[buyer]
            assert answer == {"spent": amount, "balance": balance, "already_spent": not promise}

    def work(self, job: str) -> None:
        {
            "expire": self.expire,
            "remind": self.remind,
            "letters": lambda: self.send_letters(works=True),
            "letters fail": lambda: self.send_letters(works=False),
            "ask": lambda: self.ask_providers("asked", finish=True),
            "ask in vain": lambda: self.ask_providers("failed", finish=True),
            "ask and crash": lambda: self.ask_providers("asked", finish=False),
            "number": self.number_invoices,
            "clean up": self.clean_up,
        }[job]()

    def expire(self) -> None:
        self.ask("record_heartbeat", p_name="expire")
        self.watch()
        self.ask("forget_heartbeat", p_name="expire")
        assert self.ask("expire_old_checkout_sessions") == self.model.expire()

    def watch(self) -> None:
        """Incidents come and go; that a guarantee does not hold is none of them."""
        self.ask("report_trouble", p_kind="signature_failures", p_subject="stripe", p_count=100)
        self.ask("watch_payments")
        for alert in self.ask("claim_alerts"):
            self.ask("finish_alert", p_id=alert["id"])
        assert self.ask("audit_payments") == []

    def remind(self) -> None:
        assert self.ask("enqueue_payment_reminders") == self.model.remind()

    def send_letters(self, *, works: bool) -> None:
        """No letter is claimed by two, none is sent twice, and nobody who paid is reminded to."""
        by_id = {str(session.id): session for session in self.model.sessions}
        for letter in self.ask("claim_notifications", p_limit=3):
            until, tries = self.leases.get(letter["id"], (0, 0))
            assert letter["id"] not in self.sent
            assert until <= self.model.now
            assert letter["tries"] == tries + 1
            session = by_id[str(letter["session_id"])]
            assert letter["kind"] != "reminder" or (session.status == "pending" and session.expires > self.model.now)
            self.leases[letter["id"]] = (self.model.now + 5, tries + 1)
        for number, (_, tries) in list(self.leases.items())[-2:]:
            self.ask("finish_notification", p_id=number, p_error=None if works else "no mail today")
            if number in self.sent:
                continue
            self.leases[number] = (self.model.now + 2 ** (tries - 1), tries)
            if works or tries >= 2:  # or dead
                self.sent.add(number)
        assert self.ask("retry_notification", p_id=0) == "dead_letter_unknown"
        for dead in self.ask("list_dead_notifications", p_limit=1):
            self.ask("retry_notification", p_id=dead["id"])
            self.sent.remove(dead["id"])
            del self.leases[dead["id"]]

    def ask_providers(self, result: str, *, finish: bool) -> None:
        by_hand = self.ask("list_unsettled_pages", p_since="-infinity")
        assert {row["session_id"] for row in by_hand} == self.model.unsettled()
        due = {row["reference"] for row in self.ask("list_unsettled_pages")}
        claims = self.ask("claim_sessions_to_reconcile")
        assert {claim["reference"] for claim in claims} <= due
        assert {claim["reference"] for claim in claims} == self.model.claim_pages()
        for claim in claims if finish else []:
            (session,) = [s for s in self.model.sessions if s.id == claim["session_id"]]
            self.ask("finish_reconcile", p_session_id=session.id, p_result=result)
            self.model.finish_asking(session, result)

    def request(self, key: str, what: str, n: int, claim: int | None) -> None:
        if what == "begin":
            self.begin_request(key, f"body {n}")
        else:
            self.finish_request(key, what, n, claim)

    def begin_request(self, key: str, body: str) -> None:
        answer = self.ask("begin_idempotent_request", p_key=key, p_request_hash=body)
        assert answer == promised(self.model.begin_request, key, body)

    def finish_request(self, key: str, status: str, response: int, claim: int | None) -> None:
        answer = self.ask(
            "finish_idempotent_request", p_key=key, p_status=status, p_response={"n": response}, p_claim=claim
        )
        assert (answer or None) == promised(self.model.finish_request, key, status, {"n": response}, claim)

    def number_invoices(self) -> None:
        self.busy = False
        (before,) = self.shop.rows("select count(*) as waiting from payments.unnumbered_invoices")
        assert self.ask("number_payment_invoices") == before["waiting"]
        assert self.ask("number_payment_invoices") == 0

    def clean_up(self) -> None:
        """What is old and settled may go. Afterwards its late money is nobody's, and kept all the same."""
        before = [session for session in self.model.sessions if not session.gone]
        count = self.ask("cleanup_completed_checkout_sessions", p_older_than=timedelta(days=90))
        left = self.shop.look()["sessions"]
        for session in before:
            if str(session.id) not in left:
                assert session.status not in ("pending", "processing")
                assert not self.model.review(session)
                assert session.created <= self.model.now - 90 * DAY
                session.gone = True
        assert sum(session.gone for session in before) == count
        self.ask("cleanup_idempotency_keys", p_older_than=timedelta(days=3650))
        # this shop keeps everything (Shop)
        assert sum(self.ask("purge_old_payment_data").values()) == 0

    def read_reports(self) -> None:
        here = [session for session in self.model.sessions if not session.gone]
        totals = self.ask("payment_report", p_days=3660)["totals"]
        assert totals["created"] == len(here)
        assert totals["completed"] == sum(session.status in PAID for session in here)
        sold: Counter[str] = Counter()
        for session in here:
            if session.status in PAID and session.amount:
                sold[session.offer.currency] += session.amount
        assert totals["revenue"] == sold
        health = self.ask("payment_health")
        assert len(self.ask("list_webhook_failures")) == health["webhooks"]["failed"] + health["webhooks"]["dead"]
        assert [row["session_id"] for row in self.ask("list_checkout_sessions", p_limit=1000)] == sorted(
            (session.id for session in here), reverse=True
        )
        for session in here[-1:]:
            story = self.ask("checkout_session_story", p_session_id=session.id)
            assert [row["detail"]["status"] for row in story if row["kind"] == "session"] == [session.status]
        assert len(self.ask("list_checkout_sessions", p_in_review=True, p_limit=1000)) == health["reviews"]["open"]
        assert health["reviews"]["open"] == sum(bool(self.model.review(session)) for session in here)

    # the shop, and time

    def let_time_pass(self, minutes: int) -> None:
        self.shop.let_time_pass(minutes)
        self.model.now += minutes

    def change_the_shop(self, what: str, which: int, plan: str, flag: bool) -> None:
        if what == "price":
            self.change_price(plan, 500 if flag else 400)
        elif what == "terms":
            self.change_terms(100 if flag else 150)
        elif what == "coupons":
            self.let_coupons_return(returns=flag)
        elif what == "counter":
            self.busy = flag  # somebody else holds the counter of invoices
        elif flag:
            self.delete_user(which)

    def change_price(self, plan: str, amount: int) -> None:
        self.shop.set_price(plan, "USD", amount)
        self.model.prices[plan, "USD"] = amount

    def change_terms(self, amount: int) -> None:
        self.shop.set_terms("coins", {"credits": amount})
        self.model.terms["coins"] = {"credits": amount}

    def break_or_mend(self, kind: str, fulfil: bool, reverse: bool) -> None:
        self.shop.break_handlers(kind, fulfil=fulfil, reverse=reverse)
        for kinds, is_broken in ((self.model.goods.cannot_fulfil, fulfil), (self.model.goods.cannot_reverse, reverse)):
            (kinds.add if is_broken else kinds.discard)(kind)

    def let_coupons_return(self, *, returns: bool) -> None:
        self.shop.let_coupons_return(returns=returns)
        self.model.coupons_return = returns

    def delete_user(self, which: int) -> None:
        user = self.pick(self.model.users, which)
        self.shop.delete_user(user)
        self.model.delete_user(user)
        self.model.users.remove(user)
        self.model.users.append(uuid.UUID(int=0x4000_8000_0000_0000_0100 + self.model.tick()))
        self.shop.add_user(self.model.users[-1])

    # after every step

    def all_guarantees_hold(self) -> None:
        assert self.ask("check_payment_invariants") == []
        assert self.shop.broken() == []

    def the_rows_are_those_of_the_model(self) -> None:
        seen = self.shop.look()
        model, goods = self.model, self.model.goods
        here = [session for session in model.sessions if not session.gone]
        assert {id_: row | {"review": set(row["review"])} for id_, row in seen["sessions"].items()} == {
            str(s.id): {
                "status": s.status, "given": s.given, "granted": s.granted, "review": model.review(s),
                "provider": s.provider, "amount": s.amount, "refunded": s.refunded,
                "page": s.page.number if s.page else None, "pages": s.pages, "minutes": s.expires - model.now,
            }
            for s in here
        }  # fmt: skip
        self.same(seen["captures"], [
            (c.provider, c.payment, c.session.id, c.amount, c.currency, c.disposition) for c in model.captures
        ])  # fmt: skip
        self.same(seen["refunds"], [
            (r.provider, r.id, r.session.id, r.amount, r.status) for r in model.refunds.values()
        ])  # fmt: skip
        self.same(seen["documents"], [(s.id, amount) for s in model.sessions for amount in s.documents])
        self.same(seen["letters"], [(s.id, *letter) for s in model.sessions for letter in s.letters])
        self.same(seen["entries"], goods.entries)
        assert {u: b for u, b in seen["balances"].items() if b} == {str(u): b for u, b in goods.balances.items() if b}
        assert seen["redemptions"] == {str(s.id): s.coupon_use for s in here if s.coupon_use}
        self.same(seen["periods"], [
            (s.user, s.id) for s in model.sessions if s.kind == "subscription" and s.given == "fulfilled"
        ])  # fmt: skip

        self.compare_groups(seen)

    def compare_groups(self, seen: Row) -> None:
        goods = self.model.goods
        self.same(seen["members"], [
            (group.id, user, seat.position, "active" if seat.active else "ended", seat.session.id)
            for group in goods.groups.values() for user, seat in group.seats.items()
        ])  # fmt: skip
        assert seen["groups"] == {id_: "open" if group.open else "closed" for id_, group in goods.groups.items()}
        self.same(seen["contributions"], [
            (group, user, cycle, status, session.id)
            for (group, user, cycle), (status, session) in goods.contributions.items()
        ])  # fmt: skip

    @staticmethod
    def same(rows: list[Any], promised_rows: list[tuple[Any, ...]]) -> None:
        """The same rows, in any order."""
        there = Counter(tuple(map(str, row)) for row in rows)
        promised_there = Counter(tuple(map(str, row)) for row in promised_rows)
        assert {"too many": there - promised_there, "missing": promised_there - there} == {
            "too many": Counter(), "missing": Counter()
        }  # fmt: skip
