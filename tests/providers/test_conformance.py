"""What every provider must live through, whatever its protocol: one suite, each adapter against its simulator.

A sixth provider is one more line in ACCOUNTS (docs/providers/adding.md).
"""

from __future__ import annotations

import itertools
import threading
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bridge.providers import ADAPTERS
from bridge.simulators.base import Fault, Simulator
from bridge.simulators.click import ClickSimulator
from bridge.simulators.hypay import HyPaySimulator
from bridge.simulators.paypal import PayPalSimulator
from bridge.simulators.paystack import PaystackSimulator
from bridge.simulators.sandbox import SandboxSimulator
from bridge.simulators.stripe import StripeSimulator
from tests.providers.bench import AdapterBench, new_attempt
from tests.providers.life import ADMIN_TOKEN, CREDITS, PRICE, Life, can
from tests.support.bridge import Bridge, running_bridge
from tests.support.database import Database

ACCOUNTS: tuple[type[Simulator], ...] = (
    StripeSimulator,
    PaystackSimulator,
    ClickSimulator,
    HyPaySimulator,
    PayPalSimulator,
    SandboxSimulator,
)


def accounts(*deeds: str) -> pytest.MarkDecorator:
    """For each provider that knows these deeds."""
    able = [account for account in ACCOUNTS if can(account, *deeds)]
    return pytest.mark.parametrize("account", able, indirect=True, ids=[account.name for account in able])


everybody = accounts()


@pytest.fixture(scope="session")
def _simulators() -> Iterator[dict[type[Simulator], Simulator]]:
    with ExitStack() as stack:
        yield {kind: stack.enter_context(kind()) for kind in ACCOUNTS}


@pytest.fixture(scope="session")
def _running() -> Iterator[tuple[ExitStack, list[Bridge]]]:
    with ExitStack() as stack:
        yield stack, []


@pytest.fixture
def account(request: pytest.FixtureRequest, _simulators: dict[type[Simulator], Simulator]) -> Simulator:
    chosen = _simulators[request.param]
    chosen.faults.clear()
    chosen.received.clear()
    return chosen


@pytest.fixture
def bridge(
    db: Database, _simulators: dict[type[Simulator], Simulator], _running: tuple[ExitStack, list[Bridge]]
) -> Bridge:
    """One bridge for all tests, with every provider on: each test's database has the same address."""
    currencies = {account.currency for account in ACCOUNTS}
    db.new_product("conformance", "credits", {"credits": CREDITS}, **dict.fromkeys(currencies, PRICE))
    db.sql("update payments.settings set providers = %s", [account.name for account in ACCOUNTS])
    stack, running = _running
    if not running:
        running.append(stack.enter_context(running_bridge(db, *_simulators.values(), admin_token=ADMIN_TOKEN)))
    assert running[0].db == db
    return running[0]


@pytest.fixture
def life(bridge: Bridge, account: Simulator) -> Life:
    return Life.begin(bridge, account)


