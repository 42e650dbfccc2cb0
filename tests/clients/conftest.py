"""A Supabase project with the real PostgREST, and the real bridge, for clients that are not written in Python."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from bridge.local.postgres import LocalPostgres
from tests.support import parts
from tests.support.bridge import KEYS, Bridge, running_bridge
from tests.support.database import Database
from tests.support.javascript import run_module
from tests.support.postgrest import PUBLISHABLE
from tests.support.project import supabase_project

_CLIENT = """
import { createClient } from "@supabase/supabase-js";
const options = token ? { accessToken: async () => token } : {};
globalThis.supabase = createClient(supabaseUrl, supabaseKey, options);
"""


@dataclass(frozen=True)
class Caller:
    """One holder of the publishable key, and of an access token when signed in, who calls through supabase-js."""

    url: str
    folder: Path
    token: str | None = None

    def run(self, code: str, **given: Any) -> Any:
        """Run statements that use ``supabase`` and ``given``; what they pass to ``answer``."""
        known = {"supabaseUrl": self.url, "supabaseKey": PUBLISHABLE, "token": self.token, **given}
        return run_module(self.folder, _CLIENT + code, known)

    def each(self, queries: Mapping[str, str], **given: Any) -> dict[str, Any]:
        """The answers of these queries (``{data, error, status}``), asked one after the other by one client."""
        lines = [f"all[{name!r}] = await {query};" for name, query in queries.items()]
        answers: dict[str, Any] = self.run("\n".join(["const all = {};", *lines, "answer(all);"]), **given)
        return answers


@dataclass(frozen=True)
class Api:
    """The project's API."""

    url: str
    folder: Path

    def as_user(self, user_id: uuid.UUID, **claims: Any) -> Caller:
        return Caller(self.url, self.folder, KEYS.token("ES256", "authenticated", str(user_id), **claims))

    def as_anon(self) -> Caller:
        return Caller(self.url, self.folder)


@pytest.fixture
def project(db: Database, server: LocalPostgres) -> Iterator[str]:
    """The URL of a Supabase project on this test's database."""
    with supabase_project(parts.path_of("postgrest", server), db.url(), KEYS) as url:
        yield url


@pytest.fixture
def api(project: str, tmp_path: Path) -> Api:
    return Api(project, tmp_path)


@pytest.fixture
def bridge(db: Database) -> Iterator[Bridge]:
    with running_bridge(db, default_provider="sandbox") as running:
        yield running
