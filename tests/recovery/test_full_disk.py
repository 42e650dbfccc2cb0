"""A database that cannot write: providers are asked to come again, nothing is half done, and no hand is needed after.

Supabase itself makes a project's database read-only when its disk is nearly full.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import psycopg
import pytest

from bridge.local.postgres import SUPERUSER, LocalPostgres
from bridge.providers.click import NOT_APPLIED
from bridge.simulators.click import ClickSimulator as Click
from bridge.simulators.hypay import HyPaySimulator as HyPay
from bridge.simulators.paypal import PayPalSimulator as PayPal
from bridge.simulators.paystack import PaystackSimulator as Paystack
from bridge.simulators.sandbox import SandboxSimulator as Sandbox
from bridge.simulators.stripe import StripeSimulator as Stripe
from tests.recovery.accounts import Accounts, settings_for
from tests.recovery.load import Load
from tests.recovery.purchases import (
    Row,
    begin,
    browser,
    buyer_pays,
    click,
    click_and_payment,
    nothing,
    nothing_is_stuck,
    paid,
    refund,
    refunded_once,
    verify,
    webhook,
)  # fmt: skip
from tests.recovery.servers import new_shop
from tests.support.bridge import running_bridge, wait_until
from tests.support.database import Database

ROWS = (
    # provider, before, done while nothing can be written, then, at the end
    Row(Stripe, buyer_pays, webhook, webhook),
    Row(PayPal, buyer_pays, webhook, webhook),
    Row(Click, buyer_pays, webhook, webhook),
    Row(Sandbox, buyer_pays, webhook, webhook),
    Row(HyPay, buyer_pays, browser, browser),
    Row(Paystack, buyer_pays, verify, verify),
    Row(Stripe, nothing, click, click_and_payment),
    Row(Stripe, paid, refund, refund, refunded_once),
)


@pytest.fixture(scope="module")
def disk() -> Iterator[Path]:
    """A small disk of its own, where this machine lets us make one."""
    with tempfile.TemporaryDirectory(prefix="disk-") as folder:
        mounted = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=600m,mode=755", "none", folder], check=False, capture_output=True
        )
        if mounted.returncode:
            pytest.skip(f"no right to mount a small disk: {mounted.stderr.decode().strip()}")
        yield Path(folder)
        subprocess.run(["umount", "--lazy", folder], check=True)


@contextlib.contextmanager
def read_only(db: Database) -> Iterator[None]:
    """What Supabase does; whoever is connected must come again. Afterwards nobody is sent away."""
    owner = db.url(SUPERUSER)
    with psycopg.connect(owner, autocommit=True) as connection:
        connection.execute(f"alter database {db.name} set default_transaction_read_only = on")
        connection.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity"
            " where datname = current_database() and pid <> pg_backend_pid()"
        )
    yield
    with psycopg.connect(owner, autocommit=True) as connection:
        connection.execute("set default_transaction_read_only = off")
        connection.execute(f"alter database {db.name} reset default_transaction_read_only")


def asks_to_come_again(answer: httpx.Response) -> bool:
    """Click reads a number. What is no news to us may be answered at once."""
    if answer.status_code >= 500:
        return True
    said = answer.json()
    return bool(said.get("result") == "ignored" or said.get("error") == NOT_APPLIED)


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_read_only(row: Row, shop: Database, accounts: Accounts) -> None:
    answers: list[httpx.Response] = []
    with running_bridge(shop, **settings_for(accounts, shop.url())) as bridge:
        purchase = begin(row, bridge, accounts[row.account])
        row.before(purchase)
        with read_only(shop):
            before = shop.everything()
            bridge.http.event_hooks = {"response": [lambda answer: answer.read() and None, answers.append]}
            with contextlib.suppress(AssertionError):  # the deeds want a success
                row.killed_at(purchase)
            assert answers
            assert all(map(asks_to_come_again, answers)), [answer.text for answer in answers]
            assert bridge.http.get("/readyz").status_code == 503
            assert shop.everything() == before
        # each connection that was opened meanwhile says so once more, and is replaced
        wait_until(
            lambda: {bridge.http.get("/readyz").status_code for _ in range(bridge.settings.database_pool_size)} == {200}
        )
        row.then(purchase)
        row.at_the_end(purchase)
        nothing_is_stuck(bridge)


def test_disk_full(disk: Path, accounts: Accounts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(disk))
    server = LocalPostgres(int(os.environ.get("PG", "18")))
    try:
        db = new_shop(server, "small")
        with running_bridge(db, **settings_for(accounts, db.url())) as bridge:
            load = Load([bridge], accounts[Stripe])
            load.sell(buyers=4, purchases=12)
            with psycopg.connect(db.url(SUPERUSER), autocommit=True) as connection:
                connection.execute("select pg_switch_wal()")  # the log has room: without, Postgres itself would end
                connection.execute("checkpoint")
            with full(disk):
                answers = {sale.session_id: bridge.deliver("stripe", sale.news[-1]) for sale in load.sales}
                refused = [name for name, answer in answers.items() if answer.status_code == 503]
                assert refused
                for name, answer in answers.items():
                    assert answer.status_code in (200, 503), answer.text
                    expected = ("pending", "none") if name in refused else ("completed", "fulfilled")
                    assert db.state(name)[:2] == expected
                assert db.as_service().rpc("check_payment_invariants") == []
            load.everything_again()
            load.acknowledged = load.sales
            load.is_whole()
    finally:
        server.stop()


@contextlib.contextmanager
def full(disk: Path) -> Iterator[None]:
    """Not a byte is left on it."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        size = 1 << 20
        while size:
            try:
                file.write(bytes(size))
            except OSError:
                size //= 2
    yield
    filler.unlink()
