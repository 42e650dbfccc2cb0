"""What somebody does who has just installed pgcheckout, from `pgcheckout init` to the first purchase.

    python -m tests.support.try_install /path/to/venv/bin/pgcheckout

The installation is another one than this repository's, in an empty folder, with nothing in the environment. As root it
is tried twice: as root, and as a user without any rights. Raises AssertionError where something is not as it must be.
"""

from __future__ import annotations

import os
import pwd
import re
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import jwt
import psycopg

from bridge.local.postgres import LocalPostgres
from tests.support.bridge import wait_until
from tests.support.processes import free_port

REPOSITORY = Path(__file__).resolve().parents[2]
PATIENCE_SECONDS = 20.0


@dataclass(frozen=True)
class Installation:
    """The command, the folder where it is run, and as whom."""

    program: Path
    folder: Path
    run_as: Mapping[str, Any]

    def run(self, *words: str, expecting: int = 0) -> str:
        """What the command writes."""
        done = subprocess.run([self.program, *words], **self._where(), capture_output=True, text=True, check=False)
        said: str = done.stdout + done.stderr
        assert done.returncode == expecting, f"{words} ended with {done.returncode}: {said}"
        assert "Traceback" not in said
        return said

    @contextmanager
    def running(self, *words: str) -> Iterator[None]:
        """The command, until the end of the block, when it is told to stop and must do so in order."""
        with tempfile.TemporaryFile("w+") as log:
            process = subprocess.Popen([self.program, *words], **self._where(), stdout=log, stderr=log)
            try:
                yield
                process.send_signal(signal.SIGTERM)
                ended = process.wait(PATIENCE_SECONDS)
            finally:
                process.kill()
                log.seek(0)
                said = log.read()
            assert ended in (0, -signal.SIGTERM), f"{words} ended with {ended}: {said}"
            assert not re.search(r'Traceback|"level": "(warning|error|critical)"', said), said

    def fill_in(self, **settings: str) -> None:
        """Edit the .env as its comments say."""
        file = self.folder / ".env"
        text = file.read_text("utf-8")
        for name, value in settings.items():
            text, found = re.subn(rf"^#?(PGCHECKOUT_{name.upper()})=.*$", rf"\g<1>={value}", text, flags=re.MULTILINE)
            assert found == 1, name
        file.write_text(text, "utf-8")

    def _where(self) -> dict[str, Any]:
        environment = {"PATH": os.defpath, "HOME": str(self.folder)}
        return {"cwd": self.folder, "env": environment, "stdin": subprocess.DEVNULL, **self.run_as}


def set_up(installed: Installation, database_url: str, url: str, jwt_secret: str) -> None:
    """From an empty folder to a database that is ready."""
    assert "pgcheckout migrate" in installed.run("init", "--provider", "sandbox")
    assert "was left as it is" in installed.run("init", expecting=1)
    assert "PGCHECKOUT_DATABASE_URL" in installed.run("doctor", expecting=1)
    installed.fill_in(public_url=url, database_url=database_url, jwt_secret=jwt_secret)
    assert "up to date" in installed.run("migrate")
    with psycopg.connect(database_url) as connection:
        connection.execute(_catalogue().encode())
    assert "ERROR" not in installed.run("doctor")


def buy(database_url: str, url: str, jwt_secret: str) -> None:
    """A new user buys 50 credits and gets them once."""
    user_id = uuid.uuid4()
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("insert into auth.users (id, email) values (%s, 'buyer@example.com')", (user_id,))
        claims = {"sub": str(user_id), "role": "authenticated", "aud": "authenticated", "exp": int(time.time()) + 600}
        headers = {"Authorization": f"Bearer {jwt.encode(claims, jwt_secret, 'HS256')}"}
        with httpx.Client(base_url=url, headers=headers) as http:
            opened = http.post("/checkout", json={"plan": "starter"}).raise_for_status().json()
            assert http.post(opened["checkout_url"], data={"action": "pay"}).status_code == 303
            verified = http.post("/verify", json={"session_id": opened["session_id"]}).raise_for_status().json()
        assert verified["payment_status"] == "completed"
        entries = connection.execute("select amount from public.payment_credit_entries").fetchall()
        assert entries == [(50,)]
        assert connection.execute("select * from public.check_payment_invariants()").fetchall() == []


def try_out(installed: Installation, postgres: LocalPostgres, database: str) -> None:
    """All of it."""
    database_url, jwt_secret, port = postgres.create_look_alike(database), secrets.token_hex(32), free_port()
    url = f"http://127.0.0.1:{port}"
    set_up(installed, database_url, url, jwt_secret)
    with installed.running("serve", "--port", str(port)), installed.running("work"):
        wait_until(lambda: answers(f"{url}/readyz"), PATIENCE_SECONDS)
        wait_until(lambda: workers(database_url), PATIENCE_SECONDS)
        buy(database_url, url, jwt_secret)
        assert "warning" not in installed.run("doctor")
        assert "completed" in installed.run("sessions")
    assert workers(database_url) == {}, "the worker did not say goodbye"
    assert [(file.name, file.stat().st_mode & 0o777) for file in installed.folder.iterdir()] == [(".env", 0o600)]


def workers(database_url: str) -> dict[str, int]:
    """Names of those that are at work, and how long ago each was seen."""
    with psycopg.connect(database_url) as connection:
        (heartbeats,) = connection.execute("select public.payment_health() -> 'heartbeats'").fetchone() or ({},)
    return dict(heartbeats)


def answers(url: str) -> bool:
    try:
        return httpx.get(url).status_code == 200
    except httpx.ConnectError:
        return False


def main() -> None:
    program = Path(sys.argv[1]).absolute()
    users = ["root", "nobody"] if os.geteuid() == 0 else [pwd.getpwuid(os.geteuid()).pw_name]
    postgres = LocalPostgres(18)
    try:
        for user in users:
            folder = Path(tempfile.mkdtemp())
            run_as: dict[str, Any] = {}
            if os.geteuid() == 0:
                shutil.chown(folder, user)
                run_as = {"user": user, "group": pwd.getpwnam(user).pw_gid, "extra_groups": []}
            try:
                try_out(Installation(program, folder, run_as), postgres, f"of_{user}")
            finally:
                shutil.rmtree(folder)
            print(f"as {user}: init, migrate, doctor, serve, work, a purchase, stop")
    finally:
        postgres.stop()


def _catalogue() -> str:
    """What the README says to sell."""
    found = re.search(r"^```sql\n(.*?)^```", (REPOSITORY / "README.md").read_text("utf-8"), re.DOTALL | re.MULTILINE)
    assert found
    return found[1]


if __name__ == "__main__":
    main()
