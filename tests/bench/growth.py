"""Whether calls stay as cheap as the shop grows: ``python -m tests.bench.growth`` (30 GB of disk; ``--sizes 10000``).

Each size gets a server of its own, filled with a shop of two years and as many rows in the floor's table; then the
scenarios of the benchmark run there with one client.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from tests.bench.run import HERE, SERVER_SETTINGS, Bench, Result, machine, measure, median
from tests.bench.scenarios import SCENARIOS, Scenario

__all__ = ["SETTINGS", "fill", "main"]

SIZES = (10_000, 1_000_000, 10_000_000)
DAYS = 730
CALLS, DUE, ROUNDS = 500, 5_000, 5
QUICK = (20, 50, 0)
# Vacuum would mix its own pages into the counts. Little WAL while filling, and none for tables that are filled in the
# transaction that truncates them.
SETTINGS = (*SERVER_SETTINGS, "autovacuum=off", "wal_level=minimal", "max_wal_senders=0", "max_wal_size=2GB")
FILL_FLOOR = """
begin;
truncate floor.sessions;
update pg_index set indisready = false where indrelid = 'floor.sessions'::regclass;
insert into floor.sessions (user_id, product_id, amount, currency)
select md5('buyer ' || n / 3)::uuid, 'x', 500, 'USD' from generate_series(1, {sessions}) as n;
reindex table floor.sessions;
commit;
"""
FLOOR, EXPIRE, REPORT = (
    next(scenario for scenario in SCENARIOS if scenario.name == name)
    for name in ("floor", "expire, per session", "report")
)
LATEST = "select * from public.get_latest_checkout_session(md5('buyer ' || (:n::bigint * 7919) % {buyers})::uuid);"
ANY_BUYER = "latest, any buyer"
SHOWN = (
    "floor", "create", "quote", "reuse", "latest", ANY_BUYER, "complete", "outcome", "replay", "same outcome again",
    "refund", EXPIRE.name,
)  # fmt: skip


@dataclass(frozen=True)
class Shop:
    """What was measured in one: by name of the call, and how many sessions its last seven days have."""

    sessions: int
    week: int
    results: dict[str, list[Result]]

    def buffers(self, name: str) -> float:
        return median(self.results[name], "buffers")

    def microseconds(self, name: str) -> float:
        return 1e6 / median(self.results[name], "calls_per_second")


def fill(bench: Bench, sessions: int, days: int = DAYS) -> None:
    """Make it a shop with a past."""
    began = time.monotonic()
    bench.watcher.execute((HERE / "fill.sql").read_bytes())
    bench.watcher.execute("call bench.fill(%s, %s)", (sessions, days))
    bench.watcher.execute(FILL_FLOOR.format(sessions=sessions).encode())
    bench.watcher.execute("vacuum (freeze, analyze)")
    bench.watcher.execute("checkpoint")
    row = bench.watcher.execute("select pg_size_pretty(pg_database_size(current_database()))").fetchone()
    print(f"{sessions:,} sessions, {row and row[0]}, in {time.monotonic() - began:,.0f} s", file=sys.stderr)


def measure_shop(bench: Bench, sessions: int, calls: int, due: int, rounds: int) -> Shop:
    """Fill it and measure: the report first, of the past alone."""
    fill(bench, sessions)
    row = bench.watcher.execute(
        "select count(*) from public.payment_checkout_sessions"
        " where id >= payments.first_id_at(now() - interval '7 days')"
    ).fetchone()
    results = measure(bench, 1, 1, rounds, [REPORT])
    called = [scenario for scenario in SCENARIOS if scenario not in (EXPIRE, REPORT)]
    called.append(Scenario(ANY_BUYER, LATEST.format(buyers=sessions // 3)))
    results |= measure(bench, 1, calls, rounds, called)
    results |= measure(bench, 1, due, rounds, [EXPIRE])
    return Shop(sessions, row[0] if row else 0, results)


def table(shops: Sequence[Shop]) -> Iterator[str]:
    """Rows of Markdown."""
    sizes = " | ".join(f"{shop.sessions:,}" for shop in shops)
    yield f"| pages touched | {sizes} | last / first |"
    yield "|---" * (len(shops) + 2) + "|"
    for name in SHOWN:
        pages = [shop.buffers(name) for shop in shops]
        yield f"| {name} | {' | '.join(f'{page:.1f}' for page in pages)} | {pages[-1] / pages[0]:.2f} |"
    yield f"\n| µs (times the floor's) | {sizes} |"
    yield "|---" * (len(shops) + 1) + "|"
    for name in SHOWN:
        times = (
            f"{shop.microseconds(name):,.0f} ({shop.microseconds(name) / shop.microseconds('floor'):.2f})"
            for shop in shops
        )
        yield f"| {name} | {' | '.join(times)} |"
    yield f"\n| `payment_report(7)` | {sizes} |"
    yield "|---" * (len(shops) + 1) + "|"
    yield f"| sessions in the seven days | {' | '.join(f'{shop.week:,}' for shop in shops)} |"
    yield f"| ms | {' | '.join(f'{shop.microseconds(REPORT.name) / 1e3:,.0f}' for shop in shops)} |"
    yield f"| pages touched | {' | '.join(f'{shop.buffers(REPORT.name):,.0f}' for shop in shops)} |"


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure each size and print the tables."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.growth", description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="sessions in the shop")
    parser.add_argument("--quick", action="store_true", help="a few calls each: shows that it works")
    chosen: Any = parser.parse_args(arguments)
    shops = []
    for sessions in chosen.sizes:
        bench = Bench(int(os.environ.get("PG", "18")), SETTINGS)
        try:
            shops.append(measure_shop(bench, sessions, *(QUICK if chosen.quick else (CALLS, DUE, ROUNDS))))
            measured_on = machine(bench)
        finally:
            bench.close()
    print(f"Measured on {measured_on}.\n")
    print("\n".join(table(shops)))


if __name__ == "__main__":
    main()
