"""kill -9 of Postgres under load, with fsync on: what was acknowledged is there after crash recovery.

A killed process leaves what it has written to the kernel; that a power cut does so too is what fsync promises.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from bridge.local.postgres import LocalPostgres
from bridge.simulators.stripe import StripeSimulator
from tests.recovery.accounts import Accounts, settings_for
from tests.recovery.load import Load
from tests.recovery.servers import kill, new_shop
from tests.support.processes import Processes, free_port

SEED, KILLS = 8, 3


@pytest.fixture(scope="module")
def durable_server() -> Iterator[LocalPostgres]:
    server = LocalPostgres(int(os.environ.get("PG", "18")), durable=True)
    yield server
    server.stop()


def test_what_was_acknowledged_survives(
    durable_server: LocalPostgres, processes: Processes, accounts: Accounts
) -> None:
    db = new_shop(durable_server, "killed")
    assert db.sql(
        "select current_setting('fsync') as fsync, current_setting('full_page_writes') as pages,"
        " current_setting('synchronous_commit') as commits"
    ) == [{"fsync": "on", "pages": "on", "commits": "on"}]
    rng = random.Random(SEED)  # noqa: S311 # to be repeated
    with (
        processes.bridge(db, free_port(), **settings_for(accounts, db.url())) as (bridge, _),
        ThreadPoolExecutor(1) as thread,
    ):
        load = Load([bridge], accounts[StripeSimulator])
        shopping = thread.submit(load.run, buyers=4, purchases=30)
        for _ in range(KILLS):
            sold = len(load.acknowledged)
            while not shopping.done() and len(load.acknowledged) < sold + 5:  # it works again
                time.sleep(0.01)
            time.sleep(rng.uniform(0.0, 0.3))
            acknowledged = list(load.acknowledged)
            assert not shopping.done(), "all was sold before it was killed"
            kill(durable_server)
            durable_server.start()
            load.are_fulfilled(acknowledged)
        shopping.result()
        assert load.troubles
        load.everything_again()
        load.is_whole()
    log = (durable_server.data / "log").read_text()
    assert log.count("database system was not properly shut down; automatic recovery in progress") == KILLS