class TestPaying:
    @everybody
    def test_paid_by_the_first_news_and_fulfilled_once_whatever_comes_after(self, life: Life) -> None:
        news = life.pay()
        life.learn(news)
        life.is_fulfilled_once()
        life.changes_nothing(*[lambda one=one: life.tell(one) for one in news], life.verify, life.come_back)
        assert life.verify()["success"]
        life.is_fulfilled_once()

    @everybody
    def test_the_buyer_who_comes_back_is_told(self, life: Life) -> None:
        life.pay_and_learn()
        told = life.come_back()
        assert (told["session_id"], told["status"]) == (str(life.session_id), "completed")

    @accounts("forged")
    def test_each_notification_twice_and_in_every_order(self, bridge: Bridge, account: Simulator) -> None:
        life = Life.begin(bridge, account)
        for order in itertools.permutations(range(len(life.pay()))):
            life = Life.begin(bridge, account)
            news = life.pay()
            for one in order:
                life.tell(news[one])
                life.tell(news[one])
            life.is_fulfilled_once()

    @everybody
    def test_everything_at_once_is_one_payment(self, life: Life) -> None:
        news = life.pay()
        deeds = [*[lambda one=one: life.tell(one) for one in news], life.come_back, life.come_back]
        start = threading.Barrier(len(deeds))

        def do(deed: Any) -> None:
            start.wait()
            deed()

        with ThreadPoolExecutor(len(deeds)) as pool:
            list(pool.map(do, deeds))
        life.is_fulfilled_once()

    @everybody
    def test_the_same_purchase_again_shows_the_same_page(self, life: Life) -> None:
        again = life.buyer.checkout("conformance", provider=life.account.name, currency=life.account.currency).json()
        assert (again["session_id"], again["checkout_url"]) == (str(life.session_id), life.page)

    @accounts("buyer_is_declined")
    def test_declined_is_not_paid(self, life: Life) -> None:
        for one in life.account.buyer_is_declined(life.page, life.tell):
            life.tell(one)
        life.verify()
        assert life.status in ("pending", "processing", "failed")
        life.got_nothing()

    @accounts("buyer_is_declined")
    def test_declined_then_paid_is_fulfilled_once(self, life: Life) -> None:
        for one in life.account.buyer_is_declined(life.page, life.tell):
            life.tell(one)
        if life.status == "failed":  # this provider closes the page: the buyer starts again
            life = Life.begin(life.bridge, life.account)
        life.pay_and_learn()
        life.is_fulfilled_once()

    @accounts("buyer_pays_later", "money_arrives")
    def test_a_delayed_payment_is_fulfilled_when_it_arrives(self, life: Life) -> None:
        life.learn(life.account.buyer_pays_later(life.page, life.tell))
        assert life.verify()["payment_status"] == life.status == "processing"
        life.got_nothing()
        life.hear(life.account.money_arrives(life.page))
        life.verify()
        life.is_fulfilled_once()


class TestTruth:
    @everybody
    def test_an_unpaid_page_is_pending_however_it_is_asked(self, life: Life) -> None:
        for _ in range(2):
            told = life.verify()
            assert (told["success"], told["payment_status"]) == (False, "pending")
        life.got_nothing()

    @everybody
    def test_without_any_news_the_truth_is_asked_for(self, life: Life) -> None:
        life.pay()  # and every notification is lost
        if life.account.can_be_asked:
            assert life.verify()["success"]
        else:
            assert not life.verify()["verified"]
            life.come_back()
        life.is_fulfilled_once()

    @accounts("page_expires")
    def test_a_page_that_expired_ends_its_session(self, life: Life) -> None:
        life.hear(life.account.page_expires(life.page))
        assert life.verify()["payment_status"] == "expired"
        life.got_nothing()

    @everybody
    def test_a_late_payment_is_honoured_or_its_money_is_not_taken(self, life: Life) -> None:
        life.bridge.db.lapse(life.session_id)
        life.bridge.db.as_service().rpc("expire_old_checkout_sessions")
        assert life.status == "expired"
        for one in life.pay():
            life.tell(one)
        life.come_back()
        life.verify()
        if life.account.taken(life.page):
            life.is_fulfilled_once()
        else:
            assert life.status == "expired"
            life.got_nothing()

    @everybody
    def test_who_cancels_has_paid_before_or_does_not_pay(self, life: Life) -> None:
        life.pay()  # and no news has come yet
        before = life.account.taken(life.page)
        answer = life.buyer.post(f"/checkout/{life.session_id}/cancel")
        assert answer.status_code == 200, answer.text
        life.come_back()
        assert life.account.taken(life.page) == before  # to cancel takes no money
        if before:
            life.is_fulfilled_once()
        else:
            assert life.status in ("cancelled", "expired")
            life.got_nothing()


