"""A simulated Stripe account, and the adapter wired to it. Retries do not wait, unless a test turns that back on."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import stamina
from hypothesis import settings

from tests.support.stripe_bench import Bench
from tests.support.stripe_simulator import StripeSimulator

settings.register_profile("busy_machine", deadline=None)
settings.load_profile("busy_machine")


@pytest.fixture(autouse=True)
def _retries_do_not_wait() -> Iterator[None]:
    with stamina.set_testing(True, attempts=3):
        yield


@pytest.fixture(scope="module")
def stripe_server() -> Iterator[StripeSimulator]:
    with StripeSimulator() as server:
        yield server


@pytest.fixture
def stripe(stripe_server: StripeSimulator) -> StripeSimulator:
    """Stripe, with no fault left over from another test."""
    stripe_server.faults.clear()
    stripe_server.received.clear()
    return stripe_server


@pytest.fixture(scope="module")
def bench(stripe_server: StripeSimulator) -> Iterator[Bench]:
    with Bench(stripe_server, stripe_server.url) as bench:
        yield bench
