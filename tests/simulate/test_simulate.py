"""Whole simulations: one that must end well, and some on databases in which something is broken on purpose."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import time
import uuid
from pathlib import Path
from typing import Any

import pytest

from bridge.simulate.database import PREFIX
from bridge.simulate.database import Database as SimulatedDatabase
from bridge.simulate.display import json_of
from bridge.simulate.faults import FAULTS
from bridge.simulate.records import Counts
from bridge.simulate.run import Options, simulate
from bridge.simulate.verdict import BAD
from tests.support.command import arguments, run
from tests.support.database import Database

MARK = "PGCHECKOUT_TEST_OF_SIMULATE"
ROW = {
    "name", "purchases", "paid", "fulfilled_once", "fulfilled_twice", "never", "in_review", "unpaid",
    "unpaid_fulfilled", "repair_seconds",
}  # fmt: skip


class Quiet:
    def phase(self, name: str) -> None: ...

    def tick(self, counts: Counts) -> None: ...


def command(*words: str, mark: str = "", **streams: Any) -> subprocess.Popen[str]:
    environment = {**os.environ, MARK: mark}
    return subprocess.Popen(arguments("simulate", *words), env=environment, text=True, **streams)


def marked(mark: str) -> list[str]:
    """The processes that descend from a command."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if f"{MARK}={mark}".encode() in (process / "environ").read_bytes():
                found.append((process / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        except OSError:
            continue
    return found


def played(db: Database, *, purchases: int, faults: set[str], **options: Any) -> dict[str, Any]:
    """The verdict on a simulation on this test's database, with one bridge and one worker."""
    database = SimulatedDatabase(db.url())
    database.hurry()
    chosen: dict[str, Any] = {
        "purchases": purchases, "seed": 1, "faults": frozenset(faults), "rate": 1.0, "providers": ("stripe", "sandbox"),
        "concurrency": 8, "schedule": "quick", "bridges": 1, "workers": 1, "patience": 3.0,
    }  # fmt: skip
    report = asyncio.run(simulate(Options(**(chosen | options)), database, Quiet()))
    answer: dict[str, Any] = json.loads(json_of(report))
    return answer


def change(db: Database, function: str, old: str, new: str) -> None:
    """Break a function of the engine."""
    source = db.value("select pg_get_functiondef(%s::regproc)", function)
    assert old in source
    db.sql(source.replace(old, new).replace("%", "%%"))


def test_forty_purchases_with_every_fault_lose_and_double_nothing() -> None:
    mark = uuid.uuid4().hex
    with command(
        "--purchases", "40", "--seed", "4", "--json", mark=mark, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        out, err = process.communicate(timeout=110)
    assert process.returncode == 0, out + err
    assert marked(mark) == []
    answer = json.loads(out)
    assert (answer["format"], answer["good"], answer["seed"]) == (1, True, 4)
    assert answer["bad"] == dict.fromkeys(BAD, 0)
    assert {frozenset(row) for row in [answer["total"], *answer["providers"], *answer["by_fault"]]} == {frozenset(ROW)}
    total = answer["total"]
    assert total["purchases"] == sum(row["purchases"] for row in answer["providers"]) == 40
    assert 0 < total["fulfilled_once"] == total["paid"] < 40
    assert set(total["repair_seconds"]) == {"p50", "p99", "max"}
    assert answer["strikes"].keys() >= {"kill -9 of a bridge", "kill -9 of a worker"}
    assert sum(answer["strikes"].values()) >= 4
    assert set(answer["faults"]) == set(FAULTS)
    assert answer["surprises"] == []
    assert answer["broken_invariants"] == []
    assert re.match("pgcheckout simulate --purchases 40 --seed 4 --faults all ", answer["command"])


def test_a_grant_that_counts_twice_is_found(db: Database) -> None:
    change(db, "payments.fulfil_credits", "(p_session.terms ->> 'credits')::bigint", "200")
    answer = played(db, purchases=8, faults=set())
    doubled = answer["bad"]["twice"]
    assert not answer["good"]
    assert 0 < doubled == answer["total"]["fulfilled_twice"] < 8  # not the subscriptions
    assert answer["total"]["fulfilled_once"] == 8 - doubled
    assert {broken["invariant"] for broken in answer["broken_invariants"]} == {
        "credits_are_granted_once_per_paid_session"
    }
    assert any("credits 200 for purchase" in line["what"] for line in answer["suspects"][0]["story"])


def test_money_that_nobody_asks_about_is_found(db: Database) -> None:
    answer = played(db, purchases=6, faults={"drop", "vanish"}, workers=0)
    assert not answer["good"]
    assert answer["bad"] == {**dict.fromkeys(BAD, 0), "lost": 6}
    assert answer["total"]["never"] == answer["total"]["paid"] == 6
    assert {tuple(suspect["wrongs"]) for suspect in answer["suspects"]} == {("lost",)}
    assert any("messages are dropped" in line["what"] for line in answer["suspects"][0]["story"])


def test_half_the_money_for_all_the_goods_is_found(db: Database) -> None:
    change(db, "payments.settle_capture", "v_capture.amount < v_session.amount", "false")
    answer = played(db, purchases=12, faults={"amount"})
    assert not answer["good"]
    wrong = answer["by_fault"][1]
    assert wrong["name"] == "amount"
    assert 0 < wrong["purchases"] == wrong["unpaid_fulfilled"] == answer["bad"]["unpaid_fulfilled"] < 12


def test_a_named_database_is_only_touched_on_purpose(db: Database, tmp_path: Path) -> None:
    def refused(*words: str) -> str:
        done = run(tmp_path, "simulate", "--purchases", "2", "--database-url", db.url(), *words)
        assert done.code == 1
        assert db.value("select count(*) from auth.users where starts_with(email, %s)", PREFIX) == 0
        assert db.value("select count(*) from public.payment_products where starts_with(id, %s)", PREFIX) == 0
        return done.out + done.err

    assert "Nothing was done." in refused("--schedule", "default")
    assert "The settings of a named database stay as they are." in refused()
    user = db.new_user()
    session = db.as_service().rpc("get_or_create_checkout_session", p_plan="credits_100", p_user_id=user)
    told = refused("--schedule", "default", "--yes-i-mean-this-database")
    assert "1 sessions in this database are not of a simulation and not settled." in told
    db.as_service().rpc("complete_checkout_session", p_session_id=session, p_stripe_session_id="cs_1")
    told = refused("--schedule", "default", "--yes-i-mean-this-database")
    assert "This database has sold things: 1 completed sessions" in told
    db.sql("drop function public.list_webhook_failures")
    db.sql("delete from supabase_migrations.schema_migrations where version = (select max(version) from"
           " supabase_migrations.schema_migrations)")  # fmt: skip
    assert "1 migrations are missing" in refused("--schedule", "default", "--yes-i-mean-this-database")


def test_a_named_and_confirmed_database_keeps_what_it_had(db: Database, tmp_path: Path) -> None:
    user = db.new_user()
    session = db.as_service().rpc("get_or_create_checkout_session", p_plan="credits_100", p_user_id=user)
    db.as_service().rpc("complete_checkout_session", p_session_id=session, p_stripe_session_id="cs_1")
    before = kept(db)
    done = run(
        tmp_path, "simulate", "--purchases", "3", "--seed", "1", "--faults", "database", "--schedule", "default",
        "--database-url", db.url(), "--yes-i-mean-this-database", "--despite-real-sales",
    )  # fmt: skip
    assert done.code == 0, done.out + done.err
    assert "This database will be changed" in done.out
    assert "NOTHING LOST, NOTHING DOUBLED: 3 paid, 3 fulfilled once, 0 in review." in done.out
    assert "our connections to the database are cut" in done.out
    assert kept(db) == before
    assert not db.sql("select from public.payment_products where starts_with(id, 'simulation_') and active")


def kept(db: Database) -> list[Any]:
    return [
        db.sql("select * from public.payment_checkout_sessions where not starts_with(product_id, 'simulation_')"),
        db.sql("select * from public.payment_products where not starts_with(id, 'simulation_') order by id"),
        db.sql("select * from payments.settings"),
        db.sql("select * from auth.users where not starts_with(email, 'simulation_')"),
    ]


@pytest.mark.parametrize(
    ("ending", "moment"), [(signal.SIGTERM, "playing ..."), (signal.SIGINT, "starting bridges and workers ...")]
)
def test_a_simulation_that_is_ended_leaves_nothing_behind(ending: signal.Signals, moment: str) -> None:
    mark = uuid.uuid4().hex
    with command("--purchases", "3000", mark=mark, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        assert process.stdout is not None
        lines = iter(process.stdout)
        assert any(moment in line for line in lines)
        assert any("postgres" in line for line in marked(mark))
        process.send_signal(ending)
        rest, _ = process.communicate(timeout=30)
    assert process.returncode == 130, rest
    assert "Stopped; nothing is left behind." in rest
    deadline = time.monotonic() + 10
    while marked(mark) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert marked(mark) == []


def test_a_database_that_cannot_be_reached_is_named_without_its_password(tmp_path: Path) -> None:
    url = "postgresql://postgres:hunter2@127.0.0.1:1/shop"
    done = run(tmp_path, "simulate", "--database-url", url, "--schedule", "default")
    assert done.code == 2
    assert "The database at 127.0.0.1:1 cannot be reached: Connection refused." in done.err
    assert "hunter2" not in done.out + done.err


def test_wrong_words_are_answered_with_the_right_ones(tmp_path: Path) -> None:
    done = run(tmp_path, "simulate", "--faults", "earthquake")
    assert (done.code, "There are: duplicate, reorder," in done.err) == (1, True)
