"""Measures the functions against a floor and against what people write by hand: ``make bench`` (QUICK=1: a glance).

Starts a durable Postgres of its own (fsync on). Every round runs all scenarios one after the other, so that a slow
minute of the machine slows both sides of a ratio; what is shown is the median ratio and its range over the rounds.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg

from bridge.local.postgres import SUPERUSER, LocalPostgres
from bridge.migrations import migrate, seed_file
from tests.bench.scenarios import EVENT, SCENARIOS, Scenario

__all__ = ["HERE", "SERVER_SETTINGS", "Bench", "Result", "machine", "main", "measure", "median"]

HERE = Path(__file__).parent
REPORT = HERE.parents[1] / "docs" / "benchmarks.md"
SERVER_SETTINGS = ("shared_buffers=512MB", "max_wal_size=8GB", "checkpoint_timeout=1h", "autovacuum_naptime=10s")
# buffers: pages of tables, indexes and sequences; what a new connection reads of the catalogs is not the call's
COUNTERS = """
select
    (select wal_bytes from pg_stat_wal),
    (
        select sum(heap_blks_hit + heap_blks_read + coalesce(idx_blks_hit + idx_blks_read, 0)
            + coalesce(toast_blks_hit + toast_blks_read + tidx_blks_hit + tidx_blks_read, 0))
        from pg_statio_user_tables
    ) + (select sum(blks_hit + blks_read) from pg_statio_user_sequences),
    sum(n_tup_upd),
    sum(n_tup_hot_upd)
