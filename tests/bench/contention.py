"""64 clients on one buyer, coupon, group or account: ``python -m tests.bench.contention`` (--quick: a glance).

Each scene ends with a look at the rows: if they are not exactly what they must be, if a guarantee is broken or there
was one deadlock, it fails. Throughput is shown as a ratio to the floor (a bare insert) of as many clients in the same
round.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from tests.bench.run import HERE, Bench, Result, machine, median
from tests.bench.scenarios import SCENARIOS, Scenario

__all__ = ["SCENES", "main"]

_OWN = {scenario.name: scenario.script for scenario in SCENARIOS}
# the n-th call of every client is about the same purchase
_SAME = "\\set n {first} + :i\n"
_ONE = "\\set n {first}\n"
_BUYERS = "call bench.add_users({first}, {last});"
_PAGES = _BUYERS + "call bench.collect({first}, {last}); call bench.open_pages({first}, {last});"
_SESSIONS = (
    "public.payment_checkout_sessions as s where s.user_id in"
    " (select bench.user_id(n) from generate_series({first}, {last}) as n)"
)
_GIVEN_ONCE = (
    "select (count(*), count(distinct c.session_id), sum(b.balance), sum(e.amount))"
    " = ({purchases}, {purchases}, {purchases} * 100, {purchases} * 100)"
    " from bench.purchases as p"
    " inner join payments.captures as c on p.session_id = c.session_id"
    " inner join public.payment_credit_entries as e on e.source = p.session_id::text"
    " inner join public.payment_credit_balances as b on b.user_id = bench.user_id(p.n)"
    " where p.n between {first} and {last}"
)
_LEDGER = (
    "select b.balance = {credits} and b.balance = ("
    "select sum(e.amount) from public.payment_credit_entries as e where e.user_id = b.user_id"
    ") from public.payment_credit_balances as b where b.user_id = bench.user_id({first})"
)


@dataclass(frozen=True)
class Scene:
    """``script`` is one call, ``before`` prepares, and ``truth`` must be true afterwards; ``says`` is it in words.

    In all three, ``{{first}}`` to ``{{last}}`` are buyers of this scene: as many as calls, or as one client makes where
    they are ``shared`` by all; ``{{calls}}`` is how many calls are made, and ``{{half}}`` of them.
    """

    name: str
    script: str
    before: str
    truth: str
    says: str
    shared: bool = False
    calls: int | None = None


SCENES = (
    Scene(
        "one buyer asks for one purchase",
        _SAME + _OWN["create"],
        _BUYERS,
        f"select count(*) = {{purchases}} and bool_and(s.status = 'pending') from {_SESSIONS}",
        "one session",
        shared=True,
    ),
    Scene(
        "one payment is told as a completion",
        _SAME + _OWN["complete"],
        _PAGES,
        _GIVEN_ONCE,
        "one capture, one fulfilment",
        shared=True,
    ),
    Scene(
        "one event is delivered",
        _SAME + _OWN["outcome"],
        _PAGES,
        _GIVEN_ONCE,
        "one capture, one fulfilment",
        shared=True,
    ),
    Scene(
        "one event is delivered, long after",
        _ONE + _OWN["same outcome again"],
        _PAGES + "call bench.pay({first}, {last});",
        _GIVEN_ONCE,
        "one capture, one fulfilment",
        shared=True,
    ),
    Scene(
        "a coupon without a cap",
        "select bench.buy_with_coupon(:n, 'ANY{first}');",
        _BUYERS + "insert into payments.coupons (id, percent_off) values ('ANY{first}', 10);",
        "select c.places_taken = {calls} and count(*) = {calls} from payments.coupons as c"
        " inner join payments.coupon_redemptions as r on c.id = r.coupon_id"
        " where c.id = 'ANY{first}' group by c.places_taken",
        "a place for each",
    ),
    Scene(
        "a coupon with places for half of them",
        "select bench.buy_with_coupon(:n, 'FEW{first}');",
        _BUYERS + "insert into payments.coupons (id, percent_off, max_redemptions) values ('FEW{first}', 10, {half});",
        "select c.places_taken = {half} and count(*) = {half} and {calls} - {half} = (select count(*)"
        " from bench.refusals as f where f.reason = 'coupon_exhausted' and f.n between {first} and {last}"
        ") from payments.coupons as c inner join payments.coupon_redemptions as r on c.id = r.coupon_id"
        " where c.id = 'FEW{first}' group by c.places_taken",
        "each place once, the others refused",
    ),
    Scene(
        "a group with places for half of them",
        _OWN["complete"],
        _BUYERS + "call bench.open_group({half}, {first}, {last});",
        "select count(*) = {calls} and bool_and(s.status = 'completed')"
        " and count(*) filter (where s.fulfilment_status = 'fulfilled') = {half} - 1"
        " and count(*) filter (where s.error_code = 'group_full') = {calls} - {half} + 1"
        " and array(select m.position from public.payment_group_members as m where m.group_id = p.naive_id"
        " order by m.position) = array(select generate_series(1, {half}))"
        " from bench.purchases as p inner join public.payment_checkout_sessions as s on p.session_id = s.id"
        " where p.n between {first} and {last} group by p.naive_id",
        "each place once, the others in review",
        calls=25,
    ),
    Scene(
        "an account with credits for some of them is spent from",
        "select bench.spend({first}, :n);",
        _BUYERS + "call bench.open_many({first}, {first}, {first} + {calls} / 200);"
        " call bench.pay({first}, {first} + {calls} / 200);",
        _LEDGER.format(credits=0, first="{first}"),
        "nothing left, never less",
    ),
    Scene(
        "payments that credit one account",
        _OWN["complete"],
        _BUYERS + "call bench.open_many({first}, {first}, {last});",
        _LEDGER.format(credits="{calls} * 100", first="{first}"),
        "the balance is the sum of the entries",
    ),
)


class Arena:
    """The server, prepared, and the floor of this many clients."""

    def __init__(self, clients: int, share: int) -> None:
        self.clients, self.share = clients, share
        self.bench = Bench(int(os.environ.get("PG", "18")))
        self.bench.database.execute((HERE / "contention.sql").read_bytes())

    def play(self, scene: Scene) -> Result:
        """One scene, and its truth."""
        share = min(scene.calls or self.share, self.share)
        calls = share * self.clients
        purchases = share if scene.shared else calls
        numbers = {"calls": calls, "half": calls // 2, "purchases": purchases} | self.bench.buyers(purchases)
        self.bench.database.execute(scene.before.format(**numbers).encode())
        scenario = Scenario(scene.name, scene.script.format(**numbers))
        result = self.bench.run(scenario, self.clients, share, numbers["first"])
        if self._ask(scene.truth.format(**numbers)) is not True:
            sys.exit(f"{scene.name}: not true afterwards: {scene.says}")
        return result

    def check(self) -> None:
        """No guarantee is broken, and nobody was a deadlock's victim."""
        self._ask("select payments.assert_invariants()")
        if self._ask("select deadlocks from pg_stat_database where datname = current_database()"):
            sys.exit("there were deadlocks")

    def _ask(self, query: str) -> Any:
        row = self.bench.watcher.execute(query.encode()).fetchone()
        return row[0] if row else None


