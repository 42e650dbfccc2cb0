"""Nothing is lost: what nobody told us is asked about, by any number of workers, also when one is killed."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import subprocess
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from bridge.checkout import Checkout
from bridge.jobs import Bucket, Jobs, reconcile
from bridge.providers import enabled_providers
from bridge.providers.http import new_client
from bridge.rpc import Rpc, connect_rpc
from bridge.settings import Settings
from bridge.simulators.stripe import Fault, StripeSimulator
from bridge.worker import Worker
from tests.support.bridge import Bridge, Buyer, wait_until
from tests.support.command import arguments, environment


@contextlib.asynccontextmanager
async def parts(settings: Settings) -> AsyncIterator[tuple[Rpc, Checkout]]:
    rpc = await connect_rpc(settings)
    try:
        async with new_client() as client:
            yield rpc, Checkout(rpc, enabled_providers(settings, client))
    finally:
        await rpc.close()


def reconciled(bridge: Bridge, limit: int = 20) -> Counter[str]:
    async def once() -> Counter[str]:
        async with parts(bridge.settings) as (rpc, checkout):
            return await reconcile(rpc, checkout, {}, limit)

    return asyncio.run(once())


@pytest.fixture
def paid_unheard(bridge: Bridge, buyer: Buyer, stripe: StripeSimulator) -> str:
    """A purchase that was paid and whose every notification was lost; it is time to ask."""
    return lost_purchase(bridge, buyer, stripe)


def lost_purchase(bridge: Bridge, buyer: Buyer, stripe: StripeSimulator, plan: str = "credits_100") -> str:
    session_id: str = buyer.checkout(plan).json()["session_id"]
    stripe.pay(bridge.attempt(session_id)["provider_session_id"])
    due(bridge)
    return session_id


def due(bridge: Bridge) -> None:
    bridge.db.sql("update payments.attempts set reconcile_at = now() where reconcile_at is not null")


class TestReconcile:
    def test_a_payment_of_which_nobody_told_us_is_found(self, bridge: Bridge, buyer: Buyer, paid_unheard: str) -> None:
        assert reconciled(bridge) == {"completed": 1}
        assert bridge.db.balance(buyer.id) == 100
        assert bridge.db.events(paid_unheard)[-1]["source"] == "reconcile"
        due(bridge)
        assert reconciled(bridge) == {}

    def test_nothing_is_asked_before_its_time(self, bridge: Bridge, buyer: Buyer, stripe: StripeSimulator) -> None:
        buyer.checkout()
        stripe.received.clear()
        assert reconciled(bridge) == {}
        assert stripe.received == []

    def test_an_unpaid_page_is_asked_about_later_and_later(self, bridge: Bridge, buyer: Buyer) -> None:
        session_id = buyer.checkout().json()["session_id"]
        waits = []
        for _ in range(4):
            due(bridge)
            assert reconciled(bridge) == {"pending": 1}
            waits.append(
                bridge.db.value(
                    "select round(extract(epoch from reconcile_at - now()) / 60)::int from payments.attempts"
                    " where session_id = %s", session_id,
                )
            )  # fmt: skip
        assert waits == [5, 15, 60, 60]

    def test_a_provider_that_is_away_is_asked_again(
        self, bridge: Bridge, buyer: Buyer, stripe: StripeSimulator, paid_unheard: str
    ) -> None:
        stripe.faults.extend([Fault(status=503)] * 3)
        assert reconciled(bridge) == {"failed": 1}
        assert bridge.db.session(paid_unheard)["status"] == "pending"
        due(bridge)
        assert reconciled(bridge) == {"completed": 1}
        assert bridge.db.balance(buyer.id) == 100

    def test_one_that_cannot_be_asked_does_not_keep_the_others(
        self, bridge: Bridge, buyer: Buyer, stripe: StripeSimulator, paid_unheard: str
    ) -> None:
        gone = bridge.buyer()
        other = lost_purchase(bridge, gone, stripe)
        del stripe.objects[bridge.attempt(other)["provider_session_id"]]
        assert reconciled(bridge) == {"completed": 1, "failed": 1}
        assert bridge.db.session(paid_unheard)["status"] == "completed"

    def test_many_workers_at_once_ask_about_each_session_once(self, bridge: Bridge, stripe: StripeSimulator) -> None:
        buyers = [bridge.buyer() for _ in range(12)]
        for buyer in buyers:
            lost_purchase(bridge, buyer, stripe)
        stripe.received.clear()

        async def crowd() -> Counter[str]:
            async with parts(bridge.settings) as (rpc, checkout):
                found = await asyncio.gather(*(reconcile(rpc, checkout, {}, 5) for _ in range(4)))
            return sum(found, Counter())

        assert asyncio.run(crowd()) == {"completed": 12}
        assert len(stripe.received) == 12
        assert [bridge.db.balance(buyer.id) for buyer in buyers] == [100] * 12

    def test_the_page_of_a_session_that_its_user_cancelled_is_closed(
        self, bridge: Bridge, buyer: Buyer, stripe: StripeSimulator
    ) -> None:
        session_id = buyer.checkout().json()["session_id"]
        page = stripe.objects[bridge.attempt(session_id)["provider_session_id"]]
        bridge.db.as_user(buyer.id).rpc("cancel_checkout_session", p_session_id=session_id)
        assert page["status"] == "open"
        due(bridge)
        assert reconciled(bridge) == {"cancelled": 1}
        assert page["status"] == "expired"
        due(bridge)
        assert reconciled(bridge) == {"cancelled": 1}
        due(bridge)
        assert reconciled(bridge) == {}

    def test_a_provider_that_was_switched_off_is_not_forgotten(self, bridge: Bridge, buyer: Buyer) -> None:
        buyer.checkout()
        due(bridge)
        without = bridge.settings.model_copy(update={"stripe_secret_key": None})

        async def once() -> Counter[str]:
            async with parts(without) as (rpc, checkout):
                return await reconcile(rpc, checkout, {})

        assert asyncio.run(once()) == {"failed": 1}


class TestWorker:
    def test_it_repairs_expires_and_tells_that_it_lives(
        self, bridge: Bridge, buyer: Buyer, stripe: StripeSimulator, paid_unheard: str
    ) -> None:
        lapsed = bridge.db.new_session(plan="credits_500")
        bridge.db.lapse(lapsed)

        def done() -> bool:
            states = [bridge.db.session(session)["status"] for session in (paid_unheard, lapsed)]
            return states == ["completed", "expired"]

        self.work_until(bridge, done)
        assert bridge.db.balance(buyer.id) == 100
        assert bridge.db.as_service().rpc("payment_health")["heartbeats"].keys() == {"tester"}

    @staticmethod
    def work_until(bridge: Bridge, done: Callable[[], bool]) -> None:
        async def work() -> None:
            stop = asyncio.Event()
            async with parts(bridge.settings) as (rpc, checkout):
                task = asyncio.create_task(
                    Worker(rpc, Jobs(rpc, checkout, bridge.settings), name="tester", pace=0.02).run(stop)
                )
                await asyncio.to_thread(wait_until, done)
                stop.set()
                await asyncio.wait_for(task, 15)

        asyncio.run(work())

    def test_trouble_in_one_job_does_not_end_the_others(
        self, bridge: Bridge, paid_unheard: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        bridge.db.sql("drop function public.enqueue_payment_reminders")
        self.work_until(bridge, lambda: bridge.db.session(paid_unheard)["status"] == "completed")
        assert "remind: The database refuses the call" in caplog.text

    @pytest.fixture
    def process(self, bridge: Bridge, stripe: StripeSimulator, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
        settings = {"database_url": bridge.db.url(), **stripe.settings()}
        with subprocess.Popen(
            arguments("work"), env=environment(settings), cwd=tmp_path, text=True, stderr=subprocess.PIPE
        ) as process:
            try:
                yield process
            finally:
                process.kill()

    def test_a_killed_worker_s_session_comes_back(
        self, bridge: Bridge, buyer: Buyer, stripe: StripeSimulator, process: subprocess.Popen[str]
    ) -> None:
        stripe.received.clear()
        stripe.faults.append(Fault(latency=30.0))
        session_id = lost_purchase_slowly(bridge, buyer, stripe)
        wait_until(lambda: any(r.path.endswith(session_id) for r in stripe.received), 30.0)
        process.send_signal(signal.SIGKILL)
        process.wait(10)
        due(bridge)  # its claim has lapsed
        assert reconciled(bridge) == {"completed": 1}
        assert bridge.db.balance(buyer.id) == 100

    def test_it_ends_when_it_is_told_to(self, bridge: Bridge, process: subprocess.Popen[str]) -> None:
        wait_until(lambda: bridge.db.as_service().rpc("payment_health")["heartbeats"], 30.0)
        process.send_signal(signal.SIGTERM)
        assert process.wait(15) == 0
        assert process.stderr
        assert "Traceback" not in process.stderr.read()


def lost_purchase_slowly(bridge: Bridge, buyer: Buyer, stripe: StripeSimulator) -> str:
    """The name of a page that was paid, unheard, and is due."""
    faults, stripe.faults = list(stripe.faults), type(stripe.faults)()
    session_id = buyer.checkout().json()["session_id"]
    page: str = bridge.attempt(session_id)["provider_session_id"]
    stripe.pay(page)
    stripe.faults.extend(faults)
    due(bridge)
    return page


def test_a_bucket_lets_a_burst_pass_and_then_its_rate() -> None:
    async def times() -> list[float]:
        bucket, start = Bucket(rate=50.0, burst=3), time.monotonic()
        passed: list[float] = []
        for _ in range(6):
            await bucket.wait()
            passed.append(time.monotonic() - start)
        return passed

    passed = asyncio.run(times())
    # never sooner than the rate allows; how much later is the machine's business
    assert all(at >= expected - 1e-3 for at, expected in zip(passed, [0, 0, 0, 0.02, 0.04, 0.06], strict=True))
