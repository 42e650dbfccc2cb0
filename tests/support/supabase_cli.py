"""The real Supabase CLI against a plain local Postgres: no Docker, no account, no telemetry."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

__all__ = ["run"]

_QUIET = {"PGSSLMODE": "disable", "SUPABASE_TELEMETRY_DISABLED": "1", "DO_NOT_TRACK": "1", "NO_COLOR": "1"}


def run(cli: Path, workdir: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run one command in the project folder that holds ``supabase/``; its notes and settings stay in there too."""
    return subprocess.run(
        [cli, "--workdir", workdir, "--agent", "no", *arguments],
        env={**os.environ, **_QUIET, "HOME": str(workdir)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
