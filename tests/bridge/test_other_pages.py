"""A purchase can have several pages; the buyer pays once, and money is found whichever page it came from."""

from __future__ import annotations

import pytest

from tests.simulators.stripe import Fault, StripeSimulator
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
    buyer.checkout(currency="ILS")
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
