"""The restore drill of docs/operations.md, as it is written there."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from bridge.local.postgres import LocalPostgres
from tests.support.database import REPOSITORY

__all__ = ["dump", "restore", "sql_under"]

PAGE = REPOSITORY / "docs/operations.md"


def dump(server: LocalPostgres, url: str, folder: Path) -> None:
    """Take the backup."""
    _run(server, _script(0), folder, DATABASE_URL=url)


def restore(server: LocalPostgres, url: str, folder: Path) -> None:
    """Put the backup into a project without pgcheckout, and do what has to be done there after every restore."""
    _run(server, _script(1), folder, NEW_URL=url)


def sql_under(heading: str, page: Path = PAGE, *, number: int = 0) -> str:
    """An SQL block of a section, by default the first."""
    section = page.read_text("utf-8").split(f"\n{heading}\n")[1]
    blocks: list[str] = re.findall(r"```sql\n(.*?)```", section, re.DOTALL)
    return blocks[number]


def _script(number: int) -> str:
    scripts: list[str] = re.findall(r"^```sh\n(.*?)^```", PAGE.read_text("utf-8"), re.DOTALL | re.MULTILINE)
    assert len(scripts) == 2
    return scripts[number]


def _run(server: LocalPostgres, script: str, folder: Path, **variables: str) -> None:
    environment = {"PATH": f"{server.bin}:/usr/bin:/bin", **variables}
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        env=environment, cwd=folder, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
