from __future__ import annotations

import os
import re
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.support.database import REPOSITORY

if TYPE_CHECKING:
    from pathlib import Path


def _make(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["make", "-C", str(REPOSITORY), "--no-print-directory", *arguments],
        env={"PATH": os.environ["PATH"], **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def test_make_alone_lists_every_target_with_what_it_does() -> None:
    text = (REPOSITORY / "Makefile").read_text()
    (phony,) = re.findall(r"^\.PHONY: (.*)$", text, re.MULTILINE)
    listed = re.findall(r"^  (\w+) +\S", _make().stdout, re.MULTILINE)
    assert listed == phony.split()


@pytest.mark.parametrize(
    ("python", "complaint"),
    [
        ("no-such-python", "no-such-python is missing. Remedy: apt-get install python3 python3-venv"),
        ("/bin/false", "/bin/false is older than 3.11. Remedy: make PYTHON=/path/to/a/newer/python"),
    ],
)
def test_what_is_missing_is_said_in_one_line(python: str, complaint: str) -> None:
    done = _make("test", f"PYTHON={python}", "VENV=/nonexistent/venv")
    assert done.returncode != 0
    assert done.stderr.splitlines()[0] == complaint


def test_a_python_without_venv_is_said_in_one_line(tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\ncase "$2" in *ensurepip*) exit 1 ;; esac\n')
    python.chmod(0o755)
    done = _make("test", f"PYTHON={python}", "VENV=/nonexistent/venv")
    assert done.returncode != 0
    assert done.stderr.splitlines()[0] == f"{python} has no venv module. Remedy: apt-get install python3-venv"


def test_a_migration_without_a_good_name_is_refused() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.author_migration", "Stuff"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, "make migration name=" in done.stderr) == (1, True)