class TestTampering:
    @accounts("forged")
    def test_a_forged_notification_changes_nothing(self, life: Life) -> None:
        for one in life.pay():
            life.changes_nothing(lambda one=one: self.is_refused(life.tell(life.account.forged(one))))
        assert [row for row in life.bridge.webhook_events() if row["status"] != "handled"] == []

    @staticmethod
    def is_refused(answer: httpx.Response) -> None:
        assert answer.status_code == 400 or answer.json().get("error") == -1, answer.text

    @accounts("forged")
    def test_a_payment_of_somebody_else_changes_nothing(self, bridge: Bridge, account: Simulator) -> None:
        attempt = new_attempt(amount=PRICE, currency=account.currency, provider=account.name)
        with AdapterBench(ADAPTERS[account.name], account.settings()) as bench:
            page = bench.open_page(attempt)
        life = Life.begin(bridge, account)
        answers: list[Any] = []

        def tell(delivery: Any) -> Any:
            answers.append(life.tell(delivery))
            return answers[-1]

        life.changes_nothing(lambda: [tell(one) for one in account.buyer_pays(page.url, tell)])
        assert answers
        assert all(answer.status_code in (200, 404) for answer in answers), [answer.text for answer in answers]
        assert life.status == "pending"

    @accounts("buyer_pays")
    @pytest.mark.parametrize("amount", [1, PRICE - 1])
    def test_too_little_money_buys_nothing(self, life: Life, amount: int) -> None:
        for one in life.account.buyer_pays(life.page, life.tell, amount=amount):
            life.tell(one)
        life.come_back()
        life.got_nothing()
        assert life.status != "completed"
        if life.account.taken(life.page):
            assert "amount_mismatch" in life.row["review_reason"]

    @everybody
    @pytest.mark.parametrize("garbage", [b"", b"{}", b"[]", b"null", b"\xff\x00", b"a=b&a=c", b'{"event": {}}'])
    def test_garbage_is_refused_politely(self, bridge: Bridge, account: Simulator, garbage: bytes) -> None:
        before = bridge.db.everything()
        answer = bridge.http.post(f"/webhooks/{account.name}", content=garbage)
        assert answer.status_code in (200, 400, 404, 422), answer.text
        assert answer.json().get("error") is not None
        back = bridge.http.post(f"/return/{account.name}", content=garbage)
        assert back.status_code == 303
        assert bridge.db.everything() == before

    @everybody
    def test_no_bytes_from_strangers_are_a_fault_of_ours_or_are_stored(
        self, bridge: Bridge, account: Simulator
    ) -> None:
        before = bridge.db.everything()
        names = st.sampled_from([
            "stripe-signature", "x-paystack-signature", "paypal-transmission-id", "paypal-transmission-time",
            "paypal-transmission-sig", "paypal-cert-url", "paypal-auth-algo", "content-type",
        ])  # fmt: skip
        value = st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=40)
        form = st.text(st.sampled_from("abcdeifo_=&%0123456789-."), max_size=200).map(str.encode)

        @settings(max_examples=40)
        @given(st.dictionaries(names, value, max_size=6), st.one_of(st.binary(max_size=300), form))
        def send(headers: dict[str, str], body: bytes) -> None:
            answer = bridge.http.post(f"/webhooks/{account.name}", content=body, headers=headers)
            assert answer.status_code < 500, answer.text
            back = bridge.http.post(f"/return/{account.name}", content=body)
            assert back.status_code == 303, back.text

        send()
        assert bridge.db.everything() == before


FAULTS = {
    "overloaded": Fault(status=503), "too many": Fault(status=429), "lost": Fault(lost=True), "cut": Fault(cut=True),
    "garbled": Fault(garbled=True, body=b"<html>"), "other JSON": Fault(garbled=True, body=b"[1]"),
}  # fmt: skip
faults = pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS.keys())


class TestBadNetworks:
    @everybody
    @faults
    def test_a_page_opens_in_the_end_and_is_paid_once(self, bridge: Bridge, account: Simulator, fault: Fault) -> None:
        buyer = bridge.buyer()
        account.faults.extend([fault] * 3)
        for _ in range(6):
            opened = buyer.checkout("conformance", provider=account.name, currency=account.currency)
            if opened.status_code == 200:
                break
            assert opened.status_code == 502, opened.text
            assert "<html>" not in opened.text
        answer = opened.json()
        assert opened.status_code == 200, opened.text
        account.faults.clear()
        life = Life(bridge, account, buyer, uuid.UUID(answer["session_id"]), answer["checkout_url"])
        life.pay_and_learn()
        life.is_fulfilled_once()

    @everybody
    @faults
    def test_a_question_that_fails_changes_nothing_and_can_be_repeated(self, life: Life, fault: Fault) -> None:
        life.pay()
        life.account.faults.extend([fault] * 3)
        told = life.buyer.verify(session_id=life.session_id)
        assert told.status_code in (200, 502), told.text
        life.account.faults.clear()
        life.come_back()
        life.is_fulfilled_once()


