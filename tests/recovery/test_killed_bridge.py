"""kill -9 of the bridge at every step of everything that touches money, between a request and its answer.

Each row of the table is played once to learn its steps, and then once for each of them with a bridge that kills itself
there. Somebody then does what he would do in life, at a bridge that knows nothing of what the other did, and the
purchase must be whole: money taken once, fulfilled once, given back once.
"""

from __future__ import annotations

import contextlib
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from bridge.simulators.click import ClickSimulator as Click
from bridge.simulators.hypay import HyPaySimulator as HyPay
from bridge.simulators.paypal import PayPalSimulator as PayPal
from bridge.simulators.paystack import PaystackSimulator as Paystack
from bridge.simulators.sandbox import SandboxSimulator as Sandbox
from bridge.simulators.stripe import StripeSimulator as Stripe
from tests.recovery.accounts import Accounts, settings_for
from tests.recovery.load import Load, Sale
from tests.recovery.purchases import (
    Row,
    begin,
    browser,
    buyer_pays,
    buyer_starts_to_pay,
    cancel,
    click,
    click_and_payment,
    never_paid,
    never_refunded_twice,
    nothing,
    nothing_is_stuck,
    paid,
    question,
    question_and_payment,
    refund,
    refunded_once,
    verify,
    webhook,
    worker,
)  # fmt: skip
from tests.support.bridge import Bridge, wait_until
from tests.support.database import Database
from tests.support.processes import Processes, free_port

ROWS = (
    # provider, before, the bridge is killed at, then, at the end
    Row(Stripe, buyer_pays, webhook, webhook),
    Row(Stripe, buyer_pays, webhook, worker),
    Row(Paystack, buyer_pays, webhook, webhook),
    Row(Click, buyer_starts_to_pay, question, question_and_payment),
    Row(Click, buyer_pays, webhook, webhook),
    Row(PayPal, buyer_pays, webhook, webhook),
    Row(PayPal, buyer_pays, webhook, worker),
    Row(Sandbox, buyer_pays, webhook, webhook),
    Row(HyPay, buyer_pays, browser, browser),
    Row(PayPal, buyer_pays, browser, browser),
    Row(Stripe, buyer_pays, verify, webhook),
    Row(Paystack, buyer_pays, verify, worker),
    Row(PayPal, buyer_pays, verify, verify),
    Row(Stripe, nothing, click, click_and_payment),
    Row(Paystack, nothing, click, click_and_payment),
    Row(HyPay, nothing, click, click_and_payment),
    Row(PayPal, nothing, click, click_and_payment),
    Row(Stripe, nothing, cancel, cancel, never_paid),
    Row(PayPal, buyer_pays, cancel, cancel, never_paid),
    Row(Stripe, buyer_pays, cancel, cancel),
    Row(Stripe, paid, refund, refund, refunded_once),
    Row(Paystack, paid, refund, refund, refunded_once),
    Row(PayPal, paid, refund, refund, refunded_once),
    Row(Sandbox, paid, refund, refund, refunded_once),
    Row(Click, paid, refund, refund, never_refunded_twice),
    Row(HyPay, paid, refund, refund, never_refunded_twice),
)


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_killed_at_every_step(row: Row, shop: Database, processes: Processes, accounts: Accounts) -> None:
    settings = settings_for(accounts, shop.url())
    steady_port, port = free_port(), free_port()
    account = accounts[row.account]

    def play(steady: Bridge, crash_at: str | None) -> list[str]:
        purchase = begin(row, steady, account)
        row.before(purchase)
        with processes.bridge(shop, port, crash_at=crash_at, **settings) as (bridge, process):
            purchase.move_to(bridge)
            with contextlib.suppress(httpx.TransportError):
                row.killed_at(purchase)
            wait_until(lambda: not process.alive if crash_at else process.steps[-1].startswith("answered"))
            steps = process.steps
        purchase.move_to(steady)
        row.then(purchase)
        row.at_the_end(purchase)
        return steps

    with processes.bridge(shop, steady_port, **settings) as (steady, _):
        steps = play(steady, None)
        wrong = []
        for step in steps:
            try:
                play(steady, step)
            except Exception as error:  # noqa: BLE001 # told together, with its step
                error.add_note(f"killed at {step}, of {steps}")
                wrong.append(error)
        if wrong:
            raise ExceptionGroup("not whole", wrong)
        nothing_is_stuck(steady)


@pytest.mark.parametrize("step", ["apply_payment_outcomes", "apply_payment_outcomes:2", "answer:12", "answered:12"])
def test_killed_in_a_crowd(step: str, shop: Database, processes: Processes, accounts: Accounts) -> None:
    """Where outcomes share a transaction, all of them are applied or none, and all come again."""
    settings = settings_for(accounts, shop.url())
    with processes.bridge(shop, free_port(), **settings) as (steady, _):
        load = Load([steady], accounts[Stripe])
        load.sell(buyers=4, purchases=8)
        with processes.bridge(shop, free_port(), crash_at=step, **settings) as (bridge, process):

            def tell(sale: Sale) -> None:
                with contextlib.suppress(httpx.TransportError):
                    bridge.deliver("stripe", sale.news[-1])

            with ThreadPoolExecutor(16) as pool:
                list(pool.map(tell, load.sales))
            wait_until(lambda: not process.alive)
            assert "apply_payment_outcomes" in process.steps
        load.everything_again()
        load.acknowledged = load.sales
        load.is_whole()
