"""Bridges that are killed, on databases and beside providers that live on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.recovery.accounts import ACCOUNTS, Accounts, stocked
from tests.support.database import Database
from tests.support.processes import Processes


@pytest.fixture(scope="session")
def processes() -> Iterator[Processes]:
    with Processes() as processes:
        yield processes


@pytest.fixture(scope="session")
def accounts() -> Iterator[Accounts]:
    """Every provider; they see all bridges as one merchant."""
    with ExitStack() as stack:
        yield {kind: stack.enter_context(kind()) for kind in ACCOUNTS}


@pytest.fixture
def shop(db: Database) -> Database:
    """A database in which something is sold in every provider's currency."""
    return stocked(db)
