"""``pgcheckout demo --once``, and whether its judgement can be trusted."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest

from bridge.demo.purchase import buy_once
from bridge.demo.stack import Stack

PGCHECKOUT = Path(sys.executable).with_name("pgcheckout")

# each makes one purchase count for more than one: what the demo then reads in the database, and how it came there
SWINDLES = {
    "2 credit entries": (
        "public.payment_credit_entries",
        "insert into public.payment_credit_entries (user_id, amount, reason, source, created_at)"
        " values (new.user_id, new.amount, 'swindle', new.source, now())",
    ),
    "200 credits": (
        "public.payment_credit_entries",
        "insert into public.payment_credit_balances (user_id, balance, updated_at)"
        " values (new.user_id, new.amount, now())",
    ),
    "2 captures": (
        "payments.captures",
        "insert into payments.captures (provider, provider_payment_id, session_id, amount, currency, disposition,"
        " paid_at, created_at) values (new.provider, 'swindle', new.session_id, new.amount, new.currency, 'duplicate',"
        " now(), now())",
    ),
    "2 audit rows": (
        "payments.session_events",
        "insert into payments.session_events (session_id, from_status, to_status, source, created_at)"
        " values (new.session_id, new.from_status, new.to_status, 'admin', now())",
    ),
}


def test_demo_once_makes_one_purchase_and_says_so() -> None:
    done = subprocess.run([PGCHECKOUT, "demo", "--once"], capture_output=True, text=True, timeout=90, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "exactly one fulfilment"
    assert done.stderr == ""


@pytest.mark.parametrize("swindle", SWINDLES)
def test_a_purchase_that_counts_twice_is_noticed(stack: Stack, swindle: str) -> None:
    said: list[str] = []
    assert buy_once(stack, said.append)
    table, statement = SWINDLES[swindle]
    with psycopg.connect(stack.database_url, autocommit=True) as owner:
        owner.execute(
            "create function payments.swindle() returns trigger language plpgsql security definer set search_path = ''"
            f" as $$ begin {statement}; return null; end $$"
        )
        owner.execute(
            f"create trigger swindle after insert on {table} for each row"
            " when (pg_trigger_depth() = 0) execute function payments.swindle()"
        )
        try:
            assert not buy_once(stack, said.append)
            assert swindle in said[-1]
        finally:
            owner.execute("drop function payments.swindle() cascade")
    assert buy_once(stack, said.append), said


@pytest.mark.parametrize("ending", [signal.SIGTERM, signal.SIGHUP])
def test_a_demo_that_is_ended_takes_its_database_along(ending: signal.Signals) -> None:
    with subprocess.Popen([PGCHECKOUT, "demo", "--port", "0"], stdout=subprocess.PIPE, text=True) as demo:
        assert demo.stdout is not None
        lines = iter(demo.stdout)
        database = next(line.split()[-1] for line in lines if "Database:" in line)
        psycopg.connect(database).close()
        demo.send_signal(ending)
        demo.communicate(timeout=30)
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(database)
