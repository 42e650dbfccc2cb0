"""Nothing is lost: what nobody told us is asked about, by any number of workers, also when one is killed."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import subprocess
import threading
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
import pytest

from bridge import worker
from bridge.checkout import Checkout
from bridge.errors import NotSupported
from bridge.jobs import Bucket, Jobs, reconcile
from bridge.local.postgres import SUPERUSER, LocalPostgres
from bridge.providers import enabled_providers
from bridge.providers.http import new_client
from bridge.rpc import Rpc, SupabaseTransport, connect_rpc
from bridge.settings import Settings, load_settings
from bridge.simulators.stripe import Fault, StripeSimulator
from bridge.worker import Worker
from tests.support.bridge import Bridge, Buyer, wait_until
from tests.support.command import arguments, environment
from tests.support.database import Database, call
from tests.support.mail_server import MailServer

# a program that runs the command, but is sooner tired of waiting for what is in hand
IMPATIENT = "from bridge import worker; worker.GRACE_SECONDS = 2.0; "


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
    def test_it_repairs_expires_forgets_and_tells_that_it_lives(
        self, bridge: Bridge, buyer: Buyer, stripe: StripeSimulator, paid_unheard: str
    ) -> None:
        lapsed = bridge.db.new_session(plan="credits_500")
        bridge.db.lapse(lapsed)
        bridge.db.sql(
            "insert into payments.idempotency_keys (key, request_hash, status, leased_until, created_at, updated_at)"
            " select 'old', 'h', 'completed', at, at, at from (select now() - interval '2 days' as at) as ago"
        )

        def done() -> bool:
            if bridge.db.sql("select from payments.idempotency_keys where key = 'old'"):
                return False
            states = [bridge.db.session(session)["status"] for session in (paid_unheard, lapsed)]
            return states == ["completed", "expired"] and heartbeats(bridge.db) == {"tester"}

        self.work_until(bridge, done)
        assert bridge.db.balance(buyer.id) == 100
        assert heartbeats(bridge.db) == set()  # one that stays tells of a crash

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

    def test_a_database_that_cannot_forget_does_not_keep_it_from_ending(self, bridge: Bridge) -> None:
        bridge.db.sql("drop function public.forget_heartbeat")
        self.work_until(bridge, lambda: heartbeats(bridge.db) == {"tester"})


class TestProcess:
    """`pgcheckout work` as a supervisor runs it."""

    @pytest.fixture
    def process(
        self, bridge: Bridge, stripe: StripeSimulator, mail: MailServer, tmp_path: Path
    ) -> Iterator[subprocess.Popen[str]]:
        settings = {"database_url": bridge.db.url(), **stripe.settings(), **letters_by(mail)}
        program = IMPATIENT + arguments("work")[2]
        with subprocess.Popen(
            [*arguments()[:2], program, "work"], env=environment(settings), cwd=tmp_path, text=True,
            stderr=subprocess.PIPE,
        ) as process:  # fmt: skip
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
        assert len(heartbeats(bridge.db)) == 1  # which will grow old
        assert reconciled(bridge) == {}
        due(bridge)  # its claim has lapsed
        assert reconciled(bridge) == {"completed": 1}
        assert bridge.db.balance(buyer.id) == 100

    def test_a_killed_worker_s_letter_comes_back(
        self, bridge: Bridge, mail: MailServer, process: subprocess.Popen[str]
    ) -> None:
        mail.troubles.append(30.0)
        buy(bridge.db)
        wait_until(lambda: not mail.troubles, 30.0)
        process.send_signal(signal.SIGKILL)
        process.wait(10)
        assert bridge.db.value("select status || ' ' || tries from payments.notifications") == "queued 1"
        bridge.db.sql("update payments.notifications set due_at = now()")  # its claim has lapsed
        with working(worker_settings(bridge.db, mail)):
            wait_until(lambda: mail.letters)
        assert len(mail.letters) == 1

    def test_told_to_end_it_waits_for_a_slow_answer(
        self, bridge: Bridge, buyer: Buyer, stripe: StripeSimulator, process: subprocess.Popen[str]
    ) -> None:
        stripe.received.clear()
        stripe.faults.append(Fault(latency=0.5))
        page = lost_purchase_slowly(bridge, buyer, stripe)
        wait_until(lambda: any(r.path.endswith(page) for r in stripe.received), 30.0)
        process.send_signal(signal.SIGTERM)
        assert process.wait(15) == 0
        assert bridge.db.balance(buyer.id) == 100
        assert heartbeats(bridge.db) == set()

    def test_but_not_for_ever(
        self, bridge: Bridge, buyer: Buyer, stripe: StripeSimulator, process: subprocess.Popen[str]
    ) -> None:
        stripe.received.clear()
        stripe.faults.append(Fault(latency=60.0))
        page = lost_purchase_slowly(bridge, buyer, stripe)
        wait_until(lambda: any(r.path.endswith(page) for r in stripe.received), 30.0)
        process.send_signal(signal.SIGTERM)
        assert process.wait(15) == 0
        assert process.stderr
        assert "Traceback" not in process.stderr.read()
        assert heartbeats(bridge.db) == set()
        due(bridge)  # its claim has lapsed
        assert reconciled(bridge) == {"completed": 1}
        assert bridge.db.balance(buyer.id) == 100


class TestWaking:
    """The timers of these workers are hours away: what happens at once, happens because they were woken."""

    def test_a_letter_is_sent_as_soon_as_it_is_queued(self, db: Database, mail: MailServer) -> None:
        with working(worker_settings(db, mail)):
            for count in (1, 2, 3):  # the first may be found by the round that begins with listening
                buy(db)
                wait_until(partial(sent, db, mail, count))

    def test_one_that_was_cut_off_listens_again(
        self, db: Database, mail: MailServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setattr(worker, "LISTEN_AGAIN_SECONDS", (0.05, 60.0))
        with working(worker_settings(db, mail)):
            for count in (1, 2):
                (before,) = listeners(db)
                db.sql("select pg_terminate_backend(%s)", before)
                wait_until(partial(somebody_but, before, db))
                buy(db)
                wait_until(partial(sent, db, mail, count))
        assert caplog.text.count("nobody wakes this worker") == 1

    def test_what_was_queued_while_nobody_listened_is_sent_once_it_listens_again(
        self, db: Database, mail: MailServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(worker, "LISTEN_AGAIN_SECONDS", (0.2, 60.0))
        with working(worker_settings(db, mail)):
            (before,) = listeners(db)
            db.sql("select pg_terminate_backend(%s)", before)
            wait_until(lambda: not listeners(db))
            buy(db)
            wait_until(lambda: mail.letters)

    def test_where_nobody_can_listen_the_timer_does_it(self, db: Database, mail: MailServer) -> None:
        pooled = worker_settings(db, mail, database_role="")
        with working(pooled, pace=0.01, listening=False):
            buy(db)
            wait_until(lambda: mail.letters)
            assert listeners(db) == set()

    def test_over_http_nobody_listens(self) -> None:
        async def listen() -> None:
            transport = await SupabaseTransport.connect(
                load_settings(_env_file=None, supabase_url="http://127.0.0.1:1", supabase_service_key="key")
            )
            with pytest.raises(NotSupported):
                transport.listen()
            await transport.close()

        asyncio.run(listen())

    def test_two_woken_workers_send_a_letter_once(self, db: Database, mail: MailServer) -> None:
        settings = worker_settings(db, mail)
        with working(settings), working(settings, listening=2):
            for count in (1, 2, 3):
                buy(db)
                wait_until(partial(sent, db, mail, count))
        assert len(mail.letters) == 3
        assert db.sql("select from payments.notifications where tries <> 1") == []

    def test_reminders_wake_it_too(self, db: Database, mail: MailServer) -> None:
        db.sql("update payments.settings set reminder_after = '1 ms'")
        db.new_session(p_email="ada@buyer.test", p_metadata={"reminders": True})
        with psycopg.connect(db.url(), autocommit=True) as connection:
            connection.execute("listen pgcheckout_work")
            assert db.as_service().rpc("enqueue_payment_reminders") == 1
            assert [notice.payload for notice in connection.notifies(timeout=15, stop_after=1)] == ["notify"]

    def test_purchases_do_not_wait_for_one_that_wakes_and_has_not_committed(self, db: Database) -> None:
        first, second = (db.new_session(p_email=f"{name}@buyer.test") for name in ("ada", "bob"))
        with db.as_service().request() as slow:
            call(slow, "complete_checkout_session", p_session_id=first, p_provider_payment_id="pi_1")
            with db.as_service().request() as other:
                other.execute("set local lock_timeout = '1ms'")
                call(other, "complete_checkout_session", p_session_id=second, p_provider_payment_id="pi_2")
        assert [db.session(session)["status"] for session in (first, second)] == ["completed"] * 2

    def test_purchases_do_not_wait_for_the_commit_of_one_that_wakes(
        self, own_db: Database, own_server: LocalPostgres
    ) -> None:
        """NOTIFY's lock is held while a commit waits: here for a replica that never answers."""
        first, second = (own_db.new_session(p_email=f"{name}@buyer.test") for name in ("ada", "bob"))

        def complete(session: uuid.UUID, durability: str) -> None:
            with own_db.as_service().request() as connection:
                connection.execute(f"set local synchronous_commit = {durability}")
                connection.execute("set local lock_timeout = '1ms'")
                call(connection, "complete_checkout_session", p_session_id=session, p_provider_payment_id=str(session))

        with psycopg.connect(own_db.url(SUPERUSER), autocommit=True) as dba, ThreadPoolExecutor() as pool:
            try:
                dba.execute("alter system set synchronous_standby_names = 'nobody'")
                dba.execute("select pg_reload_conf()")
                wait_until(lambda: dba.execute("show synchronous_standby_names").fetchone() == ("nobody",))
                slow = pool.submit(complete, first, "on")
                waits = "select from pg_stat_activity where wait_event = 'SyncRep'"
                wait_until(lambda: dba.execute(waits).fetchall())
                complete(second, "local")
                assert not slow.done()
            finally:
                dba.execute("alter system reset synchronous_standby_names")
                dba.execute("select pg_reload_conf()")
            slow.result(15)
        assert [own_db.session(session)["status"] for session in (first, second)] == ["completed"] * 2


