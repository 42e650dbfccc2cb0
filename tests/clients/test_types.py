"""The TypeScript types that ship are what the migrations give, and the compiler finds mistakes with them."""

from __future__ import annotations

import re
import shutil
from typing import TYPE_CHECKING

import pytest
from typer.testing import CliRunner

from bridge.cli.app import app_of
from tests.support import parts
from tests.support.app_types import TYPES, types_for_apps
from tests.support.database import REPOSITORY
from tests.support.javascript import type_check

if TYPE_CHECKING:
    from pathlib import Path

    from bridge.local.postgres import LocalPostgres
    from tests.support.database import Database

pytestmark = pytest.mark.needs("supabase_js")

_HERE = REPOSITORY / "tests" / "clients"


def _names(section: str) -> set[str]:
    """The names of the types' Tables or Functions."""
    (body,) = re.findall(rf"^    {section}: {{\n(.*?)^    }};", TYPES.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    return set(re.findall(r"^      (\w+):", body, re.MULTILINE))


@pytest.mark.needs("supabase_cli")
def test_the_types_are_those_of_the_migrations(db: Database, server: LocalPostgres) -> None:
    made = types_for_apps(parts.path_of("supabase_cli", server), db.url())
    assert TYPES.read_text("utf-8") == made, "what apps see has changed: make types"


def test_functions_and_tables_of_the_types_are_those_that_apps_may_use(db: Database) -> None:
    functions = db.sql(
        "select distinct proname from pg_proc where pronamespace = 'public'::regnamespace"
        " and (has_function_privilege('anon', oid, 'execute')"
        " or has_function_privilege('authenticated', oid, 'execute'))"
    )
    assert _names("Functions") == {row["proname"] for row in functions}
    tables = db.sql(
        "select relname from pg_class where relnamespace = 'public'::regnamespace and relkind in ('r', 'p')"
        " and has_table_privilege('authenticated', oid, 'select')"
    )
    assert _names("Tables") == {row["relname"] for row in tables}


def test_every_call_of_an_app_compiles_and_no_mistake_does(tmp_path: Path) -> None:
    for file in (TYPES, _HERE / "right.ts", _HERE / "wrong.ts"):
        shutil.copy(file, tmp_path)
    complaints = type_check(tmp_path, "right.ts", "wrong.ts")
    lines = (_HERE / "wrong.ts").read_text("utf-8").splitlines()
    mistakes = set(range(lines.index("// wrong from here on, line by line") + 2, len(lines) + 1))
    found = [re.match(r"wrong\.ts\((\d+),\d+\): error TS", line) for line in complaints if not line.startswith(" ")]
    assert {int(match[1]) if match else 0 for match in found} == mistakes, "\n".join(complaints)


def test_every_function_and_table_is_in_the_file_that_compiles() -> None:
    right = (_HERE / "right.ts").read_text("utf-8")
    assert set(re.findall(r'\.rpc\("(\w+)"', right)) == _names("Functions")
    assert set(re.findall(r'\.from\("(\w+)"', right)) | {"payment_prices"} == _names("Tables")


def test_the_command_prints_the_types() -> None:
    printed = CliRunner().invoke(app_of(), ["types"])
    assert (printed.exit_code, printed.stdout) == (0, TYPES.read_text("utf-8"))