from pg_stat_user_tables
where schemaname in ('public', 'payments')
"""


@dataclass(frozen=True)
class Result:
    """One run. ``wal`` bytes, ``buffers`` pages touched and ``hot`` (share of HOT updates) are per call."""

    calls_per_second: float
    wal: float
    buffers: float
    hot: float | None


class Bench:
    """A server with the engine, its rivals, and buyers."""

    def __init__(self, major: int, settings: tuple[str, ...] = SERVER_SETTINGS) -> None:
        self.server = LocalPostgres(major, durable=True, settings=settings)
        url = self.server.create_look_alike("bench")
        migrate(url)
        self.database = psycopg.connect(url, autocommit=True)
        self.watcher = psycopg.connect(self.server.url("bench", SUPERUSER), autocommit=True)
        self.watcher.execute(seed_file().read_bytes())
        self.watcher.execute("grant usage on schema auth to postgres; grant all on auth.users to postgres")
        self.watcher.execute("grant create on database bench to postgres")
        for file in ("floor", "naive", "stage", "rows"):
            self.database.execute((HERE / f"{file}.sql").read_bytes())
        self._next = 1

    def round(self, clients: int, calls: int, scenarios: Sequence[Scenario]) -> dict[str, Result]:
        """The scenarios once, with buyers that nobody has used before."""
        share = calls // clients
        block = self.buyers(share * clients)
        first = block["first"]
        self.database.execute("call bench.add_users(%s, %s)", (block["first"], block["last"]))
        results = {}
        for scenario in scenarios:
            following = block
            if "next_first" in scenario.before:
                following = self.buyers(share * clients)
                first = following["first"]
            numbers = block | {"next_first": first, "next_last": following["last"]}
            for statement in filter(None, scenario.before.format(**numbers).split(";")):
                self.database.execute(statement.encode())
            results[scenario.name] = self.run(scenario, clients, scenario.calls or share, first)
        return results

    def run(self, scenario: Scenario, clients: int, share: int, first: int) -> Result:
        """One scenario: ``share`` calls by each of ``clients``, with the buyers from ``first`` on."""
        times, callers = (1, 1) if scenario.at_once else (share, clients)
        before = self._counters()
        output = self._pgbench(scenario, callers, times, first)
        found = re.search(r"^tps = ([0-9.]+)", output, re.MULTILINE)
        if not found or "number of failed transactions: 0 " not in output:
            sys.exit(f"{scenario.name} failed:\n{output}")
        after = self._counters()
        used = {name: after[name] - before[name] for name in after}
        calls = share * clients
        return Result(
            calls_per_second=float(found[1]) * calls / (times * callers),
            wal=used["wal"] / calls,
            buffers=used["buffers"] / calls,
            hot=used["hot"] / used["updates"] if used["updates"] else None,
        )

    def _pgbench(self, scenario: Scenario, clients: int, share: int, first: int) -> str:
        number = f"\\set i :i + 1\n\\set n {first} + :client_id * {share} + :i\n"
        with tempfile.NamedTemporaryFile("w", suffix=".sql") as script:
            script.write(number + scenario.script + "\n")
            script.flush()
            done = subprocess.run(
                [
                    self.server.bin / "pgbench", "--no-vacuum", "--protocol=prepared", f"--client={clients}",
                    f"--jobs={min(clients, 2)}", f"--transactions={share}", "--define=i=-1", f"--define=event={EVENT}",
                    f"--file={script.name}", self.server.url("bench"),
                ],
                env={**os.environ, "PGOPTIONS": "-c role=service_role"}, capture_output=True, text=True, check=False,
            )  # fmt: skip
        return done.stdout + done.stderr

    def buyers(self, count: int) -> dict[str, int]:
        """Numbers of buyers that nobody has used before: ``{first, last}``."""
        first = self._next
        self._next += count
        return {"first": first, "last": first + count - 1}

    def _counters(self) -> dict[str, float]:
        # a backend hands in its counts before it leaves this list
        while self.watcher.execute("select 1 from pg_stat_activity where application_name = 'pgbench'").fetchone():
            time.sleep(0.01)
        self.watcher.execute("select pg_stat_clear_snapshot()")
        row = self.watcher.execute(COUNTERS).fetchone()
        assert row
        return dict(zip(("wal", "buffers", "updates", "hot"), map(float, row), strict=True))

    def close(self) -> None:
        self.database.close()
        self.watcher.close()
        self.server.stop()


def measure(
    bench: Bench, clients: int, calls: int, rounds: int, scenarios: Sequence[Scenario] = SCENARIOS
) -> dict[str, list[Result]]:
    """``rounds`` rounds after one that warms up."""
    results = defaultdict(list)
    for number in range(rounds + 1):
        print(f"{clients} clients, round {number} of {rounds}", file=sys.stderr)
        for name, result in bench.round(clients, calls, scenarios).items():
            if number or not rounds:
                results[name].append(result)
    return dict(results)


def table(results: dict[str, list[Result]], clients: int) -> Iterator[str]:
    """Rows of Markdown."""
    yield f"### {clients} client{'s' if clients > 1 else ''}\n"
    yield "| work | calls/s | ratio (range) | target | WAL B | buffers | HOT |"
    yield "|---|---|---|---|---|---|---|"
    for scenario in SCENARIOS:
        runs = results[scenario.name]
        ratios = [
            run.calls_per_second / rival.calls_per_second
            for run, rival in zip(runs, results[scenario.rival], strict=True)
        ]
        target = scenario.target[min(clients > 1, len(scenario.target) - 1)] if scenario.target else None
        beside = "" if scenario.rival == "floor" else f" of {scenario.rival}"
        hot = [run.hot for run in runs if run.hot is not None]
        yield (
            f"| {scenario.name} | {median(runs, 'calls_per_second'):,.0f}"
            f" | {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}){beside}"
            f" | {f'≥ {target:.2f}' if target else ''} | {median(runs, 'wal'):,.0f} | {median(runs, 'buffers'):.0f}"
            f" | {f'{statistics.median(hot):.0%}' if hot else ''} |"
        )
    yield ""


def median(runs: Sequence[Result], field: str) -> float:
    """Of one field of :class:`Result`."""
    return float(statistics.median(getattr(run, field) for run in runs))


def machine(bench: Bench) -> str:
    """What it was measured on, in a line."""
    row = bench.database.execute("show server_version").fetchone()
    version = row[0] if row else "?"
    model = (
        re.search(r"model name\s*:\s*(.*)", Path("/proc/cpuinfo").read_text())
        if Path("/proc/cpuinfo").exists()
        else None
    )
    return f"{os.cpu_count()} cores, {model[1] if model else platform.machine()}, PostgreSQL {version}, fsync on"


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print; write docs/benchmarks.md when asked."""
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one short round each: shows that it works")
    parser.add_argument("--write", action="store_true", help="put the tables into docs/benchmarks.md")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 16])
    chosen: Any = parser.parse_args(arguments)
    bench = Bench(int(os.environ.get("PG", "18")))
    try:
        lines = [f"Measured on {machine(bench)}.\n"]
        for clients in chosen.clients:
            calls = 160 if chosen.quick else 2000 if clients == 1 else 6400
            lines += table(measure(bench, clients, calls, 0 if chosen.quick else 5), clients)
    finally:
        bench.close()
    print("\n".join(lines))
    if chosen.write:
        head, _, _ = REPORT.read_text().partition("<!-- figures -->")
        REPORT.write_text(head + "<!-- figures -->\n\n" + "\n".join(lines))


if __name__ == "__main__":
    main()
