"""Two or three requests about one session, in every order, through the real bridge.

Of each pair, the first request is held before each of its steps in turn (a call of the database, or a question to the
provider) while the second one runs from beginning to end; the last time it has no such step, and they run one after the
other. Then the provider tells everything once more, and the books must agree with its own.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import NamedTuple

import httpx
import pytest

from bridge import jobs
from bridge.simulators.base import Delivery, Simulator
from bridge.simulators.click import ClickSimulator
from bridge.simulators.paypal import PayPalSimulator
from bridge.simulators.stripe import StripeSimulator
from tests.interleavings.endings import GOODS, Ending, ending
from tests.interleavings.turnstile import Turnstile
from tests.providers.life import ADMIN_TOKEN, PRICE, Life
from tests.support.bridge import Bridge, running_bridge
from tests.support.database import Database

MOST_STEPS = 40
# closing the page at the provider comes first: whoever asks there before the database is told finds it expired
CLOSING = {"cancel": {"cancelled", "expired"}, "expire": {"expired"}, "page expires": {"expired"}}
# what may be said to those who come too late; everybody else is served
TOO_LATE = {
    "pay": {"session_not_pending", "session_expired"},
    "refund": {"nothing_to_refund", "request_in_progress"},
}

PAGE_IS_CLOSED = {"stripe": ValueError, "paypal": AssertionError}


@pytest.fixture(scope="session")
def accounts() -> Iterator[dict[str, Simulator]]:
    with ExitStack() as stack:
        kinds = (StripeSimulator, PayPalSimulator, ClickSimulator)
        yield {kind.name: stack.enter_context(kind()) for kind in kinds}


@pytest.fixture(scope="session")
def turnstile() -> Turnstile:
    return Turnstile()


@pytest.fixture(scope="session")
def bridge(db: Database, accounts: dict[str, Simulator], turnstile: Turnstile) -> Iterator[Bridge]:
    """One bridge for all cases, with somebody in its way."""
    prices = dict.fromkeys((account.currency for account in accounts.values()), PRICE)
    db.new_product("conformance", "credits", {"credits": GOODS}, **prices)
    db.sql("update payments.settings set providers = %s", list(accounts))
    with pytest.MonkeyPatch.context() as patch:
        turnstile.install(patch, *accounts.values())
        patch.setattr(jobs, "REQUESTS_PER_SECOND", 1000.0)
        with running_bridge(db, *accounts.values(), admin_token=ADMIN_TOKEN) as running:
            yield running


@dataclass
class Case:
    """A buyer before an open page, who has perhaps ``paid`` on it, and nobody has told the bridge yet."""

    bridge: Bridge
    account: Simulator
    acts: Sequence[str]
    paid: bool = False
    told: list[Delivery] = field(default_factory=list)
    answers: list[tuple[str, httpx.Response]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.life = Life.begin(self.bridge, self.account)
        if self.paid:
            self.told += self.life.pay()
        if "expire" in self.acts:
            self.bridge.db.lapse(self.life.session_id)
        if "reconcile" in self.acts:
            self._due("now()")

    def deed(self, act: str) -> Callable[[], None]:
        """The requests of an act, to be sent."""
        life, post = self.life, self.life.buyer.post
        requests: dict[str, Callable[[], Iterator[httpx.Response]]] = {
            "webhook": lambda: map(life.tell, self.told[-1:]),
            "all webhooks": lambda: map(life.tell, list(self.told)),
            "buyer pays": lambda: map(life.tell, self._pay()),
            "page expires": lambda: map(life.tell, self._expire_page()),
            "refund is told": lambda: map(life.tell, self._refund()),
            "return": lambda: iter([self._come_back()]),
            "verify": lambda: iter([life.buyer.verify(session_id=life.session_id)]),
            "reconcile": lambda: iter([self._job("reconcile")]),
            "expire": lambda: iter([self._job("expire")]),
            "cancel": lambda: iter([post(f"/checkout/{life.session_id}/cancel")]),
            "pay": lambda: iter([life.buyer.pay(life.session_id)]),
            "refund": lambda: iter([life.order_refund(key=str(life.session_id))]),
        }
        return lambda: self.answers.extend((act, answer) for answer in requests[act]())

    def check(self, happened: str) -> None:
        """Nobody was told nonsense, and in the end the books agree with the provider's."""
        self.deed("all webhooks")()
        self.deed("verify")()
        for act, answer in self.answers:
            refused = answer.status_code >= 400 and answer.json()["error"]["reason"] in TOO_LATE.get(act, ())
            assert answer.status_code < 400 or refused, (happened, act, answer.text)
        payments, refunded = self._books()
        row = self.life.row
        entries = tuple(self.bridge.db.entries(self.life.buyer.id))
        found = Ending(row["status"], row["fulfilment_status"], entries, row["review_reason"])
        closed: set[str | None] = set().union(*(CLOSING.get(act, ()) for act in self.acts)) or {None}
        assert found in [ending(payments, refunded, one) for one in closed], (happened, payments, refunded, row)
        self._due("null")

    def _books(self) -> tuple[int, str | None]:
        """What the provider says: how often it took the price, and whether it has given it back."""
        taken, returned = self.account.taken(self.life.page), self.account.given_back(self.life.page)
        assert (taken % PRICE, returned) in ((0, 0), (0, PRICE))
        return taken // PRICE, "the payment" if returned else None

    def _pay(self) -> list[Delivery]:
        try:
            told = self.life.pay()
        except PAGE_IS_CLOSED.get(self.account.name, ()):
            return []
        self.told += told
        return told

    def _expire_page(self) -> list[Delivery]:
        try:
            told = self.account.page_expires(self.life.page)
        except ValueError:
            return []
        self.told += told
        return told

    def _refund(self) -> list[Delivery]:
        told = self.account.merchant_refunds(self.life.page)
        self.told += told
        return told

    def _come_back(self) -> httpx.Response:
        path = f"/return/{self.account.name}?{self.account.return_query(self.life.page)}"
        return self.bridge.http.get(path, follow_redirects=False)

    def _job(self, name: str) -> httpx.Response:
        return self.bridge.http.post(f"/admin/jobs/{name}", headers={"Authorization": f"Bearer {ADMIN_TOKEN}"})

    def _due(self, when: str) -> None:
        query = f"update payments.attempts set reconcile_at = {when} where session_id = %s"
        self.bridge.db.sql(query, self.life.session_id)


