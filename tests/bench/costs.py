"""What calls cost one core without protocol and disk, and which functions it goes to: ``python -m tests.bench.costs``.

Each call is made by thousands of buyers in a loop inside the server, a transaction each, on one connection that waits
for no disk. Postgres itself counts the time of each function without those that it calls (``track_functions``).
"""

from __future__ import annotations

import argparse
import os
import re
import time
from collections.abc import Sequence
from pathlib import Path

import psycopg

from tests.bench.run import Bench
from tests.bench.scenarios import EVENT, SCENARIOS, Scenario

__all__ = ["main"]

MEASURED = (
    "floor", "naive create", "create", "reuse", "naive complete", "complete", "replay", "outcome", "rows of create",
    "rows of complete", "rows of outcome",
)  # fmt: skip
SHOWN = 12

_LOOP = "do $loop$ begin for i in {first}..{last} loop {call} commit; end loop; end $loop$"
_FUNCTIONS = """
select format('%%s.%%s', schemaname, funcname), self_time * 1000 / %(calls)s
from pg_stat_user_functions
where schemaname in ('payments', 'public', 'rows') and calls > 0
order by self_time desc
limit %(shown)s
"""


def measure(bench: Bench, connection: psycopg.Connection, scenario: Scenario, first: int, calls: int) -> float:
    """Microseconds of CPU per call."""
    block = {"next_first": first, "next_last": first + calls - 1, "first": first, "last": first + calls - 1}
    for statement in filter(None, scenario.before.format(**block).split(";")):
        bench.database.execute(statement.encode())
    call = re.sub(r":n\b", "i", scenario.script.replace(":event", f"'{EVENT}'"))
    # PL/pgSQL has no bare SELECT
    call = re.sub("^select (\\* from )?", "perform ", call)
    bench.watcher.execute("select pg_stat_reset()")
    began = _cpu(connection)
    connection.execute(_LOOP.format(first=first, last=first + calls - 1, call=call).encode())
    return (_cpu(connection) - began) / calls


def _cpu(connection: psycopg.Connection) -> float:
    """Microseconds that the connection's server process has run."""
    return int(Path(f"/proc/{connection.info.backend_pid}/schedstat").read_text().split()[0]) / 1000


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print, each as a multiple of the floor too."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=3000)
    calls: int = parser.parse_args(arguments).calls
    bench = Bench(int(os.environ.get("PG", "18")))
    try:
        bench.watcher.execute("alter system set track_functions = 'pl'")
        bench.watcher.execute("select pg_reload_conf()")
        time.sleep(0.5)  # until it has arrived
        bench.database.execute("call bench.add_users(1, %s)", (calls,))
        floor, first = 0.0, 1
        with psycopg.connect(bench.server.url("bench"), autocommit=True) as connection:
            connection.execute("set synchronous_commit = off")
            for scenario in (scenario for scenario in SCENARIOS if scenario.name in MEASURED):
                if "next_first" in scenario.before:
                    first += calls
                cost = measure(bench, connection, scenario, first, calls)
                floor = floor or cost
                print(f"{scenario.name}: {cost:.0f} µs, {cost / floor:.1f} x floor")
                connection.execute("select pg_stat_force_next_flush()")
                connection.execute("select 1")
                for name, self_time in bench.watcher.execute(_FUNCTIONS, {"calls": calls, "shown": SHOWN}):
                    print(f"    {self_time:6.1f}  {name}")
    finally:
        bench.close()


if __name__ == "__main__":
    main()
