"""The documents are held to the code: commands exist and run, SQL runs, links lead somewhere."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from bridge.cli.app import app_of
from bridge.init import shown
from bridge.settings import Settings
from tests.support.database import REPOSITORY, Database

DOCUMENTS = sorted(
    [*REPOSITORY.glob("*.md"), *(REPOSITORY / "docs").rglob("*.md")], key=lambda path: path.relative_to(REPOSITORY)
)
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.DOTALL | re.MULTILINE)
_FUNCTION_ROWS = re.compile(r"^\| (`.*?) \|", re.MULTILINE)
_LINK = re.compile(r"\[[^\]]*\]\(([^)#\s]+)(#[\w-]+)?\)")

# commands that a test cannot run inside itself, and where they run instead
_RUN_ELSEWHERE = {
    "make test": "this is it",
    "make lint": ".ci/run",
    "make docs": ".ci/run",
    "make bench": "tests/tooling/test_bench.py runs the command behind it",
    "python -m tests.bench.dashboard": "the same, with a smaller shop",
    "make demo": "tests/demo runs the command behind it, .ci/run the target with ONCE=1",
    "pip install pgcheckout": ".ci/run installs the wheel in an empty environment",
    "pgcheckout serve --host 0.0.0.0 --port 8000": "tests/bridge starts it on a free port",
    "pgcheckout serve --host 127.0.0.1 --port 8000": ".ci/run, from the wheel",
    "pgcheckout work": ".ci/run, from the wheel",
    'pgcheckout shard-router --shards "$SHARD_0" --shards "$SHARD_1" > router.sql': "tests/sharding",
    'pgcheckout shard-router --shards "$SHARD_0" --shards "$SHARD_1" --of-shard 1 > shard-1.sql': "tests/sharding",
    'pgcheckout shard-router --shards "$SHARD_0" --shards "$SHARD_1" --apply "$ROUTER"': "tests/sharding",
    'pgcheckout shard-move 0-204 --to 4 --router "$ROUTER" --shards "$SHARD_0" --shards "$SHARD_1" --shards "$SHARD_2"'
    ' --shards "$SHARD_3" --shards "$SHARD_4"': "tests/sharding",
}

# what a reader has put into the .env
_FILLED_IN = {
    "PGCHECKOUT_PUBLIC_URL": "https://pay.example.com",
    "PGCHECKOUT_SUCCESS_URL": "https://app.example.com/thanks",
    "PGCHECKOUT_CANCEL_URL": "https://app.example.com/cart",
    "PGCHECKOUT_SUPABASE_URL": "https://your-project.supabase.co",
    "PGCHECKOUT_STRIPE_SECRET_KEY": "sk_live_" + "x" * 24,
    "PGCHECKOUT_STRIPE_WEBHOOK_SECRETS": "whsec_" + "x" * 24,
}


def _blocks(language: str) -> list[tuple[Path, str]]:
    return [
        (path, code) for path in DOCUMENTS for kind, code in _BLOCK.findall(path.read_text("utf-8")) if kind == language
    ]


def test_every_sql_block_runs_on_a_migrated_database(db: Database) -> None:
    blocks = _blocks("sql")
    assert blocks
    for path, code in blocks:
        if "drop schema payments" in code:
            continue  # tests/migrations/test_uninstall.py
        try:
            db.sql(code)
        except Exception as error:
            raise AssertionError(f"{path.name}: {code}") from error


@pytest.mark.parametrize(("path", "code"), _blocks("bash"), ids=lambda value: getattr(value, "name", "block"))
def test_every_command_runs(path: Path, code: str, db: Database, tmp_path: Path) -> None:
    environment = {
        **_FILLED_IN,
        "PGCHECKOUT_DATABASE_URL": db.url(),
        "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin",
        "DATABASE_URL": db.url(),
    }
    lines = [line for line in code.splitlines() if line not in _RUN_ELSEWHERE]
    # the example project of the documents does not exist: that its keys cannot be fetched is all that doctor may say
    script = "\n".join(f"{line} || doctor=$?" if line == "pgcheckout doctor" else line for line in lines)
    done = subprocess.run(
        ["bash", "-euc", script], env=environment, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{path.name}: {done.stdout}{done.stderr}"
    complaints = [line for line in done.stdout.splitlines() if line.startswith("ERROR")]
    assert all("user tokens" in line for line in complaints), done.stdout


def test_every_make_target_and_subcommand_named_exists() -> None:
    text = "\n".join(path.read_text("utf-8") for path in DOCUMENTS)
    targets = set(re.findall(r"^([a-z-]+):", (REPOSITORY / "Makefile").read_text("utf-8"), re.MULTILINE))
    assert set(re.findall(r"`make ([a-z-]+)", text)) <= targets
    named = set(re.findall(r"`pgcheckout ([a-z][a-z-]+)", text))
    assert named <= typer.main.get_group(app_of()).commands.keys()


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_links_within_the_repository_lead_somewhere(path: Path) -> None:
    for target, anchor in _LINK.findall(path.read_text("utf-8")):
        if "://" in target:
            continue
        file = (path.parent / target).resolve()
        assert file.exists(), f"{path.name}: {target}"
        if anchor:
            headings = re.findall(r"^#+ (.+)$", file.read_text("utf-8"), re.MULTILINE)
            assert anchor[1:] in {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_setting_is_listed_with_its_default_and_meaning() -> None:
    listed = (REPOSITORY / "docs/settings.md").read_text("utf-8")
    rows = re.findall(r"^\| `(PGCHECKOUT_\w+)` \| (.*?) \| (.*) \|$", listed, re.M)
    assert rows == [
        (f"PGCHECKOUT_{name.upper()}", f"`{value}`" if (value := shown(field.default)) else "", field.description)
        for name, field in Settings.model_fields.items()
    ]


def test_the_list_of_functions_is_complete(db: Database) -> None:
    listed = set(
        re.findall(r"`([a-z_]+)`", "".join(_FUNCTION_ROWS.findall((REPOSITORY / "docs/functions.md").read_text())))
    )
    callable_ = db.sql(
        "select distinct proname from pg_proc where pronamespace = 'public'::regnamespace and prosrc ~ 'payments\\.'"
    )
    assert listed == {row["proname"] for row in callable_}


def test_the_state_diagram_shows_exactly_the_transitions_of_the_guard() -> None:
    diagram = next(code for path, code in _blocks("mermaid") if path.name == "states.md")
    drawn = set(re.findall(r"^    (\w+) --> (\w+)", diagram, re.MULTILINE))
    guard = (REPOSITORY / "sql/20_primitives/guard_session.sql").read_text("utf-8")
    enforced = {
        (old, new)
        for old, news in re.findall(r"when '(\w+)' then new\.status in \(([^)]*)\)", guard)
        for new in re.findall(r"'(\w+)'", news)
    }
    assert drawn == enforced
