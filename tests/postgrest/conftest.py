from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import httpx
import pytest

from bridge.local.postgres import LocalPostgres
from supabase import AsyncClientOptions, ClientOptions, acreate_client, create_client
from tests.support import parts
from tests.support.database import Database
from tests.support.postgrest import PUBLISHABLE, SECRET, AsyncGateway, Gateway, Keys, postgrest

KEYS = Keys()


@dataclass(frozen=True)
class Caller:
    """One holder of an API key, and of an access token when signed in, who calls through the real supabase-py.

    ``request`` is the part that the synchronous and the asynchronous client have in common: client -> query.
    """

    url: str
    style: str
    key: str
    token: str | None = None

    def run(self, request: Callable[[Any], Any]) -> Any:
        """Execute a query and return its data."""
        if self.style == "async":
            return asyncio.run(self._run_async(request))
        with httpx.Client(transport=Gateway(KEYS)) as http:
            client = create_client(self.url, self.key, ClientOptions(httpx_client=http))
            if self.token:
                client.postgrest.auth(self.token)
            return request(client).execute().data

    async def _run_async(self, request: Callable[[Any], Any]) -> Any:
        async with httpx.AsyncClient(transport=AsyncGateway(KEYS)) as http:
            client = await acreate_client(self.url, self.key, AsyncClientOptions(httpx_client=http))
            if self.token:
                client.postgrest.auth(self.token)
            return (await request(client).execute()).data

    def rpc(self, function: str, **arguments: Any) -> Any:
        return self.run(lambda client: client.rpc(function, arguments))

    def get(self, function: str, **arguments: Any) -> Any:
        """Call through GET, which PostgREST runs in a read-only transaction."""
        return self.run(lambda client: client.rpc(function, arguments, get=True))

    def rows(self, table: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.run(lambda client: client.table(table).select("*"))
        return found


@dataclass(frozen=True)
class Api:
    """The project's API, for callers of one style of client."""

    url: str
    style: str

    def as_user(self, user_id: UUID, algorithm: str = "ES256", **claims: Any) -> Caller:
        return self.with_token(KEYS.token(algorithm, "authenticated", str(user_id), **claims))

    def with_token(self, token: str) -> Caller:
        return Caller(self.url, self.style, PUBLISHABLE, token)

    def as_anon(self) -> Caller:
        return Caller(self.url, self.style, PUBLISHABLE)

    def as_service(self) -> Caller:
        return Caller(self.url, self.style, SECRET)


@pytest.fixture(params=["sync", "async"])
def api(request: pytest.FixtureRequest, db: Database, server: LocalPostgres) -> Iterator[Api]:
    """This test's database behind a PostgREST of its own, called with both styles of client in turn."""
    with postgrest(parts.path_of("postgrest", server), db.url("authenticator"), KEYS) as url:
        yield Api(url, request.param)
