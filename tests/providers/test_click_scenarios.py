"""Click and the real bridge on a real database: its own scenarios, repeats, races, late money and lost databases."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import httpx
import psycopg
import pytest
from psycopg import sql

from bridge.rpc import postgres
from bridge.simulators.base import Delivery, Fault
from bridge.simulators.click import FAILED, ClickSimulator, Payment
from bridge.simulators.stripe import StripeSimulator
from tests.support.bridge import Bridge, Buyer, running_bridge, wait_until
from tests.support.database import Database
from tests.support.races import all_at_once, start_and_see_it_wait

PRICE, CREDITS = 2_500_050, 100  # tiyin


@pytest.fixture(scope="module")
def server() -> Iterator[ClickSimulator]:
    with ClickSimulator() as server:
        yield server


@pytest.fixture
def click(server: ClickSimulator) -> ClickSimulator:
    server.faults.clear()
    server.received.clear()
    return server


@pytest.fixture(scope="module")
def _running() -> Iterator[tuple[ExitStack, list[Bridge]]]:
    with ExitStack() as stack:
        yield stack, []


@pytest.fixture
def bridge(db: Database, click: ClickSimulator, _running: tuple[ExitStack, list[Bridge]]) -> Bridge:
    """One bridge for all tests: each test's database has the same address."""
    db.new_product("click_credits", "credits", {"credits": CREDITS}, UZS=PRICE)
    stack, running = _running
    if not running:
        running.append(stack.enter_context(running_bridge(db, click)))
    assert running[0].db == db
    return running[0]


@dataclass(frozen=True)
class Purchase:
    """A buyer with a link."""

    bridge: Bridge
    click: ClickSimulator
    buyer: Buyer
    session_id: uuid.UUID
    page: str

    @classmethod
    def begin(cls, bridge: Bridge, click: ClickSimulator) -> Purchase:
        buyer = bridge.buyer()
        opened = buyer.checkout("click_credits", provider="click", currency="UZS").json()
        assert (opened["amount"], opened["currency"], opened["status"]) == (PRICE, "UZS", "pending")
        return cls(bridge, click, buyer, uuid.UUID(opened["session_id"]), opened["checkout_url"])

    def tell(self, delivery: Delivery) -> httpx.Response:
        return self.bridge.deliver("click", delivery)

    def code(self, delivery: Delivery) -> int:
        """What Click reads."""
        return int(self.click.read_reply(self.tell(delivery))["error"])

    def prepared(self) -> Payment:
        """A payment to which the bridge has consented and that Click debits."""
        payment = self.click.begin(self.page)
        assert self.click.prepare(payment, self.tell)["error"] == 0
        self.click.debit(payment)
        return payment

    def paid(self) -> Payment:
        payment = self.prepared()
        assert self.code(self.click.complete(payment)) == 0
        return payment

    @property
    def reference(self) -> str:
        return str(self.bridge.attempt(self.session_id)["reference"])

    @property
    def status(self) -> str:
        return str(self.bridge.db.session(self.session_id)["status"])

    def is_fulfilled_once(self, review: str | None = None) -> None:
        assert self.bridge.db.state(self.session_id) == ("completed", "fulfilled", review)
        assert self.bridge.db.entries(self.buyer.id) == [CREDITS]
        self.keeps_the_guarantees()

    def got_nothing(self) -> None:
        assert self.bridge.db.entries(self.buyer.id) == []
        assert self.bridge.db.captures(self.session_id) == []
        self.keeps_the_guarantees()

    def keeps_the_guarantees(self) -> None:
        assert self.bridge.db.as_service().rpc("check_payment_invariants") == []


@pytest.fixture
def purchase(bridge: Bridge, click: ClickSimulator) -> Purchase:
    return Purchase.begin(bridge, click)


def events(bridge: Bridge) -> list[tuple[str, str, str | None]]:
    """What is stored of Click's messages: type, state, reason."""
    return [(row["type"], row["status"], row["error"]) for row in bridge.webhook_events()]


