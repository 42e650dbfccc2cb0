"""The real PgBouncer in transaction mode, in front of a test's server."""

from __future__ import annotations

import contextlib
import os
import pwd
import re
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from bridge.local.postgres import LocalPostgres

__all__ = ["PgBouncer"]

_KEEPS_STATEMENTS_SINCE = (1, 21)


class PgBouncer:
    """A pooler on a port of its own, as nobody when we are root. Use as a context manager.

    ``pool_size``: connections to the server, for each database and user. ``users`` may log in, without a password.
    """

    def __init__(self, program: Path, server: LocalPostgres, *users: str, pool_size: int) -> None:
        version = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout
        found = re.search(r"PgBouncer (\d+)\.(\d+)", version)
        assert found, version
        self.keeps_prepared_statements = (int(found[1]), int(found[2])) >= _KEEPS_STATEMENTS_SINCE
        self._program, self._server, self._users, self._pool_size = program, server, users, pool_size
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = int(probe.getsockname()[1])

    def __enter__(self) -> Self:
        self._folder = Path(tempfile.mkdtemp(prefix="pgbouncer-"))
        self._owner: dict[str, Any] = {}
        if os.geteuid() == 0:  # it refuses root
            nobody = pwd.getpwnam("nobody")
            self._owner = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
            os.chown(self._folder, nobody.pw_uid, nobody.pw_gid)
        (self._folder / "users").write_text("".join(f'"{user}" ""\n' for user in self._users))
        (self._folder / "ini").write_text(self._settings())
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.cut()
        shutil.rmtree(self._folder)

    def url(self, database: str, user: str) -> str:
        """The way through it."""
        return f"postgresql://{user}@127.0.0.1:{self._port}/{database}"

    def start(self) -> None:
        """Start it (again), and wait until it listens."""
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [self._program, self._folder / "ini"], cwd="/", stdout=log, stderr=log, **self._owner
            )
        deadline = time.monotonic() + 30
        while not self._listens():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"PgBouncer did not start: {(self._folder / 'log').read_text()}")
            time.sleep(0.02)

    def cut(self) -> None:
        """Kill it, and with it every connection that goes through it."""
        self._process.kill()
        self._process.wait()

    def _listens(self) -> bool:
        with contextlib.suppress(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", self._port)).close()
            return True
        return False

    def _settings(self) -> str:
        settings = {
            "listen_addr": "127.0.0.1", "listen_port": self._port, "unix_socket_dir": "",
            "auth_type": "trust", "auth_file": self._folder / "users",
            "pool_mode": "transaction", "default_pool_size": self._pool_size, "query_wait_timeout": 10,
            # databases of tests come and go: it looks again at once
            "server_login_retry": "0.05",
        }  # fmt: skip
        if self.keeps_prepared_statements:
            settings["max_prepared_statements"] = 100
        lines = [f"{name} = {value}\n" for name, value in settings.items()]
        return f"[databases]\n* = host=127.0.0.1 port={self._server.port}\n[pgbouncer]\n{''.join(lines)}"
