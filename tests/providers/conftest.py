"""The Stripe adapter, wired to a simulated account."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import settings

from bridge.simulators.stripe import StripeSimulator
from tests.providers.stripe_bench import Bench

settings.register_profile("busy_machine", deadline=None)
settings.load_profile("busy_machine")


@pytest.fixture(scope="module")
def bench(stripe_server: StripeSimulator) -> Iterator[Bench]:
    with Bench(stripe_server, stripe_server.url) as bench:
        yield bench