# Click's emulator


def test_clicks_own_fifteen_scenarios(bridge: Bridge, click: ClickSimulator) -> None:
    first, second, third = purchases = [Purchase.begin(bridge, click) for _ in range(3)]
    done = click.run_scenarios(first.tell, (first.reference, second.reference, third.reference), PRICE)
    assert [(step.step, step.what, step.got) for step in done] == [
        (step.step, step.what, step.expected) for step in done
    ]
    assert len(done) == 15
    first.is_fulfilled_once()
    second.is_fulfilled_once()
    third.got_nothing()
    assert [purchase.status for purchase in purchases] == ["completed", "completed", "failed"]


# a purchase


def test_a_purchase_from_link_to_credits(purchase: Purchase) -> None:
    (complete,) = purchase.click.buyer_pays(purchase.page, purchase.tell)
    assert purchase.status == "processing"
    attempt = purchase.bridge.attempt(purchase.session_id)
    answer = purchase.click.read_reply(purchase.tell(complete))
    assert (answer["error"], answer["merchant_confirm_id"]) == (0, attempt["number"])
    assert answer["merchant_trans_id"] == attempt["reference"]
    purchase.is_fulfilled_once()
    session = purchase.bridge.db.session(purchase.session_id)
    (capture,) = purchase.bridge.db.captures(purchase.session_id)
    (payment,) = [p for p in purchase.click.payments.values() if p.order == attempt["reference"]]
    assert session["provider_payment_id"] == capture["provider_payment_id"] == str(payment.id)
    assert (capture["amount"], capture["currency"]) == (PRICE, "UZS")
    assert attempt["provider_session_id"] == str(attempt["number"])
    stored = purchase.bridge.webhook_events()
    assert events(purchase.bridge) == [("prepare", "handled", None), ("complete", "handled", None)]
    assert all(row["payload"]["merchant_trans_id"] == attempt["reference"] for row in stored)
    assert not any("sign_string" in row["payload"] for row in stored)


def test_a_link_that_the_buyer_has_edited_is_not_paid(purchase: Purchase) -> None:
    for amount in (1, PRICE - 1, PRICE + 1, PRICE * 100):
        payment = purchase.click.begin(purchase.page, amount)
        assert purchase.code(purchase.click.preparation(payment)) == -2
        # Click then gives the payment up
        assert purchase.code(purchase.click.complete(payment, error=-1)) == -9
    assert purchase.status == "pending"
    purchase.got_nothing()
    purchase.paid()  # the honest link still works
    purchase.is_fulfilled_once()


def test_a_declined_card_ends_the_session_and_the_buyer_starts_again(purchase: Purchase) -> None:
    (declined,) = purchase.click.buyer_is_declined(purchase.page, purchase.tell)
    assert purchase.code(declined) == -9
    session = purchase.bridge.db.session(purchase.session_id)
    said = (session["status"], session["error_code"], session["error_message"])
    assert said == ("failed", "-5017", "Insufficient funds")
    assert purchase.code(purchase.click.preparation(purchase.click.begin(purchase.page))) == -9
    again = purchase.buyer.checkout("click_credits", provider="click", currency="UZS").json()
    assert again["session_id"] != str(purchase.session_id)
    assert again["checkout_url"] != purchase.page


def test_the_buyer_comes_back_to_the_truth(purchase: Purchase) -> None:
    purchase.click.buyer_pays(purchase.page, purchase.tell)  # its Complete is lost
    query = purchase.click.return_query(purchase.page)
    back = purchase.bridge.http.get(f"/return/click?{query}", follow_redirects=False)
    assert dict(httpx.URL(back.headers["location"]).params)["status"] == "completed"
    purchase.is_fulfilled_once()


