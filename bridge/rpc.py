"""The only door to the database: the functions of section 4, over psycopg or over supabase-py, with one behaviour.

A transport calls one function in one transaction and raises this package's errors; :class:`Rpc` gives the functions
their Python shapes.
"""

from __future__ import annotations

import contextlib
import json
import select
from collections.abc import AsyncIterator, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any, Protocol, TypedDict, Unpack
from uuid import UUID

import httpx
import psycopg
from psycopg import sql
from psycopg.types.json import Jsonb
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from bridge.errors import DatabaseUnavailable, InvalidRequest, PgcheckoutError, Refused, SetupError
from bridge.settings import Settings
from bridge.values import Applied, Attempt, Event, Outcome, Page

if TYPE_CHECKING:  # importing supabase costs a quarter of a second and 20 MB: only its own path pays
    from supabase import AsyncClient

__all__ = ["AttemptName", "PostgresTransport", "Rpc", "SupabaseTransport", "Transport", "connect_rpc"]

NOBODY = UUID(int=0)
_PATIENCE_SECONDS = 5.0  # with a database that does not answer
_TRY_AGAIN = ("08", "40", "53", "55", "57", "58")  # SQLSTATE classes of a server in trouble, not of a wrong call


class AttemptName(TypedDict, total=False):
    """Any one of these names an attempt; ``provider`` goes with its own session id."""

    session_id: UUID | None
    reference: str | None
    provider: str | None
    provider_session_id: str | None


class Transport(Protocol):
    """Calls a function of ``public`` with named arguments, in a transaction of its own.

    Raises Refused (or its subclass for the reason), InvalidRequest, DatabaseUnavailable, PgcheckoutError.
    """

    async def call(self, function: str, arguments: Mapping[str, Any]) -> Any:
        """The function's value, as JSON would show it; a list of rows for sets, None for void."""

    async def close(self) -> None:
        """Give everything back."""


class Rpc:
    """The database's functions, typed."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def get_or_create_checkout_session(self, user_id: UUID, arguments: Mapping[str, Any]) -> UUID:
        """The user's open session for a purchase, or a new one; ``arguments`` as in the SQL function."""
        answer = await self._transport.call("get_or_create_checkout_session", {**arguments, "p_user_id": user_id})
        return UUID(str(answer))

    async def open_checkout_attempt(self, session_id: UUID, provider: str | None = None) -> Attempt:
        """Store an attempt before its page is opened, or get the one whose page is alive."""
        arguments = {"p_session_id": session_id, "p_provider": provider}
        return Attempt.from_json(await self._transport.call("open_checkout_attempt", arguments))

    async def attach_checkout_attempt(self, number: int, page: Page) -> None:
        """Store the page that the provider opened."""
        arguments = {
            "p_attempt": number,
            "p_provider_session_id": page.provider_session_id,
            "p_checkout_url": page.url,
            "p_expires_at": page.expires_at,
        }
        await self._transport.call("attach_checkout_attempt", arguments)

    async def abandon_checkout_attempt(self, number: int, error: PgcheckoutError) -> None:
        """Give up an attempt whose page could not be opened."""
        arguments = {"p_attempt": number, "p_error_code": error.reason, "p_error_message": error.message}
        await self._transport.call("abandon_checkout_attempt", arguments)

    async def find_checkout_attempt(self, *, user_id: UUID | None = None, **name: Unpack[AttemptName]) -> Attempt:
        """The session and attempt to ask about; only the user's own when a user is given."""
        arguments = {
            "p_session_id": name.get("session_id"),
            "p_reference": name.get("reference"),
            "p_provider": name.get("provider"),
            "p_provider_session_id": name.get("provider_session_id"),
            "p_user_id": user_id,
        }
        return Attempt.from_json(await self._transport.call("find_checkout_attempt", arguments))

    async def apply_payment_outcome(self, outcome: Outcome, event: Event | None = None) -> Applied:
        """The one door by which money facts enter."""
        arguments = {"p_outcome": outcome.to_json(), "p_event": event.to_json() if event else None}
        return Applied.from_json(await self._transport.call("apply_payment_outcome", arguments))

    async def record_webhook_failure(self, provider: str, event: Event, reason: str, *, comes_again: bool) -> None:
        """Keep a genuine webhook that could not be applied."""
        arguments = {
            "p_provider": provider,
            "p_event": event.to_json(),
            "p_error": reason,
            "p_retryable": comes_again,
        }
        await self._transport.call("record_webhook_failure", arguments)

    async def check(self) -> None:
        """Prove that the database answers, is migrated and lets the bridge in."""
        await self._transport.call("get_latest_checkout_session", {"p_user_id": NOBODY})

    async def close(self) -> None:
        """Close the transport."""
        await self._transport.close()


