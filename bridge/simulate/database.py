"""The database of a simulation: an embedded one that may be killed, or one that somebody named and confirmed."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal
from uuid import UUID

import psycopg
from psycopg.rows import dict_row

from bridge.errors import DatabaseUnavailable, SetupError
from bridge.local.postgres import LocalPostgres
from bridge.migrations import migrate, pending_migrations
from bridge.rpc.reach import why_out_of_reach

__all__ = ["APPLICATION", "PREFIX", "Database", "Schedule", "Survey", "local_database", "survey"]

PREFIX = "simulation_"
"""Begins the id of every product and the address of every user that a simulation makes."""
APPLICATION = "pgcheckout simulate"
"""What our processes are called in pg_stat_activity."""

Schedule = Literal["quick", "default"]
Row = dict[str, Any]

_PATIENCE_SECONDS = 60.0
_QUICK = """
update payments.settings
set reconcile_after = array['2 seconds', '10 seconds', '1 minute', '3 minutes']::interval[],
    idempotency_lease = '5 seconds'
"""
# claims last five minutes, and no wait is as long as three: only claims are that far ahead
_GIVE_CLAIMS_BACK = """
update payments.attempts
set reconcile_at = now()
where reconcile_at between now() + interval '181 seconds' and now() + interval '280 seconds'
"""

_PRODUCTS = """
insert into public.payment_products (id, kind, name, terms, active)
values
('simulation_month', 'contribution', 'A contribution of a simulation', '{}', true),
('simulation_credits', 'credits', '100 credits of a simulation', '{"credits": 100}', true),
('simulation_subscription', 'subscription', 'Pro of a simulation', '{"tier": "simulation", "period": "30 days"}', true),
(
    'simulation_group', 'group_create', 'A circle of a simulation',
    '{"capacity": 12, "contribution_product": "simulation_month", "cycle": "1 month"}', true
)
on conflict (id) do update set active = true
"""
_PRICES = """
insert into public.payment_prices (product_id, currency, amount, is_default)
select p.id, c.currency, c.amount * p.times, c.currency = 'USD'
from (values ('simulation_credits', 1), ('simulation_subscription', 3), ('simulation_group', 4)) as p (id, times)
cross join (values ('USD', 500), ('NGN', 750000), ('UZS', 6000000), ('ILS', 1900)) as c (currency, amount)
on conflict (product_id, currency) do nothing
"""
_USERS = "insert into auth.users (id, email) select * from unnest(%s::uuid[], %s::text[])"
_CLOSE = "update public.payment_products set active = false where starts_with(id, 'simulation_')"

_SURVEY = """
select
    (
        select count(*) from public.payment_checkout_sessions as s
        where s.completed_at is not null and not starts_with(s.product_id, 'simulation_')
    ) as sold,
    (
        select count(*)
        from public.payment_checkout_sessions as s
        left join payments.attempts as a on s.id = a.session_id and a.reconcile_at is not null
        where not starts_with(s.product_id, 'simulation_')
            and (s.status in ('pending', 'processing') or a.number is not null)
    ) as open,
    (select s.providers from payments.settings as s) as providers
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Survey:
    """What a named database holds that is not of a simulation: completed sessions, and unsettled ones."""

    sold: int
    open: int
    providers: Sequence[str]


def survey(url: str) -> Survey:
    """Look at a named database without changing it.

    Raises SetupError when it is not one to simulate on, DatabaseUnavailable.
    """
    try:
        with psycopg.connect(url, connect_timeout=10) as connection:
            pending = pending_migrations(connection)
            if pending:
                raise SetupError(
                    f"{len(pending)} migrations are missing in this database.", "Run `pgcheckout migrate` first."
                )
            row = connection.cursor(row_factory=dict_row).execute(_SURVEY).fetchone()
    except psycopg.OperationalError as error:
        raise DatabaseUnavailable(why_out_of_reach(url, error), "Check --database-url.") from None
    except psycopg.errors.InsufficientPrivilege as error:
        raise SetupError(f"{error.diag.message_primary}.", "Connect as postgres, who owns the schema.") from None
    return Survey(**(row or {}))


