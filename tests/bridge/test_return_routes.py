"""GET and POST /return/{provider}: a buyer comes back, and is never left on a page of ours."""

from __future__ import annotations

import httpx
import pytest

from bridge.simulators.stripe import Fault, StripeSimulator
from tests.support.bridge import Bridge, Buyer, StripeDesk, query_of, wait_until
from tests.support.database import Row
from tests.support.races import all_at_once

THANKS, CART = "https://app.test/thanks", "https://app.test/cart"


@pytest.fixture
def attempt(bridge: Bridge, buyer: Buyer) -> Row:
    return bridge.attempt(buyer.checkout().json()["session_id"])


def sent_to(response: httpx.Response) -> tuple[str, str]:
    """The address without its query, and the status in that query."""
    assert response.status_code == 303
    return response.headers["location"].partition("?")[0], query_of(response)["status"]


def come_back(bridge: Bridge, attempt: Row, more: str = "") -> httpx.Response:
    return bridge.http.get(f"/return/stripe?page={attempt['provider_session_id']}{more}")


def test_a_buyer_who_paid_is_thanked_and_has_the_goods(
    bridge: Bridge, buyer: Buyer, stripe: StripeSimulator, attempt: Row
) -> None:
    stripe.pay(attempt["provider_session_id"])
    response = come_back(bridge, attempt)
    assert sent_to(response) == (THANKS, "completed")
    assert query_of(response) == {"from": "shop", "session_id": str(attempt["session_id"]), "status": "completed"}
    assert bridge.db.balance(buyer.id) == 100


def test_coming_back_twice_changes_nothing(bridge: Bridge, stripe: StripeSimulator, attempt: Row) -> None:
    stripe.pay(attempt["provider_session_id"])
    first = come_back(bridge, attempt)
    before = bridge.db.everything()
    assert come_back(bridge, attempt).headers["location"] == first.headers["location"]
    assert bridge.db.everything() == before


def test_a_buyer_who_pressed_back_is_at_the_cart_and_can_still_pay(bridge: Bridge, buyer: Buyer, attempt: Row) -> None:
    response = bridge.http.get(f"/return/stripe?reference={attempt['reference']}")
    assert sent_to(response) == (CART, "pending")
    assert buyer.checkout().json()["checkout_url"] == attempt["checkout_url"]


def test_a_delayed_payment_counts_as_on_its_way(bridge: Bridge, stripe: StripeSimulator, attempt: Row) -> None:
    stripe.pay_later(attempt["provider_session_id"])
    assert sent_to(come_back(bridge, attempt)) == (THANKS, "processing")


def test_an_expired_page_leads_to_the_cart(bridge: Bridge, stripe: StripeSimulator, attempt: Row) -> None:
    stripe.expire(attempt["provider_session_id"])
    assert sent_to(come_back(bridge, attempt)) == (CART, "expired")


def test_the_buyer_does_not_wait_for_a_provider_that_is_away(
    bridge: Bridge, stripe: StripeSimulator, attempt: Row
) -> None:
    stripe.faults.extend([Fault(status=503)] * 3)
    assert sent_to(come_back(bridge, attempt)) == (THANKS, "pending")


def test_a_form_is_read_like_a_query(bridge: Bridge, stripe: StripeSimulator, attempt: Row) -> None:
    stripe.pay(attempt["provider_session_id"])
    response = bridge.http.post("/return/stripe", data={"page": attempt["provider_session_id"]})
    assert sent_to(response) == (THANKS, "completed")


def test_nothing_in_the_query_changes_where_the_buyer_goes(
    bridge: Bridge, stripe: StripeSimulator, attempt: Row
) -> None:
    stripe.pay(attempt["provider_session_id"])
    evil = "https://evil.test/"
    honest = come_back(bridge, attempt).headers["location"]
    for name in ("success_url", "cancel_url", "redirect", "url", "next", "status", "session_id", "from", "page"):
        assert come_back(bridge, attempt, f"&{name}={evil}").headers["location"] == honest, name


def test_what_nobody_knows_leads_to_the_cart(bridge: Bridge, attempt: Row) -> None:
    del attempt  # there is a session, but the query does not name it
    for path in (
        "/return/stripe",
        "/return/stripe?",
        "/return/stripe?page=cs_unknown",
        "/return/stripe?page=%ff%fe",
        "/return/stripe?page=" + "x" * 5000,
        "/return/stripe?page=%0d%0aset-cookie:a=b",
        "/return/barter?reference=1",
        "/return/sandbox",
        "/return/sandbox?reference=' or true --",
    ):
        response = bridge.http.get(path)
        assert response.headers["location"] == f"{CART}?status=unknown", path
        assert "set-cookie" not in response.headers


def test_a_buyer_who_may_have_paid_is_not_sent_to_the_cart_when_we_fail(bridge: Bridge, attempt: Row) -> None:
    assert sent_to(bridge.http.get("/return/stripe?reference=%00")) == (THANKS, "unknown")
    bridge.db.sql("revoke execute on function public.find_checkout_attempt from service_role")
    assert sent_to(come_back(bridge, attempt)) == (THANKS, "unknown")


def test_a_return_at_one_provider_says_nothing_of_a_page_at_another(bridge: Bridge, attempt: Row) -> None:
    response = bridge.http.get(f"/return/sandbox?reference={attempt['reference']}")
    assert sent_to(response) == (CART, "unknown")


def test_buyer_and_webhook_at_once_fulfil_once(
    bridge: Bridge, buyer: Buyer, stripe_desk: StripeDesk, attempt: Row
) -> None:
    delivery = stripe_desk.deliver(stripe_desk.paid(attempt))
    answers = all_at_once(
        [lambda: come_back(bridge, attempt).status_code, lambda: bridge.deliver("stripe", delivery).status_code] * 4
    )
    assert answers == [303, 200] * 4
    assert bridge.db.entries(buyer.id) == [100]
    assert bridge.db.trail(attempt["session_id"]) == [("pending", "completed", None)]


@pytest.mark.parametrize(
    ("action", "address", "status"),
    [("pay", THANKS, "completed"), ("cancel", CART, "cancelled"), ("decline", CART, "failed")],
)
def test_the_sandbox_takes_a_buyer_all_the_way(
    bridge: Bridge, buyer: Buyer, action: str, address: str, status: str
) -> None:
    opened = buyer.checkout(provider="sandbox").json()
    assert bridge.http.get(opened["checkout_url"]).status_code == 200
    pressed = bridge.http.post(opened["checkout_url"], data={"action": action})
    response = bridge.http.get(pressed.headers["location"])
    assert sent_to(response) == (address, status)
    assert bridge.db.session(opened["session_id"])["status"] == status
    wait_until(lambda: [event["status"] for event in bridge.webhook_events()] == ["handled"])
    assert bridge.db.entries(buyer.id) == ([100] if action == "pay" else [])