class PostgresTransport:
    """psycopg over a pool of direct connections: one round trip per call, statements prepared."""

    def __init__(self, pool: AsyncConnectionPool[psycopg.AsyncConnection[tuple[Any, ...]]]) -> None:
        self._pool = pool
        self._queries: dict[tuple[str, ...], sql.Composed] = {}

    @classmethod
    async def connect(cls, settings: Settings) -> PostgresTransport:
        """Open the pool; the database may still be away, calls then raise DatabaseUnavailable."""
        if settings.database_url is None:
            raise SetupError("PGCHECKOUT_DATABASE_URL is not set.")
        role = settings.database_role

        async def take_role(connection: psycopg.AsyncConnection[tuple[Any, ...]]) -> None:
            # the limits that PostgREST's role has on Supabase: a lock held elsewhere may not use up the pool
            await connection.execute("set statement_timeout = '8s'")
            await connection.execute("set lock_timeout = '5s'")
            await connection.execute(sql.SQL("set role {}").format(sql.Identifier(role)))

        pool: AsyncConnectionPool[psycopg.AsyncConnection[tuple[Any, ...]]] = AsyncConnectionPool(
            settings.database_url.get_secret_value(),
            min_size=1,
            max_size=settings.database_pool_size,
            timeout=_PATIENCE_SECONDS,
            # the pool waits ever longer between its tries: after an outage, let the next call begin anew
            reconnect_timeout=_PATIENCE_SECONDS,
            open=False,
            configure=take_role if role else None,
            kwargs={
                "autocommit": True,
                "prepare_threshold": 0 if settings.database_prepared else None,
                "application_name": "pgcheckout",
                "connect_timeout": 5,
                "tcp_user_timeout": 10_000,
            },
        )
        await pool.open()
        return cls(pool)

    async def call(self, function: str, arguments: Mapping[str, Any]) -> Any:
        try:
            values = [_parameter(value) for value in arguments.values()]
            async with self._connection() as connection:
                cursor = await connection.execute(self._query(function, tuple(arguments)), values)
                rows = [row[0] for row in await cursor.fetchall()]
                if _is_set(function):
                    return rows
                return None if rows == [""] else rows[0]  # void comes as an empty text
        except psycopg.Error as error:
            raise _from_postgres(error) from None
        except (UnicodeEncodeError, RecursionError):
            raise _not_storable() from None

    async def close(self) -> None:
        await self._pool.close()

    @contextlib.asynccontextmanager
    async def _connection(self) -> AsyncIterator[psycopg.AsyncConnection[tuple[Any, ...]]]:
        """A connection that the server has not closed: after a restart, all that the pool kept are dead."""
        connection = await self._pool.getconn()
        for _ in range(self._pool.max_size):
            if not _has_said_goodbye(connection):
                break
            await connection.close()
            await self._pool.putconn(connection)
            connection = await self._pool.getconn()
        try:
            yield connection
        finally:
            await self._pool.putconn(connection)

    def _query(self, function: str, names: tuple[str, ...]) -> sql.Composed:
        key = (function, *names)
        if key not in self._queries:
            named = sql.SQL(", ").join(sql.SQL("{} => {}").format(sql.Identifier(n), sql.Placeholder()) for n in names)
            self._queries[key] = sql.SQL("select public.{}({})").format(sql.Identifier(function), named)
        return self._queries[key]


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
        from postgrest.exceptions import APIError  # noqa: PLC0415 # see TYPE_CHECKING above

        body = {name: _plain(value) for name, value in arguments.items()}
        try:
            json.dumps(body, ensure_ascii=False, allow_nan=False).encode()
        except (ValueError, RecursionError):
            raise _not_storable() from None
        try:
            answer = await self._client.rpc(function, body).execute()
        except APIError as error:
            raise _from_postgrest(error) from None
        except httpx.HTTPError as error:
            raise _away(type(error).__name__) from None
        # PostgREST answers 204 to void functions, which supabase-py shows as an empty list
        return None if answer.data == [] and not _is_set(function) else answer.data

    async def close(self) -> None:
        await self._client.postgrest.aclose()


