"""docs/providers/adding.md, followed to the letter in a copy of the repository, gives a provider that works."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from bridge.local.postgres import LocalPostgres

REPOSITORY = Path(__file__).parents[2]
COPIED = ("bridge", "sql", "supabase", "tests", "docs", "pyproject.toml")
_BLOCK = re.compile(r"```(python|diff)\n(.*?)```", re.DOTALL)
_NEW_FILE = re.compile(r"`((?:bridge|tests)/\S+\.py)`")


def follow(page: str, checkout: Path) -> None:
    """Write the files of the page and make its edits. The file that a block is about was named last before it."""
    position, file = 0, checkout
    for block in _BLOCK.finditer(page):
        if named := _NEW_FILE.findall(page, position, block.start()):
            file = checkout / named[-1]
        position = block.end()
        if block[1] == "python":
            assert not file.exists()
            file.write_text(block[2], "utf-8")
        else:
            edit(file, block[2])


def edit(file: Path, diff: str) -> None:
    lines = diff.splitlines(keepends=True)
    before = "".join(line[1:] for line in lines if not line.startswith("+"))
    after = "".join(line[1:] for line in lines if not line.startswith("-"))
    text = file.read_text("utf-8")
    assert text.count(before) == 1, f"{file.name} has not exactly one {before!r}"
    file.write_text(text.replace(before, after), "utf-8")


@pytest.mark.timeout(300)
def test_the_walk_through_gives_a_provider_that_passes_the_suite(tmp_path: Path, server: LocalPostgres) -> None:
    for name in COPIED:
        source = REPOSITORY / name
        if source.is_dir():
            shutil.copytree(source, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, tmp_path / name)
    follow((REPOSITORY / "docs/providers/adding.md").read_text("utf-8"), tmp_path)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "tests/providers/test_conformance.py", "-k", "toypay"],
        cwd=tmp_path, env={**os.environ, "PG": str(server.major), "PYTHONPATH": str(tmp_path)}, text=True,
        capture_output=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed, done.stdout
    assert int(passed[1]) >= 30, done.stdout
    assert "skipped" not in done.stdout
