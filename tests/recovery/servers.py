"""Postgres servers that a test may kill, fill up and forbid to write."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from bridge.local.postgres import LocalPostgres
from bridge.migrations import migrate, seed_file
from tests.recovery.accounts import stocked
from tests.support.bridge import wait_until
from tests.support.database import Database, apply_files

__all__ = ["kill", "new_shop", "processes_of"]


def new_shop(server: LocalPostgres, name: str) -> Database:
    """A shop on a server of the test's own."""
    server.create_look_alike(name)
    db = Database("127.0.0.1", server.port, name)
    migrate(db.url())
    apply_files(db.url(), [seed_file()])
    return stocked(db)


def kill(server: LocalPostgres) -> None:
    """kill -9 of the postmaster and all its children; returns when none of them lives."""
    family = processes_of(server)
    for process in family:
        os.kill(process, signal.SIGKILL)
    wait_until(lambda: not any(_parent(process) is not None for process in family))


def processes_of(server: LocalPostgres) -> list[int]:
    """The postmaster, first, and its children."""
    postmaster = int((server.data / "postmaster.pid").read_text().split()[0])
    everybody = [int(folder.name) for folder in Path("/proc").glob("[0-9]*")]
    return [postmaster, *[process for process in everybody if _parent(process) == postmaster]]


def _parent(process: int) -> int | None:
    """None when there is no such process, not even a dead one that nobody has buried: Postgres minds those."""
    try:
        return int(Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[1])
    except OSError:
        return None
