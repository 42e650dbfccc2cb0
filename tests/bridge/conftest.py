"""A running bridge with both providers of these tests: the sandbox inside it, and a simulated Stripe account."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from bridge import alerts
from bridge.local.postgres import LocalPostgres
from bridge.migrations import migrate, seed_file
from bridge.rpc import postgres
from bridge.simulators.stripe import StripeSimulator
from tests.support.bridge import Bridge, Buyer, Desk, SandboxDesk, StripeDesk, running_bridge
from tests.support.database import Database, apply_files


@pytest.fixture(scope="session")
def _running() -> Iterator[tuple[ExitStack, list[Bridge]]]:
    with ExitStack() as stack:
        yield stack, []


@pytest.fixture
def bridge(db: Database, stripe: StripeSimulator, _running: tuple[ExitStack, list[Bridge]]) -> Bridge:
    """One bridge for all tests: each test's database has the same address, and cut connections are replaced."""
    stack, running = _running
    if not running:
        running.append(stack.enter_context(running_bridge(db, stripe)))
    assert running[0].db == db
    return running[0]


@pytest.fixture(autouse=True)
def _nothing_noted() -> None:
    """What earlier tests forged in this process is no trouble of the bridge of this one."""
    alerts._noted.clear()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bridges that start now give up early on a database that is away."""
    monkeypatch.setattr(postgres, "_PATIENCE_SECONDS", 0.5)


@pytest.fixture
def buyer(bridge: Bridge) -> Buyer:
    return bridge.buyer()


@pytest.fixture
def stripe_desk(stripe: StripeSimulator) -> StripeDesk:
    return StripeDesk(stripe)


@pytest.fixture
def sandbox_desk(bridge: Bridge) -> SandboxDesk:
    return SandboxDesk(bridge)


@pytest.fixture(params=["stripe", "sandbox"])
def desk(request: pytest.FixtureRequest, stripe_desk: StripeDesk, sandbox_desk: SandboxDesk) -> Desk:
    """Each provider in turn."""
    desks: dict[str, Desk] = {"stripe": stripe_desk, "sandbox": sandbox_desk}
    return desks[request.param]


@pytest.fixture(scope="session")
def _own_server() -> Iterator[LocalPostgres]:
    server = LocalPostgres(int(os.environ.get("PG", "18")), durable=True)  # stopping it at once must lose nothing
    yield server
    server.stop()


@pytest.fixture
def own_server(_own_server: LocalPostgres) -> LocalPostgres:
    """A server that a test may stop and start, apart from the one that all tests share."""
    return _own_server


@pytest.fixture
def empty_database(own_server: LocalPostgres) -> Database:
    """A project without our migrations, on the server that may be stopped."""
    name = f"project_{uuid.uuid4().hex[:12]}"
    own_server.create_look_alike(name)
    return Database("127.0.0.1", own_server.port, name)


@pytest.fixture
def own_db(empty_database: Database) -> Database:
    """A migrated, seeded database on the server that may be stopped."""
    migrate(empty_database.url())
    apply_files(empty_database.url(), [seed_file()])
    return empty_database
