"""The command `pgcheckout`: help, verify, and a real server that starts, is ready and stops."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from typer.main import get_command
from typer.testing import CliRunner

from bridge import __version__
from bridge.cli.app import app_of
from bridge.local.postgres import LocalPostgres
from bridge.simulators.stripe import StripeSimulator
from tests.support.bridge import Bridge, Buyer, wait_until
from tests.support.command import arguments, environment, run
from tests.support.database import Database
from tests.support.log_scanner import SCANNER


def test_every_command_explains_itself() -> None:
    commands = get_command(app_of()).commands  # type: ignore[attr-defined] # of a Group
    assert {"demo", "doctor", "migrate", "reconcile", "refund", "replay", "serve", "verify", "work"} <= set(commands)
    for name, command in commands.items():
        shown = CliRunner().invoke(app_of(), [name, "--help"])
        assert shown.exit_code == 0
        assert command.help
        assert " ".join(command.help.split()[:4]) in shown.output


def test_alone_it_shows_its_commands(tmp_path: Path) -> None:
    done = run(tmp_path)
    assert "serve" in done.out + done.err
    assert "Traceback" not in done.err
    assert run(tmp_path, "--version").out == f"pgcheckout {__version__}\n"


def test_verify_asks_the_provider_and_fulfils(
    bridge: Bridge, buyer: Buyer, stripe: StripeSimulator, tmp_path: Path
) -> None:
    session_id = buyer.checkout().json()["session_id"]
    stripe.pay(bridge.attempt(session_id)["provider_session_id"])
    settings = {
        "database_url": bridge.db.url(),
        "stripe_secret_key": stripe.secret_key,
        "stripe_webhook_secrets": stripe.webhook_secret,
        "stripe_api_url": stripe.url,
    }
    done = run(tmp_path, "verify", session_id, **settings)
    assert done.code == 0, done.err
    answer = json.loads(done.out)
    assert (answer["payment_status"], answer["fulfilment_status"]) == ("completed", "fulfilled")
    assert bridge.db.balance(buyer.id) == 100
    assert bridge.db.events(uuid.UUID(session_id))[0]["source"] == "admin"

    unknown = run(tmp_path, "verify", str(uuid.uuid4()), **settings)
    assert unknown.code == 1
    assert unknown.err.startswith("pgcheckout: No checkout session")
    assert len(unknown.err.splitlines()) == 1


def test_settings_that_contradict_each_other_are_one_line(tmp_path: Path) -> None:
    done = run(tmp_path, "serve", sandbox_secret="play")
    assert done.code == 1
    assert done.err.startswith("pgcheckout: PGCHECKOUT_SANDBOX_SECRET is set in production")
    assert len(done.err.splitlines()) == 1
    crowd = run(tmp_path, "serve", "--workers", "2", sandbox_secret="play", environment="development")
    assert "one process" in crowd.err


class TestServe:
    @pytest.fixture
    def port(self) -> int:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            return int(probe.getsockname()[1])

    @pytest.fixture
    def served(self, own_db: Database, port: int, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
        settings = {"database_url": own_db.url(), "sandbox_secret": "play", "environment": "development"}
        with subprocess.Popen(
            arguments("serve", "--port", str(port)), env=environment(settings), cwd=tmp_path,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        ) as process:  # fmt: skip
            try:
                yield process
            finally:
                process.kill()

    def test_it_is_alive_at_once_and_ready_when_its_database_is(
        self, served: subprocess.Popen[str], port: int, own_server: LocalPostgres
    ) -> None:
        def status(path: str) -> int:
            try:
                return httpx.get(f"http://127.0.0.1:{port}{path}", timeout=20.0).status_code
            except httpx.ConnectError:
                assert served.poll() is None
                return 0

        wait_until(lambda: status("/healthz") == 200, 30.0)
        assert status("/readyz") == 200
        assert status("/docs") == 200
        assert status("/return/sandbox?Fild1=Ada%20Lovelace&L4digit=4242") == 303
        own_server.stop(keep=True)
        try:
            assert status("/readyz") == 503
            assert status("/healthz") == 200
        finally:
            own_server.start()
        assert status("/readyz") == 200
        served.send_signal(signal.SIGTERM)
        assert served.wait(20) in (0, -signal.SIGTERM)
        assert served.stdout
        logged = served.stdout.read()
        assert "Traceback" not in logged
        assert '"route": "/return/{provider}", "status": 303' in logged
        assert "Lovelace" not in logged
        SCANNER.read(logged)


def test_what_a_server_consists_of_is_left_out_of_garbage_collection(own_db: Database, tmp_path: Path) -> None:
    code = "from bridge.api.app import app_from_environment as start; import gc; start(); print(gc.get_freeze_count())"
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment({"database_url": own_db.url(), "environment": "development"}),
        cwd=tmp_path, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert int(done.stdout) > 50_000


def test_a_server_does_not_hold_what_it_may_never_need(own_db: Database, tmp_path: Path) -> None:
    code = """
import sys, uvicorn
from bridge.api.app import app_from_environment
from bridge.cli import main
uvicorn.run = lambda *_, **__: print(*(app_from_environment() and sys.modules))
main()
"""
    done = subprocess.run(
        [sys.executable, "-c", code, "serve"], env=environment({"database_url": own_db.url()}),
        cwd=tmp_path, capture_output=True, text=True, check=True,
    )  # fmt: skip
    loaded = set(done.stdout.split())
    assert "bridge.api.providers" in loaded
    optional = {"bridge.cli.reading", "bridge.sandbox.server", "bridge.simulate", "jinja2", "structlog", "supabase"}
    assert not loaded & optional


def test_serve_without_a_database_says_so_in_one_line(tmp_path: Path) -> None:
    done = run(tmp_path, "serve")
    assert done.code == 1
    assert done.err.startswith("pgcheckout: No way to the database. Set PGCHECKOUT_DATABASE_URL")
    assert len(done.err.splitlines()) == 1
