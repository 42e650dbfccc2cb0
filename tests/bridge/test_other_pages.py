"""A purchase can have several pages; the buyer pays once, and money is found whichever page it came from."""

from __future__ import annotations

import pytest

from bridge.simulators.stripe import Fault, StripeSimulator
from tests.support.bridge import Bridge, Buyer
from tests.support.database import Row


@pytest.fixture
def old(bridge: Bridge, buyer: Buyer) -> Row:
    """A page in dollars, which the buyer leaves to pay in another currency."""
    return bridge.attempt(buyer.checkout(currency="USD").json()["session_id"])


def page_status(stripe: StripeSimulator, attempt: Row) -> str:
    return str(stripe.objects[attempt["provider_session_id"]]["status"])


def test_the_page_of_a_superseded_session_is_closed_before_a_new_one_opens(
    bridge: Bridge, buyer: Buyer, stripe: StripeSimulator, old: Row
) -> None:
    new = buyer.checkout(currency="ILS").json()
    assert (new["status"], new["currency"]) == ("pending", "ILS")
    assert new["session_id"] != str(old["session_id"])
    assert page_status(stripe, old) == "expired"
    assert bridge.db.session(old["session_id"])["status"] == "cancelled"


def test_a_buyer_who_has_paid_on_the_old_page_gets_no_new_one(
    bridge: Bridge, buyer: Buyer, stripe: StripeSimulator, old: Row
) -> None:
    stripe.pay(old["provider_session_id"])  # and the webhook is lost
    answer = buyer.pay(old["session_id"], provider="sandbox").json()
    assert (answer["session_id"], answer["status"], answer["checkout_url"]) == (
        str(old["session_id"]), "completed", None,
    )  # fmt: skip
    assert bridge.db.balance(buyer.id) == 100


def test_money_on_a_superseded_page_is_found_when_the_buyer_starts_again(
    bridge: Bridge, buyer: Buyer, stripe: StripeSimulator, old: Row
) -> None:
    stripe.pay(old["provider_session_id"])  # and the webhook is lost
    answer = buyer.checkout(currency="ILS").json()
    assert (answer["status"], answer["checkout_url"]) == ("cancelled", None)  # nothing is to be paid any more
    assert bridge.db.session(old["session_id"])["status"] == "completed"
    assert bridge.db.balance(buyer.id) == 100


def test_verify_finds_money_on_an_earlier_page(bridge: Bridge, buyer: Buyer, stripe: StripeSimulator, old: Row) -> None:
    stripe.faults.extend([Fault(status=503)] * 3)  # the old page cannot be closed
    buyer.pay(old["session_id"], provider="sandbox")
    stripe.pay(old["provider_session_id"])  # and the webhook is lost
    answer = buyer.verify(session_id=old["session_id"]).json()
    assert (answer["success"], answer["payment_status"]) == (True, "completed")
    assert bridge.db.balance(buyer.id) == 100


def test_a_provider_that_is_away_does_not_keep_verify_from_answering(
    bridge: Bridge, buyer: Buyer, stripe: StripeSimulator, old: Row
) -> None:
    stripe.faults.extend([Fault(status=503)] * 6)
    buyer.pay(old["session_id"], provider="sandbox")
    answer = buyer.verify(session_id=old["session_id"]).json()
    assert (answer["success"], answer["payment_status"]) == (False, "pending")


def test_trouble_with_another_page_is_no_answer_about_this_one(
    bridge: Bridge, buyer: Buyer, stripe: StripeSimulator, old: Row
) -> None:
    stripe.faults.extend([Fault(status=503)] * 3)  # the old page cannot be closed
    buyer.pay(old["session_id"], provider="sandbox")
    payment = stripe.pay(old["provider_session_id"])[-1]["data"]["object"]["payment_intent"]
    bridge.db.sql(
        "insert into payments.captures (provider, provider_payment_id, session_id, amount, currency, disposition,"
        " paid_at, created_at) values ('stripe', %s, gen_random_uuid(), 500, 'USD', 'orphaned', now(), now())",
        payment,
    )
    answer = buyer.verify(session_id=old["session_id"])
    assert (answer.status_code, answer.json()["payment_status"]) == (200, "pending")


class TestCancel:
    def cancelled(self, bridge: Bridge, buyer: Buyer, session_id: object) -> Row:
        answer = buyer.post(f"/checkout/{session_id}/cancel")
        assert answer.status_code == 200, answer.text
        told: Row = answer.json()
        assert told["payment_status"] == bridge.db.session(str(session_id))["status"]
        return told

    def test_the_page_is_closed_at_its_provider(
        self, bridge: Bridge, buyer: Buyer, stripe: StripeSimulator, old: Row
    ) -> None:
        told = self.cancelled(bridge, buyer, old["session_id"])
        assert (told["success"], told["payment_status"]) == (False, "cancelled")
        assert page_status(stripe, old) == "expired"
        assert bridge.db.events(old["session_id"])[-1]["source"] == "client"
        assert self.cancelled(bridge, buyer, old["session_id"]) == told

    def test_every_page_of_it_is_closed(self, bridge: Bridge, buyer: Buyer, stripe: StripeSimulator, old: Row) -> None:
        stripe.faults.extend([Fault(status=503)] * 3)  # the first page cannot be closed when the second one opens
        buyer.pay(old["session_id"], provider="sandbox")
        # the sandbox's own news that its page is closed may be quicker
        ends = {"cancelled", "expired"}
        assert self.cancelled(bridge, buyer, old["session_id"])["payment_status"] in ends
        assert page_status(stripe, old) == "expired"
        pages = bridge.db.sql("select status from payments.attempts where session_id = %s", old["session_id"])
        assert len(pages) == 2
        assert {page["status"] for page in pages} <= ends

    def test_what_was_paid_is_told_instead(
        self, bridge: Bridge, buyer: Buyer, stripe: StripeSimulator, old: Row
    ) -> None:
        stripe.pay(old["provider_session_id"])  # and the webhook is lost
        told = self.cancelled(bridge, buyer, old["session_id"])
        assert (told["success"], told["payment_status"]) == (True, "completed")

    def test_a_provider_that_is_away_does_not_keep_the_buyer(
        self, bridge: Bridge, buyer: Buyer, stripe: StripeSimulator, old: Row
    ) -> None:
        stripe.faults.extend([Fault(status=503)] * 3)
        assert self.cancelled(bridge, buyer, old["session_id"])["payment_status"] == "cancelled"
        stripe.faults.clear()
        bridge.deliver("stripe", stripe.sign(stripe.pay(old["provider_session_id"])[-1]))
        assert bridge.db.session(old["session_id"])["status"] == "completed"  # late money is honoured

    def test_a_session_without_a_page_is_cancelled_too(self, bridge: Bridge, buyer: Buyer) -> None:
        session_id = bridge.db.new_session(buyer.id)
        assert self.cancelled(bridge, buyer, session_id)["payment_status"] == "cancelled"

    def test_only_the_buyer_cancels(self, bridge: Bridge, old: Row) -> None:
        answer = bridge.buyer().post(f"/checkout/{old['session_id']}/cancel")
        assert (answer.status_code, answer.json()["error"]["reason"]) == (403, "not_your_session")
        assert bridge.http.post(f"/checkout/{old['session_id']}/cancel").status_code == 401
        assert bridge.db.session(old["session_id"])["status"] == "pending"
