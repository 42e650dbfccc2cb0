"""The connection to the database breaks at every call of everything that touches money, in three ways.

The bridge cannot know whether its call was heard. It says so (5xx), or it was able to find out, and what is done again
has its effect once.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import threading
from collections.abc import Iterator
from typing import get_args

import httpx
import pytest

from bridge.errors import DatabaseUnavailable
from bridge.local.postgres import LocalPostgres
from bridge.rpc import Rpc, SupabaseTransport
from bridge.settings import load_settings
from bridge.simulators.click import ClickSimulator as Click
from bridge.simulators.hypay import HyPaySimulator as HyPay
from bridge.simulators.paypal import PayPalSimulator as PayPal
from bridge.simulators.stripe import StripeSimulator as Stripe
from bridge.values import Event, Outcome
from tests.recovery.accounts import Accounts, settings_for
from tests.recovery.load import Load
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
    nothing,
    nothing_is_stuck,
    paid,
    question,
    question_and_payment,
    refund,
    refunded_once,
    verify,
    webhook,
)
from tests.support import parts
from tests.support.bridge import Bridge, running_bridge
from tests.support.cutting_proxy import Break, CuttingProxy
from tests.support.database import Database
from tests.support.postgrest import SECRET, AsyncGateway, Keys, postgrest

ROWS = (
    # provider, before, the line breaks during, then, at the end
    Row(Stripe, buyer_pays, webhook, webhook),
    Row(PayPal, buyer_pays, webhook, webhook),
    Row(Click, buyer_starts_to_pay, question, question_and_payment),
    Row(Click, buyer_pays, webhook, webhook),
    Row(HyPay, buyer_pays, browser, browser),
    Row(Stripe, buyer_pays, verify, verify),
    Row(Stripe, nothing, click, click_and_payment),
    Row(Stripe, nothing, cancel, cancel, never_paid),
    Row(Stripe, paid, refund, refund, refunded_once),
)
BREAKS: tuple[Break, ...] = get_args(Break)


@pytest.fixture
def proxy(shop: Database) -> Iterator[CuttingProxy]:
    with CuttingProxy(shop.port) as proxy:
        yield proxy


@pytest.fixture
def bridge(shop: Database, accounts: Accounts, proxy: CuttingProxy) -> Iterator[Bridge]:
    """A bridge behind the proxy, which reads its calls."""
    url = shop.url().replace(f":{shop.port}/", f":{proxy.port}/")
    with running_bridge(shop, **settings_for(accounts, url), database_prepared=False) as bridge:
        yield bridge


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_cut_at_every_call(row: Row, bridge: Bridge, proxy: CuttingProxy, accounts: Accounts) -> None:
    answers: list[httpx.Response] = []
    bridge.http.event_hooks = {"response": [answers.append]}

    def play(number: int | None = None, how: Break = "the answer") -> list[str]:
        purchase = begin(row, bridge, accounts[row.account])
        row.before(purchase)
        proxy.arm(number, how)
        answers.clear()
        with contextlib.suppress(AssertionError):  # the deeds want a success
            row.killed_at(purchase)
        told = [answer.status_code for answer in answers]
        assert all(status in (200, 303, 502, 503) for status in told), told
        calls = proxy.calls
        proxy.arm()
        row.then(purchase)
        row.at_the_end(purchase)
        return calls

    calls = play()
    wrong = []
    for number, call in enumerate(calls):
        for how in BREAKS:
            try:
                play(number, how)
            except Exception as error:  # noqa: BLE001 # told together, with its call
                error.add_note(f"cut at {number} of {calls}, {call}: {how}")
                wrong.append(error)
    if wrong:
        raise ExceptionGroup("not whole", wrong)
    nothing_is_stuck(bridge)


@pytest.mark.parametrize("how", BREAKS)
@pytest.mark.needs("postgrest")
def test_cut_on_the_way_to_postgrest(shop: Database, server: LocalPostgres, how: Break) -> None:
    keys = Keys()
    attempt = shop.open_attempt(shop.new_session(plan="conformance", p_currency="USD"))
    outcome = Outcome(
        provider=attempt["provider"], status="completed", source="webhook", reference=attempt["reference"],
        provider_payment_id="pi_1", amount=attempt["amount"], currency=attempt["currency"],
    )  # fmt: skip
    event = Event(id="evt_1", type="paid", payload={})

    async def tell(port: int) -> bool:
        async with httpx.AsyncClient(transport=AsyncGateway(keys)) as http:
            settings = load_settings(
                _env_file=None, supabase_url=f"http://127.0.0.1:{port}", supabase_service_key=SECRET
            )
            applied = await Rpc(await SupabaseTransport.connect(settings, http=http)).apply_payment_outcome(
                outcome, event
            )
            return applied.duplicate

    with (
        postgrest(parts.path_of("postgrest", server), shop.url("authenticator"), keys) as url,
        CuttingProxy(int(url.rsplit(":", 1)[1])) as proxy,
    ):
        proxy.arm(0, how)
        with pytest.raises(DatabaseUnavailable):
            asyncio.run(tell(proxy.port))
        repeated = asyncio.run(tell(proxy.port))
    assert repeated == (how == "the answer") or how == "the query"
    assert shop.state(attempt["session_id"]) == ("completed", "fulfilled", None)
    assert shop.as_service().rpc("check_payment_invariants") == []


def test_backends_terminated_at_random_moments(shop: Database, accounts: Accounts) -> None:
    """A failover, an impatient administrator, an idle time-out: pg_terminate_backend, again and again."""
    rng, done = random.Random(5), threading.Event()  # noqa: S311 # to be repeated

    def terminate() -> None:
        while not done.wait(rng.uniform(0.01, 0.15)):
            shop.sql(
                "select pg_terminate_backend(pid) from pg_stat_activity"
                " where application_name = 'pgcheckout' and datname = current_database()"
            )

    with running_bridge(shop, **settings_for(accounts, shop.url())) as bridge:
        load = Load([bridge], accounts[Stripe])
        terror = threading.Thread(target=terminate)
        terror.start()
        load.run(buyers=4, purchases=8)
        done.set()
        terror.join()
        load.everything_again()
        load.is_whole()
