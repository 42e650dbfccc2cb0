"""A currency that a provider cannot take is refused with those it can, before its page is opened."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from bridge.simulators.click import ClickSimulator
from tests.support.bridge import Bridge, running_bridge
from tests.support.database import Database


@pytest.fixture
def click_only(db: Database) -> Iterator[Bridge]:
    with ClickSimulator() as account, running_bridge(db, account) as bridge:
        yield bridge


def test_the_refusal_lists_what_the_provider_takes_and_the_session_can_be_paid_elsewhere(click_only: Bridge) -> None:
    buyer = click_only.buyer()
    refused = buyer.checkout(provider="click", currency="USD")
    assert (refused.status_code, refused.json()["error"]) == (
        422,
        {"reason": "currency_unavailable", "message": "Click cannot take USD.", "hint": "It takes: UZS."},
    )
    (attempt,) = click_only.db.sql("select status, error_code from payments.attempts")
    assert attempt == {"status": "failed", "error_code": "currency_unavailable"}
    paid = buyer.checkout(provider="sandbox", currency="USD").json()
    assert (paid["status"], paid["currency"]) == ("pending", "USD")
    assert paid["checkout_url"]