def test_an_order_of_another_provider_is_not_known_to_click(purchase: Purchase) -> None:
    opened = purchase.buyer.checkout("credits_100", provider="sandbox").json()
    reference = purchase.bridge.attempt(opened["session_id"])["reference"]
    payment = purchase.click.new_payment(reference, opened["amount"])
    assert purchase.code(purchase.click.preparation(payment)) == -5
    payment.prepare_id = purchase.bridge.attempt(opened["session_id"])["number"]
    assert purchase.code(purchase.click.complete(payment)) == -5
    assert purchase.bridge.db.session(opened["session_id"])["status"] == "pending"


# repeats


def test_a_prepare_that_comes_again_gets_the_same_answer(purchase: Purchase) -> None:
    payment = purchase.click.begin(purchase.page)
    answers = [purchase.click.prepare(payment, purchase.tell) for _ in range(3)]
    assert answers[0] == answers[1] == answers[2]
    assert answers[0]["merchant_prepare_id"] == purchase.bridge.attempt(purchase.session_id)["number"]
    assert len(events(purchase.bridge)) == 1


def test_a_second_try_on_the_same_link_gets_the_same_prepare_id(purchase: Purchase) -> None:
    first, second = purchase.click.begin(purchase.page), purchase.click.begin(purchase.page)
    assert purchase.click.prepare(first, purchase.tell)["error"] == 0
    assert purchase.click.prepare(second, purchase.tell)["error"] == 0
    assert first.prepare_id == second.prepare_id
    assert purchase.code(purchase.click.complete(second)) == 0
    purchase.is_fulfilled_once()


def test_a_complete_that_comes_again_changes_nothing(purchase: Purchase) -> None:
    payment = purchase.paid()
    before = purchase.bridge.db.everything()
    assert [purchase.code(purchase.click.complete(payment)) for _ in range(3)] == [-4, -4, -4]
    assert purchase.bridge.db.everything() == before
    # nor does its cancellation
    assert purchase.code(purchase.click.complete(payment, error=-1)) == -4
    purchase.is_fulfilled_once()


def test_a_cancellation_that_comes_again_changes_nothing(purchase: Purchase) -> None:
    cancelled = purchase.click.complete(purchase.prepared(), error=-5017)
    assert purchase.code(cancelled) == -9
    before = purchase.bridge.db.everything()
    assert [purchase.code(cancelled) for _ in range(2)] == [-9, -9]
    assert purchase.bridge.db.everything() == before
    purchase.got_nothing()


# -4 and -9


def test_a_prepare_after_payment_is_paid_for_that_payment_and_cancelled_for_any_other(purchase: Purchase) -> None:
    payment = purchase.paid()
    assert purchase.code(purchase.click.preparation(payment)) == -4
    for one in purchase.click.buyer_pays(purchase.page, purchase.tell):  # it asks, and gives up
        assert purchase.code(one) == -9
    assert purchase.click.taken(purchase.page) == PRICE
    purchase.is_fulfilled_once()


def test_a_payment_cannot_be_confirmed_after_it_was_cancelled(purchase: Purchase) -> None:
    payment = purchase.prepared()
    assert purchase.code(purchase.click.complete(payment, error=-5017)) == -9
    assert purchase.code(purchase.click.complete(payment)) == -9
    assert purchase.status == "failed"
    purchase.got_nothing()
    # it is genuine, so a person can find it
    assert ("complete", "dead", "session_not_pending") in events(purchase.bridge)


def test_two_debits_on_one_link_fulfil_once_and_call_a_person(purchase: Purchase) -> None:
    first, second = purchase.prepared(), purchase.prepared()
    assert purchase.code(purchase.click.complete(first)) == 0
    assert purchase.code(purchase.click.complete(second)) == -4
    purchase.is_fulfilled_once(review="duplicate_payment")
    assert len(purchase.bridge.db.captures(purchase.session_id)) == 2


