"""Moves the users of a logical shard to another shard, with everything that is theirs, in one transaction on both.

While a logical shard is moved its users' calls wait, as they do for any lock; everybody else's go on. The two shards
commit as one: both prepare, the router's map decides, and a move that was cut off is ended by the next one.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence

import psycopg
from psycopg import sql

from bridge.errors import SetupError
from bridge.sharding.script import LARGEST
from bridge.sharding.setup import counters

__all__ = ["COPIED", "MOVED", "STAYING", "move"]

_BY_USER = "shard_router.logical_of_user(t.user_id)"
_BY_SESSION = "shard_router.logical_of_id(t.session_id)"

# What belongs to users, and whose it is; the sessions first, whose locks keep others out.
MOVED: Mapping[str, str] = {
    "public.payment_checkout_sessions": "shard_router.logical_of_id(t.id)",
    "payments.attempts": _BY_SESSION,
    "payments.captures": _BY_SESSION,
    "payments.session_events": _BY_SESSION,
    "payments.webhook_events": "coalesce(shard_router.logical_of_id(t.session_id),"
    " shard_router.logical_of_event(t.provider, t.event_id, t.payload))",
    "public.payment_credit_balances": _BY_USER,
    "public.payment_credit_entries": _BY_USER,
    "public.payment_subscriptions": _BY_USER,
    "payments.subscription_periods": _BY_USER,
    "payments.idempotency_keys": "shard_router.logical_of_key(t.key)",
    "payments.coupon_redemptions": _BY_USER,
    "public.payment_groups": "shard_router.logical_of_id(t.id)",
    "public.payment_group_members": _BY_USER,
    "public.payment_contributions": _BY_USER,
    "public.payment_refunds": _BY_SESSION,
    "payments.credit_clawbacks": _BY_USER,
    "public.payment_invoices": _BY_USER,
    "payments.unnumbered_invoices": "shard_router.logical_of_id((t.document ->> 'session_id')::uuid)",
    "payments.notifications": _BY_SESSION,
    "payments.rate_limits": _BY_USER,
}
# Documents stay where they were numbered, so that the series there is whole; a copy of theirs goes with the users.
COPIED = "public.payment_invoices"
# What is the same everywhere, or belongs to a shard.
STAYING = frozenset({
    "payments.settings", "payments.fulfilment_handlers", "public.payment_products", "public.payment_prices",
    "payments.coupons", "payments.coupon_currencies", "payments.invoice_counters", "payments.heartbeats",
    "payments.alerts", "payments.troubles",
})  # fmt: skip

_COLUMNS = """
select string_agg(format('t.%%I', a.attname), ', ' order by a.attnum),
    string_agg(quote_ident(a.attname), ', ' order by a.attnum)
