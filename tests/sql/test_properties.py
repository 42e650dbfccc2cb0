"""Any sequence of calls, compared with a small model, keeps the guarantees of docs/architecture.md.

The same sequences in every run; EXAMPLES=500 searches that many at random.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from tests.sql.answers import answer_or_reason
from tests.support.database import Database, Row, outcome

if TYPE_CHECKING:
    import uuid

CREDITS = {"credits_100": 100, "credits_500": 500}
OPEN = ("pending", "processing")
PAID = "completed"


@dataclass
class Page:
    """The model of an attempt."""

    attempt: Row
    session: Session
    word: str = "open"


@dataclass
class Session:
    """The model of a checkout session."""

    id: uuid.UUID
    plan: str
    subject: str | None
    provider: str
    status: str = "pending"
    given: str = "none"
    lapsed: bool = False
    current: Page | None = None
    pages: list[Page] = field(default_factory=list)
    born: int = 0
    paid_at: int | None = None
    paid_twice: bool = False
    settled_by: str | None = None
    changes: int = 0

    def move(self, status: str) -> None:
        self.status = status
        self.changes += 1


@dataclass
class Model:
    sessions: list[Session] = field(default_factory=list)
    paid: dict[str, Session] = field(default_factory=dict)
    spent: dict[str, int] = field(default_factory=dict)
    shelf_is_empty: bool = False
    clock: int = 0

    def now(self) -> int:
        self.clock += 1
        return self.clock

    def given(self) -> list[int]:
        return [CREDITS[session.plan] for session in self.sessions if session.given == "fulfilled"]

    def balance(self) -> int:
        return sum(self.given()) - sum(self.spent.values())

    def open_session(self, plan: str, subject: str | None) -> Session | None:
        return next((s for s in self.sessions if (s.plan, s.subject) == (plan, subject) and s.status in OPEN), None)


class Checkout(RuleBasedStateMachine):
    """Drives the functions and the model side by side. Each example is a new user of the same database."""

    db: Database
    sessions: Bundle[Session] = Bundle("sessions")
    pages: Bundle[Page] = Bundle("pages")

    @initialize()
    def sign_in(self) -> None:
        self.db.sql("delete from auth.users")  # and with them the sessions of the example before
        self.user = self.db.new_user()
        self.model = Model()
        self.db.mend_fulfilment("credits")
        # so that there is something to spend from the first step on
        self.complete(self.create("credits_100", "earlier", "stripe"), "earlier", None)

    def ask(self, function: str, **arguments: Any) -> Any:
        """The answer of the service's call, or the reason why it was refused."""
        return answer_or_reason(self.db.as_service().rpc, function, **arguments)

    @rule(
        target=sessions,
        plan=st.sampled_from(sorted(CREDITS)),
        subject=st.sampled_from([None, "team"]),
        provider=st.sampled_from(["stripe", "paystack"]),
    )
    def create(self, plan: str, subject: str | None, provider: str) -> Session:
        arguments = {"p_plan": plan, "p_user_id": self.user, "p_subject": subject, "p_provider": provider}
        session_id = self.ask("get_or_create_checkout_session", **arguments)
        standing = self.model.open_session(plan, subject)
        if standing and standing.lapsed:
            standing.move("expired")
        elif standing and standing.status == "pending" and standing.provider != provider:
            standing.move("cancelled")
        elif standing:
            assert session_id == standing.id
            return standing
        session = Session(session_id, plan, subject, provider, born=self.model.now())
        assert session_id not in {other.id for other in self.model.sessions}
        self.model.sessions.append(session)
        return session

    @rule(target=pages, session=sessions, provider=st.sampled_from(["stripe", "paystack"]))
    def open_page(self, session: Session, provider: str) -> Page:
        answer = self.ask("open_checkout_attempt", p_session_id=session.id, p_provider=provider)
        if session.status != "pending":
            assert answer == "session_not_pending"
        elif session.lapsed:
            assert answer == "session_expired"
        else:
            current = session.current
            if not (current and current.word == "open" and current.attempt["provider"] == provider):
                session.current, session.provider = Page(answer, session), provider
                session.pages.append(session.current)
            assert session.current
            assert answer["number"] == session.current.attempt["number"]
            return session.current
        # no new page: go on with whatever page there is
        return session.current or Page({"provider": provider, "reference": "0" * 32, "number": 0}, session)

    @rule(page=pages, word=st.sampled_from(["pending", "processing", "failed", "expired", "cancelled"]))
    def hear_of_page(self, page: Page, word: str) -> None:
        answer = self.ask("apply_payment_outcome", p_outcome=outcome(page.attempt, word))
        if not page.attempt["number"]:
            assert answer == "session_not_found"
            return
        session = page.session
        if word != "pending" and (page.word == "open" or (page.word == "processing" and word != "processing")):
            page.word = word
            if word == "processing":
                self.begin_processing(page)
            elif page is session.current and session.status in OPEN and not self.hand_over(session):
                session.move(word)
        assert (answer["status"], answer["already_completed"]) == (session.status, session.status == PAID)

    def hand_over(self, session: Session) -> bool:
        """Another page whose payment is under way speaks for the session now; any of them may."""
        under_way = {page.attempt["number"]: page for page in session.pages if page.word == "processing"}
        if session.status == "processing" and under_way:
            session.current = under_way[self.db.session(session.id)["current_attempt"]]
            return True
        return False

    def begin_processing(self, page: Page) -> None:
        session = page.session
        if session.status == "processing" and page is not session.current:
            session.changes += 1  # flagged
            return
        rival = self.model.open_session(session.plan, session.subject)
        if session.status in ("failed", "expired", "cancelled") and rival:
            if rival.status == "processing":
                session.changes += 1  # flagged
                return
            rival.move("cancelled")
        if session.status in ("pending", "failed", "expired", "cancelled"):
            session.move("processing")
            session.current, session.lapsed = page, False

    @rule(
        page=pages,
        payment=st.sampled_from(["a", "b", "c"]),
        money=st.sampled_from([{}, {}, {"amount": 1}, {"currency": "EUR"}, {"amount": 9999}]),
        event=st.one_of(st.none(), st.integers(0, 3)),
    )
    def hear_of_money(self, page: Page, payment: str, money: Row, event: int | None) -> None:
        if not page.attempt["number"]:
            return
        session, number = page.session, page.attempt["number"]
        provider = page.attempt["provider"]
        payment = f"pi_{self.user}_{payment}"
        name = f"evt_{number}_{payment}_{money}_{event}" if event is not None else None
        self.pay(session, f"{provider}:{payment}", money, lambda: self.tell(page, payment, money, name))
        if name:  # a second delivery is always known, unless the first was refused
            again = self.tell(page, payment, money, name)
            assert again in ({"duplicate": True}, "payment_reused")

    def tell(self, page: Page, payment: str, money: Row, event: str | None) -> Any:
        said = outcome(page.attempt, provider_payment_id=payment, **money)
        return self.ask(
            "apply_payment_outcome",
            p_outcome=said,
            p_event={"id": event, "type": "t", "payload": {}} if event else None,
        )

    @rule(session=sessions, payment=st.sampled_from(["a", "d"]), amount=st.sampled_from([None, 1]))
    def complete(self, session: Session, payment: str, amount: int | None) -> None:
        payment = f"pi_{self.user}_{payment}"
        self.pay(
            session, f"{session.provider}:{payment}", {} if amount is None else {"amount": amount},
            lambda: self.ask(
                "complete_checkout_session", p_session_id=session.id, p_provider_payment_id=payment, p_amount=amount
            ),
        )  # fmt: skip

    def pay(self, session: Session, payment: str, money: Row, tell: Any) -> None:
        """What the model says money does, whichever way it comes."""
        owner = self.model.paid.get(payment)
        before = session.status
        answer = tell()
        if owner and owner is not session:
            assert answer in ("payment_reused", {"duplicate": True})
            return
        if not owner:
            self.model.paid[payment] = session
            self.settle(session, payment, money)
        if answer != {"duplicate": True}:
            assert (answer["status"], answer["fulfilment_status"]) == (session.status, session.given)
            assert answer["already_completed"] == (before == PAID)

    def settle(self, session: Session, payment: str, money: Row) -> None:
        wrong = money.get("amount") == 1 or "currency" in money
        if session.status == PAID:
            session.changes += 1  # flagged
        elif wrong:
            session.changes += 1  # flagged
            if session.status in OPEN:
                session.move("failed")
        else:
            if session.status in ("failed", "expired", "cancelled"):
                self.yield_purchase(session)
            session.move(PAID)
            session.paid_at = self.model.now()
            session.settled_by = payment
            session.provider = payment.partition(":")[0]
            session.given = "failed" if self.model.shelf_is_empty else "fulfilled"

    def yield_purchase(self, session: Session) -> None:
        rival = self.model.open_session(session.plan, session.subject)
        if rival and rival.status == "pending":
            rival.move("cancelled")
        session.paid_twice = any(
            other.status == "processing" or (other.paid_at or -1) > session.born
            for other in self.model.sessions
            if other is not session and (other.plan, other.subject) == (session.plan, session.subject)
        )

    @rule(session=sessions)
    def cancel(self, session: Session) -> None:
        answer = self.ask("cancel_checkout_session", p_session_id=session.id)
        if session.status == "pending":
            session.move("cancelled")
        else:
            assert answer == "session_not_pending"

    @rule(session=sessions)
    def let_it_lapse(self, session: Session) -> None:
        self.db.lapse(session.id)
        session.lapsed = True

    @rule()
    def expire(self) -> None:
        due = [session for session in self.model.sessions if session.lapsed and session.status in OPEN]
        assert self.ask("expire_old_checkout_sessions") == len(due)
        for session in due:
            session.move("expired")

    @rule(session=sessions)
    def retry(self, session: Session) -> None:
        answer = self.ask("retry_fulfilment", p_session_id=session.id)
        if session.given != "failed":
            assert answer == "nothing_to_retry"
            return
        session.changes += 1
        session.given = "failed" if self.model.shelf_is_empty else "fulfilled"
        assert answer["fulfilment_status"] == session.given

    @rule(key=st.sampled_from(["x", "y", "z"]), amount=st.sampled_from([1, 60, 100]))
    def spend(self, key: str, amount: int) -> None:
        answer = self.ask("spend_credits", p_user_id=self.user, p_amount=amount, p_reason=key, p_idempotency_key=key)
        known = self.model.spent.get(key)
        if known not in (None, amount):
            assert answer == "idempotency_conflict"
        elif not known and self.model.balance() < amount:
            assert answer == "insufficient_credits"
        else:
            self.model.spent[key] = amount
            assert answer == {"spent": amount, "balance": self.model.balance(), "already_spent": known is not None}

    @rule(empty=st.booleans())
    def empty_or_fill_the_shelf(self, empty: bool) -> None:
        (self.db.break_fulfilment if empty else self.db.mend_fulfilment)("credits")
        self.model.shelf_is_empty = empty

    @invariant()
    def the_rows_are_those_of_the_model(self) -> None:
        rows = self.db.sql(
            "select s.id, s.status, s.fulfilment_status,"
            " 'paid_twice' = any(string_to_array(coalesce(s.review_reason, ''), ', ')) as paid_twice,"
            " (select c.provider || ':' || c.provider_payment_id from payments.captures as c"
            "  where c.session_id = s.id and c.disposition = 'settled') as settled_by,"
            " (select count(*) from payments.session_events as e where e.session_id = s.id) as changes"
            " from public.payment_checkout_sessions as s where s.user_id = %s order by s.id",
            self.user,
        )
        assert [tuple(row.values()) for row in rows] == [
            (s.id, s.status, s.given, s.paid_twice, s.settled_by, s.changes) for s in self.model.sessions
        ]

    @invariant()
    def guarantee_1_no_purchase_has_two_open_sessions(self) -> None:
        assert not self.db.sql(
            "select 1 from public.payment_checkout_sessions where status in ('pending', 'processing')"
            " group by user_id, product_id, subject having count(*) > 1"
        )

    @invariant()
    def guarantee_2_every_payment_belongs_to_the_session_that_it_came_for(self) -> None:
        rows = self.db.sql(
            "select c.provider || ':' || c.provider_payment_id as payment, c.session_id from payments.captures as c"
            " join public.payment_checkout_sessions as s on s.id = c.session_id where s.user_id = %s",
            self.user,
        )
        assert {row["payment"]: row["session_id"] for row in rows} == {
            payment: session.id for payment, session in self.model.paid.items()
        }

    @invariant()
    def guarantees_3_and_7_each_purchase_is_given_once_and_the_balance_is_the_sum(self) -> None:
        spent = [-amount for amount in self.model.spent.values()]
        assert sorted(self.db.entries(self.user)) == sorted(self.model.given() + spent)
        assert self.db.balance(self.user) == self.model.balance()

    @invariant()
    def guarantee_5_only_enough_money_of_the_right_currency_settles(self) -> None:
        assert not self.db.sql(
            "select 1 from payments.captures as c join public.payment_checkout_sessions as s on s.id = c.session_id"
            " where c.disposition = 'settled' and (c.amount < s.amount or c.currency <> s.currency)"
        )

    @invariant()
    def the_database_finds_nothing_broken_either(self) -> None:
        assert self.ask("check_payment_invariants") == []


def test_any_sequence_of_calls_keeps_the_guarantees(db: Database) -> None:
    machine = type("CheckoutOfThisDatabase", (Checkout,), {"db": db})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=int(os.environ.get("EXAMPLES", "15")), stateful_step_count=20, deadline=None,
            derandomize="EXAMPLES" not in os.environ, database=None, suppress_health_check=list(HealthCheck),
        ),
    )  # fmt: skip
