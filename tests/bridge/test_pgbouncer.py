"""PgBouncer in transaction mode between bridge and database: what the bridge promises does not rest on its session."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack

import psycopg
import pytest

from bridge.local.postgres import SUPERUSER, LocalPostgres
from bridge.simulators.stripe import StripeSimulator

# these run once more here, with the bridge of this file
from tests.bridge.test_checkout_routes import TestCheckout  # noqa: F401
from tests.bridge.test_webhook_routes import TestGenuineOnes, attempt, stripe_attempt  # noqa: F401
from tests.support import parts
from tests.support.bridge import Bridge, StripeDesk, running_bridge
from tests.support.database import Database, Row
from tests.support.drill import sql_under
from tests.support.pgbouncer import PgBouncer
from tests.support.races import all_at_once, start_and_see_it_wait

pytestmark = pytest.mark.needs("pgbouncer")

LOGIN = "pgcheckout_bridge"
POOL_SIZE = 3  # connections to the server, for 8 of the bridge


@pytest.fixture(scope="module")
def _login(server: LocalPostgres, postgresql_server: object) -> Iterator[None]:  # whose template knows the roles
    with psycopg.connect(server.url(), autocommit=True) as owner:
        owner.execute(f"drop role if exists {LOGIN}".encode())
        owner.execute(sql_under("## Who needs which rights").encode())
        yield
        owner.execute(f"drop role {LOGIN}".encode())


@pytest.fixture(scope="module")
def pooler(server: LocalPostgres, _login: None) -> Iterator[PgBouncer]:
    with PgBouncer(parts.path_of("pgbouncer", server), server, LOGIN, pool_size=POOL_SIZE) as running:
        yield running


@pytest.fixture(scope="module")
def _running() -> Iterator[tuple[ExitStack, list[Bridge]]]:
    with ExitStack() as stack:
        yield stack, []


@pytest.fixture
def bridge(
    db: Database, stripe: StripeSimulator, pooler: PgBouncer, _running: tuple[ExitStack, list[Bridge]]
) -> Bridge:
    """One bridge for all tests: each test's database has the same address."""
    stack, running = _running
    if not running:
        running.append(stack.enter_context(running_bridge(db, stripe, **through(pooler, db))))
    assert running[0].db == db
    return running[0]


def through(pooler: PgBouncer, db: Database) -> Row:
    """Settings of a bridge that goes through the pooler."""
    prepared = pooler.keeps_prepared_statements
    return {"database_url": pooler.url(db.name, LOGIN), "database_role": "", "database_prepared": prepared}


class TestTheLogin:
    def test_the_role_brings_what_the_bridge_sets_elsewhere(self, bridge: Bridge, pooler: PgBouncer) -> None:
        with psycopg.connect(bridge.db.url(SUPERUSER), autocommit=True) as admin:
            admin.execute(f"alter database {bridge.db.name} set default_transaction_isolation = 'repeatable read'")
        with psycopg.connect(pooler.url(bridge.db.name, LOGIN), autocommit=True) as connection:
            for setting, value in (
                ("statement_timeout", "8s"),
                ("lock_timeout", "5s"),
                ("transaction_isolation", "read committed"),
            ):
                assert connection.execute(f"show {setting}").fetchone() == (value,)


class TestStorms:
    def test_deliveries_that_are_many_more_than_connections_fulfil_each_purchase_once(
        self, bridge: Bridge, stripe_desk: StripeDesk
    ) -> None:
        buyers = [bridge.buyer() for _ in range(6)]
        deliveries = []
        for buyer in buyers:
            page = bridge.attempt(buyer.checkout(provider="stripe").json()["session_id"])
            deliveries.append(stripe_desk.deliver(stripe_desk.paid(page)))
        answers = all_at_once([lambda d=one: bridge.deliver("stripe", d).json() for one in deliveries * 8])  # type: ignore[misc]
        assert Counter(answer["result"] for answer in answers) == {"applied": 6, "duplicate": 42}
        assert [bridge.db.entries(buyer.id) for buyer in buyers] == [[100]] * 6
        assert 0 < bridge.db.value("select count(*) from pg_stat_activity where usename = %s", LOGIN) <= POOL_SIZE

    @pytest.mark.usefixtures("impatient")
    def test_money_in_hand_when_the_pooler_is_cut_is_taken_once(
        self, db: Database, stripe: StripeSimulator, pooler: PgBouncer, stripe_desk: StripeDesk
    ) -> None:
        with running_bridge(db, stripe, **through(pooler, db)) as bridge:
            buyer = bridge.buyer()
            page = bridge.attempt(buyer.checkout(provider="stripe").json()["session_id"])
            delivery = stripe_desk.deliver(stripe_desk.paid(page))
            with psycopg.connect(db.url()) as other:
                other.execute("lock public.payment_checkout_sessions in exclusive mode")
                waiting = start_and_see_it_wait(db, lambda: bridge.deliver("stripe", delivery))
                pooler.cut()
                # nobody knows what becomes of the call, so it is not the bridge that repeats it
                assert waiting.result(30).status_code == 503
                assert bridge.deliver("stripe", delivery).status_code == 503
            pooler.start()
            results = [bridge.deliver("stripe", delivery).json()["result"] for _ in range(2)]
            assert (results[0] in {"applied", "duplicate"}, results[1]) == (True, "duplicate")
            assert bridge.db.entries(buyer.id) == [100]
