"""kill -9 of a worker at every step: what it had claimed comes back, and nothing is done or told twice."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from email.message import EmailMessage

import pytest

from bridge.simulators.stripe import StripeSimulator
from tests.recovery.accounts import Accounts, settings_for
from tests.recovery.purchases import Purchase, fulfilled_once
from tests.support.bridge import Bridge, wait_until
from tests.support.database import Database
from tests.support.mail_server import MailServer
from tests.support.processes import Processes, free_port


@pytest.fixture
def mail() -> Iterator[MailServer]:
    with MailServer() as server:
        yield server


def unheard_purchase(bridge: Bridge, accounts: Accounts) -> Purchase:
    """A purchase that was paid and of which nobody told us; it is time to ask."""
    buyer = bridge.buyer(email=f"{uuid.uuid4().hex}@example.test")
    opened = buyer.checkout("conformance", provider="stripe", currency="USD").json()
    purchase = Purchase(
        bridge, accounts[StripeSimulator], buyer, uuid.UUID(opened["session_id"]), opened["checkout_url"]
    )
    purchase.pay()
    due(bridge)
    return purchase


def due(bridge: Bridge) -> None:
    """The claims of the killed have lapsed, also one that the database was still writing down."""
    busy = "select count(*) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()"
    wait_until(lambda: bridge.db.value(f"{busy} and state = 'active'") == 0)
    bridge.db.sql("update payments.attempts set reconcile_at = now() where reconcile_at is not null")
    bridge.db.sql("update payments.notifications set due_at = now() where status = 'queued'")


def told(purchase: Purchase) -> bool:
    """Whether its receipt is known to be sent."""
    return bool(
        purchase.bridge.db.value(
            "select count(*) from payments.notifications"
            " where session_id = %s and kind = 'receipt' and status = 'sent'",
            purchase.session_id,
        )
    )


def letters_about(purchase: Purchase, mail: MailServer) -> list[EmailMessage]:
    (row,) = purchase.bridge.db.sql(
        "select email from public.payment_checkout_sessions where id = %s", purchase.session_id
    )
    return [letter for letter in mail.letters if letter["To"] == row["email"]]


def test_killed_at_every_step(shop: Database, processes: Processes, accounts: Accounts, mail: MailServer) -> None:
    settings = settings_for(accounts, shop.url()) | {
        "smtp_url": f"smtp://127.0.0.1:{mail.port}", "mail_from": "shop@example.test"
    }  # fmt: skip

    def play(bridge: Bridge, crash_at: str | None) -> list[str]:
        purchase = unheard_purchase(bridge, accounts)
        process = processes.start("work", "first", crash_at=crash_at, **settings)
        wait_until(lambda: not process.alive if crash_at else told(purchase), 30.0)
        process.kill()
        if crash_at:
            due(bridge)
            second = processes.start("work", "second", **settings)
            wait_until(lambda: told(purchase), 30.0)
            second.kill()
        fulfilled_once(purchase)
        # a letter whose sender died before it could say so is sent again, and known for the same
        found = letters_about(purchase, mail)
        assert len(found) == (2 if crash_at == "finish_notification" else 1)
        assert len({letter["Message-ID"] for letter in found}) == 1
        return process.steps

    with processes.bridge(shop, free_port(), **settings) as (bridge, _):
        # the loop comes by again and again: the first time of each step stands for all
        steps = [step for step in play(bridge, None) if ":" not in step]
        assert {"claim_sessions_to_reconcile", "apply_payment_outcome", "finish_reconcile", "finish_notification"} <= {
            *steps
        }
        for step in steps:
            try:
                play(bridge, step)
            except AssertionError as error:
                error.add_note(f"killed at {step}, of {steps}")
                raise