def test_a_complete_after_the_truth_was_asked_for_is_paid_already(purchase: Purchase) -> None:
    payment = purchase.prepared()
    assert purchase.buyer.verify(session_id=purchase.session_id).json()["success"]
    assert purchase.code(purchase.click.complete(payment)) == -4
    purchase.is_fulfilled_once()


def test_another_prepare_id_is_another_transaction(purchase: Purchase) -> None:
    payment = purchase.prepared()
    other = Purchase.begin(purchase.bridge, purchase.click)
    number = purchase.bridge.attempt(other.session_id)["number"]
    for wrong in (str(number), "0", "999999999999"):
        assert purchase.code(purchase.click.complete(payment, merchant_prepare_id=wrong)) == -6
    assert (purchase.status, other.status) == ("processing", "pending")
    assert purchase.code(purchase.click.complete(payment)) == 0


def test_a_complete_over_another_amount_changes_nothing_and_the_right_one_still_counts(purchase: Purchase) -> None:
    payment = purchase.prepared()
    for amount in ("1", "25000.49", "25000.51", "2500050"):
        assert purchase.code(purchase.click.complete(payment, amount=amount)) == -2
    assert purchase.status == "processing"
    purchase.got_nothing()
    assert ("complete", "dead", "price_mismatch") in events(purchase.bridge)
    assert purchase.code(purchase.click.complete(payment)) == 0
    purchase.is_fulfilled_once()


# once the buyer is debited, the answer is no error


def lapse(purchase: Purchase) -> None:
    purchase.bridge.db.lapse(purchase.session_id)
    purchase.bridge.db.as_service().rpc("expire_old_checkout_sessions")


def close(purchase: Purchase) -> None:
    purchase.bridge.db.sql(
        "update public.payment_checkout_sessions set status = 'cancelled' where id = %s", purchase.session_id
    )


ENDS: dict[str, Callable[[Purchase], None]] = {"expired": lapse, "cancelled": close}


def test_money_that_comes_after_the_end_is_honoured(bridge: Bridge, click: ClickSimulator) -> None:
    for status, end in ENDS.items():
        purchase = Purchase.begin(bridge, click)
        payment = purchase.prepared()
        end(purchase)
        assert purchase.status == status
        assert purchase.code(click.complete(payment)) == 0
        purchase.is_fulfilled_once()
        assert purchase.code(click.complete(payment)) == -4


def test_a_prepare_after_the_end_takes_no_money(bridge: Bridge, click: ClickSimulator) -> None:
    for status, end in ENDS.items():
        purchase = Purchase.begin(bridge, click)
        end(purchase)
        for one in click.buyer_pays(purchase.page, purchase.tell):
            assert purchase.code(one) == -9
        assert (purchase.status, click.taken(purchase.page)) == (status, 0)
        purchase.got_nothing()


def test_a_session_whose_time_is_over_is_not_consented_to_before_it_is_swept(purchase: Purchase) -> None:
    purchase.bridge.db.lapse(purchase.session_id)
    assert purchase.status == "pending"
    assert purchase.code(purchase.click.preparation(purchase.click.begin(purchase.page))) == -9


def test_money_for_a_buyer_who_is_gone_is_kept_for_a_person(purchase: Purchase) -> None:
    payment = purchase.prepared()
    purchase.bridge.db.sql("delete from auth.users where id = %s", purchase.buyer.id)
    assert purchase.code(purchase.click.complete(payment)) == 0
    assert [row["disposition"] for row in purchase.bridge.db.captures(purchase.session_id)] == ["orphaned"]
    assert purchase.code(purchase.click.preparation(purchase.click.begin(purchase.page))) == -5


def test_a_fulfilment_that_fails_is_ours_to_mend(purchase: Purchase) -> None:
    payment = purchase.prepared()
    purchase.bridge.db.break_fulfilment("credits")
    assert purchase.code(purchase.click.complete(payment)) == 0
    assert purchase.bridge.db.state(purchase.session_id) == ("completed", "failed", "fulfilment_failed")


