"""``make migration name=verb_object``: starts the migration that takes databases in the field to what ``sql/`` says.

Builds one database from ``sql/`` and one from ``supabase/migrations`` and writes what the Supabase CLI proposes to get
from the one to the other, for the author to read, correct and order. Without the CLI it shows the difference instead.
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

from bridge.local.postgres import LocalPostgres
from tests.support import parts, supabase_cli
from tests.support.database import REPOSITORY
from tests.support.schema import apply_migrations, apply_source, describe, difference

__all__ = ["author"]

_HEADER = """\
-- Purpose: {purpose}.
-- Locks:   which tables, how strong, for how long? Split what would make others wait.
-- Undo:    roll forward with a new migration; a shipped migration never changes.
set lock_timeout = '5s';
"""


def author(server: LocalPostgres, project: Path, name: str, now: datetime, cli: Path | None) -> tuple[Path | None, str]:
    """Write the migration and return its path, with what the author should know; no path when nothing differs."""
    stamp = f"{now:%Y%m%d%H%M%S}"
    in_the_field, wanted = f"in_the_field_{uuid4().hex}", f"wanted_{uuid4().hex}"
    migrations = project / "supabase" / "migrations"
    apply_migrations(server.create_look_alike(in_the_field), migrations)
    apply_source(server.create_look_alike(wanted), project / "sql")
    change = difference(describe(server, in_the_field), describe(server, wanted), "migrations", "sql/")
    if not change:
        return None, "Nothing differs: the migrations build what sql/ says."
    path = migrations / f"{stamp}_{name}.sql"
    proposal = _proposal(cli, server.url(in_the_field), server.url(wanted)) if cli else ""
    path.write_text(_HEADER.format(purpose=name.replace("_", " ")) + (f"\n{proposal}" if proposal else ""), "utf-8")
    advice = "Edit it until `make test` finds both equal." if proposal else "It holds the header only: write the SQL."
    return path, f"{change}\n\nWrote {path.relative_to(project)}. {advice}"


def _proposal(cli: Path, before: str, after: str) -> str:
    with tempfile.TemporaryDirectory() as workdir:
        done = supabase_cli.run(cli, Path(workdir), "db", "diff", f"--from={before}", f"--to={after}")
    if done.returncode:
        raise SystemExit(f"supabase db diff failed: {done.stderr}")
    return done.stdout.strip() + "\n" if done.stdout.strip() else ""


def _main(arguments: list[str]) -> str:
    if len(arguments) != 1 or not re.fullmatch(r"[a-z]+(_[a-z0-9]+)+", arguments[0]):
        raise SystemExit("Say what the migration does: make migration name=add_gift_cards (verb, then object)")
    server = LocalPostgres(int(os.environ.get("PG", "18")))
    try:
        cli = parts.find("supabase_cli", server)
        _, message = author(server, REPOSITORY, arguments[0], datetime.now(UTC), cli)
    finally:
        server.stop()
    return message


if __name__ == "__main__":
    print(_main(sys.argv[1:]))