async def connect_rpc(settings: Settings) -> Rpc:
    """The direct path when there is a database URL, else the HTTP path. Raises SetupError when there is neither."""
    if settings.database_url:
        return Rpc(await PostgresTransport.connect(settings))
    if settings.supabase_url and settings.supabase_service_key:
        return Rpc(await SupabaseTransport.connect(settings))
    raise SetupError(
        "No way to the database: set PGCHECKOUT_DATABASE_URL, or PGCHECKOUT_SUPABASE_URL and "
        "PGCHECKOUT_SUPABASE_SERVICE_KEY."
    )


def _has_said_goodbye(connection: psycopg.AsyncConnection[tuple[Any, ...]]) -> bool:
    """Whether an idle connection has something to read: that is the end of it. Costs no round trip."""
    poll = select.poll()
    poll.register(connection.fileno(), select.POLLIN)
    return bool(poll.poll(0))


def _parameter(value: Any) -> Any:
    if isinstance(value, dict):
        return Jsonb(value)
    # as text, so that one prepared statement takes integers of any size and Postgres judges the range
    return str(value) if type(value) is int else value


def _is_set(function: str) -> bool:
    return function == "get_latest_checkout_session"


def _plain(value: Any) -> Any:
    if isinstance(value, UUID):
        return str(value)
    return value.isoformat() if isinstance(value, datetime) else value


def _from_postgres(error: psycopg.Error) -> PgcheckoutError:
    if error.sqlstate is not None:
        diagnostics = error.diag
        return _from_sqlstate(
            error.sqlstate, diagnostics.message_primary, diagnostics.message_detail, diagnostics.message_hint
        )
    if isinstance(error, psycopg.DataError):  # psycopg's own: a NUL in a text
        return _not_storable()
    if isinstance(error, PoolTimeout | psycopg.OperationalError | psycopg.InterfaceError):
        return _away(type(error).__name__)
    return PgcheckoutError(f"The call failed in the driver ({type(error).__name__}).")


def _from_postgrest(error: Any) -> PgcheckoutError:
    code = str(error.code or "")
    # a gateway's own errors carry the HTTP status as their code
    if code.startswith("5") and len(code) == len("503"):
        return _away(f"HTTP {code}")
    return _from_sqlstate(code, error.message, error.details, error.hint)


def _from_sqlstate(code: str, message: str | None, detail: str | None, hint: str | None) -> PgcheckoutError:
    if code.startswith("PT"):
        return Refused.for_reason(detail or "", message or "", hint or "")
    if code[:2] in _TRY_AGAIN or code in ("PGRST000", "PGRST001", "PGRST002", "PGRST003"):
        return _away(code)
    if code[:2] == "22":
        return InvalidRequest("A value does not fit its argument.", f"SQLSTATE {code}.")
    return PgcheckoutError(f"The database refuses the call (SQLSTATE {code}).", "Run `pgcheckout doctor`.")


def _not_storable() -> InvalidRequest:
    return InvalidRequest("A text contains a character that Postgres cannot store.", "Remove NUL and lone surrogates.")


def _away(why: str) -> DatabaseUnavailable:
    return DatabaseUnavailable(f"The database does not answer ({why}).", "Try again in a moment.")
