"""Makes a router, and shards of migrated databases."""

from __future__ import annotations

from collections.abc import Sequence

import psycopg
from psycopg import sql

from bridge.errors import SetupError
from bridge.migrations import pending_migrations
from bridge.sharding.script import LARGEST, router_script, shard_script

__all__ = ["counters", "set_up", "starts_of"]

_COUNTERS = """
select d.refobjid::regclass::text, s.oid::regclass::text, q.seqincrement,
    coalesce(pg_sequence_last_value(s.oid), 0)
from pg_class as s
inner join pg_sequence as q on s.oid = q.seqrelid
inner join pg_depend as d on s.oid = d.objid and d.deptype = 'i' and d.refclassid = 'pg_class'::regclass
inner join pg_class as t on d.refobjid = t.oid
where t.relnamespace = 'payments'::regnamespace
    or (t.relnamespace = 'public'::regnamespace and t.relname like 'payment\\_%%')
order by 1
"""

_MARGIN = 1000 * LARGEST  # for numbers that are drawn meanwhile

_CAPTURES = """
copy (select provider, provider_payment_id, shard_router.logical_of_id(session_id) from payments.captures) to stdout
"""


def counters(connection: psycopg.Connection) -> dict[str, tuple[str, int, int]]:
    """The identity sequences of our tables: {table: (sequence, increment, last number given)}."""
    return {table: (name, step, last) for table, name, step, last in connection.execute(_COUNTERS).fetchall()}


def starts_of(shards: Sequence[str]) -> dict[str, int]:
    """For each identity sequence a multiple of 32 above all numbers that any of the shards has given."""
    starts: dict[str, int] = {}
    for url in shards:
        with _open(url) as connection:
            for name, _, last in counters(connection).values():
                starts[name] = max(starts.get(name, 0), (last + _MARGIN) // LARGEST * LARGEST)
    return starts


def set_up(router: str, shards: Sequence[str]) -> None:
    """Make a router of one database and shards of others. Run again with more shards, it adds these.

    ``router`` is the URL of a superuser (PL/Proxy asks for one), ``shards`` are the URLs that ``migrate`` uses.
    When the first shard has been in use, all users are there; the others must be empty. Raises SetupError.
    """
    in_use = [_check(url) for url in shards]
    with _open(router) as connection:
        new = connection.execute("select to_regclass('shard_router.logical_shards') is null").fetchone() == (True,)
    if new and any(in_use[1:]):
        raise SetupError(
            "A shard other than the first has sessions already.", "Begin with empty ones, and move users there."
        )
    starts = starts_of(shards)
    for number, url in enumerate(shards):
        _make_shard(url, number, starts)
    with _open(router) as connection:
        connection.execute(router_script(shards, all_on_first=in_use[0]).encode())
        _load_payments(connection, shards)


def _check(url: str) -> bool:
    """Whether a shard has been in use. Raises SetupError when it is not migrated."""
    with _open(url) as connection:
        if pending := pending_migrations(connection):
            raise SetupError(
                f"{connection.info.dbname} lacks the migration {pending[0].version}_{pending[0].name}.",
                "Run `pgcheckout migrate` on each shard.",
            )
        return connection.execute(
            "select exists (select from public.payment_checkout_sessions) or exists (select from payments.captures)"
        ).fetchone() == (True,)


def _make_shard(url: str, number: int, starts: dict[str, int]) -> None:
    with _open(url) as connection:
        steps = {step for _, step, _ in counters(connection).values()}
        # counting in steps already: its numbers are its own, and it may be at work
        done = steps == {LARGEST}
        connection.execute(shard_script(number, {} if done else starts).encode())


def _load_payments(router: psycopg.Connection, shards: Sequence[str]) -> None:
    if router.execute("select exists (select from shard_router.payments)").fetchone() == (True,):
        return
    target = sql.SQL("copy shard_router.payments from stdin")
    with router.transaction(), router.cursor() as written:
        for url in shards:
            with (
                _open(url) as connection,
                connection.cursor().copy(_CAPTURES) as rows,
                written.copy(target) as copy,
            ):
                for block in rows:
                    copy.write(block)


def _open(url: str) -> psycopg.Connection:
    try:
        return psycopg.connect(url, autocommit=True, connect_timeout=10)
    except psycopg.OperationalError as error:
        raise SetupError(f"A database cannot be reached: {error}".strip(), "Check the URLs.") from None