from pg_attribute as a
where a.attrelid = %s::regclass and a.attnum > 0 and not a.attisdropped and a.attgenerated = ''
"""

_SPLIT_GROUP = """
select x.group_id
from (
    select m.group_id, m.user_id from public.payment_group_members as m
    union
    select c.group_id, c.user_id from public.payment_contributions as c
) as x
where (shard_router.logical_of_id(x.group_id) = %(logical)s) <> (shard_router.logical_of_user(x.user_id) = %(logical)s)
limit 1
"""

_PLACES = """
select t.coupon_id, count(*)
from payments.coupon_redemptions as t
where t.holds_place and shard_router.logical_of_user(t.user_id) = %s
group by t.coupon_id
order by t.coupon_id
"""

_LOCK = 7243924  # as in shard_router.enter


def move(
    router: str, shards: Sequence[str], to: int, logical_shards: Sequence[int], say: Callable[[str], None] = print
) -> None:
    """Move logical shards, one after the other, to the shard ``to``; those that are there already stay.

    ``router`` and ``shards`` as in ``set_up``; on the shards the roles must be allowed to set
    ``session_replication_role``. Raises SetupError; the logical shard is then where it was.
    """
    if not 0 <= to < len(shards):
        raise SetupError(f"There is no shard {to}.", f"They are 0 to {len(shards) - 1}.")
    with contextlib.ExitStack() as stack:
        connections = [stack.enter_context(psycopg.connect(url, autocommit=True, connect_timeout=10)) for url in shards]
        for connection in connections:
            _check(connection)
        conductor = stack.enter_context(psycopg.connect(router, autocommit=True, connect_timeout=10))
        conductor.execute("set lock_timeout = '20s'")
        for logical in logical_shards:
            with _alone(conductor, logical):
                rows = _move(conductor, connections, to, logical)
            say(f"logical shard {logical}: {'is there already' if rows is None else f'{rows} rows moved'}")


def _check(connection: psycopg.Connection) -> None:
    if connection.execute("show max_prepared_transactions").fetchone() == ("0",):
        raise SetupError(
            f"{connection.info.dbname} cannot prepare transactions.",
            "Set max_prepared_transactions = 10 on each shard and restart it.",
        )
    try:
        # rows that may never be deleted are: they do not vanish, they move
        connection.execute("set session_replication_role = replica")
    except psycopg.errors.InsufficientPrivilege:
        raise SetupError(
            f"{connection.info.user} may not move rows.",
            f"As a superuser of each shard: grant set on parameter session_replication_role to {connection.info.user}",
        ) from None
    connection.execute("set lock_timeout = '5s'")


@contextlib.contextmanager
def _alone(router: psycopg.Connection, logical: int) -> Iterator[None]:
    """Wait until no call for the logical shard is under way, and let none begin."""
    try:
        router.execute("select pg_advisory_lock(%s, %s)", (_LOCK, logical))
    except psycopg.errors.LockNotAvailable:
        raise SetupError(f"Logical shard {logical} is too busy.", "Run it again at a quieter moment.") from None
    try:
        yield
    finally:
        if not router.closed:
            router.execute("select pg_advisory_unlock(%s, %s)", (_LOCK, logical))


def _move(router: psycopg.Connection, shards: Sequence[psycopg.Connection], to: int, logical: int) -> int | None:
    source = _end_last_move(router, shards, logical)
    if source == to:
        return None
    # committed before anything is prepared: if this process dies, nobody is let in until the next one has ended it
    router.execute("update shard_router.logical_shards set moving_to = %s where logical = %s", (to, logical))
    try:
        rows = _prepare(shards, source, to, logical)
        # from here on the rows belong to the other shard
        router.execute("update shard_router.logical_shards set shard = moving_to where logical = %s", (logical,))
    except psycopg.Error as error:
        _end_last_move(router, shards, logical)
        raise SetupError(f"Logical shard {logical} was not moved: {error}", "Nothing was changed.") from None
    except BaseException:
        _end_last_move(router, shards, logical)
        raise
    _end_last_move(router, shards, logical)
    return rows


def _end_last_move(router: psycopg.Connection, shards: Sequence[psycopg.Connection], logical: int) -> int:
    """Commit or undo what a move has prepared, as the map says; the shard where the logical shard is then."""
    row = router.execute(
        "select shard, moving_to from shard_router.logical_shards where logical = %s", (logical,)
    ).fetchone()
    if row is None:
        raise SetupError(f"There is no logical shard {logical}.", "They are 0 to 1023.")
    shard, moving_to = int(row[0]), row[1]
    if moving_to is not None:
        verb = sql.SQL("commit prepared {}" if shard == moving_to else "rollback prepared {}")
        # where the rows arrive first: whoever waits for them where they were finds them when that lets go
        for number in sorted(range(len(shards)), key=lambda number: number != moving_to):
            connection = shards[number]
            if connection.info.transaction_status != psycopg.pq.TransactionStatus.IDLE:
                connection.execute("rollback")
            if _has_prepared(connection, _name(logical, number)):
                connection.execute(verb.format(sql.Literal(_name(logical, number))))
        router.execute("update shard_router.logical_shards set moving_to = null where logical = %s", (logical,))
    return shard


def _has_prepared(connection: psycopg.Connection, name: str) -> bool:
    query = "select exists (select from pg_prepared_xacts where database = current_database() and gid = %s)"
    return connection.execute(query, (name,)).fetchone() == (True,)


def _name(logical: int, shard: int) -> str:
    """Of a prepared transaction: two shards may be on one server, where names are unique."""
    return f"pgcheckout_move_{logical}_on_{shard}"


def _prepare(shards: Sequence[psycopg.Connection], source_number: int, target_number: int, logical: int) -> int:
    source, target = shards[source_number], shards[target_number]
    for connection in (source, target):
        connection.execute("begin")
    split = source.execute(_SPLIT_GROUP, {"logical": logical}).fetchone()
    if split:
        raise SetupError(
            f"Group {split[0]} has members in several logical shards.", f"Logical shard {logical} cannot leave them."
        )
    _add_users(source, target, logical)
    _move_coupon_places(source, target, logical)
    _advance_counters(source, target)
    rows = sum(_move_table(source, target, table, logical) for table in MOVED)
    for number in (target_number, source_number):
        shards[number].execute(sql.SQL("prepare transaction {}").format(sql.Literal(_name(logical, number))))
    return rows


def _move_table(source: psycopg.Connection, target: psycopg.Connection, table: str, logical: int) -> int:
    row = source.execute(_COLUMNS, (table,)).fetchone()
    if row is None:
        raise SetupError(f"There is no table {table}.")
    # table and columns come from the catalogue, the rest from above
    whose = sql.SQL(f"{MOVED[table]} = {int(logical)}")
    parts = {"table": sql.SQL(table), "columns": sql.SQL(row[0]), "names": sql.SQL(row[1]), "whose": whose}
    take = "delete from {table} as t where {whose} returning {columns}"
    if table == COPIED:
        take = "select {columns} from {table} as t where {whose}"
        # of an earlier stay
        target.execute(sql.SQL("delete from {table} as t where {whose}").format(**parts))
    with source.cursor() as taken, target.cursor() as given:
        with (
            taken.copy(sql.SQL("copy (" + take + ") to stdout").format(**parts)) as rows,
            given.copy(sql.SQL("copy {table} ({names}) from stdin").format(**parts)) as copy,
        ):
            for block in rows:
                copy.write(block)
        return given.rowcount


def _add_users(source: psycopg.Connection, target: psycopg.Connection, logical: int) -> None:
    users = source.execute(
        "select id, email from auth.users where shard_router.logical_of_user(id) = %s", (logical,)
    ).fetchall()
    with target.cursor() as cursor:
        cursor.executemany("select shard_router.add_user(%s, %s)", users)


def _move_coupon_places(source: psycopg.Connection, target: psycopg.Connection, logical: int) -> None:
    taken = "update payments.coupons set places_taken = places_taken + %s where id = %s"
    for coupon, places in source.execute(_PLACES, (logical,)).fetchall():
        source.execute(taken, (-places, coupon))
        target.execute(taken, (places, coupon))


def _advance_counters(source: psycopg.Connection, target: psycopg.Connection) -> None:
    """What happens next must be numbered after what has happened. Drawn, not set: others draw at the same time."""
    there = counters(target)
    for table, (_, _, last) in counters(source).items():
        name, _, reached = there[table]
        target.execute(
            "select count(nextval(%s)) from generate_series(1, %s)", (name, max(0, (last - reached) // LARGEST + 1))
        )
