"""The README's Python runs as it is printed, against the real bridge and the real API."""

from __future__ import annotations

import re
import uuid
from typing import Any

import httpx
import pytest

from bridge.local.postgres import LocalPostgres
from supabase import ClientOptions, create_client
from tests.support import parts
from tests.support.bridge import KEYS, running_bridge
from tests.support.database import REPOSITORY, Database
from tests.support.postgrest import PUBLISHABLE, Gateway, postgrest

_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.DOTALL | re.MULTILINE)


def blocks(language: str) -> list[str]:
    return [code for kind, code in _BLOCK.findall((REPOSITORY / "README.md").read_text("utf-8")) if kind == language]


@pytest.fixture
def user_id(db: Database) -> uuid.UUID:
    """A user of a project that sells what the README describes."""
    db.sql(blocks("sql")[0])
    return db.new_user()


def test_one_call_gives_session_and_page(db: Database, user_id: uuid.UUID) -> None:
    sent: list[str] = []
    with running_bridge(db, default_provider="sandbox") as bridge:
        known: dict[str, Any] = {
            "bridge_url": bridge.url,
            "access_token": bridge.buyer(user_id).token,
            "send_buyer_to": sent.append,
        }
        exec(compile(blocks("python")[0], "README.md", "exec"), known)  # noqa: S102
        assert sent == [known["answer"]["checkout_url"]]
        assert "Sandbox" in httpx.get(sent[0]).text


@pytest.mark.needs("postgrest")
def test_the_supabase_client_makes_and_reads_sessions(db: Database, user_id: uuid.UUID, server: LocalPostgres) -> None:
    with (
        postgrest(parts.path_of("postgrest", server), db.url("authenticator"), KEYS) as url,
        httpx.Client(transport=Gateway(KEYS)) as http,
    ):
        client = create_client(url, PUBLISHABLE, ClientOptions(httpx_client=http))
        client.postgrest.auth(KEYS.token("ES256", "authenticated", str(user_id)))
        known: dict[str, Any] = {"supabase": client}
        exec(compile(blocks("python")[1], "README.md", "exec"), known)  # noqa: S102
    assert known["latest"][0]["id"] == known["session_id"]
    assert known["credits"] == []
