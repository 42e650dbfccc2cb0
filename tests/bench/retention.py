"""What keeping only what is needed costs: ``python -m tests.bench.retention`` (--rows 10000000; takes half an hour).

Fills a durable Postgres of its own with a shop whose older half is due to go, and deletes that half with
``purge_old_payment_data`` while pgbench buys. Rounds with and without the purge alternate, so that a slow minute of the
machine slows both sides of the ratio. Then as many new rows come in as have left: what does not grow has no bloat.
"""

from __future__ import annotations

import argparse
import math
import os
import re
import statistics
import subprocess
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psycopg

from bridge.jobs import CLEANUP_RESTS
from bridge.local.postgres import SUPERUSER, LocalPostgres
from bridge.migrations import migrate, seed_file
from tests.bench.scenarios import EVENT, SCENARIOS

__all__ = ["main"]

HERE = Path(__file__).parent
# whoever waits for a lock longer than deadlock_timeout is in the log
SERVER_SETTINGS = (
    "shared_buffers=1GB", "max_wal_size=8GB", "autovacuum_naptime=10s", "log_lock_waits=on", "deadlock_timeout=100ms",
)  # fmt: skip
TABLES = (
    "public.payment_checkout_sessions", "payments.notifications", "payments.webhook_events", "payments.session_events"
)  # fmt: skip
ROWS_PER_SESSION = 3.37  # in these tables, as bench.fill makes them
BUYERS, CLIENTS = 20_000, 8

PREPARE = f"""
update payments.settings
set session_retention = '400 days', webhook_retention = '400 days', audit_retention = '400 days', create_limit = null;
-- as large as real ones, and as hard to compress
create function bench.payload(p_id text) returns jsonb language sql immutable
as $$ select jsonb_build_object('id', p_id, 'data', array(select md5(p_id || n) from generate_series(1, 40) as n)) $$;
alter table payments.webhook_events alter payload type jsonb using bench.payload(event_id);
create function bench.user_id(p_n bigint) returns uuid language sql immutable
as $$ select md5('late ' || p_n % {BUYERS})::uuid $$;
insert into auth.users (id, email)
select bench.user_id(n), 'late-buyer-' || n || '@example.test' from generate_series(1, {BUYERS}) as n;
create sequence bench.purchases_made;
grant usage on schema bench to service_role;
grant usage on sequence bench.purchases_made to service_role;
"""

# as many as have left, by a copy of those that are there
REFILL = (
    """
    insert into public.payment_checkout_sessions
    select r.*
    from public.payment_checkout_sessions as s
    cross join lateral jsonb_populate_record(s, jsonb_build_object(
        'id', payments.new_time_ordered_id(s.user_id), 'created_at', now(), 'updated_at', now()
    )) as r
    where s.status not in ('pending', 'processing')
    limit {sessions}
    """,
    """
    insert into payments.notifications (
        session_id, user_id, kind, occurrence, email, payload, status, due_at, created_at
    )
    select payments.new_time_ordered_id(n.user_id), n.user_id, n.kind, '', n.email, n.payload, 'sent', now(), now()
    from payments.notifications as n limit {notifications}
    """,
    """
    insert into payments.webhook_events (provider, event_id, type, payload, status, session_id, received_at, handled_at)
    select
        e.provider, 'again_' || e.event_id, e.type, e.payload, 'handled',
        payments.new_time_ordered_id(e.session_id), now(), now()
    from payments.webhook_events as e limit {webhook_events}
    """,
    """
    insert into payments.session_events (session_id, from_status, to_status, source, created_at)
    select payments.new_time_ordered_id(e.session_id), e.from_status, e.to_status, e.source, now()
    from payments.session_events as e limit {session_events}
    """,
)


@dataclass
class Purge:
    """What one connection has deleted so far; ``milliseconds`` is how long each batch, a transaction, has taken."""

    url: str
    batch: int
    rests: float
    milliseconds: list[float] = field(default_factory=list)
    deleted: Counter[str] = field(default_factory=Counter)

    def run(self, stop: threading.Event) -> None:
        """Delete until told to stop, or until nothing is left."""
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute("set role service_role")
            while not stop.is_set():
                began = time.monotonic()
                row = connection.execute("select public.purge_old_payment_data(%s)", (self.batch,)).fetchone()
                assert row
                if not sum(row[0].values()):
                    return
                self.milliseconds.append((time.monotonic() - began) * 1000)
                self.deleted.update(row[0])
                stop.wait(self.rests * self.milliseconds[-1] / 1000)

    def line(self, what: str) -> str:
        rows = sum(self.deleted.values())
        ordered = sorted(self.milliseconds) or [math.inf]
        return (
            f"| {self.batch:,} | {what} | {len(ordered):,} | {rows / (sum(ordered) / 1000):,.0f}"
            f" | {statistics.median(ordered):.0f} | {ordered[int(len(ordered) * 0.99)]:.0f} | {ordered[-1]:.0f} |"
        )


