"""Two bridges and two workers against one database, and nine of ten notifications are duplicates."""

from __future__ import annotations

import itertools
import random
import re
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from bridge.simulators.stripe import StripeSimulator
from tests.recovery.accounts import Accounts, settings_for
from tests.recovery.load import Load
from tests.support.bridge import Bridge, wait_until
from tests.support.database import Database
from tests.support.mail_server import MailServer
from tests.support.processes import Processes, free_port

BUYERS, PURCHASES, DELIVERIES = 8, 25, 10


@pytest.fixture
def mail() -> Iterator[MailServer]:
    with MailServer() as server:
        yield server


def counted(bridge: Bridge) -> Counter[str]:
    """What became of the webhooks at this bridge, by its own account."""
    text = bridge.http.get("/metrics").text
    found = re.findall(r'^pgcheckout_webhooks_total\{provider="stripe",result="(\w+)"\} (\S+)$', text, re.MULTILINE)
    return Counter({result: int(float(number)) for result, number in found})


def test_fulfilled_once_and_told_once(
    shop: Database, processes: Processes, accounts: Accounts, mail: MailServer
) -> None:
    settings = settings_for(accounts, shop.url()) | {
        "smtp_url": f"smtp://127.0.0.1:{mail.port}", "mail_from": "shop@example.test"
    }  # fmt: skip
    with (
        processes.bridge(shop, free_port(), **settings) as (one, _),
        processes.bridge(shop, free_port(), **settings) as (other, _),
    ):
        workers = [processes.start("work", name, **settings) for name in ("one", "other")]
        load = Load([one, other], accounts[StripeSimulator])
        load.sell(buyers=BUYERS, purchases=PURCHASES)
        # the workers ask about it while the storm is on
        shop.sql("update payments.attempts set reconcile_at = now() where reconcile_at is not null")
        rng = random.Random(9)  # noqa: S311 # to be repeated
        # what Stripe tells of a payment that we act on, ten times each, mixed up
        events = [sale.news[-1] for sale in load.sales]
        storm = events * DELIVERIES
        rng.shuffle(storm)
        bridges = itertools.cycle((one, other))
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda pair: pair[0].deliver("stripe", pair[1]), zip(bridges, storm, strict=False)))
        assert {answer.status_code for answer in answers} == {200}
        load.acknowledged = load.sales
        load.is_whole()

        sold = BUYERS * PURCHASES
        told = Counter(answer.json()["result"] for answer in answers)
        assert told == {"applied": sold, "duplicate": sold * (DELIVERIES - 1)}
        assert counted(one) + counted(other) == told
        assert shop.sql("select status, count(*) as events from payments.webhook_events group by status") == [
            {"status": "handled", "events": sold}
        ]
        unsent = "select count(*) from payments.notifications where kind = 'receipt' and status <> 'sent'"
        wait_until(lambda: shop.value(unsent) == 0, 60.0)
        receipts = Counter(str(letter["Message-ID"]) for letter in mail.letters)
        assert (len(receipts), set(receipts.values())) == (sold, {1})
        for worker in workers:
            worker.kill()
