"""How long the pages of the dashboard take in a large shop: ``python -m tests.bench.dashboard`` (``--sessions 10000``).

A shop with that many sessions in 90 days and a thousand reviews; a running bridge; one operator. Times are those of
whole answers over HTTP, of the first request and of the slowest of the following ones; beside them, in the same run,
those of ``/healthz``, which asks nobody.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Iterator, Sequence
from typing import Any

import httpx

from tests.bench.growth import SETTINGS, fill
from tests.bench.run import Bench, machine
from tests.support.bridge import running_bridge
from tests.support.database import Database

__all__ = ["main"]

DAYS = 90
REVIEWS = 1000
TIMES = 21
TOKEN = "the-admin-token-of-the-benchmark"
_IN_REVIEW = """
update public.payment_checkout_sessions set review_reason = 'overpaid'
where id in (select s.id from public.payment_checkout_sessions as s where s.status = 'completed' limit {reviews})
"""


def pages(bench: Bench) -> Iterator[tuple[str, str]]:
    """What it is, and where."""
    row = bench.watcher.execute(
        "select s.id, s.user_id, a.reference from public.payment_checkout_sessions as s"
        " inner join payments.attempts as a on s.id = a.session_id where s.status = 'completed' limit 1"
    ).fetchone()
    session_id, user_id, reference = row or ("", "", "")
    yield "floor: /healthz", "/healthz"
    for days in (7, 30, 90):
        yield f"overview, {days} days", f"/dashboard?days={days}"
    yield "sessions", "/dashboard/sessions"
    yield "sessions, failed, ever", "/dashboard/sessions?since=&status=failed"
    yield "sessions of a provider that sold nothing", "/dashboard/sessions?since=90&provider=hypay"
    yield "sessions of a user, ever", f"/dashboard/sessions?since=&user={user_id}"
    yield "a session", f"/dashboard/sessions/{session_id}"
    yield "find a reference", f"/dashboard/find?q={reference}"
    yield "reviews", "/dashboard/reviews"
    yield "dead letters", "/dashboard/dead-letters"


def measure(http: httpx.Client, path: str) -> list[float]:
    """Milliseconds of each request."""
    found = []
    for _ in range(TIMES):
        began = time.perf_counter()
        response = http.get(path, follow_redirects=False)
        found.append((time.perf_counter() - began) * 1000)
        assert response.status_code in {200, 303}, response.text
        assert "sign-in" not in response.headers.get("location", ""), path
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Fill, measure, print a table."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.dashboard", description=__doc__)
    parser.add_argument("--sessions", type=int, default=1_000_000)
    parser.add_argument("--quick", action="store_true", help="a small shop: shows that it works")
    chosen: Any = parser.parse_args(arguments)
    sessions = 2_000 if chosen.quick else chosen.sessions
    bench = Bench(int(os.environ.get("PG", "18")), SETTINGS)
    try:
        fill(bench, sessions, DAYS)
        bench.watcher.execute("set session_replication_role = replica")
        bench.watcher.execute(_IN_REVIEW.format(reviews=REVIEWS).encode())
        bench.watcher.execute("vacuum analyze public.payment_checkout_sessions")
        db = Database("127.0.0.1", bench.server.port, "bench")
        with running_bridge(db, admin_token=TOKEN) as bridge:
            bridge.http.post("/dashboard/sign-in", data={"token": TOKEN, "name": "Ann"})
            rows = [(name, measure(bridge.http, path)) for name, path in pages(bench)]
        print(f"{sessions:,} sessions in {DAYS} days. Measured on {machine(bench)}.\n")
    finally:
        bench.close()
    print("| page | first, ms | median | slowest |\n|---|---|---|---|")
    for name, (first, *others) in rows:
        print(f"| {name} | {first:.0f} | {statistics.median(others):.1f} | {max(others):.0f} |")


if __name__ == "__main__":
    main()