class TestMoneyBack:
    @accounts("merchant_refunds")
    def test_given_at_the_provider_in_parts_then_the_rest(self, life: Life) -> None:
        life.pay_and_learn()
        life.learn(life.account.merchant_refunds(life.page, PRICE // 4))
        assert (life.status, life.credits, life.row["refunded_amount"]) == ("partially_refunded", 75, PRICE // 4)
        news = life.account.merchant_refunds(life.page)
        life.learn(news)
        assert (life.status, life.credits, life.row["refunded_amount"]) == ("refunded", 0, PRICE)
        life.changes_nothing(*[lambda one=one: life.tell(one) for one in news])
        assert life.account.given_back(life.page) == PRICE
        life.keeps_the_guarantees()

    @everybody
    def test_ordered_here_in_parts_then_the_rest(self, life: Life) -> None:
        life.pay_and_learn()
        part = life.order_refund(PRICE // 4)
        assert part.status_code == 200, part.text
        assert (part.json()["amount"], part.json()["refundable_amount"]) == (PRICE // 4, PRICE - PRICE // 4)
        assert life.account.given_back(life.page) == PRICE // 4
        rest = life.order_refund()
        assert rest.status_code == 200, rest.text
        assert life.account.given_back(life.page) == PRICE
        assert life.row["refunded_amount"] in (PRICE, 0)  # some tell later that the money has arrived
        assert life.order_refund().status_code == 409
        life.keeps_the_guarantees()

    @everybody
    def test_all_of_it_at_once(self, life: Life) -> None:
        life.pay_and_learn()
        whole = life.order_refund()
        assert (whole.status_code, whole.json()["refundable_amount"]) == (200, 0), whole.text
        assert life.account.given_back(life.page) == PRICE

    @everybody
    @pytest.mark.parametrize(
        "fault", [Fault(lost=True), Fault(cut=True), Fault(status=503)], ids=["lost", "cut", "503"]
    )
    def test_an_order_whose_answer_is_lost_gives_back_once_and_is_known(self, life: Life, fault: Fault) -> None:
        life.pay_and_learn()
        for before in range(4):  # whichever of the requests behind one order it hits
            life.account.faults.extend([*[Fault()] * before, fault])
            for _ in range(3):
                life.order_refund(PRICE // 8, f"ticket {before}")
                assert life.refunds_that_count >= life.account.given_back(life.page)
            life.account.faults.clear()
            assert life.account.given_back(life.page) <= (before + 1) * (PRICE // 8)
        life.keeps_the_guarantees()

    @everybody
    def test_an_order_is_not_carried_out_again_when_its_worker_crashed_before_the_answer(self, life: Life) -> None:
        life.pay_and_learn()
        assert life.order_refund(PRICE // 4, "ticket").status_code == 200
        life.bridge.db.sql(
            "update payments.idempotency_keys set status = 'pending', response = null, leased_until = now()"
            " where key like 'refund:%%'"
        )
        again = life.order_refund(PRICE // 4, "ticket")
        assert (again.status_code, again.json()["amount"]) == (200, PRICE // 4), again.text
        assert life.account.given_back(life.page) == PRICE // 4
        assert life.refunds_that_count == PRICE // 4

    @accounts("buyer_disputes", "bank_decides")
    @pytest.mark.parametrize("won", [True, False], ids=["won", "lost"])
    def test_a_dispute_is_flagged_and_its_end_counts(self, life: Life, won: bool) -> None:  # parametrised
        life.pay_and_learn()
        life.learn(life.account.buyer_disputes(life.page))
        assert "dispute_reported" in life.row["review_reason"]
        assert life.credits == CREDITS
        life.learn(life.account.bank_decides(life.page, won=won))
        assert life.credits == (CREDITS if won else 0)
        assert life.status == ("completed" if won else "refunded")
        life.keeps_the_guarantees()
