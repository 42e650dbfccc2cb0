"""An operator at the command line, in a shop with a past."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.past import Past, make_past
from tests.support.command import Done, run
from tests.support.database import Database


@pytest.fixture
def past(db: Database) -> Past:
    return make_past(db)


@pytest.fixture
def ask(db: Database, tmp_path: Path) -> Callable[..., Done]:
    """Run a command on the database."""
    return lambda *words: run(tmp_path, *words, database_url=db.url())
