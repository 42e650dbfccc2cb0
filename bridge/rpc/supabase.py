"""supabase-py over PostgREST, for places without a database connection."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

import httpx

from bridge.errors import NotSupported, PgcheckoutError, SetupError
from bridge.rpc.transport import away, from_sqlstate, is_set, not_storable, until_it_commits
from bridge.settings import Settings

if TYPE_CHECKING:  # importing supabase costs a quarter of a second and 20 MB: only its own path pays
    from supabase import AsyncClient

__all__ = ["SupabaseTransport"]


class SupabaseTransport:
    """supabase-py over PostgREST, for places without a database connection."""

    def __init__(self, client: AsyncClient) -> None:
        self._client = client

    @classmethod
    async def connect(cls, settings: Settings, *, http: httpx.AsyncClient | None = None) -> SupabaseTransport:
        """Build the client once. ``http`` replaces its connection, for tests."""
        from supabase import AsyncClientOptions, acreate_client  # noqa: PLC0415 # see TYPE_CHECKING above

        if settings.supabase_url is None or settings.supabase_service_key is None:
            raise SetupError("PGCHECKOUT_SUPABASE_URL and PGCHECKOUT_SUPABASE_SERVICE_KEY are not set.")
        # without an own httpx client, supabase-py warns about its own default
        options = AsyncClientOptions(httpx_client=http or httpx.AsyncClient(timeout=10.0))
        key = settings.supabase_service_key.get_secret_value()
        return cls(await acreate_client(str(settings.supabase_url).rstrip("/"), key, options=options))

    async def call(self, function: str, arguments: Mapping[str, Any]) -> Any:
        return await until_it_commits(lambda: self._call(function, arguments))

    def listen(self) -> AsyncGenerator[str, None]:
        raise NotSupported("Over HTTP nobody can listen.")

    async def close(self) -> None:
        await self._client.postgrest.aclose()

    async def _call(self, function: str, arguments: Mapping[str, Any]) -> Any:
        from postgrest.exceptions import APIError  # noqa: PLC0415 # see TYPE_CHECKING above

        body = {name: _plain(value) for name, value in arguments.items()}
        try:
            json.dumps(body, ensure_ascii=False, allow_nan=False).encode()
        except (ValueError, RecursionError):
            raise not_storable() from None
        try:
            answer = await self._client.rpc(function, body).execute()
        except APIError as error:
            raise _from_postgrest(error) from None
        except httpx.HTTPError as error:
            raise away(type(error).__name__) from None
        # PostgREST answers 204 to void functions, which supabase-py shows as an empty list
        return None if answer.data == [] and not is_set(function) else answer.data


def _plain(value: Any) -> Any:
    if isinstance(value, UUID):
        return str(value)
    return value.isoformat() if isinstance(value, datetime) else value


def _from_postgrest(error: Any) -> PgcheckoutError:
    code = str(error.code or "")
    # a gateway's own errors carry the HTTP status as their code
    if code.startswith("5") and len(code) == len("503"):
        return away(f"HTTP {code}")
    return from_sqlstate(code, error.message, error.details, error.hint)
