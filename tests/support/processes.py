"""Bridges and workers as real processes that a test kills, or that kill themselves (tests.support.crashing_bridge)."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import httpx

from bridge.settings import load_settings
from tests.support.bridge import Bridge, wait_until
from tests.support.command import environment
from tests.support.database import REPOSITORY, Database

__all__ = ["Process", "Processes", "free_port"]

# all is plain HTTP on loopback: loading the certificate authorities for each client would only take time
_NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


@dataclass(frozen=True)
class Process:
    """One of them."""

    id: int
    steps_file: Path

    @property
    def steps(self) -> list[str]:
        """The steps that it has reached, in order."""
        return self.steps_file.read_text().split()

    @property
    def alive(self) -> bool:
        try:
            os.kill(self.id, 0)
        except ProcessLookupError:
            return False
        return True

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.id, signal.SIGKILL)
        wait_until(lambda: not self.alive)


class Processes:
    """Use as a context manager: whatever was started ends with it."""

    def __enter__(self) -> Self:
        self._folder = tempfile.TemporaryDirectory()
        self._started = 0
        self.log = Path(self._folder.name) / "log"
        with self.log.open("w") as log:
            self._parent = subprocess.Popen(
                [sys.executable, "-m", "tests.support.crashing_bridge"],
                cwd=REPOSITORY, env=environment({}), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log,
                text=True, start_new_session=True,
            )  # fmt: skip
        return self

    def __exit__(self, *_: object) -> None:
        self._parent.communicate()
        self._folder.cleanup()

    def start(self, *command: str, crash_at: str | None = None, **settings: Any) -> Process:
        """``serve`` and a port, or ``work`` and a name, with these settings; ``crash_at`` names its last step."""
        self._started += 1
        steps_file = Path(self._folder.name) / f"steps-{self._started}"
        steps_file.touch()
        variables = {f"PGCHECKOUT_{name.upper()}": str(value) for name, value in settings.items()}
        variables |= {"STEPS_FILE": str(steps_file)} | ({"CRASH_AT": crash_at} if crash_at else {})
        assert self._parent.stdin
        assert self._parent.stdout
        self._parent.stdin.write(json.dumps({"command": command, "environment": variables}) + "\n")
        self._parent.stdin.flush()
        return Process(int(self._parent.stdout.readline()), steps_file)

    @contextlib.contextmanager
    def bridge(
        self, db: Database, port: int, *, crash_at: str | None = None, **settings: Any
    ) -> Iterator[tuple[Bridge, Process]]:
        """A bridge on this port of 127.0.0.1 that takes requests; killed at the end of the block."""
        url = f"http://127.0.0.1:{port}"
        chosen = load_settings(_env_file=None, **settings)
        process = self.start("serve", str(port), crash_at=crash_at, **settings)
        try:
            wait_until(lambda: _listens(port, process), 30.0)
            with httpx.Client(base_url=url, timeout=30.0, verify=_NO_TLS) as http:
                yield Bridge(url, chosen, db, http), process
        finally:
            process.kill()


def _listens(port: int, process: Process) -> bool:
    assert process.alive, "the bridge did not start"
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