@contextlib.contextmanager
def local_database(schedule: Schedule) -> Iterator[Database]:
    """An embedded Postgres with fsync on, migrated; stopped and deleted at the end."""
    postgres = LocalPostgres(18, durable=True)
    try:
        url = postgres.create_look_alike("simulation")
        migrate(url)
        database = Database(url, postgres)
        if schedule == "quick":
            database.hurry()
        yield database
    finally:
        postgres.stop()


class Database:
    """Reads and prepares. ``postgres`` is the server, where it is ours to kill."""

    def __init__(self, url: str, postgres: LocalPostgres | None = None) -> None:
        self.url = url
        self.postgres = postgres

    @property
    def is_local(self) -> bool:
        return self.postgres is not None

    def execute(self, statement: str, *values: object) -> None:
        """Run one statement, at once."""
        with psycopg.connect(self.url, autocommit=True, connect_timeout=10) as connection:
            connection.execute(statement.encode(), values or None)

    def furnish(self, users: Mapping[UUID, str]) -> None:
        """Products, prices, and users with their addresses."""
        self.execute(_PRODUCTS)
        self.execute(_PRICES)
        self.execute(_USERS, list(users), list(users.values()))

    def hurry(self) -> None:
        """Shorten the waits that the settings name."""
        self.execute(_QUICK)

    def close_shop(self) -> None:
        """Nobody else shall buy what a simulation has put on the shelf."""
        with contextlib.suppress(psycopg.Error):  # it is gone, or was never reached
            self.execute(_CLOSE)

    async def rows(self, query: str, *values: object, **named: object) -> list[Row]:
        """Read, patiently: the database may be down. Raises DatabaseUnavailable after a minute."""
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while True:
            try:
                async with await psycopg.AsyncConnection.connect(
                    self.url, autocommit=True, connect_timeout=5, row_factory=dict_row
                ) as connection:
                    cursor = await connection.execute(query.encode(), values or named or None)
                    return await cursor.fetchall() if cursor.description else []
            except psycopg.OperationalError as error:
                if time.monotonic() > deadline:
                    raise DatabaseUnavailable(f"The database is away: {type(error).__name__}.") from None
                await asyncio.sleep(0.2)

    async def lapse(self, session_id: UUID) -> None:
        """The time of a session is over, and it is expired."""
        await self.rows(
            "update public.payment_checkout_sessions set expires_at = now() where id = %s and status = 'pending'",
            session_id,
        )
        await self.rows("select public.expire_old_checkout_sessions()")

    async def give_claims_back(self) -> None:
        """What a worker has held for 20 seconds: it was killed, or lost the database, before it could say so."""
        await self.rows(_GIVE_CLAIMS_BACK)

    def kind_of_strike(self, which: int) -> str:
        """What ``strike`` will do."""
        if self.postgres is None:
            return "our connections to the database are cut"
        return "Postgres is stopped at once and started" if which == 0 else "kill -9 of a Postgres process"

    async def strike(self, which: int) -> None:
        """Kill the server, one way or the other; or cut our connections where it is not ours."""
        if self.postgres is None:
            await self.rows(
                "select pg_terminate_backend(a.pid) from pg_stat_activity as a"
                " where a.application_name = %s and a.pid <> pg_backend_pid()", APPLICATION,
            )  # fmt: skip
            return
        if which == 0:
            await asyncio.to_thread(self.postgres.stop, keep=True)
            await asyncio.to_thread(self.postgres.start)
            return
        for row in await self.rows(
            "select a.pid from pg_stat_activity as a where a.application_name = %s limit 1", APPLICATION
        ):
            with contextlib.suppress(ProcessLookupError):
                os.kill(row["pid"], signal.SIGKILL)