def every_interleaving(
    turnstile: Turnstile, new_case: Callable[[Sequence[str]], Case], first: str, second: str
) -> None:
    """The first act is held before each of its steps, while the second one runs."""
    for step in range(MOST_STEPS):
        case = new_case([first, second])
        held = turnstile.hold(case.deed(first), before=step)
        ended = held.ended
        case.deed(second)()
        held.let_go()
        case.check(f"{first}, before step {step}: {second}")
        if ended:
            return
    raise AssertionError(f"{first} has no end")


# who tells of the payment, or closes the page, after the buyer has paid at Stripe and before
PAID = ("webhook", "return", "reconcile", "expire", "cancel", "pay", "refund")
UNPAID = ("buyer pays", "verify", "expire", "cancel", "pay", "page expires")
# PayPal's money is taken when the buyer comes back, or when a webhook says that they agreed
AGREED = ("webhook", "return", "expire", "cancel")
# Click asks before it takes money
ASKED = ("buyer pays", "return", "expire", "cancel")


class World(NamedTuple):
    """What was so before, and what may happen."""

    provider: str
    paid: bool
    acts: tuple[str, ...]


WORLDS = {
    "stripe, paid": World("stripe", True, PAID),
    "stripe, not paid yet": World("stripe", False, UNPAID),
    "paypal, agreed": World("paypal", True, AGREED),
    "click, not paid yet": World("click", False, ASKED),
}
PAIRS = [pytest.param(world, act, id=f"{name}, {act}") for name, world in WORLDS.items() for act in world.acts]
TRIPLES = (
    ("webhook", "return", "reconcile"),
    ("webhook", "return", "cancel"),
    ("webhook", "verify", "expire"),
    ("webhook", "verify", "refund"),
    ("webhook", "return", "refund is told"),
    ("reconcile", "cancel", "refund is told"),
    ("return", "cancel", "expire"),
)


@pytest.mark.parametrize(("world", "first"), PAIRS)
def test_every_pair(
    bridge: Bridge, accounts: dict[str, Simulator], turnstile: Turnstile, world: World, first: str
) -> None:
    account = accounts[world.provider]
    for second in world.acts:
        every_interleaving(turnstile, lambda acts: Case(bridge, account, acts, paid=world.paid), first, second)
    assert bridge.db.as_service().rpc("check_payment_invariants") == []


@pytest.mark.parametrize("acts", TRIPLES, ids=", ".join)
def test_every_order_in_which_three_that_have_looked_tell_the_database(
    bridge: Bridge, accounts: dict[str, Simulator], turnstile: Turnstile, acts: Sequence[str]
) -> None:
    for order in itertools.permutations(acts):
        case = Case(bridge, accounts["stripe"], order, paid=True)
        third, second = (turnstile.hold(case.deed(act), before="apply_payment_outcome") for act in order[:0:-1])
        case.deed(order[0])()
        second.let_go()
        third.let_go()
        case.check(", ".join(order))
    assert bridge.db.as_service().rpc("check_payment_invariants") == []
