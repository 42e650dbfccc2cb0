"""`pgcheckout reconcile`: an operator asks the providers by hand, beside any number of workers."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import uuid
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest

from bridge import jobs
from bridge.progress import read_duration
from bridge.simulators.stripe import Fault, StripeSimulator
from tests.support.bridge import SANDBOX_SECRET, Bridge, Buyer, wait_until
from tests.support.command import Done, arguments, environment, run
from tests.support.database import Database, refused

NOTHING = {
    "asked": 0, "repaired": 0, "pending": 0, "processing": 0, "unpaid": 0, "tells_by_itself": 0, "failed": {},
    "in_review": 0,
}  # fmt: skip


def command_settings(bridge: Bridge, stripe: StripeSimulator) -> dict[str, Any]:
    return {
        "database_url": bridge.db.url(), **stripe.settings(), "environment": "development",
        "sandbox_secret": SANDBOX_SECRET, "sandbox_url": f"{bridge.url}/sandbox",
    }  # fmt: skip


class Desk:
    """An operator at the command line."""

    def __init__(self, bridge: Bridge, stripe: StripeSimulator, folder: Path) -> None:
        self._folder = folder
        self.settings = command_settings(bridge, stripe)

    def reconcile(self, *words: str) -> Done:
        return run(self._folder, "reconcile", *words, **self.settings)

    def counts(self, *words: str, code: int = 0) -> dict[str, Any]:
        """What the summary says other than nothing."""
        done = self.reconcile(*words, "--json")
        assert done.code == code, done.err
        summary: dict[str, Any] = json.loads(done.out)
        assert summary.keys() == NOTHING.keys()
        return {name: count for name, count in summary.items() if count}


@pytest.fixture
def operator(bridge: Bridge, stripe: StripeSimulator, tmp_path: Path) -> Desk:
    return Desk(bridge, stripe, tmp_path)


def lost_purchase(bridge: Bridge, stripe: StripeSimulator, buyer: Buyer | None = None) -> str:
    """A session that was paid and whose every notification was lost; its time to be asked about has not come."""
    session_id: str = (buyer or bridge.buyer()).checkout().json()["session_id"]
    stripe.pay(bridge.attempt(session_id)["provider_session_id"])
    return session_id


def due(bridge: Bridge) -> None:
    bridge.db.sql("update payments.attempts set reconcile_at = now() where reconcile_at is not null")


class TestWhatIsAsked:
    def test_pages_since_then_are_asked_about_though_their_time_has_not_come(
        self, bridge: Bridge, buyer: Buyer, stripe: StripeSimulator, operator: Desk
    ) -> None:
        paid = lost_purchase(bridge, stripe, buyer)
        bridge.buyer().checkout()
        assert operator.counts() == {}  # nothing is due
        assert operator.counts("--since", "2d") == {"asked": 2, "repaired": 1, "pending": 1}
        assert bridge.db.balance(buyer.id) == 100
        assert bridge.db.events(paid)[-1]["source"] == "reconcile"
        assert operator.counts("--since", "2d") == {"asked": 1, "pending": 1}

    def test_without_a_time_what_is_due(self, bridge: Bridge, stripe: StripeSimulator, operator: Desk) -> None:
        lost_purchase(bridge, stripe)
        due(bridge)
        bridge.buyer().checkout()
        assert operator.counts() == {"asked": 1, "repaired": 1}

    def test_of_one_provider_only(self, bridge: Bridge, stripe: StripeSimulator, operator: Desk) -> None:
        bridge.buyer().checkout(provider="sandbox")
        paid = lost_purchase(bridge, stripe)
        assert operator.counts("--since", "1h", "--provider", "sandbox") == {"asked": 1, "pending": 1}
        assert bridge.db.session(paid)["status"] == "pending"
        assert operator.counts("--since", "1h", "--provider", "stripe") == {"asked": 1, "repaired": 1}

    def test_at_most_so_many_the_oldest_first(self, bridge: Bridge, stripe: StripeSimulator, operator: Desk) -> None:
        old, new = lost_purchase(bridge, stripe), lost_purchase(bridge, stripe)
        assert operator.counts("--since", "1h", "--limit", "1") == {"asked": 1, "repaired": 1}
        assert [bridge.db.session(session)["status"] for session in (old, new)] == ["completed", "pending"]

    def test_however_many_there_are_each_is_asked_about_once(
        self, bridge: Bridge, stripe: StripeSimulator, operator: Desk, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(jobs, "ROWS_AT_ONCE", 2)
        for _ in range(5):
            lost_purchase(bridge, stripe)
        stripe.received.clear()
        assert operator.counts("--since", "1h") == {"asked": 5, "repaired": 5}
        assert len(stripe.received) == 5

    def test_what_the_workers_have_given_up_is_asked_about(
        self, bridge: Bridge, buyer: Buyer, stripe: StripeSimulator, operator: Desk
    ) -> None:
        session_id = lost_purchase(bridge, stripe, buyer)
        bridge.db.sql("update payments.attempts set reconcile_at = null")
        bridge.db.sql("update payment_checkout_sessions set status = 'expired', review_reason = 'reconcile_gave_up'")
        assert operator.counts("--since", "1h") == {"asked": 1, "repaired": 1, "in_review": 1}
        assert bridge.db.session(session_id)["status"] == "completed"
        assert bridge.db.balance(buyer.id) == 100

    def test_an_earlier_page_is_asked_about_when_the_last_one_has_ended(
        self, bridge: Bridge, buyer: Buyer, stripe: StripeSimulator, operator: Desk
    ) -> None:
        session_id = lost_purchase(bridge, stripe, buyer)
        bridge.db.sql(
            "insert into payments.attempts (session_id, provider, reference, status, provider_session_id, created_at,"
            " expires_at) values (%s, 'stripe', 'r2', 'failed', 'cs_2', now(), now() + interval '1 h')", session_id,
        )  # fmt: skip
        bridge.db.sql(
            "update payment_checkout_sessions set status = 'failed',"
            " current_attempt = (select number from payments.attempts where reference = 'r2')"
        )
        assert operator.counts("--since", "1h") == {"asked": 1, "repaired": 1}
        assert bridge.db.session(session_id)["status"] == "completed"

    def test_sessions_made_before_then_are_left_alone(self, db: Database) -> None:
        db.open_attempt(db.new_session())
        service = db.as_service()
        assert len(service.rpc("list_unsettled_pages", p_since=db.value("select now() - interval '1 minute'"))) == 1
        assert service.rpc("list_unsettled_pages", p_since=db.value("select now()")) == []
        with refused("PT422", "invalid_input"):
            service.rpc("list_unsettled_pages", p_since=db.value("select now() + interval '1 day'"))


class TestSummary:
    def test_plain_text_stays_the_same(self, bridge: Bridge, stripe: StripeSimulator, operator: Desk) -> None:
        lost_purchase(bridge, stripe)
        ended = bridge.buyer().checkout().json()["session_id"]
        stripe.objects[bridge.attempt(ended)["provider_session_id"]]["status"] = "expired"
        gone = bridge.buyer().checkout().json()["session_id"]
        del stripe.objects[bridge.attempt(gone)["provider_session_id"]]
        bridge.buyer().checkout()
        done = operator.reconcile("--since", "90m")
        assert done.out == (
            "asked                                  3\n"
            "  repaired: now completed              1\n"
            "  still pending                        1\n"
            "  processing                           0\n"
            "  ended unpaid                         1\n"
            "cannot be asked, tells by itself       0\n"
            "failed to ask                          1\n"
            "  provider_refused                     1\n"
            "in review                              0\n"
        )
        assert done.code == 1
        assert "asking" not in done.err

    def test_a_provider_that_is_away_is_no_success_and_stays_due(
        self, bridge: Bridge, stripe: StripeSimulator, operator: Desk
    ) -> None:
        session_id = lost_purchase(bridge, stripe)
        stripe.faults.extend([Fault(status=503)] * 3)
        assert operator.counts("--since", "1h", code=1) == {"failed": {"provider_unavailable": 1}}
        assert bridge.attempt(session_id)["reconcile_at"] is not None
        assert operator.counts("--since", "1h") == {"asked": 1, "repaired": 1}

    def test_a_provider_that_was_switched_off_is_named(self, bridge: Bridge, buyer: Buyer, operator: Desk) -> None:
        buyer.checkout()
        del operator.settings["stripe_secret_key"]
        assert operator.counts("--since", "1h", code=1) == {"failed": {"provider_unknown": 1}}

    def test_a_provider_that_only_tells_by_itself_is_no_failure(
        self, bridge: Bridge, db: Database, operator: Desk
    ) -> None:
        db.open_attempt(db.new_session(p_provider="hypay", p_currency="USD"))
        operator.settings |= {"hypay_terminal": "0010131918", "hypay_api_key": "k", "hypay_api_password": "p"}
        assert operator.counts("--since", "1h") == {"tells_by_itself": 1}

    def test_a_terminal_shows_a_bar_and_a_table(self, bridge: Bridge, stripe: StripeSimulator, operator: Desk) -> None:
        lost_purchase(bridge, stripe)
        ours, theirs = pty.openpty()
        with subprocess.Popen(
            arguments("reconcile", "--since", "1h"),
            env=environment(operator.settings) | {"TERM": "xterm", "COLUMNS": "100"}, stdout=theirs, stderr=theirs,
        ) as process:  # fmt: skip
            os.close(theirs)
            shown = b""
            while piece := _read(ours):
                shown += piece
            assert process.wait(30) == 0
        os.close(ours)
        text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown.decode())
        assert re.search(r"asking .* 1/1 .* repaired 1, failed 0", text)
        assert re.search(r"│ +repaired: now completed +│ +1 │", text)


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 4096)
    except OSError:  # Linux: nobody writes to the terminal any more
        return b""


class TestBesideOthers:
    def test_operators_and_workers_at_once_fulfil_each_purchase_once(
        self, bridge: Bridge, stripe: StripeSimulator, operator: Desk
    ) -> None:
        buyers = [bridge.buyer() for _ in range(8)]
        for buyer in buyers:
            lost_purchase(bridge, stripe, buyer)
        due(bridge)
        with ThreadPoolExecutor() as pool:
            settings = environment(operator.settings)
            commands = [("reconcile",), ("reconcile", "--since", "1h"), ("work",)]
            started = [
                pool.submit(subprocess.run, arguments(*words), env=settings, timeout=60, check=True)
                for words in commands[:2]
            ]
            with subprocess.Popen(arguments(*commands[2]), env=settings, stderr=subprocess.DEVNULL) as worker:
                for running in started:
                    running.result()
                # before it beats, a signal finds a program that is still starting
                wait_until(lambda: bridge.db.sql("select name from payments.heartbeats"), 30.0)
                worker.send_signal(signal.SIGTERM)
                assert worker.wait(20) == 0
        assert [bridge.db.balance(buyer.id) for buyer in buyers] == [100] * 8
        assert bridge.db.value("select count(*) from payments.captures") == 8
        assert bridge.db.as_service().rpc("check_payment_invariants") == []

    def test_one_that_is_killed_leaves_the_workers_their_queue(
        self, bridge: Bridge, stripe: StripeSimulator, operator: Desk
    ) -> None:
        session_id = lost_purchase(bridge, stripe)
        before = bridge.attempt(session_id)
        stripe.received.clear()
        stripe.faults.append(Fault(latency=30.0))
        with subprocess.Popen(
            arguments("reconcile", "--since", "1h"), env=environment(operator.settings), stderr=subprocess.DEVNULL
        ) as process:
            wait_until(lambda: stripe.received, 30.0)
            process.kill()
        assert bridge.attempt(session_id) == before


class TestMistakes:
    @pytest.mark.parametrize("text", ["", "2", "2 days", "-1d", "0h", "1.5h", "2w", "999999d", "2d\n"])
    def test_a_duration_that_cannot_be_read_says_how_to_write_it(self, tmp_path: Path, text: str) -> None:
        with pytest.raises(ValueError, match="Write 90m, 36h or 2d"):
            read_duration(text)

    def test_durations(self) -> None:
        assert read_duration("90m") == timedelta(minutes=90)
        assert read_duration("36h") == timedelta(hours=36)
        assert read_duration("2d") == timedelta(days=2)

    def test_the_option_is_named(self, operator: Desk, tmp_path: Path) -> None:
        done = operator.reconcile("--since", "2w")
        assert done.code == 2
        assert "'--since'" in done.err
        assert "90m, 36h or" in done.err
        unknown = operator.reconcile("--provider", "stripes")
        assert unknown.code == 1
        assert unknown.err == "pgcheckout: The provider 'stripes' is not turned on. Turned on: stripe, sandbox.\n"


def test_the_page_of_an_attempt_without_one_is_nobody_s(db: Database) -> None:
    service = db.as_service()
    service.rpc("open_checkout_attempt", p_session_id=db.new_session())
    assert service.rpc("list_unsettled_pages", p_since="-infinity") == []
    with psycopg.connect(db.url()) as connection:  # garbage that a client's clock may make
        assert connection.execute(
            "select count(*) from list_unsettled_pages(p_after => %s)", (uuid.uuid4(),)
        ).fetchone()