class Shop:
    """The filled server."""

    def __init__(self, major: int, rows: int) -> None:
        self.server = LocalPostgres(major, durable=True, settings=SERVER_SETTINGS)
        self.url = self.server.create_look_alike("bench")
        migrate(self.url)
        self.admin = psycopg.connect(self.server.url("bench", SUPERUSER), autocommit=True)
        for file in (seed_file(), HERE / "fill.sql"):
            self.admin.execute(file.read_bytes())
        self.admin.execute("call bench.fill(%s, 800)", (int(rows / ROWS_PER_SESSION),))
        self.admin.execute(PREPARE.encode())
        self.admin.execute("vacuum analyze")
        self._logged = len(self._log())

    def buy(self, seconds: int) -> float:
        """Purchases per second."""
        (purchase,) = [scenario.script for scenario in SCENARIOS if scenario.name == "purchase"]
        with tempfile.NamedTemporaryFile("w", suffix=".sql") as script:
            script.write("select nextval('bench.purchases_made') as n \\gset\n" + purchase + "\n")
            script.flush()
            done = subprocess.run(
                [
                    self.server.bin / "pgbench", "--no-vacuum", "--protocol=prepared", f"--client={CLIENTS}",
                    "--jobs=2", f"--time={seconds}", f"--define=event={EVENT}", f"--file={script.name}", self.url,
                ],
                env={**os.environ, "PGOPTIONS": "-c role=service_role"}, capture_output=True, text=True, check=True,
            )  # fmt: skip
        found = re.search(r"^tps = ([0-9.]+)", done.stdout, re.MULTILINE)
        assert found, done.stdout
        assert "number of failed transactions: 0 " in done.stdout, done.stderr
        return float(found[1])

    def buy_while_it_purges(self, seconds: int, batch: int) -> tuple[float, Purge]:
        """Purchases per second beside a purge as a worker does it."""
        purge, stop = Purge(self.url, batch, CLEANUP_RESTS), threading.Event()
        thread = threading.Thread(target=purge.run, args=(stop,))
        thread.start()
        try:
            return self.buy(seconds), purge
        finally:
            stop.set()
            thread.join()

    def sizes(self) -> list[tuple[int, int]]:
        """MB of each table (with what is toasted) and of its indexes, once autovacuum has nothing left to do there."""
        for _ in range(600):
            row = self.admin.execute(
                "select bool_or(n_dead_tup > 0.2 * n_live_tup + 50) from pg_stat_user_tables"
                " where relid = any(%s::regclass[])",
                (list(TABLES),),
            ).fetchone()
            if row and not row[0]:
                break
            time.sleep(1)
        sizes = self.admin.execute(
            "select pg_table_size(t) >> 20, pg_indexes_size(t) >> 20 from unnest(%s::regclass[]) as t", (list(TABLES),)
        ).fetchall()
        return [(int(table), int(indexes)) for table, indexes in sizes]

    def long_waits(self) -> list[str]:
        """Locks that somebody has waited for, for more than 100 ms."""
        return re.findall(r"still waiting for (.*?) after", self._log()[self._logged :])

    def _log(self) -> str:
        return (self.server.data / "log").read_text()


def purge_of(purges: Sequence[Purge], batch: int) -> Purge:
    """All rounds with this size of batch as one."""
    rounds = [purge for purge in purges if purge.batch == batch]
    deleted: Counter[str] = Counter()
    for purge in rounds:
        deleted.update(purge.deleted)
    return Purge("", batch, 0, [time for purge in rounds for time in purge.milliseconds], deleted)


def measure(shop: Shop, seconds: int, rounds: int, batches: Sequence[int]) -> Iterator[str]:
    """Lines of Markdown."""
    before = shop.sizes()
    yield "| batch | beside | batches | rows/s | median ms | 99 % | longest |\n|---|---|---|---|---|---|---|"
    deleted: Counter[str] = Counter()
    purges: list[Purge] = []
    ratios = defaultdict(list)
    for batch in (batch for batch in batches for _ in range(rounds)):
        alone = shop.buy(seconds)
        beside, purge = shop.buy_while_it_purges(seconds, batch)
        purges.append(purge)
        ratios[batch].append(beside / alone)
        yield purge.line(f"{beside:,.0f} purchases/s, {beside / alone:.2f} of {alone:,.0f} without")
    for batch, found in ratios.items():
        yield purge_of(purges, batch).line(f"{statistics.median(found):.2f} ({min(found):.2f} to {max(found):.2f})")
    rest = Purge(shop.url, batches[0], 0)
    rest.run(threading.Event())
    yield rest.line("nobody")
    for purge in (*purges, rest):
        deleted.update(purge.deleted)
    yield f"\nDeleted: {dict(deleted)}. Locks that somebody waited for, for more than 100 ms: {shop.long_waits()}.\n"
    after = shop.sizes()
    for table in TABLES:  # empty index pages are used again after the second vacuum
        shop.admin.execute(f"vacuum {table}".encode())
    for statement in REFILL:
        shop.admin.execute(statement.format(**deleted).encode())
    again = shop.sizes()
    yield "| MB (and of its indexes) | full | purged | full again |\n|---|---|---|---|"
    for table, *sizes in zip(TABLES, before, after, again, strict=True):
        yield f"| `{table}` | " + " | ".join(f"{size:,} ({indexes:,})" for size, indexes in sizes) + " |"


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print Markdown."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.retention", description=__doc__)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--seconds", type=int, default=30, help="of each round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batches", type=int, nargs="+", default=[200, 500])
    chosen = parser.parse_args(arguments)
    shop = Shop(int(os.environ.get("PG", "18")), chosen.rows)
    try:
        for line in measure(shop, chosen.seconds, chosen.rounds, chosen.batches):
            print(line, flush=True)
    finally:
        shop.admin.close()
        shop.server.stop()


if __name__ == "__main__":
    main()