def measure(arena: Arena, rounds: int) -> dict[str, list[Result]]:
    """``rounds`` rounds: the floor, then all scenes."""
    results = defaultdict(list)
    floor = next(scenario for scenario in SCENARIOS if scenario.name == "floor")
    for number in range(rounds):
        print(f"{arena.clients} clients, round {number + 1} of {rounds}", file=sys.stderr)
        first = arena.bench.buyers(arena.share * arena.clients)["first"]
        results["floor"].append(arena.bench.run(floor, arena.clients, arena.share, first))
        for scene in SCENES:
            results[scene.name].append(arena.play(scene))
    arena.check()
    return dict(results)


def table(results: dict[str, list[Result]]) -> Iterator[str]:
    """Rows of Markdown."""
    yield "| what all clients want at once | calls/s | of the floor | WAL B | true afterwards |"
    yield "|---|---|---|---|---|"
    floor = [run.calls_per_second for run in results["floor"]]
    says = {scene.name: scene.says for scene in SCENES}
    for name, runs in results.items():
        ratio = statistics.median(run.calls_per_second / rival for run, rival in zip(runs, floor, strict=True))
        yield (
            f"| {name} | {median(runs, 'calls_per_second'):,.0f} | {ratio:.2f} | {median(runs, 'wal'):,.0f}"
            f" | {says.get(name, '')} |"
        )


def main(arguments: Sequence[str] | None = None) -> None:
    """Play all scenes and print the table."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.contention", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one short round: shows that it stays correct")
    parser.add_argument("--clients", type=int, default=64)
    chosen: Any = parser.parse_args(arguments)
    arena = Arena(chosen.clients, 8 if chosen.quick else 100)
    try:
        lines = [f"Measured on {machine(arena.bench)}, {arena.clients} clients.\n"]
        lines += table(measure(arena, 1 if chosen.quick else 3))
    finally:
        arena.bench.close()
    print("\n".join(lines))


if __name__ == "__main__":
    main()
