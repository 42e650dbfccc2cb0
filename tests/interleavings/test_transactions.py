"""Two or three transactions about one session, in every order, on connections of their own.

Each pair runs one after the other; with the second waiting for the first to commit; with the first dying at its commit;
and with both waiting for the session, when they have read all that they read before they lock it.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import psycopg
import pytest

from tests.interleavings.endings import Ending, ending
from tests.support.database import Actor, Database, Row, call, outcome

WAIT = 30  # seconds until a waiter is given up; nothing here takes long

PAYMENTS = {"webhook": "first", "another webhook": "first", "return": "first", "second payment": "second"}
CLOSING = {"cancel": "cancelled", "decline": "failed", "page expires": "expired", "timer": "expired"}
PAIRED = ("webhook", "return", "second payment", *CLOSING, "refund", "pay")

# what may be said to those who come too late; everybody else gets an answer
TOO_LATE = {"cancel": {"session_not_pending"}, "pay": {"session_not_pending", "session_expired"}}


WAITING = "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'"


class Died(Exception):
    """Whoever made the call is gone before it commits."""


@dataclass
class Case:
    """One buyer and one session with a page, to which ``acts`` will happen."""

    db: Database
    acts: Sequence[str]

    def __post_init__(self) -> None:
        self.user = self.db.new_user()
        self.session_id = self.db.new_session(self.user)
        self.attempt = self.db.open_attempt(self.session_id)
        if "timer" in self.acts:
            self.db.lapse(self.session_id)

    def call_of(self, act: str) -> tuple[Actor, str, Row]:
        """Who calls what, with which arguments."""
        service, owner = self.db.as_service(), self.db.as_user(self.user)
        session = {"p_session_id": self.session_id}
        others = {
            "timer": (service, "expire_old_checkout_sessions", {}),
            "cancel": (owner, "cancel_checkout_session", session),
            "pay": (service, "open_checkout_attempt", session),
        }
        if act in others:
            return others[act]
        number, amount = self.attempt["number"], self.attempt["amount"]
        refund = {"provider_refund_id": f"re_{number}", "amount": amount, "status": "succeeded"}
        said = {
            "webhook": outcome(self.attempt),
            "another webhook": outcome(self.attempt),
            "return": outcome(self.attempt, source="return"),
            "second payment": outcome(self.attempt, provider_payment_id=f"pi_{number}b"),
            "decline": outcome(self.attempt, "failed"),
            "page expires": outcome(self.attempt, "expired"),
            "refund": outcome(self.attempt) | {"status": None, "amount": None, "refunds": [refund]},
        }[act]
        event = None if act == "return" else {"id": f"{act} {number}", "type": act, "payload": {}}
        return service, "apply_payment_outcome", {"p_outcome": said, "p_event": event}

    @contextmanager
    def begun(self, act: str) -> Iterator[None]:
        """The act is done, in a transaction that commits at the end of the block."""
        actor, function, arguments = self.call_of(act)
        with actor.request() as connection:
            try:
                call(connection, function, **arguments)
            except psycopg.Error as error:
                if error.diag.message_detail not in TOO_LATE.get(act, ()):
                    raise AssertionError(f"{self.acts}: {act} failed") from error
            yield

    def do(self, act: str) -> None:
        with self.begun(act):
            pass

    def start(self, act: str, behind: int = 0) -> Future[None]:
        """The act begins, and waits behind so many others; or it is over at once, wanting nothing that they hold."""
        running: Future[None] = Future()

        def run() -> None:
            try:
                self.do(act)
                running.set_result(None)
            except BaseException as error:  # noqa: BLE001 - handed to the test by the future
                running.set_exception(error)

        threading.Thread(target=run, daemon=True).start()
        while not running.done() and self.db.value(WAITING) <= behind:
            time.sleep(0.001)
        return running

    def check(self, *orders: Sequence[str]) -> None:
        """The session ended as one of these orders wants it."""
        if "timer" in self.acts:  # it passes over what somebody holds, and comes again
            self.do("timer")
        row = self.db.session(self.session_id)
        entries = tuple(self.db.entries(self.user))
        found = Ending(row["status"], row["fulfilment_status"], entries, row["review_reason"])
        assert found in [expected(order) for order in orders], (self.acts, self.db.trail(self.session_id), found)
        assert len(self.db.captures(self.session_id)) == len({PAYMENTS[act] for act in self.acts if act in PAYMENTS})


def expected(order: Sequence[str]) -> Ending:
    """How a session ends to which these acts happened, one after the other."""
    payments = list(dict.fromkeys(PAYMENTS[act] for act in order if act in PAYMENTS))
    refunded = None
    if "refund" in order and "first" in payments:
        refunded = "the payment" if payments[0] == "first" else "the second payment"
    return ending(len(payments), refunded, next((CLOSING[act] for act in order if act in CLOSING), None))


def one_after_the_other(case: Case, first: str, second: str) -> None:
    case.do(first)
    case.do(second)
    case.check([first, second])


def the_second_waits(case: Case, first: str, second: str) -> None:
    with case.begun(first):
        waiting = case.start(second)
    waiting.result(WAIT)
    case.check([first, second])


def the_first_dies_and_comes_again(case: Case, first: str, second: str) -> None:
    waiting = None
    with suppress(Died), case.begun(first):
        waiting = case.start(second)
        raise Died
    assert waiting
    waiting.result(WAIT)
    case.do(first)
    # the timer passed over the session while the first was at it
    case.check([second, first], *([[first, second]] if second == "timer" else []))


def both_have_read_and_wait(case: Case, *acts: str) -> None:
    with psycopg.connect(case.db.url()) as other:
        other.execute("select from public.payment_checkout_sessions where id = %s for update", [case.session_id])
        waiting: list[Future[None]] = []
        for act in acts:
            waiting.append(case.start(act, behind=sum(not one.done() for one in waiting)))
    for one in waiting:
        one.result(WAIT)
    case.check(*itertools.permutations(acts))


SCHEDULES = (one_after_the_other, the_second_waits, the_first_dies_and_comes_again, both_have_read_and_wait)
TRIPLES = (
    ("webhook", "return", "refund"),
    ("webhook", "cancel", "refund"),
    ("webhook", "timer", "refund"),
    ("webhook", "timer", "cancel"),
    ("webhook", "another webhook", "page expires"),
    ("webhook", "second payment", "refund"),
    ("webhook", "second payment", "cancel"),
    ("return", "decline", "timer"),
    ("return", "pay", "cancel"),
)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda schedule: schedule.__name__)
@pytest.mark.parametrize("first", PAIRED)
def test_every_pair(db: Database, schedule: Callable[[Case, str, str], None], first: str) -> None:
    for second in PAIRED:
        schedule(Case(db, [first, second]), first, second)
    assert db.as_service().rpc("check_payment_invariants") == []


@pytest.mark.parametrize("acts", TRIPLES, ids=", ".join)
def test_every_order_of_three(db: Database, acts: Sequence[str]) -> None:
    for order in itertools.permutations(acts):
        case = Case(db, order)
        for act in order:
            case.do(act)
        case.check(order)
        both_have_read_and_wait(Case(db, order), *order)
    assert db.as_service().rpc("check_payment_invariants") == []
