"""Two equal refunds whose webhooks look the same both count."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from bridge.simulators.base import Delivery
from bridge.simulators.paystack import PaystackSimulator, sign
from tests.providers.life import CREDITS, PRICE, Life
from tests.support.bridge import running_bridge
from tests.support.database import Database


@pytest.fixture
def life(db: Database) -> Iterator[Life]:
    db.new_product("conformance", "credits", {"credits": CREDITS}, NGN=PRICE)
    with PaystackSimulator() as account, running_bridge(db, account) as bridge:
        yield Life.begin(bridge, account)


def nameless(account: PaystackSimulator, delivery: Delivery) -> Delivery:
    """The same event before Paystack has given its refund a reference."""
    event = json.loads(delivery[1])
    event["data"]["refund_reference"] = None
    body = json.dumps(event).encode()
    return {"x-paystack-signature": sign(body, account.secret_key)}, body


def test_two_refunds_without_references_are_both_recorded(life: Life) -> None:
    account = life.account
    assert isinstance(account, PaystackSimulator)
    life.pay_and_learn()
    for given in (1, 2):
        for delivery in account.merchant_refunds(life.page, PRICE // 4):
            life.tell(nameless(account, delivery))
        assert life.row["refunded_amount"] == given * (PRICE // 4)
    assert life.credits == CREDITS // 2