@pytest.fixture
def mail() -> Iterator[MailServer]:
    with MailServer() as server:
        yield server


def letters_by(mail: MailServer) -> dict[str, Any]:
    return {"smtp_url": f"smtp://127.0.0.1:{mail.port}", "mail_from": "pay@shop.test"}


def worker_settings(db: Database, mail: MailServer, **changes: Any) -> Settings:
    return load_settings(_env_file=None, **{"database_url": db.url(), **letters_by(mail), **changes})


@contextlib.contextmanager
def working(settings: Settings, *, pace: float = 1000.0, listening: int = 1) -> Iterator[None]:
    """A worker in a thread of its own; by then so many are listening."""
    stop = asyncio.Event()
    loop = asyncio.new_event_loop()

    async def work() -> None:
        async with parts(settings) as (rpc, checkout):
            await Worker(rpc, Jobs(rpc, checkout, settings), name="tester", pace=pace).run(stop)

    thread = threading.Thread(target=loop.run_until_complete, args=[work()])
    thread.start()
    try:
        if settings.database_url and listening:
            url = settings.database_url.get_secret_value()
            wait_until(lambda: len(listeners_at(url)) == listening)
        yield
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(15)
        assert not thread.is_alive()
        loop.close()


def listeners(db: Database) -> set[int]:
    return listeners_at(db.url())


def listeners_at(url: str) -> set[int]:
    """Backends that have begun to listen."""
    with psycopg.connect(url) as connection:
        rows = connection.execute(
            "select pid from pg_stat_activity where datname = current_database()"
            " and application_name = 'pgcheckout listen' and query ~ '^listen' and state = 'idle'"
        ).fetchall()
    return {pid for (pid,) in rows}


def somebody_but(pid: int, db: Database) -> bool:
    """Whether another one listens."""
    return bool(listeners(db) - {pid})


def sent(db: Database, mail: MailServer, count: int) -> bool:
    """Whether so many letters were sent, and the database knows."""
    waiting = db.value("select count(*) from payments.notifications where status = 'queued'")
    return len(mail.letters) == count and not waiting


def heartbeats(db: Database) -> set[str]:
    return set(db.as_service().rpc("payment_health")["heartbeats"])


def buy(db: Database) -> None:
    """A purchase, and its receipt is in the outbox."""
    session_id = db.new_session(p_email="ada@buyer.test")
    db.complete(session_id, p_provider_payment_id=f"pi_{session_id}")


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