# races


def test_a_prepare_that_waits_behind_a_complete_is_refused(purchase: Purchase) -> None:
    """The second buyer is seen waiting for the session that the first one is paying."""
    db, session_id = purchase.bridge.db, purchase.session_id
    payment, other = purchase.prepared(), purchase.click.begin(purchase.page)
    with db.as_owner().request() as holder:
        holder.execute("select from public.payment_checkout_sessions where id = %s for update", (session_id,))
        complete = start_and_see_it_wait(db, lambda: purchase.code(purchase.click.complete(payment)))
        prepare = start_and_see_it_wait(db, lambda: purchase.code(purchase.click.preparation(other)))
        wait_until(lambda: waiting(db) == 2)
    assert complete.result(30) == 0
    assert prepare.result(30) == -9
    purchase.is_fulfilled_once()


def waiting(db: Database) -> int:
    query = "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'"
    return int(db.value(query))


def test_a_complete_that_waits_behind_a_prepare_is_honoured(purchase: Purchase) -> None:
    db, session_id = purchase.bridge.db, purchase.session_id
    payment, other = purchase.prepared(), purchase.click.begin(purchase.page)
    with db.as_owner().request() as holder:
        holder.execute("select from public.payment_checkout_sessions where id = %s for update", (session_id,))
        prepare = start_and_see_it_wait(db, lambda: purchase.code(purchase.click.preparation(other)))
        complete = start_and_see_it_wait(db, lambda: purchase.code(purchase.click.complete(payment)))
        wait_until(lambda: waiting(db) == 2)
    assert prepare.result(30) == 0  # both were debited on one link: the second one is given back by a person
    assert complete.result(30) == 0
    purchase.is_fulfilled_once()


def test_sixteen_completes_at_once_are_one_payment(purchase: Purchase) -> None:
    complete = purchase.click.complete(purchase.prepared())
    codes = all_at_once([lambda: purchase.code(complete) for _ in range(16)])
    assert sorted(codes) == [-4] * 15 + [0]
    purchase.is_fulfilled_once()
    assert len(purchase.bridge.db.captures(purchase.session_id)) == 1


def test_a_debit_and_its_cancellation_at_once_are_one_of_the_two(bridge: Bridge, click: ClickSimulator) -> None:
    for _ in range(3):
        purchase = Purchase.begin(bridge, click)
        payment = purchase.prepared()
        news = (click.complete(payment), click.complete(payment, error=-1))
        codes = all_at_once([partial(purchase.code, one) for one in news])
        # the money counts, whichever was first; unless Click had cancelled it before
        assert codes in ([0, -4], [0, -9], [-9, -9])
        assert purchase.status == ("completed" if codes[0] == 0 else "failed")
        purchase.keeps_the_guarantees()


# databases that are away


