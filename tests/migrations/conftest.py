from __future__ import annotations

import re
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import psycopg
import pytest
from psycopg import sql

from bridge.local.postgres import SUPERUSER, LocalPostgres
from tests.support import parts
from tests.support.database import REPOSITORY


class NewDatabase(Protocol):
    """Creates a Supabase look-alike without pgcheckout; returns its name and its URL for the role postgres."""

    def __call__(self) -> tuple[str, str]: ...


@pytest.fixture
def new_database(server: LocalPostgres) -> Iterator[NewDatabase]:
    names = []

    def create() -> tuple[str, str]:
        names.append(f"migrations_{uuid.uuid4().hex[:12]}")
        return names[-1], server.create_look_alike(names[-1])

    yield create
    with psycopg.connect(server.url(user=SUPERUSER), autocommit=True) as connection:
        for name in names:
            connection.execute(sql.SQL("drop database {} with (force)").format(sql.Identifier(name)))


@pytest.fixture
def uninstall() -> str:
    """What docs/install.md has one run to be rid of pgcheckout."""
    page = (REPOSITORY / "docs" / "install.md").read_text("utf-8")
    blocks: list[str] = re.findall(r"^```sql\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    (script,) = [code for code in blocks if "drop schema" in code]
    return script


@pytest.fixture
def cli(server: LocalPostgres) -> Path:
    return parts.path_of("supabase_cli", server)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A copy of this repository's SQL, for tools and tests that write beside it."""
    for folder in ("sql", "supabase"):
        shutil.copytree(REPOSITORY / folder, tmp_path / folder)
    return tmp_path
