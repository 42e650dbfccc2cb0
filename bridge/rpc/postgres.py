"""psycopg over a pool of direct connections."""

from __future__ import annotations

import contextlib
import select
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from typing import Any

import psycopg
from psycopg import sql
from psycopg.types.json import Jsonb
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from bridge.errors import NotSupported, PgcheckoutError, SetupError
from bridge.rpc.transport import away, from_sqlstate, is_set, not_storable, until_it_commits
from bridge.settings import Settings

__all__ = ["PostgresTransport"]

_PATIENCE_SECONDS = 5.0  # with a database that does not answer


class PostgresTransport:
    """psycopg over a pool of direct connections: one round trip per call, statements prepared."""

    def __init__(
        self, pool: AsyncConnectionPool[psycopg.AsyncConnection[tuple[Any, ...]]], session_url: str | None = None
    ) -> None:
        self._pool = pool
        self._session_url = session_url
        self._queries: dict[tuple[str, ...], bytes] = {}

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
            # what they see behind a lock must be what its last holder left, whatever the database's default
            await connection.execute("set default_transaction_isolation = 'read committed'")
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
                "fallback_application_name": "pgcheckout",
                "connect_timeout": 5,
                "tcp_user_timeout": 10_000,
            },
        )
        await pool.open()
        # without a role there is a pooler in between, which lends sessions for one transaction only
        return cls(pool, settings.database_url.get_secret_value() if role else None)

    async def call(self, function: str, arguments: Mapping[str, Any]) -> Any:
        return await until_it_commits(lambda: self._call(function, arguments))

    def listen(self) -> AsyncGenerator[str, None]:
        if self._session_url is None:
            raise NotSupported("Behind a pooler in transaction mode nobody can listen.")
        return _heard(self._session_url)

    async def close(self) -> None:
        await self._pool.close()

    async def _call(self, function: str, arguments: Mapping[str, Any]) -> Any:
        try:
            values = [_parameter(value) for value in arguments.values()]
            async with self._connection() as connection:
                try:
                    cursor = await connection.execute(self._query(function, tuple(arguments)), values)
                except psycopg.errors.ReadOnlySqlTransaction:
                    # that it may not write was settled when it was opened: a new one may lead to a primary again
                    await connection.close()
                    raise
                rows = [row[0] for row in await cursor.fetchall()]
                if is_set(function):
                    return rows
                return None if rows == [""] else rows[0]  # void comes as an empty text
        except psycopg.Error as error:
            raise _from_postgres(error) from None
        except (UnicodeEncodeError, RecursionError):
            raise not_storable() from None

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

    def _query(self, function: str, names: tuple[str, ...]) -> bytes:
        key = (function, *names)
        if key not in self._queries:
            named = sql.SQL(", ").join(sql.SQL("{} => {}").format(sql.Identifier(n), sql.Placeholder()) for n in names)
            form = "select to_jsonb(r) from public.{}({}) as r" if is_set(function) else "select public.{}({})"
            self._queries[key] = sql.SQL(form).format(sql.Identifier(function), named).as_bytes()
        return self._queries[key]


async def _heard(url: str) -> AsyncGenerator[str, None]:
    try:
        async with await psycopg.AsyncConnection.connect(
            url, autocommit=True, application_name="pgcheckout listen", connect_timeout=5,
            # nothing is ever sent, so only these notice a peer that is gone
            keepalives_idle=30, keepalives_interval=10, keepalives_count=3,
        ) as connection:  # fmt: skip
            await connection.execute("listen pgcheckout_work")
            yield ""
            async for notice in connection.notifies():
                yield notice.payload
    except psycopg.Error as error:
        raise _from_postgres(error) from None


def _has_said_goodbye(connection: psycopg.AsyncConnection[tuple[Any, ...]]) -> bool:
    """Whether an idle connection has something to read: that is the end of it. Costs no round trip."""
    poll = select.poll()
    poll.register(connection.fileno(), select.POLLIN)
    return bool(poll.poll(0))


def _parameter(value: Any) -> Any:
    if isinstance(value, dict) or (isinstance(value, list) and isinstance(next(iter(value), None), dict)):
        return Jsonb(value)
    # as text, so that one prepared statement takes integers of any size and Postgres judges the range
    return str(value) if type(value) is int else value


def _from_postgres(error: psycopg.Error) -> PgcheckoutError:
    if error.sqlstate is not None:
        diagnostics = error.diag
        return from_sqlstate(
            error.sqlstate, diagnostics.message_primary, diagnostics.message_detail, diagnostics.message_hint
        )
    if isinstance(error, psycopg.DataError):  # psycopg's own: a NUL in a text
        return not_storable()
    if isinstance(error, PoolTimeout | psycopg.OperationalError | psycopg.InterfaceError):
        return away(type(error).__name__)
    return PgcheckoutError(f"The call failed in the driver ({type(error).__name__}).")