@pytest.fixture
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bridges that start now give up early on a database that is away."""
    monkeypatch.setattr(postgres, "_PATIENCE_SECONDS", 0.5)


def lose(db: Database, *, lost: bool) -> None:
    """Cut all connections to a database, and let nobody in."""
    with psycopg.connect(db.url("supabase_admin").replace(db.name, "postgres"), autocommit=True) as admin:
        admin.execute(
            sql.SQL("alter database {} allow_connections {}").format(sql.Identifier(db.name), sql.Literal(not lost))
        )
        if lost:
            admin.execute("select pg_terminate_backend(pid) from pg_stat_activity where datname = %s", (db.name,))


@pytest.mark.usefixtures("patience")
def test_without_a_database_click_is_told_to_come_again(db: Database, click: ClickSimulator) -> None:
    db.new_product("click_credits", "credits", {"credits": CREDITS}, UZS=PRICE)
    with running_bridge(db, click) as bridge:
        purchase = Purchase.begin(bridge, click)
        begun, payment = click.preparation(click.begin(purchase.page)), purchase.prepared()
        lose(db, lost=True)
        try:
            assert purchase.code(begun) == -7
            assert purchase.code(click.complete(payment)) == -7
            # what needs no database is still judged
            assert purchase.code(click.forged(click.complete(payment))) == -1
        finally:
            lose(db, lost=False)
        assert purchase.code(click.complete(payment)) == 0
        purchase.is_fulfilled_once()


def test_trouble_in_the_database_is_kept_and_mended_by_the_next_complete(purchase: Purchase) -> None:
    payment = purchase.prepared()
    purchase.bridge.db.sql("alter function payments.settle_capture rename to settle_capture_away")
    assert purchase.code(purchase.click.complete(payment)) == -7
    assert ("complete", "failed", "internal_error") in events(purchase.bridge)
    purchase.bridge.db.sql("alter function payments.settle_capture_away rename to settle_capture")
    assert purchase.code(purchase.click.complete(payment)) == 0
    purchase.is_fulfilled_once()


# what needs no session


def test_strangers_get_an_answer_and_leave_nothing(purchase: Purchase) -> None:
    before = purchase.bridge.db.everything()
    bodies: list[tuple[bytes, int]] = [
        (b"", -8), (b"\xff\xfe", -8), (b"{}", -8), (b"a=1&a=2", -8), (b"&" * 1000, -8), (b"action=0" * 3000, -8),
    ]  # fmt: skip
    for body, code in bodies:
        answer = purchase.click.read_reply(purchase.tell(({}, body)))
        assert answer["error"] == code
    payment = purchase.click.begin(purchase.page)
    assert purchase.code(purchase.click.forged(purchase.click.preparation(payment))) == -1
    assert purchase.code(purchase.click.preparation(payment, service_id="1")) == -8
    assert purchase.code(purchase.click.preparation(payment, action="2")) == -3
    assert purchase.code(purchase.click.preparation(payment, merchant_trans_id="a\0b\ud7ff")) == -5
    assert purchase.code(purchase.click.preparation(payment, error="-1")) == -9
    assert purchase.bridge.db.everything() == before


# what nobody told us


def test_a_payment_that_failed_unheard_is_learned_by_asking(purchase: Purchase) -> None:
    payment = purchase.prepared()
    payment.status, payment.debited = FAILED, False
    assert purchase.buyer.verify(session_id=purchase.session_id).json()["payment_status"] == "failed"
    purchase.got_nothing()


def test_while_click_does_not_answer_nothing_is_concluded(purchase: Purchase) -> None:
    purchase.prepared()
    purchase.click.faults.extend([Fault(status=503)] * 3)
    answer: Any = purchase.buyer.verify(session_id=purchase.session_id)
    assert answer.status_code in (200, 502)
    assert purchase.status == "processing"
    purchase.click.faults.clear()
    assert purchase.buyer.verify(session_id=purchase.session_id).json()["success"]


def test_no_consent_while_the_purchase_is_being_paid_elsewhere(
    db: Database, click: ClickSimulator, stripe: StripeSimulator
) -> None:
    db.new_product("click_credits", "credits", {"credits": CREDITS}, UZS=PRICE)
    with running_bridge(db, click, stripe) as bridge:
        purchase = Purchase.begin(bridge, click)
        purchase.buyer.pay(purchase.session_id, provider="stripe")
        later = stripe.pay_later(bridge.attempt(purchase.session_id)["provider_session_id"])
        bridge.deliver("stripe", stripe.sign(later[-1]))
        assert bridge.db.session(purchase.session_id)["status"] == "processing"
        (given_up,) = click.buyer_pays(purchase.page, purchase.tell)
        assert click.taken(purchase.page) == 0
        assert purchase.tell(given_up).json()["error"] == -9
        assert bridge.db.session(purchase.session_id)["status"] == "processing"
        assert bridge.db.session(purchase.session_id)["review_reason"] is None
